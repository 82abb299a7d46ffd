"""Voyage AI beyond the contract: what else is embedded, reranking, retries, what runs in the process, what is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import attach
from opentelemetry.trace import StatusCode
from tests.instrumentation.clients.voyageai import MODEL, VoyageWire, make
from tests.instrumentation.contract import told
from tests.instrumentation.wire import fail

import egisai
from conftest import Spans
from egisai import semconv

voyageai = pytest.importorskip("voyageai")

QUERY, DOCUMENT = "Why was my card charged twice?", "Refunds take a week."


@pytest.fixture
def wire() -> Iterator[VoyageWire]:
    with VoyageWire() as server:
        yield server


@pytest.fixture
def client(wire: VoyageWire) -> Any:
    return make(wire.url, "sync")


def test_embeddings(spans: Spans, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, chunks in context, and texts with images: usage, dimensions, and on request what was embedded."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    client.embed([QUERY, DOCUMENT], model=MODEL, output_dtype="int8", output_dimension=3)
    client.contextualized_embed([[QUERY, DOCUMENT]], model=MODEL)
    client.multimodal_embed([[QUERY]], model=MODEL)
    image = {"type": "image_url", "image_url": "https://example.com/a.png"}
    data = {"type": "image_base64", "image_base64": "data:image/png;base64,aGk="}
    client.multimodal_embed([{"content": [{"type": "text", "text": QUERY}, image, data]}], model=MODEL)
    calls = [span.attributes for span in spans.calls()]
    for each in calls:
        assert each["gen_ai.usage.input_tokens"] == 8
        assert each["gen_ai.embeddings.dimension.count"] == 3
    assert calls[0]["gen_ai.request.encoding_formats"] == ("int8",)
    assert [each.get("gen_ai.usage.text.input_tokens") for each in calls] == [None, None, 5, 5]
    said = [
        [[part.get("content", part.get("uri")) for part in message["parts"]] for message in json.loads(text)]
        for text in (each["gen_ai.input.messages"] for each in calls)
    ]
    assert said == [
        [[QUERY], [DOCUMENT]],
        [[QUERY, DOCUMENT]],
        [[QUERY]],
        [[QUERY, "https://example.com/a.png", "aGk="]],
    ]
    assert json.loads(calls[3]["gen_ai.input.messages"])[0]["parts"][2]["mime_type"] == "image/png"
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


def test_async(spans: Spans, wire: VoyageWire) -> None:
    """The async client, with an HTTP session of its own for each call."""

    async def main() -> None:
        client = make(wire.url, "async")
        await client.multimodal_embed([[QUERY]], model=MODEL)
        await client.rerank(QUERY, [DOCUMENT], model=MODEL)

    asyncio.run(main())
    assert [(span.name, told(span)) for span in spans.all()] == [
        (f"embeddings {MODEL}", {"input": 8}),
        (f"rerank {MODEL}", {"input": 8}),
    ]


def test_rerank(spans: Spans, client: Any) -> None:
    """A reranking is attributed and billed, and no call."""
    with egisai.context(agent="search"):
        client.rerank(QUERY, [DOCUMENT], model="rerank-2.5")
    [span] = spans.all()
    assert not semconv.is_call(span.attributes)
    assert span.name == "rerank rerank-2.5"
    assert span.attributes["gen_ai.agent.name"] == "search"
    assert told(span) == {"input": 8}


def retrying(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenacity = pytest.importorskip("tenacity")
    make_controller = client._make_retry_controller
    monkeypatch.setattr(client, "_make_retry_controller", lambda: make_controller().copy(wait=tenacity.wait_none()))


def test_retries(spans: Spans, wire: VoyageWire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's retries are one call, and its status that of the last answer."""
    client = make(wire.url, "sync", max_retries=2)
    retrying(client, monkeypatch)
    wire.hooks.append(fail(429, times=1))
    client.embed([QUERY], model=MODEL)
    wire.hooks.append(fail(429, times=1))
    wire.hooks.append(fail(503, times=1))
    with pytest.raises(voyageai.error.ServiceUnavailableError):
        client.embed([QUERY], model=MODEL)
    assert len(wire.requests) == 4
    answered, refused = spans.calls()
    assert answered.status.status_code is StatusCode.UNSET
    assert "http.response.status_code" not in answered.attributes
    assert refused.attributes["http.response.status_code"] == 503
    assert refused.attributes["error.type"] == "voyageai.error.ServiceUnavailableError"


def test_other_spans_are_left_alone(spans: Spans, wire: VoyageWire, client: Any) -> None:
    """What is refused outside of a call is not said on the program's own span."""
    wire.hooks.append(fail(429))
    with spans.provider.get_tracer("program").start_as_current_span("work"), pytest.raises(Exception, match="429"):
        voyageai.Embedding.create(input=[QUERY], model=MODEL, api_key="local", base_url=wire.url)
    [span] = spans.all()
    assert "http.response.status_code" not in span.attributes


def test_local(spans: Spans, wire: VoyageWire, client: Any) -> None:
    """A model that runs in the process asks nobody, and makes no span."""
    model = next(iter(voyageai.local.helpers.LOCAL_MODELS))
    with pytest.raises(Exception, match="sentence"):  # which is not installed
        client.embed([QUERY], model=model)
    assert not wire.requests
    assert not spans.all()


def test_nested(spans: Spans, wire: VoyageWire, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP client's span is inside the call's, and the provider is told nothing of ours."""
    http = pytest.importorskip("opentelemetry.instrumentation.requests")
    monkeypatch.setattr(propagate, "propagator", W3CBaggagePropagator())
    instrumentor = http.RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    try:
        attach(baggage.set_baggage("theirs", "kept"))
        with egisai.context(agent="billing", user_id="alice@example.com"):
            client.embed([QUERY], model=MODEL)
    finally:
        instrumentor.uninstrument()
    inner, call = spans.all()
    assert inner.parent.span_id == call.context.span_id
    assert inner.attributes["user.id"] == "alice@example.com"
    [sent] = wire.received
    assert b"theirs=kept" in sent
    assert b"alice" not in sent
    assert b"egisai" not in sent
