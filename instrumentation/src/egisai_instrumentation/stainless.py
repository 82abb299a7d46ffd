"""Follows calls of the clients that Stainless generates (openai, groq, ...): one method sees every request.

`Client.request(cast_to, options, stream=..., stream_cls=...)` sends, retries and parses for every resource, whole,
streamed or raw. What it returns is the SDK's own object and stays so: a stream's inner iterator and its response's
`close` are listened to in place, never replaced by a proxy.

    returned                 followed by                               ended by
    a model                                                            itself
    Stream, AsyncStream      a `Listener` as its `_iterator`          exhaustion, error, close, garbage collection
    LegacyAPIResponse        parsing it, which the SDK caches          as what it parses to
    APIResponse, read                                                  the bytes it has
    APIResponse, unread      its `parse` and `close`                   as what it parses to, its close, gc
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry.trace import Tracer

from egisai.guard import Guard, failed

from . import later
from .calls import Call, Destination, Tracing, aside, begin
from .integration import Endpoint, Integration
from .reading import Loose, an_object, loose
from .streams import AsyncListener, Listener, before_close

_BEGINNING: Final = Guard("beginning a call")
_SETTLING: Final = Guard("following a response")

_PORTS: Final = {"http": 80}
_RAW_HEADER: Final = "X-Stainless-Raw-Response"
_MAX_REFUSING: Final = 1000
_MAX_CLIENTS: Final = 1000  # whose destination is remembered; past that it is worked out anew
_MAX_COPIED_BYTES: Final = 4_000_000  # of a response that the caller reads as bytes; of a longer one no usage is known

Request = Callable[..., Any]


def follow(integration: Integration, original: Request, tracing: Tracing, covered: bool) -> Request:
    """`original`, a client's `request` method, with each call followed.

    Args:
        integration: Whose requests they are.
        original: What to call; sync or async.
        tracing: Has the tracer, while calls are to be followed.
        covered: Whether another instrumentor wrapped `original`, and so makes the span.
    """
    start = _Start(integration, tracing, covered)
    begun = start.begin

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def request_async(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            call, sent = begun(self, options)
            if call is None:
                return await original(self, cast_to, sent, *args, **kwargs)
            call.enter()
            try:
                while True:
                    try:
                        result = await original(self, cast_to, sent, *args, **kwargs)
                        break
                    except Exception as exc:
                        if not start.usage_refused(self, call, exc):
                            raise
                    sent = options
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
        call, sent = begun(self, options)
        if call is None:
            return original(self, cast_to, sent, *args, **kwargs)
        call.enter()
        try:
            while True:
                try:
                    result = original(self, cast_to, sent, *args, **kwargs)
                    break
                except Exception as exc:
                    if not start.usage_refused(self, call, exc):
                        raise
                sent = options
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

    def __init__(self, integration: Integration, tracing: Tracing, covered: bool) -> None:
        self._integration = integration
        self._endpoints = integration.endpoints
        self._traces_itself = integration.traces_itself
        self._tracing = tracing
        self._covered = covered
        self._destinations: dict[int, tuple[object, Destination]] = {}
        self._refusing: set[Destination] = set()

    def begin(self, client: Any, options: Any) -> tuple[Call | None, Any]:
        """The call that starts here, if it is one to follow, and the options to send. Never raises."""
        try:
            tracer = self._tracing.tracer or self._tracing.resolve()
            if tracer is None:
                return None, options
            url = options.url
            endpoint = self._endpoints.get(url)
            if endpoint is None and "?" in url:
                endpoint = self._endpoints.get(url.partition("?")[0])
            body: object = options.json_data
            if endpoint is None or not isinstance(body, (dict, Mapping)) or options.method != "post":
                response_id = later.fetched_id(options)
                if response_id is None:
                    return aside(), options
                return self._fetching(client, options, response_id, tracer)
            asked = cast("Mapping[str, Any]", body)
            if options.extra_json:  # the caller's `extra_body`, which the SDK merges later on
                asked = {**asked, **options.extra_json}
            destination = self._destination(client)
            if "://" in url:
                destination = _elsewhere(destination, url)
            native = (
                self._traces_itself is not None
                and self._traces_itself(client)
                and getattr(options, "span_name", "") is not None  # none of `client.post(path)`
            )
            call = begin(tracer, endpoint, asked, destination, covered=self._covered, native=native)
            if call is not None and call.span is not None:
                sent = self._sent(call, endpoint, destination, options)
                if asked.get("background") is True:  # an image's is a word
                    sent = later.queueing(sent, call, tracer, endpoint, asked, destination)
                return call, sent
        except Exception as exc:  # noqa: BLE001 - logged and counted
            failed("beginning a call", exc)
            return None, options
        return call, options

    def _fetching(self, client: Any, options: Any, response_id: str, tracer: Tracer) -> tuple[Call | None, Any]:
        """Of a request that fetches a response, what `begin` returns: a stream is a call, a poll is none."""
        endpoint = self._endpoints.get("/responses")
        if endpoint is None:
            return aside(), options
        if not an_object(options.params).get("stream"):
            return aside(), later.fetching(options)
        body = later.body_of(response_id)
        call = begin(tracer, endpoint, body, self._destination(client), covered=self._covered)
        if call is not None and call.span is not None:
            later.resuming(call, response_id)
        return call, options

    def _destination(self, client: Any) -> Destination:
        url = getattr(client, "_base_url", None) or client.base_url
        known = self._destinations.get(id(client))
        if known is not None and known[0] is url:  # held here, so no other client's: ids are used again, this is not
            return known[1]
        parts = urlsplit(str(url))
        host = parts.hostname or ""
        provider = self._integration.provider(type(client).__name__, host)
        destination = Destination(provider, host, parts.port or _PORTS.get(parts.scheme, 443))
        if len(self._destinations) >= _MAX_CLIENTS:
            self._destinations.clear()
        self._destinations[id(client)] = (url, destination)
        return destination

    # --- usage of streams, which some providers report only on request ---------------------------------------------

    def _sent(self, call: Call, endpoint: Endpoint, destination: Destination, options: Any) -> Any:
        """What to send: the caller's options, or a copy that tells us more."""
        body = options.json_data
        if body.get("stream"):
            asking = self._asking_for_usage(call, endpoint, destination, options)
            if asking is not None:
                sent = copy.copy(options)
                sent.json_data = asking
                return sent
        elif callable(parse := getattr(options, "post_parser", None)):
            sent = copy.copy(options)
            sent.post_parser = call.noting(parse)
            return sent
        return options

    def _asking_for_usage(
        self, call: Call, endpoint: Endpoint, destination: Destination, options: Any
    ) -> Mapping[str, Any] | None:
        if endpoint.usage_on_request is None or destination in self._refusing:
            return None
        if options.headers and _RAW_HEADER in options.headers:
            return None  # the caller may read the bytes, and would see what it did not ask for
        if options.extra_json and "stream_options" in options.extra_json:
            return None
        asking = endpoint.usage_on_request(options.json_data)
        fold = call.folding()
        if asking is not None and fold is not None:
            fold.usage_asked = True
        return asking

    def usage_refused(self, client: Any, call: Call, exc: Exception) -> bool:
        """Whether the server refused the request only because we asked for usage: then it is not asked again."""
        with _BEGINNING:
            if call.usage_refused(exc):
                if len(self._refusing) < _MAX_REFUSING:
                    self._refusing.add(self._destination(client))
                return True
        return False


