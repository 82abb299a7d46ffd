"""Who is acting, for whom, in which piece of work: facts kept as OpenTelemetry baggage.

The OTel context is the single store, so the facts go wherever it goes: into asyncio tasks, into pool jobs (see
`pools`), over HTTP by the propagators. A `set_context` made inside a span's scope ends with that scope, because
leaving the scope restores the context from before it.

    facts of a context  =  what is held for a call in flight, else what we put in its baggage

A member called `egisai.*` that somebody else put there, such as a caller with a forged header, is never a fact
(see `propagation` for what arrives from other processes).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from types import MethodType, TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast
from uuid import UUID

from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, create_key, get_current
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext

from . import semconv
from .guard import count, log_once
from .identity import is_uuid
from .semconv import BAGGAGE_PREFIX, FIELDS

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

MAX_VALUE_CHARS: Final = 256
"""Longest value of a fact. Percent-encoded, one still fits the 4,096 bytes of a W3C baggage member in any script."""

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)  # would break a log line, a header, UTF-8

_FIELDS: Final = frozenset(FIELDS)
_KEYS: Final = tuple(BAGGAGE_PREFIX + field for field in FIELDS)
_BAGGAGE: Final = next(iter(baggage.set_baggage("probe", "", Context())))
_SPAN: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""Where the OTel context keeps its baggage, a dict, and its span: learnt from its API, which copies it for each."""

_INHERITED: Final = (
    *(semconv.AGENT_ID, semconv.AGENT_NAME, semconv.AGENT_SOURCE),
    *(semconv.USER_ID, semconv.USER_ROLES, semconv.SESSION_ID, semconv.WORKFLOW_ID),
)
"""The attributes of a span that those below it look at."""

_OWN: Final = create_key("egisai-own")  # an `_Own`: we made this context, so what it lacks it lacks on purpose
_HELD: Final = create_key("egisai-held")  # a `Held`, while a provider request is in flight
_SCOPE: Final = create_key("egisai-scope")  # the innermost `context` block, a `_Scope`

