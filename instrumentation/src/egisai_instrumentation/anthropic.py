"""Anthropic: messages, on its own API and on other clouds. https://platform.claude.com/docs/en/api/messages"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import trace

from egisai import runtime, semconv

from . import usage
from .integration import Attributes, Content, Endpoint, Integration, Prompt
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .reading import an_array, an_object, member, put, system_text, texts

_PARAMETERS: Final = {
    "model": semconv.REQUEST_MODEL,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_tokens_to_sample": semconv.REQUEST_MAX_TOKENS,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
}

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""`stop_reason` in the words of the other providers; `pause_turn` has none."""


# --- requests --------------------------------------------------------------------------------------------------------


def _request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    for parameter, name in _PARAMETERS.items():
        put(attributes, name, body.get(parameter))
    stop = body.get("stop_sequences")
    if stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(stop)
    if body.get("stream") is True:
        attributes[semconv.REQUEST_STREAM] = True
    output = an_object(body.get("output_config"))
    put(attributes, semconv.REQUEST_REASONING_LEVEL, output.get("effort"))
    if output.get("format") or body.get("output_format"):  # a JSON schema; the latter is its older place
        attributes[semconv.OUTPUT_TYPE] = "json"
    return attributes


def _prompt(body: Mapping[str, Any]) -> Prompt:
    return (*texts(body.get("system")), *(system_text(body.get("messages")) or ())) or None


def _completion_prompt(body: Mapping[str, Any]) -> Prompt:
    before, human, _ = str(body.get("prompt")).partition("\n\nHuman:")
    return (before,) if human and before.strip() else None


# --- responses -------------------------------------------------------------------------------------------------------


def _response(message: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, message.id)
    put(attributes, semconv.RESPONSE_MODEL, message.model)
    _stopped(attributes, message.stop_reason)
    usage.ANTHROPIC.read(attributes, getattr(message, "usage", None))
    return attributes


def _stopped(attributes: Attributes, reason: str | None) -> None:
    if reason is not None:
        attributes[semconv.RESPONSE_FINISH_REASONS] = [_REASONS.get(reason, reason)]


class _Fold:
    """Events: the first has the message and its usage so far, one near the end why it stopped and its usage since."""

    __slots__ = ("_delta", "_message", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._message: Any = None
        self._delta: Any = None

    def feed(self, chunk: Any) -> None:
        kind = chunk.type
        if kind == "message_start":
            self._message = chunk.message
        elif kind == "message_delta":
            self._delta = chunk

    def attributes(self) -> Attributes:
        if self._message is None:
            return {}
        attributes = _response(self._message)
        if self._delta is not None:
            _stopped(attributes, self._delta.delta.stop_reason)
            started, since = self._message.usage, self._delta.usage
            counts = {name: member(since, name) for name in _COUNTS}  # cumulative; at first only of what was put out
            used = {name: member(started, name) if count is None else count for name, count in counts.items()}
            usage.ANTHROPIC.read(attributes, used)
        return attributes


_COUNTS: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "output_tokens_details",
)


