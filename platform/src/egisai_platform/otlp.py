"""OTLP in: a request's bytes become rows of the store, or a precise refusal. Pure functions, no I/O.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-request says what is answered to what.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from egisai import semconv
from egisai.identity import agent_id, is_uuid
from egisai_platform import utf8
from egisai_platform.prices import cost_usd
from egisai_platform.registry import Sighting

MAX_FACT: Final = 1000
"""Characters of an id or a name that become a column; the whole value stays among the attributes."""

MAX_FUTURE_NS: Final = 24 * 3600 * 10**9
"""How far a sender's clock may be ahead."""
MAX_AGE_DAYS: Final = 3650
"""How old a span may be where nothing is ever dropped."""

_MAX_UINT64: Final = 2**64 - 1
_MAX_DEPTH: Final = 32
_GZIP: Final = 31  # zlib's window bits for a gzip header and the largest window
_GUNZIP_STEP: Final = 1 << 20
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MESSAGES: Final = (semconv.SYSTEM_INSTRUCTIONS, semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES)


class SpanRow(NamedTuple):
    """A row of `spans`; `sql.COLUMNS` has the same names in the same order."""

    organisation: str
    is_call: int
    start_time: int
    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    duration_ns: int
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
    status: str
    status_message: str
    error_type: str
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    finish_reasons: Sequence[str]
    time_to_first_chunk_ms: float | None
    streamed: int
    cost_usd: float | None
    fingerprint: str
    scope: str
    attributes: str
    resource: str
    events: str
    links: str
    system_instructions: str
    input_messages: str
    output_messages: str
    stored_at: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request holds."""

    rows: Sequence[SpanRow]
    sightings: Sequence[Sighting]
    refused: Mapping[str, int]
    """How many spans cannot be stored, by reason."""
    message: str
    """For `partial_success`: which spans were refused and why; empty when none were."""


class TooLargeError(ValueError):
    """The decompressed body is over the limit."""


class MalformedError(ValueError):
    """The body is not what its headers say."""


def gunzip(body: bytes, max_bytes: int, take: Callable[[int], None]) -> bytes:
    """Decompresses a gzip body, never holding more than `max_bytes` of it, and no byte before it was taken.

    Raises:
        TooLargeError: it is larger.
        MalformedError: it is not gzip, or is cut short.
    """
    parts: list[bytes] = []
    size = 0
    member = zlib.decompressobj(wbits=_GZIP)
    while body:
        try:
            part = member.decompress(body, _GUNZIP_STEP)
        except zlib.error as error:
            raise MalformedError(f"the body is not gzip: {error}") from error
        size += len(part)
        if size > max_bytes:
            raise TooLargeError(f"the decompressed body is over {max_bytes} bytes")
        take(len(part))
        parts.append(part)
        body = member.unconsumed_tail
        if member.eof:  # a gzip file may have several members
            body = member.unused_data
            if body:
                member = zlib.decompressobj(wbits=_GZIP)
    if not member.eof:
        raise MalformedError("the gzip body is cut short")
    return b"".join(parts)


def decode(
    body: bytes, organisation: str, *, now_ns: int, retention_days: int, known: Container[str] = frozenset()
) -> Batch:
    """The rows of an `ExportTraceServiceRequest`, all of `organisation`, whose registered agents are `known`.

    Raises:
        MalformedError: the body is no such message.
    """
    request = _parse(body)
    oldest_ns = now_ns - (retention_days or MAX_AGE_DAYS) * 24 * 3600 * 10**9
    rows: list[SpanRow] = []
    sightings: dict[tuple[str, str], Sighting] = {}
    refused: list[tuple[str, str]] = []
    total = 0
    for resource_spans in request.resource_spans:
        resource = _mapping(resource_spans.resource.attributes)
        resource_json = _json(resource)
        for scope_spans in resource_spans.scope_spans:
            scope = f"{scope_spans.scope.name} {scope_spans.scope.version}".strip()
            for span in scope_spans.spans:
                total += 1
                fault = _fault(span, oldest_ns, now_ns + MAX_FUTURE_NS)
                if fault is not None:
                    refused.append((fault, _describe(span)))
                    continue
                row, named = _row(span, organisation, resource, resource_json, scope, now_ns, known)
                rows.append(row)
                if named or row.is_call:
                    sightings[row.agent_id, row.agent_name] = Sighting(
                        organisation, row.agent_id, row.agent_name, row.agent_source
                    )
    return Batch(
        rows, list(sightings.values()), Counter(reason for reason, _ in refused), _refusal_message(refused, total)
    )


def _parse(body: bytes) -> ExportTraceServiceRequest:
    try:
        try:
            return ExportTraceServiceRequest.FromString(body)
        except DecodeError:
            # One string that is not UTF-8 must not cost the sender every span of the batch.
            return ExportTraceServiceRequest.FromString(utf8.repaired(body))
    except DecodeError as error:
        raise MalformedError("the body is not an OTLP ExportTraceServiceRequest in protobuf") from error


def response(refused: int = 0, message: str = "") -> bytes:
    """An `ExportTraceServiceResponse`; its `partial_success` is set only when spans were refused."""
    reply = ExportTraceServiceResponse()
    if refused:
        reply.partial_success.rejected_spans = refused
        reply.partial_success.error_message = message
    return reply.SerializeToString()


def status(code: int, message: str) -> bytes:
    """A `google.rpc.Status` (int32 code = 1, string message = 2), the body of every OTLP refusal."""
    text = message.encode()
    return bytes([0x08, code, 0x12]) + _varint(len(text)) + text


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# --- what cannot be stored ---------------------------------------------------------------------------------------
def _fault(span: Span, oldest_ns: int, newest_ns: int) -> str | None:
    if len(span.trace_id) != 16:
        return "trace_id is not 16 bytes"
    if not any(span.trace_id):
        return "trace_id is all zeroes"
    if len(span.span_id) != 8:
        return "span_id is not 8 bytes"
    if not any(span.span_id):
        return "span_id is all zeroes"
    if not span.start_time_unix_nano or not span.end_time_unix_nano:
        return "it has no start or no end time"
    if span.start_time_unix_nano < oldest_ns:
        return "it started before the oldest time that is kept"
    if max(span.start_time_unix_nano, span.end_time_unix_nano) > newest_ns:
        return "it starts or ends more than a day in the future"
    return None


def _describe(span: Span) -> str:
    return f"{span.name[:60]!r} (span_id {span.span_id[:16].hex() or 'empty'})"


def _refusal_message(refused: Sequence[tuple[str, str]], total: int) -> str:
    if not refused:
        return ""
    examples: dict[str, list[str]] = {}
    for reason, which in refused:
        examples.setdefault(reason, []).append(which)
    parts = [
        f"{reason}: {', '.join(which[:3])}{f' and {len(which) - 3} more' if len(which) > 3 else ''}"
        for reason, which in examples.items()
    ]
    return f"{len(refused)} of {total} spans refused: {'; '.join(parts)}"


# --- one span --------------------------------------------------------------------------------------------------------
def _row(
    span: Span,
    organisation: str,
    resource: Mapping[str, Any],
    resource_json: str,
    scope: str,
    now_ns: int,
    known: Container[str],
) -> tuple[SpanRow, bool]:
    """The span's row, and whether it names its agent itself."""
    attributes = _mapping(span.attributes)
    messages = [_heavy_text(attributes.pop(name, None)) for name in _MESSAGES]
    operation = _fact(attributes, semconv.OPERATION)
    # A call that two instrumentors saw has two spans; the inner one says so and is kept, but is no second call.
    is_call = operation in semconv.CALL_OPERATIONS and attributes.get(semconv.CALL_NESTED) is not True
    app = _fact(resource, semconv.SERVICE_NAME)
    agent, name, source, named = _agent(attributes, organisation, app)
    fingerprint = _fact(attributes, semconv.PROMPT_FINGERPRINT)
    if source == "fingerprint" and fingerprint:
        # Under the prompt itself, not under what it stood for in that process at that moment: that may be ruled anew.
        prompt = agent_id(organisation, "fingerprint", fingerprint)
        agent = prompt if prompt in known else agent
    provider = _fact(attributes, semconv.PROVIDER)
    request_model = _fact(attributes, semconv.REQUEST_MODEL)
    response_model = _fact(attributes, semconv.RESPONSE_MODEL)
    input_tokens = _count(attributes, semconv.USAGE_INPUT_TOKENS)
    output_tokens = _count(attributes, semconv.USAGE_OUTPUT_TOKENS)
    cached_input_tokens = _count(attributes, semconv.USAGE_CACHE_READ_TOKENS)
    cost = None
    if is_call:
        cost = cost_usd(
            provider,
            (response_model, request_model),
            datetime.fromtimestamp(span.start_time_unix_nano / 1e9, timezone.utc),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_input_tokens,
            cache_write_tokens=_count(attributes, semconv.USAGE_CACHE_WRITE_TOKENS),
        )
    first_chunk_s = attributes.get(semconv.RESPONSE_TIME_TO_FIRST_CHUNK)
    row = SpanRow(
        organisation=organisation,
        is_call=int(is_call),
        start_time=span.start_time_unix_nano,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() if len(span.parent_span_id) == 8 and any(span.parent_span_id) else "",
        name=span.name[:MAX_FACT],
        kind=_KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else _KINDS[0],
        duration_ns=max(
            0, span.end_time_unix_nano - span.start_time_unix_nano
        ),  # a clock set back is no reason to lose it
        operation=operation,
        provider=provider,
        request_model=request_model,
        response_model=response_model,
        agent_id=agent,
        agent_name=name,
        agent_source=source,
        user_id=_fact(attributes, semconv.USER_ID),
        user_role=_first(attributes, semconv.USER_ROLES),
        session_id=_fact(attributes, semconv.SESSION_ID) or _fact(attributes, semconv.CONVERSATION_ID),
        workflow_id=_fact(attributes, semconv.WORKFLOW_ID),
        app=app,
        env=_fact(resource, semconv.DEPLOYMENT_ENVIRONMENT),
        status=_status(span, attributes),
        status_message=span.status.message,
        error_type=_fact(attributes, semconv.ERROR_TYPE),
        input_tokens=input_tokens,
        cached_input_tokens=cached_input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=_count(attributes, semconv.USAGE_REASONING_TOKENS),
        finish_reasons=_texts(attributes, semconv.RESPONSE_FINISH_REASONS),
        time_to_first_chunk_ms=first_chunk_s * 1000 if isinstance(first_chunk_s, (int, float)) else None,
        streamed=int(attributes.get(semconv.REQUEST_STREAM) is True),
        cost_usd=cost,
        fingerprint=fingerprint,
        scope=scope[:MAX_FACT],
        attributes=_json(attributes),
        resource=resource_json,
        events=_json([_event(event) for event in span.events]) if span.events else "[]",
        links=_json([_link(link) for link in span.links]) if span.links else "[]",
        system_instructions=messages[0],
        input_messages=messages[1],
        output_messages=messages[2],
        stored_at=now_ns // 10**6,
    )
    return row, named


