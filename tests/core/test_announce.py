"""What the platform rules is obeyed and remembered: its answers, the question for more, the cache on disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from announcements import Platform

from egisai import cache as cache_module
from egisai import fingerprint, guard, settings
from egisai.announce import Announcer
from egisai.attribution import Attribution, Sighting
from egisai.cache import Cache
from egisai.fingerprint import Fingerprint
from egisai.fingerprint.sketch import Sketch
from egisai.identity import agent_id
from egisai_exporter import settings as exporter_settings

PASSAGES = (
    "The museum opens at nine. It is free on Sundays.",
    "Prices include tax. Delivery takes three working days.",
    "The river rises in the hills. Its water is cold all year.",
    "Our shop was founded by two brothers. They sold boots.",
)
CLERK = (
    "You are a billing clerk. You handle refunds for customers. Read the invoice before you answer. Never promise "
    "money that was not approved. Ask for the order number when it is missing. Answer in whole sentences. "
    "Be brief and polite."
)
OTHER = "11111111-1111-5111-8111-111111111111"
URL = "http://platform:4318"


def prompt(passage: int, job: str = CLERK) -> Fingerprint:
    found = fingerprint.of((f"{job}\n\nContext: {PASSAGES[passage]}",))
    assert found is not None
    return found


def own(found: Fingerprint) -> str:
    return agent_id("default", "fingerprint", found.digest)


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as running:
        running.version = 7
        yield running


@pytest.fixture
def start(platform: Platform) -> Iterator[Callable[..., tuple[Attribution, Announcer]]]:
    """A process's attribution and its announcer, as `init()` wires them."""
    started: list[Announcer] = []

    def starting(cache_dir: Path | None = None, poll_s: float = 0.02) -> tuple[Attribution, Announcer]:
        who = Attribution()
        cache = None if cache_dir is None else Cache(cache_dir, platform.url, who)
        announcer = Announcer(platform.url, {}, {}, who.learn, cache, backoff_s=(0.01, 0.05), poll_s=poll_s)
        who.on_sighting = announcer.put
        started.append(announcer)
        return who, announcer

    yield starting
    for announcer in started:
        announcer.close(5)


def wait_until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_prompt_is_told_with_its_sketch_and_its_agent(platform: Platform, start: Any) -> None:
    """Sketch and `with` as docs/agents.md has them; what is no prompt has neither."""
    who, announcer = start()
    one, two = prompt(0), prompt(1)
    assert who.prompted(one).id == who.prompted(two).id == own(one)
    who.named("billing", "name")
    assert announcer.flush(10)
    told = {agent["id"]: agent for agent in platform.agents}
    assert Sketch.decode(told[own(one)]["sketch"]) == one.sketch
    assert [told[own(found)].get("with") for found in (one, two)] == [None, own(one)]
    assert not {"sketch", "with", "prompts"} & told[agent_id("default", "name", "billing")].keys()


def test_a_well_known_template_is_told() -> None:
    """At three prompts the template that was learnt is told as its agent's, without what turned out to vary."""
    told: list[Sighting] = []
    who = Attribution(on_sighting=told.append)
    found = [prompt(passage) for passage in range(4)]
    for _ in range(2):  # a prompt that comes again teaches nothing
        for one in found[:2]:
            who.prompted(one)
        who.learn({OTHER: (OTHER, str(_))})
    assert [sighting.prompts for sighting in told] == [1, 1]
    for one in found[2:]:
        who.prompted(one)
    learnt = next(sighting for sighting in told if sighting.prompts > 1)
    assert (learnt.identity.id, learnt.under, learnt.prompts) == (own(found[0]), None, 3)
    assert found[0].sketch is not None
    assert learnt.sketch is not None
    assert 0 < len(learnt.sketch.marks) < len(found[0].sketch.marks)
    assert len(told) == 5


def test_what_joined_later_is_told_once() -> None:
    """Prompts that turn out to be one agent's are told again, with the agent, and then no more."""
    told: list[Sighting] = []
    who = Attribution(on_sighting=told.append)
    orders = (
        "Use the form for lawyers when a lawyer writes.",
        "Count the boxes twice before you name their number.",
        "Put the address in capitals, without commas.",
        "Name the depot in which the truck was loaded.",
        "Greet hotels by the name of their manager.",
        "Leave out the tax where the goods went abroad.",
        "Repeat the code of the voucher at the end.",
        "Call spare parts by their names in the catalogue.",
    )
    found = [fingerprint.of((f"{CLERK} {order}",)) for order in orders]
    ids = {who.prompted(one).id for one in found if one is not None}
    assert len(ids) == 8
    for _ in range(2):
        assert len({who.prompted(one).id for one in found if one is not None}) == 1
        assert len(told) == 8 + 7 + 1
        who.learn({OTHER: (OTHER, str(_))})
    assert len({sighting.under for sighting in told[8:15]}) == 1


