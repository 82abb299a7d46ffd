"""What must hold, said without any machinery: for every call of a program, what its span says and what is in force.

An actor has an immutable map of facts. A block puts back what was there before it; an actor starts with a copy of its
parent's map or with an empty one, by its kind; a generator has a map of its own, begun by whoever takes its first
step. Actors share nothing, so the order in which they run cannot matter, and the model runs them one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from tests.stress.program import (
    Baggage,
    Call,
    Clear,
    Generate,
    Hang,
    Later,
    Place,
    Program,
    ProgramError,
    Raise,
    Scope,
    Set,
    Span,
    Spawn,
    Step,
    Steps,
    Stream,
    Try,
    Yield,
    carrier_of,
    fitting,
    inherits,
    values,
)

from egisai import fingerprint, semconv
from egisai.identity import agent_id

APP = "app"
PROMPT = "You are the refunds assistant. Be brief."
Attributes = Mapping[str, Any]
_NOTHING: Final[Mapping[str, Any]] = {}


class Cancelled(BaseException):
    """Where a task is cancelled."""


class Seen(NamedTuple):
    """At a call: its span's attributes, the facts in force, and somebody else's baggage."""

    attributes: Attributes
    facts: Mapping[str, str]
    tenant: str | None


class OpenScope(NamedTuple):
    """The innermost open scope: whose it is, what was there before it, and the one around it."""

    owner: object
    before: Env
    outer: OpenScope | None


class Env(NamedTuple):
    facts: Mapping[str, str] = _NOTHING
    shaped: bool = False
    """Whether we wrote to this context: then what it lacks it lacks on purpose."""
    span: Attributes = _NOTHING
    """What the active span says."""
    tenant: str | None = None
    scope: OpenScope | None = None

    def merged(self, changes: Mapping[str, str]) -> Env:
        gone = {field for field, value in changes.items() if value == ""}
        if "agent" in changes and "agent_id" not in changes:
            gone.add("agent_id")
        if changes.get("agent_id") and "agent" not in changes:
            gone.add("agent")
        facts = {field: value for field, value in {**self.facts, **changes}.items() if field not in gone}
        return self._replace(facts=facts, shaped=True)

    def attributes(self, framework: str | None = None, prompt: bool = False) -> Attributes:
        """Of a span that starts here: who, for whom."""
        says_nothing = not self.facts and not self.shaped
        made = self._who(framework, prompt, says_nothing)
        if says_nothing:
            return made | {name: self.span[name] for name in _ABOUT.values() if name in self.span}
        for field, name in _ABOUT.items():
            if field in self.facts:
                made[name] = (self.facts[field],) if field == "user_role" else self.facts[field]
        return made

    def _who(self, framework: str | None, prompt: bool, says_nothing: bool) -> dict[str, Any]:
        around = self.span.get(semconv.AGENT_SOURCE)
        if "agent_id" in self.facts:
            id_ = self.facts["agent_id"]
            return _agent(id_, self.facts.get("agent", id_ if framework else None), "id")
        if "agent" in self.facts:
            return _named(self.facts["agent"], "name")
        if framework is not None:
            return _named(framework, "framework")
        if around == "framework" or (around in ("id", "name") and says_nothing):
            return {name: self.span[name] for name in _AGENT if name in self.span}
        if prompt:
            found = fingerprint.of((PROMPT,))
            who = _agent(agent_id("default", "fingerprint", found.digest), found.name, "fingerprint")
            return who | {semconv.PROMPT_FINGERPRINT: found.digest}
        return _named(APP, "app")


_AGENT = (semconv.AGENT_ID, semconv.AGENT_NAME, semconv.AGENT_SOURCE)
_ABOUT = {
    "user_id": semconv.USER_ID,
    "user_role": semconv.USER_ROLES,
    "session_id": semconv.SESSION_ID,
    "workflow_id": semconv.WORKFLOW_ID,
}


def _agent(id_: str, name: str | None, source: str) -> dict[str, Any]:
    who = {semconv.AGENT_ID: id_, semconv.AGENT_NAME: name, semconv.AGENT_SOURCE: source}
    return {key: value for key, value in who.items() if value is not None}


def _named(name: str, source: str) -> dict[str, Any]:
    return _agent(agent_id("default", "name", name), name, source)


class _Actor:
    def __init__(self, place: Place, env: Env) -> None:
        self.place = place
        self.env = env


class Model:
    """`expected`: by place of the call."""

    def __init__(self, program: Program) -> None:
        self.expected: dict[str, Seen] = {}
        self.actors = 0
        self._otel = program.otel
        for copy in range(program.copies):
            self._act(Place(), Env(), program.body, str(copy))

    def _act(self, place: Place, env: Env, body: Steps, at: str) -> None:
        self.actors += 1
        with suppress(ProgramError, Cancelled):
            for _ in self._steps(_Actor(place, env), body, at):
                raise AssertionError("only generators yield")

    def _steps(self, me: _Actor, steps: Steps, at: str) -> Iterator[None]:
        for i, step in enumerate(steps):
            yield from self._step(me, step, f"{at}.{i}")

    def _within(self, me: _Actor, env: Env, body: Steps, at: str) -> Iterator[None]:
        before, me.env = me.env, env
        try:
            yield from self._steps(me, body, at)
        finally:
            me.env = before

    @contextmanager
    def _scope(self, me: _Actor, fields: tuple[str, ...] | None, at: str, shared: bool = False) -> Iterator[None]:
        if fields is None:
            yield
            return
        owner = fields if shared else at
        me.env = me.env.merged(values(fields, at, shared))._replace(scope=OpenScope(owner, me.env, me.env.scope))
        try:
            yield
        finally:
            scope = me.env.scope
            while scope is not None and scope.owner != owner:
                scope = scope.outer
            if scope is not None:  # else it ends in a context in which it never began
                me.env = scope.before

    def _step(self, me: _Actor, step: Step, at: str) -> Iterator[None]:
        env = me.env
        match step:
            case Set(fields):
                me.env = env.merged(values(fields, at))
            case Clear():
                me.env = env._replace(facts={}, shaped=True)
            case Baggage(key):
                if key == "tenant":
                    me.env = env._replace(tenant=at)
                else:  # taken away or replaced, ours is gone
                    gone = key.removeprefix("-").removeprefix("egisai.")
                    me.env = env._replace(facts={field: fact for field, fact in env.facts.items() if field != gone})
            case Call("handler"):
                self._see(env, at, env._replace(facts={}, shaped=False).attributes())
            case Call(how):
                self._see(env, at, env.attributes(prompt=how == "prompted"))
            case Yield() if me.place.generates:
                yield
            case Hang() if me.place.can_hang:
                raise Cancelled
            case Raise():
                raise ProgramError
            case Scope(fields, body, _, shared):
                with self._scope(me, fields, at, shared):
                    yield from self._steps(me, body, at)
            case Span(body, framework) if me.place.stays:
                attributes = env.attributes(f"framework@{at}" if framework else None)
                self._see(env, at, attributes)
                yield from self._within(me, env._replace(span=attributes), body, at)
            case Span(body):
                yield from self._steps(me, body, at)
            case Stream(body):
                self._see(env, at, env.attributes())
                yield from self._steps(me, body, at)
            case Try(body, handler):
                try:
                    yield from self._steps(me, body, at)
                except (ProgramError, Cancelled, GeneratorExit) as exc:
                    yield from self._steps(me, handler, f"{at}.h")
                    if not isinstance(exc, ProgramError):
                        raise
            case Spawn(kind, body):
                kind = fitting(kind, me.place)
                self._act(me.place.spawned(kind), self._start(kind, env), body, at)
            case Later(body, between):
                yield from self._steps(me, between, f"{at}.b")
                if me.place.bare:  # not bound there
                    yield from self._steps(me, body, at)
                else:
                    yield from self._within(me, env, body, at)
            case Generate():
                yield from self._generate(me, step, at)

    def _generate(self, me: _Actor, step: Generate, at: str) -> Iterator[None]:
        inner = _Actor(me.place.generator(step), Env())
        generator = self._steps(inner, step.body, at)

        def act(kind: str, action: Callable[[], object]) -> object:
            if step.fields is None:
                inner.env = self._start(kind, me.env)
            try:
                return action()
            finally:
                if step.fields is None and kind == "inline":
                    me.env = inner.env

        for i, use in enumerate(step.uses):
            kind = carrier_of(use, inner.place.is_async, me.place)
            if i == 0 and step.fields is not None:
                with self._scope(me, use.fields, f"{at}.s{i}"):
                    inner.env = self._start(kind, me.env).merged(values(step.fields, at, step.shared))
            with self._scope(me, use.fields, f"{at}.s{i}"):
                if act(kind, lambda: next(generator, "ended")) == "ended":
                    return
            try:
                yield from self._steps(me, use.between, f"{at}.u{i}")
            except BaseException:
                act("inline", generator.close)
                raise
        if step.end == "exhaust":
            act("inline", lambda: list(generator))
        elif step.end == "throw":
            with suppress(StopIteration, ProgramError):
                act("inline", lambda: generator.throw(ProgramError()))
        elsewhere = step.end == "drop" and inner.place.is_async  # the loop closes it, in a task of its own
        act("task" if elsewhere else "inline", generator.close)

    def _start(self, kind: str, env: Env) -> Env:
        return env if inherits(kind, self._otel) else Env()

    def _see(self, env: Env, at: str, attributes: Attributes) -> None:
        assert at not in self.expected
        self.expected[at] = Seen(attributes, env.facts, env.tenant)
