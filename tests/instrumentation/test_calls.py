"""A call, from the real client over HTTP to one span that says everything about it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from tests.instrumentation.forms import HAS_RESPONSES, MODEL, SYSTEM, Caller, request, resource, said, told

import egisai
from conftest import Spans
from egisai import guard
from egisai_instrumentation import EgisInstrumentor, background
from egisai_instrumentation import openai as integration
from provider import Provider, fail, hold, replay

LONG_SYSTEM = SYSTEM + " Be kind to the customer." * 400  # from 1,024 tokens on, the provider counts some as cached


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_modes(spans: Spans, caller: Caller, api: str, stream: bool) -> None:
    """Whole and streamed, sync and async: one span with model, tokens (cached, reasoning), reason and latency."""
    kwargs = {"model": "o4-mini", "system": LONG_SYSTEM}
    result = caller.create(api, stream=stream, **kwargs)
    chunks = list(caller.each(result)) if stream else []
    background.drain(20)  # a long prompt in an event loop: its span ends when the agent is known
    [span] = spans.calls()
    facts = told(span)
    if not stream:
        assert facts == said(result)
    elif api == "responses":
        assert facts == said(chunks[-1].response)
    else:
        assert facts["id"] == chunks[0].id
    assert (facts["model"], facts["reasons"]) == ("o4-mini-2025-04-16", ("stop",))
    assert min(facts["input"], facts["output"], facts["cached"], facts["reasoning"]) > 0
    assert span.kind is SpanKind.CLIENT
    assert span.name == "chat o4-mini"
    assert span.status.status_code is StatusCode.UNSET
    attributes = dict(span.attributes)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == "o4-mini"
    assert (attributes["server.address"], f":{attributes['server.port']}/v1") == (
        "127.0.0.1",
        caller.server.base_url[len("http://127.0.0.1") :],
    )
    assert attributes.get("gen_ai.request.stream", False) is stream
    assert "egisai.call.complete" not in attributes
    if stream:
        latency_s = (span.end_time - span.start_time) / 1e9
        assert 0 < attributes["gen_ai.response.time_to_first_chunk"] <= latency_s
    else:
        assert "gen_ai.response.time_to_first_chunk" not in attributes


def test_call_modes_parameters(spans: Spans, server: Provider) -> None:
    """What was asked for is on the span under the conventions' names."""
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.chat.completions.create(
            **request("chat", temperature=0, top_p=0.5, max_tokens=64, seed=7, n=2, stop=["END"]),
            frequency_penalty=0.1,
            presence_penalty=0.2,
            response_format={"type": "json_object"},
        )
    asked = {name.removeprefix("gen_ai."): value for name, value in spans.only().items()}
    assert {name: value for name, value in asked.items() if name.startswith("request.") or "output.type" in name} == {
        "request.model": MODEL,
        "request.temperature": 0,
        "request.top_p": 0.5,
        "request.max_tokens": 64,
        "request.seed": 7,
        "request.choice.count": 2,
        "request.stop_sequences": ("END",),
        "request.frequency_penalty": 0.1,
        "request.presence_penalty": 0.2,
        "output.type": "json",
    }
    assert len(asked["response.finish_reasons"]) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_modes_choices_and_tools(spans: Spans, caller: Caller, stream: bool) -> None:
    """Every choice's finish reason in order; a call of a tool is one."""
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    asked = {"n": 3, "tools": [tool], "tool_choice": "required", "stream": stream}
    result = caller.create("chat", **asked)
    if stream:
        list(caller.each(result))
    assert spans.only()["gen_ai.response.finish_reasons"] == ("tool_calls",) * 3


