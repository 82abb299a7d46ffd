"""Limits on attributes, which drop the oldest and cut what is long, leave who made a span whole in what we export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.otel.programs import KEY, Backend

import egisai
from egisai.outgoing import Outgoing

WHO = {"agent": "billing", "user_id": "u-1-" + "x" * 40, "user_role": "administrator", "session_id": "s-1"}
ON_SPAN = {
    "gen_ai.agent.name": "billing",
    "user.id": WHO["user_id"],
    "user.roles": ["administrator"],
    "session.id": "s-1",
    "egisai.agent.source": "name",
}


@pytest.fixture
def client(backend: Backend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=backend.provider.base_url, api_key="sk-local", max_retries=0) as made:
        yield made


def call(client: openai.OpenAI, *, system: str | None = None) -> None:
    messages = [{"role": "system", "content": system}] if system else []
    client.chat.completions.create(model="m", messages=[*messages, {"role": "user", "content": "hello"}])


def set_up(backend: Backend, provider: TracerProvider) -> None:
    egisai.init(base_url=backend.receiver.url, api_key=KEY, tracer_provider=provider, quiet=True)


LIMITS = {
    "count": SpanLimits(max_span_attributes=8),
    "length": SpanLimits(max_span_attribute_length=5),
    "both": SpanLimits(max_span_attributes=3, max_span_attribute_length=3),
    "none left": SpanLimits(max_span_attributes=0),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_otel_limits(backend: Backend, client: openai.OpenAI, limits: SpanLimits) -> None:
    """A small limit: each span still says in full who made it, a call's and anybody's, and whose prompt it was."""
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    set_up(backend, provider)
    with egisai.context(**WHO), provider.get_tracer("theirs").start_as_current_span("work") as work:
        call(client)
        work.set_attributes({f"theirs.{i}": i for i in range(200)})
    call(client, system="You answer questions about invoices.")
    egisai.flush()
    [work_span] = [span.attributes for span in backend.spans if span.scope == "theirs"]
    named, prompted = [span.attributes for span in backend.spans if span.scope == "egisai"]
    for attributes in (work_span, named):
        assert {name: attributes.get(name) for name in ON_SPAN} == ON_SPAN
        assert len(attributes["egisai.agent.id"]) == 36
    assert prompted["egisai.agent.source"] == "fingerprint"
    assert (len(prompted["egisai.agent.id"]), len(prompted["egisai.prompt.fingerprint"])) == (36, 32)


def test_otel_limits_of_the_environment(
    backend: Backend, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT and OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT likewise."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "8")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")
    set_up(backend, TracerProvider(shutdown_on_exit=False))
    with egisai.context(**WHO):
        call(client)
    egisai.flush()
    [span] = backend.spans
    assert ON_SPAN.items() <= span.attributes.items()


def test_otel_limits_by_default(backend: Backend) -> None:
    """128 attributes of somebody's after ours, on a default provider."""
    provider = TracerProvider(shutdown_on_exit=False)
    set_up(backend, provider)
    with egisai.context(**WHO), provider.get_tracer("theirs").start_as_current_span("work") as work:
        work.set_attributes({f"theirs.{i}": i for i in range(128)})
        assert "egisai.agent.id" not in work.attributes
    egisai.flush()
    [span] = backend.spans
    assert ON_SPAN.items() <= span.attributes.items()
    assert len([name for name in span.attributes if name.startswith("theirs.")]) == 128


def test_what_the_program_writes_over_ours_stays() -> None:
    """Only what a limit took is put back: a value that the program wrote itself is the program's."""
    exported, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(egisai.EgisSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(Outgoing(exported)))
    with egisai.context(**WHO):
        span = provider.get_tracer("theirs").start_span("work")
        span.set_attribute("user.id", "somebody else")
        span.end()
    [got] = exported.get_finished_spans()
    assert got.attributes["user.id"] == "somebody else"
    assert got.dropped_attributes == 0


def test_a_span_within_limits_goes_out_as_it_is() -> None:
    """No copy is made of a span that lacks nothing."""
    seen: list[object] = []

    class Keeping(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            seen.extend(spans)
            return super().export(spans)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(egisai.EgisSpanProcessor())
    plain = Keeping()
    provider.add_span_processor(SimpleSpanProcessor(plain))
    provider.add_span_processor(SimpleSpanProcessor(Outgoing(Keeping())))
    provider.get_tracer("theirs").start_span("work").end()
    assert seen[0] is seen[1]
