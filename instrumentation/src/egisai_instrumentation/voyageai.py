"""Voyage AI: embeddings of texts, chunks in context and images, and reranking. https://docs.voyageai.com/reference"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from egisai import semconv

from . import usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method
from .messages import Conversation, Media, Message, Part, Text
from .reading import an_array, member, no_prompt, put

_USAGE: Final = usage.Dialect(input="total_tokens", text_input="text_tokens")
"""Of multimodal embeddings, what is not text is counted in pixels too, and in tokens only in the total."""


def _request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: arguments["model"]}
    put(attributes, semconv.EMBEDDINGS_DIMENSION_COUNT, arguments.get("output_dimension"))
    if arguments.get("output_dtype"):
        attributes[semconv.REQUEST_ENCODING_FORMATS] = [arguments["output_dtype"]]
    return attributes


def _embedded(response: Any) -> Attributes:
    attributes: Attributes = {}
    _USAGE.read(attributes, response)
    results = an_array(getattr(response, "results", None))  # of chunks in context: one a document
    vectors = an_array(getattr(results[0] if results else response, "embeddings", None))
    if vectors:
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(vectors[0])
    return attributes


def _reranked(response: Any) -> Attributes:
    attributes: Attributes = {}
    _USAGE.read(attributes, response)
    return attributes


# --- content ---------------------------------------------------------------------------------------------------------


def _texts(name: str) -> Callable[[Mapping[str, Any]], Conversation]:
    """A message for each input, be it a text, a list of texts, or of texts and images."""

    def conversation(arguments: Mapping[str, Any]) -> Conversation:
        given = arguments[name]
        inputs = (given,) if isinstance(given, str) else an_array(given)
        return Conversation([Message("user", parts) for each in inputs if (parts := _parts(each))])

    return conversation


def _parts(given: Any) -> list[Part]:
    if isinstance(given, str):
        return [Text(given)]
    pieces = an_array(member(given, "content") or given)
    return [part for piece in pieces if (part := _part(piece)) is not None]


def _part(piece: Any) -> Part | None:
    text = piece if isinstance(piece, str) else member(piece, "text")
    if isinstance(text, str):
        return Text(text)
    for modality in ("image", "video"):
        if isinstance(url := member(piece, f"{modality}_url"), str):
            return Media(modality, uri=url)
        if isinstance(data := member(piece, f"{modality}_base64"), str):
            head, _, content = data.partition(",")
            return Media(modality, head.removeprefix("data:").partition(";")[0], content=content)
    return None  # an image or a video as an object


def _ranked_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text) for text in (arguments["query"], *arguments["documents"])])])


# --- the integration -------------------------------------------------------------------------------------------------


def _embeddings(name: str) -> Endpoint:
    return Endpoint("embeddings", _request, no_prompt, _embedded, content=Content(_texts(name), lambda _: ()))


_ENDPOINTS: Final = {
    "embed": _embeddings("texts"),
    "contextualized_embed": _embeddings("inputs"),
    "multimodal_embed": _embeddings("inputs"),
    # The word of those who have one for it; no call in the sense of `semconv.is_call`.
    "rerank": Endpoint("rerank", _request, no_prompt, _reranked, content=Content(_ranked_conversation, lambda _: ())),
}


def _asked(method: str) -> Callable[[Mapping[str, Any]], Asked | None]:
    endpoint = _ENDPOINTS[method]

    def asked(arguments: Mapping[str, Any]) -> Asked | None:
        module = sys.modules["voyageai"]
        model = arguments.get("model") or module.VOYAGE_EMBED_DEFAULT_MODEL
        local = sys.modules.get("voyageai.local.helpers")
        if local is not None and local.is_local_model(model):
            return None
        url = arguments["self"]._params.get("base_url") or getattr(module, "api_base", "")  # before 0.3.7
        return Asked(endpoint, {**arguments, "model": model}, url)

    return asked


INTEGRATION: Final = Integration(
    library="voyageai",
    versions=">=0.3.4,<1",
    methods=tuple(
        Method(f"voyageai.{module}", f"{name}.{method}", _asked(method))
        for method in _ENDPOINTS
        for module, name in (("client", "Client"), ("client_async", "AsyncClient"))
    ),
    endpoints=_ENDPOINTS,
    provider=lambda _client, _host: "voyageai",
    note="A reranking has a span and is no call. Models that run in the process make no span, nor do "
    "`voyageai.get_embedding` and its like.",
)
