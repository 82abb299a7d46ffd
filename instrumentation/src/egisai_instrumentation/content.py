"""Message content: off unless `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says where it goes.

Nothing is read, built or kept of what is said while `mode` is None.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opentelemetry import _logs
from opentelemetry.trace import Span

from egisai import redaction, semconv
from egisai.guard import Guard, log_once

from .integration import Attributes, Content
from .messages import MAX_TOTAL_CHARS, Gathered, Message, messages_json, system_json, tools_json

VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_READING: Final = Guard("reading content")
_EMITTING: Final = Guard("emitting an event")


class Mode(NamedTuple):
    """Where content goes."""

    span: bool
    event: bool


_MODES: Final[dict[str, Mode | None]] = {
    "": None,
    "NO_CONTENT": None,
    "FALSE": None,
    "SPAN_ONLY": Mode(span=True, event=False),
    "EVENT_ONLY": Mode(span=False, event=True),
    "SPAN_AND_EVENT": Mode(span=True, event=True),
    "TRUE": Mode(span=True, event=False),  # what the variable took before it had modes
}

mode: Mode | None = None
"""None: content is off."""


def use_environment() -> None:
    """Take the mode from the environment; called when instrumentation is put in place."""
    global mode
    said = os.environ.get(VARIABLE, "").strip()
    if said.upper() not in _MODES:
        log_once("%s=%r is none of NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT: no content", VARIABLE, said)
    mode = _MODES.get(said.upper())
    if mode is not None and mode.event and not _CAN_EMIT:
        log_once("%s=%s needs opentelemetry-api 1.37 or newer for events: they are left out", VARIABLE, said)


_CAN_EMIT: Final = "event_name" in inspect.signature(_logs.LogRecord).parameters


class Recording:
    """What is said in one call."""

    __slots__ = ("_attributes", "_gathered", "_limit", "_mode", "_of", "_said")

    def __init__(self, where: Mode, of: Content, body: Mapping[str, Any], span: Span) -> None:
        self._mode = where
        self._of = of
        self._gathered: Gathered | None = None
        self._said: list[Message] = []
        limit = getattr(getattr(span, "_attributes", None), "max_value_len", None)  # beyond, the SDK cuts, JSON or not
        self._limit = min(MAX_TOTAL_CHARS, limit) if isinstance(limit, int) else MAX_TOTAL_CHARS
        self._attributes: Attributes = {}
        with _READING:
            self._read(body)

    def _read(self, body: Mapping[str, Any]) -> None:
        conversation = self._of.request(body)
        if conversation.system:
            self._attributes[semconv.SYSTEM_INSTRUCTIONS] = system_json(conversation.system, self._limit)
        if conversation.messages:
            text, omitted = messages_json(conversation.messages, self._limit)
            self._attributes[semconv.INPUT_MESSAGES] = text
            if omitted:
                self._attributes[semconv.CONTENT_OMITTED] = omitted
        if conversation.tools:
            self._attributes[semconv.TOOL_DEFINITIONS] = tools_json(conversation.tools, self._limit)

    def chunk(self, chunk: Any) -> None:
        """Take a stream's chunk."""
        if self._of.chunk is not None:
            if self._gathered is None:
                self._gathered = Gathered()
            with _READING:
                self._of.chunk(self._gathered, chunk)

    def respond(self, response: Any) -> None:
        """Take a whole response."""
        with _READING:
            self._said = list(self._of.response(response))

    def attributes(self) -> Attributes:
        """Everything, as span attributes."""
        with _READING:
            said = self._said or (self._gathered.messages() if self._gathered is not None else ())
            if said:
                self._attributes[semconv.OUTPUT_MESSAGES] = messages_json(said, self._limit)[0]
        return self._attributes

    def tell(self, span: Span, attributes: Attributes) -> None:
        """At the call's end: put content on the span, and emit the event with it and the call's other attributes."""
        said = self.attributes()
        if self._mode.span:
            span.set_attributes(said)
        if self._mode.event and _CAN_EMIT:
            with _EMITTING:
                _emit(span, {**attributes, **redaction.redact(said)})


def _emit(span: Span, attributes: Attributes) -> None:
    from opentelemetry.trace import set_span_in_context

    record: Any = _logs.LogRecord
    _logs.get_logger(semconv.SCOPE).emit(
        record(event_name=semconv.DETAILS_EVENT, attributes=attributes, context=set_span_in_context(span))
    )
