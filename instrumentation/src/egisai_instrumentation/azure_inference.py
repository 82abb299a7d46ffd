"""Azure AI Inference: chat and embeddings of models that Azure and GitHub serve. https://learn.microsoft.com/azure/ai-foundry"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from opentelemetry import trace

from egisai import runtime, semconv

from . import openai
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method
from .messages import Conversation, Gathered, Message
from .openai import chat_messages, tool_definitions
from .reading import an_array, an_object, member

_CHAT_PARAMETERS: Final = (
    "messages",
    "model",
    "stream",
    "max_tokens",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "tools",
    "response_format",
)
_EMBEDDINGS_PARAMETERS: Final = ("input", "model", "dimensions", "encoding_format")


def _request(body: Mapping[str, Any]) -> Attributes:
    attributes = openai.CHAT.read_request(body)
    wanted = body.get("response_format")
    kind = wanted if isinstance(wanted, str) else member(wanted, "type") or ("json" if wanted else None)
    if isinstance(kind, str):  # a schema of the SDK's has no type
        attributes[semconv.OUTPUT_TYPE] = "json" if kind.startswith("json") else kind
    return attributes


def _plain(reason: Any) -> Any:
    return getattr(reason, "value", reason)


def _response(completion: Any) -> Attributes:
    return _with_plain_reasons(openai.CHAT.read_response(completion))


def _with_plain_reasons(attributes: Attributes) -> Attributes:
    reasons = attributes.get(semconv.RESPONSE_FINISH_REASONS)
    if reasons:  # of an enumeration
        attributes[semconv.RESPONSE_FINISH_REASONS] = [_plain(reason) for reason in reasons]
    return attributes


class _Fold(openai.ChatFold):
    """Chunks as OpenAI's."""

    __slots__ = ()

    def attributes(self) -> Attributes:
        return _with_plain_reasons(super().attributes())


def _conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation(chat_messages(body.get("messages")), tools=tool_definitions(body.get("tools")))


def _answers(completion: Any) -> list[Message]:
    return [
        replace(said, finish_reason=_plain(choice.finish_reason))
        for choice in an_array(completion.choices)
        for said in chat_messages([choice.message])
    ]


def _chunk(gathered: Gathered, chunk: Any) -> None:
    for choice in an_array(chunk.choices):
        delta = choice.delta
        gathered.reasoning(member(delta, "reasoning_content"), choice.index)
        gathered.text(member(delta, "content"), choice.index)
        for call in an_array(member(delta, "tool_calls")):
            function = member(call, "function")
            name, arguments = member(function, "name"), member(function, "arguments")
            gathered.tool(member(call, "index"), choice.index, id=member(call, "id"), name=name, arguments=arguments)
        gathered.finish(_plain(choice.finish_reason), choice.index)


_CHAT: Final = replace(
    openai.CHAT,
    read_request=_request,
    read_response=_response,
    fold=_Fold,
    usage_on_request=None,
    content=Content(_conversation, _answers, _chunk),
)


def _method(module: str, path: str, endpoint: Endpoint, parameters: Sequence[str]) -> Method:
    defaults = {name: f"_{name}" for name in parameters}
    if "response_format" in defaults:
        defaults["response_format"] = "_internal_response_format"

    def asked(arguments: Mapping[str, Any]) -> Asked:
        client = arguments["self"]
        body: Mapping[str, Any]
        if "body" in arguments:  # given whole; of bytes nothing is read
            body = an_object(arguments["body"])
        else:
            body = {
                name: getattr(client, default, None) if (value := arguments.get(name)) is None else value
                for name, default in defaults.items()
            }
        return Asked(endpoint, body, client._config.endpoint)

    return Method(module, path, asked)


def _traces_itself(client: Any) -> bool:
    """Where the program switched the client's instrumentor on, and azure-core's tracing; of chats alone."""
    tracing = sys.modules.get("azure.ai.inference.tracing")
    if tracing is None or not tracing._inference_traces_enabled or not hasattr(client, "complete"):
        return False
    settings = sys.modules["azure.core.settings"].settings
    return settings.tracing_implementation() is not None and runtime.is_attached(trace.get_tracer_provider())


INTEGRATION: Final = Integration(
    library="azure-ai-inference",
    versions=">=1.0.0b5,<2",
    methods=(
        _method("azure.ai.inference._patch", "ChatCompletionsClient.complete", _CHAT, _CHAT_PARAMETERS),
        _method("azure.ai.inference.aio._patch", "ChatCompletionsClient.complete", _CHAT, _CHAT_PARAMETERS),
        _method("azure.ai.inference._patch", "EmbeddingsClient.embed", openai.EMBEDDINGS, _EMBEDDINGS_PARAMETERS),
        _method("azure.ai.inference.aio._patch", "EmbeddingsClient.embed", openai.EMBEDDINGS, _EMBEDDINGS_PARAMETERS),
    ),
    endpoints={"complete": _CHAT, "embed": openai.EMBEDDINGS},
    provider=lambda _client, _host: "azure.ai.inference",
    traces_itself=_traces_itself,
    note="A beta that Microsoft no longer develops. With its `AIInferenceInstrumentor` on, its span is the call's. A "
    "stream has the usage that the service tells. Embeddings of images make no span.",
    oldest=("aiohttp",),  # of the async clients, which the library does not ask for
)
