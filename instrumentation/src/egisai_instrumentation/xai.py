"""xAI: chats, sampled, streamed, parsed and deferred, over gRPC. https://docs.x.ai/docs"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from opentelemetry import trace

from egisai import fingerprint, runtime, semconv

from . import usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .reading import put

_USAGE: Final = usage.Dialect(
    input="prompt_tokens",
    output=("completion_tokens", "reasoning_tokens"),
    cache_read="cached_prompt_text_tokens",
    reasoning="reasoning_tokens",
    image_input="prompt_image_tokens",
)
"""Reasoning is counted apart: https://docs.x.ai/docs/key-information/consumption-and-rate-limits"""

# What is an enumeration on the wire keeps its numbers: https://github.com/xai-org/xai-proto
_ASSISTANT: Final = 2
_TOOL: Final = 5
_ROLES: Final = {1: "user", _ASSISTANT: "assistant", 3: "system", 4: "tool", _TOOL: "tool", 6: "developer"}
_REASONS: Final = {1: "length", 2: "length", 3: "stop", 4: "tool_calls", 5: "time_limit"}
_EFFORTS: Final = {1: "low", 2: "medium", 3: "high", 4: "none", 5: "xhigh"}
_FORMATS: Final = {1: "text", 2: "json", 3: "json"}

_FIELDS: Final = {
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "seed": semconv.REQUEST_SEED,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "previous_response_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID,
}


# --- requests --------------------------------------------------------------------------------------------------------


def _request(arguments: Mapping[str, Any]) -> Attributes:
    chat = arguments["self"]
    asked = chat.proto
    attributes: Attributes = {semconv.REQUEST_MODEL: asked.model}
    for field, value in asked.ListFields():
        if (name := _FIELDS.get(field.name)) is not None:
            attributes[name] = round(value, 6) if isinstance(value, float) else value  # of 32 bits on the wire
        elif field.name == "stop":
            attributes[semconv.REQUEST_STOP_SEQUENCES] = list(value)
        elif field.name == "reasoning_effort":
            put(attributes, semconv.REQUEST_REASONING_LEVEL, _EFFORTS.get(value))
        elif field.name == "response_format":
            put(attributes, semconv.OUTPUT_TYPE, _FORMATS.get(value.format_type))
    count = arguments.get("n", 1)
    if count != 1:
        attributes[semconv.REQUEST_CHOICE_COUNT] = count
    put(attributes, semconv.CONVERSATION_ID, chat._conversation_id or None)
    return attributes


def _parse_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_request(arguments), semconv.OUTPUT_TYPE: "json"}  # which `parse` itself asks for


def _stream_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_request(arguments), semconv.REQUEST_STREAM: True}


def _prompt(arguments: Mapping[str, Any]) -> Prompt:
    said = ((_ROLES.get(message.role), _texts(message)) for message in arguments["self"].proto.messages)
    return tuple(fingerprint.system_texts(said)) or None


def _texts(message: Any) -> list[str]:
    return [part.text for part in message.content if part.text]


# --- responses -------------------------------------------------------------------------------------------------------


def _proto(response: Any) -> Any:
    """The message behind what a method returns: it, its wrapper, or the first of several, which all have the same."""
    while isinstance(response, (list, tuple)):
        response = cast("Sequence[Any]", response)[0]
    return getattr(response, "proto", response)


def _answered(proto: Any) -> Iterator[Any]:
    """The answers, without what tools on the server put out."""
    return (output for output in proto.outputs if output.message.role == _ASSISTANT)


def _response(response: Any) -> Attributes:
    proto = _proto(response)
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, proto.id or None)
    put(attributes, semconv.RESPONSE_MODEL, proto.model or None)
    reasons = [_REASONS[output.finish_reason] for output in _answered(proto) if output.finish_reason in _REASONS]
    if reasons:
        attributes[semconv.RESPONSE_FINISH_REASONS] = reasons
    if proto.HasField("usage"):
        _USAGE.read(attributes, proto.usage)
    return attributes


