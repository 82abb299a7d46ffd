"""What an attributed call costs with each client: CPU per call, and per chunk of a stream, above the bare client,
beside whoever else follows that client.

Each family of instrumentors has an environment of its own, with the same versions of the clients. Each pair of client
and instrumentor runs in a process of its own, where nothing else is instrumented, and measures itself against the bare
client in that same process: off and on, in turns. The processes of one client take turns in short rounds. Figures are
differences of CPU time of the calling thread with and without, in the same round, and medians over the rounds. Nothing
is sent (see `wires.py`).

Content is not recorded, by anybody: `TRACELOOP_TRACE_CONTENT`, `OPENINFERENCE_HIDE_*`. Spans end in a processor that
drops them.

    python benchmarks/clients.py [--only CLIENT ...] [--rounds 20]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import wires
from environments import OURS, python_of

FAMILIES: Final = {
    "egisai": dict.fromkeys(wires.CLIENTS, "egisai"),
    "OpenTelemetry": {
        "openai": "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
        "anthropic": "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor",
        "google-genai": "opentelemetry.instrumentation.google_genai:GoogleGenAiSdkInstrumentor",
        "botocore": "opentelemetry.instrumentation.botocore:BotocoreInstrumentor",
    },
    "OpenInference": {
        "openai": "openinference.instrumentation.openai:OpenAIInstrumentor",
        "anthropic": "openinference.instrumentation.anthropic:AnthropicInstrumentor",
        "google-genai": "openinference.instrumentation.google_genai:GoogleGenAIInstrumentor",
        "botocore": "openinference.instrumentation.bedrock:BedrockInstrumentor",
        "litellm": "openinference.instrumentation.litellm:LiteLLMInstrumentor",
        "mistralai": "openinference.instrumentation.mistralai:MistralAIInstrumentor",
        "groq": "openinference.instrumentation.groq:GroqInstrumentor",
    },
    "OpenLLMetry": {
        "openai": "opentelemetry.instrumentation.openai:OpenAIInstrumentor",
        "anthropic": "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
        "google-genai": "opentelemetry.instrumentation.google_generativeai:GoogleGenerativeAiInstrumentor",
        "botocore": "opentelemetry.instrumentation.bedrock:BedrockInstrumentor",
        "litellm": "opentelemetry.instrumentation.litellm:LiteLLMInstrumentor",
        "mistralai": "opentelemetry.instrumentation.mistralai:MistralAiInstrumentor",
        "cohere": "opentelemetry.instrumentation.cohere:CohereInstrumentor",
        "groq": "opentelemetry.instrumentation.groq:GroqInstrumentor",
        "together": "opentelemetry.instrumentation.together:TogetherAiInstrumentor",
        "ollama": "opentelemetry.instrumentation.ollama:OllamaInstrumentor",
        "voyageai": "opentelemetry.instrumentation.voyageai:VoyageAIInstrumentor",
    },
}
"""Family to client to its instrumentor."""

_NO_CONTENT: Final = {
    "TRACELOOP_TRACE_CONTENT": "false",
    "OPENINFERENCE_HIDE_INPUTS": "true",
    "OPENINFERENCE_HIDE_OUTPUTS": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else importing it asks for prices
}

CALLS, STREAMS = 20, 3
"""Per block of a measurement."""


# --- a contender's process -------------------------------------------------------------------------------------------


def contend(family: str, name: str) -> None:
    """Answer each line of standard input with a block's nanoseconds of this thread's CPU: per call, bare and
    instrumented, and per stream, bare and instrumented. The first line says whether the instrumentor did anything."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

    class Seen(SpanProcessor):
        """What the last spans looked like."""

        spans: list[ReadableSpan] | None = None

        def on_end(self, span: ReadableSpan) -> None:
            if self.spans is not None:
                self.spans.append(span)

    seen = Seen()
    provider = TracerProvider()
    provider.add_span_processor(seen)
    trace.set_tracer_provider(provider)
    described = wires.CLIENTS[name]()
    described.answer_with()
    on, off = _switches(FAMILIES[family][name], provider)

    def streamed(client: Any) -> None:
        assert described.stream is not None
        for _ in described.stream(client):
            pass

    tasks: list[tuple[Callable[[Any], object], int]] = [(described.call, CALLS)]
    if described.stream is not None:
        tasks.append((streamed, STREAMS))

    def shape(client: Any) -> list[object]:
        """What spans a call and a stream make."""
        seen.spans = []
        for task, _ in tasks:
            task(client)
        spans, seen.spans = seen.spans, None
        return [(span.name, sorted(span.attributes or ())) for span in spans]

    def figures() -> list[float]:
        client = described.make()  # some follow only clients that are made later
        return [_cpu_ns(task, client, n) for task, n in tasks]

    expected = shape(described.make())
    on()
    print("works" if shape(described.make()) != expected else "makes no span", flush=True)
    off()
    for _ in sys.stdin:
        bare = figures()
        on()
        followed = figures()
        off()
        print(*bare, *followed, flush=True)


