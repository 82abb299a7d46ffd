"""On the way out: what spans say of agent, user and session is made whole, and what only their end tells is added.

Runs on the thread that exports. A span's attributes cannot be changed once it has ended, so what is different from
them is exported as a copy; other exporters of the same provider see the span as it was.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Span

from . import attribution, fingerprint, foreign, redaction, semconv
from .guard import failed

_STAMPED: Final = "_egisai_stamped"

_UNSURE: Final = frozenset({"app", "fingerprint"})
"""How the agent of a call is known where the call's own prompt knows better: not at all, or from the span above."""

_REDACTED: Final = "__REDACTED__"  # what OpenInference writes for content that it was told to hide
_FLAT: Final = re.compile(
    r"llm\.input_messages\.(\d+)\.message\.(role|content|contents\.(\d+)\.message_content\.text)"  # OpenInference
    r"|gen_ai\.prompt\.(\d+)\.(role|content)"  # OpenLLMetry, earlier
)


class Outgoing(SpanExporter):
    """Settles spans and hands them to `exporter`."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export(prepared(spans))

    # Without a parameter: BatchSpanProcessor passes its own 30 seconds to a shutdown that takes a time.
    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def prepared(spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
    """The spans that may be told, made whole. Preparing them twice changes nothing more. Never raises.

    `EgisExporter` finds this by its entry point, so that it does the same where a configuration made it and nobody
    wraps it: `OTEL_TRACES_EXPORTER=egisai`.
    """
    return redaction.all_redacted([settled(span) for span in spans])


def put(span: Span, stamped: Mapping[str, Any]) -> None:
    """Put attributes on `span` that limits must not take off what we export."""
    span.set_attributes(stamped)
    remember(span, stamped)


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
        if foreign.is_told_twice(span, own):
            changes[semconv.CALL_NESTED] = True
        source = changes.get(semconv.AGENT_SOURCE, own.get(semconv.AGENT_SOURCE))
        if source in _UNSURE and semconv.PROMPT_FINGERPRINT not in own and semconv.is_call(own):
            changes.update(_by_prompt(span, own))
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


# --- the prompt that another instrumentor recorded -------------------------------------------------------------------


def _by_prompt(span: ReadableSpan, own: Mapping[str, Any]) -> dict[str, Any]:
    """The agent whose system prompt the span's instrumentor recorded; nothing where it did not, or not in full."""
    prompt = tuple(_recorded(own)) or tuple(_flat(own) if not span.dropped_attributes else ())
    limit: int | None = getattr(span._attributes, "max_value_len", None)  # pyright: ignore
    if not prompt or _REDACTED in prompt or (limit is not None and any(len(text) >= limit for text in prompt)):
        return {}
    found = fingerprint.of(prompt)
    if found is None:
        return {}
    identity = attribution.current().prompted(found)
    return {
        semconv.AGENT_ID: identity.id,
        semconv.AGENT_NAME: identity.name,
        semconv.AGENT_SOURCE: identity.source,
        semconv.PROMPT_FINGERPRINT: identity.fingerprint or found.digest,
    }


def _recorded(own: Mapping[str, Any]) -> Iterator[str]:
    """The system text in the GenAI conventions' own attributes, which are JSON or, on newer SDKs, plain values."""
    yield from _texts(_parsed(own.get(semconv.SYSTEM_INSTRUCTIONS)))
    messages = _items(_parsed(own.get(semconv.INPUT_MESSAGES)))
    yield from fingerprint.system_texts((message.get("role"), _texts(message.get("parts"))) for message in messages)


def _flat(own: Mapping[str, Any]) -> Iterator[str]:
    """The system text where each message has attributes of its own, numbered."""
    roles: dict[int, Any] = {}
    texts: dict[int, dict[int, Any]] = {}
    for name, value in own.items():
        if match := _FLAT.fullmatch(name):
            number = int(match[1] or match[4])
            if "role" in (match[2], match[5]):
                roles[number] = value
            else:
                texts.setdefault(number, {})[int(match[3] or 0)] = value
    return fingerprint.system_texts((roles[number], _in_order(texts.get(number, {}))) for number in sorted(roles))


def _in_order(parts: Mapping[int, Any]) -> Iterator[str]:
    return (parts[number] for number in sorted(parts) if isinstance(parts[number], str))


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:  # cut by a limit
        return None


def _items(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, (list, tuple)):
        for item in cast("Sequence[object]", value):
            if isinstance(item, Mapping):
                yield cast("Mapping[str, Any]", item)


def _texts(content: object) -> Iterator[str]:
    """The texts of a message's content: one, or parts with theirs under `content` or `text`."""
    if isinstance(content, str):
        yield content
    for part in _items(content):
        text = part.get("content", part.get("text"))
        if isinstance(text, str):
            yield text
