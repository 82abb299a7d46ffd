"""Real processes, a real platform: prompts of one template are one agent everywhere, and operators are obeyed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.platform.conftest import Organisation, Server, start_server

from egisai import fingerprint
from egisai.identity import agent_id
from provider import Provider

pytestmark = pytest.mark.slow

CLERK = (
    "You are a billing clerk. You handle refunds for customers. Read the invoice before you answer. Never promise "
    "money that was not approved. Ask for the order number when it is missing. Answer in whole sentences. "
    "Be brief and polite."
)
TRACKER = "You are a parcel tracker. You find parcels that were lost. Be exact."
VARIED = {
    "retrieved": [
        f"{CLERK}\n\nContext: {text}"
        for text in (
            "The museum opens at nine. It is free on Sundays.",
            "Prices include tax. Delivery takes three working days.",
            "The river rises in the hills. Its water is cold all year.",
            "Our shop was founded by two brothers. They sold boots.",
        )
    ],
    "few-shot": [
        f"{CLERK}\n\nExamples:\nQ: {asked}\nA: {said}"
        for asked, said in (
            ("Where is my money?", "It went out on Monday."),
            ("Can I have another invoice?", "It is in your mailbox."),
            ("Why two charges?", "One of them is a deposit."),
            ("Who signed for it?", "A neighbour did."),
        )
    ],
    "profile": [
        f"{CLERK}\n\nWhat we know about the user:\n{text}"
        for text in (
            "Ada lives in Lisbon. She has two cats.",
            "Grace is a sailor. Her ship is in Boston.",
            "Alan runs marathons. He likes apples and chess.",
            "Edsger walks a lot. He writes letters by hand.",
        )
    ],
    # Orders, as far as one text tells: only who has seen many of them knows that they are inserted.
    "undecidable": [
        f"{CLERK} {text}"
        for text in (
            "Ask for the ticket when it was lost by the courier.",
            "Do not speak of prizes by letter or by telephone.",
            "Mention the fair in June, and where it takes place.",
            "Send lists as plain text, one line for each article.",
            "Write dates with the month first, then the day.",
            "Quote the number of the shelf, which is on the label.",
            "Thank them for the photos that they took.",
            "Refer to the tariff of last year where it was lower.",
            "Use the form for lawyers when a lawyer writes.",
            "Count the boxes twice before you name their number.",
            "Put the address in capitals, without commas.",
            "Name the depot in which the truck was loaded.",
            "Greet hotels by the name of their manager.",
            "Leave out the tax where the goods went abroad.",
            "Repeat the code of the voucher at the end.",
            "Call spare parts by their names in the catalogue.",
        )
    ],
}


class Process:
    """One of the fleet, with a spool of its own."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [*command], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.calls = 0
        self._answer()

    def call(self, prompt: str) -> str:
        """The id of the agent that is on the span of a call with this system prompt."""
        return self.who(prompt)[0]

    def who(self, prompt: str) -> tuple[str, str]:
        self.calls += 1
        agent, name = self._ask(prompt=prompt)
        return agent, name

    def flush(self) -> None:
        assert self._ask(flush=20)

    def told(self) -> dict[str, Any]:
        return self._ask()["announcements"]

    def end(self, number: signal.Signals | None = None) -> None:
        """At the end of its work, or killed."""
        if number is not None:
            self._process.send_signal(number)
        self._process.communicate(timeout=20)

    def _ask(self, **asked: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("platform"))
    yield server
    code, output = server.stop()
    assert code == 0, output
    assert "Traceback" not in output, output


_numbers = iter(range(1_000))


def organisation_on(server: Server) -> Organisation:
    name = f"fleet-{next(_numbers)}"
    return Organisation(name, server, *(server.key(name, scope) for scope in ("ingest", "read", "admin")))


@pytest.fixture
def org(running: Server) -> Iterator[Organisation]:
    made = organisation_on(running)
    yield made
    made.client.close()


