"""What is said in a call, in nobody's wire format: messages made of parts, and their JSON in the conventions' shape.

The shapes are those of gen-ai-input-messages.json and its neighbours in open-telemetry/semantic-conventions-genai.
Integrations make these objects; nobody else does, and nobody makes them unless content is to be recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

MAX_PART_CHARS: Final = 16_384
"""Of one text, tool argument or tool result. What is beyond is cut, and the cut says how much it took."""
MAX_TOTAL_CHARS: Final = 131_072
"""Of one attribute's JSON. Older messages beyond are left out, and counted in `egisai.content.omitted_messages`."""

Json = Any


@dataclass(frozen=True, slots=True)
class Text:
    content: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str | None
    name: str
    arguments: Json
    """JSON values, or the JSON as text."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    id: str | None
    response: Json


@dataclass(frozen=True, slots=True)
class Media:
    """An image, audio, video or document: inline, or by reference."""

    modality: str
    mime_type: str | None = None
    content: str | None = None
    """Base64."""
    uri: str | None = None
    file_id: str | None = None


Part = Text | Reasoning | ToolCall | ToolResult | Media


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """`system`, `user`, `assistant` or `tool`."""
    parts: Sequence[Part]
    finish_reason: str | None = None
    """In the provider's words; of an output message."""
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request says."""

    messages: Sequence[Message] = ()
    system: Sequence[str] = ()
    """System instructions given apart from the messages."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Definitions: `type`, `name`, `description`, `parameters`."""


class Gathered:
    """A streamed answer, put together again. `index` tells apart several answers to one request."""

    __slots__ = ("_finishes", "_texts", "_thoughts", "_tools", "_whole")

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._thoughts: dict[int, list[str]] = {}
        self._tools: dict[int, dict[object, dict[str, Any]]] = {}
        self._finishes: dict[int, str] = {}
        self._whole: Sequence[Message] | None = None

    def text(self, delta: object, index: int = 0) -> None:
        if isinstance(delta, str):
            self._texts.setdefault(index, []).append(delta)

    def reasoning(self, delta: object, index: int = 0) -> None:
        if isinstance(delta, str):
            self._thoughts.setdefault(index, []).append(delta)

    def tool(self, slot: object, index: int = 0, *, id: Any = None, name: Any = None, arguments: Any = None) -> None:  # noqa: A002 - the shape's word
        """More of the tool call `slot`: its id, its name, or the next piece of its arguments (all of them, if JSON)."""
        call = self._tools.setdefault(index, {}).setdefault(slot, {"id": None, "name": "", "arguments": ""})
        call["id"] = id or call["id"]
        call["name"] = name or call["name"]
        if isinstance(arguments, str) and isinstance(call["arguments"], str):
            call["arguments"] += arguments
        elif arguments is not None:
            call["arguments"] = arguments

    def finish(self, reason: Any, index: int = 0) -> None:
        if reason:
            self._finishes[index] = reason

    def whole(self, messages: Sequence[Message]) -> None:
        """All of it, where the stream's end says it again."""
        self._whole = messages

    def messages(self) -> Sequence[Message]:
        if self._whole is not None:
            return self._whole
        answers = sorted({*self._texts, *self._thoughts, *self._tools, *self._finishes})
        return [Message("assistant", list(self._parts(index)), self._finishes.get(index)) for index in answers]

    def _parts(self, index: int) -> Sequence[Part]:
        thoughts, texts = "".join(self._thoughts.get(index, ())), "".join(self._texts.get(index, ()))
        parts: list[Part] = [Reasoning(thoughts)] if thoughts else []
        if texts:
            parts.append(Text(texts))
        parts += [ToolCall(call["id"], call["name"], call["arguments"]) for call in self._tools.get(index, {}).values()]
        return parts


# --- JSON ------------------------------------------------------------------------------------------------------------

_FINISH: Final = {"tool_calls": "tool_call", "function_call": "tool_call", "max_tokens": "length"}


def messages_json(messages: Sequence[Message], limit: int = MAX_TOTAL_CHARS) -> tuple[str, int]:
    """The newest messages that fit into `limit` characters as JSON, and how many older ones were left out."""
    kept: list[str] = []
    left = limit - 2
    for message in reversed(messages):
        text = _fitting(message, left) if not kept else json_of(_message(message, MAX_PART_CHARS))
        if len(text) + 1 > left:
            break
        kept.append(text)
        left -= len(text) + 1
    return f"[{','.join(reversed(kept))}]", len(messages) - len(kept)


def system_json(texts: Sequence[str], limit: int = MAX_TOTAL_CHARS) -> str:
    """System instructions as JSON, cut evenly where they do not fit."""
    per_text = MAX_PART_CHARS
    while True:
        text = json_of([{"type": "text", "content": cut(each, per_text)} for each in texts])
        if len(text) <= limit or per_text == 0:
            return text if len(text) <= limit else "[]"
        per_text //= 2


def tools_json(tools: Sequence[Mapping[str, Any]], limit: int = MAX_TOTAL_CHARS) -> str:
    """Tool definitions as JSON; only their names where they do not fit."""
    text = json_of([dict(tool) for tool in tools])
    if len(text) <= limit:
        return text
    text = json_of([{"type": tool.get("type"), "name": tool.get("name")} for tool in tools])
    return text if len(text) <= limit else "[]"


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning and how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}…[{len(text) - limit} more characters]"


def _fitting(message: Message, limit: int) -> str:
    per_part = MAX_PART_CHARS
    while True:
        text = json_of(_message(message, per_part))
        if len(text) + 1 <= limit or per_part == 0:
            return text
        per_part //= 2


def _message(message: Message, limit: int) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "parts": [_part(part, limit) for part in message.parts]}
    if message.name:
        said["name"] = message.name
    if message.finish_reason:
        said["finish_reason"] = _FINISH.get(message.finish_reason, message.finish_reason)
    return said


def _part(part: Part, limit: int) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "content": cut(part.content, limit)}
    if isinstance(part, Reasoning):
        return {"type": "reasoning", "content": cut(part.content, limit)}
    if isinstance(part, ToolCall):
        arguments = _bounded(_parsed(part.arguments), limit)
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": arguments}
    if isinstance(part, ToolResult):
        return {"type": "tool_call_response", "id": part.id, "response": _bounded(part.response, limit)}
    media: dict[str, Any] = {"modality": part.modality, "mime_type": part.mime_type}
    if part.uri is not None:
        return {"type": "uri", **media, "uri": cut(part.uri, limit)}
    if part.file_id is not None:
        return {"type": "file", **media, "file_id": part.file_id}
    content = part.content or ""
    return {"type": "blob", **media, "content": content if len(content) <= limit else ""}  # half of one is none


def _parsed(arguments: Json) -> Json:
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return arguments


def _bounded(value: Json, limit: int) -> Json:
    text = value if isinstance(value, str) else json_of(value)
    return cut(text, limit) if len(text) > limit else value


def json_of(value: object) -> str:
    """JSON of any value: of what has no form in it, what it holds or its type's name, never its `repr`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no form for: models by what they hold, the rest by its name, never by what `repr` tells."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    return f"<{type(value).__qualname__}>"
