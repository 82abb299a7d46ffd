"""Spans that others make for a call: other vendors' instrumentors, frameworks, clients that trace themselves."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import SpanKind

from . import semconv
from .attribution import attributes_of_span

_INSTRUMENTORS: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation.")


class _Opened:
    """A call's span that an instrumentor started, perhaps without making it the active one."""

    __slots__ = ("is_taken", "span")

    def __init__(self, span: Span) -> None:
        self.span = weakref.ref(span)
        self.is_taken = False


_ANSWERED: Final[deque[str]] = deque(maxlen=1000)
"""Ids of the latest responses."""

_OPENED: Final[ContextVar[_Opened | None]] = ContextVar("egisai_opened", default=None)


def is_call(span: object, attributes: Mapping[str, Any]) -> bool:
    """Whether a span that others made, with these attributes so far, stands for an LLM call."""
    scope = getattr(span, "instrumentation_scope", None)
    if scope is None:
        return semconv.is_call(attributes)
    return semconv.starts_call(attributes, scope.name, is_client=getattr(span, "kind", None) is SpanKind.CLIENT)


def covers(around: object, attributes: Mapping[str, Any], operation: str | None) -> bool:
    """Whether the span `around`, active where a call of `operation` starts, stands for that same call.

    A call inside a call is the same one seen by another instrumentor, unless it does something else: an embedding
    looked up in the course of a chat is a call of its own. None: what it does is not known.
    """
    return is_call(around, attributes) and operation in (None, attributes.get(semconv.OPERATION, operation))


def answered(response_id: str | None) -> None:
    """A call that has a span of ours got this response."""
    if response_id:
        _ANSWERED.append(response_id)


def is_told_twice(span: ReadableSpan, attributes: Mapping[str, Any]) -> bool:
    """Whether the span, which ended, was made for a call that has one of ours, after that call was over."""
    scope = span.instrumentation_scope
    return (
        scope is not None
        and scope.name == semconv.LITELLM_SCOPE
        and semconv.is_call(attributes)
        and attributes.get(semconv.RESPONSE_ID) in _ANSWERED
    )


def opened(span: Span, *, is_call: bool) -> None:
    """A span starts here that may be another instrumentor's for a call; Langfuse says only then that it is one."""
    scope = span.instrumentation_scope
    if scope is not None and (
        scope.name == semconv.LANGFUSE_SCOPE or (is_call and scope.name.startswith(_INSTRUMENTORS))
    ):
        _OPENED.set(_Opened(span))


def take(around: ApiSpan | None, operation: str, model: str | None) -> Span | None:
    """The span that an instrumentor opened for the call that starts now without making it the active one, as several of
    OpenLLMetry's do; each is taken once.

    It was opened in this task or thread (or what started it) below the span that is active now, is still open, and what
    it says of operation and model is what the call asks for.
    """
    candidate = _OPENED.get()
    if candidate is None or candidate.is_taken:
        return None
    span = candidate.span()
    if span is None or not span.is_recording():
        return None
    above = 0 if span.parent is None else span.parent.span_id
    if above != (0 if around is None else around.get_span_context().span_id):
        return None
    own = attributes_of_span(span)
    if (
        not is_call(span, own)
        or own.get(semconv.OPERATION, operation) != operation
        or not _same(own.get(semconv.REQUEST_MODEL), model)
    ):
        return None
    candidate.is_taken = True
    return span


def _same(theirs: str | None, ours: str | None) -> bool:
    """Whether two models may be one: some leave the provider's prefix out."""
    return theirs is None or ours is None or theirs.endswith(ours) or ours.endswith(theirs)