_NOTHING: Final[Mapping[str, object]] = {}
_new: Final = cast("Callable[..., Any]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
"""Makes a named tuple of its values at half the cost of its own constructor, which is Python code."""


class Facts(NamedTuple):
    """What a context says; an absent fact is None, never an empty string."""

    agent: str | None = None
    agent_id: str | None = None
    user_id: str | None = None
    user_role: str | None = None
    session_id: str | None = None
    workflow_id: str | None = None


NO_FACTS: Final = Facts()


class _Own(NamedTuple):
    """What we knew of the baggage we made: the only facts that are believed, and found without reading it again."""

    members: dict[str, object]
    facts: Facts
    others: dict[str, object]
    """The members that are not ours."""


class Held(NamedTuple):
    """The facts of a call in flight: kept out of the baggage, so that no propagator sends them to the provider."""

    facts: Facts
    attributes: Mapping[str, Any] | None
    """What spans made meanwhile carry: identity and facts, as span attributes. None: work it out from the facts."""
    call: object
    request: Mapping[str, Any] | None = None
    """What the call asks for, as span attributes, for the span of another instrumentor that stands for the call."""
    adopt: Callable[[Any], bool] | None = None
    """Takes the span that the client itself makes for the call; False for any other that starts meanwhile."""


# --- reading -------------------------------------------------------------------------------------------------------


def facts_of(ctx: Context) -> Facts:
    """The facts in force in `ctx`."""
    held = ctx.get(_HELD)
    if held is not None:
        return cast(Held, held).facts
    members = cast("Mapping[str, object] | None", ctx.get(_BAGGAGE))
    own = cast("_Own | None", ctx.get(_OWN))
    if own is None or not members:
        return NO_FACTS
    if own.members is members:
        return own.facts
    # Somebody wrote to the baggage since: what they removed is gone, what they put in the place of ours is not ours.
    return _facts([fact if members.get(key) is fact else None for key, fact in zip(_KEYS, own.facts, strict=True)])


def held_in(ctx: Context) -> Held | None:
    """The call in flight in `ctx`, if there is one."""
    return cast("Held | None", ctx.get(_HELD))


def span_in(ctx: Context) -> Span | None:
    """The active span of `ctx`, if there is one."""
    return cast("Span | None", ctx.get(_SPAN))


def is_own(ctx: Context) -> bool:
    """Whether `set_context` or a scope shaped this context: then an absent fact is absent on purpose."""
    return _OWN in ctx


def current_context() -> dict[str, str]:
    """The facts in force here, by parameter name of `set_context`; absent ones are left out."""
    return {name: value for name, value in facts_of(get_current())._asdict().items() if value is not None}


def read(members: Mapping[str, object]) -> Facts:
    """The facts in baggage that another process sent: what cannot be one is left out, silently."""
    return _facts([_usable(field, members.get(key)) for field, key in zip(FIELDS, _KEYS, strict=True)])


def _facts(values: Iterable[str | None]) -> Facts:
    facts = Facts(*values)
    return facts if facts != NO_FACTS else NO_FACTS


def _usable(field: str, value: object) -> str | None:
    if type(value) is not str or not 0 < len(value) <= MAX_VALUE_CHARS or _UNPRINTABLE.search(value):
        return None
    return value if field != "agent_id" or is_uuid(value) else None


def others_in(ctx: Context) -> dict[str, object]:
    """The baggage of `ctx` without any `egisai.*` member, whoever wrote it. Not to be changed."""
    members = cast("dict[str, object] | None", ctx.get(_BAGGAGE))
    if not members:
        return {}
    own = cast("_Own | None", ctx.get(_OWN))
    if own is not None and own.members is members:
        return own.others
    return {key: value for key, value in members.items() if not key.startswith(BAGGAGE_PREFIX)}


def with_others(ctx: Context, others: dict[str, object]) -> Context:
    """`ctx` with this baggage in the place of its own: facts of its own that are not in it are gone."""
    return Context({**ctx, _BAGGAGE: others})


def with_facts(ctx: Context, facts: Facts) -> Context:
    """`ctx` with these facts in its baggage, in the place of those it had."""
    return _with(ctx, facts, others_in(ctx), _NOTHING)


def _with(ctx: Context, facts: Facts, others: dict[str, object], more: Mapping[str, object]) -> Context:
    """`ctx` with the baggage made of `facts` and `others`, and with `more` values."""
    members = others.copy()
    for key, fact in zip(_KEYS, facts):  # noqa: B905 - `strict` costs more than the loop
        if fact is not None:
            members[key] = fact
    own = _new(_Own, (members, facts if len(members) > len(others) else NO_FACTS, others))
    return Context(ctx, **{_BAGGAGE: members, _OWN: own}, **more)


def without_facts(ctx: Context) -> Context:
    """`ctx` with no facts of ours, not even those of a call in flight; they are absent on purpose."""
    return with_facts(Context({key: value for key, value in ctx.items() if key != _HELD}), NO_FACTS)


# --- writing -------------------------------------------------------------------------------------------------------


def _forgiving(function: Callable[P, None]) -> Callable[P, None]:
    """A parameter that does not exist is one log line, not a TypeError in the caller's production."""
    name = function.__qualname__.removesuffix(".__init__")
    positional = 1 if name != function.__qualname__ else 0  # self

    @functools.wraps(function)
    def called(*args: Any, **fields: Any) -> None:
        try:
            return function(*args, **fields)
        except TypeError:  # looking first would cost every call what looking afterwards costs few
            if len(args) == positional and _FIELDS.issuperset(fields):
                raise
        for field in [key for key in fields if key not in _FIELDS]:
            fields.pop(field)
            meant = difflib.get_close_matches(field, FIELDS, 1)
            hint = f"did you mean {meant[0]}?" if meant else f"it takes {', '.join(FIELDS)}"
            log_once("%s() has no parameter %r: %s", name, field, hint)
            count("refused:parameter")
        if len(args) > positional:
            log_once("%s() takes keyword arguments only, such as agent='billing'; %r is ignored", name, args[-1])
            count("refused:parameter", len(args) - positional)
        return function(*args[:positional], **fields)

    return cast("Callable[P, None]", called)


@_forgiving
def set_context(
    *,
    agent: str | None = None,
    agent_id: str | UUID | None = None,
    user_id: str | int | UUID | None = None,
    user_role: str | None = None,
    session_id: str | int | UUID | None = None,
    workflow_id: str | int | UUID | None = None,
) -> None:
    """Say who acts, for whom, in which piece of work, from here on in the current context.

    Fields merge into those already in force: `None` keeps a field, `""` clears it. A later explicit agent replaces
    an earlier one whole: `agent=` drops an older `agent_id`, and `agent_id=` drops an older name.

    Args:
        agent: Name of the logical agent. Names that differ in case or surrounding space are one agent.
        agent_id: The agent's UUID, where you manage ids yourself. Wins over everything else.
        user_id: The end customer the calls serve.
        user_role: A free-form label of that user, such as `"admin"`.
        session_id: The conversation.
        workflow_id: The orchestrated piece of work that several calls belong to.

    Never raises: a value of another type, over 256 characters, with control characters, or an `agent_id` that is no
    UUID is refused with one log line, and so is a parameter that does not exist; the rest applies.

    Made inside a span's scope, it ends with that scope. For a bounded stretch of code prefer `context()`.
    """
    changes = _checked(agent, agent_id, user_id, user_role, session_id, workflow_id)
    attach(_merged(get_current(), changes, _NOTHING))


def clear_context() -> None:
    """Drop every fact of the current context; other people's baggage stays."""
    attach(_merged(get_current(), ("",) * len(FIELDS), _NOTHING))


def _checked(
    agent: object, agent_id: object, user_id: object, user_role: object, session_id: object, workflow_id: object
) -> tuple[str | None, ...]:
    """What changes, in the order of `Facts`: None keeps, `""` clears. Refused values change nothing."""
    agent = None if agent is None else _text("agent", agent)
    agent_id = None if agent_id is None else _text("agent_id", agent_id)
    # A later explicit agent replaces an earlier one whole.
    if agent is not None and agent_id is None:
        agent_id = ""
    elif agent_id and agent is None:
        agent = ""
    return (  # written out, as in `_merged`: a loop costs as much as all the rest
        agent,
        agent_id,
        None if user_id is None else _text("user_id", user_id),
        None if user_role is None else _text("user_role", user_role),
        None if session_id is None else _text("session_id", session_id),
        None if workflow_id is None else _text("workflow_id", workflow_id),
    )


def _text(field: str, value: object) -> str | None:
    """The value as it is kept, or None if it is refused."""
    if type(value) is str and value.isprintable() and len(value) <= MAX_VALUE_CHARS and field != "agent_id":
        return value.strip()  # nearly all are
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        text = str(value)
    elif isinstance(value, str):
        text = str.__str__(value).strip()  # of a str enum, its value
    else:
        return _refuse(field, value, "str, int or UUID")
    if len(text) > MAX_VALUE_CHARS:
        return _refuse(field, text[:32] + "…", f"at most {MAX_VALUE_CHARS} characters, not {len(text)}")
    if _UNPRINTABLE.search(text):
        return _refuse(field, text, "text without control characters")
    if field == "agent_id" and text:
        try:
            return str(UUID(text))
        except ValueError:
            return _refuse(field, text, "a UUID")
    return text


def _refuse(field: str, value: object, allowed: str) -> None:
    shown = repr(value) if isinstance(value, (str, bytes)) else f"a {type(value).__name__}"
    log_once("%s=%s is ignored: it must be %s", field, shown[:100], allowed)
    count(f"refused:{field}")


def _merged(ctx: Context, changes: Sequence[str | None], more: Mapping[str, object]) -> Context:
    """`ctx` with these changes to its facts, and with `more` values."""
    held, own = held_in(ctx), cast("_Own | None", ctx.get(_OWN))
    if held is None and own is not None and own.members is ctx.get(_BAGGAGE):
        before, others = own.facts, own.others
    else:
        before, others = facts_of(ctx), others_in(ctx)
    agent, agent_id, user_id, user_role, session_id, workflow_id = changes
    facts: Facts = _new(
        Facts,
        (
            before[0] if agent is None else agent or None,
            before[1] if agent_id is None else agent_id or None,
            before[2] if user_id is None else user_id or None,
            before[3] if user_role is None else user_role or None,
            before[4] if session_id is None else session_id or None,
            before[5] if workflow_id is None else workflow_id or None,
        ),
    )
    if held is not None:  # inside a call's own machinery: the baggage stays empty until the request is over
        return Context(ctx, **{_HELD: held._replace(facts=facts, attributes=None)}, **more)
    return _with(ctx, facts, others, more)


def hold(ctx: Context, held: Held, span: Span | None = None) -> Context:
    """`ctx` with a call in flight, and its span: its facts are where spans find them, and no propagator does."""
    inside: dict[str, object] = {**ctx, _HELD: held}
    if span is not None:
        inside[_SPAN] = span
    if ctx.get(_BAGGAGE):
        inside[_BAGGAGE] = others_in(ctx)
    return Context(inside)


# --- scopes ----------------------------------------------------------------------------------------------------------


class _Scope(NamedTuple):
    """An open block: whose it is, what to restore, and the block around it.

    The chain of open blocks lives in the OTel context itself. A block that ends looks itself up there: where it is not
    found, this is another context (an abandoned generator closed elsewhere) and there is nothing to restore. So
    nothing is ever detached in the wrong place, and no stale value comes back.
    """

    owner: context
    before: Context
    outer: _Scope | None


class context:  # noqa: N801 - it reads as a verb: `with egisai.context(agent="billing"):`
    """Facts for a bounded stretch of code: a `with` or `async with` block, or a decorator.

    Takes the parameters of `set_context` with the same meaning. As a decorator it works on functions, coroutine
    functions, generators and async generators; it covers their whole body, and what consumes a decorated generator is
    never attributed to it. (A bare `with` around a `yield` does show through to the consumer, as every context manager
    does: decorate the generator instead.)

    An instance may be entered again, also while it is open, and by many threads and tasks at once.
    """

    __slots__ = ("_changes",)

    @_forgiving
    def __init__(
        self,
        *,
        agent: str | None = None,
        agent_id: str | UUID | None = None,
        user_id: str | int | UUID | None = None,
        user_role: str | None = None,
        session_id: str | int | UUID | None = None,
        workflow_id: str | int | UUID | None = None,
    ) -> None:
        self._changes = _checked(agent, agent_id, user_id, user_role, session_id, workflow_id)

    def __enter__(self) -> None:
        before = get_current()
        scope = _new(_Scope, (self, before, before.get(_SCOPE)))
        attach(_merged(before, self._changes, {_SCOPE: scope}))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope = cast("_Scope | None", get_current().get(_SCOPE))
        while scope is not None and scope.owner is not self:
            scope = scope.outer
        if scope is not None:
            attach(scope.before)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, traceback)

    def __call__(self, function: F) -> F:
        if inspect.isasyncgenfunction(function):
            decorated = _async_generator(function, self)
        elif inspect.isgeneratorfunction(function):
            decorated = _generator(function, self)
        elif inspect.iscoroutinefunction(function):
            decorated = self._coroutine(function)
        else:
            decorated = self._function(function)
        return cast(F, functools.wraps(function)(decorated))

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return call


