"""What a followed method may return: each shape stays what it is, and ends its call however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import wrapt
from opentelemetry import baggage
from opentelemetry.context import attach, get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

import egisai
from conftest import Spans
from egisai.context import held_in
from egisai_instrumentation import methods
from egisai_instrumentation.integration import Asked, Endpoint, Integration, Method

CHUNKS = [1, 2, 3]


class Fold:
    def __init__(self) -> None:
        self.usage_asked = False
        self.total = 0

    def feed(self, chunk: int) -> None:
        self.total += chunk

    def attributes(self) -> dict[str, Any]:
        return {"gen_ai.usage.output_tokens": self.total}


ENDPOINT = Endpoint(
    "chat",
    lambda body: {"gen_ai.request.model": body["model"]},
    lambda _: None,
    lambda response: {"gen_ai.usage.output_tokens": response},
    Fold,
)
INTEGRATION = Integration("toy", ">=1", lambda client, host: f"{client}@{host}")
NO_URL = "https://toy.example:8443/v1"


class Tracing:
    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer

    def resolve(self) -> Any:
        return self.tracer


@pytest.fixture
def follow(spans: Spans) -> Callable[..., Any]:
    """Follows a function by a `Method` with these options."""

    def followed(function: Any, **options: Any) -> Any:
        method = Method("toy", "f", lambda arguments: Asked(ENDPOINT, arguments, NO_URL, "Toy"), **options)
        return methods.follow(INTEGRATION, method, function, Tracing(spans.provider.get_tracer("egisai")), False)

    return followed


def ended(spans: Spans) -> tuple[Any, bool]:
    """Of the only call: the tokens it says, and whether it is complete."""
    [span] = spans.calls()
    spans.exporter.clear()
    assert span.status.status_code is StatusCode.UNSET
    complete = span.attributes.get("egisai.call.complete", True)
    return span.attributes.get("gen_ai.usage.output_tokens"), complete


class Stream:
    """An SDK's stream object: its own iterator, a context manager, with attributes."""

    def __init__(self) -> None:
        self._chunks = iter(CHUNKS)
        self.request_id = "r-1"
        self.is_closed = False
        self.response: Any = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> int:
        return next(self._chunks)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True


class Iterable:
    """An SDK's stream object that is no iterator itself, such as botocore's."""

    def __init__(self) -> None:
        self.is_closed = False

    def __iter__(self) -> Iterator[int]:
        yield from CHUNKS

    def close(self) -> None:
        self.is_closed = True


class AsyncStream:
    def __init__(self) -> None:
        self._chunks = iter(CHUNKS)
        self.is_closed = False

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> int:
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.is_closed = True


# --- values ----------------------------------------------------------------------------------------------------------


def test_method_arguments(spans: Spans) -> None:
    """The reader gets the arguments by name, however they were passed, with what is left over."""
    seen: list[Mapping[str, Any]] = []

    def asked(arguments: Mapping[str, Any]) -> Asked:
        seen.append(dict(arguments))
        return Asked(ENDPOINT, arguments, NO_URL, "Toy")

    def call(self: Any, model: str, *rest: int, **options: Any) -> int:
        return 7

    tracing = Tracing(spans.provider.get_tracer("egisai"))
    ours = methods.follow(INTEGRATION, Method("toy", "f", asked), call, tracing, False)
    assert ours("me", "m-1", 1, 2, top=3) == 7
    assert seen == [{"self": "me", "model": "m-1", "rest": (1, 2), "top": 3}]
    assert inspect.signature(ours) == inspect.signature(call)
    [span] = spans.calls()
    assert span.attributes["gen_ai.provider.name"] == "Toy@toy.example"
    assert span.attributes["server.port"] == 8443


def test_method_that_is_no_call(spans: Spans) -> None:
    """None from the reader: nothing is recorded, and our baggage is kept out all the same."""
    held: list[bool] = []

    def ping() -> str:
        held.append(held_in(get_current()) is not None)
        return "pong"

    method = Method("toy", "f", lambda _: None)
    ours = methods.follow(INTEGRATION, method, ping, Tracing(spans.provider.get_tracer("egisai")), False)
    with egisai.context(user_id="u-1"):
        assert ours() == "pong"
    assert held == [True]
    assert not spans.all()


