"""Ollama: chat, generate and embeddings of a local server. https://docs.ollama.com/api"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from egisai import semconv

from . import usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .openai import tool_definitions
from .reading import an_array, an_object, member, no_prompt, put, system_text, texts

_OPTIONS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "num_predict": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}


def _request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: body["model"]}
    options = an_object(body.get("options"))
    for option, name in _OPTIONS.items():
        put(attributes, name, options.get(option))
    stop = options.get("stop")
    if stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [stop] if isinstance(stop, str) else list(stop)
    if body.get("stream") is True:
        attributes[semconv.REQUEST_STREAM] = True
    if body.get("format"):  # "json", or a schema
        attributes[semconv.OUTPUT_TYPE] = "json"
    put(attributes, semconv.EMBEDDINGS_DIMENSION_COUNT, body.get("dimensions"))
    return attributes


def _chat_prompt(body: Mapping[str, Any]) -> Prompt:
    return system_text(body.get("messages"))


def _generate_prompt(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    system = body.get("system")
    return (system,) if isinstance(system, str) and system else None


def _response(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_MODEL, response.model)
    if response.done_reason:
        called = getattr(getattr(response, "message", None), "tool_calls", None)
        attributes[semconv.RESPONSE_FINISH_REASONS] = ["tool_calls" if called else response.done_reason]
    usage.OLLAMA.read(attributes, response)
    return attributes


def _embeddings(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_MODEL, getattr(response, "model", None))
    usage.OLLAMA.read(attributes, response)
    vectors = an_array(getattr(response, "embeddings", None) or [getattr(response, "embedding", None)])
    if vectors and (dimensions := len(an_array(vectors[0]))):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = dimensions
    return attributes


class _Fold:
    """Parts of an answer: the last one has the reason and the usage; a tool call may come in any."""

    __slots__ = ("_last", "_tools", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._last: Any = None
        self._tools = False

    def feed(self, chunk: Any) -> None:
        self._last = chunk
        if getattr(getattr(chunk, "message", None), "tool_calls", None):
            self._tools = True

    def attributes(self) -> Attributes:
        attributes = {} if self._last is None else _response(self._last)
        if self._tools and semconv.RESPONSE_FINISH_REASONS in attributes:
            attributes[semconv.RESPONSE_FINISH_REASONS] = ["tool_calls"]
        return attributes


def _messages(messages: object) -> list[Message]:
    return [_message(message) for message in an_array(messages)]


def _message(message: Any, finish_reason: str | None = None) -> Message:
    role, content = member(message, "role"), member(message, "content") or ""
    if role == "tool":
        return Message("tool", [ToolResult(None, content)], name=member(message, "tool_name"))
    parts: list[Part] = []
    if thinking := member(message, "thinking"):
        parts.append(Reasoning(thinking))
    if content:
        parts.append(Text(content))
    parts += [Media("image", content=image) for image in member(message, "images") or () if isinstance(image, str)]
    for call in member(message, "tool_calls") or ():
        function = member(call, "function")
        parts.append(ToolCall(None, member(function, "name"), member(function, "arguments")))
    return Message(role, parts, finish_reason)


def _chat_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation(_messages(body.get("messages")), tools=tool_definitions(body.get("tools")))


def _chat_answers(response: Any) -> list[Message]:
    return [_message(response.message, response.done_reason)]


def _chat_chunk(gathered: Gathered, chunk: Any) -> None:
    message = chunk.message
    gathered.reasoning(getattr(message, "thinking", None))
    gathered.text(message.content)
    for call in message.tool_calls or ():  # each comes whole
        gathered.tool(object(), name=call.function.name, arguments=call.function.arguments)
    gathered.finish(chunk.done_reason)


def _generate_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(body.get("prompt") or "")])], _generate_prompt(body) or ())


def _generate_answers(response: Any) -> list[Message]:
    return [Message("assistant", [Text(response.response)], response.done_reason)]


def _generate_chunk(gathered: Gathered, chunk: Any) -> None:
    gathered.text(chunk.response)
    gathered.finish(chunk.done_reason)


def _embed_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(body.get("input") or body.get("prompt"))])


_CHAT: Final = Content(_chat_conversation, _chat_answers, _chat_chunk)
_GENERATE: Final = Content(_generate_conversation, _generate_answers, _generate_chunk)

_EMBED: Final = Content(_embed_conversation, lambda _: ())

_ENDPOINTS: Final = {
    "/api/chat": Endpoint("chat", _request, _chat_prompt, _response, _Fold, content=_CHAT),
    "/api/generate": Endpoint("text_completion", _request, _generate_prompt, _response, _Fold, content=_GENERATE),
    "/api/embed": Endpoint("embeddings", _request, no_prompt, _embeddings, content=_EMBED),
    "/api/embeddings": Endpoint("embeddings", _request, no_prompt, _embeddings, content=_EMBED),
}


def _asked(arguments: Mapping[str, Any]) -> Asked | None:
    """Of `Client._request(cls, "POST", "/api/chat", json=..., stream=...)`, through which every request passes."""
    endpoint = _ENDPOINTS.get(arguments["args"][1])
    return endpoint and Asked(endpoint, arguments["json"], str(arguments["self"]._client.base_url))


INTEGRATION: Final = Integration(
    library="ollama",
    versions=">=0.4,<1",
    methods=(
        Method("ollama._client", "Client._request", _asked, lazy=True),
        Method("ollama._client", "AsyncClient._request", _asked, lazy=True),
    ),
    endpoints=_ENDPOINTS,
    provider=lambda _client, _host: "ollama",
)
