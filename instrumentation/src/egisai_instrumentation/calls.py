"""The life of one LLM call, from the request's body to the span's end. Written once, for every provider.

    begin ──> in flight ──> settled ─────────────────────────────> ended
                 │             └─> streaming ──> exhausted ──────> ended
                 │                     └───────> left, cancelled ─> ended, marked incomplete
                 └─────────────────────┴───────> error ───────────> ended, with error.type

While the request is in flight the call is held in the OTel context and our baggage is out of it, so that no
propagator sends it to the provider. Between the chunks of a stream nothing of ours is in the caller's context.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Protocol, cast

from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer

from egisai import attribution, fingerprint, foreign, semconv
from egisai.context import Facts, Held, facts_of, held_in, hold, span_in
from egisai.guard import Guard, failed
from egisai.identity import Identity
from egisai.outgoing import put, remember

from . import background, content, metrics
from .integration import Attributes, Endpoint, Fold, StoredPrompt
from .reading import member

_READING_RESPONSE: Final = Guard("reading a response")
_ENDING: Final = Guard("ending a call")


def _suppressing() -> frozenset[str]:
    """The context keys that say that nothing is to be instrumented, learnt from who sets them."""
    token = attach(Context())
    with suppress_instrumentation():
        keys = frozenset(get_current())
    detach(token)
    return keys


_SUPPRESSING: Final = _suppressing()

_INSTRUMENTATIONS: Final = "opentelemetry.instrumentation."
"""Scopes of what traces HTTP clients."""

_FAILURE: Final = frozenset({semconv.ERROR_TYPE, semconv.HTTP_STATUS})

_MAX_MESSAGE_CHARS: Final = 512  # of a provider's error message kept on the span


class Destination(NamedTuple):
    """Where a client's requests go."""

    provider: str
    address: str
    port: int


Feed = Callable[[Any], "bool | None"]
"""Takes a chunk. True: it is not the caller's to see."""


class Tracing(Protocol):
    """Where the tracer is, while calls are to be followed."""

    tracer: Tracer | None

    def resolve(self) -> Tracer | None:
        """The tracer of now, where it is not settled yet; None while nothing is to be followed."""
        ...


_NO_CALL: Final = Endpoint("", lambda _: {}, lambda _: None, lambda _: {})


