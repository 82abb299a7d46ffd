"""Beside another vendor's instrumentor, installed before or after ours: one call, one span, attributed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import openai
import pytest
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, SpanKind
from tests.instrumentation.forms import MODEL, SYSTEM, Caller, request, resource, told

import egisai
from conftest import Spans
from egisai import semconv
from egisai.outgoing import prepared
from egisai_instrumentation import background
from provider import Provider, break_stream, fail

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
    for client in (openai.OpenAI, openai.AsyncOpenAI):
        if "request" in vars(client):  # OpenInference sets there what was inherited
            del client.request


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


def test_call_foreign_by_long_prompt(foreign: Spans, caller: Caller, api: str) -> None:
    """A prompt so long that it is read off the event loop: their span waits for its agent, the call does not."""
    caller.create(api, system=f"You answer questions about {api}. " + "Be kind to the customer, always. " * 9000)
    background.drain(10)
    check(only_call(foreign), **{"egisai.agent.source": "fingerprint"})


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


def test_call_foreign_usage(foreign: Spans, caller: Caller, api: str) -> None:
    """Tokens are on the span that counts under the conventions' names, streamed too, and the caller sees no more."""
    used = caller.create(api).usage
    tokens = {"input": getattr(used, "prompt_tokens", None) or used.input_tokens}
    tokens["output"] = getattr(used, "completion_tokens", None) or used.output_tokens
    assert tokens.items() <= told(only_call(foreign)).items()
    chunks = list(caller.each(caller.create(api, stream=True)))
    assert tokens.items() <= told(only_call(foreign)).items()
    assert not any(getattr(chunk, "usage", None) for chunk in chunks)


def test_call_foreign_several_requests(spans: Spans, caller: Caller) -> None:
    """A framework's span for what took two requests has the tokens of both, whatever it says itself."""
    attributes = {"gen_ai.operation.name": "chat"}
    with spans.provider.get_tracer("framework").start_as_current_span("chat", attributes=attributes) as span:
        results = [caller.create("chat"), caller.create("chat", content="And then?")]
        span.set_attribute("gen_ai.usage.input_tokens", 1)
    [span] = spans.all()
    assert told(span)["input"] == sum(result.usage.prompt_tokens for result in results)
    assert told(span)["id"] == results[-1].id


def beside(spans: Spans, scope: str = "opentelemetry.instrumentation.openai", **attributes: Any) -> Span:
    """A span that an instrumentor opens for a call without making it the active one."""
    said = {"gen_ai.operation.name": "chat", **attributes}
    return spans.provider.get_tracer(scope).start_span("theirs", kind=SpanKind.CLIENT, attributes=said)


@pytest.mark.parametrize("said", [{}, {"gen_ai.request.model": MODEL}, {"gen_ai.request.model": f"openai/{MODEL}"}])
def test_call_foreign_beside(spans: Spans, caller: Caller, said: dict[str, Any]) -> None:
    """Not active, it stands for the call all the same: ended when it was, with what the stream said."""
    with egisai.context(agent="billing", user_id="u-1"):
        theirs = beside(spans, **said)
        stream = caller.create("chat", stream=True)
    theirs.end(theirs.start_time + 5)
    list(caller.each(stream))
    span = only_call(spans)
    check(span, **{"gen_ai.agent.name": "billing", "user.id": "u-1"})
    assert told(span)["output"] > 0
    assert span.end_time == span.start_time + 5


def test_call_foreign_beside_is_active(spans: Spans, server: Provider) -> None:
    """While the request is in flight it is the active span: what else is made for the call is nested in it."""

    def sent(_: Any) -> None:
        spans.provider.get_tracer("client").start_span("native", attributes={"gen_ai.operation.name": "chat"}).end()

    http = openai.DefaultHttpxClient(event_hooks={"request": [sent]})
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local", http_client=http) as client:
        theirs = beside(spans)
        client.chat.completions.create(**request("chat"))
        theirs.end()
    native, call = spans.all()
    assert (native.name, native.parent.span_id) == ("native", call.context.span_id)
    assert native.attributes["egisai.call.nested"] is True


