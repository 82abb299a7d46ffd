"""Streams: folded as they pass, ended however they end, and the caller's own all the way."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from collections.abc import Callable
from typing import Any

import openai
import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.forms import HAS_RESPONSES, MODEL, VERSION, Caller, request, told

import egisai
import provider_answers as answers
from conftest import Spans
from provider import Provider, Reply, Request, break_stream, hold, limited

LEFT = ("egisai.call.complete", False)


def left_early(spans: Spans) -> dict[str, Any]:
    """The one call, which was left early: incomplete, but no error."""
    [span] = spans.calls()
    attributes = dict(span.attributes)
    assert attributes["egisai.call.complete"] is False
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.response.finish_reasons" not in attributes
    return attributes


def _close(caller: Caller, chunks: Any, stream: Any) -> None:
    caller.wait(stream.close())


def _close_response(caller: Caller, chunks: Any, stream: Any) -> None:
    caller.wait(stream.response.aclose() if caller.is_async else stream.response.close())


def _leave_block(caller: Caller, chunks: Any, stream: Any) -> None:
    with caller.within(stream):
        pass


def _raise_in_block(caller: Caller, chunks: Any, stream: Any) -> None:
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, caller.within(stream):
        raise mine
    assert caught.value is mine


@pytest.mark.parametrize("leave", [_close, _close_response, _leave_block, _raise_in_block])
@pytest.mark.parametrize("read", [0, 2])
def test_call_early_close(spans: Spans, caller: Caller, api: str, leave: Callable[..., None], read: int) -> None:
    """Closed early, before or after the first chunk, by `close`, by `with` or by an exception inside it."""
    stream = caller.create(api, stream=True)
    chunks = caller.each(stream)
    for _ in range(read):
        next(chunks)
    leave(caller, chunks, stream)
    attributes = left_early(spans)
    assert ("gen_ai.response.id" in attributes) is (read > 0)
    assert ("gen_ai.response.time_to_first_chunk" in attributes) is (read > 0)
    assert "error.type" not in attributes
    assert stream.response.is_closed
    assert "close" not in vars(stream.response)  # the response is the SDK's again, with nothing of ours on it
    chunks.close()
    assert caller.busy_connections() == 0
    caller.create(api)
    assert len(spans.calls()) == 2


def test_call_early_close_twice(spans: Spans, caller: Caller, api: str) -> None:
    """Closing again, or closing what has ended, changes nothing."""
    stream = caller.create(api, stream=True)
    list(caller.each(stream))
    caller.wait(stream.close())
    caller.wait(stream.close())
    [span] = spans.calls()
    assert "egisai.call.complete" not in span.attributes
    assert told(span)["reasons"] == ("stop",)


def _abandon(caller: Caller, api: str) -> Any:
    """Drop a stream in the middle; its response."""
    stream = caller.create(api, stream=True)
    chunks = caller.each(stream)
    next(chunks)
    chunks.close()
    response = stream.response
    del stream, chunks
    gc.collect()
    if caller.is_async:  # the loop closes the generators it lost
        caller.wait(asyncio.sleep(0.01))
    gc.collect()
    return response


def test_call_early_close_abandoned(make_caller: Callable[..., Caller], api: str) -> None:
    """A stream that is dropped in the middle and collected: one span, released as without us, no warning."""
    caller = make_caller()
    is_released = _abandon(caller, api).is_closed
    assert is_released or VERSION < (2, 0)  # by itself only in newer versions
    busy = caller.busy_connections()
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = _abandon(caller, api)
    left_early(spans)
    assert response.is_closed is is_released
    assert caller.busy_connections() <= busy + (not is_released)


def test_call_early_close_unread(spans: Spans, caller: Caller, api: str) -> None:
    """A stream that nobody ever read is a call all the same."""
    caller.create(api, stream=True)
    gc.collect()
    left_early(spans)


def test_call_early_close_leaves_no_garbage(spans: Spans, caller: Caller, api: str) -> None:
    """A stream read to its end is freed at once, as without us: nothing waits for the collector."""
    gc.collect()
    gc.disable()
    try:
        stream = caller.create(api, stream=True)
        list(caller.each(stream))
        response = stream.response
        assert "close" not in vars(response)
        assert "aclose" not in vars(response)
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_call_early_close_cancelled(spans: Spans, server: Provider, api: str, stream: bool) -> None:
    """A cancelled task, before the answer or in the middle of a stream: incomplete, and the cancellation arrives."""
    never, waiting = threading.Event(), threading.Event()
    server.hooks.append(hold(2 if stream else 0, never))
    server.on_request = lambda _: waiting.set()

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
            read = asyncio.Event()

            async def ask() -> None:
                where = client.chat.completions if api == "chat" else client.responses
                result: Any = await where.create(**request(api, stream=stream))
                async for _ in result:
                    read.set()

            task = asyncio.create_task(ask())
            if stream:
                await read.wait()
                await asyncio.sleep(0)
            else:
                await asyncio.to_thread(waiting.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            pool = client._client._transport._pool
            assert all(connection.is_idle() or connection.is_closed() for connection in pool.connections)

    asyncio.run(main())
    never.set()
    attributes = left_early(spans)
    assert attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_call_early_close_timeout_of_the_caller(spans: Spans, server: Provider) -> None:
    """`asyncio.wait_for` around a step of a stream works as without us."""
    never = threading.Event()
    server.hooks.append(hold(1, never))

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
            stream = await client.chat.completions.create(**request("chat", stream=True))
            await stream.__anext__()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.05)

    asyncio.run(main())
    never.set()
    left_early(spans)


def test_call_early_close_by_another_thread(spans: Spans, server: Provider) -> None:
    """Closed by one thread while another waits for the next chunk: one span, ended once."""
    never = threading.Event()
    server.hooks.append(hold(2, never))
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        stream = client.chat.completions.create(**request("chat", stream=True))
        next(stream)
        outcome: list[BaseException | None] = []

        def read() -> None:
            try:
                for _ in stream:
                    pass
            except Exception as exc:
                outcome.append(exc)
            else:
                outcome.append(None)

        reader = threading.Thread(target=read)
        reader.start()
        stream.close()
        never.set()
        reader.join(10)
        assert not reader.is_alive()
    assert len(spans.calls()) == 1


def test_call_error_broken_stream(spans: Spans, caller: Caller, server: Provider, api: str) -> None:
    """The connection breaks in the middle: the SDK's own exception, and a span with what was known."""
    server.hooks.append(break_stream(3))
    read = []
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection error") as caught:  # noqa: PT012
        for chunk in caller.each(caller.create(api, stream=True)):
            read.append(chunk)  # noqa: PERF402
    assert len(read) == 3
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    kind = type(caught.value)
    assert span.attributes["error.type"].endswith(kind.__name__)
    assert told(span)["id"]
    assert "egisai.call.complete" not in span.attributes
    assert caller.busy_connections() == 0


