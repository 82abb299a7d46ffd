"""OpenAI over websockets: the Realtime API, and responses. https://platform.openai.com/docs/guides/realtime"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from egisai import semconv
from egisai.guard import Guard

from . import content, sockets, usage
from .calls import Destination, Tracing
from .integration import Attributes, Endpoint, Wrapped
from .reading import an_array, an_object, member, put
from .sockets import Talk, Turn

_SENDING: Final = Guard("following a message sent")
_HEARING: Final = Guard("following a message received")

_TALK: Final = "_egisai_talk"
_MAX_ITEMS: Final = 100  # of a conversation, kept until the next answer is asked for

USAGE: Final = usage.Dialect(
    input="input_tokens",
    output="output_tokens",
    cache_read="input_token_details.cached_tokens",
    text_input="input_token_details.text_tokens",
    image_input="input_token_details.image_tokens",
    audio_input="input_token_details.audio_tokens",
    text_output="output_token_details.text_tokens",
    audio_output="output_token_details.audio_tokens",
)

_CALLS_TO_CLIENT: Final = frozenset({"function_call", "mcp_approval_request"})
_ENDS: Final = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})


# --- readers of the Realtime API -------------------------------------------------------------------------------------


def realtime_request(body: Mapping[str, Any]) -> Attributes:
    """A `response.create`, with what the session says of it."""
    attributes: Attributes = {semconv.REQUEST_STREAM: True}
    put(attributes, semconv.REQUEST_MODEL, body.get("model"))
    put(attributes, semconv.REQUEST_TEMPERATURE, body.get("temperature"))
    most = body.get("max_output_tokens", body.get("max_response_output_tokens"))
    if isinstance(most, int):  # or "inf"
        attributes[semconv.REQUEST_MAX_TOKENS] = most
    modalities = an_array(body.get("output_modalities") or body.get("modalities"))
    if modalities:
        attributes[semconv.OUTPUT_TYPE] = "speech" if "audio" in modalities else "text"
    return attributes


class RealtimeFold:
    """Events of one response: the last has everything."""

    __slots__ = ("_error", "_response", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._response: Any = None
        self._error: Any = None

    def feed(self, chunk: Any) -> None:
        if chunk.type == "error":
            self._error = chunk.error
        elif (response := getattr(chunk, "response", None)) is not None:
            self._response = response

    def attributes(self) -> Attributes:
        if self._error is not None:
            return {semconv.ERROR_TYPE: self._error.code or self._error.type or "_OTHER"}
        response = self._response
        attributes: Attributes = {}
        if response is None:
            return attributes
        put(attributes, semconv.RESPONSE_ID, response.id)
        put(attributes, semconv.CONVERSATION_ID, getattr(response, "conversation_id", None))
        USAGE.read(attributes, response.usage)
        details = response.status_details
        reason = getattr(details, "reason", None)
        if response.status == "completed":
            called = any(item.type in _CALLS_TO_CLIENT for item in response.output or ())
            attributes[semconv.RESPONSE_FINISH_REASONS] = ["tool_calls" if called else "stop"]
        elif response.status == "incomplete":
            attributes[semconv.RESPONSE_FINISH_REASONS] = [
                "length" if reason == "max_output_tokens" else reason or "error"
            ]
        elif response.status == "cancelled":
            attributes[semconv.RESPONSE_FINISH_REASONS] = [reason or "cancelled"]
            attributes[semconv.CALL_COMPLETE] = False
        elif response.status == "failed":
            attributes[semconv.RESPONSE_FINISH_REASONS] = ["error"]
            attributes[semconv.ERROR_TYPE] = getattr(getattr(details, "error", None), "code", None) or "_OTHER"
        return attributes


# --- connections -----------------------------------------------------------------------------------------------------


class _Responses(Talk):
    """Responses over a websocket: each message that asks says everything."""

    def __init__(
        self, endpoint: Endpoint, destination: Destination, tracing: Tracing, query: Mapping[str, Any]
    ) -> None:
        super().__init__(endpoint, destination, tracing)
        self._session: dict[str, Any] = {name: values[0] for name, values in query.items() if name == "model"}

    def sent(self, event: Mapping[str, Any]) -> Turn | None:
        """The turn that a message to the provider asks for, if it does."""
        if event.get("type") != "response.create":
            self._note(event)
            return None
        return self.ask(self._body(event), event.get("event_id"))

    def received(self, event: Any) -> None:
        """Take a message from the provider."""
        kind = str(member(event, "type"))
        response: Any = getattr(event, "response", None)
        if kind == "response.created":
            self.begun(response.id, lambda: self._body({}))
            self.hear(response.id, event, is_output=False)
        elif kind in _ENDS and response is not None:
            self.finish(response.id, event)
        elif kind == "error":
            self._refused(event)
        elif kind.startswith("response."):
            self.hear(getattr(event, "response_id", None), event, is_output=kind.endswith(".delta"))
        elif kind == "session.created":
            put(self._session, "model", member(event.session, "model"))

    def _body(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self._session, **event, "stream": True}

    def _note(self, event: Mapping[str, Any]) -> None:
        pass

    def _refused(self, event: Any) -> None:
        if self.newest:  # one after the other: it is about the one that has begun
            self.finish(self.newest, event)
        else:
            self.refuse(None, event)


class _Realtime(_Responses):
    """A session of the Realtime API: what it was told holds until it is told otherwise."""

    def __init__(
        self, endpoint: Endpoint, destination: Destination, tracing: Tracing, query: Mapping[str, Any]
    ) -> None:
        super().__init__(endpoint, destination, tracing, query)
        self._system: list[Any] = []
        self._items: list[Any] = []

    def _body(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = an_object(event.get("response"))
        items, self._items = self._items, []
        return {**self._session, "input": [*self._system, *items], **asked}

    def _note(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "session.update":
            self._session.update(an_object(event.get("session")))
        elif kind == "conversation.item.create":
            item = event.get("item")
            if member(item, "role") == "system":
                self._system = [*self._system, item][-_MAX_ITEMS:]
            elif content.mode is not None:
                self._items = [*self._items, item][-_MAX_ITEMS:]

    def _refused(self, event: Any) -> None:
        error = event.error
        if not error.param or error.param.startswith("response"):  # of another message, such as `session.voice`
            self.refuse(error.event_id, event)


def _talk(
    kind: type[_Responses],
    endpoint: Endpoint,
    provider: Callable[[str, str], str],
    tracing: Tracing,
    connection: Any,
) -> _Responses:
    """What is talked about over a connection of the client's, from its first message on."""
    talk: _Responses | None = getattr(connection, _TALK, None)
    if talk is None:
        websocket = connection._connection
        query = parse_qs(urlsplit(str(websocket.request.path)).query)
        talk = kind(endpoint, sockets.destination(websocket, functools.partial(provider, "")), tracing, query)
        setattr(connection, _TALK, talk)
    return talk


