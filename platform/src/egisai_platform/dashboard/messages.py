"""What was said in a call, read from the shapes its instrumentation may have recorded. All of it is hostile input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from egisai import semconv

_RECORDED: Final = (
    (semconv.SYSTEM_INSTRUCTIONS, "system"),
    (semconv.INPUT_MESSAGES, "user"),
    (semconv.OUTPUT_MESSAGES, "assistant"),
)
_INDEXED = re.compile(
    r"(?P<list>gen_ai\.prompt|gen_ai\.completion|llm\.input_messages|llm\.output_messages)\.(?P<index>\d{1,6})\."
    r"(?:message\.)?(?P<field>role|content)"
)
"""How OpenLLMetry and OpenInference flatten messages into attributes."""


@dataclass(frozen=True, slots=True)
class Part:
    kind: str
    """text, reasoning, tool_call, tool_call_response, or what the recorder called it."""
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    parts: Sequence[Part]
    finish_reason: str = ""


def is_message(attribute: str) -> bool:
    """Whether an attribute holds what `messages` shows, and need not be listed once more."""
    return any(attribute == name for name, _ in _RECORDED) or _INDEXED.fullmatch(attribute) is not None


def messages(attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the recorded messages: system first, then the input, then the output; empty when none were recorded."""
    found: list[Message] = []
    sources = [attributes, *(_mapping(event.get("attributes")) for event in events)]
    for name, role in _RECORDED:
        recorded = next((source[name] for source in sources if source.get(name)), None)
        if recorded is not None:
            found += _read(recorded, role)
    return found or list(_flattened(attributes))


def _read(recorded: Any, role: str) -> Iterator[Message]:
    """Read the conventions' JSON: a list of messages, or for system instructions a list of parts."""
    if isinstance(recorded, str):
        try:
            recorded = json.loads(recorded)
        except (ValueError, RecursionError):
            yield Message(role, [Part("text", "", recorded)])
            return
    items = cast("list[Any]", recorded) if isinstance(recorded, list) else [recorded]
    loose: list[Part] = []
    for item in items:
        message = _mapping(item)
        if "role" not in message and "parts" not in message:
            loose.append(_part(item))
            continue
        parts = message.get("parts", message.get("content", []))
        listed = cast("list[Any]", parts) if isinstance(parts, list) else [parts]
        reason = message.get("finish_reason")
        yield Message(str(message.get("role") or role), [_part(part) for part in listed], str(reason or ""))
    if loose:
        yield Message(role, loose)


def _part(item: Any) -> Part:
    part = _mapping(item)
    if not part:
        return Part("text", "", _written(item))
    kind = str(part.get("type") or "text")
    if kind in ("text", "reasoning"):
        return Part(kind, "" if kind == "text" else kind, _written(part.get("content", part.get("text", ""))))
    if kind == "tool_call":
        return Part(kind, f"calls {part.get('name', '')}", _written(part.get("arguments", "")))
    if kind == "tool_call_response":
        return Part(kind, "tool result", _written(part.get("response", part.get("result", ""))))
    return Part(kind, kind, _written({name: value for name, value in part.items() if name != "type"}))


def _flattened(attributes: Mapping[str, Any]) -> Iterator[Message]:
    fields: dict[tuple[bool, int], dict[str, str]] = {}
    for name, value in attributes.items():
        if match := _INDEXED.fullmatch(name):
            answer = match["list"] in ("gen_ai.completion", "llm.output_messages")
            fields.setdefault((answer, int(match["index"])), {})[match["field"]] = _written(value)
    for (answer, _), message in sorted(fields.items()):
        role = message.get("role", "assistant" if answer else "user")
        yield Message(role, [Part("text", "", message.get("content", ""))])


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _written(value: Any) -> str:
    """Return a value as text: strings as they are, anything else as JSON, indented when long."""
    if isinstance(value, str):
        return value
    try:
        line = json.dumps(value, ensure_ascii=False, default=str)
        return line if len(line) <= 80 else json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__} that cannot be written as JSON>"


written = _written
