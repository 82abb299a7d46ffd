"""What reaches the provider: nothing of ours, everything of others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import openai
import pytest
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import attach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.instrumentation.forms import VERSION, Caller, request

import egisai
from conftest import Spans
from provider import Provider, fail

http = pytest.importorskip("opentelemetry.instrumentation.httpx")
NAME = "HTTPX2ClientInstrumentor" if VERSION >= (3, 0) else "HTTPXClientInstrumentor"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> Iterator[Spans]:
    """OTel's instrumentor of the HTTP client on, and the W3C propagators global."""
    w3c = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    monkeypatch.setattr(propagate, "propagator", w3c)
    instrumentor = getattr(http, NAME)()
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    yield spans
    instrumentor.uninstrument()


def _members(request: Any) -> dict[str, str]:
    header = request.headers.get("baggage", "")
    return dict(unquote(member).split("=", 1) for member in header.split(",") if member)


FACTS = {"agent": "billing", "user_id": "alice@example.com", "session_id": "s-1", "workflow_id": "w-1"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_otel_no_leak_to_the_provider(traced: Spans, caller: Caller, server: Provider, api: str, stream: bool) -> None:
    """No `egisai.*` baggage in the request; other people's is; the HTTP span carries agent and user all the same."""
    attach(baggage.set_baggage("theirs", "kept"))
    with egisai.context(**FACTS):
        result = caller.create(api, stream=stream)
        if stream:
            list(caller.each(result))
        assert egisai.current_context() == FACTS
        assert baggage.get_baggage("egisai.user_id") == FACTS["user_id"]
    [sent] = server.requests
    assert _members(sent) == {"theirs": "kept"}
    assert "alice" not in str(sent.headers)
    call = traced.calls()[0]
    [http_span] = [span for span in traced.all() if span is not call]
    assert http_span.parent.span_id == call.context.span_id
    assert sent.headers["traceparent"].split("-")[2] == f"{http_span.context.span_id:016x}"
    for name in ("gen_ai.agent.name", "egisai.agent.id", "user.id", "session.id", "egisai.workflow.id"):
        assert http_span.attributes[name] == call.attributes[name]


def test_otel_no_leak_by_prompt(traced: Spans, caller: Caller, api: str) -> None:
    """The HTTP span of a call whose agent the prompt gave carries that agent."""
    caller.create(api)
    child, call = traced.all()
    assert call.attributes["egisai.agent.source"] == child.attributes["egisai.agent.source"] == "fingerprint"
    assert call.attributes["egisai.agent.id"] == child.attributes["egisai.agent.id"]


def test_otel_no_leak_when_only_ours(traced: Spans, caller: Caller, server: Provider) -> None:
    """With no baggage but ours, there is no header at all."""
    with egisai.context(**FACTS):
        caller.create("chat")
    assert "baggage" not in server.requests[0].headers


def test_otel_no_leak_from_other_requests(traced: Spans, caller: Caller, server: Provider, kind: str) -> None:
    """What is no call, such as the list of models, goes to the same provider: no baggage of ours either."""
    attach(baggage.set_baggage("theirs", "kept"))
    with egisai.context(**FACTS):
        page = caller.client.models.list()
        if kind == "sync":
            list(page)
        else:

            async def read() -> None:
                async for _ in page:
                    pass

            caller.wait(read())
        assert egisai.current_context() == FACTS
    assert [_members(sent) for sent in server.requests] == [{"theirs": "kept"}]
    [span] = traced.all()
    assert span.attributes["user.id"] == FACTS["user_id"]
    assert span.attributes["gen_ai.agent.name"] == "billing"


def test_otel_no_leak_on_retries_and_errors(traced: Spans, server: Provider) -> None:
    server.hooks.append(fail(500, times=None, retry_after_s=0.001))
    with egisai.context(**FACTS), openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=1) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**request("chat"))
        assert egisai.current_context() == FACTS
    assert [_members(sent) for sent in server.requests] == [{}, {}]


def test_otel_no_leak_unsampled(traced: Spans, server: Provider, caller: Caller) -> None:
    """A call that is not recorded leaks nothing either."""
    attach(set_span_in_context(NonRecordingSpan(SpanContext(1, 2, is_remote=False))))
    with egisai.context(**FACTS):
        caller.create("chat")
    assert not traced.all()
    assert _members(server.requests[0]) == {}


def test_other_hosts_keep_their_baggage(traced: Spans, server: Provider) -> None:
    """Outside a call nothing is taken away: hops between one's own services need it."""
    library = importlib.import_module("httpx2" if VERSION >= (3, 0) else "httpx")
    with egisai.context(**FACTS):
        library.post(server.base_url + "/embeddings", json={})
    assert _members(server.requests[0])["egisai.session_id"] == "s-1"
