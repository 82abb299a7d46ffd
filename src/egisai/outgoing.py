"""On the way out: what spans say of agent, user and session is made whole, and what only their end tells is added.

Runs on the thread that exports. A span's attributes cannot be changed once it has ended, so what is different from
them is exported as a copy; other exporters of the same provider see the span as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from .guard import failed

_STAMPED: Final = "_egisai_stamped"


class Outgoing(SpanExporter):
    """Settles spans and hands them to `exporter`."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([settled(span) for span in spans])

    # Without a parameter: BatchSpanProcessor passes its own 30 seconds to a shutdown that takes a time.
    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def remember(span: object, stamped: Mapping[str, Any]) -> None:
    """Note what was put on `span`, which limits on the number and length of attributes may take off or cut.

    Kept on the SDK's own container of the attributes, which the span shares with the `ReadableSpan` that is exported:
    it costs one assignment, and lives and dies with the span. Where there is no such container, limits hold.
    """
    try:
        setattr(span._attributes, _STAMPED, stamped)  # pyright: ignore
    except AttributeError:
        return


def settled(span: ReadableSpan) -> ReadableSpan:
    """`span`, or a copy of it that says all there is to say about who made it. Never raises."""
    try:
        own = span.attributes or {}
        changes = _lost(span, own)
        return _with(span, own, changes) if changes else span
    except Exception as exc:  # noqa: BLE001 - logged and counted
        failed("settling a span", exc)
        return span


def _lost(span: ReadableSpan, own: Mapping[str, Any]) -> dict[str, Any]:
    """What we put on the span and a limit took off or cut. What somebody else wrote over it stays theirs."""
    kept: object = span._attributes  # pyright: ignore
    stamped = cast("Mapping[str, Any]", getattr(kept, _STAMPED, None) or {})
    return {name: value for name, value in stamped.items() if name not in own or _is_cut(own[name], value)}


def _is_cut(now: object, then: object) -> bool:
    if isinstance(now, str):
        return isinstance(then, str) and len(now) < len(then) and then.startswith(now)
    if isinstance(now, tuple) and isinstance(then, tuple):
        pairs = zip(cast("tuple[object, ...]", now), cast("tuple[object, ...]", then), strict=False)
        return any(_is_cut(*pair) for pair in pairs)
    return False


def _with(span: ReadableSpan, own: Mapping[str, Any], changes: Mapping[str, Any]) -> ReadableSpan:
    attributes = BoundedAttributes(attributes={**own, **changes})
    attributes.dropped = max(0, span.dropped_attributes - len(changes.keys() - own.keys()))
    changed = copy.copy(span)
    changed._attributes = attributes  # pyright: ignore
    return changed