def test_call_error_in_stream(spans: Spans, caller: Caller, server: Provider) -> None:
    """An error that the provider sends as an event."""
    body = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
    server.hooks.append(limited(Reply(body=body, content_type="text/event-stream")))
    with pytest.raises(openai.APIError, match="overloaded"):
        list(caller.each(caller.create("chat", stream=True)))
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.APIError"


@pytest.mark.skipif(not HAS_RESPONSES, reason=f"openai {openai.__version__} has no responses API")
def test_call_error_event_of_responses(spans: Spans, caller: Caller, server: Provider) -> None:
    """The responses API's own error event is no exception, but it is an error."""
    event = {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None, "sequence_number": 0}
    body = b"event: error\ndata: %b\n\n" % json.dumps(event).encode()
    server.hooks.append(limited(Reply(body=body, content_type="text/event-stream")))
    try:
        list(caller.each(caller.create("responses", stream=True)))
    except openai.APIError:
        pytest.skip(f"openai {openai.__version__} raises it")
    [span] = spans.calls()
    assert span.attributes["error.type"] == "rate_limit_exceeded"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("chunk", [1, 3])
def test_call_modes_first_chunk(spans: Spans, caller: Caller, server: Provider, api: str, chunk: int) -> None:
    """Chunks reach the caller when the provider sends them, while later ones are still held back."""
    release = threading.Event()
    server.hooks.append(hold(chunk, release))
    chunks = caller.each(caller.create(api, stream=True))
    for _ in range(chunk):
        next(chunks)
    assert not server.requests[0].finished.is_set()
    assert not spans.calls()
    release.set()
    assert len(list(chunks)) > 1
    assert told(spans.calls()[0])["reasons"] == ("stop",)


# --- usage -----------------------------------------------------------------------------------------------------------


