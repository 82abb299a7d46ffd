"""What context costs: setting it, scopes, decorators, the processor, pools; and what many new agents at once wait for.

Each row is one operation in three forms, which take turns in short rounds in one process: doing nothing (the same code
without the feature), Egis, and a peer that does the nearest thing. Figures are medians over the rounds, of CPU time of
the whole process, so that what a pool's worker does counts.

The second table is about waiting, so it has elapsed time beside CPU time: agents nobody has met yet, announced to a
platform that takes its time to answer, in one thread and in eight; the quickest of the rounds. Where elapsed time is
CPU time, nobody waited.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import gc
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openinference.instrumentation import using_attributes
from opentelemetry import baggage
from opentelemetry.context import Context, attach
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.processor.baggage import ALLOW_ALL_BAGGAGE_KEYS, BaggageSpanProcessor
from opentelemetry.sdk.trace import TracerProvider

import egisai
from egisai import attribution, fingerprint, pools
from egisai.announce import Announcer
from egisai.processor import EgisSpanProcessor

FACTS = {"user_id": "u-1", "session_id": "s-1", "workflow_id": "w-1"}
AGENTS, PROMPTS, THREADS = 500, 50, 8
ANSWER_S = 0.2  # what the platform takes to answer an announcement

Task = Callable[[int], object]
"""Does the operation so many times."""


@dataclass
class Form:
    """One way of doing a row's operation; `on` and `off` put it in place and take it out again."""

    task: Task
    on: Callable[[], object] = lambda: None
    off: Callable[[], object] = lambda: None

    def ns(self, n: int) -> float:
        """CPU time of the process per operation, in a context of its own."""
        self.on()
        try:
            # The interpreter specialises code as it runs, and forgets it when a class is patched.
            contextvars.Context().run(self.task, n // 4 + 1)
            started = time.process_time_ns()
            contextvars.Context().run(self.task, n)
            return (time.process_time_ns() - started) / n
        finally:
            self.off()


@dataclass
class Row:
    name: str
    peer: str
    n: int
    nothing: Form
    ours: Form
    theirs: Form


# --- the rows --------------------------------------------------------------------------------------------------------


def repeated(operation: Callable[[], object]) -> Task:
    def task(n: int) -> None:
        for _ in itertools.repeat(None, n):
            operation()

    return task


def setting() -> Row:
    def nothing(**facts: str) -> None: ...

    def theirs(**facts: str) -> None:
        ctx: Context | None = None
        for key, value in facts.items():
            ctx = baggage.set_baggage(key, value, ctx)
        attach(ctx or Context())

    return Row(
        "set_context, four facts",
        "OpenTelemetry: set_baggage, four times, and attach",
        2000,
        *(Form(repeated(lambda do=do: do(agent="billing", **FACTS))) for do in (nothing, egisai.set_context, theirs)),
    )


def scope() -> Row:
    def entered(make: Callable[[], Any]) -> Task:
        def operation() -> None:
            with make():
                pass

        return repeated(operation)

    return Row(
        "with context(): enter and exit",
        "openinference-instrumentation: using_attributes",
        2000,
        Form(entered(contextlib.nullcontext)),
        Form(entered(lambda: egisai.context(**FACTS))),
        Form(entered(lambda: using_attributes(user_id="u-1", session_id="s-1", metadata={"workflow_id": "w-1"}))),
    )


def decorator() -> Row:
    def function() -> None: ...

    theirs = using_attributes(user_id="u-1", session_id="s-1", metadata={"workflow_id": "w-1"})
    return Row(
        "@context() on a def, per call",
        "openinference-instrumentation: @using_attributes",
        2000,
        *(Form(repeated(do)) for do in (function, egisai.context(**FACTS)(function), theirs(function))),
    )


def starting() -> Row:
    def spans(processor: Any, put: Callable[[], object]) -> Task:
        provider = TracerProvider(shutdown_on_exit=False)
        if processor is not None:
            provider.add_span_processor(processor)
        tracer = provider.get_tracer("bench")

        def task(n: int) -> None:
            put()
            for _ in itertools.repeat(None, n):
                tracer.start_span("work").end()

        return task

    def tagged() -> None:
        ctx: Context | None = None
        for key, value in {
            "gen_ai.agent.name": "billing",
            "user.id": "u-1",
            "session.id": "s-1",
            "w.id": "w-1",
        }.items():
            ctx = baggage.set_baggage(key, value, ctx)
        attach(ctx or Context())

    return Row(
        "on_start of a plain span",
        "opentelemetry-processor-baggage: BaggageSpanProcessor, four members",
        1000,
        Form(spans(None, lambda: None)),
        Form(spans(EgisSpanProcessor(), lambda: egisai.set_context(agent="billing", **FACTS))),
        Form(spans(BaggageSpanProcessor(ALLOW_ALL_BAGGAGE_KEYS), tagged)),
    )


def submitting() -> Row:
    def job() -> None: ...

    pool = ThreadPoolExecutor(1)

    def task(n: int) -> None:
        egisai.set_context(**FACTS)
        last = None
        for _ in itertools.repeat(None, n):
            last = pool.submit(job)
        if last is not None:
            last.result()

    otel = ThreadingInstrumentor()
    return Row(
        "ThreadPoolExecutor.submit and its job",
        "opentelemetry-instrumentation-threading",
        1000,
        Form(task),
        Form(task, pools.install, pools.uninstall),
        Form(task, otel.instrument, otel.uninstrument),
    )


def costs(rounds: int) -> None:
    rows = [setting(), scope(), decorator(), starting(), submitting()]
    figures: dict[str, list[tuple[float, ...]]] = {row.name: [] for row in rows}
    for turn in range(-1, rounds):
        for row in rows:
            forms = (row.nothing, row.ours, row.theirs)
            order = forms if turn % 2 else forms[::-1]  # who comes after whom costs something too
            measured = {id(form): form.ns(row.n) for form in order}
            if turn >= 0:  # the first one warms up
                figures[row.name].append(tuple(measured[id(form)] for form in forms))
    print("{:40}{:>9}{:>9}{:>9}{:>8}  {}".format("µs", "nothing", "egisai", "peer", "ratio", "peer"))
    for row in rows:
        nothing, ours, theirs = (statistics.median(column) / 1000 for column in zip(*figures[row.name], strict=True))
        ours, theirs = ours - nothing, theirs - nothing
        print(f"{row.name:40}{nothing:9.2f}{ours:9.2f}{theirs:9.2f}{theirs / ours:8.2f}  {row.peer}")
    print(
        "\nnothing: the same code without. egisai, peer: above nothing. ratio: the peer's in units of egisai's.\n"
        "Egis checks each value and merges with what is in force; the peers of the first three rows keep what they\n"
        "are given. On a span Egis puts six attributes, among them the agent's id and how it is known; the peer puts\n"
        "the four that it finds."
    )


# --- many new agents at once -----------------------------------------------------------------------------------------


class SlowPlatform(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(ANSWER_S)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"canonical": {}}')

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def slow_platform() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowPlatform)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def attributed(threads: int, work: Callable[[str], object], given: list[str]) -> tuple[float, float]:
    """Work for each of `given`, shared out among so many threads: elapsed and CPU time per piece, in ns."""
    share = len(given) // threads
    ready = threading.Barrier(threads + 1)

    def do(mine: list[str]) -> None:
        ready.wait()
        for each in mine:
            work(each)

    working = [threading.Thread(target=do, args=(given[i * share : (i + 1) * share],)) for i in range(threads)]
    for thread in working:
        thread.start()
    cpu, elapsed = time.process_time_ns(), time.perf_counter_ns()
    ready.wait()
    for thread in working:
        thread.join()
    return (time.perf_counter_ns() - elapsed) / len(given), (time.process_time_ns() - cpu) / len(given)


