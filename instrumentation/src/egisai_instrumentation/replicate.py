"""Replicate: predictions of any model, run or streamed. https://replicate.com/docs/reference/http"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from egisai import semconv

from . import openai, usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt, Wrapped
from .messages import Conversation, Gathered, Media, Message, Part, Text, json_of
from .reading import an_array, an_object, loose, put, system_text

_PARAMETERS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_new_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
}
"""Each model has inputs of its own; language models call them so."""

_SYSTEM: Final = ("system_prompt", "system_instruction")
_USAGE: Final = usage.Dialect(input="input_token_count", output="output_token_count")
_REASONS: Final = {"succeeded": "stop", "canceled": "canceled", "failed": "error"}

_named: Final[ContextVar[str | None]] = ContextVar("egisai_replicate_model", default=None)
"""The model that `run` was asked for: below it, only its version's id is left."""


def _request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.REQUEST_MODEL, body.get("model"))
    if body.get("stream"):
        attributes[semconv.REQUEST_STREAM] = True
    for name, value in an_object(body.get("input")).items():
        if name in _PARAMETERS and isinstance(value, (str, int, float)):
            attributes[_PARAMETERS[name]] = value
        elif name == "stop_sequences" and value and isinstance(value, str):
            attributes[semconv.REQUEST_STOP_SEQUENCES] = value.split(",")
    return attributes


def _prompt(body: Mapping[str, Any]) -> Prompt:
    given = an_object(body.get("input"))
    parts = tuple(given[name] for name in _SYSTEM if isinstance(given.get(name), str) and given[name])
    return (*parts, *(system_text(given.get("messages")) or ())) or None


def _response(response: Any) -> Attributes:
    """Of an `httpx.Response` with a prediction, which may go on after it."""
    prediction = loose(response.content)
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, prediction.id)
    put(attributes, semconv.RESPONSE_MODEL, prediction.model)
    if prediction.status in _REASONS:
        attributes[semconv.RESPONSE_FINISH_REASONS] = [_REASONS[prediction.status]]
    if prediction.status == "failed":
        attributes[semconv.ERROR_TYPE] = "failed"
    _USAGE.read(attributes, prediction.metrics)
    return attributes


