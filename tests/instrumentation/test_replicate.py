"""Replicate beyond the contract: streams, waiting, what a model is called, failures, content."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.clients.replicate import (
    METRICS,
    MODEL,
    VERSION,
    ReplicateWire,
    asked,
    close,
    make,
)
from tests.instrumentation.contract import Ask, told
from tests.instrumentation.wire import break_stream, hold, replay

import egisai
from conftest import Spans

pytest.importorskip("replicate")

ASK = asked(Ask(MODEL))


@pytest.fixture
def wire() -> Iterator[ReplicateWire]:
    with ReplicateWire() as server:
        yield server


@pytest.fixture
def client(wire: ReplicateWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    close(made)


def run(wire: ReplicateWire, use: Callable[[Any], Any]) -> None:
    async def main() -> None:
        client = make(wire.url, "async")
        try:
            await use(client)
        finally:
            await close(client)

    asyncio.run(main())


def is_events(request: Any) -> bool:
    return request.path.startswith("/stream/")


def test_streams(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """`stream` and `async_stream`: making the prediction and reading its events is one call, of the context of then."""
    with egisai.context(agent="billing", user_id="u-1"):
        stream = client.stream(MODEL, input={**ASK, "max_tokens": 50})
        first = next(stream)
    with egisai.context(user_id="u-2"):
        assert "".join(map(str, [first, *stream])) == "Sorry about that."

    async def use(client: Any) -> None:
        assert "".join([str(event) async for event in await client.async_stream(MODEL, ASK)]) == "Sorry about that."

    run(wire, use)
    assert len(wire.requests) == 4
    ours, of_async = spans.calls()
    for span in (ours, of_async):
        assert span.name == f"generate_content {MODEL}"
        assert told(span) == {"reasons": ("stop",)}
        assert span.attributes["gen_ai.request.stream"] is True
        assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
        assert f"http://{span.attributes['server.address']}:{span.attributes['server.port']}" == wire.url
    assert (ours.attributes["gen_ai.agent.name"], ours.attributes["user.id"]) == ("billing", "u-1")
    assert ours.attributes["gen_ai.request.max_tokens"] == 50
    assert of_async.attributes["egisai.agent.source"] == "fingerprint"


def test_stream_unread(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """A stream that nobody reads was never asked for."""
    client.stream(MODEL, input=ASK).close()
    assert not wire.requests
    assert not spans.all()


def test_stream_left(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """Closed, or cancelled: incomplete, no error, and the connection is let go."""
    wire.hooks.append(hold(1, threading.Event(), times=None, when=is_events))
    stream = client.stream(MODEL, input=ASK)
    next(stream)
    stream.close()

    async def use(client: Any) -> None:
        stream = await client.async_stream(MODEL, ASK)
        await stream.__anext__()
        task = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(wire, use)
    for span in spans.calls():
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes["egisai.call.complete"] is False
    for request in filter(is_events, wire.requests):
        assert request.finished.wait(5)
        assert request.outcome == "client left"
    assert len(spans.calls()) == 2


def test_stream_fails(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """A cut connection, an error event, and a prediction that was canceled meanwhile."""
    wire.hooks.append(break_stream(1, when=is_events))
    with pytest.raises(Exception, match="closed"):
        list(client.stream(MODEL, input=ASK))
    events = ["event: error\nid: 1\ndata: out of memory\n\n", 'event: done\nid: 1\ndata: {"reason": "canceled"}\n\n']
    for event in events:
        wire.hooks.append(replay(event.encode(), content_type="text/event-stream", when=is_events, times=1))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(client.stream(MODEL, input=ASK))
    assert len(list(client.stream(MODEL, input=ASK))) == 1
    cut, failed, canceled = spans.calls()
    assert cut.attributes["error.type"] == "httpx.RemoteProtocolError"
    assert failed.attributes["error.type"] == "RuntimeError"
    assert told(canceled) == {"reasons": ("canceled",)}


def test_waiting(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """A prediction that is waited for, by `run` or by hand, is one call, whatever is polled; its end is not in it."""
    starting = json.dumps(wire.prediction("starting")).encode()
    wire.hooks.append(replay(starting, times=2, when=lambda request: request.method == "POST"))
    wire.hooks.append(replay(starting, times=2, when=lambda request: request.method == "GET"))
    assert client.run(MODEL, input=ASK, wait=False) == ["Sorry", " about that."]
    prediction = client.predictions.create(version=VERSION, input=ASK)
    prediction.wait()
    assert prediction.metrics == METRICS
    assert [request.method for request in wire.requests] == ["POST", "GET", "GET", "GET", "POST", "GET"]
    assert [told(span) for span in spans.calls()] == [{"id": "p-1", "model": MODEL}] * 2


def test_models(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """What was asked for, in the caller's words where they reach the request."""
    version, model = (importlib.import_module(f"replicate.{name}") for name in ("version", "model"))
    made = version.Version(id=VERSION, created_at="2026-01-01T00:00:00Z", cog_version="0.9", openapi_schema={})
    referred = importlib.import_module("replicate.identifier").ModelVersionIdentifier("meta", "llama", VERSION)
    fields = dict.fromkeys(model.Model.__fields__)
    named = model.Model(
        **{**fields, "owner": "meta", "name": "llama", "url": "", "visibility": "public", "run_count": 0}
    )

    assert list(client.run(f"meta/llama:{VERSION}", input=ASK)) == ["Sorry", " about that."]
    for ref in (made, referred, named):
        client.run(ref, input=ASK)
        list(client.stream(ref, input=ASK))
    client.predictions.create(version=VERSION, input=ASK)
    client.deployments.predictions.create("acme/billing", input=ASK)

    async def use(client: Any) -> None:
        await client.async_run(f"meta/llama:{VERSION}", input=ASK)

    run(wire, use)
    asked_for = [span.attributes["gen_ai.request.model"] for span in spans.calls()]
    full = f"meta/llama:{VERSION}"
    each = [VERSION, VERSION, full, full, "meta/llama", "meta/llama"]
    assert asked_for == [full, *each, VERSION, "acme/billing", full]


