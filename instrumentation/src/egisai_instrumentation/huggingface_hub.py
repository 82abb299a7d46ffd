"""Hugging Face: chat, text generation and embeddings by whichever provider. https://huggingface.co/docs/inference-providers"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from egisai import semconv

from . import openai, usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method
from .messages import Conversation, Gathered, Message, Text
from .reading import member, no_prompt, put, texts

_PROVIDERS: Final = {
    "auto": "huggingface",
    "hf-inference": "huggingface",
    "fireworks-ai": "fireworks_ai",
    "together": "together_ai",
}
"""The client's words for providers, where ours are others."""

_PARAMETERS: Final = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_new_tokens": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "dimensions": semconv.EMBEDDINGS_DIMENSION_COUNT,
}
_REASONS: Final = {"eos_token": "stop", "stop_sequence": "stop"}
_USAGE: Final = usage.Dialect(input="input_length", output="generated_tokens")  # the former only in streams


# --- requests --------------------------------------------------------------------------------------------------------


def _request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    for parameter, name in _PARAMETERS.items():
        put(attributes, name, arguments.get(parameter))
    if arguments.get("stop"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(arguments["stop"])
    if arguments.get("stream"):
        attributes[semconv.REQUEST_STREAM] = True
    if arguments.get("encoding_format"):
        attributes[semconv.REQUEST_ENCODING_FORMATS] = [arguments["encoding_format"]]
    return attributes


def _usage_on_request(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    options: Mapping[str, Any] = arguments.get("stream_options") or {}
    if (
        not arguments.get("stream")
        or options.get("include_usage") is not None  # the caller's own choice, either way
        or "stream_options" in (arguments.get("extra_body") or ())
    ):
        return None
    return {**arguments, "stream_options": {**options, "include_usage": True}}


# --- responses -------------------------------------------------------------------------------------------------------


class _ChatFold(openai.ChatFold):
    """Chunks, the usage in one of its own: asked for by us, it is not the caller's to see."""

    __slots__ = ()

    def is_ours(self, chunk: Any, used: Any) -> bool:  # its chunks have the member, whatever was sent
        return used is not None and not chunk.choices


def _generated(response: Any) -> Attributes:
    """Of a text alone, as it comes without `details`, there is nothing to tell."""
    attributes: Attributes = {}
    details = getattr(response, "details", None)
    if details is not None:
        reason = member(details, "finish_reason")
        if reason:
            attributes[semconv.RESPONSE_FINISH_REASONS] = [_REASONS.get(reason, reason)]
        _USAGE.read(attributes, details)
    return attributes


class _GeneratedFold:
    """Tokens, the details with the last one."""

    __slots__ = ("_last", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._last: Any = None

    def feed(self, chunk: Any) -> None:
        self._last = chunk

    def attributes(self) -> Attributes:
        return _generated(self._last)


def _embedded(array: Any) -> Attributes:
    return {semconv.EMBEDDINGS_DIMENSION_COUNT: array.shape[-1]} if array.shape else {}


# --- content ---------------------------------------------------------------------------------------------------------


def _generate_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(arguments["prompt"])])])


def _generated_answers(response: Any) -> list[Message]:
    text = response if isinstance(response, str) else response.generated_text
    reasons: list[str] = _generated(response).get(semconv.RESPONSE_FINISH_REASONS, [])
    return [Message("assistant", [Text(text)], *reasons)]


def _generated_chunk(gathered: Gathered, chunk: Any) -> None:
    if isinstance(chunk, str):
        gathered.text(chunk)
        return
    if not chunk.token.special:
        gathered.text(chunk.token.text)
    gathered.finish(*_generated(chunk).get(semconv.RESPONSE_FINISH_REASONS, [None]))


def _embed_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(arguments["text"])])


# --- the integration -------------------------------------------------------------------------------------------------

_ENDPOINTS: Final = {
    "chat_completion": replace(openai.CHAT, fold=_ChatFold, usage_on_request=_usage_on_request),
    "text_generation": Endpoint(
        "text_completion",
        _request,
        no_prompt,
        _generated,
        _GeneratedFold,
        content=Content(_generate_conversation, _generated_answers, _generated_chunk),
    ),
    "feature_extraction": Endpoint(
        "embeddings", _request, no_prompt, _embedded, content=Content(_embed_conversation, lambda _: ())
    ),
}
_TASKS: Final = {
    "chat_completion": "conversational",
    "text_generation": "text-generation",
    "feature_extraction": "feature-extraction",
}


def _asked(method: str) -> Callable[[Mapping[str, Any]], Asked]:
    endpoint, task = _ENDPOINTS[method], _TASKS[method]

    def asked(arguments: Mapping[str, Any]) -> Asked:
        client = arguments["self"]
        named: list[str | None] = [arguments.get("model") or client.model]
        if task == "conversational":  # whose URL the client has, and whose model is the argument
            named.append(client.model)
        model = next((name for name in named if name and not _is_url(name)), None)
        own = next((name for name in named if name and _is_url(name)), None)
        provider = "auto" if own else client.provider or "auto"
        return Asked(endpoint, {**arguments, "model": model}, own or _url(client, provider, task), provider)

    return asked


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _url(client: Any, provider: str, task: str) -> str:
    """Hugging Face's router, or, with a key of the provider's own, the provider."""
    if client.token and not client.token.startswith("hf_"):
        helpers: Mapping[str, Mapping[str, Any]] = sys.modules["huggingface_hub.inference._providers"].PROVIDERS
        return getattr(helpers.get(provider, {}).get(task), "base_url", "")
    return sys.modules["huggingface_hub.constants"].INFERENCE_PROXY_TEMPLATE


_CLIENTS: Final = (
    ("huggingface_hub.inference._client", "InferenceClient"),
    ("huggingface_hub.inference._generated._async_client", "AsyncInferenceClient"),
)

INTEGRATION: Final = Integration(
    library="huggingface_hub",
    versions=">=0.31,<3",
    methods=tuple(
        Method(module, f"{name}.{method}", _asked(method)) for method in _ENDPOINTS for module, name in _CLIENTS
    ),
    endpoints=_ENDPOINTS,
    provider=lambda provider, _host: _PROVIDERS.get(provider, provider),
    note="Hugging Face tells no usage of embeddings, and of generated text only with `details`. Other tasks make no "
    "span.",
    oldest=("aiohttp", "numpy"),
)