# --- what is ruled ---------------------------------------------------------------------------------------------------


def test_an_agent_that_is_itself_is_placed_apart() -> None:
    """An operator split a prompt off: it is an agent of its own, what is like it joins it, nothing else moves."""
    who = Attribution()
    premium = CLERK.replace(" Be brief", " Never mention prices. Be brief")
    one, two, odd = prompt(0), prompt(1), prompt(0, premium)
    assert {who.prompted(found).id for found in (one, two, odd)} == {own(one)}
    who.learn({own(odd): (own(odd), "Premium")})
    assert (who.prompted(odd).id, who.prompted(odd).name) == (own(odd), "Premium")
    assert who.prompted(prompt(2, premium)).id == own(odd)
    assert [who.prompted(found).id for found in (one, two, prompt(2))] == [own(one)] * 3
    assert who.prompted(odd).id == own(odd), "nothing puts it back"
    who.learn({own(odd): (own(one), "Clerk")})
    assert {who.prompted(found).id for found in (odd, prompt(2, premium))} == {own(one)}, "an operator may"


def test_variants_follow_a_merge_and_its_undoing() -> None:
    """What is merged is the agent; variants that nobody ruled on go along, and come back."""
    who = Attribution()
    one, two = prompt(0), prompt(1)
    who.prompted(one), who.prompted(two)
    who.learn({own(one): (OTHER, "Desk")})
    for found in (one, two, prompt(2)):
        assert who.prompted(found)[:2] == (OTHER, "Desk")
    who.learn({own(one): (own(one), "Clerk")})
    for found in (one, two, prompt(2), prompt(3)):
        assert who.prompted(found)[:2] == (own(one), "Clerk")


def test_a_ruling_names_nobody_by_anothers_name() -> None:
    """An agent without a name on the platform keeps its own; merged into a nameless one, it has none."""
    who = Attribution()
    billing = who.named("billing", "name")
    who.learn({billing.id: (billing.id, "")})
    assert who.named("billing", "name") == billing
    who.learn({billing.id: (OTHER, "")})
    assert who.named("billing", "name")[:3] == (OTHER, None, "name")


def test_rulings_are_asked_for(platform: Platform, start: Any) -> None:
    """From the version of the first answer on, page by page; nobody asks before there is an agent."""
    who, announcer = start()
    billing = agent_id("default", "name", "billing")
    platform.rulings = [
        {"version": 9, "canonical": {billing: {"id": OTHER, "name": "Desk"}}, "more": True},
        {"version": 11, "canonical": {}, "more": False},
    ]
    assert announcer.stats()["version"] is None
    who.named("billing", "name")
    assert announcer.flush(10)
    platform.version = 30  # of a later announcement: says nothing of the ids before
    asked = platform.wait_for_question(3)
    assert asked == [f"/v1/agents/rulings?since={n}" for n in (7, 9, 11)]
    assert who.named("billing", "name")[:2] == (OTHER, "Desk")
    who.named("sales", "name")
    wait_until(lambda: announcer.stats()["announced"] == 2)
    platform.wait_for_question(len(platform.asked) + 2)
    assert set(platform.asked[2:]) == {"/v1/agents/rulings?since=11"}
    assert [agent["name"] for agent in platform.agents] == ["billing", "sales"], "told once, whatever was ruled"
    stats = announcer.stats()
    assert (stats["version"], stats["rulings"]) == (11, 1)
    assert stats["last_poll_s"] == pytest.approx(time.time(), abs=10)


def test_no_agents_no_questions(platform: Platform, start: Any, tmp_path: Path) -> None:
    """A process that met no agent has no thread, and asks nothing, also where it remembers rulings."""
    who, announcer = start(tmp_path)
    who.named("billing", "name")
    platform.canonical[agent_id("default", "name", "billing")] = {"id": OTHER, "name": "Desk"}
    assert announcer.flush(10)
    announcer.close(5)
    asked = len(platform.asked)
    _, second = start(tmp_path)
    assert second._heard == (7, 7)
    assert second._thread is None
    assert len(platform.asked) == asked