@pytest.mark.parametrize("traces", [True, False])
def test_method_of_a_client_that_traces_itself(spans: Spans, traces: bool) -> None:
    """Its span is the call's: attributed, completed, and none is added. Switched off, the span is ours."""

    def call(self: Any, model: str) -> int:
        if self:
            attributes = {"gen_ai.provider.name": "native"}
            tracer = spans.provider.get_tracer("native")
            with tracer.start_as_current_span("native", kind=SpanKind.CLIENT, attributes=attributes):
                return 7
        return 7

    integration = replace(INTEGRATION, traces_itself=bool)
    method = Method("toy", "f", lambda arguments: Asked(ENDPOINT, arguments, NO_URL))
    ours = methods.follow(integration, method, call, Tracing(spans.provider.get_tracer("egisai")), False)
    with egisai.context(agent="billing", user_id="u-1"):
        assert ours(traces, "m-1") == 7
    [span] = spans.all()
    assert span.name == ("native" if traces else "chat m-1")
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.request.model"] == "m-1"


# --- generators ------------------------------------------------------------------------------------------------------


def test_method_generator(spans: Spans, follow: Callable[..., Any]) -> None:
    """A real generator: its name, `send`, `throw`, return value and laziness are the SDK's."""
    log: list[object] = []

    def stream(model: str) -> Any:
        log.append("started")
        try:
            got = yield 1
            log.append(got)
            try:
                yield 2
            except KeyError:
                yield 20
            return "result"
        finally:
            log.append("closed")

    chunks = follow(stream, lazy=True)(model="m")
    assert inspect.isgenerator(chunks)
    assert chunks.__qualname__ == stream("m").__qualname__
    assert log == []
    assert next(chunks) == 1
    assert chunks.send("sent") == 2
    assert chunks.throw(KeyError("mine")) == 20
    with pytest.raises(StopIteration) as stop:
        next(chunks)
    assert stop.value.value == "result"
    assert log == ["started", "sent", "closed"]
    assert ended(spans) == (23, True)


def test_method_generator_closed(spans: Spans, follow: Callable[..., Any]) -> None:
    """Closing it closes the SDK's own at once, whoever else holds that one."""
    inner = (chunk for chunk in CHUNKS)
    chunks = follow(lambda model: inner)(model="m")
    next(chunks)
    chunks.close()
    assert inspect.getgeneratorstate(inner) == inspect.GEN_CLOSED
    assert ended(spans) == (1, False)


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_method_generator_never_started(spans: Spans, follow: Callable[..., Any], lazy: bool) -> None:
    """Where the request goes out at the call, it was one; where it goes out with the first chunk, there was none."""

    def stream(model: str) -> Any:
        yield from CHUNKS

    follow(stream, lazy=lazy)(model="m")
    gc.collect()
    assert len(spans.calls()) == (0 if lazy else 1)


def test_method_generator_unsampled() -> None:
    """Also where nobody records: a lazy stream's request goes out at its first step, and must not carry our facts."""
    seen: list[object] = []

    def stream(model: str) -> Any:
        seen.append(baggage.get_all().get("egisai.user_id"))
        yield 1

    tracing = Tracing(TracerProvider(sampler=ALWAYS_OFF).get_tracer("egisai"))
    method = Method("toy", "f", lambda arguments: Asked(ENDPOINT, arguments, NO_URL), lazy=True)
    ours = methods.follow(INTEGRATION, method, stream, tracing, False)
    with egisai.context(user_id="u-1"):
        assert list(ours(model="m")) == [1]
        assert seen == [None]
        assert baggage.get_all()["egisai.user_id"] == "u-1"


def test_method_time_to_first_chunk(spans: Spans) -> None:
    """Measured from the span's start on, so never longer than the span, however long making it took."""

    class Slow(ParentBased):
        def should_sample(self, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.02)
            return super().should_sample(*args, **kwargs)

    provider = TracerProvider(sampler=Slow(ALWAYS_ON))
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    method = Method("toy", "f", lambda arguments: Asked(ENDPOINT, arguments, NO_URL))
    ours = methods.follow(
        INTEGRATION, method, lambda model: iter(CHUNKS), Tracing(provider.get_tracer("egisai")), False
    )
    list(ours(model="m"))
    [span] = spans.calls()
    duration_s = (span.end_time - span.start_time) / 1e9
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] <= duration_s


