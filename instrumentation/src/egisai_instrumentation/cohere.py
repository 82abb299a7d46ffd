"""Cohere: chat and embeddings of versions 1 and 2 of its API, and generate of version 1. https://docs.cohere.com"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from egisai import fingerprint, semconv

from . import usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt, Wrapped
from .messages import Conversation, Gathered, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .methods import carry
from .openai import chat_messages, tool_definitions
from .reading import an_array, member, no_prompt, put, system_text, texts

_PARAMETERS: Final = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "conversation_id": semconv.CONVERSATION_ID,
    "output_dimension": semconv.EMBEDDINGS_DIMENSION_COUNT,
}
_ROLES: Final = {"chatbot": "assistant"}
_PROCESSED: Final = usage.Dialect(input="tokens.input_tokens", output="tokens.output_tokens")
"""Counts where what is billed is not told, such as on Bedrock."""


def _request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    for parameter, name in _PARAMETERS.items():
        value = arguments.get(parameter)
        if isinstance(value, (str, int, float)):  # what the caller left out is an ellipsis
            attributes[name] = value
    if stop := an_array(arguments.get("stop_sequences")):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(stop)
    kind = member(arguments.get("response_format"), "type")
    if isinstance(kind, str):
        attributes[semconv.OUTPUT_TYPE] = "json" if kind.startswith("json") else kind
    return attributes


def _stream_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_request(arguments), semconv.REQUEST_STREAM: True}


def _usage(attributes: Attributes, counts: Any) -> None:
    _PROCESSED.read(attributes, counts)
    usage.COHERE.read(attributes, counts)


def _reason(attributes: Attributes, reason: Any) -> None:
    if isinstance(reason, str):
        attributes[semconv.RESPONSE_FINISH_REASONS] = [reason.lower()]


# --- chat, version 2 -------------------------------------------------------------------------------------------------


def _chat_prompt(arguments: Mapping[str, Any]) -> Prompt:
    return system_text(arguments.get("messages"))


def _chat_response(raw: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, raw.data.id)
    _reason(attributes, raw.data.finish_reason)
    _usage(attributes, raw.data.usage)
    return attributes


class _Fold:
    """Events: the first has the id, the last the reason and the usage."""

    __slots__ = ("_attributes", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._attributes: Attributes = {}

    def feed(self, chunk: Any) -> None:
        kind = chunk.type
        if kind == "message-start":
            put(self._attributes, semconv.RESPONSE_ID, chunk.id)
        elif kind == "message-end":
            _reason(self._attributes, member(chunk.delta, "finish_reason"))
            _usage(self._attributes, member(chunk.delta, "usage"))

    def attributes(self) -> Attributes:
        return self._attributes


def _chat_conversation(arguments: Mapping[str, Any]) -> Conversation:
    messages = [_message(message) for message in an_array(arguments.get("messages"))]
    return Conversation(messages, tools=tool_definitions(arguments.get("tools")))


def _message(message: Any) -> Message:
    [said] = chat_messages([message])
    thoughts = [member(part, "thinking") for part in an_array(member(message, "content"))]
    found: list[Part] = [Reasoning(each) for each in (*thoughts, member(message, "tool_plan")) if isinstance(each, str)]
    return replace(said, parts=[*found, *said.parts]) if found else said


def _chat_answers(raw: Any) -> list[Message]:
    return [replace(_message(raw.data.message), finish_reason=_finish(raw.data.finish_reason))]


def _finish(reason: Any) -> str | None:
    said = reason.lower() if isinstance(reason, str) else None
    return {"complete": "stop", "stop_sequence": "stop"}.get(said or "", said)


def _chat_chunk(gathered: Gathered, event: Any) -> None:
    kind, delta = event.type, getattr(event, "delta", None)
    message = member(delta, "message")
    if kind in ("content-start", "content-delta"):
        gathered.text(member(member(message, "content"), "text"))
        gathered.reasoning(member(member(message, "content"), "thinking"))
    elif kind == "tool-plan-delta":
        gathered.reasoning(member(message, "tool_plan"))
    elif kind in ("tool-call-start", "tool-call-delta"):
        call = member(message, "tool_calls")
        function = member(call, "function")
        name, arguments = member(function, "name"), member(function, "arguments")
        gathered.tool(event.index, id=member(call, "id"), name=name, arguments=arguments)
    elif kind == "message-end":
        gathered.finish(_finish(member(delta, "finish_reason")))


# --- chat, version 1 -------------------------------------------------------------------------------------------------


def _preamble(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    preamble = arguments.get("preamble")
    said = [("system", (preamble,))] if isinstance(preamble, str) else []
    for turn in an_array(arguments.get("chat_history")):
        role, text = member(turn, "role"), member(turn, "message")
        if isinstance(role, str) and isinstance(text, str):
            said.append((role.lower(), (text,)))
    return tuple(fingerprint.system_texts(said))


def _old_chat_prompt(arguments: Mapping[str, Any]) -> Prompt:
    return _preamble(arguments) or None


def _old_chat_response(raw: Any) -> Attributes:
    return _old_chat(raw.data)


def _old_chat(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, member(response, "response_id") or member(response, "generation_id"))
    _reason(attributes, member(response, "finish_reason"))
    _usage(attributes, member(response, "meta"))
    return attributes


class _OldFold:
    """Events: the last has the whole response."""

    __slots__ = ("_attributes", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._attributes: Attributes = {}

    def feed(self, chunk: Any) -> None:
        if chunk.event_type == "stream-start":
            put(self._attributes, semconv.RESPONSE_ID, chunk.generation_id)
        elif chunk.event_type == "stream-end":
            self._attributes.update(_old_chat(chunk.response))
            _reason(self._attributes, chunk.finish_reason)

    def attributes(self) -> Attributes:
        return self._attributes


def _old_message(turn: Any) -> Message:
    role = (member(turn, "role") or "").lower()
    text = member(turn, "message")
    parts: list[Part] = [Text(text)] if isinstance(text, str) and text else []
    parts += _old_calls(member(turn, "tool_calls"))
    parts += _old_results(member(turn, "tool_results"))
    return Message(_ROLES.get(role, role), parts)


def _old_calls(calls: object) -> list[Part]:
    return [ToolCall(None, member(call, "name"), member(call, "parameters")) for call in an_array(calls)]


def _old_results(results: object) -> list[Part]:
    return [ToolResult(None, member(result, "outputs")) for result in an_array(results)]


def _old_chat_conversation(arguments: Mapping[str, Any]) -> Conversation:
    messages = [_old_message(turn) for turn in an_array(arguments.get("chat_history"))]
    if results := _old_results(arguments.get("tool_results")):
        messages.append(Message("tool", results))
    if isinstance(message := arguments.get("message"), str) and message:
        messages.append(Message("user", [Text(message)]))
    preamble = arguments.get("preamble")
    system = (preamble,) if isinstance(preamble, str) else ()
    return Conversation(messages, system, tool_definitions(arguments.get("tools")))


def _old_chat_answers(raw: Any) -> list[Message]:
    parts: list[Part] = [Text(raw.data.text)] if raw.data.text else []
    parts += _old_calls(raw.data.tool_calls)
    return [Message("assistant", parts, _finish(raw.data.finish_reason))]


def _old_chunk(gathered: Gathered, event: Any) -> None:
    if event.event_type == "text-generation":
        gathered.text(event.text)
    elif event.event_type == "tool-calls-generation":
        for call in event.tool_calls or ():
            gathered.tool(object(), name=call.name, arguments=call.parameters)
    elif event.event_type == "stream-end":
        gathered.finish(_finish(event.finish_reason))


# --- generate and embeddings -----------------------------------------------------------------------------------------


def _generate_response(raw: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, raw.data.id)
    if reasons := [reason.lower() for each in raw.data.generations if (reason := getattr(each, "finish_reason", None))]:
        attributes[semconv.RESPONSE_FINISH_REASONS] = reasons
    _usage(attributes, raw.data.meta)
    return attributes


def _generate_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(arguments["prompt"])])])


def _generate_answers(raw: Any) -> list[Message]:
    return [Message("assistant", [Text(each.text)]) for each in raw.data.generations]


def _embed_response(raw: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, raw.data.id)
    vectors: Any = raw.data.embeddings
    if found := an_array(vectors) or an_array(member(vectors, "float_")):  # of other types they are packed
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(found[0])
    _usage(attributes, raw.data.meta)
    return attributes


def _embed_conversation(arguments: Mapping[str, Any]) -> Conversation:
    given = [*texts(arguments.get("texts"))]
    given += [text for each in an_array(arguments.get("inputs")) for text in texts(member(each, "content"))]
    return Conversation([Message("user", [Text(text)]) for text in given])


# --- where the calls pass --------------------------------------------------------------------------------------------

_CHAT: Final = Endpoint(
    "chat", _request, _chat_prompt, _chat_response, content=Content(_chat_conversation, _chat_answers, _chat_chunk)
)
_OLD_CHAT: Final = Endpoint(
    "chat",
    _request,
    _old_chat_prompt,
    _old_chat_response,
    content=Content(_old_chat_conversation, _old_chat_answers, _old_chunk),
)
_GENERATE: Final = Endpoint(
    "text_completion",
    _request,
    no_prompt,
    _generate_response,
    content=Content(_generate_conversation, _generate_answers),
)
_EMBED: Final = Endpoint(
    "embeddings", _request, no_prompt, _embed_response, content=Content(_embed_conversation, lambda _: ())
)
_CHAT_STREAM: Final = replace(_CHAT, read_request=_stream_request, fold=_Fold)
_OLD_CHAT_STREAM: Final = replace(_OLD_CHAT, read_request=_stream_request, fold=_OldFold)


def _methods(module: str, name: str, endpoint: Endpoint, *, lazy: bool = False) -> tuple[Method, Method]:
    """A method of the raw client, sync and async: under the client itself, and what `with_raw_response` gives."""

    def asked(arguments: Mapping[str, Any]) -> Asked:
        return Asked(endpoint, arguments, arguments["self"]._client_wrapper.get_base_url())

    kind = "V2Client" if "v2" in module else "BaseCohere"
    sync, asynchronous = f"Raw{kind}.{name}", f"AsyncRaw{kind}.{name}"
    return (
        Method(module, sync, asked, member="_data", lazy=lazy),
        Method(module, asynchronous, asked, member="_data", lazy=lazy),
    )


INTEGRATION: Final = Integration(
    library="cohere",
    versions=">=5.16,<8",
    methods=(
        *_methods("cohere.v2.raw_client", "chat", _CHAT),
        *_methods("cohere.v2.raw_client", "chat_stream", _CHAT_STREAM, lazy=True),
        *_methods("cohere.v2.raw_client", "embed", _EMBED),
        *_methods("cohere.raw_base_client", "chat", _OLD_CHAT),
        *_methods("cohere.raw_base_client", "chat_stream", _OLD_CHAT_STREAM, lazy=True),
        *_methods("cohere.raw_base_client", "generate", _GENERATE),
        *_methods("cohere.raw_base_client", "embed", _EMBED),
    ),
    others=(
        Wrapped("cohere.v2.client", "V2Client.chat_stream", carry),
        Wrapped("cohere.v2.client", "AsyncV2Client.chat_stream", carry),
        Wrapped("cohere.base_client", "BaseCohere.chat_stream", carry),
        Wrapped("cohere.base_client", "AsyncBaseCohere.chat_stream", carry),
    ),
    endpoints={
        "v2 chat": _CHAT,
        "v2 chat_stream": _CHAT_STREAM,
        "v2 embed": _EMBED,
        "v1 chat": _OLD_CHAT,
        "v1 chat_stream": _OLD_CHAT_STREAM,
        "v1 generate": _GENERATE,
        "v1 embed": _EMBED,
    },
    provider=lambda _client, _host: "cohere",
    note="Of a client made before `init()`, the context in which a `chat_stream` is first read counts: there it sends "
    "its request. `generate_stream`, reranking, classification and summaries make no span.",
)
