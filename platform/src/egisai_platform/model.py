"""What the platform knows, as plain data: the seam between the store, the JSON API and the dashboard.

Field names are the words of the JSON API. Times are timezone-aware UTC, durations are in milliseconds,
money is in US dollars, and a number nobody can know (an unpriced model) is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

Status = Literal["ok", "error", "incomplete"]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a set of calls adds up to."""

    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    unpriced_calls: int = 0
    """Calls whose model has no known price: `cost_usd` is a lower bound when this is not 0."""
    first_seen: datetime | None = None
    last_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of the registry, with what it did in the time asked for."""

    id: str
    name: str
    source: str
    """How it was first known: id, name, framework, fingerprint or app."""
    description: str
    totals: Totals
    models: Sequence[str] = ()
    fingerprints: Sequence[str] = ()
    merged_ids: Sequence[str] = ()
    """Ids that stand for this agent: merged into it by an operator, or near-identical prompts."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt whose calls are an agent's."""

    fingerprint: str
    agent_id: str
    """The id that the prompt alone has."""
    name: str
    """What it was called when it was first heard of."""
    first_seen: datetime
    last_seen: datetime | None
    """Its last call in the time asked for."""
    calls: int
    """In the time asked for."""
    ruled_by: Literal["sketch", "operator"] | None
    """Who decided that it is part of the agent, or that it is one by itself: its likeness, or an operator."""
    ruled_on: datetime | None
    own: bool
    """Whether the agent's id is this prompt's."""
    followers: int = 0
    """Other ids that leave with it when it is split off: what was merged into it."""


@dataclass(frozen=True, slots=True)
class Parted:
    """An agent that an operator merged or split off, seen from the other one."""

    id: str
    name: str
    source: str
    on: datetime | None
    """When; None for what was decided before the platform noted it."""


@dataclass(frozen=True, slots=True)
class AgentDetail(Agent):
    """An agent with where it came from."""

    prompts: Sequence[Prompt] = ()
    """Its own first, then those that operators ruled on and the newest; at most 500."""
    prompt_count: int = 0
    """All there are."""
    merged: Sequence[Parted] = ()
    """What operators merged into it that is known by name, not by a prompt; at most 500."""
    split_from: Parted | None = None
    """The agent that an operator took it out of."""
    split_off: Sequence[Parted] = ()
    """What operators took out of it, the newest first; at most 500."""


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM client call: one client span."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    start_time: datetime
    duration_ms: float
    operation: str
    provider: str
    request_model: str
    response_model: str
    agent_id: str
    agent_name: str
    agent_source: str
    user_id: str
    user_role: str
    session_id: str
    workflow_id: str
    app: str
    env: str
    status: Status
    error_type: str
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    finish_reasons: Sequence[str]
    time_to_first_chunk_ms: float | None
    streamed: bool
    cost_usd: float | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CallDetail:
    """A call with everything its span carried. Text in here is hostile input."""

    call: Call
    status_message: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    trace: Sequence[Call]
    """Every call of the same trace, in time order, this one included."""


@dataclass(frozen=True, slots=True)
class Group:
    """A user, a session or a workflow: its id and what its calls add up to."""

    id: str
    totals: Totals
    agents: Sequence[str] = ()
    """Names of the agents that took part."""
    users: Sequence[str] = ()
    sessions: Sequence[str] = ()
    workflows: Sequence[str] = ()
    traces: int = 0


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow with its calls in time order."""

    group: Group
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class Point:
    """One bucket of a time series."""

    time: datetime
    calls: int
    errors: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Stats:
    totals: Totals
    agents: int
    users: int
    sessions: int
    workflows: int
    series: Sequence[Point]
    bucket_s: int
    last_call: datetime | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What the URL asks for. Every field that is None or empty does not filter."""

    agent: str | None = None
    agent_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    workflow_id: str | None = None
    fingerprint: str | None = None
    model: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, and the cursor of the next one (None at the end)."""

    items: Sequence[Any] = field(default_factory=tuple)
    next_cursor: str | None = None


class Reader(Protocol):
    """What the API and the dashboard ask. Every method sees one organisation's data and no other's."""

    def stats(self, organisation: str, where: Filter) -> Stats: ...
    def agents(self, organisation: str, where: Filter) -> Sequence[Agent]: ...
    def agent(self, organisation: str, agent_id: str, where: Filter) -> AgentDetail | None: ...
    def calls(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first; `items` are `Call`s. Raises ValueError for a cursor that is not ours."""
        ...

    def call(self, organisation: str, trace_id: str, span_id: str) -> CallDetail | None: ...
    def users(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page: ...
    def sessions(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page: ...
    def workflows(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page: ...
    def workflow(self, organisation: str, workflow_id: str) -> Workflow | None: ...