def _generator(function: Callable[..., Any], owner: context | Context) -> Callable[..., Any]:
    """The generator function, each step of its body run inside `owner`, and its consumer outside."""

    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps, inner = function(*args, **kwargs), _Inner(owner)
        step, value = steps.send, None
        while True:
            with inner:
                try:
                    item = step(value)
                except StopIteration as stop:
                    return stop.value
                finally:
                    value = None  # an exception would hold this frame, which would hold it
            try:
                step, value = steps.send, (yield item)
            except BaseException as exc:  # noqa: BLE001 - thrown in by the consumer, for the generator
                step, value = steps.throw, exc

    return call


def _async_generator(function: Callable[..., Any], owner: context | Context) -> Callable[..., Any]:
    """As `_generator`. Steps run in the consumer's own task, so its timeouts and cancellation reach the body."""

    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps, inner = function(*args, **kwargs), _Inner(owner)
        step = _first(steps)
        while True:
            with inner:
                try:
                    item = await step
                except StopAsyncIteration:
                    return
                finally:
                    step = None
            try:
                step = steps.asend((yield item))
            except BaseException as exc:  # noqa: BLE001 - thrown in by the consumer, for the generator
                step = steps.athrow(exc)

    return call


def _first(steps: AsyncGenerator[Any, Any]) -> Any:
    """The first step of an async generator that another one drives, made so that only the other is known to the loop.

    A loop that ends closes every generator it knows, all at once, and the garbage collector tells it of each it finds:
    the inner one would be closed while the outer closes it, and outside its scope.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=_left_to_outer)
    try:
        return steps.asend(None)  # takes the hooks for good
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _left_to_outer(steps: object) -> None: ...


class _Inner:
    """The context inside a decorated generator: in force during its steps, kept between them, unseen outside."""

    __slots__ = ("_inside", "_outside", "_owner")

    def __init__(self, owner: context | Context) -> None:
        self._owner = owner
        self._inside: Context | None = None
        self._outside = get_current()

    def __enter__(self) -> None:
        self._outside = get_current()
        if self._inside is not None:
            attach(self._inside)
        elif isinstance(self._owner, context):
            self._owner.__enter__()
        else:
            attach(self._owner)

    def __exit__(self, *_: object) -> None:
        self._inside = get_current()
        attach(self._outside)


# --- carrying it elsewhere -------------------------------------------------------------------------------------------


def propagate(function: F) -> F:
    """The same function, bound to the context of here and now, for anything that would run it elsewhere.

    `threading.Thread(target=egisai.propagate(work))`: facts and active span of the caller apply inside `work`, and
    whoever runs it keeps its own context. Of coroutine functions and generators the whole body is covered. (Jobs of
    thread pools and asyncio tasks need no help.)

    `processes.submit(egisai.propagate(work), x)`: where `work` can be pickled, so can what this returns. In the other
    process the same facts apply, spans are children of the caller's, and other people's baggage is there as text; the
    rest of the context stays behind.
    """
    carried = get_current()
    if inspect.isasyncgenfunction(function):
        bound_to = _async_generator(function, carried)
    elif inspect.isgeneratorfunction(function):
        bound_to = _generator(function, carried)
    elif inspect.iscoroutinefunction(function):
        bound_to = _bound_coroutine(function, carried)
    else:
        return cast(F, _Propagated(function, carried))
    return cast(F, functools.wraps(function)(bound_to))


def bound(function: Callable[..., Any], carried: Context) -> Callable[..., Any]:
    """`function`, run in the OTel context `carried`; its runner's own is back when it ends."""

    def run(*args: Any, **kwargs: Any) -> Any:
        before = get_current()
        attach(carried)
        try:
            return function(*args, **kwargs)
        finally:
            attach(before)

    return run