Talking = Callable[[Tracing, Any], _Responses]


def _follow_send(talking: Talking, original: Any, tracing: Tracing) -> Any:
    def asked(connection: Any, event: Any) -> Turn | None:
        with _SENDING:
            said: Mapping[str, Any] = event if isinstance(event, Mapping) else event.to_dict()  # pyright: ignore[reportUnknownVariableType]
            return talking(tracing, connection).sent(said)
        return None

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def send_async(self: Any, event: Any) -> None:
            await sockets.sent_async(asked(self, event), original, self, event)

        return send_async

    @functools.wraps(original)
    def send(self: Any, event: Any) -> None:
        sockets.sent(asked(self, event), original, self, event)

    return send


def _follow_parsing(talking: Talking, original: Any, tracing: Tracing) -> Any:
    @functools.wraps(original)
    def parse_event(self: Any, data: Any) -> Any:
        event = original(self, data)
        with _HEARING:
            talking(tracing, self).received(event)
        return event

    return parse_event


def _lost(connection: Any, exc: BaseException | None) -> None:
    with _HEARING:
        talk: _Responses | None = getattr(connection, _TALK, None)
        if talk is not None:
            talk.lose(exc)


def _is_lost(exc: Exception) -> bool:
    return type(exc).__name__.startswith("ConnectionClosed")


def _follow_receiving(original: Any, tracing: Tracing) -> Any:  # noqa: ARG001 - as every other
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def recv_bytes_async(self: Any) -> Any:
            try:
                return await original(self)
            except Exception as exc:
                if _is_lost(exc):
                    _lost(self, exc)
                raise

        return recv_bytes_async

    @functools.wraps(original)
    def recv_bytes(self: Any) -> Any:
        try:
            return original(self)
        except Exception as exc:
            if _is_lost(exc):
                _lost(self, exc)
            raise

    return recv_bytes


def _follow_closing(original: Any, tracing: Tracing) -> Any:  # noqa: ARG001 - as every other
    @functools.wraps(original)
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        _lost(self, None)
        return original(self, *args, **kwargs)

    return close


def wrapped(realtime: Endpoint, responses: Endpoint, provider: Callable[[str, str], str]) -> tuple[Wrapped, ...]:
    """What is followed: connections of the Realtime API, in its beta too, and of responses."""

    def of(module: str, name: str, kind: type[_Responses], endpoint: Endpoint, since: str = "") -> list[Wrapped]:
        talking = functools.partial(_talk, kind, endpoint, provider)
        follows: dict[str, Callable[[Any, Any], Any]] = {
            "send": functools.partial(_follow_send, talking),
            "parse_event": functools.partial(_follow_parsing, talking),
            "recv_bytes": _follow_receiving,
            "close": _follow_closing,
        }
        return [
            Wrapped(f"openai.resources.{module}", f"{prefix}{name}.{method}", follow, since)
            for prefix in ("", "Async")
            for method, follow in follows.items()
        ]

    return (
        *of("realtime.realtime", "RealtimeConnection", _Realtime, realtime),
        *of("beta.realtime.realtime", "RealtimeConnection", _Realtime, realtime),
        *of("responses.responses", "ResponsesConnection", _Responses, responses, "2.24"),
    )