def _agent(attributes: Mapping[str, Any], organisation: str, app: str) -> tuple[str, str, str, bool]:
    """`(id, name, source, whether the span says so)`: ours, else another vendor's agent name, else the app."""
    name = _fact(attributes, semconv.AGENT_NAME).strip()
    claimed = _fact(attributes, semconv.AGENT_ID).lower()
    if is_uuid(claimed):
        return claimed, name, _fact(attributes, semconv.AGENT_SOURCE) or "id", True
    if name:
        return agent_id(organisation, "name", name), name, "framework", True
    app = app or "unknown_service"
    return agent_id(organisation, "name", app), app, "app", False


def _status(span: Span, attributes: Mapping[str, Any]) -> str:
    if span.status.code == Status.STATUS_CODE_ERROR:
        return "error"
    return "incomplete" if attributes.get(semconv.CALL_COMPLETE) is False else "ok"


def _event(event: Span.Event) -> dict[str, Any]:
    return {"name": event.name, "time_unix_nano": event.time_unix_nano, "attributes": _mapping(event.attributes)}


def _link(link: Span.Link) -> dict[str, Any]:
    return {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), "attributes": _mapping(link.attributes)}


# --- values ----------------------------------------------------------------------------------------------------------
def _mapping(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attributes:
        value = attribute.value
        # Most are text, which this finds without asking what they are: a fifth of the time to decode a span.
        values[attribute.key] = value.string_value or _value(value, 0)
    return values


def _value(value: AnyValue, depth: int) -> Any:
    """What JSON can carry; bytes become base64, deeper nesting than anybody needs becomes a mark."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind is None or depth > _MAX_DEPTH:
        return None if kind is None else "(nested too deeply)"
    if kind == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: _value(item.value, depth + 1) for item in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    plain = getattr(value, kind)
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain


def _heavy_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _fact(attributes: Mapping[str, Any], name: str) -> str:
    """A column's text: whatever scalar was sent, empty when there is none."""
    value = attributes.get(name)
    if isinstance(value, str):
        return value[:MAX_FACT]
    return "" if value is None or isinstance(value, (list, dict)) else str(value)


def _texts(attributes: Mapping[str, Any], name: str) -> list[str]:
    value = attributes.get(name)
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [item[:MAX_FACT] for item in items[:100] if isinstance(item, str)]


def _first(attributes: Mapping[str, Any], name: str) -> str:
    return next(iter(_texts(attributes, name)), "")


def _count(attributes: Mapping[str, Any], name: str) -> int | None:
    value = attributes.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_UINT64:
        return None
    return int(value)
