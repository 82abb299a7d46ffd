"""Answers to what the API and the dashboard ask: rows of the store, seen through the registry.

Every method sees one organisation. Ids and names are today's: a merged agent's calls appear under the agent it was
merged into, whenever they were made.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from egisai import semconv
from egisai_platform import sql
from egisai_platform.model import (
    Agent,
    AgentDetail,
    Call,
    CallDetail,
    Filter,
    Group,
    Page,
    Parted,
    Point,
    Prompt,
    Stats,
    Totals,
    Workflow,
)
from egisai_platform.names import Names, Record
from egisai_platform.registry import Registry
from egisai_platform.store import Store

MAX_WORKFLOW_CALLS: Final = 10_000
MAX_TRACE_CALLS: Final = 1_000
MAX_PROMPTS: Final = 500
"""Prompts, and other agents, listed with an agent."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_CALL_COLUMNS: Final = 30
_TOTALS_COLUMNS: Final = 8

BUCKETS_S: Final = (10, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 28 * 24 * 3600)
_MAX_BUCKETS: Final = 90
"""A series has the finest buckets of which no more than this many cover its time."""


class BadCursorError(ValueError):
    """The cursor is not one that this list gave out."""


class StoreReader:
    """`model.Reader` on a store and a registry. Every method may be called from any thread and may take a while.

    Raises:
        BadCursorError: from any method with a cursor: it is not one of ours for this list.
        StoreError: from any method: the store cannot answer now.
    """

    def __init__(self, store: Store, registry: Registry, secret: bytes) -> None:
        self._store = store
        self._registry = registry
        self._secret = secret

    # --- one answer each -------------------------------------------------------------------------------------------
    def stats(self, organisation: str, where: Filter) -> Stats:
        """Totals and series of the time asked for; `last_call` is the newest ever, by the other filters."""
        names = self._registry.names(organisation)
        filters, parameters = _conditions(organisation, where, names)
        row = self._store.query(
            sql.stats(filters, has_aliases=bool(names.aliases)), parameters | _alias_parameters(names)
        )[0]
        totals = _totals(row)
        agents, users, sessions, workflows = (int(count) for count in row[_TOTALS_COLUMNS:])
        last_call = totals.last_seen
        if last_call is None or where.until is not None:
            ever, parameters_ever = _conditions(organisation, replace(where, since=None, until=None), names)
            (newest,) = self._store.query(sql.last_call(ever), parameters_ever)[0]
            last_call = _time(newest) if newest else None
        bucket_s = BUCKETS_S[0]
        series: Sequence[Point] = ()
        if totals.first_seen is not None and totals.last_seen is not None:
            now = datetime.now(timezone.utc)
            start = where.since or totals.first_seen
            end = max(where.until or now, totals.last_seen)
            bucket_s = _bucket_s(end - start)
            rows = self._store.query(sql.series(filters), parameters | {"bucket_s": bucket_s})
            series = _series(rows, start, end, bucket_s)
        return Stats(totals, agents, users, sessions, workflows, series, bucket_s, last_call)

    def agents(self, organisation: str, where: Filter) -> Sequence[Agent]:
        """Agents by name. All of them, unless a filter other than time narrows them to those with matching calls."""
        names = self._registry.names(organisation)
        filters, parameters = _conditions(organisation, where, names)
        rows = self._store.query(
            sql.agents(filters, has_aliases=bool(names.aliases)), parameters | _alias_parameters(names)
        )
        found = {row[0]: _agent(row, names) for row in rows}
        wanted = _wanted_agents(where, names)
        narrowed = (where.user_id, where.session_id, where.workflow_id, where.fingerprint, where.model, where.status)
        if not any(narrowed):
            for agent_id in names.records:
                idle = agent_id not in found and agent_id not in names.aliases
                if idle and (wanted is None or agent_id in wanted):
                    found[agent_id] = _idle_agent(agent_id, names)
        return sorted(found.values(), key=lambda agent: (agent.name.casefold(), agent.id))

    def agent(self, organisation: str, agent_id: str, where: Filter) -> AgentDetail | None:
        """The agent, found by its own id or by one that was merged into it, with its prompts."""
        names = self._registry.names(organisation)
        canonical = names.canonical(agent_id)
        found = self.agents(organisation, replace(where, agent_id=canonical))
        agent = found[0] if found else _idle_agent(canonical, names) if canonical in names.records else None
        if agent is None:
            return None
        record = names.records.get(canonical)
        prompts = _prompts(canonical, names)
        merged = [other for other in names.members(canonical) if other.id != canonical and not other.fingerprint]
        split_off = [other for other in names.records.values() if other.split_from == canonical]
        origin = names.records.get(names.canonical(record.split_from)) if record and record.split_from else None
        return AgentDetail(
            **{field.name: getattr(agent, field.name) for field in fields(agent)},
            prompts=self._prompts(organisation, canonical, prompts[:MAX_PROMPTS], names, where),
            prompt_count=len(prompts),
            merged=_parted(merged),
            split_from=_parted([replace(origin, ruled_on=record.ruled_on)])[0] if record and origin else None,
            split_off=_parted(split_off),
        )

    def _prompts(
        self, organisation: str, agent_id: str, records: Sequence[Record], names: Names, where: Filter
    ) -> list[Prompt]:
        """What each prompt did in the time asked for."""
        if not records:
            return []
        filters, parameters = _conditions(organisation, replace(where, agent_id=agent_id), names)
        fingerprints = {"fingerprints": [record.fingerprint for record in records]}
        rows = self._store.query(sql.fingerprints([*filters, "fingerprints"]), parameters | fingerprints)
        done = {fingerprint: (calls, first_ns, last_ns) for fingerprint, calls, first_ns, last_ns in rows}
        prompts: list[Prompt] = []
        for record in records:
            calls, first_ns, last_ns = done.get(record.fingerprint, (0, None, None))
            registered = _time(record.first_seen * 10**9)
            prompts.append(
                Prompt(
                    fingerprint=record.fingerprint or "",
                    agent_id=record.id,
                    name=record.heard_name,
                    first_seen=registered if first_ns is None else min(registered, _time(first_ns)),
                    last_seen=None if last_ns is None else _time(last_ns),
                    calls=calls,
                    ruled_by=record.ruled_by,
                    ruled_on=_moment(record.ruled_on),
                    own=record.id == agent_id,
                    followers=0 if record.id == agent_id else len(names.followers(record.id)),
                )
            )
        return prompts

    def call(self, organisation: str, trace_id: str, span_id: str) -> CallDetail | None:
        names = self._registry.names(organisation)
        parameters = {"organisation": organisation, "trace_id": trace_id, "span_id": span_id}
        rows = self._store.query(sql.call(["trace_id", "span_id"]), parameters)
        if not rows:
            return None
        message, attributes, resource, events, system, inputs, outputs, *_ = rows[0][_CALL_COLUMNS:]
        trace = self._store.query(sql.calls(["trace_id"], oldest_first=True), parameters | {"limit": MAX_TRACE_CALLS})
        heavy = {
            semconv.SYSTEM_INSTRUCTIONS: system,
            semconv.INPUT_MESSAGES: inputs,
            semconv.OUTPUT_MESSAGES: outputs,
        }
        return CallDetail(
            call=_call(rows[0], names),
            status_message=message,
            attributes=json.loads(attributes) | {name: text for name, text in heavy.items() if text},
            resource=json.loads(resource),
            events=json.loads(events),
            trace=[_call(row, names) for row in trace],
        )

    def workflow(self, organisation: str, workflow_id: str) -> Workflow | None:
        """The workflow and its first 10,000 calls."""
        where = Filter(workflow_id=workflow_id)
        groups = self._groups("workflow_id", organisation, where, limit=1, cursor=None).items
        if not workflow_id or not groups:
            return None
        names = self._registry.names(organisation)
        filters, parameters = _conditions(organisation, where, names)
        rows = self._store.query(sql.calls(filters, oldest_first=True), parameters | {"limit": MAX_WORKFLOW_CALLS})
        return Workflow(groups[0], [_call(row, names) for row in rows])

    # --- pages -------------------------------------------------------------------------------------------------------
    def calls(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first. Calls that arrive while paging change no later page unless they started earlier."""
        names = self._registry.names(organisation)
        filters, parameters = _conditions(organisation, where, names)
        if cursor is not None:
            after = self._read_cursor(cursor, organisation, "calls")
            filters.append("after")
            parameters |= {"after_ns": after[0], "after_trace": after[1], "after_span": after[2]}
        rows = self._store.query(sql.calls(filters), parameters | {"limit": limit + 1})
        return self._page(
            rows, limit, organisation, "calls", lambda row: _call(row, names), lambda row: [row[4], row[0], row[1]]
        )

    def users(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return self._groups("user_id", organisation, where, limit=limit, cursor=cursor)

    def sessions(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return self._groups("session_id", organisation, where, limit=limit, cursor=cursor)

    def workflows(self, organisation: str, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return self._groups("workflow_id", organisation, where, limit=limit, cursor=cursor)

    def _groups(self, column: str, organisation: str, where: Filter, *, limit: int, cursor: str | None) -> Page:
        """The one last seen first. Later pages end where the first one did, so that nobody moves between them."""
        names = self._registry.names(organisation)
        until_ns = 0
        after: dict[str, Any] = {}
        if cursor is not None:
            after_ns, after_id, until_ns = self._read_cursor(cursor, organisation, column)
            after = {"after_ns": after_ns, "after_id": after_id}
            where = replace(where, until=_time(until_ns))
        filters, parameters = _conditions(organisation, where, names)
        parameters |= {"limit": limit + 1, **after}
        rows = self._store.query(
            sql.groups(column, filters, has_aliases=bool(names.aliases), after=cursor is not None),
            parameters | _alias_parameters(names),
        )
        if rows and cursor is None:  # the first page's end: now, or its newest call where a sender's clock is ahead
            until_ns = (
                _ns(where.until)
                if where.until
                else max(_ns(datetime.now(timezone.utc)), rows[0][_TOTALS_COLUMNS] + 1000)
            )
        return self._page(
            rows,
            limit,
            organisation,
            column,
            lambda row: _group(row, names),
            lambda row: [row[_TOTALS_COLUMNS], row[0], until_ns],
        )

    # --- cursors ---------------------------------------------------------------------------------------------------
    def _page(
        self,
        rows: Sequence[Sequence[Any]],
        limit: int,
        organisation: str,
        kind: str,
        read: Callable[[Sequence[Any]], Any],
        position: Callable[[Sequence[Any]], list[Any]],
    ) -> Page:
        shown = rows[:limit]
        more = len(rows) > limit
        return Page(
            [read(row) for row in shown], self._cursor(position(shown[-1]), organisation, kind) if more else None
        )

    def _cursor(self, position: list[Any], organisation: str, kind: str) -> str:
        text = json.dumps(position).encode()
        return base64.urlsafe_b64encode(self._sign(text, organisation, kind) + text).decode().rstrip("=")

    def _read_cursor(self, cursor: str, organisation: str, kind: str) -> tuple[int, str, Any]:
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        text = raw[16:]
        if not hmac.compare_digest(raw[:16], self._sign(text, organisation, kind)):
            raise BadCursorError("cursor: not one that this list gave out; start again without it")
        return json.loads(text)

    def _sign(self, text: bytes, organisation: str, kind: str) -> bytes:
        return hmac.new(self._secret, f"{organisation}\0{kind}\0".encode() + text, hashlib.sha256).digest()[:16]


# --- from the filter to the statement ----------------------------------------------------------------------------
def _conditions(organisation: str, where: Filter, names: Names) -> tuple[list[str], dict[str, Any]]:
    """The names of the conditions in `sql.FILTERS`, and the values they take."""
    values: dict[str, Any] = {
        "user_id": where.user_id,
        "session_id": where.session_id,
        "workflow_id": where.workflow_id,
        "fingerprint": where.fingerprint,
        "model": where.model,
        "status": where.status,
        "agent_ids": names.ids(where.agent_id) if where.agent_id else None,
        "named_ids": names.ids_named(where.agent) if where.agent else None,
        "since_ns": _ns(where.since) if where.since else None,
        "until_ns": _ns(where.until) if where.until else None,
    }
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    return list(given), {"organisation": organisation, **given}


def _alias_parameters(names: Names) -> dict[str, Any]:
    return {"aliases": list(names.aliases), "canonicals": list(names.aliases.values())} if names.aliases else {}


def _wanted_agents(where: Filter, names: Names) -> set[str] | None:
    wanted: set[str] | None = None
    if where.agent_id:
        wanted = set(names.ids(where.agent_id))
    if where.agent:
        named = set(names.ids_named(where.agent))
        wanted = named if wanted is None else wanted & named
    return wanted


# --- from rows to facts -----------------------------------------------------------------------------------------------
def _ns(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _totals(row: Sequence[Any]) -> Totals:
    calls, errors, input_tokens, output_tokens, cost, unpriced, first_ns, last_ns = row[:_TOTALS_COLUMNS]
    if not calls:
        return Totals()
    cost = None if cost is None else round(cost, 12)  # adding binary fractions leaves crumbs
    return Totals(calls, errors, input_tokens, output_tokens, cost, unpriced, _time(first_ns), _time(last_ns))


def _agent(row: Sequence[Any], names: Names) -> Agent:
    agent_id = row[0]
    heard_name, source, models, fingerprints = row[_TOTALS_COLUMNS + 1 :]
    record = names.records.get(agent_id)
    announced = [record.fingerprint] if record and record.fingerprint else []
    return Agent(
        id=agent_id,
        name=names.name(agent_id, heard_name),
        source=record.source if record else source,
        description=record.description if record else "",
        totals=_totals(row[1:]),
        models=sorted(models),
        fingerprints=sorted({*fingerprints, *announced}),
        merged_ids=names.merged_ids(agent_id),
    )


def _idle_agent(agent_id: str, names: Names) -> Agent:
    record = names.records[agent_id]
    return Agent(
        id=agent_id,
        name=names.name(agent_id),
        source=record.source,
        description=record.description,
        totals=Totals(),
        fingerprints=[record.fingerprint] if record.fingerprint else [],
        merged_ids=names.merged_ids(agent_id),
    )


def _prompts(agent_id: str, names: Names) -> list[Record]:
    """The prompts of an agent: its own first, then those that operators ruled on, then the newest."""
    members = [record for record in names.members(agent_id) if record.fingerprint]
    return sorted(members, key=lambda r: (r.id != agent_id, r.ruled_by != "operator", -r.first_seen, r.id))


def _parted(records: Iterable[Record]) -> list[Parted]:
    newest = sorted(records, key=lambda r: (-(r.ruled_on or 0), r.id))[:MAX_PROMPTS]
    return [
        Parted(record.id, record.name or record.id[:8], record.source, _moment(record.ruled_on)) for record in newest
    ]


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else _time(seconds * 10**9)


def _call(row: Sequence[Any], names: Names) -> Call:
    (
        trace_id, span_id, parent_span_id, name, start_ns, duration_ns, operation, provider, request_model,
        response_model, agent_id, agent_name, agent_source, user_id, user_role, session_id, workflow_id, app, env,
        status, error_type, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, finish_reasons,
        time_to_first_chunk_ms, streamed, cost_usd, fingerprint,
    ) = row[:_CALL_COLUMNS]  # fmt: skip
    return Call(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        name=name,
        start_time=_time(start_ns),
        duration_ms=duration_ns / 1e6,
        operation=operation,
        provider=provider,
        request_model=request_model,
        response_model=response_model,
        agent_id=names.canonical(agent_id),
        agent_name=names.name(agent_id, agent_name),
        agent_source=agent_source,
        user_id=user_id,
        user_role=user_role,
        session_id=session_id,
        workflow_id=workflow_id,
        app=app,
        env=env,
        status=status,
        error_type=error_type,
        input_tokens=input_tokens,
        cached_input_tokens=cached_input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        finish_reasons=finish_reasons,
        time_to_first_chunk_ms=time_to_first_chunk_ms,
        streamed=bool(streamed),
        cost_usd=cost_usd,
        fingerprint=fingerprint,
    )


def _group(row: Sequence[Any], names: Names) -> Group:
    agents, users, sessions, workflows, traces = row[_TOTALS_COLUMNS + 1 :]
    return Group(
        id=row[0],
        totals=_totals(row[1:]),
        agents=sorted({names.name(agent_id, heard) for agent_id, heard in agents}),
        users=sorted(users),
        sessions=sorted(sessions),
        workflows=sorted(workflows),
        traces=traces,
    )


def _bucket_s(span: timedelta) -> int:
    return next((s for s in BUCKETS_S if span.total_seconds() / s <= _MAX_BUCKETS), BUCKETS_S[-1])


def _series(rows: Sequence[Sequence[Any]], start: datetime, end: datetime, bucket_s: int) -> list[Point]:
    """One point per bucket from start to end, empty ones too."""
    known: Mapping[int, Sequence[Any]] = {row[0]: row for row in rows}
    first = int(start.timestamp()) // bucket_s
    last = int(end.timestamp()) // bucket_s
    points: list[Point] = []
    for bucket in range(max(first, last - 10 * _MAX_BUCKETS), last + 1):
        _, calls, errors, tokens = known.get(bucket * bucket_s, (0, 0, 0, 0))
        points.append(Point(_EPOCH + timedelta(seconds=bucket * bucket_s), calls, errors, tokens))
    return points
