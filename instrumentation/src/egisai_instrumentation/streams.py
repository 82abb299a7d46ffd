"""Follows what a call returns while the caller takes it chunk by chunk. Written once, for every client.

    a listener       stands for the iterator inside the SDK's own stream object
    a generator      stands for a generator: a real one, which drives the SDK's
    a proxy          stands for a stream object that has no iterator inside to listen to

Each ends the call once: exhausted, failed, closed early, or left to the garbage collector.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final, cast

import wrapt
from opentelemetry.context import Context, attach, get_current

from egisai.context import bound_steps
from egisai.guard import Guard, failed

from .calls import Call, Feed

_CLOSING: Final = Guard("closing a stream")

# --- listeners -------------------------------------------------------------------------------------------------------


class Listening:
    """The iterator inside a stream, listened to."""

    __slots__ = ("__weakref__", "_call", "_feed", "_fold_feed", "_inner", "_next", "_running")

    def __init__(self, call: Call, feed: Feed, inner: Any) -> None:
        self._call = call
        self._fold_feed = feed
        self._feed: Feed | None = None  # until the first chunk
        self._inner = inner
        self._running = False

    def closed(self) -> None:
        """The stream is about to be closed: by its own end if a step is running, else by somebody who leaves."""
        if not self._running:
            self._call.abandon()

    def _first_feed(self) -> Feed:
        self._call.first_chunk()
        self._feed = self._fold_feed
        return self._feed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        self._call.abandon()


class Listener(Listening):
    __slots__ = ()

    def __init__(self, call: Call, feed: Feed, inner: Any) -> None:
        super().__init__(call, feed, inner)
        self._next = inner.__next__

    def __iter__(self) -> Listener:
        return self

    def __next__(self) -> Any:
        while True:
            self._running = True
            try:
                chunk = self._next()
            except StopIteration:
                self._call.finish()
                raise
            except BaseException as exc:
                self._call.fail(exc)
                raise
            self._running = False
            try:
                if (self._feed or self._first_feed())(chunk):
                    continue  # not the caller's to see
            except Exception as exc:  # noqa: BLE001 - logged and counted
                failed("reading a chunk", exc)
            return chunk


class AsyncListener(Listening):
    __slots__ = ()

    def __init__(self, call: Call, feed: Feed, inner: Any) -> None:
        super().__init__(call, feed, inner)
        self._next = inner.__anext__

    def __aiter__(self) -> AsyncListener:
        return self

    async def __anext__(self) -> Any:
        while True:
            self._running = True
            try:
                chunk = await self._next()
            except StopAsyncIteration:
                self._call.finish()
                raise
            except BaseException as exc:
                self._call.fail(exc)
                raise
            self._running = False
            try:
                if (self._feed or self._first_feed())(chunk):
                    continue  # not the caller's to see
            except Exception as exc:  # noqa: BLE001 - logged and counted
                failed("reading a chunk", exc)
            return chunk


def before_close(response: Any, listener: Callable[[], Listening | None]) -> None:
    """Tell the listener before a response, or a stream, is closed; once, and leave nothing on it afterwards."""
    names = [name for name in ("close", "aclose") if hasattr(response, name)]
    for name in names:
        close = getattr(response, name)

        @functools.wraps(close)
        def noticed(close: Callable[[], Any] = close) -> Any:
            for name in names:
                response.__dict__.pop(name, None)
            listening = listener()  # weak: whoever holds the response does not hold the stream
            if listening is not None:
                with _CLOSING:
                    listening.closed()
            return close()

        setattr(response, name, noticed)


# --- generators ------------------------------------------------------------------------------------------------------


class _Left:
    """Lives in a generator's frame: where the generator goes without having run to an end, it says so."""

    __slots__ = ("_call", "_is_lazy")

    def __init__(self, call: Call, *, is_lazy: bool) -> None:
        self._call = call
        self._is_lazy = is_lazy  # whether nothing has been sent yet, nor will be before the first step

    def start(self) -> None:
        """The first step begins."""
        if self._is_lazy:
            self._is_lazy = False
            self._call.restart()

    def __del__(self) -> None:
        if self._is_lazy:
            self._call.forget()
        else:
            self._call.abandon()


def _chunk(call: Call, feed: Feed | None, chunk: Any, is_first: bool) -> bool:
    """Take a chunk. True: it is not the caller's to see."""
    if is_first:
        call.first_chunk()
    try:
        return feed is not None and bool(feed(chunk))
    except Exception as exc:  # noqa: BLE001 - logged and counted
        failed("reading a chunk", exc)
        return False


