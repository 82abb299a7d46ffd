"""Beside another vendor's instrumentor, installed before or after ours: one call, one span, attributed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from tests.instrumentation.forms import SYSTEM, Caller, request, resource

import egisai
from conftest import Spans
from egisai import semconv
from provider import Provider, break_stream

genai = pytest.importorskip("opentelemetry.instrumentation.genai.openai")
openinference = pytest.importorskip("openinference.instrumentation.openai")

VENDORS = {"genai": genai.OpenAIInstrumentor, "openinference": openinference.OpenAIInstrumentor}


@pytest.fixture(params=[(vendor, order) for vendor in VENDORS for order in ("before", "after")], ids="-".join)
def foreign(request: pytest.FixtureRequest) -> Iterator[Spans]:
    """A provider with another vendor's instrumentor and ours on it."""
    vendor, order = request.param
    spans = Spans()
    theirs: BaseInstrumentor = VENDORS[vendor]()
    steps: list[Callable[[], Any]] = [
        lambda: theirs.instrument(tracer_provider=spans.provider, skip_dep_check=True),
        lambda: egisai.init(app="app", tracer_provider=spans.provider, quiet=True),
    ]
    for step in steps if order == "before" else reversed(steps):
        step()
    yield spans
    if order == "before":  # taken out in reverse, as instrumentors have to be
        egisai.shutdown()
    theirs.uninstrument()
    egisai.shutdown()
    assert "_self_wrapper" not in dir(openai.OpenAI.request)
    assert openai.OpenAI.request is openai.OpenAI.__mro__[1].request


def only_call(spans: Spans) -> ReadableSpan:
    [span] = [span for span in spans.all() if semconv.is_call(span.attributes)]
    assert span.instrumentation_scope.name != "egisai"
    spans.exporter.clear()
    return span


def check(span: ReadableSpan, **expected: Any) -> None:
    attributes = dict(span.attributes)
    assert {name: attributes.get(name) for name in expected} == expected
    assert str(uuid.UUID(attributes["egisai.agent.id"])) == attributes["egisai.agent.id"]
    assert attributes["gen_ai.operation.name"] in semconv.CALL_OPERATIONS  # so that any reader knows it for a call


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_foreign(foreign: Spans, caller: Caller, api: str, stream: bool) -> None:
    """Named by the program: agent, source, user, session, workflow are on their span, and there is no other."""
    with egisai.context(agent="billing", user_id="u-1", session_id="s-1", workflow_id="w-1"):
        result = caller.create(api, stream=stream)
    if stream:
        list(caller.each(result))
    expected = {"gen_ai.agent.name": "billing", "egisai.agent.source": "name", "user.id": "u-1", "session.id": "s-1"}
    check(only_call(foreign), **expected, **{"egisai.workflow.id": "w-1", "gen_ai.conversation.id": "s-1"})
    assert egisai.current_context() == {}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_foreign_by_prompt(foreign: Spans, caller: Caller, api: str, stream: bool) -> None:
    """Not named: the system prompt decides, on their span too."""
    result = caller.create(api, stream=stream)
    if stream:
        list(caller.each(result))
    span = only_call(foreign)
    check(span, **{"egisai.agent.source": "fingerprint"})
    assert span.attributes["gen_ai.agent.name"] not in ("app", SYSTEM)
    assert len(span.attributes["egisai.prompt.fingerprint"]) == 32


def test_call_foreign_by_app(foreign: Spans, caller: Caller, api: str) -> None:
    caller.create(api, system=None)
    check(only_call(foreign), **{"egisai.agent.source": "app", "gen_ai.agent.name": "app"})


def test_call_foreign_embeddings(foreign: Spans, caller: Caller) -> None:
    with egisai.context(agent="indexer", user_id="u-1"):
        caller.create("embeddings")
    check(only_call(foreign), **{"gen_ai.agent.name": "indexer", "user.id": "u-1"})


