"""The Model Context Protocol: tools that are called, as tool spans of the agent that calls them.

https://github.com/open-telemetry/semantic-conventions-genai, mcp.md. mcp 2 traces every request itself, at both ends:
the client's span of a tool call is completed by what only the conventions of tools say, and kept open until the
answer is known; the server's says it all already. mcp 1 traces nothing: there the client's span is ours.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Any, Final, cast

from opentelemetry.context import get_current
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, use_span

from egisai import semconv
from egisai.guard import Guard, failed
from egisai.processor import stamp

from . import content
from .calls import Tracing
from .integration import Attributes, Integration, Wrapped
from .messages import MAX_PART_CHARS, cut, json_of
from .reading import an_object, member

_COMPLETING: Final = Guard("completing a tool's span")

_CALL: Final = "tools/call"


class _Tool:
    """A tool being called by a client, and the span that stands for it."""

    __slots__ = ("_attributes", "_end_ns", "_span")

    def __init__(self, name: str, arguments: object) -> None:
        self._attributes: Attributes = {semconv.OPERATION: semconv.EXECUTE_TOOL, semconv.TOOL_NAME: name}
        if content.mode is not None and content.mode.span and arguments is not None:
            self._attributes[semconv.TOOL_CALL_ARGUMENTS] = cut(json_of(arguments), MAX_PART_CHARS)
        self._span: Span | None = None
        self._end_ns: int | None = None

    def start(self, tracer: Tracer) -> Span:
        """Make the span, where the client makes none."""
        attributes = {semconv.MCP_METHOD: _CALL, **self._attributes}
        self._span = tracer.start_span(
            f"{_CALL} {self._attributes[semconv.TOOL_NAME]}", None, SpanKind.CLIENT, attributes
        )
        stamp(cast(SDKSpan, self._span), get_current())
        return self._span

    def adopt(self, span: Span) -> None:
        """Take the client's own span, and keep it open."""
        if self._span is None and span.is_recording():
            self._span = span
            span.set_attributes(self._attributes)
            span.end = self._note_end

    def _note_end(self, end_time: int | None = None) -> None:
        self._end_ns = end_time or time.time_ns()

    def end(self, result: object, exc: BaseException | None) -> None:
        """The call is over."""
        if self._span is None:
            return
        with _COMPLETING:
            self._say(self._span, result, exc)
        vars(self._span).pop("end", None)
        self._span.end(self._end_ns)

    def _say(self, span: Span, result: object, exc: BaseException | None) -> None:
        if isinstance(exc, Exception) and semconv.ERROR_TYPE not in getattr(span, "attributes", {}):
            kind = type(exc)
            span.set_attribute(semconv.ERROR_TYPE, f"{kind.__module__}.{kind.__qualname__}")
            span.set_status(StatusCode.ERROR, str(exc)[:512])
        if result is None:
            return
        if member(result, "is_error") or member(result, "isError"):
            span.set_attribute(semconv.ERROR_TYPE, "tool_error")
            span.set_status(StatusCode.ERROR)
        if content.mode is not None and content.mode.span:
            said = member(result, "content")
            span.set_attribute(semconv.TOOL_CALL_RESULT, cut(json_of(said), MAX_PART_CHARS))


_calling: ContextVar[_Tool | None] = ContextVar("egisai-mcp-tool", default=None)


def _follow_client(original: Callable[..., Awaitable[Any]], tracing: Tracing) -> Callable[..., Awaitable[Any]]:
    """`ClientSession.call_tool(self, name, arguments=None, ...)`."""
    makes_none = importlib.util.find_spec("mcp.shared._otel") is None

    @functools.wraps(original)
    async def call_tool(self: Any, name: str, arguments: Any = None, *args: Any, **kwargs: Any) -> Any:
        tool, current = None, contextlib.nullcontext()
        try:
            tracer = tracing.tracer or tracing.resolve()
            if tracer is not None:
                tool = _Tool(name, arguments)
                if makes_none:
                    current = use_span(tool.start(tracer), record_exception=False, set_status_on_exception=False)
        except Exception as exc:  # noqa: BLE001 - logged and counted
            failed("beginning a tool's call", exc)
        if tool is None:
            return await original(self, name, arguments, *args, **kwargs)
        token = _calling.set(tool)
        result, raised = None, None
        try:
            with current:
                result = await original(self, name, arguments, *args, **kwargs)
        except BaseException as exc:
            raised = exc
            raise
        finally:
            _calling.reset(token)
            tool.end(result, raised)
        return result

    return call_tool


def _follow_span(
    original: Callable[..., contextlib.AbstractContextManager[Span]],
    tracing: Tracing,  # noqa: ARG001 - as every other
) -> Callable[..., contextlib.AbstractContextManager[Span]]:
    """`otel_span(name, *, kind, attributes, ...)`, with which mcp 2 makes the span of each request that it sends."""

    @functools.wraps(original)
    @contextlib.contextmanager
    def otel_span(name: str, **kwargs: Any) -> Generator[Span, None, None]:
        with original(name, **kwargs) as span:
            tool = _calling.get()
            if tool is not None and an_object(kwargs.get("attributes")).get(semconv.MCP_METHOD) == _CALL:
                with _COMPLETING:
                    tool.adopt(span)
            yield span

    return otel_span


INTEGRATION: Final = Integration(
    library="mcp",
    versions=">=1.9,<3",
    others=(
        Wrapped("mcp.client.session", "ClientSession.call_tool", _follow_client),
        Wrapped("mcp.shared.jsonrpc_dispatcher", "otel_span", _follow_span, since="2"),
    ),
    provider=lambda _client, _host: "",
    oldest=("pydantic<2.12",),  # mcp 1 uses what pydantic took away
    note="Tools that a client calls. mcp 2 makes the spans, on the global tracer provider, of servers too: those are "
    "attributed, without arguments and results. Servers of mcp 1, prompts and resources make no span.",
)
