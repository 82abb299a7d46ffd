"""Message content: off unless `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says where it goes.

Nothing is read, built or kept of what is said while `mode` is None, or says that only events without it are wanted.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opentelemetry import _logs
from opentelemetry.trace import Span

from egisai import attribution, redaction, semconv
from egisai.guard import Guard, log_once

from .integration import Attributes, Content
from .messages import MAX_TOTAL_CHARS, Gathered, Message, messages_json, system_json, tools_json

VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EVENTS_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
"""As opentelemetry-util-genai has it: whether there are events, with content or without; by default, where they are to
have content."""
_READING: Final = Guard("reading content")
_EMITTING: Final = Guard("emitting an event")


class Mode(NamedTuple):
    """Where content goes, and whether there are events."""

    span: bool
    event: bool
    emits: bool = False
    """Whether each call has an event, be it without content."""


_MODES: Final[dict[str, Mode | None]] = {
    "": None,
    "NO_CONTENT": None,
    "FALSE": None,
    "SPAN_ONLY": Mode(span=True, event=False),
    "EVENT_ONLY": Mode(span=False, event=True, emits=True),
    "SPAN_AND_EVENT": Mode(span=True, event=True, emits=True),
    "TRUE": Mode(span=True, event=False),  # what the variable took before it had modes
}

_NOTHING: Final = Mode(span=False, event=False)

mode: Mode | None = None
"""None: content is off, and so are events."""


def use_environment() -> None:
    """Take the mode from the environment; called when instrumentation is put in place."""
    global mode
    said = os.environ.get(VARIABLE, "").strip()
    if said.upper() not in _MODES:
        log_once("%s=%r is none of NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT: no content", VARIABLE, said)
    mode = _MODES.get(said.upper())
    emits = os.environ.get(EVENTS_VARIABLE, "").strip().lower()
    if emits == "true":
        mode = (mode or _NOTHING)._replace(emits=True)
    elif emits == "false" and mode is not None:
        mode = mode._replace(event=False, emits=False)
    elif emits not in ("", "false"):
        log_once("%s=%r is neither true nor false: it depends on %s", EVENTS_VARIABLE, emits, VARIABLE)
    if mode == _NOTHING:
        mode = None
    if mode is not None and mode.emits and not _CAN_EMIT:
        log_once("events need opentelemetry-api 1.37 or newer: they are left out")


_CAN_EMIT: Final = "event_name" in inspect.signature(_logs.LogRecord).parameters


class Recording:
    """What is said in one call."""

    __slots__ = ("_attributes", "_gathered", "_is_wanted", "_limit", "_mode", "_of", "_said")

    def __init__(self, where: Mode, of: Content, body: Mapping[str, Any], span: Span) -> None:
        self._mode = where
        self._is_wanted = where.span or where.event
        self._of = of
        self._gathered: Gathered | None = None
        self._said: list[Message] = []
        limit = getattr(getattr(span, "_attributes", None), "max_value_len", None)  # beyond, the SDK cuts, JSON or not
        self._limit = min(MAX_TOTAL_CHARS, limit) if isinstance(limit, int) else MAX_TOTAL_CHARS
        self._attributes: Attributes = {}
        if self._is_wanted:
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
        if self._of.chunk is not None and self._is_wanted:
            if self._gathered is None:
                self._gathered = Gathered()
            with _READING:
                self._of.chunk(self._gathered, chunk)

    def respond(self, response: Any) -> None:
        """Take a whole response."""
        if self._is_wanted:
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
        """At the call's end: put content on the span, and emit the event with it and all that the span says."""
        said = self.attributes()
        if self._mode.emits and _CAN_EMIT:
            with _EMITTING:
                facts = {**attribution.attributes_of_span(span), **attributes}
                _emit(span, redaction.redact({**facts, **said} if self._mode.event else facts))
        if self._mode.span:
            span.set_attributes(said)


def _emit(span: Span, attributes: Attributes) -> None:
    from opentelemetry.trace import set_span_in_context

    record: Any = _logs.LogRecord
    _logs.get_logger(semconv.SCOPE).emit(
        record(event_name=semconv.DETAILS_EVENT, attributes=attributes, context=set_span_in_context(span))
    )