@pytest.mark.parametrize("version", [None, 7])
def test_an_older_platform_is_asked_once(platform: Platform, start: Any, version: int | None) -> None:
    """One that answers no version is not asked at all; one that has no rulings, once. Neither is an error."""
    platform.version = version
    platform.rulings = [{"status": 404}]
    who, announcer = start()
    who.named("billing", "name")
    assert announcer.flush(10)
    if version is not None:
        platform.wait_for_question(1)
        wait_until(lambda: not announcer._polls)
    assert announcer._pause_s() is None, "the thread sleeps until there is another agent"
    assert announcer.last_error is None


def test_a_restored_platform_is_believed(platform: Platform, start: Any, tmp_path: Path) -> None:
    """A version below ours: what was ruled since its backup never was, here and in the cache."""
    billing, sales = (agent_id("default", "name", name) for name in ("billing", "sales"))
    platform.canonical[billing] = {"id": OTHER, "name": "Desk"}
    who, announcer = start(tmp_path)
    who.named("billing", "name")
    who.named("sales", "name")
    assert announcer.flush(10)
    assert who.named("billing", "name").id == OTHER
    platform.rulings = [{"version": 3, "canonical": {sales: {"id": OTHER, "name": "Desk"}}, "more": False}]
    asked = len(platform.asked)
    platform.wait_for_question(asked + 2)
    assert who.named("billing", "name").id == billing
    assert who.named("sales", "name").id == OTHER
    announcer.close(5)
    again = Attribution()
    assert Cache(tmp_path, platform.url, again).version == 3
    assert dict(again.rulings) == {sales: (OTHER, "Desk")}


def test_a_failed_question_is_asked_again(platform: Platform, start: Any) -> None:
    """A 500 to a question is an error until the next one is answered; so is an answer that is none."""
    who, announcer = start()
    platform.rulings = [{"status": 500}, {"status": 200}, {"version": 8, "canonical": {}, "more": False}]
    who.named("billing", "name")
    guard.strict = False
    wait_until(lambda: announcer.stats()["version"] == 8)
    wait_until(lambda: announcer.last_error is None)
    assert guard.counts() == {"error:announcing agents": 1}


# --- the cache -------------------------------------------------------------------------------------------------------


def saved(directory: Path, *passages: int, version: int = 1, rulings: Any = (), url: str = URL) -> Cache:
    """What a process that met these prompts leaves behind."""
    who = Attribution()
    cache = Cache(directory, url, who)
    for passage in passages:
        who.prompted(prompt(passage))
    who.learn(dict(rulings))
    cache.save((version, version))
    return cache


def test_cache_starts_warm(tmp_path: Path) -> None:
    """The next process puts another variant under the same agent and obeys what was ruled, without any platform."""
    cache = saved(tmp_path, 0, 1, rulings={own(prompt(0)): (OTHER, "Desk")})
    assert cache.path is not None
    assert cache.path.stat().st_mode & 0o777 == 0o600
    assert b"billing clerk you" not in cache.path.read_bytes().lower()
    assert b"museum" not in cache.path.read_bytes()
    for passage in (1, 2, 3, 0):
        who = Attribution()
        assert Cache(tmp_path, URL, who).version == 1
        assert who.prompted(prompt(passage))[:2] == (OTHER, "Desk")
    for url, organisation in ((URL + "/b", "default"), (URL, "other")):
        who = Attribution(organisation=organisation)
        assert Cache(tmp_path, url, who).version is None
        assert who.prompted(prompt(2)).id == agent_id(organisation, "fingerprint", prompt(2).digest)


def test_cache_of_one_prompt(tmp_path: Path) -> None:
    """A process that met one variant once leaves enough for the next to know another."""
    saved(tmp_path, 2)
    who = Attribution()
    Cache(tmp_path, URL, who)
    assert who.prompted(prompt(0)).id == own(prompt(2))