def _chat_bytes(asked: bool) -> bytes:
    """The same answer with and without usage, byte for byte as a provider would send it."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "n": 2}
    chunks = _CHUNKS or list(answers.chat_chunks({**body, "stream_options": {"include_usage": True}}))
    _CHUNKS[:] = chunks
    if not asked:
        chunks = [{name: value for name, value in chunk.items() if name != "usage"} for chunk in chunks[:-1]]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


_CHUNKS: list[Any] = []


def _fixed(request: Request) -> Reply:
    asked = bool((request.body.get("stream_options") or {}).get("include_usage"))
    return Reply(body=_chat_bytes(asked), content_type="text/event-stream")


def _seen(chunk: Any) -> tuple[Any, ...]:
    return (
        type(chunk),
        chunk.model_dump(exclude_unset=True),
        chunk.model_dump_json(),
        chunk.to_json(),
        sorted(chunk.model_fields_set),
        repr(chunk),
        chunk.usage,
    )


def test_call_usage_stream(make_caller: Callable[..., Caller], server: Provider) -> None:
    """We learn the usage of a stream, and the caller sees exactly what it would have seen without us."""
    server.hooks.append(_fixed)
    caller = make_caller()
    expected = [_seen(chunk) for chunk in caller.each(caller.create("chat", stream=True))]
    assert "stream_options" not in server.requests[-1].body
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    assert [_seen(chunk) for chunk in caller.each(caller.create("chat", stream=True))] == expected
    assert server.requests[-1].body["stream_options"] == {"include_usage": True}
    usage = _CHUNKS[-1]["usage"]
    facts = told(spans.calls()[0])
    assert (facts["input"], facts["output"]) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("where", ["stream_options", "extra_body"])
def test_call_usage_stream_callers_choice(
    spans: Spans, caller: Caller, server: Provider, include: bool, where: str
) -> None:
    """The caller's own `include_usage` is respected, either way and wherever it says so."""
    choice = {"include_usage": include}
    asked = {"stream_options": choice} if where == "stream_options" else {"extra_body": {"stream_options": choice}}
    chunks = list(caller.each(caller.create("chat", stream=True, **asked)))
    assert server.requests[-1].body["stream_options"] == choice
    assert asked[where] == (choice if where == "stream_options" else {"stream_options": choice})
    assert (chunks[-1].usage is not None) is include
    assert ("input" in told(spans.calls()[0])) is include
    assert all(("usage" in chunk.model_fields_set) is include for chunk in chunks)


def test_call_usage_stream_keeps_other_options(spans: Spans, caller: Caller, server: Provider) -> None:
    """Other stream options are the caller's, and its dictionary is not touched."""
    options = {"include_obfuscation": False}
    list(caller.each(caller.create("chat", stream=True, stream_options=options)))
    assert options == {"include_obfuscation": False}
    assert server.requests[-1].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_call_usage_stream_sent_unasked(spans: Spans, caller: Caller, server: Provider) -> None:
    """Usage that a server sends beside the last choice, whoever asks, is still the caller's to see."""
    choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    frame = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    last = {**frame, "choices": [choice], "usage": usage}
    body = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(last).encode()
    server.hooks.append(limited(Reply(body=body, content_type="text/event-stream")))
    [chunk] = caller.each(caller.create("chat", stream=True))
    assert chunk.usage.total_tokens == 4
    assert told(spans.calls()[0])["input"] == 3


@pytest.mark.parametrize("status", [400, 422])
def test_call_usage_stream_refused(spans: Spans, caller: Caller, server: Provider, status: int) -> None:
    """A server that does not know `stream_options` is asked once; the caller's call succeeds from the first one on."""
    body = json.dumps({"error": {"message": "Unknown parameter: stream_options", "type": "invalid"}}).encode()
    refusal = Reply(status=status, body=body)
    server.hooks.append(limited(refusal, when=lambda request: "stream_options" in request.body))
    for _ in range(2):
        assert len(list(caller.each(caller.create("chat", stream=True)))) > 3
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]
    calls = spans.calls()
    assert [told(span)["reasons"] for span in calls] == [("stop",)] * 2
    assert all(span.status.status_code is StatusCode.UNSET and "input" not in told(span) for span in calls)


def test_call_usage_stream_refused_for_another_reason(spans: Spans, caller: Caller, server: Provider) -> None:
    """Another refusal is the caller's, once, with nothing of ours in its chain of causes."""
    body = json.dumps({"error": {"message": "Unknown model", "type": "invalid"}}).encode()
    server.hooks.append(limited(Reply(status=400, body=body)))
    with pytest.raises(openai.BadRequestError, match="Unknown model"):
        caller.create("chat", stream=True)
    assert len(server.requests) == 1


def test_call_usage_stream_refused_then_failed(spans: Spans, caller: Caller, server: Provider) -> None:
    """What the caller gets is the answer to its own request, without ours as its context."""
    refusal = Reply(status=400, body=b'{"error": {"message": "no stream_options"}}')
    server.hooks.append(limited(refusal, when=lambda request: "stream_options" in request.body))
    server.hooks.append(limited(Reply(status=429)))
    with pytest.raises(openai.RateLimitError) as caught:
        caller.create("chat", stream=True)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "stream_options" not in str(caught.value.__context__)
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.RateLimitError"