class _Fold:
    """Server-sent events: output, logs, and `done` with a reason unless all went well."""

    __slots__ = ("_reason", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._reason: str | None = None

    def feed(self, chunk: Any) -> None:
        if chunk.event.value == "done":
            self._reason = _reason(chunk)

    def attributes(self) -> Attributes:
        return {semconv.RESPONSE_FINISH_REASONS: [self._reason]} if self._reason else {}


def _reason(done: Any) -> str:
    return json.loads(done.data or "{}").get("reason", "stop")


# --- content ---------------------------------------------------------------------------------------------------------


def _conversation(body: Mapping[str, Any]) -> Conversation:
    given = an_object(body.get("input"))
    parts: list[Part] = []
    if isinstance(given.get("prompt"), str):
        parts.append(Text(given["prompt"]))
    if isinstance(given.get("image"), str):
        parts.append(Media("image", uri=given["image"]))
    system = [given[name] for name in _SYSTEM if isinstance(given.get(name), str)]
    asked = [Message("user", parts)] if parts else []
    return Conversation([*openai.chat_messages(given.get("messages")), *asked], system)


def _answers(response: Any) -> list[Message]:
    prediction = json.loads(response.content)
    output = prediction.get("output")
    if output is None:
        return []
    if not isinstance(output, str):
        pieces = an_array(output)
        is_text = pieces and all(isinstance(piece, str) and not _is_url(piece) for piece in pieces)
        output = "".join(pieces) if is_text else json_of(output)
    return [Message("assistant", [Text(output)], _REASONS.get(prediction.get("status")))]


def _is_url(text: str) -> bool:
    return text.startswith(("https://", "http://", "data:"))


def _event(gathered: Gathered, chunk: Any) -> None:
    kind = chunk.event.value
    if kind == "output":
        gathered.text(chunk.data)
    elif kind == "done":
        gathered.finish(_reason(chunk))


# --- the integration -------------------------------------------------------------------------------------------------

_PREDICTIONS: Final = Endpoint(
    "generate_content",  # of whatever kind the model's output is
    _request,
    _prompt,
    _response,
    _Fold,
    content=Content(_conversation, _answers, _event),
)


def _posted(http: str) -> Callable[[Mapping[str, Any]], Asked | None]:
    """Of `Client._request(method, path, json=...)`, through which predictions of models, versions and deployments are
    made, and waited for by GET."""

    def asked(arguments: Mapping[str, Any]) -> Asked | None:
        path: str = arguments["path"]
        if arguments["method"] != "POST" or not path.endswith("/predictions"):
            return None
        body: Mapping[str, Any] = arguments["json"]
        parts = path.split("/")  # /v1/predictions, /v1/models/<owner>/<name>/predictions, the same with deployments
        model = "/".join(parts[3:5]) if len(parts) == 6 else _named.get() or body.get("version")
        return Asked(_PREDICTIONS, {**body, "model": model}, str(getattr(arguments["self"], http).base_url))

    return asked


def _streamed(http: str) -> Callable[[Mapping[str, Any]], Asked]:
    """Of `stream(client, ref, input)`, a generator that makes a prediction and reads its events."""

    def asked(arguments: Mapping[str, Any]) -> Asked:
        body = {"model": _name_of(arguments["ref"]), "input": arguments.get("input"), "stream": True}
        return Asked(_PREDICTIONS, body, str(getattr(arguments["client"], http).base_url))

    return asked


def _name_of(ref: Any) -> str | None:
    """Of `owner/name`, `owner/name:version`, a model or a version."""
    if isinstance(ref, str):
        return ref
    owner, name = getattr(ref, "owner", None), getattr(ref, "name", None)
    if owner is None:
        return getattr(ref, "id", None)
    version = getattr(ref, "version", None)
    return f"{owner}/{name}:{version}" if isinstance(version, str) else f"{owner}/{name}"


def _naming(run: Callable[..., Any], _tracing: object) -> Callable[..., Any]:
    """`run(client, ref, ...)`, sync or async, while which `ref` is remembered."""
    if inspect.iscoroutinefunction(run):

        @functools.wraps(run)
        async def run_async(client: Any, ref: Any, *args: Any, **kwargs: Any) -> Any:
            token = _named.set(_name_of(ref))
            try:
                return await run(client, ref, *args, **kwargs)
            finally:
                _named.reset(token)

        return run_async

    @functools.wraps(run)
    def run_sync(client: Any, ref: Any, *args: Any, **kwargs: Any) -> Any:
        token = _named.set(_name_of(ref))
        try:
            return run(client, ref, *args, **kwargs)
        finally:
            _named.reset(token)

    return run_sync


INTEGRATION: Final = Integration(
    library="replicate",
    versions=">=1,<2",
    methods=(
        Method("replicate.client", "Client._request", _posted("_client")),
        Method("replicate.client", "Client._async_request", _posted("_async_client")),
        Method("replicate.client", "stream", _streamed("_client"), lazy=True),
        Method("replicate.client", "async_stream", _streamed("_async_client"), lazy=True),
    ),
    others=(Wrapped("replicate.client", "run", _naming), Wrapped("replicate.client", "async_run", _naming)),
    endpoints={"predictions": _PREDICTIONS},
    provider=lambda _client, _host: "replicate",
    note="A call is the request that makes a prediction, and its usage what that request is answered with: it waits "
    "for the end, unless told not to, for a minute. Waiting longer makes no span. Replicate tells no usage of streams, "
    "nor of models that have no tokens. Trainings and version 2, a beta, make no span.",
)
