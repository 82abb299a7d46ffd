"""On the program's own tracer provider, whatever is on it, and when there are several or it is told to be still."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased

import egisai
from provider import Provider

WHO = {"agent": "billing", "user_id": "u-1", "session_id": "s-1"}
ON_SPAN = {"gen_ai.agent.name": "billing", "user.id": "u-1", "session.id": "s-1"}


@pytest.fixture
def client(server: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0) as made:
        yield made


def call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content


def says_who(span: ReadableSpan) -> bool:
    return ON_SPAN.items() <= dict(span.attributes).items()


class Watching(SpanProcessor):
    """Somebody's processor: remembers what it saw of each span as it ended, and writes something at its start."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        span.set_attribute(self.name, True)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_otel_processors_around(client: openai.OpenAI) -> None:
    """Processors before and after ours see every span once, attributed, and what they write stays."""
    provider, before, after = TracerProvider(shutdown_on_exit=False), Watching("before"), Watching("after")
    provider.add_span_processor(before)
    egisai.init(tracer_provider=provider, quiet=True)
    provider.add_span_processor(after)
    with egisai.context(**WHO), provider.get_tracer("theirs").start_as_current_span("work"):
        call(client)
    for seen in (before.ended, after.ended):
        assert [span.name for span in seen] == ["chat m", "work"]
        assert all(says_who(span) and span.attributes["before"] and span.attributes["after"] for span in seen)


def test_otel_several_providers(client: openai.OpenAI) -> None:
    """Calls are recorded by the provider that was given; a second one needs only our processor, and traces join."""
    calls, theirs = InMemorySpanExporter(), InMemorySpanExporter()
    ours, other, third = (TracerProvider(shutdown_on_exit=False) for _ in range(3))
    ours.add_span_processor(SimpleSpanProcessor(calls))
    for provider in (other, third):
        provider.add_span_processor(SimpleSpanProcessor(theirs))
    other.add_span_processor(egisai.EgisSpanProcessor())
    egisai.init(tracer_provider=ours, quiet=True)
    with (
        egisai.context(**WHO),
        third.get_tracer("theirs").start_as_current_span("untouched"),
        other.get_tracer("theirs").start_as_current_span("work") as work,
    ):
        call(client)
    [span] = calls.get_finished_spans()
    assert says_who(span)
    assert span.parent == work.get_span_context()
    attributed, untouched = theirs.get_finished_spans()
    assert says_who(attributed)
    assert dict(untouched.attributes) == {}


def test_otel_disabled(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, server: Provider) -> None:
    """OTEL_SDK_DISABLED=true: calls go through with no span and nothing of ours in them; the context still works."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    seen = Watching("seen")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(seen)
    egisai.init(tracer_provider=provider, quiet=True)
    with egisai.context(**WHO):
        call(client)
        assert egisai.current_context() == WHO
    assert seen.ended == []
    assert "baggage" not in server.requests[0].headers
    assert egisai.diagnostics()["counts"] == {}


class Asking(Sampler):
    """Somebody's sampler, which decides by user."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        self.asked.append(dict(args[4] if len(args) > 4 else kwargs["attributes"] or {}))
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "Asking"


def test_otel_sampler_knows_who(client: openai.OpenAI) -> None:
    """A sampler can keep one user's calls: who makes the call is known when it decides."""
    sampler = Asking()
    egisai.init(tracer_provider=TracerProvider(sampler, shutdown_on_exit=False), quiet=True)
    with egisai.context(**WHO):
        call(client)
    [asked] = sampler.asked
    assert ON_SPAN.items() <= asked.items()


def test_otel_sampled_out(client: openai.OpenAI) -> None:
    """A trace that is sampled out stays so, and its calls with it; one that a remote parent sampled is kept whole."""
    provider, exported = TracerProvider(ParentBased(TraceIdRatioBased(0)), shutdown_on_exit=False), Watching("seen")
    provider.add_span_processor(exported)
    egisai.init(tracer_provider=provider, quiet=True)
    with egisai.context(**WHO):
        call(client)
        with provider.get_tracer("theirs").start_as_current_span("work") as work:
            assert not work.is_recording()
            call(client)
        assert exported.ended == []
        remote = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
        with trace.use_span(trace.NonRecordingSpan(remote)):
            call(client)
    [span] = exported.ended
    assert says_who(span)
    assert span.parent == remote


def test_otel_sampler_of_the_environment(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_TRACES_SAMPLER=always_off: no span, and calls are unaffected."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    provider, seen = TracerProvider(shutdown_on_exit=False), Watching("seen")
    provider.add_span_processor(seen)
    egisai.init(tracer_provider=provider, quiet=True)
    with egisai.context(**WHO):
        call(client)
    assert seen.ended == []
    assert egisai.diagnostics()["counts"] == {}
