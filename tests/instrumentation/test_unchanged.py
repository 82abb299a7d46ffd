"""What the caller sees is the SDK's own: types, signatures, values, headers; compared with a client without us."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.instrumentation.forms import VERSION, Caller, request, resource

import egisai
import provider_answers as answers
from conftest import Spans
from provider import Provider, replay

BODIES = {
    "chat": lambda: answers.chat_completion(request("chat")),
    "responses": lambda: answers.response(request("responses")),
    "embeddings": lambda: answers.embeddings(request("embeddings")),
}


def _events(api: str) -> bytes:
    if api == "chat":
        body = {**request("chat"), "stream_options": {"include_usage": True}}
        chunks = list(answers.chat_chunks(body))
        return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    events = answers.response_events(request("responses"))
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


def _shape(value: Any) -> list[Any]:
    return [
        type(value),
        [type(base) for base in type(value).__mro__],
        sorted(name for name in dir(value) if not name.startswith("__")),
        value.model_dump(exclude_unset=True),
        value.model_dump_json(),
        repr(value),
    ]


@pytest.mark.parametrize("what", list(BODIES))
def test_call_unchanged(make_caller: Callable[..., Caller], server: Provider, what: str) -> None:
    """The same bytes give the same object with and without us."""
    if what == "responses" and VERSION < (1, 66):
        pytest.skip("no responses API in this version")
    server.hooks.append(replay(json.dumps(BODIES[what]()).encode()))
    caller = make_caller()
    expected = _shape(caller.create(what))
    egisai.init(app="app", tracer_provider=Spans().provider, quiet=True)
    result = caller.create(what)
    assert _shape(result) == expected
    assert pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(result) == result


def _stream_shape(caller: Caller, stream: Any) -> list[Any]:
    return [
        type(stream),
        sorted(vars(stream)),
        type(stream.response),
        sorted(name for name in dir(stream) if not name.startswith("__")),
        str(inspect.signature(stream.close)),
        inspect.iscoroutinefunction(stream.close),
        hasattr(stream, "__next__"),
        hasattr(stream, "__anext__"),
    ]


def test_call_unchanged_stream(make_caller: Callable[..., Caller], server: Provider, api: str) -> None:
    """Stream and chunks are the SDK's, in the same order, with the same fields set."""
    server.hooks.append(replay(_events(api), content_type="text/event-stream"))
    caller = make_caller()
    options = {"stream_options": {"include_usage": True}} if api == "chat" else {}
    stream = caller.create(api, stream=True, **options)
    expected = _stream_shape(caller, stream)
    expected_chunks = [_shape(chunk) for chunk in caller.each(stream)]
    expected_after = sorted(vars(stream.response))
    egisai.init(app="app", tracer_provider=Spans().provider, quiet=True)
    stream = caller.create(api, stream=True, **options)
    assert _stream_shape(caller, stream) == expected
    assert [_shape(chunk) for chunk in caller.each(stream)] == expected_chunks
    assert sorted(vars(stream.response)) == expected_after


def test_call_unchanged_next(spans: Spans, caller: Caller, api: str) -> None:
    """`next(stream)` and `anext(stream)` mixed with a loop, as the SDK allows."""
    stream = caller.create(api, stream=True)
    first = caller.wait(stream.__anext__()) if caller.is_async else next(stream)
    rest = list(caller.each(stream))
    assert first is not None
    assert len(rest) > 2
    end: Any = StopAsyncIteration if caller.is_async else StopIteration
    with pytest.raises(end):
        caller.wait(stream.__anext__()) if caller.is_async else next(stream)
    assert len(spans.calls()) == 1


def test_call_unchanged_signatures(server: Provider) -> None:
    """What is callable looks the same from outside, instrumented or not."""

    def shapes() -> list[Any]:
        seen: list[Any] = []
        for client in (openai.OpenAI, openai.AsyncOpenAI, openai.AzureOpenAI, openai.AsyncAzureOpenAI):
            method: Any = client.request
            seen.append((str(inspect.signature(method)), inspect.iscoroutinefunction(method), method.__qualname__))
            seen.append((method.__module__, method.__doc__))
            create = client(api_key="k", base_url=server.base_url, **_azure(client)).chat.completions.create
            seen.append((str(inspect.signature(create)), inspect.iscoroutinefunction(create)))
        return seen

    expected = shapes()
    egisai.init(app="app", tracer_provider=Spans().provider, quiet=True)
    assert shapes() == expected


def _azure(client: Any) -> dict[str, Any]:
    return {"api_version": "2024-10-21"} if "Azure" in client.__name__ else {}


def test_call_unchanged_arguments(spans: Spans, caller: Caller, server: Provider, api: str) -> None:
    """The caller's dictionaries are not touched, and the provider gets no header of ours."""
    headers = {"x-mine": "1"}
    asked = request(api, stream=True)
    before = copy.deepcopy((asked, headers))
    list(caller.each(caller.wait(resource(caller.client, api).create(**asked, extra_headers=headers))))
    assert (asked, headers) == before
    sent = server.requests[-1].headers
    assert sent["x-mine"] == "1"
    assert not {"traceparent", "tracestate", "baggage"} & sent.keys()
    assert not [name for name in sent if "egis" in name]


def test_call_unchanged_request(make_caller: Callable[..., Caller], server: Provider, api: str) -> None:
    """The whole request is byte for byte the bare client's, but for the usage we ask of a streamed chat."""
    caller = make_caller()

    def ask() -> list[Any]:
        server.requests.clear()
        caller.create(api, temperature=0.5)
        list(caller.each(caller.create(api, stream=True, temperature=0.5)))
        return [({**request.headers, "idempotency-key": ""}, request.body, request.path) for request in server.requests]

    expected = ask()
    egisai.init(app="app", tracer_provider=Spans().provider, quiet=True)
    seen = ask()
    if api == "chat":
        assert seen[1][1].pop("stream_options") == {"include_usage": True}
        for requests in (seen, expected):
            requests[1][0].pop("content-length")
    assert seen == expected


def test_call_unchanged_direct_request(spans: Spans, server: Provider) -> None:
    """`client.request(...)` by position and by keyword."""
    options = openai._models.FinalRequestOptions(method="post", url="/chat/completions", json_data=request("chat"))
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        kind = openai.types.chat.ChatCompletion
        assert isinstance(client.request(kind, options), kind)
        assert isinstance(client.request(cast_to=kind, options=options), kind)
    assert len(spans.calls()) == 2
