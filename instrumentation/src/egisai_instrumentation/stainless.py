"""Follows calls of the clients that Stainless generates (openai and others): one method sees every request.

`Client.request(cast_to, options, stream=..., stream_cls=...)` sends, retries and parses for every resource, whole,
streamed or raw. What it returns is the SDK's own object and stays so: a stream's inner iterator and its response's
`close` are listened to in place, never replaced by a proxy.

    returned                 followed by                               ended by
    a model                                                            itself
    Stream, AsyncStream      a `_Listener` as its `_iterator`          exhaustion, error, close, garbage collection
    LegacyAPIResponse        parsing it, which the SDK caches          as what it parses to
    APIResponse (lazy)       its `parse` and `close`                   as what it parses to, or its close
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry.trace import Tracer

from egisai.guard import Guard

from .calls import Call, Destination, begin
from .integration import Endpoint, Integration

_BEGINNING: Final = Guard("beginning a call")
_SETTLING: Final = Guard("following a response")
_READING_CHUNK: Final = Guard("reading a chunk")

_RAW_HEADER: Final = "X-Stainless-Raw-Response"
_MAX_REFUSING: Final = 1000

Request = Callable[..., Any]


def follow(integration: Integration, original: Request, tracer: Callable[[], Tracer | None], covered: bool) -> Request:
    """`original`, a client's `request` method, with each call followed.

    Args:
        integration: Whose requests they are.
        original: What to call; sync or async.
        tracer: The tracer of now; None while nothing is to be followed.
        covered: Whether another instrumentor wrapped `original`, and so makes the span.
    """
    start = _Start(integration, tracer, covered)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def request_async(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            call, sent = start(self, options)
            if call is None:
                return await original(self, cast_to, options, *args, **kwargs)
            call.enter()
            try:
                try:
                    result = await original(self, cast_to, sent, *args, **kwargs)
                except Exception as exc:
                    if sent is options or not start.usage_refused(self, call, exc):
                        raise
                    result = await original(self, cast_to, options, *args, **kwargs)
            except BaseException as exc:
                call.fail(exc)
                raise
            finally:
                call.leave()
            _settle(call, result)
            return result

        return request_async

    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        call, sent = start(self, options)
        if call is None:
            return original(self, cast_to, options, *args, **kwargs)
        call.enter()
        try:
            try:
                result = original(self, cast_to, sent, *args, **kwargs)
            except Exception as exc:
                if sent is options or not start.usage_refused(self, call, exc):
                    raise
                result = original(self, cast_to, options, *args, **kwargs)
        except BaseException as exc:
            call.fail(exc)
            raise
        finally:
            call.leave()
        _settle(call, result)
        return result

    return request


class _Start:
    """From a request's options to a call and the options to send."""

    def __init__(self, integration: Integration, tracer: Callable[[], Tracer | None], covered: bool) -> None:
        self._integration = integration
        self._tracer = tracer
        self._covered = covered
        self._destinations: weakref.WeakKeyDictionary[Any, tuple[Any, Destination]] = weakref.WeakKeyDictionary()
        self._refusing: set[Destination] = set()

    def __call__(self, client: Any, options: Any) -> tuple[Call | None, Any]:
        with _BEGINNING:
            endpoint = self._integration.endpoints.get(options.url)
            tracer = self._tracer()
            body: object = options.json_data
            if endpoint is not None and tracer is not None and isinstance(body, Mapping) and options.method == "post":
                destination = self._destination(client)
                asked = cast("Mapping[str, Any]", body)
                call = begin(tracer, endpoint, asked, destination, covered=self._covered)
                if call is not None and call.recording:
                    return call, self._asking_for_usage(call, endpoint, destination, options)
                return call, options
        return None, options

    def _destination(self, client: Any) -> Destination:
        url = client.base_url
        known = self._destinations.get(client)
        if known is not None and known[0] is url:
            return known[1]
        parts = urlsplit(str(url))
        host = parts.hostname or ""
        provider = self._integration.provider(type(client).__name__, host)
        destination = Destination(provider, host, parts.port or (80 if parts.scheme == "http" else 443))
        self._destinations[client] = (url, destination)
        return destination

    # --- usage of streams, which some providers report only on request ---------------------------------------------

    def _asking_for_usage(self, call: Call, endpoint: Endpoint, destination: Destination, options: Any) -> Any:
        body = options.json_data
        if not body.get("stream") or endpoint.usage_on_request is None or destination in self._refusing:
            return options
        headers = options.headers
        if isinstance(headers, Mapping) and _RAW_HEADER in headers:
            return options  # the caller may read the bytes, and would see what it did not ask for
        asking = endpoint.usage_on_request(body)
        fold = call.folding()
        if asking is None or fold is None:
            return options
        fold.usage_asked = True
        sent = copy.copy(options)
        sent.json_data = asking
        return sent

    def usage_refused(self, client: Any, call: Call, exc: Exception) -> bool:
        """Whether the server refused the request only because we asked for usage: then it is not asked again."""
        if getattr(exc, "status_code", None) not in (400, 422) or "stream_options" not in str(exc):
            return False
        if len(self._refusing) < _MAX_REFUSING:
            self._refusing.add(self._destination(client))
        if call.fold is not None:
            call.fold.usage_asked = False
        return True