def prompted(prompt: str) -> None:
    """What a call without a named agent does for its system prompt."""
    found = fingerprint.seen((prompt,))
    if isinstance(found, fingerprint.Missing):
        found = fingerprint.of((prompt,))
    assert found is not None
    attribution.current().prompted(found)


def system_prompt(seed: str) -> str:
    """600 characters that no other prompt is like."""
    random_ = random.Random(seed)
    words = ("".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(75))
    return f"You are the {next(words)} assistant. " + " ".join(words)


def new_agents(rounds: int) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(EgisSpanProcessor())
    tracer = provider.get_tracer("bench")

    def named(name: str) -> None:
        with egisai.context(agent=name):
            tracer.start_span("work").end()

    figures: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with slow_platform() as base_url:
        for turn, threads in itertools.product(range(-1, rounds), (1, THREADS)):
            announcer = Announcer(base_url, {}, {"app": "bench", "env": "bench"}, lambda *_: None)
            attribution.use(attribution.Attribution(on_sighting=announcer.put))
            names = [f"agent {turn}-{threads}-{i}" for i in range(AGENTS * THREADS)]
            prompts = [system_prompt(name) for name in names[: PROMPTS * THREADS]]
            for kind, work, given in (
                ("a name, new", named, names),
                ("a name, met before", named, names),
                ("a prompt of 600 characters, new", prompted, prompts),
                ("a prompt, the second time", prompted, prompts),
                ("a prompt, from then on", prompted, prompts),
            ):
                gc.collect()
                measured = attributed(threads, work, given)
                if turn >= 0:
                    figures.setdefault((kind, threads), []).append(measured)
            announcer.close(0)
    print(
        f"\n{AGENTS * THREADS} agents by name, a span each, and {PROMPTS * THREADS} by prompt, announced to a platform "
        f"that answers after {ANSWER_S * 1000:.0f} ms"
    )
    print("{:46}{:>9}{:>9}{:>9}".format("µs for each", "elapsed", "CPU", "waited"))
    for (kind, threads), values in figures.items():
        elapsed, cpu = (figure / 1000 for figure in min(values))  # other programs make us wait as well
        name = f"{kind}, {threads} thread{'s' * (threads > 1)}"
        print(f"{name:46}{elapsed:9.2f}{cpu:9.2f}{max(0.0, elapsed - cpu):9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    costs(arguments.rounds)
    new_agents(max(3, arguments.rounds // 6))


if __name__ == "__main__":
    main()