def test_cache_merges(tmp_path: Path) -> None:
    """Two processes that began together both leave what they learnt; the later version's ruling counts."""
    law = "You are a lawyer. You review rental contracts for tenants. Be exact."
    one, two = Attribution(), Attribution()
    first, second = Cache(tmp_path, URL, one), Cache(tmp_path, URL, two)
    one.prompted(prompt(0))
    two.prompted(prompt(0, law))
    one.learn({OTHER: (own(prompt(0)), "old"), own(prompt(1)): (OTHER, "")})
    two.learn({OTHER: (own(prompt(0)), "new")})
    assert second.save((4, 9)) == 9
    assert first.save((3, 5)) == 5
    who = Attribution()
    assert Cache(tmp_path, URL, who).version == 5, "what was ruled of the first one's ids after that is still to hear"
    assert who.rulings == {OTHER: (own(prompt(0)), "new"), own(prompt(1)): (OTHER, "")}
    assert [template.id for template in who.templates()] == [own(prompt(0)), own(prompt(0, law))]
    assert second.save((4, 12)) == 12, "it heard all since what is there"
    assert second.save((13, 15)) == 12, "it did not: it asks again from there"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"null",
        b'{"form": 2}',
        b'{"form": 1, "version": "1", "rulings": {}, "prompts": []}',
        b'{"form": 1, "version": 1, "rulings": [], "prompts": []}',
        b'{"form": 1, "version": 1, "rulings": {"x": ["y", "z"]}, "prompts": []}',
        b'{"form": 1, "version": 1, "rulings": {"x": 1}, "prompts": []}',
        b'{"form": 1, "version": 1, "rulings": {}, "prompts": [["%s", "n", 1, true, 5]]}' % (b"a" * 32),
        b'{"form": 1, "version": 1, "rulings": {}, "prompts": [[1, 2, 3, 4, 5]]}',
        b'{"form": 1, "version": 1, "rulings": {}, "prompts": [1]}',
        b"[" * 100_000,
        b" " * (2 << 20),
    ],
)
def test_a_corrupt_cache_is_ignored(tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With one log line and a count, and the next write puts it right."""
    path = saved(tmp_path, 0).path
    assert path is not None
    path.write_bytes(body)
    who = Attribution()
    cache = Cache(tmp_path, URL, who)
    Cache(tmp_path, URL, Attribution())
    assert cache.version is None
    assert guard.counts() == {"agent cache not read": 2}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert who.prompted(prompt(1)).id == own(prompt(1))
    cache.save(None)
    again = Attribution()
    Cache(tmp_path, URL, again)
    assert [template.id for template in again.templates()] == [own(prompt(1))]


def test_an_unreadable_sketch_costs_its_prompt_alone(tmp_path: Path) -> None:
    """One of another version of ours, say."""
    path = saved(tmp_path, 0).path
    assert path is not None
    content = json.loads(path.read_text())
    content["prompts"].insert(0, ["a" * 32, "Clerk", 1, False, "AAAA"])
    path.write_text(json.dumps(content))
    who = Attribution()
    Cache(tmp_path, URL, who)
    assert who.prompted(prompt(1)).id == own(prompt(0))
    assert guard.counts() == {"remembered prompt not readable": 1}


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "other user"])
def test_what_is_no_file_of_ours_is_ignored(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 0).path
    assert path is not None
    if kind == "other user":
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    else:
        path.rename(tmp_path / "elsewhere")
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
    who = Attribution()
    assert Cache(tmp_path, URL, who).version is None
    assert who.templates() == []
    assert guard.counts() == {"agent cache not read": 1}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written(tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a read-only folder costs a count; what was there stays, and the next news are tried again."""
    before = saved(tmp_path, 0)
    assert before.path is not None
    content = before.path.read_bytes()
    who = Attribution()
    cache = Cache(tmp_path, URL, who)
    who.prompted(prompt(1))

    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(error, os.strerror(error))

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda fd, mode: Full() if "w" in mode else real(fd, mode))
    assert cache.is_due
    assert cache.save((2, 2)) == 2
    assert not cache.is_due
    assert cache.last_error == f"{cache.path}: {os.strerror(error)}"
    assert guard.counts() == {"agent cache not written": 1}
    monkeypatch.undo()
    assert before.path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [before.path.name]
    who.learn({OTHER: (OTHER, "x")})
    assert cache.is_due
    cache.save((2, 2))
    assert cache.last_error is None


def test_no_home(start: Any, platform: Platform) -> None:
    """Nothing is kept, and nothing is missed."""
    who = Attribution()
    cache = Cache(None, URL, who)
    who.prompted(prompt(0))
    assert not cache.is_due
    assert cache.save((1, 2)) == 2