class _CompletionFold:
    __slots__ = ("_last", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._last: Any = None

    def feed(self, chunk: Any) -> None:
        self._last = chunk

    def attributes(self) -> Attributes:
        return {} if self._last is None else _response(self._last)


# --- content ---------------------------------------------------------------------------------------------------------


def _message(message: Any) -> Message:
    content = member(message, "content")
    parts = [Text(content)] if isinstance(content, str) else _parts(content)
    role = "tool" if parts and all(isinstance(part, ToolResult) for part in parts) else member(message, "role")
    return Message(role, parts)


def _parts(blocks: object) -> list[Part]:
    return [part for block in an_array(blocks) if (part := _part(block)) is not None]


def _part(block: Any) -> Part | None:
    kind = str(member(block, "type"))
    if kind == "text":
        return Text(member(block, "text"))
    if kind == "thinking":
        return Reasoning(member(block, "thinking"))
    if kind.endswith("tool_use"):  # the program's own, the server's, an MCP server's
        return ToolCall(member(block, "id"), member(block, "name"), member(block, "input"))
    if kind.endswith("tool_result"):
        content = member(block, "content")
        blocks = an_array(content)
        is_text = blocks and all(member(each, "type") == "text" for each in blocks)
        return ToolResult(member(block, "tool_use_id"), "".join(texts(blocks)) if is_text else content)
    if kind in ("image", "document"):
        return _media(kind, member(block, "source"))
    return None


def _media(modality: str, source: Any) -> Part | None:
    mime_type, data = member(source, "media_type"), member(source, "data")
    if member(source, "type") == "text":
        return Text(data)
    content = data if isinstance(data, str) else None
    media = Media(modality, mime_type, content, uri=member(source, "url"), file_id=member(source, "file_id"))
    return None if media == Media(modality, mime_type) else media


def _conversation(body: Mapping[str, Any]) -> Conversation:
    tools = [_tool(tool) for tool in an_array(body.get("tools"))]
    return Conversation([_message(each) for each in an_array(body.get("messages"))], texts(body.get("system")), tools)


def _tool(tool: Any) -> dict[str, Any]:
    schema = member(tool, "input_schema")
    kind = "function" if schema is not None else member(tool, "type")
    said = {"type": kind, "name": member(tool, "name"), "description": member(tool, "description")}
    return {name: value for name, value in {**said, "parameters": schema}.items() if value is not None}


def _answers(message: Any) -> list[Message]:
    reason = message.stop_reason
    return [Message("assistant", _parts(message.content), _REASONS.get(reason, reason))]


def _event(gathered: Gathered, event: Any) -> None:
    kind = event.type
    if kind == "content_block_start":
        block = event.content_block
        if block.type.endswith("tool_use"):
            gathered.tool(event.index, id=block.id, name=block.name)
    elif kind == "content_block_delta":
        delta = event.delta
        gathered.text(getattr(delta, "text", None))
        gathered.reasoning(getattr(delta, "thinking", None))
        if (piece := getattr(delta, "partial_json", None)) is not None:
            gathered.tool(event.index, arguments=piece)
    elif kind == "message_delta":
        gathered.finish(_REASONS.get(event.delta.stop_reason, event.delta.stop_reason))


def _completion_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(str(body.get("prompt")))])])


def _completion_answers(completion: Any) -> list[Message]:
    reason = completion.stop_reason
    return [Message("assistant", [Text(completion.completion)], _REASONS.get(reason, reason))]


def _completion_event(gathered: Gathered, event: Any) -> None:
    gathered.text(event.completion)
    gathered.finish(_REASONS.get(event.stop_reason, event.stop_reason))


# --- the integration -------------------------------------------------------------------------------------------------


def _provider(client: str, _host: str) -> str:
    """As the client's own spans have it: who runs the model, which on other clouds' marketplaces is Anthropic."""
    if "Bedrock" in client:
        return "aws.bedrock"
    return "gcp.vertex_ai" if "Vertex" in client else "anthropic"


def _traces_itself(client: Any) -> bool:
    """Version 1.14 and newer, unless the program said no, or has a provider for these spans that is not ours."""
    if getattr(client, "_tracer", None) is None:
        return False
    options: Mapping[str, Any] = getattr(client, "_open_telemetry", None) or {}
    return runtime.is_attached(options.get("tracer_provider") or trace.get_tracer_provider())


MESSAGES: Final = Endpoint(
    "chat", _request, _prompt, _response, _Fold, content=Content(_conversation, _answers, _event)
)

INTEGRATION: Final = Integration(
    library="anthropic",
    versions=">=0.30,<3",
    targets=(
        # Of all clients: those for other clouds are no subclasses of `Anthropic`.
        ("anthropic._base_client", "SyncAPIClient.request"),
        ("anthropic._base_client", "AsyncAPIClient.request"),
    ),
    endpoints={
        "/v1/messages": MESSAGES,
        "/v1/complete": Endpoint(
            "text_completion",
            _request,
            _completion_prompt,
            _response,
            _CompletionFold,
            content=Content(_completion_conversation, _completion_answers, _completion_event),
        ),
    },
    provider=_provider,
    traces_itself=_traces_itself,
    note="Also `beta.messages`, `parse`, tool runners, and the clients for Bedrock, Vertex AI and others. Where the "
    "client traces itself (1.14 and newer), its span is the call's. Batches and token counts are no calls; sessions of "
    "managed agents are not followed.",
    oldest=("httpx==0.27.2",),  # anthropic before 0.41 passes arguments that 0.28 removed
)