def test_call_foreign_that_recovers(spans: Spans, caller: Caller, server: Provider) -> None:
    """Whether a framework's call failed is the framework's to say: it may have asked again."""
    server.hooks.append(fail(500))
    attributes = {"gen_ai.operation.name": "chat"}
    with spans.provider.get_tracer("framework").start_as_current_span("chat", attributes=attributes):
        with pytest.raises(openai.InternalServerError):
            caller.create("chat")
        caller.create("chat")
    [span] = spans.all()
    assert span.status.is_unset
    assert "error.type" not in span.attributes
    assert told(span)["output"] > 0


def test_call_foreign_two_at_once(foreign: Spans, caller: Caller) -> None:
    """A call made while another's stream is still read has a span of its own."""
    with egisai.context(user_id="u-1"):
        stream = caller.create("chat", stream=True)
    with egisai.context(user_id="u-2"):
        caller.create("chat")
    list(caller.each(stream))
    calls = [span for span in foreign.all() if semconv.is_call(span.attributes)]
    assert sorted(span.attributes["user.id"] for span in calls) == ["u-1", "u-2"]
    assert all(told(span)["output"] > 0 for span in calls)


@pytest.mark.parametrize("scope", ["openinference.instrumentation.openai", "opentelemetry.instrumentation.langchain"])
def test_call_foreign_that_says_so_later(spans: Spans, caller: Caller, scope: str) -> None:
    """Some instrumentors say only at its end that a span was a call."""
    tracer = spans.provider.get_tracer(scope)
    with tracer.start_as_current_span("theirs", kind=SpanKind.CLIENT):
        caller.create("chat")
    theirs = tracer.start_span("theirs", kind=SpanKind.CLIENT)
    caller.create("chat")
    theirs.end()
    assert [span.instrumentation_scope.name for span in spans.all()] == [scope] * 2
    assert all(told(span)["output"] > 0 for span in spans.all())


def test_call_foreign_langfuse(spans: Spans, caller: Caller) -> None:
    """Langfuse says that an observation is a generation once it has started; others it makes are no calls."""
    tracer = spans.provider.get_tracer("langfuse-sdk")
    for kind in ("span", "generation"):
        theirs = tracer.start_span(kind)
        theirs.set_attribute("langfuse.observation.type", kind)
        caller.create("chat")
        theirs.end()
    names = [span.name for span in spans.all() if "gen_ai.usage.output_tokens" in span.attributes]
    assert names == [f"chat {MODEL}", "generation"]


@pytest.mark.parametrize("seen", [True, False])
def test_call_foreign_told_afterwards(spans: Spans, caller: Caller, seen: bool) -> None:
    """LiteLLM's callback tells of a call when it is over: the same response does not count again."""
    response_id = caller.create("chat").id
    said = {"gen_ai.operation.name": "chat", "gen_ai.response.id": response_id if seen else "another"}
    spans.provider.get_tracer("litellm").start_span("litellm_request", attributes=said).end()
    [theirs] = prepared(spans.all()[-1:])
    assert theirs.attributes.get("egisai.call.nested", False) is seen


@pytest.mark.parametrize(
    "case", ["ended", "of another model", "of another operation", "of nobody we know", "of another thread", "above"]
)
def test_call_foreign_beside_another(spans: Spans, caller: Caller, case: str) -> None:
    """A span that does not stand for the call is left alone: the call has its own."""
    tracer, opened = spans.provider.get_tracer("app"), []
    says = {
        "of another model": {"gen_ai.request.model": "another"},
        "of another operation": {"gen_ai.operation.name": "embeddings"},
        "of nobody we know": {"scope": "their own"},
    }
    thread = threading.Thread(target=lambda: opened.append(beside(spans, **says.get(case, {}))))
    thread.start() if case == "of another thread" else thread.run()
    thread.join() if case == "of another thread" else None
    if case == "ended":
        opened[0].end()
    with tracer.start_as_current_span("step") if case == "above" else nullcontext():
        caller.create("chat")
    [span] = [span for span in spans.all() if span.instrumentation_scope.name == "egisai"]
    assert told(span)["output"] > 0
    opened[0].end() if case != "ended" else None
    assert "output" not in told(next(span for span in spans.all() if span.name == "theirs"))


def test_call_foreign_beside_once(spans: Spans, caller: Caller) -> None:
    """A span that is not active stands for one call: one that is never ended swallows no others."""
    theirs = beside(spans)
    for _ in range(2):
        caller.create("chat")
    theirs.end()
    assert sorted(span.instrumentation_scope.name for span in spans.all()) == [
        "egisai",
        "opentelemetry.instrumentation.openai",
    ]


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
