"""What must not leave: the user's function, applied once to everything that is exported, whoever recorded it.

    egisai.init(redact=common())  # of egisai.common_redaction: secrets and personal data in common forms
    egisai.init(redact=lambda text, name: text.replace("ACME", "…"))

Every string of attributes, events, links and the status passes through it, but for the names and numbers by which
calls are attributed and counted. JSON is taken apart first, so that it stays JSON. It runs on the exporting thread,
never on the call's, but for the events of `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=EVENT_ONLY` and
`SPAN_AND_EVENT`. What it fails on is left out, and counted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from . import semconv
from .guard import count, failed, log_once

Redactor = Callable[[str, str], str]
"""A text, and the name of the attribute that it is of (`""`: a status or an event's name), to what may be told."""

_CONTENT: Final = frozenset(
    {
        semconv.INPUT_MESSAGES,
        semconv.OUTPUT_MESSAGES,
        semconv.SYSTEM_INSTRUCTIONS,
        semconv.TOOL_DEFINITIONS,
        semconv.TOOL_CALL_ARGUMENTS,
        semconv.TOOL_CALL_RESULT,
        semconv.URL_FULL,
        semconv.HTTP_URL,
    }
)
_KEPT: Final = (
    frozenset(
        value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str) and "." in value
    )
    - _CONTENT
)
"""Names that attribution, counting and the conventions rest on: identity, models, ids, usage, servers."""

_TOLD: Final = "_egisai_redacted"  # marks a span that has been redacted: not everything may be redacted twice
_MAX_DEPTH: Final = 20  # of nested JSON; deeper is left out

_redactor: Redactor | None = None


class _DroppedError(Exception):
    """The redactor failed: what it was to redact must not be told."""


def use(redactor: Redactor | None) -> None:
    """Redact with this from now on; None: nothing is redacted."""
    global _redactor
    _redactor = redactor


def redact(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that may be told. What the redactor fails on is left out and counted."""
    redactor = _redactor
    if redactor is None:
        return dict(attributes)
    told: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in _KEPT:
            told[name] = value
            continue
        try:
            told[name] = _value(redactor, name, value)
        except _DroppedError:
            count("redaction: dropped")
    return told


def redacted(span: ReadableSpan) -> ReadableSpan:
    """`span`, or a copy of it that may be told."""
    redactor = _redactor
    if redactor is None or hasattr(span, _TOLD):
        return span
    changed = copy.copy(span)
    setattr(changed, _TOLD, True)
    changed._attributes = _attributes(span.attributes, span.dropped_attributes)  # pyright: ignore
    changed._events = tuple(  # pyright: ignore
        Event(event.name, _attributes(event.attributes, event.dropped_attributes), event.timestamp)
        for event in span.events
    )
    changed._links = tuple(  # pyright: ignore
        Link(link.context, _attributes(link.attributes, link.dropped_attributes)) for link in span.links
    )
    if span.status.description:
        changed._status = Status(span.status.status_code, _text_or_none(redactor, span.status.description))  # pyright: ignore
    return changed


class Redacting(SpanExporter):
    """An exporter of the program's own, with everything redacted that goes to it. Ours needs none."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export(all_redacted(spans))

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def all_redacted(spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
    """The spans that may be told; one that cannot be redacted is left out and counted. Never raises."""
    if _redactor is None:
        return spans
    told: list[ReadableSpan] = []
    for span in spans:
        try:
            told.append(redacted(span))
        except Exception as exc:  # noqa: BLE001, PERF203 - logged and counted: without redaction it is not told
            count("redaction: spans dropped")
            failed("redacting a span", exc)
    return told


def _attributes(attributes: Mapping[str, Any] | None, dropped: int) -> BoundedAttributes:
    told = redact(attributes or {})
    bounded = BoundedAttributes(attributes=told)
    bounded.dropped = dropped + len(attributes or {}) - len(told)
    return bounded


def _text_or_none(redactor: Redactor, text: str) -> str | None:
    try:
        return _text(redactor, "", text)
    except _DroppedError:
        count("redaction: dropped")
        return None


def _value(redactor: Redactor, name: str, value: Any) -> Any:
    if isinstance(value, str):
        if value[:1] in ("{", "["):
            try:
                parsed = json.loads(value)
            except ValueError:
                return _text(redactor, name, value)
            return json.dumps(_inside(redactor, name, parsed, 0), ensure_ascii=False)
        return _text(redactor, name, value)
    return _inside(redactor, name, value, 0)


def _inside(redactor: Redactor, name: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(redactor, name, value)
    if depth > _MAX_DEPTH:
        raise _DroppedError
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {key: _inside(redactor, name, member, depth + 1) for key, member in members.items()}
    if isinstance(value, (list, tuple)):
        return [_inside(redactor, name, member, depth + 1) for member in cast("Sequence[Any]", value)]
    return value


def _text(redactor: Redactor, name: str, text: str) -> str:
    try:
        told = redactor(text, name)
    except Exception as exc:  # noqa: BLE001 - the user's: what it failed on is not told
        log_once("the redactor failed with %s: what it was given is left out", type(exc).__qualname__)
        raise _DroppedError from None
    if not isinstance(told, str):  # pyright: ignore[reportUnnecessaryIsInstance] - it is the user's
        log_once("the redactor returned a %s, not a str: what it was given is left out", type(told).__qualname__)
        raise _DroppedError
    return told