def generator(call: Call, inner: Generator[Any, Any, Any], *, lazy: bool) -> Generator[Any, Any, Any]:
    """A generator that yields what `inner` does. Each step of `inner` runs with the call in flight."""
    steps = _generator(call, inner, _Left(call, is_lazy=lazy))
    _name_like(steps, inner)
    return steps


def _generator(call: Call, inner: Generator[Any, Any, Any], left: _Left) -> Generator[Any, Any, Any]:
    feed: Feed | None = None
    step: Callable[[], Any] = inner.__next__
    is_first = True
    left.start()
    while True:
        call.resume()
        try:
            chunk = step()
        except StopIteration as stop:
            call.finish()
            return stop.value
        except BaseException as exc:
            call.fail(exc)
            raise
        finally:
            call.suspend()
        if is_first:
            feed = call.feed()  # not before: the first step may have made the span that the client makes itself
        is_hidden = _chunk(call, feed, chunk, is_first)
        is_first = False
        if is_hidden:
            step = inner.__next__
            continue
        try:
            sent = yield chunk
            step = inner.__next__ if sent is None else functools.partial(inner.send, sent)
        except GeneratorExit:
            call.abandon()
            inner.close()
            raise
        except BaseException as exc:  # noqa: BLE001 - the caller's `throw`: inner's to answer
            step = functools.partial(inner.throw, exc)


def async_generator(call: Call, inner: AsyncGenerator[Any, Any], *, lazy: bool) -> AsyncGenerator[Any, Any]:
    """The same of an async generator."""
    steps = _async_generator(call, inner, _Left(call, is_lazy=lazy))
    _name_like(steps, inner)
    return steps


async def _async_generator(call: Call, inner: AsyncGenerator[Any, Any], left: _Left) -> AsyncGenerator[Any, Any]:
    feed: Feed | None = None
    step: Callable[[], Any] = inner.__anext__
    is_first = True
    left.start()
    while True:
        call.resume()
        try:
            chunk = await step()
        except StopAsyncIteration:
            call.finish()
            return
        except BaseException as exc:
            call.fail(exc)
            raise
        finally:
            call.suspend()
        if is_first:
            feed = call.feed()  # not before: the first step may have made the span that the client makes itself
        is_hidden = _chunk(call, feed, chunk, is_first)
        is_first = False
        if is_hidden:
            step = inner.__anext__
            continue
        try:
            sent = yield chunk
            step = inner.__anext__ if sent is None else functools.partial(inner.asend, sent)
        except GeneratorExit:
            call.abandon()
            await inner.aclose()
            raise
        except BaseException as exc:  # noqa: BLE001 - the caller's `athrow`: inner's to answer
            step = functools.partial(inner.athrow, exc)


def _name_like(ours: Any, theirs: Any) -> None:
    ours.__name__, ours.__qualname__ = theirs.__name__, theirs.__qualname__


# --- context managers of contextlib ----------------------------------------------------------------------------------


def managed(
    call: Call, inner: Generator[Any, Any, Any], entered: Callable[[Any], Any], *, lazy: bool
) -> Generator[Any, Any, Any]:
    """The generator inside a `@contextmanager`'s manager, with what it yields passed through `entered`."""
    steps = _managed(call, inner, entered, _Left(call, is_lazy=lazy))
    _name_like(steps, inner)
    return steps


def _managed(
    call: Call, inner: Generator[Any, Any, Any], entered: Callable[[Any], Any], left: _Left
) -> Generator[Any, Any, Any]:
    left.start()
    call.resume()
    try:
        value = next(inner)
    except BaseException as exc:
        call.fail(exc)
        raise
    finally:
        call.suspend()
    try:
        yield entered(value)
    except BaseException as exc:  # noqa: BLE001 - the body's: for inner to pass on or to swallow
        call.abandon()
        with contextlib.suppress(StopIteration):
            inner.throw(exc)
        return
    call.abandon()
    next(inner, None)


def async_managed(
    call: Call, inner: AsyncGenerator[Any, Any], entered: Callable[[Any], Any], *, lazy: bool
) -> AsyncGenerator[Any, Any]:
    """The same of an `@asynccontextmanager`'s manager."""
    steps = _async_managed(call, inner, entered, _Left(call, is_lazy=lazy))
    _name_like(steps, inner)
    return steps


async def _async_managed(
    call: Call, inner: AsyncGenerator[Any, Any], entered: Callable[[Any], Any], left: _Left
) -> AsyncGenerator[Any, Any]:
    left.start()
    call.resume()
    try:
        value = await inner.__anext__()
    except BaseException as exc:
        call.fail(exc)
        raise
    finally:
        call.suspend()
    try:
        yield entered(value)
    except BaseException as exc:  # noqa: BLE001 - the body's: for inner to pass on or to swallow
        call.abandon()
        with contextlib.suppress(StopAsyncIteration):
            await inner.athrow(exc)
        return
    call.abandon()
    with contextlib.suppress(StopAsyncIteration):
        await inner.__anext__()


