"""What the examples' calls must look like on the platform, and the checks that compare.

The expectations are written out here, apart from the examples, so that a mistake in an example is noticed too. They
hold for the local provider and for a real endpoint alike: nothing here depends on what a model answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from egisai.identity import agent_id

Json = Mapping[str, Any]

TENANT = "acme"
"""The tenant that `saas.py` and the demo filter out."""


class Row(NamedTuple):
    """Everything of a call that attribution and the example decide."""

    agent: str
    source: str
    operation: str = "chat"
    streamed: bool = False
    user_id: str = ""
    user_role: str = ""
    session_id: str = ""
    max_tokens: int | None = None
    """Only where the example sends a different one with each request, as a mark that no context can change."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example, what it shows, and the calls it makes."""

    name: str
    """Its file is `<name>.py`."""
    shows: str
    app: str
    rows: Sequence[Row]
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: str = ""
    """The command put before `python <file>`."""
    is_marked: bool = False
    """Whether `Row.max_tokens` counts."""
    workflow: Sequence[str] = ()
    """The agents of its workflow in the order in which their calls start."""

    @property
    def file(self) -> str:
        return f"{self.name}.py"


@dataclass(frozen=True, slots=True)
class Observed:
    """What the platform's API says about one run."""

    organisation: str
    calls: Sequence[Json]
    agents: Sequence[Json]
    tenant: Sequence[Json]
    """The calls that the filter `user_id=TENANT` lets through."""
    workflows: Mapping[str, Json]
    """By id."""
    max_tokens: Mapping[str, int | None]
    """By span id, of the marked examples."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `found` says what was wrong."""

    text: str
    ok: bool
    found: str = ""


def time_of(call: Json) -> datetime:
    """When a call started."""
    return datetime.fromisoformat(call["start_time"].replace("Z", "+00:00"))  # Python 3.10 knows no Z


def _repeat(times: int, *rows: Row) -> list[Row]:
    return [row for row in rows for _ in range(times)]


def _ticket(user: str, session: str) -> list[Row]:
    return [
        Row("Triage", "name", user_id=user, session_id=session),
        Row("Billing", "name", streamed=True, user_id=user, session_id=session),
    ]


def _guest(number: int) -> list[Row]:
    who = {
        "agent": "Guide" if number % 2 else "Booking",
        "source": "name",
        "user_id": f"guest-{number:02}",
        "session_id": f"stay-{number:02}",
        "max_tokens": 200 + number,
    }
    return [Row(**who), Row(**who, streamed=True)]


def _tenant(tenant: str, role: str, session: str, *agents: str) -> list[Row]:
    return [
        Row(agent, "name", "embeddings" if agent == "Search" else "chat", False, tenant, role, session)
        for agent in agents
    ]


def _step(agent: str, *, streamed: bool = False) -> Row:
    return Row(agent, "name", streamed=streamed, user_id="marketing")