@pytest.mark.skipif(not HAS_RESPONSES, reason=f"openai {openai.__version__} has no responses API")
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([{"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}], "tool_calls"),
        ([{"type": "web_search_call", "id": "w", "status": "completed"}], "stop"),
    ],
)
def test_call_modes_who_runs_the_tool(spans: Spans, server: Provider, output: list[Any], reason: str) -> None:
    """A tool that the provider runs itself does not make the response wait for the client."""
    body = {
        "id": "resp_1",
        "object": "response",
        "model": MODEL,
        "status": "completed",
        "output": output,
        "usage": None,
    }
    server.hooks.append(replay(openai_json(body)))
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.responses.create(model=MODEL, input="hello")
    assert spans.only()["gen_ai.response.finish_reasons"] == (reason,)


@pytest.mark.skipif(not HAS_RESPONSES, reason=f"openai {openai.__version__} has no responses API")
def test_call_modes_failed_response(spans: Spans, server: Provider) -> None:
    """A response that says it failed is an error, though HTTP says 200."""
    failure = {"code": "server_error", "message": "Sorry."}
    body = {"id": "resp_1", "object": "response", "model": MODEL, "status": "failed", "output": [], "error": failure}
    server.hooks.append(replay(openai_json(body)))
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.responses.create(model=MODEL, input="hello")
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "server_error"


def test_call_modes_embeddings(spans: Spans, caller: Caller) -> None:
    result = caller.create("embeddings", dimensions=256)
    [span] = spans.calls()
    assert span.name == "embeddings text-embedding-3-small"
    assert span.attributes["gen_ai.usage.input_tokens"] == result.usage.prompt_tokens
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 256
    assert span.attributes["gen_ai.response.model"] == result.model


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_modes_azure(spans: Spans, make_caller: Callable[..., Caller], server: Provider, stream: bool) -> None:
    """Azure: its own provider name, and the id of the answer, which its first chunk does not have yet."""
    caller = make_caller(azure_endpoint=server.azure_endpoint, api_version="2024-10-21")
    result = caller.create("chat", stream=stream)
    if stream:
        chunks = list(caller.each(result))
        assert (chunks[0].id, chunks[0].choices) == ("", [])
        result = chunks[1]
    assert server.requests[-1].path == f"/openai/deployments/{MODEL}/chat/completions"
    [span] = spans.calls()
    assert span.attributes["gen_ai.provider.name"] == "azure.ai.openai"
    assert (told(span)["id"], told(span)["model"]) == (result.id, result.model)
    assert told(span)["input"] > 0


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("x.openai.azure.com", "azure.ai.openai"),
        ("api.deepseek.com", "deepseek"),
        ("api.groq.com", "groq"),
        ("notgroq.com", "openai"),
        ("llm.cluster.local", "openai"),
    ],
)
def test_call_modes_provider(host: str, provider: str) -> None:
    """The provider is known by the host that answers."""
    assert integration.INTEGRATION.provider("OpenAI", host) == provider


def test_call_modes_other_clients(spans: Spans, caller: Caller, server: Provider, kind: str) -> None:
    """`with_options`, a subclass and the client's own HTTP client are all covered."""
    caller.wait(resource(caller.client.with_options(timeout=9), "chat").create(**request("chat")))
    http = type(caller.client._client)(timeout=9)
    base: Any = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
    mine = type("Mine", (base,), {})(base_url=server.base_url, api_key="sk-local", http_client=http)
    caller.wait(mine.chat.completions.create(**request("chat")))
    caller.wait(mine.post("/chat/completions", body=request("chat"), cast_to=openai.types.chat.ChatCompletion))
    caller.wait(mine.close())
    assert [told(span)["reasons"] for span in spans.calls()] == [("stop",)] * 3


def test_call_modes_sdk_objects(spans: Spans, caller: Caller) -> None:
    """An earlier answer's message object in `messages` is sent and read like any other."""
    message = caller.create("chat").choices[0].message
    caller.create("chat", messages=[{"role": "system", "content": SYSTEM}, message, {"role": "user", "content": "so?"}])
    before, after = spans.calls()
    assert before.attributes["egisai.agent.id"] == after.attributes["egisai.agent.id"]
    assert after.attributes["egisai.agent.source"] == "fingerprint"


def test_call_modes_extra_body(spans: Spans, caller: Caller, server: Provider) -> None:
    """`extra_body` overrides, as the SDK lets it."""
    caller.create("chat", extra_body={"model": "gpt-5-mini", "temperature": 0.5})
    assert server.requests[-1].body["model"] == "gpt-5-mini"
    call = spans.only()
    assert (call["gen_ai.request.model"], call["gen_ai.request.temperature"]) == ("gpt-5-mini", 0.5)