def test_failed(spans: Spans, wire: ReplicateWire, client: Any) -> None:
    """A prediction that failed is an error of the call, whether the client raises it or not."""
    failed = wire.prediction("failed", error="out of memory")
    wire.hooks.append(replay(json.dumps(failed).encode()))
    with pytest.raises(Exception, match="out of memory"):
        client.run(MODEL, input=ASK)
    client.predictions.create(model=MODEL, input=ASK)
    for span in spans.calls():
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "failed"
        assert told(span) == {"id": "p-1", "model": MODEL, "reasons": ("error",)}


def test_content_said(spans: Spans, wire: ReplicateWire, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, messages, system and image in; pieces of text, addresses and JSON out; a stream says the same."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    messages = [{"role": "user", "content": "Hi"}]
    given: dict[str, Any] = {**ASK, "messages": messages, "image": "https://example.com/a.png", "stop_sequences": "a,b"}
    client.run(MODEL, input=given)
    list(client.stream(MODEL, input=given))
    for output in ("Sorry.", ["https://example.com/b.png"], {"score": 1}, None):
        wire.hooks[:] = [replay(json.dumps(wire.prediction(output=output)).encode())]
        client.predictions.create(model=MODEL, input={})
    whole, streamed, *others = (span.attributes for span in spans.calls())
    assert whole["gen_ai.input.messages"] == streamed["gen_ai.input.messages"]
    assert whole["gen_ai.output.messages"] == streamed["gen_ai.output.messages"]
    assert whole["gen_ai.request.stop_sequences"] == ("a", "b")
    inputs = json.loads(whole["gen_ai.input.messages"])
    assert [part["type"] for message in inputs for part in message["parts"]] == ["text", "text", "uri"]
    assert ASK["system_prompt"] in whole["gen_ai.system_instructions"]
    said = [json.loads(each.get("gen_ai.output.messages", "[]")) for each in (whole, *others)]
    texts = [[part["content"] for message in answer for part in message["parts"]] for answer in said]
    assert texts == [["Sorry about that."], ["Sorry."], ['["https://example.com/b.png"]'], ['{"score":1}'], []]
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
