"""What an attributed call costs: CPU per `chat.completions.create` above the bare client, beside two peers.

Every contender runs in its own process, where nothing else is instrumented. The processes take turns in short rounds,
started by this one, so that all see the same machine; each figure is the median over the rounds of the CPU time of the
calling thread, less the bare client's in the same round. The provider's answers come from a transport inside the client
(no socket, no server thread), so what is left is the client's work and the instrumentor's.

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
"""Contender to distribution. Two more are yardsticks: `bare`, the client alone, and `span`, the client inside a bare
OpenTelemetry span with 20 attributes, which is what the cheapest possible instrumentor would cost."""


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


def instrument(contender: str) -> Any:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor())
    trace.set_tracer_provider(provider)
    if contender == "egisai":
        import egisai

        egisai.init(app="bench", tracer_provider=provider, quiet=True)
        egisai.set_context(user_id="u-1", session_id="s-1", workflow_id="w-1")
    elif contender == "genai-openai":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)
    elif contender == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument(tracer_provider=provider)
    return provider


def contend(contender: str) -> None:
    """Answer requests `<task> <n>` on standard input with nanoseconds of this thread's CPU per call."""
    provider = instrument(contender)
    tracer = provider.get_tracer("bench")
    openai_client = client()
    attributes = {f"attribute.{i}": f"value {i}" for i in range(20)}

    def messages(prompt: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": prompt}, {"role": "user", "content": "Where is my invoice?"}]

    short, long = messages(PROMPT), messages(LONG_PROMPT)

    def rendered() -> Any:  # the same text, a new string each time, as an f-string makes it
        return openai_client.chat.completions.create(
            model="gpt-4.1", messages=messages(LONG_PROMPT[:1] + LONG_PROMPT[1:])
        )

    def streamed() -> None:
        options = {"include_usage": True}
        for _ in openai_client.chat.completions.create(
            model="gpt-4.1", messages=short, stream=True, stream_options=options
        ):
            pass

    tasks: dict[str, Callable[[], Any]] = {
        "create": lambda: openai_client.chat.completions.create(model="gpt-4.1", messages=short, temperature=0.2),
        "long": lambda: openai_client.chat.completions.create(model="gpt-4.1", messages=long, temperature=0.2),
        "rendered": rendered,
        "stream": streamed,
        "hot_span": lambda: tracer.start_span("span", attributes=attributes).end(),
    }
    if contender == "span":
        create = tasks["create"]

        def inside_a_span() -> None:
            span = tracer.start_span("chat", attributes=attributes)
            create()
            span.end()

        tasks["create"] = inside_a_span
    for line in sys.stdin:
        name, n = line.split()
        task = tasks[name]
        started = time.thread_time_ns()
        for _ in range(int(n)):
            task()
        print((time.thread_time_ns() - started) / int(n), flush=True)


# --- the referee -----------------------------------------------------------------------------------------------------


class Contender:
    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--contend", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, task: str, n: int) -> float:
        """Microseconds per call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task} {n}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender died with {self._process.wait()}")
        return float(line) / 1000

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

    contenders = {name: Contender(name) for name in ("bare", "span", *PEERS)}
    plan = {"create": 20, "long": 5, "rendered": 5, "stream": 2}
    above: dict[tuple[str, str], list[float]] = {}
    bare: dict[str, list[float]] = {task: [] for task in plan}
    hot_span: list[float] = []
    try:
        for contender in contenders.values():
            for task, n in plan.items():
                contender.measure(task, 3 * n)
        for _ in range(arguments.rounds):
            hot_span.append(contenders["bare"].measure("hot_span", 200))
            for task, n in plan.items():
                before = contenders["bare"].measure(task, n)
                taken = {name: contenders[name].measure(task, n) for name in ("span", *PEERS)}
                floor = (before + contenders["bare"].measure(task, n)) / 2  # on both sides: the machine drifts
                bare[task].append(floor)
                for name, cost in taken.items():
                    above.setdefault((name, task), []).append(cost - floor)
    finally:
        for contender in contenders.values():
            contender.close()
    report(above, bare, statistics.median(hot_span))


def report(above: dict[tuple[str, str], list[float]], bare: dict[str, list[float]], hot_span: float) -> None:
    def cost(name: str, task: str) -> float:
        return statistics.median(above[name, task])

    span, ours = cost("span", "create"), cost("egisai", "create")
    print(f"The bare client: {statistics.median(bare['create']):.0f} µs of CPU per create, ", end="")
    print(f"{statistics.median(bare['stream']) / CHUNKS:.1f} µs per streamed chunk.")
    print(
        f"A bare OpenTelemetry span with 20 attributes: {hot_span:.1f} µs in a loop, {span:.1f} µs around a create.\n"
    )
    print(
        "{:44}{:>8}{:>8}{:>8}{:>8}{:>10}{:>11}".format(
            "µs above bare", "create", "ratio", "spans", "long", "rendered", "per chunk"
        )
    )
    for name, distribution in PEERS.items():
        create = cost(name, "create")
        per_chunk = (cost(name, "stream") - create) / CHUNKS
        print(
            f"{distribution:44}{create:8.1f}{create / ours:8.2f}{create / span:8.2f}"
            f"{cost(name, 'long'):8.1f}{cost(name, 'rendered'):10.1f}{per_chunk:11.2f}"
        )
    print(
        "\nratio: create in units of egisai's. spans: in units of the bare span around a create.\n"
        "long: create with a seen 20,000-word system prompt, the same string each time; rendered: the same text as a\n"
        "new string each time. per chunk: of a stream, without the call's own cost."
    )


if __name__ == "__main__":
    main()