def test_method_async_generator(spans: Spans, follow: Callable[..., Any]) -> None:
    """The same of an async one, closed by hand and left to the loop."""
    log: list[str] = []

    async def stream(model: str) -> Any:
        try:
            for chunk in CHUNKS:
                yield chunk
        finally:
            log.append("closed")

    async def main() -> None:
        chunks = follow(stream, lazy=True)(model="m")
        assert inspect.isasyncgen(chunks)
        assert [chunk async for chunk in chunks] == CHUNKS
        assert ended(spans) == (6, True)
        chunks = follow(stream, lazy=True)(model="m")
        assert await chunks.__anext__() == 1
        await chunks.aclose()
        assert ended(spans) == (1, False)
        chunks = follow(stream, lazy=True)(model="m")
        assert await chunks.__anext__() == 1
        del chunks
        for _ in range(3):
            await asyncio.sleep(0)
        assert ended(spans) == (1, False)

    asyncio.run(main())
    assert log == ["closed"] * 3


# --- carried generators ----------------------------------------------------------------------------------------------


@pytest.fixture
def lazy(spans: Spans, follow: Callable[..., Any]) -> dict[str, Any]:
    """Public functions above a lazy method, as clients have them, by kind; what their bodies see is in `seen`."""
    seen: list[object] = []

    def see() -> None:
        seen.append((egisai.current_context().get("agent"), baggage.get_baggage("theirs")))

    def request(model: str) -> Any:
        see()
        yield from CHUNKS

    async def request_async(model: str) -> Any:
        see()
        for chunk in CHUNKS:
            yield chunk

    followed, followed_async = follow(request, lazy=True), follow(request_async, lazy=True)

    def stream(model: str) -> Any:
        see()
        yield from followed(model=model)
        see()

    async def stream_async(model: str) -> Any:
        see()
        async with contextlib.aclosing(followed_async(model=model)) as chunks:
            async for chunk in chunks:
                yield chunk
        see()

    async def create(model: str) -> Any:
        return stream_async(model)

    tracing = Tracing(spans.provider.get_tracer("egisai"))
    carried = {f.__name__: methods.carry(f, tracing) for f in (stream, stream_async, create)}
    return {**carried, "seen": seen, "tracing": tracing}