class Call:
    """One LLM call. It may be ended many times and from any thread: the first time counts."""

    __slots__ = (
        "_content",
        "_first_ns",
        "_is_theirs",
        "_measured",
        "_outer",
        "_parsing",
        "_pending",
        "_shared",
        "_started_ns",
        "context",
        "destination",
        "endpoint",
        "fold",
        "in_flight",
        "span",
    )

    def __init__(self, endpoint: Endpoint, outer: Context) -> None:
        self.endpoint = endpoint
        self.context = outer
        self.destination: Destination | None = None  # where a refused request is to be told apart
        self.fold: Fold | None = None
        self.in_flight = False
        self._outer = outer
        self._parsing: object = None
        self.span: Span | None = None  # None: nobody records
        self._is_theirs = False  # whether it is another instrumentor's, who says what failed and what was said
        self._pending: Future[Attributes] | None = None
        self._content: content.Recording | None = None
        self._shared: _Shared | None = None
        self._measured: Attributes | None = None  # the request and its agent, where metrics are recorded
        self._started_ns = 0
        self._first_ns = 0

    def adopt(self, body: Mapping[str, Any], span: Any) -> bool:
        """Take the first span of a client that starts meanwhile, unless an instrumentation makes it: the client itself
        makes it for this call. It is completed when the call ends."""
        if self._shared is not None or not self.in_flight or span.kind is not SpanKind.CLIENT:
            return False
        if span.instrumentation_scope.name.startswith(_INSTRUMENTATIONS):
            return False
        self._shared = _Shared.of(span)
        self.record(body, span)
        return True

    def adopt_theirs(self, span: Any) -> bool:
        """Take the span that another instrumentor, nearer to the wire, makes for this call."""
        if self._shared is not None or not self.in_flight or not foreign.is_call(span, span.attributes):
            return False
        self.share(span)
        return True

    def share(self, span: SdkSpan) -> None:
        """`span`, which another instrumentor makes, is the call's: it is completed by what the answer says."""
        self.span = span
        self._is_theirs = True
        self._shared = _Shared.of(span)

    def record(self, body: Mapping[str, Any], span: Span) -> None:
        """`span` is the call's."""
        self.span = span
        if content.mode is not None and self.endpoint.content is not None:
            self._content = content.Recording(content.mode, self.endpoint.content, body, span)

    # --- in flight -------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Hold the call in the context: the request goes out."""
        self.in_flight = True
        attach(self.context)

    def leave(self) -> None:
        """The request is answered: the caller's context is back. In another context, nothing is touched."""
        self.in_flight = False
        now = get_current()
        if now is self.context or _call_in(now) is self:
            attach(self._outer)
        self.context = self._outer  # the held context knows this call: let go, and there is no cycle to collect

    def resume(self) -> None:
        """Hold the call again, while more is done for it, such as a lazy stream's next step."""
        self._outer = get_current()
        self.in_flight = True
        attach(self.context)

    def suspend(self) -> None:
        """That is done: the caller's context is back, and the call may be resumed."""
        self.in_flight = False
        now = get_current()
        if now is self.context or _call_in(now) is self:
            attach(self._outer)

    def noting(self, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`parse`, which makes the caller's own type of a response: where it fails, the response was billed."""

        def parse_noted(response: Any) -> Any:
            self._parsing = response
            return parse(response)

        return parse_noted

    # --- streaming -------------------------------------------------------------------------------------------------

    def folding(self) -> Fold | None:
        """What a stream is folded into; None where the endpoint does not stream."""
        if self.fold is None and self.endpoint.fold is not None:
            self.fold = self.endpoint.fold()
        return self.fold

    def feed(self) -> Feed:
        """What takes the chunks of the stream."""
        fold = self.folding() if self.span is not None else None
        if fold is None:
            return _pass_by
        return fold.feed if self._content is None else _both(fold.feed, self._content.chunk)

    def restart(self) -> None:
        """The request goes out now: time is measured from here."""
        self._started_ns = time.perf_counter_ns()

    def first_chunk(self) -> None:
        """The first chunk is here."""
        self._first_ns = time.perf_counter_ns()

    # --- the end ---------------------------------------------------------------------------------------------------

    def respond(self, response: object) -> None:
        """End with a whole response."""
        attributes: Attributes = {}
        if self.span is not None:
            try:
                attributes = self.endpoint.read_response(response)
            except Exception as exc:  # noqa: BLE001 - logged and counted
                failed("reading a response", exc)
            if self._content is not None:
                self._content.respond(response)
        self._end(attributes)

    def finish(self) -> None:
        """End with what the stream said, having said everything."""
        self._end({})

    def forget(self) -> None:
        """There was no call after all: nothing has been sent, and the span is never ended."""
        self.span = None
        self._end({})

    def abandon(self, exc: BaseException | None = None) -> None:
        """End with what the stream said until it was left."""
        attributes: Attributes = {semconv.CALL_COMPLETE: False}
        if exc is not None:
            attributes[semconv.ERROR_TYPE] = _name_of(exc)
        self._end(attributes)

    def fail(self, exc: BaseException) -> None:
        """End with what the caller is about to get: a cancellation leaves the call, an error is the call's."""
        if not isinstance(exc, Exception):
            self.abandon(exc)
            return
        attributes: Attributes = {}
        if self._parsing is not None and self.span is not None:
            with _READING_RESPONSE:
                attributes = self.endpoint.read_response(self._parsing)
        attributes[semconv.ERROR_TYPE] = _name_of(exc)
        status = _status_of(exc)
        if status is not None:
            attributes[semconv.HTTP_STATUS] = status
        self._end(attributes, exc)

    def usage_refused(self, exc: Exception) -> bool:
        """Whether the server refused the request only because we asked for the usage of its stream."""
        if self.fold is None or not self.fold.usage_asked or _status_of(exc) not in (400, 422):
            return False
        # The latter: aiohttp's errors do not say what was answered, and Hugging Face's client puts it there.
        if "stream_options" not in f"{exc}{getattr(exc, 'response_error_payload', '')}":
            return False
        self.fold.usage_asked = False
        return True

    def _end(self, attributes: Attributes, exc: Exception | None = None) -> None:
        span, self.span = self.span, None  # one step under the interpreter's lock: one of two threads gets it
        self.context = self._outer  # the held context knows this call: let go, and there is no cycle to collect
        if span is None:
            return
        try:
            if self.fold is not None:
                attributes = self._folded(attributes)
            if self._is_theirs:
                exc = None
                attributes = {name: value for name, value in attributes.items() if name not in _FAILURE}
            if self._shared is not None:
                self._shared.tell(attributes)
            elif attributes:
                span.set_attributes(attributes)
                foreign.answered(attributes.get(semconv.RESPONSE_ID))
            if self._content is not None:
                self._content.tell(span, attributes)
            if exc is not None:
                span.set_status(StatusCode.ERROR, str(exc)[:_MAX_MESSAGE_CHARS])
            elif semconv.ERROR_TYPE in attributes and semconv.CALL_COMPLETE not in attributes:
                span.set_status(StatusCode.ERROR, attributes[semconv.ERROR_TYPE])  # an error that came as a response
        except Exception as bug:  # noqa: BLE001 - logged and counted
            failed("ending a call", bug)
        if self._measured is not None:
            self._measure(attributes)
        try:
            end = span.end if self._shared is None else self._shared.end
            if self._pending is None:
                end()
            else:
                end_ns = time.time_ns()
                self._pending.add_done_callback(lambda agent: _end_late(span, agent, end, end_ns))
        except Exception as bug:  # noqa: BLE001 - logged and counted
            failed("ending a call", bug)

    def _measure(self, attributes: Attributes) -> None:
        """Record the metrics, with the agent as soon as it is known."""
        measured, duration_s = (
            {**(self._measured or {}), **attributes},
            (time.perf_counter_ns() - self._started_ns) / 1e9,
        )
        if self._pending is None:
            metrics.record(measured, duration_s)
        else:
            self._pending.add_done_callback(lambda agent: _measure_late(measured, duration_s, agent))

    def _folded(self, attributes: Attributes) -> Attributes:
        said: Attributes = {}
        if self.fold is not None:
            with _READING_RESPONSE:
                said = self.fold.attributes()
        if self._first_ns:
            said[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = (self._first_ns - self._started_ns) / 1e9
        return {**said, **attributes}


class _Shared:
    """A span that somebody else makes and ends, often before the answer is ours to read: it ends when all are done with
    it, at the time at which its maker ended it, completed by what the answers said.

    What its maker says stands, but for usage, which is ours: normalised, and the sum where a span stands for several
    requests.
    """

    __slots__ = ("_calls", "_end", "_end_ns", "_known", "_lock", "_span")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self._calls = 0  # that are not ended yet
        self._end = span.end
        self._end_ns: int | None = None
        self._known: Attributes = {}
        self._lock = threading.Lock()
        span.end = self._end_theirs

    @classmethod
    def of(cls, span: SdkSpan) -> _Shared:
        """What `span` is shared by, with one call more."""
        there = getattr(vars(span).get("end"), "__self__", None)
        shared = there if isinstance(there, cls) else cls(span)
        with shared._lock:
            shared._calls += 1
        return shared

    def tell(self, attributes: Attributes) -> None:
        """What a call's answer says."""
        with self._lock:
            for name, value in attributes.items():
                is_sum = name in self._known and name.startswith(semconv.USAGE_PREFIX)
                self._known[name] = self._known[name] + value if is_sum else value

    def end(self, _: int | None = None) -> None:
        """A call is done."""
        with self._lock:
            self._calls -= 1
            is_last = self._calls == 0 and self._end_ns is not None
        if is_last:
            self._finish(self._end_ns)

    def _end_theirs(self, end_time: int | None = None) -> None:
        with self._lock:
            if self._calls:
                self._end_ns = self._end_ns or end_time or time.time_ns()
                return
        self._finish(end_time)

    def _finish(self, end_ns: int | None) -> None:
        said = attribution.attributes_of_span(self._span)
        with _ENDING:
            self._span.set_attributes(
                {
                    name: value
                    for name, value in self._known.items()
                    if name not in said or name.startswith(semconv.USAGE_PREFIX)
                }
            )
        vars(self._span).pop("end", None)
        self._end(end_ns)


def _both(fold: Feed, gather: Callable[[Any], None]) -> Feed:
    def feed(chunk: Any) -> bool | None:
        gather(chunk)
        return fold(chunk)

    return feed


def _pass_by(_: Any) -> None:
    """Takes the chunks of a stream that nobody reads."""


def aside() -> Call | None:
    """A request that is no call of an LLM, such as one for the list of models: only our baggage is kept out of it."""
    outer = get_current()
    if not baggage.get_all(outer) or _in_flight(held_in(outer)):
        return None
    call = Call(_NO_CALL, outer)
    call.context = hold(outer, Held(facts_of(outer), None, call))
    return call


def begin(
    tracer: Tracer,
    endpoint: Endpoint,
    body: Mapping[str, Any],
    destination: Destination,
    *,
    covered: bool,
    native: bool = False,
) -> Call | None:
    """A call that starts now, or None where it is not ours to follow: suppressed, or inside another call.

    Args:
        tracer: Makes the span.
        endpoint: What is called.
        body: The request's JSON body.
        destination: Where it goes.
        covered: Whether another instrumentor, nearer to the wire, is going to make a span for this call.
        native: Whether the client itself is going to: then that span is completed by what the answer says.
    """
    outer = get_current()
    held = held_in(outer)
    if _in_flight(held) or (not _SUPPRESSING.isdisjoint(outer) and any(map(outer.get, _SUPPRESSING))):
        return None
    call = Call(endpoint, outer)
    request: Attributes = {
        semconv.OPERATION: endpoint.operation,
        semconv.PROVIDER: destination.provider,
        semconv.SERVER_ADDRESS: destination.address,
        semconv.SERVER_PORT: destination.port,
    }
    try:
        request.update(endpoint.read_request(body))
    except Exception as exc:  # noqa: BLE001 - logged and counted
        failed("reading a request", exc)
    facts = facts_of(outer)
    around = span_in(outer)
    theirs = attribution.attributes_of_span(around)
    who: Attributes = {}
    try:
        who = _who(call, outer, theirs, facts, body)
    except Exception as exc:  # noqa: BLE001 - logged and counted
        failed("resolving an agent", exc)

    covering = None if held is not None else _covering(around, theirs, request)
    if covering is not None:
        said = attribution.attributes_of_span(covering)
        if semconv.CALL_NESTED in said:  # the span around that one is the call's
            request.clear()
        elif isinstance(shared := getattr(covering, "__wrapped__", covering), SdkSpan):
            call.share(shared)
            call.restart()
        _attribute(covering, said, request, who, call._pending)  # pyright: ignore[reportPrivateUsage]
        call.context = hold(outer, Held(facts, who, call), covering)
    elif covered or native:
        adopt = call.adopt_theirs if covered else functools.partial(call.adopt, body)
        call.context = hold(outer, Held(facts, who, call, request, adopt))
        call.restart()
        if covered:
            call.span = INVALID_SPAN  # until there is one
        elif metrics.are_recorded():
            call.span = INVALID_SPAN
            call._measured = {**request, **who}  # pyright: ignore[reportPrivateUsage]
    else:
        request.update(who)
        if semconv.SESSION_ID in who and semconv.CONVERSATION_ID not in request:
            request[semconv.CONVERSATION_ID] = who[semconv.SESSION_ID]
        model = request.get(semconv.REQUEST_MODEL)
        name = f"{endpoint.operation} {model}" if model else endpoint.operation
        span = tracer.start_span(name, outer, SpanKind.CLIENT, request)
        call.restart()  # after the span's start, or the first chunk may come after the span's end
        call.context = hold(outer, Held(facts, who, call), span)
        if span.is_recording():
            call.record(body, span)
            remember(span, who)
        if metrics.are_recorded():
            call.span = span
            call._measured = request  # pyright: ignore[reportPrivateUsage]
    return call


def _covering(around: Span | None, theirs: Mapping[str, Any], request: Attributes) -> Span | None:
    """The span that somebody made for the call that starts now: the active one, or one beside it."""
    operation: str = request[semconv.OPERATION]
    if around is not None and foreign.covers(around, theirs, operation):
        return around if around.is_recording() else None
    return foreign.take(around, operation, request.get(semconv.REQUEST_MODEL))


def _call_in(ctx: Context) -> object:
    held = held_in(ctx)
    return None if held is None else held.call


def _in_flight(held: Held | None) -> bool:
    """Whether a call is in flight. What was started meanwhile and lives on, such as a pool's worker, is in none."""
    return held is not None and cast(Call, held.call).in_flight


def _attribute(
    span: Span, theirs: Mapping[str, Any], request: Attributes, who: Attributes, pending: Future[Attributes] | None
) -> None:
    """Complete another instrumentor's span."""
    attributes: Attributes = {**{name: value for name, value in request.items() if name not in theirs}, **who}
    if semconv.AGENT_ID in who and semconv.AGENT_NAME not in who and semconv.AGENT_NAME in theirs:
        attributes[semconv.AGENT_NAME] = who[semconv.AGENT_ID]  # never another agent's name beside this id
    put(span, attributes)
    if pending is not None:
        pending.add_done_callback(lambda agent: _attribute_late(span, agent))


def _who(call: Call, outer: Context, parent: Mapping[str, Any], facts: Facts, body: Mapping[str, Any]) -> Attributes:
    """Identity and facts as attributes. Where finding the agent takes long, `call` waits for it without blocking."""
    agents = attribution.current()
    identity = agents.explicit(facts)
    if identity is None and parent:
        identity = attribution.nearest(parent, outer, facts)
    if identity is not None and identity.source not in ("fingerprint", "app"):
        return attribution.attributes_of(parent, outer, facts, identity)
    # Without a better tier the call's own prompt decides, and only then what was found above it.
    prompt = call.endpoint.read_prompt(body)
    if prompt is None:
        found = None
    elif isinstance(prompt, StoredPrompt):
        found = fingerprint.of_stored(prompt.id, prompt.version)
    else:
        found = fingerprint.seen(prompt)
        if found is fingerprint.MISSING:
            if sum(map(len, prompt)) > fingerprint.LONG and asyncio._get_running_loop() is not None:
                call._pending = background.later(  # pyright: ignore[reportPrivateUsage]
                    lambda: _by_prompt(fingerprint.of(prompt), parent, outer, facts, identity)
                )
                return attribution.attributes_of(parent, outer, facts, None)
            found = fingerprint.of(prompt)
    return _by_prompt(found, parent, outer, facts, identity)


def _by_prompt(
    found: fingerprint.Fingerprint | None,
    parent: Mapping[str, Any],
    outer: Context,
    facts: Facts,
    otherwise: Identity | None,
) -> Attributes:
    agents = attribution.current()
    if found is None:  # no system prompt, or nothing but blanks in it
        return attribution.attributes_of(parent, outer, facts, otherwise or agents.app())
    attributes = attribution.attributes_of(parent, outer, facts, agents.prompted(found))
    attributes[semconv.PROMPT_FINGERPRINT] = found.digest
    return attributes


def _end_late(span: Span, agent: Future[Attributes], end: Callable[[int], None], end_ns: int) -> None:
    with _ENDING:
        try:
            put(span, agent.result())
        finally:
            end(end_ns)


def _measure_late(measured: Attributes, duration_s: float, agent: Future[Attributes]) -> None:
    with _ENDING:
        metrics.record({**measured, **agent.result()}, duration_s)


def _attribute_late(span: Span, agent: Future[Attributes]) -> None:
    with _ENDING:
        if span.is_recording():
            put(span, agent.result())


def _name_of(exc: BaseException) -> str:
    kind = type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_OF_GRPC: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The HTTP status that stands for a gRPC status: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto"""


def _status_of(exc: BaseException) -> int | None:
    """The HTTP status that an SDK's error tells, on itself or on the response that it carries."""
    response: Any = getattr(exc, "response", None)
    for holder in (exc, response):
        for name in ("status_code", "status", "http_status", "code"):  # the last one aiohttp warns of
            status = getattr(holder, name, None)
            if isinstance(status, int) and 100 <= status < 600:
                return int(status)
    code: Any = getattr(exc, "code", None)
    if callable(code):  # gRPC's
        return _OF_GRPC.get(getattr(code(), "name", ""))
    return member(member(response, "ResponseMetadata"), "HTTPStatusCode")  # botocore's