# --- results ---------------------------------------------------------------------------------------------------------


def _settle(call: Call, result: Any) -> None:
    """End the call with `result`, or listen to it until it ends."""
    if call.recording:
        with _SETTLING:
            _shape_of(type(result))(call, result)  # pyright: ignore[reportUnknownArgumentType]


def _follow_stream(call: Call, stream: Any) -> None:
    fold = call.folding()
    if fold is None:
        call.finish()
        return
    listen = _AsyncListener if hasattr(type(stream), "__anext__") else _Listener
    listener = stream._iterator = listen(call, fold.feed, stream._iterator)
    _before_close(stream.response, listener.closed)


def _follow_raw(call: Call, raw: Any) -> None:
    _settle(call, raw.parse())  # cached: the caller's own `parse()` returns this very object


def _follow_lazy(call: Call, lazy: Any) -> None:
    parse = lazy.parse

    if inspect.iscoroutinefunction(parse):

        async def parse_async(*args: Any, **kwargs: Any) -> Any:
            parsed = await parse(*args, **kwargs)
            _settle(call, parsed)
            return parsed

        lazy.parse = parse_async
    else:

        def parse_sync(*args: Any, **kwargs: Any) -> Any:
            parsed = parse(*args, **kwargs)
            _settle(call, parsed)
            return parsed

        lazy.parse = parse_sync

    def closed() -> None:
        content = getattr(lazy.http_response, "_content", None)
        if call.fold is not None or not content:
            call.finish()
        else:  # read as bytes, text or JSON, and never parsed
            call.respond(json.loads(content, object_hook=_Loose))

    close = lazy.close

    def close_and_end() -> Any:
        with _SETTLING:
            closed()
        return close()

    lazy.close = close_and_end


class _Loose(SimpleNamespace):
    """A JSON object read like an SDK model: what it lacks is None."""

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__(**members)

    def __getattr__(self, name: str) -> None:
        return None


Follow = Callable[[Call, Any], None]
_shapes: dict[type[Any], Follow] = {}


def _shape_of(kind: type[Any]) -> Follow:
    shape = _shapes.get(kind)
    if shape is None:
        if hasattr(kind, "__stream__"):
            shape = _follow_stream
        elif hasattr(kind, "http_request") and hasattr(kind, "parse"):
            shape = _follow_lazy if hasattr(kind, "read") else _follow_raw  # pyright: ignore[reportUnknownArgumentType]
        else:
            shape = Call.respond
        if len(_shapes) < 1000:  # one per response model; generic models make new classes
            _shapes[kind] = shape
    return shape


def _before_close(response: Any, notice: Callable[[], None]) -> None:
    for name in ("close", "aclose"):
        close = getattr(response, name, None)
        if close is not None:

            def noticed(close: Callable[[], Any] = close) -> Any:
                with _SETTLING:
                    notice()
                return close()

            setattr(response, name, noticed)


class _Listening:
    """The iterator inside a stream, listened to."""

    __slots__ = ("_call", "_feed", "_fresh", "_inner", "_next", "_running")

    def __init__(self, call: Call, feed: Callable[[Any], bool | None], inner: Any) -> None:
        self._call = call
        self._feed = feed
        self._inner = inner
        self._running = False
        self._fresh = True

    def closed(self) -> None:
        """The response is about to be closed: by its own end if a step is running, else by somebody who leaves."""
        if not self._running:
            self._call.abandon()

    def _hides(self, chunk: Any) -> bool:
        if self._fresh:
            self._fresh = False
            self._call.first_chunk()
        with _READING_CHUNK:
            return self._feed(chunk) is True
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        self._call.abandon()


class _Listener(_Listening):
    __slots__ = ()

    def __init__(self, call: Call, feed: Callable[[Any], bool | None], inner: Any) -> None:
        super().__init__(call, feed, inner)
        self._next = inner.__next__

    def __iter__(self) -> _Listener:
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
            if not self._hides(chunk):
                return chunk


class _AsyncListener(_Listening):
    __slots__ = ()

    def __init__(self, call: Call, feed: Callable[[Any], bool | None], inner: Any) -> None:
        super().__init__(call, feed, inner)
        self._next = inner.__anext__

    def __aiter__(self) -> _AsyncListener:
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
            if not self._hides(chunk):
                return chunk
