"""Every statement the store is given; it is ClickHouse SQL that the embedded engine and a server both run.

Values never become part of a statement: `{name:Type}` is bound by the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SCHEMA_VERSION: Final = 1

COLUMNS: Final = {
    "organisation": "LowCardinality(String)",
    "is_call": "UInt8",
    "start_time": "DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1))",
    "trace_id": "String",
    "span_id": "String",
    "parent_span_id": "String",
    "name": "LowCardinality(String)",
    "kind": "LowCardinality(String)",
    "duration_ns": "UInt64",
    "operation": "LowCardinality(String)",
    "provider": "LowCardinality(String)",
    "request_model": "LowCardinality(String)",
    "response_model": "LowCardinality(String)",
    "agent_id": "String",
    "agent_name": "String",
    "agent_source": "LowCardinality(String)",
    "user_id": "String",
    "user_role": "LowCardinality(String)",
    "session_id": "String",
    "workflow_id": "String",
    "app": "LowCardinality(String)",
    "env": "LowCardinality(String)",
    "status": "LowCardinality(String)",
    "status_message": "String",
    "error_type": "LowCardinality(String)",
    "input_tokens": "Nullable(UInt64)",
    "cached_input_tokens": "Nullable(UInt64)",
    "output_tokens": "Nullable(UInt64)",
    "reasoning_tokens": "Nullable(UInt64)",
    "finish_reasons": "Array(LowCardinality(String))",
    "time_to_first_chunk_ms": "Nullable(Float64)",
    "streamed": "UInt8",
    "cost_usd": "Nullable(Float64)",
    "fingerprint": "String",
    "scope": "LowCardinality(String)",
    "attributes": "String CODEC(ZSTD(3))",
    "resource": "String CODEC(ZSTD(3))",
    "events": "String CODEC(ZSTD(3))",
    "links": "String CODEC(ZSTD(3))",
    "system_instructions": "String CODEC(ZSTD(3))",
    "input_messages": "String CODEC(ZSTD(3))",
    "output_messages": "String CODEC(ZSTD(3))",
    "stored_at": "DateTime64(3, 'UTC')",
}
"""The columns of `spans`, in the order of `otlp.SpanRow`. A fact to filter or add up by is a column of its own; the
heavy text at the end is read by the detail of one call alone."""

TYPES: Final = [definition.partition(" CODEC")[0] for definition in COLUMNS.values()]

_BLOOM: Final = ("trace_id", "agent_id", "user_id", "session_id", "workflow_id")

CREATE_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS egisai_schema (version UInt32) ENGINE = MergeTree ORDER BY version"
INSERT_SCHEMA: Final = "INSERT INTO egisai_schema SELECT {version:UInt32}"
SELECT_SCHEMA: Final = "SELECT max(version) FROM egisai_schema"

CREATE_SPANS: Final = f"""
CREATE TABLE IF NOT EXISTS spans (
  {", ".join(f"{name} {definition}" for name, definition in COLUMNS.items())},
  {", ".join(f"INDEX {name}_bloom {name} TYPE bloom_filter(0.01) GRANULARITY 1" for name in _BLOOM)}
) ENGINE = ReplacingMergeTree(stored_at)
PARTITION BY toYYYYMM(start_time)
PRIMARY KEY (organisation, is_call, start_time)
ORDER BY (organisation, is_call, start_time, trace_id, span_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
"""
"""One immutable row per span. The same span sent twice has the same key, so one of the two rows remains."""

INSERT_SETTINGS: Final = {"async_insert": "0", "max_partitions_per_insert_block": "0"}
"""An insert is answered when it is on disk; a late batch may span many months."""

READ_SETTINGS: Final = {
    "max_execution_time": "10",
    "max_memory_usage": str(2 << 30),
    "do_not_merge_across_partitions_select_final": "1",
}
"""What one question may cost. A span has one start time, so it is never in two partitions."""

SELECT_ONE: Final = "SELECT 1"
SELECT_TTL: Final = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'spans'"


def alter_retention(days: int, engine: str) -> str | None:
    """The statement that makes `spans` keep what it should, or None when it does so already."""
    if days == 0:
        return "ALTER TABLE spans REMOVE TTL" if " TTL " in engine else None
    if f"toIntervalDay({days})" in engine:
        return None
    return (
        f"ALTER TABLE spans MODIFY TTL toDateTime(start_time) + toIntervalDay({days}) "
        "SETTINGS materialize_ttl_after_modify = 0"
    )


TOTALS: Final = """
count() AS calls, countIf(status = 'error') AS errors,
ifNull(sum(input_tokens), 0) AS input_tokens_sum, ifNull(sum(output_tokens), 0) AS output_tokens_sum,
sum(cost_usd) AS cost, countIf(cost_usd IS NULL AND status != 'error') AS unpriced,
toUnixTimestamp64Nano(min(start_time)) AS first_ns, toUnixTimestamp64Nano(max(start_time)) AS last_ns"""
"""A failed call without usage costs nothing; any other without a price makes the cost a lower bound."""

MODEL: Final = "if(request_model = '', response_model, request_model)"

CALL: Final = """
trace_id, span_id, parent_span_id, name, toUnixTimestamp64Nano(start_time) AS start_ns, duration_ns, operation,
provider, request_model, response_model, agent_id, agent_name, agent_source, user_id, user_role, session_id,
workflow_id, app, env, status, error_type, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
finish_reasons, time_to_first_chunk_ms, streamed, cost_usd, fingerprint"""
"""In the order `reader` takes them apart."""

DETAIL: Final = (
    "status_message, attributes, resource, events, system_instructions, input_messages, output_messages, kind, scope, "
    "links"
)

FILTERS: Final = {
    "agent_ids": "agent_id IN {agent_ids:Array(String)}",
    "named_ids": "agent_id IN {named_ids:Array(String)}",
    "fingerprint": "fingerprint = {fingerprint:String}",
    "fingerprints": "fingerprint IN {fingerprints:Array(String)}",
    "user_id": "user_id = {user_id:String}",
    "session_id": "session_id = {session_id:String}",
    "workflow_id": "workflow_id = {workflow_id:String}",
    "model": "(request_model = {model:String} OR response_model = {model:String})",
    "status": "status = {status:String}",
    "since_ns": "start_time >= fromUnixTimestamp64Nano({since_ns:Int64}, 'UTC')",
    "until_ns": "start_time < fromUnixTimestamp64Nano({until_ns:Int64}, 'UTC')",
    "trace_id": "trace_id = {trace_id:String}",
    "span_id": "span_id = {span_id:String}",
    "after": (
        "(start_time, trace_id, span_id) < (fromUnixTimestamp64Nano({after_ns:Int64}, 'UTC'), {after_trace:String}, "
        "{after_span:String}) AND start_time <= fromUnixTimestamp64Nano({after_ns:Int64}, 'UTC')"
    ),
}
"""Conditions on calls. The second half of `after` is implied by the first, and is what the primary key can use."""


def _calls(filters: Sequence[str]) -> str:
    conditions = " AND ".join(["organisation = {organisation:String}", "is_call = 1", *(FILTERS[f] for f in filters)])
    return f"FROM spans FINAL WHERE {conditions}"


def calls(filters: Sequence[str], *, oldest_first: bool = False) -> str:
    """Calls, newest first unless asked otherwise. Takes `limit`."""
    direction = "ASC" if oldest_first else "DESC"
    order = ", ".join(f"{column} {direction}" for column in ("start_time", "trace_id", "span_id"))
    return f"SELECT {CALL} {_calls(filters)} ORDER BY {order} LIMIT {{limit:UInt32}}"


def call(filters: Sequence[str]) -> str:
    """One call with its heavy text."""
    return f"SELECT {CALL}, {DETAIL} {_calls(filters)} LIMIT 1"


def _canonical(has_aliases: bool) -> str:
    return (
        "transform(agent_id, {aliases:Array(String)}, {canonicals:Array(String)}, agent_id)"
        if has_aliases
        else "agent_id"
    )


def agents(filters: Sequence[str], *, has_aliases: bool) -> str:
    """Totals of each agent, merged agents together."""
    return f"""
SELECT {_canonical(has_aliases)} AS agent, {TOTALS}, any(agent_name), any(agent_source),
  groupUniqArrayIf(20)({MODEL}, {MODEL} != ''), groupUniqArrayIf(20)(fingerprint, fingerprint != '')
{_calls(filters)} GROUP BY agent"""


def fingerprints(filters: Sequence[str]) -> str:
    """Calls of each prompt, and when they were."""
    times = ", ".join(f"toUnixTimestamp64Nano({which}(start_time))" for which in ("min", "max"))
    return f"SELECT fingerprint, count(), {times} {_calls(filters)} GROUP BY fingerprint"


def groups(column: str, filters: Sequence[str], *, has_aliases: bool, after: bool) -> str:
    """Totals of each user, session or workflow, the one last seen first. Takes `limit`.

    Which of them make the page is decided first, by a column or two; only theirs is added up.
    """
    having = "HAVING (last_ns, group_id) < ({after_ns:Int64}, {after_id:String})" if after else ""
    page = f"""
SELECT {column} AS group_id, toUnixTimestamp64Nano(max(start_time)) AS last_ns {_calls(filters)} AND {column} != ''
GROUP BY group_id {having} ORDER BY last_ns DESC, group_id DESC LIMIT {{limit:UInt32}}"""
    return f"""
SELECT {column} AS group_id, {TOTALS}, groupUniqArray(50)(({_canonical(has_aliases)}, agent_name)),
  groupUniqArrayIf(50)(user_id, user_id != ''), groupUniqArrayIf(50)(session_id, session_id != ''),
  groupUniqArrayIf(50)(workflow_id, workflow_id != ''), uniqExact(trace_id)
{_calls(filters)} AND {column} IN (SELECT group_id FROM ({page}))
GROUP BY group_id ORDER BY last_ns DESC, group_id DESC"""  # noqa: S608 - every part is one of this module


def stats(filters: Sequence[str], *, has_aliases: bool) -> str:
    """Totals of everything, and how many took part."""
    return f"""
SELECT {TOTALS}, uniqExact({_canonical(has_aliases)}), uniqExactIf(user_id, user_id != ''),
  uniqExactIf(session_id, session_id != ''), uniqExactIf(workflow_id, workflow_id != '')
{_calls(filters)}"""


def last_call(filters: Sequence[str]) -> str:
    """The start of the newest call; 0 when there is none."""
    return f"SELECT toUnixTimestamp64Nano(max(start_time)) {_calls(filters)}"


def series(filters: Sequence[str]) -> str:
    """Calls, errors and tokens per bucket of `bucket_s` seconds since the epoch."""
    return f"""
SELECT intDiv(toUnixTimestamp(start_time), {{bucket_s:UInt32}}) * {{bucket_s:UInt32}} AS bucket, count(),
  countIf(status = 'error'), ifNull(sum(input_tokens), 0) + ifNull(sum(output_tokens), 0)
{_calls(filters)} GROUP BY bucket ORDER BY bucket"""
