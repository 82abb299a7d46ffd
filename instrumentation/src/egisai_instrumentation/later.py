"""Responses that are not the answer to their request: queued in the background and fetched, streams taken up again.

The request that queues a response is a call of which only the response's id is known. Its usage is told by whoever
fetches it: it is counted once, when this process first sees the end (docs/decisions/0010-background-responses.md).
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, Tracer

from egisai import semconv
from egisai.guard import Guard

from .calls import Call, Destination, begin
from .integration import Attributes, Endpoint, Fold
from .reading import an_array, member

_NOTING: Final = Guard("noting a background response")

_MAX_KNOWN: Final = 1000  # responses whose end is awaited, or was seen: the newest of them
_GOING_ON: Final = frozenset({"queued", "in_progress"})
_SYSTEM: Final = frozenset({"system", "developer"})
_PATH: Final = "/responses/"
_USAGE: Final = semconv.USAGE_INPUT_TOKENS.removesuffix("input_tokens")


class _Origin(NamedTuple):
    """The request that queued a response, as far as the response's own span needs it."""

    tracer: Tracer
    endpoint: Endpoint
    body: Mapping[str, Any]
    destination: Destination
    context: Context
    time_ns: int
    counter_ns: int


_known: dict[str, _Origin | None] = {}
"""By response id. None: its end was seen."""
_lock: Final = threading.Lock()


def fetched_id(options: Any) -> str | None:
    """Of a request that fetches a response, or cancels it: the response's id."""
    url: str = options.url
    if not url.startswith(_PATH):
        return None
    name, _, action = url[len(_PATH) :].partition("?")[0].partition("/")
    is_one = options.method == "get" and not action
    return name if is_one or (options.method == "post" and action == "cancel") else None


def fetching(options: Any) -> Any:
    """Options of a request that fetches a response whole: what it is parsed to is looked at."""
    return _looking(options, _seen)


def queueing(
    options: Any, call: Call, tracer: Tracer, endpoint: Endpoint, body: Mapping[str, Any], destination: Destination
) -> Any:
    """Options of a request that may only queue its response: how it goes on is remembered."""
    said = {name: value for name, value in body.items() if name not in ("input", "tools", "stream")}
    said["input"] = [each for each in an_array(body.get("input")) if member(each, "role") in _SYSTEM]
    outer = call._outer  # pyright: ignore[reportPrivateUsage]
    origin = _Origin(tracer, endpoint, said, destination, outer, time.time_ns(), time.perf_counter_ns())
    if body.get("stream"):
        if (fold := call.folding()) is not None:
            call.fold = _Noted(fold, origin)
        return options
    return _looking(options, lambda response: _note(response, origin))


def resuming(call: Call, response_id: str) -> None:
    """The call streams a response that was begun before."""
    fold = call.folding()
    if fold is not None:
        call.fold = _Noted(fold, None, is_counted=response_id in _known and _known[response_id] is None)


def body_of(response_id: str) -> dict[str, Any]:
    """What this process knows of the request that queued a response, and that it is taken up again."""
    origin = _known.get(response_id)
    return {**({} if origin is None else origin.body), "response_id": response_id, "stream": True}


def _looking(options: Any, look: Callable[[Any], object]) -> Any:
    parse = getattr(options, "post_parser", None)

    def parse_looking(response: Any) -> Any:
        if hasattr(response, "status"):  # not where the caller has it parsed to something else
            with _NOTING:
                look(response)
        return parse(response) if callable(parse) else response

    looking = copy.copy(options)
    looking.post_parser = parse_looking
    return looking


def _note(response: Any, origin: _Origin | None) -> bool:
    """Note how it is with a response; whether it has come to an end that was not seen before."""
    with _lock:
        if response.status in _GOING_ON:
            if origin is not None and _known.setdefault(response.id, origin) is origin:
                _make_room()
            return False
        is_new = _known.pop(response.id, origin) is not None
        _known[response.id] = None
        _make_room()
        return is_new


def _make_room() -> None:
    while len(_known) > _MAX_KNOWN:
        del _known[next(iter(_known))]


def _seen(response: Any) -> None:
    """Where a response that this process queued is at its end for the first time: make its span."""
    if response.status in _GOING_ON:
        return
    origin = _known.get(response.id)
    if origin is None or not _note(response, None):
        return
    token = attach(origin.context)
    try:
        tracer: Any = _Since(origin.tracer, origin.time_ns)
        call = begin(tracer, origin.endpoint, origin.body, origin.destination, covered=False)
    finally:
        detach(token)
    if call is not None:
        call._started_ns = origin.counter_ns  # pyright: ignore[reportPrivateUsage]
        call.respond(response)


class _Since:
    """A tracer whose spans started at a time that is past."""

    def __init__(self, tracer: Tracer, time_ns: int) -> None:
        self._tracer = tracer
        self._time_ns = time_ns

    def start_span(self, *args: Any) -> Span:
        return self._tracer.start_span(*args, start_time=self._time_ns)


class _Noted:
    """A fold of a stream whose response may outlive it."""

    __slots__ = ("_fold", "_is_counted", "_origin", "usage_asked")

    def __init__(self, fold: Fold, origin: _Origin | None, *, is_counted: bool = False) -> None:
        self.usage_asked = False
        self._fold = fold
        self._origin = origin
        self._is_counted = is_counted  # whether the usage was told before

    def feed(self, chunk: Any) -> bool | None:
        response = getattr(chunk, "response", None)
        if response is not None:
            _note(response, self._origin)
        return self._fold.feed(chunk)

    def attributes(self) -> Attributes:
        attributes = self._fold.attributes()
        if self._is_counted:
            return {name: value for name, value in attributes.items() if not name.startswith(_USAGE)}
        return attributes
