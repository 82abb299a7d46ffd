"""A program that Hypothesis draws: actors of every kind in which Python runs code, and what each of them does.

A program is plain data, so that it shrinks, prints and can be pasted back. A step that does not fit where it stands
is read as the nearest one that does (see `fitting` and `Place`), so every combination is a program. What a step sets
is named after where it stands, so no two steps set the same value and every mixture shows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from uuid import NAMESPACE_OID, uuid5

from hypothesis import strategies as st

FIELDS: Final = ("agent", "agent_id", "user_id", "user_role", "session_id", "workflow_id")

# --- steps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Set:
    """`set_context`: each field to a value of its own, or cleared where its name has a minus."""

    fields: tuple[str, ...]


@dataclass(frozen=True)
class Clear:
    """`clear_context`."""


@dataclass(frozen=True)
class Baggage:
    """A baggage member that somebody else writes, or takes away (`-`), under a name of theirs or of ours."""

    key: str


@dataclass(frozen=True)
class Call:
    """`span`, `handler` (a span in a context with nothing but its parent span, if that), `create` or `prompted` (a real
    client's calls)."""

    how: str = "span"


@dataclass(frozen=True)
class Pause:
    """Let others run: an await, or a rendezvous with another thread."""


@dataclass(frozen=True)
class Yield:
    """In a generator, a `yield`."""


@dataclass(frozen=True)
class Hang:
    """In a task that is going to be cancelled, wait for that."""


@dataclass(frozen=True)
class Raise:
    """Raise `ProgramError`."""


@dataclass(frozen=True)
class Scope:
    """`egisai.context`, as `with`, `async with`, or decorator of a `function` or a `coroutine`. A shared one is the
    same instance for whoever has the same fields."""

    fields: tuple[str, ...]
    body: Steps
    how: str = "with"
    shared: bool = False


@dataclass(frozen=True)
class Span:
    """A span's scope; `framework`: the span names an agent, as frameworks do."""

    body: Steps
    framework: bool = False


@dataclass(frozen=True)
class Stream:
    """A real client's streamed call; `body` runs before the stream is read."""

    body: Steps


@dataclass(frozen=True)
class Try:
    """`body`; on an exception the handler, which passes on what is no `ProgramError`."""

    body: Steps
    handler: Steps


@dataclass(frozen=True)
class Spawn:
    """Another actor, waited for at once or only at this one's end."""

    kind: str
    body: Steps
    at_end: bool = True


@dataclass(frozen=True)
class Later:
    """`propagate`: `body` is bound now and runs here, after `between`."""

    body: Steps
    between: Steps


@dataclass(frozen=True)
class Use:
    """A step of a generator taken by `carrier`, inside a scope of the consumer's where there are fields for one, then
    something of the consumer's own."""

    carrier: str
    between: Steps
    fields: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Generate:
    """A generator, consumed, and left in one way or another. It is decorated with a scope; where `fields` is None it is
    bare, and what it does to the context shows in whoever takes its steps. Shared ones with the same fields come from
    the same decorated function."""

    kind: str
    fields: tuple[str, ...] | None
    body: Steps
    uses: tuple[Use, ...]
    end: str
    shared: bool = False


Step: TypeAlias = (
    Set | Clear | Baggage | Call | Pause | Yield | Hang | Raise | Scope | Span | Stream | Try | Spawn | Later | Generate
)
Steps: TypeAlias = Sequence[Step]


@dataclass(frozen=True)
class Program:
    """`body`, run by `copies` tasks at once; `otel`: with OpenTelemetry's threading instrumentor on."""

    body: Steps
    copies: int = 1
    otel: bool = False


class ProgramError(Exception):
    """What a program raises."""


def values(fields: Sequence[str], at: str, shared: bool = False) -> dict[str, str]:
    """What `fields` are set to by the step at `at`, or by all who share them."""
    at = "shared" if shared else at
    named = {field.lstrip("-"): "" if field.startswith("-") else f"{field}@{at}" for field in fields}
    if named.get("agent_id"):
        named["agent_id"] = str(uuid5(NAMESPACE_OID, at))
    return named


# --- actors ----------------------------------------------------------------------------------------------------------

SYNC_KINDS: Final = ("thread", "propagated", "pool", "map", "loop")
ASYNC_KINDS: Final = ("task", "cancelled", "run_in_executor", "to_thread")
_NEAREST: Final = {"task": "loop", "cancelled": "loop", "run_in_executor": "pool", "to_thread": "pool"}
_BARE: Final = ("thread", "loop")  # `loop` is a thread with an event loop of its own


@dataclass(frozen=True)
class Place:
    """What is possible where a step stands."""

    is_async: bool = True
    generates: bool = False
    can_hang: bool = False
    stays: bool = True
    """False in a generator whose steps are taken in several contextvars contexts: there OTel's span scopes cannot
    end ("was created in a different Context"), ours can."""
    bare: bool = False
    """In a generator that is not decorated."""
    depth: int = 0
    """A job waits only for deeper ones, and each depth has a pool of its own: no deadlock."""

    def spawned(self, kind: str) -> Place:
        return Place(kind in ("task", "cancelled", "loop"), can_hang=kind == "cancelled", depth=self.depth + 1)

    def generator(self, step: Generate) -> Place:
        is_async = self.is_async and step.kind == "async"
        inline = all(carrier_of(use, is_async, self) == "inline" for use in step.uses)
        return replace(
            self,
            is_async=is_async,
            generates=True,
            can_hang=self.can_hang and is_async and inline,
            stays=self.stays and inline and not (is_async and step.end == "drop"),
            bare=step.fields is None,
            depth=self.depth + 1,
        )


def fitting(kind: str, place: Place) -> str:
    """The kind of actor that `place` can start in the place of `kind`."""
    return kind if place.is_async else _NEAREST.get(kind, kind)


def carrier_of(use: Use, generator_is_async: bool, consumer: Place) -> str:
    """Who takes that step."""
    if use.carrier == "inline":
        return "inline"
    if generator_is_async:
        return "task"
    kind = fitting(use.carrier, consumer)
    return "propagated" if kind in ("task", "cancelled", "loop") else kind


def inherits(kind: str, otel: bool) -> bool:
    """Whether what `kind` of actor runs starts in the context of whoever started it."""
    return kind not in _BARE or otel


# --- drawing ---------------------------------------------------------------------------------------------------------


def _weighted(*choices: tuple[int, st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    """`one_of` with weights, which shrinks towards the first."""
    return st.sampled_from([i for i, (weight, _) in enumerate(choices) for _ in range(weight)]).flatmap(
        lambda i: choices[i][1]
    )


_changes = st.lists(st.sampled_from(FIELDS + tuple(f"-{field}" for field in FIELDS)), min_size=1, max_size=4).map(
    lambda fields: tuple({field.lstrip("-"): field for field in fields}.values())
)
_shared = st.sampled_from([("agent", "user_id"), ("agent", "user_id"), ("agent_id", "-session_id")])
_quiet = _weighted(  # also while something is unwound
    (6, st.just(Call())),
    (6, st.builds(Set, _changes)),
    (3, st.just(Pause())),
    (1, st.just(Clear())),
    (2, st.just(Call("handler"))),
    (2, st.sampled_from(["tenant", "egisai.user_id", "egisai.agent", "-egisai.session_id"]).map(Baggage)),
)
_leaves = _weighted((12, _quiet), (4, st.just(Yield())), (1, st.sampled_from(["create", "prompted"]).map(Call)))
_ends = st.sampled_from([Call()] * 7 + [Hang()] * 2 + [Raise()])
_kinds = st.sampled_from(ASYNC_KINDS + SYNC_KINDS)
_carriers = st.sampled_from(["inline"] * 8 + [*ASYNC_KINDS, *SYNC_KINDS])


def _ending(steps: Steps, step: Step) -> Steps:
    """A program that looks at nothing shows nothing: nearly every body ends with a call."""
    return [*steps, step]


def _suspended(first: Steps, inner: Steps, handler: Steps) -> Steps:
    """Of a generator: suspended twice inside a scope, and with something to do when it is left there."""
    inside = Try([Yield(), *inner, Yield()], handler)
    return [*first, Scope(("workflow_id",), [inside]), Yield(), Call()]


def _blocks(body: st.SearchStrategy[Steps]) -> st.SearchStrategy[Step]:
    some = st.builds(_ending, st.lists(_quiet, max_size=3), st.just(Call()))
    scoped = st.sampled_from([None, None, ("agent", "user_id"), ("session_id",)])
    uses = st.lists(st.builds(Use, _carriers, some | body, scoped), min_size=1, max_size=4).map(tuple)
    kinds, suspended = st.sampled_from(["async", "sync"]), st.builds(_suspended, some, body, some)
    exits = st.sampled_from(["exhaust", "close", "throw", "drop"])
    hows = st.sampled_from(["with", "async with", "function", "coroutine"])
    return _weighted(
        (6, st.builds(Spawn, _kinds, body, st.booleans())),
        (2, st.builds(Scope, _changes, body, hows)),
        (3, st.builds(Scope, _shared, body, hows, st.just(True))),
        (2, st.builds(Generate, kinds, _changes, suspended | body, uses, exits)),
        (2, st.builds(Generate, kinds, _shared, suspended | body, uses, exits, st.just(True))),
        (1, st.builds(Generate, kinds, st.none(), suspended | body, uses, exits)),
        (2, st.builds(Span, body, st.booleans())),
        (2, st.builds(Try, body, some)),
        (2, st.builds(Later, body, some)),
        (1, st.builds(Stream, some)),
    )


def _bodies(levels: int) -> st.SearchStrategy[Steps]:
    if levels == 0:
        return st.builds(_ending, st.lists(_leaves, min_size=1, max_size=4), _ends)
    inner = st.deferred(lambda: _bodies(levels - 1))
    steps = _weighted((2, _leaves), (3, _blocks(inner)))
    return st.builds(_ending, st.lists(steps, min_size=2, max_size=6), _ends)


@st.composite
def programs(draw: st.DrawFn, copies: st.SearchStrategy[int], spawns: int = 0) -> Program:
    """Programs of three levels of blocks, actors among them; and before that, so many actors at once."""
    many = draw(st.lists(st.builds(Spawn, _kinds, _bodies(1)), min_size=spawns, max_size=spawns))
    drawn = Program([*many, *draw(_bodies(3))], draw(copies), draw(st.sampled_from([False, False, True])))
    # Hypothesis prints what it saw being built by how it was drawn, in time exponential in the depth; a copy it prints
    # as it is.
    return copy.deepcopy(drawn)