def test_call_foreign_id_alone(foreign: Spans, caller: Caller) -> None:
    """An id without a name never stands beside another agent's name."""
    mine = str(uuid.uuid4())
    with egisai.context(agent_id=mine):
        caller.create("chat")
    span = only_call(foreign)
    check(span, **{"egisai.agent.id": mine, "egisai.agent.source": "id"})
    assert span.attributes.get("gen_ai.agent.name", mine) == mine


def test_call_foreign_error(foreign: Spans, caller: Caller, server: Provider) -> None:
    server.hooks.append(break_stream(0))
    with egisai.context(agent="billing"), pytest.raises(openai.APIConnectionError):
        caller.create("chat")
    span = only_call(foreign)
    check(span, **{"gen_ai.agent.name": "billing"})
    assert not span.status.is_ok


def test_call_foreign_left_early(foreign: Spans, caller: Caller) -> None:
    with egisai.context(agent="billing"):
        stream = caller.create("chat", stream=True)
    with caller.within(stream):
        next(caller.each(stream))
    check(only_call(foreign), **{"gen_ai.agent.name": "billing"})


def test_call_foreign_framework_span(spans: Spans, caller: Caller) -> None:
    """A span of a framework for the call, naming its own agent: it is attributed, and completed with the request."""
    tracer = spans.provider.get_tracer("framework")
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.agent.name": "Framework agent"}
    with tracer.start_as_current_span("chat", attributes=attributes):
        caller.create("chat")
    [span] = spans.all()
    check(span, **{"gen_ai.agent.name": "Framework agent", "egisai.agent.source": "framework"})
    assert span.attributes["gen_ai.request.model"]


def test_call_foreign_context_set_inside(spans: Spans, caller: Caller) -> None:
    """The context of the call wins over the one in which their span started, whole: no name of another agent."""
    mine = str(uuid.uuid4())
    with spans.provider.get_tracer("framework").start_as_current_span(
        "chat", attributes={"gen_ai.operation.name": "chat"}
    ):
        egisai.set_context(agent_id=mine)
        caller.create("chat")
    check(spans.all()[0], **{"egisai.agent.id": mine, "gen_ai.agent.name": mine})


def test_call_foreign_lookup_inside_a_chat(spans: Spans, caller: Caller) -> None:
    """Embeddings that a chat span's owner asks for on the way are a call of their own."""
    with spans.provider.get_tracer("framework").start_as_current_span(
        "chat", attributes={"gen_ai.operation.name": "chat"}
    ):
        caller.create("embeddings")
    assert sorted(span.attributes["gen_ai.operation.name"] for span in spans.all()) == ["chat", "embeddings"]


def test_call_foreign_agent_span_is_no_call(spans: Spans, caller: Caller) -> None:
    """Inside a framework's agent span, calls have their own spans and the framework's agent."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "Planner"}
    with spans.provider.get_tracer("framework").start_as_current_span("invoke_agent", attributes=attributes):
        caller.create("chat")
        caller.create("chat", system=None)
    calls = [span for span in spans.all() if span.attributes["gen_ai.operation.name"] == "chat"]
    assert [span.attributes["gen_ai.agent.name"] for span in calls] == ["Planner"] * 2
    assert [span.attributes["egisai.agent.source"] for span in calls] == ["framework"] * 2


def test_call_foreign_many_at_once(foreign: Spans, server: Provider) -> None:
    """No mixing beside another instrumentor either."""
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:

        def work(index: int) -> None:
            with egisai.context(agent=f"agent-{index}", user_id=f"u-{index}"):
                for _ in range(3):
                    resource(client, "chat").create(**request("chat", content=f"I am {index}"))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    calls = [span for span in foreign.all() if semconv.is_call(span.attributes)]
    assert len(calls) == 18
    assert all(
        span.attributes["gen_ai.agent.name"] == "agent-" + span.attributes["user.id"].removeprefix("u-")
        for span in calls
    )
