"""What an attributed call costs: CPU per `chat.completions.create` above the bare client, beside two peers.

Every contender runs in its own process, where nothing else is instrumented, and measures itself against the bare client
in that same process: off, on, off again, since two processes differ by more than an instrumentor costs. The processes
take turns in short rounds, so that all see the same machine. Each figure is the median over the rounds of CPU time of
the calling thread. The provider's answers come from a transport inside the client (no socket, no server thread), so
what is left is the client's work and the instrumentor's.

Spans end in a processor that drops them: exporting is measured by `benchmarks/export.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PROMPT = "You are the billing assistant of a web shop. Answer questions about invoices and refunds, briefly. " * 6
LONG_PROMPT = " ".join(f"word{i}" for i in range(20_000))
CHUNKS = 200

PEERS = {
    "egisai": "egisai",
    "genai-openai": "opentelemetry-instrumentation-genai-openai",
    "openinference": "openinference-instrumentation-openai",
}
"""Contender to distribution. One more is a yardstick: `span`, the client inside a bare OpenTelemetry span with 20
attributes, which is what the cheapest possible instrumentor would cost."""


# --- a contender's process -------------------------------------------------------------------------------------------


def completion(model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Your invoice. " * 20}}
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 60,
            "total_tokens": 180,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def stream_body(chunks: int) -> bytes:
    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = [event({"role": "assistant"}), *(event({"content": f"word {i} "}) for i in range(chunks - 3))]
    return b"".join([*body, event({}, "stop"), event({}, choices=[], usage=usage), b"data: [DONE]\n\n"])


def client() -> Any:
    import httpx2
    import openai

    whole = json.dumps(completion("gpt-4.1-2025-04-14")).encode()
    streamed = stream_body(CHUNKS)

    def answer(request: Any) -> Any:
        if b'"stream":true' in request.content.replace(b" ", b""):
            return httpx2.Response(200, content=streamed, headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, content=whole, headers={"content-type": "application/json"})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="sk-x", base_url="https://api.openai.com/v1", http_client=http)


Switch = Callable[[], object]


def switches(contender: str, provider: Any) -> tuple[Switch, Switch]:
    """How to put a contender's instrumentation in place, and how to take it out again."""
    if contender == "egisai":
        import egisai

        egisai.set_context(user_id="u-1", session_id="s-1", workflow_id="w-1")
        return lambda: egisai.init(app="bench", tracer_provider=provider, quiet=True), egisai.shutdown
    if contender == "genai-openai":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

        instrumentor: Any = OpenAIInstrumentor()
    elif contender == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        instrumentor = OpenInference()
    else:
        return lambda: None, lambda: None
    return lambda: instrumentor.instrument(tracer_provider=provider), instrumentor.uninstrument


def contend(contender: str) -> None:
    """Answer requests `<task> <n>` on standard input with the nanoseconds of this thread's CPU per call, without
    and with the instrumentation."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor())
    trace.set_tracer_provider(provider)
    tracer = provider.get_tracer("bench")
    attributes = {f"attribute.{i}": f"value {i}" for i in range(20)}
    openai_client = client()
    on, off = switches(contender, provider)

    def messages(prompt: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": prompt}, {"role": "user", "content": "Where is my invoice?"}]

    short, long = messages(PROMPT), messages(LONG_PROMPT)

    def create(prompt: list[dict[str, str]]) -> None:
        openai_client.chat.completions.create(model="gpt-4.1", messages=prompt, temperature=0.2)

    def streamed() -> None:
        options = {"include_usage": True}
        for _ in openai_client.chat.completions.create(
            model="gpt-4.1", messages=short, stream=True, stream_options=options
        ):
            pass

    tasks: dict[str, Callable[[], object]] = {
        "create": lambda: create(short),
        "long": lambda: create(long),
        "rendered": lambda: create(messages(LONG_PROMPT[:1] + LONG_PROMPT[1:])),  # as an f-string makes it
        "stream": streamed,
    }

    def in_a_span(task: Callable[[], object]) -> None:
        span = tracer.start_span("chat", attributes=attributes)
        task()
        span.end()

    def cpu_ns(task: Callable[[], object], n: int) -> float:
        for _ in range(n):  # the interpreter specialises code as it runs, and forgets it when a class is patched
            task()
        started = time.thread_time_ns()
        for _ in range(n):
            task()
        return (time.thread_time_ns() - started) / n

    for line in sys.stdin:
        name, count = line.split()
        task, n = tasks[name], int(count)
        bare = cpu_ns(task, n)
        on()
        instrumented = cpu_ns(lambda task=task: in_a_span(task) if contender == "span" else task(), n)
        off()
        bare = (bare + cpu_ns(task, n)) / 2  # on both sides: the machine drifts
        print(bare, instrumented, flush=True)


# --- the referee -----------------------------------------------------------------------------------------------------


class Contender:
    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--contend", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, task: str, n: int) -> tuple[float, float]:
        """Microseconds per call: of the bare client, and what the instrumentation adds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task} {n}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender died with {self._process.wait()}")
        bare, instrumented = (float(figure) / 1000 for figure in line.split())
        return bare, instrumented - bare

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(arguments.contend)
        return

    contenders = {name: Contender(name) for name in ("span", *PEERS)}
    plan = {"create": 40, "long": 10, "rendered": 10, "stream": 3}
    bare: dict[str, list[float]] = {task: [] for task in plan}
    above: dict[tuple[str, str], list[float]] = {(name, task): [] for name in contenders for task in plan}
    try:
        for turn in range(-1, arguments.rounds):
            for name, contender in contenders.items():
                for task, n in plan.items():
                    floor, added = contender.measure(task, n)
                    if turn >= 0:  # the first one warms up
                        bare[task].append(floor)
                        above[name, task].append(added)
    finally:
        for contender in contenders.values():
            contender.close()
    report({key: statistics.median(values) for key, values in above.items()}, bare)


def report(above: dict[tuple[str, str], float], bare: dict[str, list[float]]) -> None:
    span, ours = above["span", "create"], above["egisai", "create"]
    print(f"The bare client: {statistics.median(bare['create']):.0f} µs of CPU per create, ", end="")
    print(f"{statistics.median(bare['stream']) / CHUNKS:.1f} µs per streamed chunk.")
    print(f"A bare OpenTelemetry span with 20 attributes around a create: {span:.1f} µs.\n")
    headings = ("µs above bare", "create", "ratio", "spans", "long", "rendered", "per chunk")
    print("{:44}{:>8}{:>8}{:>8}{:>8}{:>10}{:>11}".format(*headings))
    for name, distribution in PEERS.items():
        create = above[name, "create"]
        per_chunk = (above[name, "stream"] - create) / CHUNKS
        print(
            f"{distribution:44}{create:8.1f}{create / ours:8.2f}{create / span:8.2f}"
            f"{above[name, 'long']:8.1f}{above[name, 'rendered']:10.1f}{per_chunk:11.2f}"
        )
    print(
        "\nratio: create in units of egisai's. spans: in units of the bare span around a create.\n"
        "long: create with a seen 20,000-word system prompt, the same string each time; rendered: the same text as a\n"
        "new string each time. per chunk: of a stream, without the call's own cost."
    )


if __name__ == "__main__":
    main()
