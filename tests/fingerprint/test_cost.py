"""What a fingerprint costs: in time, on the event loop and in memory."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from egisai import fingerprint
from egisai.fingerprint import masks, memo

WORDS = "you are careful with invoices and never guess when a customer asks about order 12 or the user name".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    fingerprint.clear()
    yield
    fingerprint.clear()


def prompt(words: int, seed: int = 1) -> str:
    chosen = random.Random(seed).choices(WORDS, k=words)
    return "You are a clerk.\n" + "\n".join(" ".join(chosen[at : at + 15]) + "." for at in range(0, words, 15))


def best(job: Callable[[], object], times: int = 200) -> float:
    """The least CPU time of several runs: other work of the machine is not the job's."""
    durations: list[float] = []
    for _ in range(times):
        start = time.thread_time()
        job()
        durations.append(time.thread_time() - start)
    return min(durations)


def test_seen_knows_what_of_computed() -> None:
    """`seen` never computes: it has the answer of `of`, which may be None, or says that it is missing."""
    for system in (("You are a poet.",), (prompt(5_000),), ("  ",)):
        assert fingerprint.seen(system) is fingerprint.MISSING
        answer = fingerprint.of(system)
        again = tuple(bytes(part, "utf-8").decode() for part in system)
        assert fingerprint.seen(again) is answer
        assert fingerprint.of(again) is answer


def test_texts_alike_in_their_sample_are_told_apart() -> None:
    """Long texts are looked up by a sample; two that differ elsewhere only still have their own answers."""
    start, end = "You are a clerk. " + "a b " * 2_000, "c d " * 2_000
    texts = [(start + job + 4 * end,) for job in ("cook", "poet", "maid")]
    keys = {memo.Memo[int]().key(text) for text in texts}
    answers = [fingerprint.of(text) for text in texts]
    assert len(keys) < 3, "the texts no longer share a sample: this test shows nothing"
    assert len(set(answers)) == 3
    assert [fingerprint.seen(text) for text in texts] == answers


def test_fp_cost_of_a_seen_prompt() -> None:
    """A prompt seen before costs nearly the same for 20 words and for 20,000, and never a pass over its text."""
    short, long = (prompt(20),), (prompt(20_000),)
    first = best(lambda: fingerprint.of(long), 1)
    fingerprint.of(short)
    same_short, same_long = best(lambda: fingerprint.of(short)), best(lambda: fingerprint.of(long))
    assert same_long < 10 * same_short
    assert same_long < first / 500
    text = long[0]
    rendered = [("".join((text[:-1], text[-1])),) for _ in range(50)]
    turns = iter(rendered)
    rendered_anew = best(lambda: fingerprint.of(next(turns)), 50)
    turns = iter([(text[:-1] + text[-1],) for _ in range(50)])
    hashing = best(lambda: hash(next(turns)), 50)
    assert rendered_anew < hashing  # so it did not hash the 100 kB, much less normalise them


