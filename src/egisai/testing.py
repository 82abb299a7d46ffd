"""For your own tests: records the LLM calls that your code makes and says whose they are, without any network.

with egisai.testing.capture() as calls:
    handle(request)
calls.only()                                                  # the one call there was
calls.assert_attributed(agent="billing", user_id="acme")      # every call
calls.assert_no_mixing(by="user_id", also="session_id")       # no session with two users

Under pytest the fixture `egisai_calls` is the same. See docs/testing.md.
"""

from __future__ import annotations

import atexit
import enum
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, cast, overload

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode

from . import attribution, fingerprint, guard, propagation, runtime, semconv
from .identity import name_key
from .settings import Settings

__all__ = ["Call", "Calls", "Recording", "capture"]

Fact = Literal["agent", "agent_id", "agent_source", "user_id", "user_role", "session_id", "workflow_id"]

_FACTS: Final = ("agent", "agent_id", "agent_source", "user_id", "user_role", "session_id", "workflow_id")
_MAX_SHOWN: Final = 20  # calls listed in a failure's message


class _Unset(enum.Enum):
    """Tells `None`, which asserts that a fact is absent, from nothing asserted."""

    UNSET = "unset"


_UNSET: Final = _Unset.UNSET


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call, as its span tells it. What the span does not say is None."""

    agent: str | None
    agent_id: str | None
    """A UUID: the same in every process of the organisation."""
    agent_source: str | None
    """How the agent is known: `id`, `name`, `framework`, `fingerprint` or `app`."""
    user_id: str | None
    user_role: str | None
    session_id: str | None
    workflow_id: str | None
    model: str | None
    """The model that was asked for."""
    operation: str | None
    """`chat`, `embeddings`, ..."""
    provider: str | None
    input_tokens: int | None
    output_tokens: int | None
    status: Literal["ok", "error", "incomplete"]
    error_type: str | None
    complete: bool
    """False where a stream was left before its end."""
    attributes: Mapping[str, Any] = field(repr=False, hash=False)
    """Everything on the span, read only."""

    @property
    def tokens(self) -> int | None:
        """Tokens in and out together; None where the provider reported none."""
        if self.input_tokens is None and self.output_tokens is None:
            return None
        return (self.input_tokens or 0) + (self.output_tokens or 0)


class Calls(Sequence[Call]):
    """Calls in the order in which they ended, and what one wants to know of them."""

    def _now(self) -> Sequence[Call]:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | Sequence[Call]:
        return self._now()[index]

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return f"<{_listed(self._now())}>"

    def only(self) -> Call:
        """The one call there was; AssertionError if there was none, or more."""
        __tracebackhide__ = True
        calls = self._now()
        if len(calls) != 1:
            raise AssertionError(f"expected one LLM call; {_listed(calls)}")
        return calls[0]

    def by_agent(self, name: str) -> Calls:
        """The calls of the agent of that name, whatever its letter case and surrounding space."""
        key = name_key(name)
        return _Some([call for call in self._now() if call.agent is not None and name_key(call.agent) == key])

    def assert_attributed(
        self,
        *,
        agent: str | _Unset | None = _UNSET,
        agent_id: str | _Unset | None = _UNSET,
        agent_source: str | _Unset | None = _UNSET,
        user_id: str | _Unset | None = _UNSET,
        user_role: str | _Unset | None = _UNSET,
        session_id: str | _Unset | None = _UNSET,
        workflow_id: str | _Unset | None = _UNSET,
    ) -> None:
        """There are calls, and every one of them has these facts; None says that a fact must be absent.

        Raises:
            AssertionError: Naming the first call that differs, and in what.
            TypeError: Nothing was given to compare with.
        """
        __tracebackhide__ = True
        given = (agent, agent_id, agent_source, user_id, user_role, session_id, workflow_id)
        expected = {name: value for name, value in zip(_FACTS, given, strict=True) if value is not _UNSET}
        if not expected:
            raise TypeError(f"assert_attributed() needs something to compare with: {', '.join(_FACTS)}")
        calls = self._now()
        if not calls:
            raise AssertionError(f"expected calls with {_said(expected)}, but no LLM call was recorded")
        for number, call in enumerate(calls):
            differing = {name: value for name, value in expected.items() if not _same(name, value, _fact(call, name))}
            if differing:
                found = {name: _fact(call, name) for name in differing}
                raise AssertionError(
                    f"call {number} has {_said(found)} instead of {_said(differing)}; {_listed(calls)}"
                )

    def assert_no_mixing(self, *, by: Fact, also: Fact) -> None:
        """Every `also` belongs to one `by`: `by="user_id", also="session_id"` says that no session has two users.

        A call with the one fact and without the other counts as another owner: that is how leaks look.

        Raises:
            AssertionError: Naming the values that are mixed, or that no call has an `also`, which proves nothing.
            TypeError: There is no such fact.
        """
        __tracebackhide__ = True
        for name in (by, also):
            if name not in _FACTS:
                raise TypeError(f"{name!r} is not a fact of a call: {', '.join(_FACTS)}")
        calls = self._now()
        owners: defaultdict[str, dict[str | None, None]] = defaultdict(dict)  # insertion-ordered sets
        for call in calls:
            value = _fact(call, also)
            if value is not None:
                owners[value][_fact(call, by)] = None
        if not owners:
            raise AssertionError(f"no call has a {also}, so nothing can be said about mixing; {_listed(calls)}")
        mixed = [f"{also}={value!r} has {by} {_either(list(of))}" for value, of in owners.items() if len(of) > 1]
        if mixed:
            raise AssertionError(f"{'; '.join(mixed)}; {_listed(calls)}")


class _Some(Calls):
    """A choice of calls, which does not grow."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls

    def _now(self) -> Sequence[Call]:
        return self._calls


