"""Ollama: chat, generate and embeddings of a local server. https://docs.ollama.com/api"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from egisai import semconv

from . import usage
from .integration import Asked, Attributes, Endpoint, Integration, Method, Prompt
from .reading import an_array, an_object, no_prompt, put, system_text

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


def _generate_prompt(body: Mapping[str, Any]) -> Prompt:
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


_ENDPOINTS: Final = {
    "/api/chat": Endpoint("chat", _request, _chat_prompt, _response, _Fold),
    "/api/generate": Endpoint("text_completion", _request, _generate_prompt, _response, _Fold),
    "/api/embed": Endpoint("embeddings", _request, no_prompt, _embeddings),
    "/api/embeddings": Endpoint("embeddings", _request, no_prompt, _embeddings),
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
    provider=lambda _client, _host: "ollama",
)