# --- proxies ---------------------------------------------------------------------------------------------------------


_Proxy: Any = wrapt.ObjectProxy


class _Stream(_Proxy):
    """A stream object, listened to. Its subclasses have the methods that the object's class has, and no others."""

    def __init__(self, stream: Any, call: Call, feed: Feed) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_call = call
        self._self_feed = feed
        self._self_listener: Any = None

    def _self_listening(self, listen: type[Listening], inner: Any) -> Any:
        if self._self_listener is None:
            self._self_listener = listen(self._self_call, self._self_feed, inner)
        return self._self_listener

    def __del__(self) -> None:
        if self._self_listener is None:
            self._self_call.abandon()


def _iter(self: Any) -> Any:
    inner = iter(self.__wrapped__)
    return self if inner is self.__wrapped__ else self._self_listening(Listener, inner)


def _aiter(self: Any) -> Any:
    inner = self.__wrapped__.__aiter__()
    return self if inner is self.__wrapped__ else self._self_listening(AsyncListener, inner)


def _next(self: Any) -> Any:
    return self._self_listening(Listener, self.__wrapped__).__next__()


def _anext(self: Any) -> Any:
    return self._self_listening(AsyncListener, self.__wrapped__).__anext__()


def _close(name: str) -> Callable[..., Any]:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._self_call.abandon()
        return getattr(self.__wrapped__, name)(*args, **kwargs)

    return close


def _enter(self: Any) -> Any:
    entered = self.__wrapped__.__enter__()
    return self if entered is self.__wrapped__ else entered


async def _aenter(self: Any) -> Any:
    entered = await self.__wrapped__.__aenter__()
    return self if entered is self.__wrapped__ else entered


def _exit(self: Any, kind: Any, exc: BaseException | None, traceback: Any) -> Any:
    self._self_call.abandon()
    return self.__wrapped__.__exit__(kind, exc, traceback)


async def _aexit(self: Any, kind: Any, exc: BaseException | None, traceback: Any) -> Any:
    self._self_call.abandon()
    return await self.__wrapped__.__aexit__(kind, exc, traceback)


_OVERRIDES: Final[dict[str, Callable[..., Any]]] = {
    "__iter__": _iter,
    "__aiter__": _aiter,
    "__next__": _next,
    "__anext__": _anext,
    "close": _close("close"),
    "aclose": _close("aclose"),
    "__enter__": _enter,
    "__exit__": _exit,
    "__aenter__": _aenter,
    "__aexit__": _aexit,
}

_proxies: dict[type[Any], type[Any]] = {}


def proxy(call: Call, stream: Any, feed: Feed) -> Any:
    """`stream`, which is an (async) iterable, listened to by a proxy: `isinstance` and every attribute are its own."""
    kind = cast("type[Any]", type(stream))
    ours = _proxies.get(kind)
    if ours is None:
        methods = {name: method for name, method in _OVERRIDES.items() if hasattr(kind, name)}
        ours = type(kind.__name__, (_Stream,), methods)
        if len(_proxies) < 1000:
            _proxies[kind] = ours
    return ours(stream, call, feed)


# --- carried generators ----------------------------------------------------------------------------------------------


def carried(stream: Any, now: Context) -> Any:
    """A generator, async or not, for `stream`, each step of which runs in the context `now`; what is none, as it is."""
    kind = cast("type[Any]", type(stream))
    if kind in (GeneratorType, AsyncGeneratorType):
        return bound_steps(stream, now)
    if isinstance(stream, (GeneratorType, AsyncGeneratorType)):  # another instrumentor's proxy: it is to see each step
        return (_AsyncCarried if hasattr(kind, "__aiter__") else _Carried)(stream, now)
    return stream


class _Carried(_Proxy):
    """A proxy for a generator, by which other proxies for it are carried: their iterators are generators, or they."""

    def __init__(self, stream: Any, now: Context) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_now = now

    def __iter__(self) -> Any:
        return carried(iter(self.__wrapped__), self._self_now)

    def __next__(self) -> Any:
        before = get_current()
        attach(self._self_now)
        try:
            return next(self.__wrapped__)
        finally:
            attach(before)


class _AsyncCarried(_Carried):
    def __aiter__(self) -> Any:
        return carried(self.__wrapped__.__aiter__(), self._self_now)

    async def __anext__(self) -> Any:
        before = get_current()
        attach(self._self_now)
        try:
            return await self.__wrapped__.__anext__()
        finally:
            attach(before)