def test_call_modes_not_json(spans: Spans, caller: Caller, server: Provider) -> None:
    """A proxy's page instead of an answer: the caller gets what the SDK makes of it, the span ends without facts."""
    server.hooks.append(replay(b"<html>sign in</html>", content_type="text/html"))
    assert caller.create("chat") == "<html>sign in</html>"
    assert told(spans.calls()[0]) == {}
    assert not guard.counts()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "openai.BadRequestError"),
        (401, "openai.AuthenticationError"),
        (429, "openai.RateLimitError"),
        (500, "openai.InternalServerError"),
    ],
)
def test_call_error(
    spans: Spans, caller: Caller, server: Provider, api: str, stream: bool, status: int, error: str
) -> None:
    """A provider's error: the SDK's own exception, and a span that says which."""
    server.hooks.append(fail(status))
    with pytest.raises(openai.APIStatusError) as caught:
        caller.create(api, stream=stream)
    exc = caught.value
    assert f"openai.{type(exc).__name__}" == error
    assert exc.__context__ is None or exc.__suppress_context__
    frames = traceback_files(exc)
    assert sum("stainless" in file for file in frames) == 1, frames  # of ours, the one that passes it through
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(exc)
    assert span.attributes["error.type"] == error
    assert span.attributes["http.response.status_code"] == status
    assert not span.events


def test_call_error_same_object(spans: Spans, server: Provider) -> None:
    """The exception object that the transport or a hook raised arrives as it is."""

    class MineError(RuntimeError):
        pass

    mine = MineError("mine")

    def raise_mine(_: Any) -> None:
        raise mine

    http = openai.DefaultHttpxClient(event_hooks={"request": [raise_mine]})
    with (
        openai.OpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0, http_client=http) as client,
        pytest.raises((MineError, openai.APIConnectionError)) as caught,
    ):
        client.chat.completions.create(**request("chat"))
    assert mine in (caught.value, caught.value.__cause__)
    assert spans.calls()[0].status.status_code is StatusCode.ERROR


def test_call_error_retried(spans: Spans, make_caller: Callable[..., Caller], server: Provider, api: str) -> None:
    """Two refusals and an answer, by the SDK's own retries, are one call that went well."""
    server.hooks.append(fail(429, times=2, retry_after_s=0.001))
    caller = make_caller(max_retries=2)
    caller.create(api)
    assert len(server.requests) == 3
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.UNSET
    assert told(span)["reasons"] == ("stop",)


def test_call_error_after_retries(spans: Spans, make_caller: Callable[..., Caller], server: Provider, api: str) -> None:
    server.hooks.append(fail(500, times=None, retry_after_s=0.001))
    with pytest.raises(openai.InternalServerError):
        make_caller(max_retries=2).create(api)
    assert len(server.requests) == 3
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.InternalServerError"


def test_call_error_timeout(spans: Spans, make_caller: Callable[..., Caller], server: Provider, api: str) -> None:
    never = threading.Event()
    server.hooks.append(hold(0, never))
    with pytest.raises(openai.APITimeoutError):
        make_caller(timeout=0.05).create(api)
    never.set()
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.APITimeoutError"
    assert span.status.status_code is StatusCode.ERROR


def test_call_error_refused_connection(spans: Spans, make_caller: Callable[..., Caller], api: str) -> None:
    with pytest.raises(openai.APIConnectionError):
        make_caller(base_url="http://127.0.0.1:9/v1").create(api)
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.APIConnectionError"
    assert "http.response.status_code" not in span.attributes


def test_call_error_wrong_arguments(spans: Spans, caller: Caller) -> None:
    """What the SDK refuses before a request is made is no call."""
    with pytest.raises(TypeError):
        caller.wait(caller.client.chat.completions.create(model=MODEL))
    assert not spans.calls()


# --- one call, one span ----------------------------------------------------------------------------------------------