class Recording(Calls):
    """The calls of a `capture()`, as they are made. A call is there once its response, or its stream, has ended."""

    def __init__(self) -> None:
        self.tracer_provider: TracerProvider = TracerProvider(shutdown_on_exit=False)
        """For instrumentors other than ours whose spans are wanted, and for spans of your own."""
        self._recorder = _Recorder()
        self.tracer_provider.add_span_processor(self._recorder)

    def clear(self) -> None:
        """Forget the calls so far."""
        self._recorder.clear()

    def _now(self) -> Sequence[Call]:
        return self._recorder.calls()


class _Recorder(SpanProcessor):
    """Keeps the calls among the spans that end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def on_end(self, span: ReadableSpan) -> None:
        attributes = span.attributes or {}
        if semconv.is_call(attributes) and not attributes.get(semconv.CALL_NESTED):
            call = _call(span)
            with self._lock:
                self._calls.append(call)

    def calls(self) -> Sequence[Call]:
        with self._lock:
            return tuple(self._calls)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()


@contextmanager
def capture(
    *, app: str | None = None, organisation: str | None = None, strict: bool = True
) -> Generator[Recording, None, None]:
    """Record the LLM calls made inside, on a tracer provider in memory; nothing is sent anywhere by us.

    Works before, after and without `egisai.init()`, in sync and async tests. What was set up before is set aside and
    comes back at the end, with the OpenTelemetry context. `init()` called inside changes nothing: it is what a test
    of a whole program does. One capture at a time in a process; they may be nested.

    Args:
        app: The agent of calls of which nothing finer is known: by default what `init()` was told, else
            `EGISAI_APP`, else "default".
        organisation: Part of agents' ids, taken likewise.
        strict: A failure of Egis itself, which in production is logged and counted, raises here.

    Raises:
        AssertionError: At the end, if Egis itself failed and the failure did not come through.
        ConfigurationError: A setting cannot be worked with.
        ImportError: egisai-instrumentation is not installed.
    """
    recording = Recording()
    before, was_strict, failures = otel_context.get_current(), guard.strict, _failures()
    with _set_aside() as outer:
        settings = _settings(outer, app, organisation)
        attribution.use(attribution.Attribution(organisation=settings.organisation, app=settings.app))
        runtime._runtime = runtime._Runtime(settings)  # pyright: ignore[reportPrivateUsage] - our own package
        guard.strict = strict or was_strict
        with _instrumented(recording.tracer_provider), _no_background():
            try:
                yield recording
            finally:
                runtime.shutdown()  # of ours, or of one that a shutdown() and an init() inside have made
                guard.strict = was_strict
                otel_context.attach(before)
    if strict:
        _no_new(failures)


# --- what was there before -------------------------------------------------------------------------------------------


@contextmanager
def _set_aside() -> Generator[Settings | None, None, None]:
    """Keep what `init()` set up out of the way, and bring it back. Yields its settings."""
    outer, who = runtime._runtime, attribution.current()  # pyright: ignore[reportPrivateUsage]
    trust = propagation.current() if outer is not None else None
    try:
        yield None if outer is None else outer.settings
    finally:
        runtime._runtime = outer  # pyright: ignore[reportPrivateUsage]
        attribution.use(who)
        propagation.use(trust)
        if outer is not None:
            atexit.unregister(runtime.shutdown)
            atexit.register(runtime.shutdown)


@contextmanager
def _instrumented(provider: TracerProvider) -> Generator[None, None, None]:
    """Our instrumentor on `provider`, and afterwards back where it was."""
    import egisai

    instrumentor: Any = egisai.EgisInstrumentor()
    attributed = _attributed()
    was_on = bool(instrumentor.is_instrumented_by_opentelemetry)
    theirs = None
    if was_on:
        instrumentor.uninstrument()
        theirs = next(iter(attributed - _attributed()), None)
        if theirs is not None:
            runtime.attach(theirs)  # its spans are attributed all the while
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        yield
    finally:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        if was_on:
            instrumentor.instrument(tracer_provider=theirs, skip_dep_check=True)


@contextmanager
def _no_background() -> Generator[None, None, None]:
    """Long prompts are read at once in async code too, so that a call is recorded when its response is there."""
    usual = fingerprint.LONG
    fingerprint.LONG = sys.maxsize  # pyright: ignore[reportConstantRedefinition]
    try:
        yield
    finally:
        fingerprint.LONG = usual  # pyright: ignore[reportConstantRedefinition]


def _attributed() -> set[TracerProvider]:
    """The providers whose spans are attributed."""
    slots = runtime._slots  # pyright: ignore[reportPrivateUsage]
    return {cast(TracerProvider, provider) for provider, slot in slots.items() if slot.attributing is not None}


def _settings(outer: Settings | None, app: str | None, organisation: str | None) -> Settings:
    if outer is not None:
        app, organisation = app or outer.app, organisation or outer.organisation
    return Settings.resolve(app=app, organisation=organisation)


def _failures() -> dict[str, int]:
    return {reason: n for reason, n in guard.counts().items() if reason.startswith("error:")}


def _no_new(before: Mapping[str, int]) -> None:
    new = [reason.removeprefix("error:") for reason, n in _failures().items() if n > before.get(reason, 0)]
    if new:
        raise AssertionError(f"Egis itself failed while {', '.join(new)}: see the log. (strict=False allows it)")


# --- from span to call, and to words ---------------------------------------------------------------------------------


def _call(span: ReadableSpan) -> Call:
    attributes: Mapping[str, Any] = MappingProxyType(dict(span.attributes or {}))
    roles = cast("Sequence[str]", attributes.get(semconv.USER_ROLES) or ())
    complete = attributes.get(semconv.CALL_COMPLETE) is not False
    failed = span.status.status_code is StatusCode.ERROR
    return Call(
        agent=attributes.get(semconv.AGENT_NAME),
        agent_id=attributes.get(semconv.AGENT_ID),
        agent_source=attributes.get(semconv.AGENT_SOURCE),
        user_id=attributes.get(semconv.USER_ID),
        user_role=roles[0] if roles else None,
        session_id=attributes.get(semconv.SESSION_ID),
        workflow_id=attributes.get(semconv.WORKFLOW_ID),
        model=attributes.get(semconv.REQUEST_MODEL),
        operation=attributes.get(semconv.OPERATION),
        provider=attributes.get(semconv.PROVIDER),
        input_tokens=attributes.get(semconv.USAGE_INPUT_TOKENS),
        output_tokens=attributes.get(semconv.USAGE_OUTPUT_TOKENS),
        status="error" if failed else "ok" if complete else "incomplete",
        error_type=attributes.get(semconv.ERROR_TYPE),
        complete=complete,
        attributes=attributes,
    )


def _fact(call: Call, name: str) -> str | None:
    return cast("str | None", getattr(call, name))


def _same(name: str, expected: object, found: str | None) -> bool:
    if name == "agent" and isinstance(expected, str) and found is not None:
        return name_key(expected) == name_key(found)
    return expected == found


def _said(facts: Mapping[str, object]) -> str:
    return ", ".join(f"no {name}" if value is None else f"{name}={value!r}" for name, value in facts.items())


def _either(values: Iterable[str | None]) -> str:
    return " and ".join("none" if value is None else repr(value) for value in values)


def _listed(calls: Sequence[Call]) -> str:
    if not calls:
        return "no LLM call was recorded"
    lines = [f"  {n}. {_line(call)}" for n, call in enumerate(calls[:_MAX_SHOWN])]
    if len(calls) > _MAX_SHOWN:
        lines.append(f"  ... and {len(calls) - _MAX_SHOWN} more")
    return "\n".join([f"{len(calls)} recorded:", *lines])


def _line(call: Call) -> str:
    facts = {name: _fact(call, name) for name in _FACTS if name != "agent_id" and _fact(call, name) is not None}
    told = f"{call.operation} {call.model or ''}".strip()
    return f"{told} ({call.status}): {_said(facts)}"