def bound_steps(steps: Any, carried: Context) -> Any:
    """A generator, async or not, for `steps`, which has yet to begin: each step runs in the OTel context `carried`."""
    if inspect.isasyncgen(steps):
        ours: Any = _async_generator(lambda: steps, carried)()
    else:
        ours = _generator(lambda: steps, carried)()
    ours.__name__, ours.__qualname__ = steps.__name__, steps.__qualname__
    return ours


def _bound_coroutine(function: Callable[..., Any], carried: Context) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        before = get_current()
        attach(carried)
        try:
            return await function(*args, **kwargs)
        finally:
            attach(before)

    return run


class _Propagated:
    """A bound function that can be pickled, which a closure cannot."""

    def __init__(self, function: Callable[..., Any], carried: Context) -> None:
        functools.update_wrapper(self, function)
        self._egisai_function = function
        self._egisai_carried = carried

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        before = get_current()
        attach(self._egisai_carried)
        try:
            return self._egisai_function(*args, **kwargs)
        finally:
            attach(before)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return _propagated, (self._egisai_function, *_packed(self._egisai_carried))


class _Caller(NonRecordingSpan):
    """The caller's span as another process knows it: spans below it belong to the same agent as they would there."""

    def __init__(self, told: SpanContext, attributes: Mapping[str, Any]) -> None:
        super().__init__(told)
        self.attributes = attributes


