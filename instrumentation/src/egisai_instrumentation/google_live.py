"""Gemini's live sessions: each turn of the model is a call. https://ai.google.dev/api/live"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from egisai import semconv
from egisai.guard import Guard

from . import content, sockets, usage
from .calls import Destination, Tracing
from .integration import Attributes, Endpoint, Wrapped
from .messages import Gathered
from .reading import an_array
from .sockets import Talk, Turn

_OPENING: Final = Guard("following a session")
_SENDING: Final = Guard("following a message sent")
_HEARING: Final = Guard("following a message received")

_TALK: Final = "_egisai_talk"
_TURN: Final = "turn"  # there is one at a time
_MAX_CONTENTS: Final = 100  # kept until the next turn is asked for

USAGE: Final = usage.Dialect(
    input=("prompt_token_count", "tool_use_prompt_token_count"),
    output=("response_token_count", "thoughts_token_count"),
    cache_read="cached_content_token_count",
    reasoning="thoughts_token_count",
    by_modality=(
        ("prompt_tokens_details", "input", "modality", "token_count"),
        ("response_tokens_details", "output", "modality", "token_count"),
    ),
)
"""`usage_metadata` of a live session's messages, which tells it again and again: the last of a turn counts."""


# --- messages of the server ------------------------------------------------------------------------------------------