EXAMPLES = (
    Example(
        name="one_agent",
        shows="one agent per process, by init(app=) alone",
        app="Newsroom",
        rows=[
            *_repeat(2, Row("Newsroom", "app")),
            Row("Newsroom", "app", streamed=True),
            Row("Newsroom", "app", "embeddings"),
        ],
    ),
    Example(
        name="sub_agents",
        shows="triage and billing in one process, by set_context(agent=)",
        app="Helpdesk",
        rows=[*_ticket("maria", "T-100"), *_ticket("tomas", "T-101"), *_ticket("maria", "T-102")],
    ),
    Example(
        name="by_prompt",
        shows="three system prompts, three agents, without any name",
        app="Prompts",
        rows=[
            *_repeat(3, Row("Translator", "fingerprint")),
            *_repeat(2, Row("Python code reviewer", "fingerprint")),
            *_repeat(4, Row("Concierge of a small hotel", "fingerprint")),
        ],
    ),
    Example(
        name="fastapi_service",
        shows="a FastAPI service, 50 concurrent requests, nothing leaks",
        app="Travel service",
        rows=[row for number in range(50) for row in _guest(number)],
        is_marked=True,
    ),
    Example(
        name="saas",
        shows="a multi-tenant product, one tenant filtered out by the API",
        app="SaaS",
        rows=[
            *_tenant("acme", "admin", "acme-1", "Onboarding", "Support"),
            *_tenant("acme", "member", "acme-2", "Search", "Support"),
            *_tenant("globex", "member", "globex-1", "Support", "Search"),
            *_tenant("globex", "admin", "globex-2", "Support"),
            *_tenant("initech", "admin", "initech-1", "Onboarding", "Support"),
        ],
    ),
    Example(
        name="workflow",
        shows="a planner fans out to threads and tasks in one workflow",
        app="Launch campaign",
        rows=[
            _step("Planner"),
            *_repeat(3, _step("Researcher")),
            *_repeat(2, _step("Writer", streamed=True)),
            _step("Reviewer"),
        ],
        workflow=["Planner", "Researcher", "Researcher", "Researcher", "Writer", "Writer", "Reviewer"],
    ),
    Example(
        name="own_provider",
        shows="EgisInstrumentor on the program's own tracer provider",
        app="Library",
        rows=_repeat(2, Row("Librarian", "name", user_id="reader-7")),
    ),
    Example(
        name="zero_code",
        shows="opentelemetry-instrument and no code change",
        app="Zero code",
        rows=[Row("Zero code", "app"), Row("Zero code", "app", streamed=True)],
        environment={
            "EGISAI_APP": "Zero code",
            "OTEL_SERVICE_NAME": "Zero code",
            "OTEL_TRACES_EXPORTER": "egisai",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        },
        launcher="opentelemetry-instrument",
    ),
)


def check(observed: Observed, examples: Iterable[Example] = EXAMPLES, *, has_usage: bool = True) -> Iterator[Check]:
    """Every check of a run, in the order in which a reader would make them.

    `has_usage` says whether the endpoint is known to count tokens; some that speak OpenAI's format do not.
    """
    examples = tuple(examples)
    apps = {example.app for example in examples}
    strays = Counter(call["app"] for call in observed.calls if call["app"] not in apps)
    yield _equal("no call of an unknown app", Counter(), strays)
    for example in examples:
        yield from _check_example(example, observed)
        if has_usage:
            calls = [call for call in observed.calls if call["app"] == example.app]
            counted = [call for call in calls if (call["input_tokens"] or 0) > 0]
            yield _equal(f"{example.name}: every call counts tokens", len(calls), len(counted))
        if example.workflow:
            yield from _check_workflow(example, observed)
        if example.name == "saas":
            yield from _check_tenant(example, observed)
    yield from _check_agents(examples, observed)


def _check_example(example: Example, observed: Observed) -> Iterator[Check]:
    name = example.name
    calls = [call for call in observed.calls if call["app"] == example.app]
    rows = [_row(call, example, observed) for call in calls]
    spans = {(call["trace_id"], call["span_id"]) for call in calls}
    yield _equal(f"{name}: {len(example.rows)} calls", len(example.rows), len(calls))
    yield _equal(f"{name}: every call once", len(calls), len(spans))
    for agent, source in sorted({(row.agent, row.source) for row in example.rows}):
        want = sum(row.agent == agent for row in example.rows)
        found = [call for call in calls if (call["agent_name"], call["agent_source"]) == (agent, source)]
        yield _equal(f"{name}: {want} calls by {agent} ({source})", want, len(found))
        ids = {call["agent_id"] for call in found}
        if source == "fingerprint":
            keys = {agent_id(observed.organisation, "fingerprint", call["fingerprint"]) for call in found}
            yield _equal(f"{name}: {agent} is one agent, and its id is that of its prompt", (1, keys), (len(ids), ids))
        else:
            yield _equal(f"{name}: the id of {agent}", {agent_id(observed.organisation, "name", agent)}, ids)
    for fact in ("user_id", "user_role", "session_id"):
        want_counts = Counter(getattr(row, fact) for row in example.rows)
        found_counts = Counter(getattr(row, fact) for row in rows)
        values = f"{len(want_counts)} values" if len(want_counts) > 4 else _listed(want_counts)
        yield _equal(f"{name}: calls by {fact}: {values}", want_counts, found_counts)
    mark = "max_tokens of the request itself, " if example.is_marked else ""
    yield _equal(
        f"{name}: no call mixes two ({mark}agent, user, role, session, operation, streamed)",
        Counter(example.rows),
        Counter(rows),
    )
    yield _equal(f"{name}: every call ended well", Counter(ok=len(calls)), Counter(call["status"] for call in calls))