def test_fp_cost_once_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is normalised at its first sight and never again."""
    computed: list[str] = []
    normal_form = masks.normal_form

    def counted(text: str) -> object:
        computed.append(text)
        return normal_form(text)

    monkeypatch.setattr(masks, "normal_form", counted)
    for _ in range(5):
        fingerprint.of(("You are a poet.", "Write odes."))
    assert len(computed) == 1


def test_fp_cost_is_linear() -> None:
    """Twice the text takes about twice the time, whatever it consists of (hostile texts are tried elsewhere)."""
    half, whole = prompt(10_000), prompt(20_000)
    times = [best(lambda: fingerprint.of((text + str(time.perf_counter_ns()),)), 5) for text in (half, whole)]  # noqa: B023
    assert times[1] < 4 * times[0]


HOSTILE = {
    "letters": "a",
    "digits": "1",
    "ids": "a1",
    "id_": "aB_",
    "tags": "<context>",
    "nested tags": "<user><context>",
    "ends": "</context>",
    "angle": "<",
    "fences": "```",
    "quotes": '"',
    "json": '"a":"',
    "backslashes": "\\",
    "marks": "e\u0301\u0323",
    "at": "a@",
    "dots": "a.",
    "slashes": "/a",
    "hex": "deadbeef-",
    "colons": "0a:",
    "cue": "The user's name is ",
    "names": "The user's name is John Smith. ",
    "people": "John Smith ",
    "fields": "User: Bob\n",
    "served": "assistant for John ",
    "owner": "You are Bob's ",
    "dates": "1 of november ",
    "links": "of the 1 ",
    "script": "你是",
    "script dates": "1日",
    "role": "You are a ",
    "greetings": "Hello Bob. ",
    "bullets": "- \n",
    "decoration": "*_",
    "pictures": "🐱",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_linear(kind: str) -> None:
    """No text of 1 MB finds a pattern that goes back over it: eight times the text, well below 64 times the time."""
    unit = HOSTILE[kind]
    small, big = unit * (125_000 // len(unit)), unit * (1_000_000 // len(unit))
    small_time = best(lambda: fingerprint.of((small + str(time.perf_counter_ns()),)), 3)
    big_time = best(lambda: fingerprint.of((big,)), 1)
    assert big_time < 32 * max(small_time, 0.003)


def test_a_longer_text_is_data() -> None:
    """Only the first million characters are read, so that any text has a bounded cost."""
    text = "You are a clerk. " + "word " * 200_000
    whole, longer = fingerprint.of((text[:1_000_000],)), fingerprint.of((text[:1_000_000], "tail"))
    assert whole == longer


def test_fp_cost_off_the_event_loop() -> None:
    """While a thread computes a 20,000-word prompt, the loop goes on: its longest wait is a fraction of the work.

    What is compared is the worst wait of the loop with the thread, and the time that the whole takes.
    """
    text = (prompt(20_000),)

    async def worst_wait(work: Callable[[], object] | None) -> tuple[float, float]:
        done = threading.Event()

        def run() -> None:
            if work is not None:
                work()
            done.set()

        thread = threading.Thread(target=run)
        start = last = time.perf_counter()
        worst = 0.0
        thread.start()
        while not done.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now
        thread.join()
        return worst, time.perf_counter() - start

    def compute() -> None:
        fingerprint.of(text)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # the wait is then made of our longest uninterruptible step, not of Python's patience
    try:
        worsts: list[float] = []
        for _ in range(10):
            fingerprint.clear()
            worst, took = asyncio.run(worst_wait(compute))
            worsts.append(worst / took)
    finally:
        sys.setswitchinterval(interval)
    assert min(worsts) < 0.3


@pytest.mark.parametrize("joint", ["\n", " ", "\n\n", "x", "。"])
def test_fp_cost_in_small_steps(joint: str) -> None:
    """No step works on more than a few kilobytes, so that other threads can go on in between, and no text is lost."""
    text = joint.join(WORDS * 2_000)
    units = list(masks._units(text))
    assert max(map(len, units)) <= 4_200
    assert "".join("".join(units).split()) == "".join(text.split())


def test_long_is_where_a_thread_pays() -> None:
    """Texts over `LONG` characters are for a thread, and usual prompts are not."""
    assert 2_000 < fingerprint.LONG < 20_000


def test_fp_bounded() -> None:
    """100,000 distinct prompts leave a bounded memory behind, and the one in use all along is never forgotten."""
    used = ("You are a poet who is always there.",)
    answer = fingerprint.of(used)
    store: memo.Memo[int] = memo.Memo()
    texts = ((f"You are clerk {n} and {n * 7}. " + "Be kind. " * 60,) for n in range(100_000))
    tracemalloc.start()
    try:
        for n, text in enumerate(texts):
            store.put(store.key(text), text, n)
            if n % 1_000 == 0:
                fingerprint.of((f"You are clerk number {n} of our house.",))
                assert fingerprint.seen(used) is answer
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 2_048 * 1_500


def test_fp_bounded_in_bytes() -> None:
    """Large prompts are bounded by what they hold, not by how many they are, and too large ones are not kept."""
    store: memo.Memo[int] = memo.Memo(max_entries=1_000, max_bytes=100_000)
    for n in range(100):
        text = (f"{n:04}" + "x" * 10_000,)
        store.put(store.key(text), text, n)
    kept = [
        n
        for n in range(100)
        if store.get(store.key((f"{n:04}" + "x" * 10_000,)), (f"{n:04}" + "x" * 10_000,)) is not memo.MISSING
    ]
    assert 9 <= len(kept) <= 20
    assert kept[-1] == 99
    huge = ("y" * 200_000,)
    store.put(store.key(huge), huge, 1)
    assert store.get(store.key(huge), huge) is memo.MISSING


def test_what_is_in_use_survives() -> None:
    """An entry asked for between generations moves on with them; one not asked for goes."""
    store: memo.Memo[int] = memo.Memo(max_entries=10)
    hot, cold = ("hot",), ("cold",)
    store.put(None, hot, 1)
    store.put(None, cold, 2)
    for n in range(100):
        store.put(None, (str(n),), n)
        assert store.get(None, hot) == 1
    assert store.get(None, cold) is memo.MISSING


def test_many_threads_agree() -> None:
    """Threads that meet the same and different prompts at once all get the right answers."""
    texts = [(f"You are a {job} of the {house} house.",) for job in "ABCDEFGH" for house in ("old", "new", "red")]
    expected = {text: fingerprint.of(text) for text in texts}
    fingerprint.clear()
    wrong: list[object] = []
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        order = random.Random(seed).choices(texts, k=500)
        barrier.wait()
        wrong.extend(text for text in order if fingerprint.of(text) != expected[text])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