class Fold:
    """Messages of one turn: why it ended is with the last, and so is the usage."""

    __slots__ = ("_is_interrupted", "_reason", "_used", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._used: Any = None
        self._is_interrupted = False
        self._reason: str | None = None

    def feed(self, chunk: Any) -> None:
        self._used = chunk.usage_metadata or self._used
        said = chunk.server_content
        if said is not None:
            self._is_interrupted = self._is_interrupted or bool(said.interrupted)
            if _is_end(chunk):
                reason = getattr(said, "turn_complete_reason", None)
                self._reason = str(getattr(reason, "value", reason)).lower() if reason else "stop"

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        USAGE.read(attributes, self._used)
        if self._is_interrupted:
            attributes[semconv.RESPONSE_FINISH_REASONS] = ["interrupted"]
            attributes[semconv.CALL_COMPLETE] = False
        elif self._reason is not None:
            attributes[semconv.RESPONSE_FINISH_REASONS] = [self._reason]
        return attributes


def gather(gathered: Gathered, message: Any) -> None:
    """Add what a message says to what its turn has said so far."""
    said = message.server_content
    for part in getattr(getattr(said, "model_turn", None), "parts", None) or ():
        (gathered.reasoning if part.thought else gathered.text)(part.text)
    gathered.text(getattr(getattr(said, "output_transcription", None), "text", None))
    for called in getattr(message.tool_call, "function_calls", None) or ():
        gathered.tool(called.id, id=called.id, name=called.name, arguments=called.args)


def _is_end(message: Any) -> bool:
    said = message.server_content
    status = getattr(getattr(said, "interaction_status", None), "value", None)
    if status not in (None, "INTERACTION_STATUS_UNSPECIFIED"):
        return status == "IDLE"
    return bool(said is not None and said.turn_complete)


def _is_output(message: Any) -> bool:
    said = message.server_content
    return message.tool_call is not None or (
        said is not None and (said.model_turn is not None or said.output_transcription is not None)
    )


# --- sessions --------------------------------------------------------------------------------------------------------


class _Session(Talk):
    """A live session. What is said to the model before it answers is one turn, however many messages it takes."""

    def __init__(self, endpoint: Endpoint, destination: Destination, tracing: Tracing, model: str, config: Any) -> None:
        super().__init__(endpoint, destination, tracing)
        self._model = model
        self._config: Any = config  # an object, a mapping, or nothing
        self._contents: list[Any] = []

    def said(self, contents: object, *, asks: bool) -> Turn | None:
        """The turn that a message to the model asks for, if it does and none is asked for."""
        if content.mode is not None:
            held = an_array(contents) or ([] if contents is None else [contents])
            self._contents = [*self._contents, *held][-_MAX_CONTENTS:]
        return self.ask(self._body()) if asks and not self.is_asked else None

    def instruct(self, system: object) -> None:
        """The system instruction is another one from now on."""
        said = {"system_instruction": system}
        copied = getattr(self._config, "model_copy", None)
        self._config = {**(self._config or {}), **said} if copied is None else copied(update=said)

    def received(self, message: Any) -> None:
        """Take a message from the model."""
        is_output = _is_output(message)
        if is_output and not self.newest:
            self.begun(_TURN, self._body)
        if _is_end(message):
            self.finish(_TURN, message)
        else:
            self.hear(_TURN, message, is_output=is_output)

    def _body(self) -> Mapping[str, Any]:
        contents, self._contents = self._contents, []
        return {"model": self._model, "config": self._config, "contents": contents}


def _session(of: Any) -> _Session | None:
    return getattr(of, _TALK, None)


def _follow_connecting(endpoint: Endpoint, provider: Callable[[str, str], str], original: Any, tracing: Tracing) -> Any:
    @functools.wraps(original)
    @contextlib.asynccontextmanager
    async def connect(self: Any, *, model: str, config: Any = None) -> AsyncGenerator[Any, None]:
        async with original(self, model=model, config=config) as session:
            with _OPENING:
                name = provider("vertex" if self._api_client.vertexai else "", "")
                destination = sockets.destination(session._ws, lambda _: name)
                setattr(session, _TALK, _Session(endpoint, destination, tracing, model, config))
            try:
                yield session
            finally:
                _lose(session, None)

    return connect


def _lose(session: Any, exc: BaseException | None) -> None:
    talk = _session(session)
    if talk is not None:
        with _HEARING:
            talk.lose(exc)


def _follow_sending(
    said: Callable[[_Session, Mapping[str, Any]], Turn | None],
    original: Any,
    tracing: Tracing,  # noqa: ARG001 - as every other
) -> Any:
    @functools.wraps(original)
    async def send(self: Any, **kwargs: Any) -> Any:
        talk, turn = _session(self), None
        if talk is not None:
            with _SENDING:
                turn = said(talk, kwargs)
        return await sockets.sent_async(turn, original, self, **kwargs)

    return send


def _content(talk: _Session, message: Mapping[str, Any]) -> Turn | None:
    return talk.said(message.get("turns"), asks=message.get("turn_complete", True))


def _realtime(talk: _Session, message: Mapping[str, Any]) -> Turn | None:
    text = message.get("text")  # of sound and pictures, the server finds out where a turn ends
    return None if text is None else talk.said(text, asks=True)


def _anything(talk: _Session, message: Mapping[str, Any]) -> Turn | None:
    return talk.said(message.get("input"), asks=bool(message.get("end_of_turn")))


def _context(talk: _Session, message: Mapping[str, Any]) -> None:
    if message.get("system_instruction") is not None:
        talk.instruct(message["system_instruction"])


def _follow_receiving(original: Any, tracing: Tracing) -> Any:  # noqa: ARG001 - as every other
    @functools.wraps(original)
    async def receive(self: Any) -> Any:
        try:
            message = await original(self)
        except Exception as exc:
            _lose(self, exc)
            raise
        talk = _session(self)
        if talk is not None:
            with _HEARING:
                talk.received(message)
        return message

    return receive


def _follow_closing(original: Any, tracing: Tracing) -> Any:  # noqa: ARG001 - as every other
    @functools.wraps(original)
    async def close(self: Any) -> None:
        _lose(self, None)
        await original(self)

    return close


def wrapped(endpoint: Endpoint, provider: Callable[[str, str], str]) -> tuple[Wrapped, ...]:
    """What is followed."""
    sending: dict[str, tuple[Callable[[_Session, Mapping[str, Any]], Turn | None], str]] = {
        "send_client_content": (_content, ""),
        "send_realtime_input": (_realtime, ""),
        "send": (_anything, ""),
        "send_context_update": (_context, "3"),
    }
    return (
        Wrapped("google.genai.live", "AsyncLive.connect", functools.partial(_follow_connecting, endpoint, provider)),
        *(
            Wrapped("google.genai.live", f"AsyncSession.{name}", functools.partial(_follow_sending, said), since)
            for name, (said, since) in sending.items()
        ),
        Wrapped("google.genai.live", "AsyncSession._receive", _follow_receiving),
        Wrapped("google.genai.live", "AsyncSession.close", _follow_closing),
    )