def _elsewhere(destination: Destination, url: str) -> Destination:
    """Where a request goes that names its host itself."""
    parts = urlsplit(url)
    return destination._replace(address=parts.hostname or "", port=parts.port or _PORTS.get(parts.scheme, 443))


# --- results ---------------------------------------------------------------------------------------------------------


def _settle(call: Call, result: Any) -> None:
    """End the call with `result`, or listen to it until it ends."""
    if call.span is not None:
        try:
            _shape_of(result.__class__)(call, result)  # not `type()`: it may be another instrumentor's proxy
        except Exception as exc:  # noqa: BLE001 - logged and counted
            failed("following a response", exc)
            call.finish()


def _follow_stream(call: Call, stream: Any) -> None:
    fold = call.folding()
    if fold is None:
        call.finish()
        return
    listen = AsyncListener if hasattr(stream._iterator, "__anext__") else Listener  # their proxies have both
    listener = stream._iterator = listen(call, call.feed(), stream._iterator)
    before_close(stream.response, weakref.ref(listener))


def _follow_raw(call: Call, raw: Any) -> None:
    parsed: Any = None
    if not callable(getattr(raw._options, "post_parser", None)):  # into the caller's own types: when it asks for them
        with contextlib.suppress(Exception):  # the caller's to meet, when it parses
            parsed = raw.parse()  # cached: the caller's own `parse()` returns this very object
    if parsed is None:
        _respond_with(call, raw.http_response.content)
    else:
        _settle(call, parsed)