class _Fold:
    """Pairs of the response so far, which grows, and the chunk that made it grow."""

    __slots__ = ("_response", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._response: Any = None

    def feed(self, chunk: Any) -> None:
        self._response = chunk[0]

    def attributes(self) -> Attributes:
        return {} if self._response is None else _response(self._response)


# --- content ---------------------------------------------------------------------------------------------------------


def _conversation(arguments: Mapping[str, Any]) -> Conversation:
    asked = arguments["self"].proto
    tools = [
        {"type": "function", "name": tool.function.name, "description": tool.function.description}
        | ({"parameters": tool.function.parameters} if tool.function.parameters else {})
        if (kind := tool.WhichOneof("tool")) == "function"
        else {"type": kind, "name": kind}
        for tool in asked.tools
    ]
    return Conversation([_asked_message(message) for message in asked.messages], tools=tools)


def _asked_message(message: Any) -> Message:
    if message.role == _TOOL:
        return Message("tool", [ToolResult(message.tool_call_id or None, "".join(_texts(message)))])
    parts: list[Part] = [Reasoning(message.reasoning_content)] if message.reasoning_content else []
    parts += [part for content in message.content if (part := _part(content)) is not None]
    role = _ROLES.get(message.role, "user")
    return Message("system" if role == "developer" else role, [*parts, *_calls(message)], name=message.name or None)


def _part(content: Any) -> Part | None:
    if content.text:
        return Text(content.text)
    if url := content.image_url.image_url:
        return Media("image", uri=url)
    held = content.file
    return Media("document", held.mime_type or None, file_id=held.file_id) if held.file_id else None


def _calls(message: Any) -> list[Part]:
    return [ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]


def _answers(response: Any) -> list[Message]:
    return [_answer(output) for output in _answered(_proto(response))]


def _answer(output: Any) -> Message:
    said = output.message
    parts: list[Part] = [Reasoning(said.reasoning_content)] if said.reasoning_content else []
    if said.content:
        parts.append(Text(said.content))
    return Message("assistant", [*parts, *_calls(said)], _REASONS.get(output.finish_reason))


def _chunk(gathered: Gathered, chunk: Any) -> None:
    for output in _proto(chunk[1]).outputs:
        delta = output.delta
        if delta.role == _ASSISTANT:
            gathered.reasoning(delta.reasoning_content or None, output.index)
            gathered.text(delta.content or None, output.index)
            for call in delta.tool_calls:  # each comes whole
                name, arguments = call.function.name, call.function.arguments
                gathered.tool(object(), output.index, id=call.id, name=name, arguments=arguments)
            gathered.finish(_REASONS.get(output.finish_reason), output.index)


# --- where the calls pass --------------------------------------------------------------------------------------------

_SAMPLE: Final = Endpoint("chat", _request, _prompt, _response, content=Content(_conversation, _answers, _chunk))
_PARSE: Final = replace(_SAMPLE, read_request=_parse_request)
_STREAM: Final = replace(_SAMPLE, read_request=_stream_request, fold=_Fold)

_targets: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()


def _target(stub: Any) -> str:
    """Where a stub's channel leads, as a URL."""
    url = _targets.get(stub)
    if url is None:
        rpc = stub.GetCompletion
        while hasattr(rpc, "_thunk"):  # an interceptor's, of a channel inside
            rpc = rpc._thunk(rpc._method)
        target: Any = rpc._channel.target
        name: bytes = target if isinstance(target, bytes) else target()  # the former of an async channel
        url = _targets[stub] = "grpc://" + name.decode().rpartition("/")[2]
    return url


def _methods(name: str, endpoint: Endpoint, *, lazy: bool = False) -> tuple[Method, Method]:
    def asked(arguments: Mapping[str, Any]) -> Asked:
        return Asked(endpoint, arguments, _target(arguments["self"]._stub))

    return (
        Method("xai_sdk.sync.chat", f"Chat.{name}", asked, lazy=lazy),
        Method("xai_sdk.aio.chat", f"Chat.{name}", asked, lazy=lazy),
    )


def _traces_itself(_: Any) -> bool:
    """Unless XAI_SDK_DISABLE_TRACING was set when it was imported, or its spans go to a provider that is not ours."""
    tracer = getattr(sys.modules.get("xai_sdk.sync.chat"), "tracer", None)
    return not isinstance(tracer, trace.NoOpTracer) and runtime.is_attached(trace.get_tracer_provider())


INTEGRATION: Final = Integration(
    library="xai-sdk",
    versions=">=1.4,<2",
    methods=(
        *_methods("sample", _SAMPLE),
        *_methods("sample_batch", _SAMPLE),
        *_methods("parse", _PARSE),
        *_methods("stream", _STREAM, lazy=True),
        *_methods("stream_batch", _STREAM, lazy=True),
        *_methods("_defer", _SAMPLE),  # of `defer` and `defer_batch`
    ),
    endpoints={
        "chat.sample": _SAMPLE,
        "chat.parse": _PARSE,
        "chat.stream": _STREAM,
        "chat.defer": _SAMPLE,
    },
    provider=lambda _client, _host: "x_ai",
    traces_itself=_traces_itself,
    note="Where the client traces itself, on the global tracer provider, its span is the call's; that span has the "
    "prompts unless XAI_SDK_DISABLE_SENSITIVE_TELEMETRY_ATTRIBUTES is 1. An answer that `parse` could not read has no "
    "usage. A gRPC status is told as the HTTP status that stands for it. Images, videos, batches, compaction and "
    "answers fetched later make no span of ours.",
)