@pytest.fixture
def start(server: Provider, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process of an organisation on a machine, which has a name and a spool."""
    started: list[Process] = []

    def starting(org: Organisation, machine: str) -> Process:
        environ = {
            **os.environ,
            "EGISAI_BASE_URL": org.server.url,
            "EGISAI_API_KEY": org.ingest_key,
            "EGISAI_SPOOL_DIR": str(tmp_path / machine),
        }
        program = Path(__file__).with_name("process.py")
        started.append(Process([sys.executable, str(program), server.base_url], environ))
        return started[-1]

    yield starting
    for process in started:
        process.end(signal.SIGKILL)


def eventually(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def own(org: Organisation, prompt: str) -> str:
    found = fingerprint.of((prompt,))
    assert found is not None
    return agent_id(org.name, "fingerprint", found.digest)


@pytest.mark.parametrize("kind", list(VARIED))
def test_processes_converge(org: Organisation, start: Callable[..., Process], kind: str) -> None:
    """Two processes meet other variants, in other orders: one agent on both their spans, and on the platform."""
    texts = VARIED[kind]
    one, two = start(org, "one"), start(org, "two")
    half = len(texts) // 2
    met = {one: texts[: len(texts) * 5 // 8], two: texts[: half - 1 : -1]}
    for process, prompts in met.items():
        for prompt in prompts:
            process.call(prompt)
        process.flush()
    eventually(lambda: len({process.call(prompt) for process in met for prompt in texts}) == 1)
    leader = one.call(texts[0])
    assert leader in [own(org, prompt) for prompt in texts]
    assert one.who(texts[0]) == two.who(texts[-1]), "and by one name"
    for process in met:
        process.flush()
    calls = {agent["id"]: agent["totals"]["calls"] for agent in org.items("agents")}
    assert calls == {leader: one.calls + two.calls}, "those from before as well"


def test_an_operator_merges(org: Organisation, start: Callable[..., Process]) -> None:
    """Every process's next spans carry the target, for the merged prompts and for those that are like them."""
    clerk = VARIED["retrieved"]
    one, two = start(org, "one"), start(org, "two")
    for process, prompt in ((one, clerk[0]), (two, clerk[1]), (one, TRACKER), (two, TRACKER)):
        process.call(prompt)
        process.flush()
    target = own(org, TRACKER)
    org.request("POST", f"agents/{own(org, clerk[0])}/merge", json={"into": target}).raise_for_status()
    org.request("PATCH", f"agents/{target}", json={"name": "Desk"}).raise_for_status()
    for process, prompts in ((one, clerk[:1]), (two, clerk[1:2])):
        eventually(lambda process=process, prompts=prompts: process.who(prompts[0]) == (target, "Desk"))
        assert process.call(clerk[2]) == target, "never met, never ruled on"
        assert process.who(TRACKER) == (target, "Desk")
    org.request("DELETE", f"agents/{own(org, clerk[0])}/merge").raise_for_status()
    for process in (one, two):
        eventually(lambda process=process: process.call(clerk[1]) == own(org, clerk[0]))
        assert process.call(TRACKER) == target


def test_an_operator_splits(org: Organisation, start: Callable[..., Process]) -> None:
    """A prompt that every process counted under another is an agent of its own, with what is like it."""
    clerk = VARIED["retrieved"]
    silent = [text.replace(" Be brief", " Never mention prices. Be brief") for text in clerk]
    one, two = start(org, "one"), start(org, "two")
    for process, prompts in ((one, (clerk[0], clerk[1], silent[0])), (two, (clerk[2], clerk[1], silent[0]))):
        for prompt in prompts:
            process.call(prompt)
            process.flush()
    leader, split = own(org, clerk[0]), own(org, silent[0])
    for process in (one, two):
        eventually(lambda process=process: process.call(silent[0]) == leader)
    org.request("DELETE", f"agents/{split}/merge").raise_for_status()
    for process in (one, two):
        eventually(lambda process=process: process.call(silent[0]) == split)
        assert process.call(silent[3]) == split, "the like follow"
        assert process.call(clerk[3]) == leader
        process.flush()
        assert [process.call(prompt) for prompt in (silent[3], clerk[3])] == [split, leader], "which stays so"
    assert {agent["id"] for agent in org.items("agents")} == {leader, split}


@pytest.mark.parametrize("killed", [False, True])
def test_a_restart_begins_warm(org: Organisation, start: Callable[..., Process], killed: bool) -> None:
    """Without an answer from the platform, another variant is the same agent at once, by the operator's name."""
    texts = VARIED["retrieved"]
    first = start(org, "one")
    first.call(texts[0])
    first.call(texts[1])
    first.flush()
    agent = own(org, texts[0])
    org.request("PATCH", f"agents/{agent}", json={"name": "Refunds"}).raise_for_status()
    eventually(lambda: first.who(texts[0]) == (agent, "Refunds"))
    if killed:
        eventually(lambda: "Refunds" in Path(first.told()["cache"]).read_text())
    first.end(signal.SIGKILL if killed else None)
    org.server.process.send_signal(signal.SIGSTOP)
    try:
        second = start(org, "one")
        assert second.who(texts[2]) == (agent, "Refunds")
        assert second.who(texts[0]) == (agent, "Refunds")
        other = start(org, "two")
        assert other.call(texts[2]) == own(org, texts[2]), "another machine, which never met it"
    finally:
        org.server.process.send_signal(signal.SIGCONT)