def test_call_nested(spans: Spans, caller: Caller, server: Provider, kind: str) -> None:
    """A gateway whose transport calls the client again: the outer call is the call."""
    inner: list[Any] = []
    base: Any = openai.AsyncOpenAI if kind == "async" else openai.OpenAI

    if kind == "async":

        async def gateway(_: Any) -> None:
            if not inner:
                inner.append(True)
                await caller.client.chat.completions.create(**request("chat"))

        http: Any = openai.DefaultAsyncHttpxClient(event_hooks={"request": [gateway]})
    else:

        def gateway_sync(_: Any) -> None:
            if not inner:
                inner.append(True)
                caller.client.chat.completions.create(**request("chat"))

        http = openai.DefaultHttpxClient(event_hooks={"request": [gateway_sync]})
    outer = base(base_url=server.base_url, api_key="sk-local", http_client=http)
    caller.wait(outer.chat.completions.create(**request("chat")))
    caller.wait(outer.close())
    assert len(server.requests) == 2
    assert len(spans.calls()) == 1


def test_call_nested_worker_outlives_the_call(spans: Spans, server: Provider) -> None:
    """A task that was started while a call was in flight, and lives on, makes calls of its own."""

    async def main() -> None:
        workers: list[asyncio.Task[Any]] = []
        answered = asyncio.Event()

        async def work() -> None:
            await answered.wait()
            await client.chat.completions.create(**request("chat"))

        async def start_worker(_: Any) -> None:
            if not workers:
                workers.append(asyncio.create_task(work()))

        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [start_worker]})
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local", http_client=http) as client:
            egisai.set_context(user_id="u-1")
            await client.chat.completions.create(**request("chat"))
            answered.set()
            await workers[0]

    asyncio.run(main())
    assert [span.attributes["user.id"] for span in spans.calls()] == ["u-1", "u-1"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_context_time(spans: Spans, caller: Caller, api: str, stream: bool) -> None:
    """The context of the call decides, not that of the stream's end; and the call leaves the context as it was."""
    with egisai.context(agent="first", user_id="u-1", session_id="s-1"):
        before = egisai.current_context()
        result = caller.create(api, stream=stream)
        assert egisai.current_context() == before
    egisai.set_context(agent="second", user_id="u-2")
    if stream:
        chunks = caller.each(result)
        next(chunks)
        assert egisai.current_context() == {"agent": "second", "user_id": "u-2"}
        list(chunks)
    call = spans.only()
    assert (call["gen_ai.agent.name"], call["user.id"], call["session.id"]) == ("first", "u-1", "s-1")
    assert call["gen_ai.conversation.id"] == "s-1"


def test_call_context_time_in_one_task(spans: Spans, server: Provider, api: str) -> None:
    """Within one task the context after a call, a failed call and a stream is the very object from before it."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0) as client:
            create: Any = resource(client, api).create
            egisai.set_context(agent="billing", user_id="u-1")
            before = get_current()
            await create(**request(api))
            assert get_current() is before
            async for _ in await create(**request(api, stream=True)):
                assert get_current() is before
            with pytest.raises(openai.APIStatusError):
                await create(**request(api), extra_headers={"x-simulate-status": "400"})
            assert get_current() is before

    asyncio.run(main())
    assert [span.attributes["gen_ai.agent.name"] for span in spans.calls()] == ["billing"] * 3


# --- our own failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reader", ["read_request", "read_prompt", "read_response", "fold"])
def test_call_reader_fails(
    make_caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, reader: str, stream: bool, api: str
) -> None:
    """Whatever of ours raises, the caller notices nothing, the call still has its span, and it is counted."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("our bug")

    class Broken:
        usage_asked = False
        feed = attributes = broken

    path = "/chat/completions" if api == "chat" else "/responses"
    endpoint = integration.INTEGRATION.endpoints[path]
    broken_endpoint = type(endpoint)(
        **{name: getattr(endpoint, name) for name in endpoint.__slots__}
        | {reader: Broken if reader == "fold" else broken}
    )
    monkeypatch.setitem(integration.INTEGRATION.endpoints, path, broken_endpoint)
    monkeypatch.setattr(guard, "strict", False)
    monkeypatch.setattr(guard.log, "disabled", True)
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    caller = make_caller()
    result = caller.create(api, stream=stream)
    if stream:
        assert len(list(caller.each(result))) > 3
    else:
        assert result.usage is not None
    assert len(spans.calls()) == 1
    failed = {
        "read_request": "error:reading a request",
        "read_prompt": "error:resolving an agent",
        "read_response": None if stream else "error:reading a response",
        "fold": "error:reading a chunk" if stream else None,
    }[reader]
    assert failed is None or guard.counts()[failed] > 0


def test_call_reader_fails_is_logged_once(
    server: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = integration.INTEGRATION.endpoints["/chat/completions"]
    values = {name: getattr(endpoint, name) for name in endpoint.__slots__} | {"read_response": lambda _: 1 / 0}
    monkeypatch.setitem(integration.INTEGRATION.endpoints, "/chat/completions", type(endpoint)(**values))
    monkeypatch.setattr(guard, "strict", False)
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    with caplog.at_level(logging.WARNING, "egisai"), openai.OpenAI(base_url=server.base_url, api_key="k") as client:
        client.chat.completions.create(**request("chat"))
        client.chat.completions.create(**request("chat"))
    assert egisai.diagnostics()["counts"]["error:reading a response"] == 2
    assert [record.message for record in caplog.records] == [
        "egisai: reading a response failed; the program is unaffected"
    ]


# --- switched off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_suppressed(spans: Spans, caller: Caller, server: Provider, api: str, stream: bool) -> None:
    """OTel's suppression: no span, nothing asked of the provider, the SDK's own iterator inside the stream."""
    with suppress_instrumentation():
        result = caller.create(api, stream=stream)
        if stream:
            assert type(result._iterator).__name__ in ("generator", "async_generator")
            list(caller.each(result))
    assert not spans.all()
    assert "stream_options" not in server.requests[-1].body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_unsampled(
    make_caller: Callable[..., Caller], server: Provider, monkeypatch: pytest.MonkeyPatch, api: str, stream: bool
) -> None:
    """A call that nobody records: no response is read, no stream followed, no usage asked for."""
    spans = Spans()
    spans.provider.sampler = ParentBased(ALWAYS_OFF)
    path = "/chat/completions" if api == "chat" else "/responses"
    endpoint = integration.INTEGRATION.endpoints[path]
    read: list[Any] = []
    values = {name: getattr(endpoint, name) for name in endpoint.__slots__}
    values |= {"read_response": read.append, "fold": lambda: read.append("fold")}
    monkeypatch.setitem(integration.INTEGRATION.endpoints, path, type(endpoint)(**values))
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    caller = make_caller()
    result = caller.create(api, stream=stream)
    if stream:
        assert type(result._iterator).__name__ in ("generator", "async_generator")
        list(caller.each(result))
    assert not spans.all()
    assert not read
    assert "stream_options" not in server.requests[-1].body


def test_call_unsampled_without_provider(server: Provider) -> None:
    """No tracer provider at all: calls work."""
    code = f"""
import openai, egisai
egisai.EgisInstrumentor().instrument()
egisai.set_context(agent="a", user_id="u")
client = openai.OpenAI(base_url={server.base_url!r}, api_key="sk-local")
asked = {{"model": "gpt-4.1", "messages": [{{"role": "user", "content": "hi"}}]}}
assert client.chat.completions.create(**asked).usage
chunks = list(client.chat.completions.create(**asked, stream=True))
assert len(chunks) > 2
assert egisai.current_context() == {{"agent": "a", "user_id": "u"}}
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_call_uninstrument(spans: Spans, server: Provider) -> None:
    """Uninstrumenting restores every original; instrumenting twice does not double."""
    originals = (openai.OpenAI.__mro__[1].request, openai.AsyncOpenAI.__mro__[1].request)
    assert openai.OpenAI.request is not originals[0]
    EgisInstrumentor().uninstrument()
    assert (openai.OpenAI.request, openai.AsyncOpenAI.request) == originals
    assert "request" not in vars(openai.OpenAI)
    assert "request" not in vars(openai.AsyncOpenAI)
    EgisInstrumentor().instrument(tracer_provider=spans.provider)
    logging.disable(logging.WARNING)  # OpenTelemetry says "already instrumented"
    EgisInstrumentor().instrument(tracer_provider=spans.provider)
    logging.disable(logging.NOTSET)
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.chat.completions.create(**request("chat"))
        assert len(spans.calls()) == 1
        EgisInstrumentor().uninstrument()
        client.chat.completions.create(**request("chat"))
    assert len(spans.calls()) == 1


def test_call_uninstrument_under_another_patch(spans: Spans, server: Provider) -> None:
    """Where somebody patched on top of us, our layer does nothing any more, and theirs stays."""
    ours = openai.OpenAI.request

    def on_top(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    openai.OpenAI.request = on_top
    try:
        EgisInstrumentor().uninstrument()
        assert openai.OpenAI.request is on_top
        with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
            client.chat.completions.create(**request("chat"))
        assert not spans.calls()
    finally:
        del openai.OpenAI.request


def test_call_uninstrument_during_a_stream(spans: Spans, caller: Caller) -> None:
    """A stream that is under way when everything is taken down still runs to its end, and ends its span."""
    chunks = caller.each(caller.create("chat", stream=True))
    next(chunks)
    EgisInstrumentor().uninstrument()
    assert len(list(chunks)) > 3
    assert told(spans.calls()[0])["reasons"] == ("stop",)


def test_call_import_order(server: Provider) -> None:
    """`init()` imports no client; the client may come before or after, and a client made before is covered."""
    code = f"""
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import egisai
early = sys.argv[1] == "early"
if early:
    import openai
    client = openai.OpenAI(base_url={server.base_url!r}, api_key="sk-local")
    create = client.chat.completions.create
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
egisai.init(app="app", tracer_provider=provider, quiet=True)
assert ("openai" in sys.modules) is early
state = egisai.diagnostics()["instrumented"]["openai"]
assert ("when imported" in state) is not early, state
if not early:
    import openai
    create = openai.OpenAI(base_url={server.base_url!r}, api_key="sk-local").chat.completions.create
create(model="gpt-4.1", messages=[{{"role": "user", "content": "hi"}}])
[span] = exporter.get_finished_spans()
assert span.attributes["gen_ai.agent.name"] == "app"
assert egisai.diagnostics()["instrumented"]["openai"] == openai.__version__
"""
    for order in ("early", "late"):
        subprocess.run([sys.executable, "-c", code, order], check=True, timeout=60)


# --- beside OpenTelemetry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_otel_child(spans: Spans, caller: Caller, api: str, stream: bool) -> None:
    """The call is the active span's child, and the active span is the same before and after."""
    tracer = spans.provider.get_tracer("mine")
    with tracer.start_as_current_span("mine") as mine:
        result = caller.create(api, stream=stream)
        assert trace.get_current_span() is mine
        if stream:
            for _ in caller.each(result):
                assert trace.get_current_span() is mine
    [call] = spans.calls()
    assert call.parent.span_id == mine.get_span_context().span_id
    assert call.context.trace_id == mine.get_span_context().trace_id


def test_otel_child_sampling(server: Provider) -> None:
    """A trace that the user's sampler dropped stays dropped."""
    spans = Spans()
    spans.provider.sampler = ParentBased(ALWAYS_OFF)
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    with (
        spans.provider.get_tracer("mine").start_as_current_span("mine"),
        openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client,
    ):
        client.chat.completions.create(**request("chat"))
    assert not spans.all()


def openai_json(body: dict[str, Any]) -> bytes:
    """A response's JSON with what every response has."""
    return json.dumps(
        {"created_at": 1, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **body}
    ).encode()


def traceback_files(exc: BaseException) -> list[str]:
    files, frame = [], exc.__traceback__
    while frame is not None:
        files.append(frame.tb_frame.f_code.co_filename)
        frame = frame.tb_next
    return files
