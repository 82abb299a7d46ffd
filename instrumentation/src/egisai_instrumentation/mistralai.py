"""Mistral: chat, agents, fill-in-the-middle and embeddings. https://docs.mistral.ai/api"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from opentelemetry import trace

from egisai import semconv

from . import openai
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method
from .messages import Conversation, Gathered, Message, Reasoning, Text
from .openai import chat_messages, tool_definitions
from .reading import an_array, member, no_prompt, texts


def _chat_request(body: Mapping[str, Any]) -> Attributes:
    attributes = openai.CHAT.read_request(body)
    seed = body.get("random_seed")
    if isinstance(seed, int):
        attributes[semconv.REQUEST_SEED] = seed
    kind = member(body.get("response_format"), "type")
    if isinstance(kind, str):  # of a model of the SDK's, too
        attributes[semconv.OUTPUT_TYPE] = "json" if kind.startswith("json") else kind
    return attributes


def _stream_request(body: Mapping[str, Any]) -> Attributes:
    return {**_chat_request(body), semconv.REQUEST_STREAM: True}


def _embed_request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: body["model"]}
    dimensions = body.get("output_dimension")
    if isinstance(dimensions, int):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = dimensions
    return attributes


class _Fold(openai.ChatFold):
    """Events, each with a chunk as OpenAI's in its `data`."""

    __slots__ = ()

    def feed(self, chunk: Any) -> bool:
        return super().feed(chunk.data)


# --- content ---------------------------------------------------------------------------------------------------------


def _messages(messages: object) -> list[Message]:
    return [_with_thoughts(message) for message in an_array(messages)]


def _with_thoughts(message: Any) -> Message:
    [said] = chat_messages([message])
    thoughts = _thoughts(member(message, "content"))
    return replace(said, parts=[Reasoning(thoughts), *said.parts]) if thoughts else said


def _thoughts(content: object) -> str:
    """The thinking among the chunks of a message's content."""
    return "".join(text for chunk in an_array(content) for text in texts(member(chunk, "thinking")))


def _chat_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation(_messages(body.get("messages")), tools=tool_definitions(body.get("tools")))


def _fim_conversation(body: Mapping[str, Any]) -> Conversation:
    parts = [Text(body[name]) for name in ("prompt", "suffix") if isinstance(body.get(name), str)]
    return Conversation([Message("user", parts)])


def _answers(response: Any) -> list[Message]:
    return [replace(_with_thoughts(each.message), finish_reason=each.finish_reason) for each in response.choices or ()]


def _chunk(gathered: Gathered, event: Any) -> None:
    for choice in event.data.choices:
        delta = choice.delta
        gathered.reasoning(_thoughts(delta.content) or None, choice.index)
        gathered.text("".join(texts(delta.content)), choice.index)
        for call in delta.tool_calls or ():
            given = None if call.id == "null" else call.id  # the SDK's default
            function = call.function
            gathered.tool(call.index, choice.index, id=given, name=function.name, arguments=function.arguments)
        gathered.finish(choice.finish_reason, choice.index)


def _embed_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(body.get("inputs"))])


# --- where the calls pass --------------------------------------------------------------------------------------------

_CHAT: Final = replace(
    openai.CHAT,
    read_request=_chat_request,
    fold=None,
    usage_on_request=None,
    content=Content(_chat_conversation, _answers, _chunk),
)
_CHAT_STREAM: Final = replace(_CHAT, read_request=_stream_request, fold=_Fold)
_FIM: Final = replace(
    _CHAT, operation="text_completion", read_prompt=no_prompt, content=Content(_fim_conversation, _answers, _chunk)
)
_FIM_STREAM: Final = replace(_FIM, read_request=_stream_request, fold=_Fold)
_EMBEDDINGS: Final[Endpoint] = replace(
    openai.EMBEDDINGS, read_request=_embed_request, content=Content(_embed_conversation, lambda _: ())
)


def _methods(module: str, path: str, endpoint: Endpoint) -> tuple[Method, ...]:
    """A method, sync and async, where versions from 2 on have it, and where version 1 has it.

    The latter's streams have no `close` to listen to besides what is inside: they are stood for.
    """

    def asked(arguments: Mapping[str, Any]) -> Asked:
        url = arguments["self"]._get_url(arguments.get("server_url"), None)
        return Asked(endpoint, arguments, url)

    return (
        Method(f"mistralai.client.{module}", path, asked, inner="generator"),
        Method(f"mistralai.client.{module}", f"{path}_async", asked, inner="generator"),
        Method(f"mistralai.{module}", path, asked),
        Method(f"mistralai.{module}", f"{path}_async", asked),
    )


def _traces_itself(resource: Any) -> bool:
    """Whether the client makes a span on the program's own tracer provider; another goes to Mistral alone.

    Older versions trace as soon as there is a global provider, each in a way of its own, and a stream by no span of a
    call: theirs stay inside ours, and do not count.
    """
    configuration = resource.sdk_configuration
    hook = next((hook for hook in _hooks(configuration) if type(hook).__name__ == "TracingHook"), None)
    if hook is None or not hasattr(hook, "_telemetry_use_global_provider"):  # before 2.5
        return False
    if hook.tracer_provider is not None:
        return hook._auto_telemetry_provider is None
    setting = getattr(configuration, "telemetry", None)
    if setting is None:
        setting = os.environ.get("MISTRAL_SDK_TELEMETRY")
    if not hook._telemetry_use_global_provider and str(setting).strip().lower() != "global":
        return False
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _hooks(configuration: Any) -> list[Any]:
    hooks = getattr(configuration, "_hooks", None) or configuration.__dict__.get("_hooks")
    return getattr(hooks, "before_request_hooks", [])


INTEGRATION: Final = Integration(
    library="mistralai",
    versions=">=1.10,<4",
    methods=(
        *_methods("chat", "Chat.complete", _CHAT),
        *_methods("chat", "Chat.stream", _CHAT_STREAM),
        *_methods("agents", "Agents.complete", _CHAT),
        *_methods("agents", "Agents.stream", _CHAT_STREAM),
        *_methods("fim", "Fim.complete", _FIM),
        *_methods("fim", "Fim.stream", _FIM_STREAM),
        *_methods("embeddings", "Embeddings.create", _EMBEDDINGS),
    ),
    endpoints={
        "chat.complete": _CHAT,
        "chat.stream": _CHAT_STREAM,
        "agents.complete": _CHAT,
        "agents.stream": _CHAT_STREAM,
        "fim.complete": _FIM,
        "fim.stream": _FIM_STREAM,
        "embeddings.create": _EMBEDDINGS,
    },
    provider=lambda _client, _host: "mistral_ai",
    traces_itself=_traces_itself,
    note="Where the client traces into the program's own provider, its span is the call's; before version 2.5 it is "
    "inside ours, and does not count. A stream of versions 2.0 to 2.9 that is left early ends when it is collected. "
    "Conversations, OCR, audio, and the clients for Azure and Google Cloud make no span.",
)