def _switches(instrumentor: str, provider: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """How to put an instrumentor in place, and how to take it out again."""
    if instrumentor == "egisai":
        import egisai

        egisai.set_context(user_id="u-1", session_id="s-1", workflow_id="w-1")
        return lambda: egisai.init(app="bench", tracer_provider=provider, quiet=True), egisai.shutdown
    module, _, name = instrumentor.partition(":")
    made = getattr(importlib.import_module(module), name)()
    return lambda: made.instrument(tracer_provider=provider, skip_dep_check=True), made.uninstrument


def _cpu_ns(task: Callable[[Any], object], client: Any, n: int) -> float:
    """The median of so many: what else the machine does falls on a few."""
    for _ in range(n):  # the interpreter specialises code as it runs, and forgets it when a class is patched
        task(client)
    taken: list[int] = []
    for _ in range(n):
        started = time.thread_time_ns()
        task(client)
        taken.append(time.thread_time_ns() - started)
    return statistics.median(taken)


# --- the referee -----------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """In microseconds."""

    bare: float
    call: float
    chunk: float | None


class Contender:
    def __init__(self, python: Path, family: str, name: str) -> None:
        command = [python, __file__, "--contend", family, name]
        pipe = subprocess.PIPE
        environment = {**os.environ, **_NO_CONTENT}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._rounds: list[list[float]] = []
        self.state = self._line() or "fails"

    def measure(self) -> None:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        figures = [float(figure) / 1000 for figure in self._line().split()]
        if not figures:
            self.state = "fails"
        self._rounds.append(figures)

    def cost(self) -> Cost:
        half = len(self._rounds[0]) // 2
        bare = statistics.median(figures[0] for figures in self._rounds)
        call, *streams = (
            statistics.median(figures[half + task] - figures[task] for figures in self._rounds) for task in range(half)
        )
        return Cost(bare, call, (streams[0] - call) / wires.CHUNKS if streams else None)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def pythons() -> dict[str, Path]:
    """Family to the interpreter of its environment."""
    return {
        family: python_of(family.lower(), [*requirements, "opentelemetry-sdk", *wires.CLIENTS])
        for family, requirements in {
            "egisai": OURS,
            "OpenTelemetry": _OPENTELEMETRY,
            "OpenInference": [f"openinference-instrumentation-{name}" for name in _OPENINFERENCE],
            "OpenLLMetry": [f"opentelemetry-instrumentation-{name}" for name in _OPENLLMETRY],
        }.items()
    }


_OPENTELEMETRY: Final = (
    *("opentelemetry-instrumentation-genai-openai", "opentelemetry-instrumentation-genai-anthropic"),
    *("opentelemetry-instrumentation-google-genai", "opentelemetry-instrumentation-botocore"),
)
_OPENINFERENCE: Final = ("openai", "anthropic", "google-genai", "bedrock", "litellm", "mistralai", "groq")
_OPENLLMETRY: Final = (
    *("openai", "anthropic", "google-generativeai", "bedrock", "litellm", "mistralai", "cohere", "groq", "together"),
    *("ollama", "voyageai"),
)


def measured(name: str, interpreters: dict[str, Path], rounds: int) -> dict[str, Cost | str]:
    """Family to what its instrumentor of a client costs, or to what is wrong with it."""
    contenders = {
        family: Contender(python, family, name) for family, python in interpreters.items() if name in FAMILIES[family]
    }
    try:
        for _ in range(rounds):
            for each in contenders.values():
                if each.state == "works":
                    each.measure()
        return {family: each.cost() if each.state == "works" else each.state for family, each in contenders.items()}
    finally:
        for each in contenders.values():
            each.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(wires.CLIENTS), default=list(wires.CLIENTS))
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(*arguments.contend)
        return
    interpreters = pythons()
    head = "{:22}{:>8}" + "{:>16}" * len(FAMILIES) + "{:>8}"
    print("µs of CPU: of a call, bare; above it, each; and, after the slash, per chunk of a stream")
    print(head.format("client", "bare", *FAMILIES, "ratio"))
    for name in arguments.only:
        costs = measured(name, interpreters, arguments.rounds)
        ours = costs["egisai"]
        bare = f"{ours.bare:.0f}" if isinstance(ours, Cost) else ""
        print(head.format(name, bare, *(_shown(costs.get(family)) for family in FAMILIES), _ratio(costs)), flush=True)
    print("\nratio: the cheapest other's call in units of egisai's.")


def _shown(cost: Cost | str | None) -> str:
    if isinstance(cost, Cost):
        return f"{cost.call:.1f}" if cost.chunk is None else f"{cost.call:.1f} / {cost.chunk:.2f}"
    return cost or "-"


def _ratio(costs: dict[str, Cost | str]) -> str:
    ours, others = costs["egisai"], [cost for family, cost in costs.items() if family != "egisai"]
    measured_ = [cost.call for cost in others if isinstance(cost, Cost)]
    return f"{min(measured_) / ours.call:.2f}" if isinstance(ours, Cost) and measured_ else "-"


if __name__ == "__main__":
    main()