def next_of(chunks: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The next chunk of a generator of either kind; "end"."""
    return loop.run_until_complete(anext(chunks, "end")) if inspect.isasyncgen(chunks) else next(chunks, "end")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_asyncgens())
    made.close()


def awaited(loop: asyncio.AbstractEventLoop, made: Any) -> Any:
    return loop.run_until_complete(made) if inspect.isawaitable(made) else made


@pytest.mark.parametrize("how", ["stream", "stream_async", "create"])
def test_method_carried(spans: Spans, lazy: dict[str, Any], loop: asyncio.AbstractEventLoop, how: str) -> None:
    """A stream made in one context and read in another is a call of the first; between the reads is the reader's."""
    tracer = spans.provider.get_tracer("app")
    attach(baggage.set_baggage("theirs", "caller's"))
    with tracer.start_as_current_span("caller") as caller, egisai.context(agent="caller", user_id="u-1"):
        chunks = awaited(loop, lazy[how]("m"))
    assert chunks.__qualname__.endswith("stream" if how == "stream" else "stream_async")
    attach(baggage.set_baggage("theirs", "reader's"))
    with tracer.start_as_current_span("reader") as reader, egisai.context(agent="reader"):
        assert next_of(chunks, loop) == 1
        assert egisai.current_context() == {"agent": "reader"}
        assert get_current_span() is reader
        egisai.set_context(session_id="reader's")
        assert next_of(chunks, loop) == 2
        assert egisai.current_context() == {"agent": "reader", "session_id": "reader's"}
        assert baggage.get_baggage("theirs") == "reader's"
        assert [next_of(chunks, loop), next_of(chunks, loop)] == [3, "end"]
        assert egisai.current_context() == {"agent": "reader", "session_id": "reader's"}
    assert lazy["seen"] == [("caller", "caller's")] * 3
    [span] = spans.calls()
    assert (span.attributes["gen_ai.agent.name"], span.attributes["user.id"]) == ("caller", "u-1")
    assert "session.id" not in span.attributes
    assert span.parent.span_id == caller.get_span_context().span_id
    assert ended(spans) == (6, True)


@pytest.mark.parametrize("how", ["stream", "stream_async", "create"])
def test_method_carried_is_left(spans: Spans, lazy: dict[str, Any], loop: asyncio.AbstractEventLoop, how: str) -> None:
    """Left early, it is incomplete; never read, it was no call; called wrongly, it raises where it is called."""
    chunks = awaited(loop, lazy[how]("m"))
    next_of(chunks, loop)
    awaited(loop, chunks.aclose() if inspect.isasyncgen(chunks) else chunks.close())
    assert ended(spans) == (1, False)
    awaited(loop, lazy[how]("m"))
    gc.collect()
    assert not spans.all()
    with pytest.raises(TypeError, match="nonsense"):
        awaited(loop, lazy[how](nonsense="m"))


@pytest.mark.parametrize("kind", ["iterables", "iterators"])
@pytest.mark.parametrize("how", ["stream", "stream_async", "create"])
def test_method_carried_by_others(
    spans: Spans, lazy: dict[str, Any], loop: asyncio.AbstractEventLoop, how: str, kind: str
) -> None:
    """Another instrumentor's proxy for a generator sees each step, where that was installed first; all are carried."""
    seen: list[int] = []

    class Theirs(wrapt.ObjectProxy):  # type: ignore[misc]
        def __iter__(self) -> Any:
            for chunk in self.__wrapped__:
                seen.append(chunk)
                yield chunk

    class TheirsAsync(Theirs):
        async def __aiter__(self) -> Any:
            async for chunk in self.__wrapped__:
                seen.append(chunk)
                yield chunk

    class Iterators(wrapt.ObjectProxy):  # type: ignore[misc]
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            seen.append(next(self.__wrapped__))
            return seen[-1]

    class IteratorsAsync(Iterators):
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            seen.append(await self.__wrapped__.__anext__())
            return seen[-1]

    sync_proxy, async_proxy = (Theirs, TheirsAsync) if kind == "iterables" else (Iterators, IteratorsAsync)
    original = inspect.unwrap(lazy[how])
    if how == "create":

        async def wrapped(model: str) -> Any:
            return async_proxy(await original(model))
    else:

        def wrapped(model: str) -> Any:
            return (sync_proxy if how == "stream" else async_proxy)(original(model))

    with egisai.context(agent="caller"):
        stream = awaited(loop, methods.carry(wrapped, lazy["tracing"])("m"))
    assert inspect.isgenerator(stream) is (how == "stream")
    assert hasattr(stream, "__aiter__") is (how != "stream")
    chunks = iter(stream) if how == "stream" else stream.__aiter__()
    with egisai.context(agent="reader"):
        assert [next_of(chunks, loop) for _ in range(4)] == [*CHUNKS, "end"]
        assert egisai.current_context() == {"agent": "reader"}
    assert seen == CHUNKS
    assert spans.only()["gen_ai.agent.name"] == "caller"


def test_method_carried_no_longer(lazy: dict[str, Any]) -> None:
    """Switched off, the generator is the SDK's own."""
    lazy["tracing"].tracer = None
    assert lazy["stream"]("m").gi_code is inspect.unwrap(lazy["stream"]).__code__


# --- context managers ------------------------------------------------------------------------------------------------


def test_method_manager(spans: Spans, follow: Callable[..., Any]) -> None:
    """What a manager yields is followed; its own exit, and what the body raises, are its own."""
    log: list[str] = []

    @contextlib.contextmanager
    def opened(model: str) -> Iterator[Any]:
        try:
            yield Stream()
        except KeyError:
            log.append("swallowed")
        finally:
            log.append("closed")

    call = follow(opened)
    with call(model="m") as stream:
        assert isinstance(stream, Stream)
        assert list(stream) == CHUNKS
    assert ended(spans) == (6, True)
    with call(model="m") as stream:
        next(stream)
    assert ended(spans) == (1, False)
    with call(model="m"):
        raise KeyError
    assert ended(spans) == (0, False)
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, call(model="m"):
        raise mine
    assert caught.value is mine
    assert ended(spans) == (0, False)
    assert log == ["closed", "closed", "swallowed", "closed", "closed"]


def test_method_async_manager(spans: Spans, follow: Callable[..., Any]) -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def opened(model: str) -> Any:
        try:
            yield AsyncStream()
        finally:
            log.append("closed")

    async def main() -> None:
        async with follow(opened)(model="m") as stream:
            assert [chunk async for chunk in stream] == CHUNKS
        assert ended(spans) == (6, True)

        async def fail() -> None:
            async with follow(opened)(model="m") as stream:
                await stream.__anext__()
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await fail()
        assert ended(spans) == (1, False)

    asyncio.run(main())
    assert log == ["closed"] * 2


# --- stream objects --------------------------------------------------------------------------------------------------


def test_method_proxy(spans: Spans, follow: Callable[..., Any]) -> None:
    """A stream object: `isinstance`, attributes and methods are its own; read, left, closed, dropped."""
    call = follow(lambda model: Stream())
    stream = call(model="m")
    assert isinstance(stream, Stream)
    assert stream.request_id == "r-1"
    assert not hasattr(stream, "__anext__")
    assert list(stream) == CHUNKS
    assert ended(spans) == (6, True)
    with call(model="m") as stream:
        assert next(iter(stream)) == 1
    assert stream.is_closed
    assert ended(spans) == (1, False)
    stream = call(model="m")
    next(stream)
    stream.close()
    assert ended(spans) == (1, False)
    stream = call(model="m")
    del stream
    gc.collect()
    assert ended(spans) == (0, False)


def test_method_async_proxy(spans: Spans, follow: Callable[..., Any]) -> None:
    async def create(model: str) -> AsyncStream:
        return AsyncStream()

    async def main() -> None:
        call = follow(create)
        stream = await call(model="m")
        assert isinstance(stream, AsyncStream)
        assert [chunk async for chunk in stream] == CHUNKS
        assert ended(spans) == (6, True)
        async with await call(model="m") as stream:
            assert await stream.__anext__() == 1
        assert stream.is_closed
        assert ended(spans) == (1, False)

    asyncio.run(main())


def test_method_member(spans: Spans, follow: Callable[..., Any]) -> None:
    """A response, mapping or object, with the stream in a member; or with a value there, and then it is whole."""
    call = follow(lambda model: {"id": 1, "stream": Iterable()}, member="stream")
    result = call(model="m")
    assert list(result) == ["id", "stream"]
    assert isinstance(result["stream"], Iterable)
    assert list(result["stream"]) == CHUNKS
    assert ended(spans) == (6, True)
    result = call(model="m")
    chunks = iter(result["stream"])
    assert next(chunks) == 1
    result["stream"].close()
    assert ended(spans) == (1, False)

    class Response:
        def __init__(self) -> None:
            self.data = iter(chunk for chunk in CHUNKS)

    held = follow(lambda model: Response(), member="data")(model="m")
    assert inspect.isgenerator(held.data)
    assert list(held.data) == CHUNKS
    assert ended(spans) == (6, True)


def test_method_inner(spans: Spans, follow: Callable[..., Any]) -> None:
    """A stream object with its iterator in an attribute is itself: the iterator is listened to."""
    made: list[Stream] = []

    def create(model: str) -> Stream:
        made.append(Stream())
        return made[-1]

    stream = follow(create, inner="_chunks")(model="m")
    assert stream is made[0]
    assert list(stream) == CHUNKS
    assert ended(spans) == (6, True)
    stream = follow(create, inner="_chunks")(model="m")
    next(stream)
    made.clear()
    del stream
    gc.collect()
    assert ended(spans) == (1, False)


def test_method_inner_closed(spans: Spans, follow: Callable[..., Any]) -> None:
    """Closing such a stream, or its response, ends its call at once, not only when it is collected."""
    stream = follow(lambda model: Stream(), inner="_chunks")(model="m")
    next(stream)
    stream.close()
    assert stream.is_closed
    assert ended(spans) == (1, False)
    stream = Stream()
    response = stream.response = Stream()
    next(follow(lambda model: stream, inner="_chunks")(model="m"))
    response.close()
    assert (stream.is_closed, response.is_closed) == (False, True)
    assert ended(spans) == (1, False)
    assert "close" not in vars(response)


# --- usage on request ------------------------------------------------------------------------------------------------


def test_method_usage_on_request(spans: Spans) -> None:
    """Usage is asked for by the arguments, the chunk that only tells it is hidden, a refusal is obeyed once for all."""
    calls: list[Any] = []

    class Refused(Exception):  # noqa: N818 - a client's
        status_code = 400

    class Hiding(Fold):
        def feed(self, chunk: int) -> bool:
            super().feed(chunk)
            return self.usage_asked and chunk == 3

    def create(model: str, stream_options: Any = None) -> Any:
        calls.append(stream_options)
        if stream_options and model == "old":
            raise Refused("stream_options is unknown")
        return (chunk for chunk in CHUNKS)

    def on_request(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**body, "stream_options": {"include_usage": True}}

    endpoint = replace(ENDPOINT, fold=Hiding, usage_on_request=on_request)
    method = Method("toy", "f", lambda arguments: Asked(endpoint, arguments, f"https://{arguments['model']}"))
    ours = methods.follow(INTEGRATION, method, create, Tracing(spans.provider.get_tracer("egisai")), False)
    assert list(ours(model="new")) == [1, 2]
    assert list(ours(model="old")) == CHUNKS
    assert list(ours(model="old")) == CHUNKS
    asked = {"include_usage": True}
    assert calls == [asked, asked, None, None]
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in spans.calls()] == [6, 6, 6]