def _packed(ctx: Context) -> tuple[object, ...]:
    """What another process can use of `ctx`, as plain values; `_propagated` takes it."""
    facts = tuple(facts_of(ctx)) if is_own(ctx) or held_in(ctx) is not None else None
    others = {key: str(value) for key, value in others_in(ctx).items()}  # as in a header
    span = span_in(ctx)
    if span is None:
        return facts, others, None, {}
    told, attributes = span.get_span_context(), cast("Mapping[str, Any]", getattr(span, "attributes", None) or {})
    told = SpanContext(told.trace_id, told.span_id, True, told.trace_flags, told.trace_state)
    return facts, others, told, {name: attributes[name] for name in _INHERITED if name in attributes}


def _propagated(
    function: Callable[..., Any],
    facts: tuple[str | None, ...] | None,
    others: dict[str, object],
    caller: SpanContext | None,
    attributes: Mapping[str, Any],
) -> _Propagated:
    """Unpickles a `_Propagated`. The context that it brings comes from its own program, through a pipe of its own."""
    ctx = with_others(Context(), others) if others else Context()
    if caller is not None:
        ctx = trace.set_span_in_context(_Caller(caller, attributes), ctx)
    return _Propagated(function, ctx if facts is None else with_facts(ctx, Facts(*facts)))