def _follow_lazy(call: Call, lazy: Any) -> None:
    response = lazy.http_response
    if response.is_closed:  # read whole already, as `with_raw_response` of most of these clients does
        _respond_with(call, response.content)
        return
    copied = _Copied(call, response)
    parse, close = lazy.parse, lazy.close

    def parsed(result: Any) -> Any:
        if hasattr(result, "__stream__"):
            copied.stop()
            _settle(call, result)
        return result  # anything else is read again when the response is closed, whatever type it was parsed to

    if inspect.iscoroutinefunction(parse):

        @functools.wraps(parse)
        async def parse_async(*args: Any, **kwargs: Any) -> Any:
            try:
                result = await parse(*args, **kwargs)
            except BaseException as exc:
                call.fail(exc)
                raise
            return parsed(result)

        lazy.parse = parse_async
    else:

        @functools.wraps(parse)
        def parse_sync(*args: Any, **kwargs: Any) -> Any:
            try:
                result = parse(*args, **kwargs)
            except BaseException as exc:
                call.fail(exc)
                raise
            return parsed(result)

        lazy.parse = parse_sync

    @functools.wraps(close)
    def close_and_end() -> Any:
        if call.span is not None:
            with _SETTLING:
                copied.end()
        return close()

    lazy.close = close_and_end


class _Copied:
    """The bytes of a response that the caller reads as bytes, text, lines or JSON."""

    def __init__(self, call: Call, response: Any) -> None:
        self._call = call
        self._response = response
        self._bytes = bytearray()
        self._is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        self._is_started = False
        self._is_stopped = False
        name = "aiter_bytes" if hasattr(response.stream, "__aiter__") else "iter_bytes"
        read = getattr(response, name)
        if name == "iter_bytes":

            @functools.wraps(read)
            def iter_bytes(*args: Any, **kwargs: Any) -> Iterator[bytes]:
                for chunk in read(*args, **kwargs):
                    self._keep(chunk)
                    yield chunk

            response.iter_bytes = iter_bytes
        else:

            @functools.wraps(read)
            async def aiter_bytes(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
                async for chunk in read(*args, **kwargs):
                    self._keep(chunk)
                    yield chunk

            response.aiter_bytes = aiter_bytes
        self._name = name

    def _keep(self, chunk: bytes) -> None:
        if not self._is_started:
            self._is_started = True
            if self._is_stream:
                self._call.first_chunk()
        if len(self._bytes) <= _MAX_COPIED_BYTES:
            self._bytes += chunk

    def __del__(self) -> None:
        if not self._is_stopped:
            self._call.abandon()

    def stop(self) -> None:
        """Copy nothing more: somebody else follows the response."""
        self._is_stopped = True
        self._response.__dict__.pop(self._name, None)

    def end(self) -> None:
        """End the call with what was read; incomplete where that was not all."""
        self.stop()
        fits = len(self._bytes) <= _MAX_COPIED_BYTES
        fold = self._call.folding() if self._is_stream and self._is_started else None
        if fold is not None and fits:
            feed = self._call.feed()
            for line in self._bytes.splitlines():
                if line.startswith(b"data:") and line.endswith(b"}"):
                    feed(loose(bytes(line[5:])))
        if not self._response.is_closed:
            self._call.abandon()
        elif fold is None and fits:
            _respond_with(self._call, bytes(self._bytes))
        else:
            self._call.finish()


def _respond_with(call: Call, content: bytes) -> None:
    """End with a response as it came over the wire."""
    try:
        response = loose(content)
    except ValueError:
        response = None
    if isinstance(response, Loose):
        call.respond(response)
    else:
        call.finish()


def _finish(call: Call, _: Any) -> None:
    call.finish()


Follow = Callable[[Call, Any], None]
_shapes: dict[type[Any], Follow] = {}


def _shape_of(kind: type[Any]) -> Follow:
    shape = _shapes.get(kind)
    if shape is None:
        if hasattr(kind, "__stream__"):
            shape = _follow_stream
        elif hasattr(kind, "http_request") and hasattr(kind, "parse"):
            shape = _follow_lazy if hasattr(kind, "read") else _follow_raw  # pyright: ignore[reportUnknownArgumentType]
        elif hasattr(kind, "model_fields"):
            shape = Call.respond
        else:  # text, where the server did not answer with JSON; or what else the caller asked to have it cast to
            shape = _finish
        if len(_shapes) < 1000:  # one per response model; generic models make new classes
            _shapes[kind] = shape
    return shape