def _check_workflow(example: Example, observed: Observed) -> Iterator[Check]:
    name = example.name
    calls = [call for call in observed.calls if call["app"] == example.app]
    ids = sorted({call["workflow_id"] for call in calls})
    elsewhere = {call["workflow_id"] for call in observed.calls if call["app"] != example.app}
    yield _equal(f"{name}: one workflow", (1, True), (len(ids), "" not in ids))
    yield _equal(f"{name}: nobody else's call is in it", {""}, elsewhere | {""})
    if len(ids) != 1 or ids[0] not in observed.workflows:
        yield Check(f"{name}: the workflow is found by its id", ok=False, found=f"ids {ids}")
        return
    workflow = observed.workflows[ids[0]]
    order = [call["agent_name"] for call in workflow["calls"]]
    starts = [time_of(call) for call in workflow["calls"]]
    want = {(call["trace_id"], call["span_id"]) for call in calls}
    found = [(call["trace_id"], call["span_id"]) for call in workflow["calls"]]
    yield _equal(f"{name}: {' > '.join(example.workflow)}", list(example.workflow), order)
    yield _equal(f"{name}: in time order, every call once", (sorted(want), sorted(starts)), (sorted(found), starts))
    group = workflow["group"]
    yield _equal(f"{name}: over {len(want)} traces", len({trace for trace, _ in want}), group["traces"])
    yield _equal(f"{name}: its agents", sorted(set(example.workflow)), sorted(group["agents"]))


def _check_tenant(example: Example, observed: Observed) -> Iterator[Check]:
    want = Counter(row for row in example.rows if row.user_id == TENANT)
    found = Counter(_row(call, example, observed) for call in observed.tenant)
    yield _equal(f"{example.name}: the filter user_id={TENANT} gives {want.total()} calls and no other", want, found)


def _check_agents(examples: Sequence[Example], observed: Observed) -> Iterator[Check]:
    want = Counter(row.agent for example in examples for row in example.rows)
    found = Counter({agent["name"]: agent["totals"]["calls"] for agent in observed.agents if agent["totals"]["calls"]})
    yield _equal(f"registry: {len(want)} agents, each with its number of calls", want, found)
    names = [agent["name"] for agent in observed.agents]
    yield _equal("registry: no agent twice", len(set(names)), len(names))
    for name, total in (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")):
        summed = sum(call[name] or 0 for call in observed.calls)
        yield _equal(f"registry: {name} add up", summed, sum(agent["totals"][total] for agent in observed.agents))


def _row(call: Json, example: Example, observed: Observed) -> Row:
    return Row(
        agent=call["agent_name"],
        source=call["agent_source"],
        operation=call["operation"],
        streamed=call["streamed"],
        user_id=call["user_id"],
        user_role=call["user_role"],
        session_id=call["session_id"],
        max_tokens=observed.max_tokens.get(call["span_id"]) if example.is_marked else None,
    )


def _equal(text: str, want: Any, found: Any) -> Check:
    if want == found:
        return Check(text, ok=True)
    if isinstance(want, Counter) and isinstance(found, Counter):
        return Check(text, ok=False, found=f"missing: {_listed(want - found)}; not expected: {_listed(found - want)}")
    return Check(text, ok=False, found=f"expected {want}, found {found}")


def _listed(counts: Counter[Any]) -> str:
    shown = [f"{_shown(value)} x{count}" for value, count in sorted(counts.items(), key=str)]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more if shown else "none"


def _shown(value: Any) -> str:
    if isinstance(value, Row):
        return "(" + " ".join(str(part) for part in value if part not in ("", None, False)) + ")"
    return str(value) or "none"
