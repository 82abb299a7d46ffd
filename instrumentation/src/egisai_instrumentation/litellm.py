"""LiteLLM: completions, responses and embeddings of any provider, one span whatever is called underneath.

https://docs.litellm.ai. Its functions are followed where they are defined and where `litellm` names them again; and,
for names that the program took before that, inside LiteLLM's own decorator. One in the other is one call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from egisai import semconv

from . import methods, openai, usage
from .calls import Tracing
from .integration import Asked, Attributes, Endpoint, Integration, Method, Wrapped
from .reading import an_array, member, put

_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's words for providers, where the conventions have others."""


_TEXT_BY_OPENAI: Final = frozenset({"text-completion-openai", "azure_text"})
"""LiteLLM's words for providers whose streamed text completions it asks OpenAI's client for, when their first chunk is
asked for: of those, the client's call is the call."""


@functools.lru_cache(maxsize=1000)
def _resolved(model: str, provider: str | None, url: str | None) -> tuple[str, str, str]:
    """Model, provider and URL as LiteLLM itself resolves them; where it cannot, it is about to say so."""
    try:
        found: tuple[str, str, object, str | None] = sys.modules["litellm"].get_llm_provider(model, provider, url)
    except Exception:  # noqa: BLE001 - the caller gets it, from the call itself
        return model, provider or "litellm", url or ""
    return found[0], found[1], url or found[3] or ""


def _asked(endpoint: Endpoint) -> Callable[[Mapping[str, Any]], Asked | None]:
    def asked(arguments: Mapping[str, Any]) -> Asked | None:
        given = arguments.get("model") or next(iter(arguments.get("args") or ()), "")  # some take all as `*args`
        url = arguments.get("api_base") or arguments.get("base_url")
        model, provider, url = _resolved(given, arguments.get("custom_llm_provider"), url)
        if arguments.get("stream") and provider in _TEXT_BY_OPENAI:
            return None
        return Asked(endpoint, {**arguments, "model": model}, url, _PROVIDERS.get(provider, provider))

    return asked


def _embeddings_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_MODEL, response.model)
    usage.OPENAI_EMBEDDINGS.read(attributes, response.usage)
    vectors = an_array(response.data)
    if vectors and (vector := an_array(member(vectors[0], "embedding"))):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(vector)
    return attributes


class _Fold(openai.ChatFold):
    """Chunks, the usage in one of its own: asked for by us, it is not the caller's to see."""

    __slots__ = ()

    def is_ours(self, chunk: Any, used: Any) -> bool:  # its chunks lack the member where they have none
        return used is not None and not any(map(_says, chunk.choices))


def _says(choice: Any) -> bool:
    delta = getattr(choice, "delta", None)
    if delta is None:  # of text, not of a chat
        return bool(choice.finish_reason or choice.text)
    return bool(choice.finish_reason or delta.content or delta.tool_calls)


def _usage_on_request(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    options: Mapping[str, Any] = body.get("stream_options") or {}
    if not body.get("stream") or "include_usage" in options:  # the caller's own choice, either way
        return None
    return {**body, "stream_options": {**options, "include_usage": True}}


_CHAT: Final = replace(openai.CHAT, fold=_Fold, usage_on_request=_usage_on_request)
_TEXT: Final = replace(openai.COMPLETIONS, fold=_Fold, usage_on_request=_usage_on_request)
_EMBEDDINGS: Final = replace(openai.EMBEDDINGS, read_response=_embeddings_response)

_ENDPOINTS: Final = {
    "completion": _CHAT,
    "acompletion": _CHAT,
    "text_completion": _TEXT,
    "atext_completion": _TEXT,
    "responses": openai.RESPONSES,
    "aresponses": openai.RESPONSES,
    "embedding": _EMBEDDINGS,
    "aembedding": _EMBEDDINGS,
}


def _module(name: str) -> str:
    return "litellm.responses.main" if "responses" in name else "litellm.main"


def _follow_inside(method: Method) -> Callable[[Any, Tracing], Any]:
    """Follows what a function that LiteLLM decorated calls, by whatever name the program has it.

    `litellm.utils.client` keeps the function itself in its wrapper's closure. There it stays followed when we are
    taken out again, as a layer that does nothing.
    """

    def follow(decorated: Any, tracing: Tracing) -> Any:
        closure = dict(zip(decorated.__code__.co_freevars, decorated.__closure__ or (), strict=True))
        inside = closure.get("original_function")
        if inside is not None:
            inside.cell_contents = methods.follow(INTEGRATION, method, decorated.__wrapped__, tracing, covered=False)
        return decorated

    return follow


INTEGRATION: Final = Integration(
    library="litellm",
    versions=">=1.75,<2",
    methods=tuple(
        Method(module, name, _asked(endpoint))
        for name, endpoint in _ENDPOINTS.items()
        for module in (_module(name), "litellm")
    ),
    others=tuple(
        # What stands for the function by now has the decorated one in `__wrapped__`.
        Wrapped(_module(name), f"{name}.__wrapped__", _follow_inside(Method(_module(name), name, _asked(endpoint))))
        for name, endpoint in _ENDPOINTS.items()
    ),
    endpoints=_ENDPOINTS,
    provider=lambda provider, _host: provider,
    note="Routers too, made before or after, and names that were taken before `init()`, by `from litellm import "
    "completion`: of those each retry is a call. Streamed text completions of OpenAI's own models have no usage. "
    "Rerank, images and audio make no span of LiteLLM's own.",
)