def test_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In prompts, rulings and bytes; the prompts that this process met stay, and the newest rulings."""
    monkeypatch.setattr(cache_module, "_MAX_PROMPTS", 3)
    monkeypatch.setattr(cache_module, "_MAX_RULINGS", 2)
    jobs = [f"You are a {word}. You {word} all day for your guests. Be quick." for word in ("cook", "driver", "poet")]
    saved(tmp_path, 0)
    who = Attribution()
    cache = Cache(tmp_path, URL, who)
    for job in jobs:
        who.prompted(prompt(0, job))
    ids = [own(prompt(0, job)) for job in jobs]
    who.learn(dict.fromkeys(ids, (OTHER, "")))
    cache.save((1, 1))
    again = Attribution()
    Cache(tmp_path, URL, again)
    assert {template.id for template in again.templates()} == set(ids)
    assert list(again.rulings) == ids[1:]
    monkeypatch.setattr(cache_module, "_MAX_BYTES", 1_000)
    again.learn({ids[0]: (OTHER, "x")})
    Cache(tmp_path, URL, again).save((1, 1))
    assert cache.path is not None
    assert cache.path.stat().st_size <= 1_000
    last = Attribution()
    Cache(tmp_path, URL, last)
    assert 1 <= len(last.templates()) < 3


def test_rulings_in_memory_are_bounded() -> None:
    who = Attribution()
    ids = [agent_id("default", "name", str(n)) for n in range(16_400)]
    who.learn(dict.fromkeys(ids, (OTHER, "")))
    assert list(who.rulings) == ids[16:]


def test_kill_amid_a_cache_write(tmp_path: Path) -> None:
    """Killed at any moment of a write, the file is that of before or after, and the next process can write."""
    program = (
        "import sys, pathlib\n"
        "from egisai import fingerprint\n"
        "from egisai.attribution import Attribution\n"
        "from egisai.cache import Cache\n"
        "who = Attribution()\n"
        f"cache = Cache(pathlib.Path(sys.argv[1]), {URL!r}, who)\n"
        "for n in range(40):\n"
        "    who.prompted(fingerprint.of((f'You are clerk {chr(97 + n) * 9}. ' + f'Do {chr(97 + n) * 7}. ' * 200,)))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    cache.save((1, 1))\n"
    )
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: list(tmp_path.glob("*.json")))
        threading.Event().wait(0.01 + 0.003 * turn)  # anywhere in a write
        process.send_signal(signal.SIGKILL)
        process.communicate()
        who = Attribution()
        cache = Cache(tmp_path, URL, who)
        assert (cache.version, cache.last_error) == (1, None)
        assert len(who.templates()) > 10
        who.prompted(prompt(turn))
        assert cache.save((1, 1)) == 1
        assert cache.last_error is None
        assert not list(tmp_path.glob("*.partial"))


def test_the_announcer_writes_the_cache(platform: Platform, start: Any, tmp_path: Path) -> None:
    """On its own thread, also where the platform is away; at the end at the latest."""
    platform.status = [503] * 1000
    who, announcer = start(tmp_path)
    writers: list[str] = []
    real = cache_module._replace

    def noted(path: Path, body: bytes) -> None:
        writers.append(threading.current_thread().name)
        real(path, body)

    cache_module._replace = noted
    try:
        who.prompted(prompt(0))
        wait_until(lambda: list(tmp_path.glob("*.json")))
        who.prompted(prompt(0, "You are a lawyer. You review contracts. Be exact."))
        announcer.close(5)
    finally:
        cache_module._replace = real
    assert set(writers) == {"egisai-announcer"}
    assert len(writers) == 2, "not at every change"
    again = Attribution()
    Cache(tmp_path, platform.url, again)
    assert len(again.templates()) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_hears_too(platform: Platform, start: Any, tmp_path: Path) -> None:
    """It knows what its parent knew, and asks for rulings itself once it makes a call."""
    from egisai import attribution

    who, announcer = start(tmp_path)
    attribution.use(who)
    who.prompted(prompt(0)), who.prompted(prompt(1))
    assert announcer.flush(10)
    told = len(platform.agents)
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with who._prompts._lock:
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # where it waits for the lock for ever
        fine = who.prompted(prompt(2)).id == own(prompt(0)) and announcer.flush(10)
        wait_until(lambda: announcer.last_poll_s is not None)
        os._exit(0 if fine else 1)
    release.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0
    assert len(platform.agents) > told


@pytest.mark.parametrize(
    ("given", "state"), [("", ""), ("/var/spool/e", "/s"), ("~/e", ""), ("e", ""), ("", "/s"), ("", "s")]
)
def test_the_spool_is_where_the_exporter_has_it(monkeypatch: pytest.MonkeyPatch, given: str, state: str) -> None:
    monkeypatch.setenv("EGISAI_SPOOL_DIR", given)
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", "/home/ada")
    theirs = exporter_settings.read(URL, "k" * 50, None, None, 1, 1.0)
    assert settings.spool_dir() == theirs.spool_dir is not None
