"""A clean context for each request, and who the request is for.

Servers reuse what runs requests. A WSGI server's worker thread (gunicorn's sync worker, waitress, cheroot, mod_wsgi)
still has set what its last request set. An ASGI server runs each request in a task of its own, but a task starts in the
context of whatever code created it, and after a large or a pipelined request on the same connection that is the
request before (https://github.com/python/cpython/issues/140947). Inside these middlewares neither is seen.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast
from uuid import UUID

from opentelemetry.context import Context, attach, create_key, get_current, set_value
from opentelemetry.trace import get_current_span, set_span_in_context

from .context import context, set_context, span_in, without_facts
from .guard import Guard, count, log_once

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Message, Receive, Send], Awaitable[None]]
WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

Value = str | int | UUID | None
Source = str | Callable[[Any], Value]
"""Where a fact of a request is: the name of a header, or a function of the ASGI scope or the WSGI environ."""

App = TypeVar("App")

_HEADER: Final = re.compile("[A-Za-z0-9-]+")
"""No underscore: WSGI cannot tell it from a hyphen, so a client could write the header that a gateway guards."""

_REQUEST: Final = create_key("egisai-request")  # a `_Request`: whose context this is
_SCOPE_KEY: Final = "egisai.request"  # the same, in the ASGI scope


class _Middleware(Generic[App]):
    """What both have in common: the application, and how a request says who it is for."""

    def __init__(
        self,
        app: App,
        *,
        agent: Source | None = None,
        user_id: Source | None = None,
        user_role: Source | None = None,
        session_id: Source | None = None,
        workflow_id: Source | None = None,
    ) -> None:
        """Say where a request's facts are: each a header's name, or a function of the request, not async.

        A function takes the ASGI scope or the WSGI environ, and returns what `set_context` takes: None keeps a fact,
        `""` clears it. If it raises, that is logged and counted, and the request goes on.

        A header that is absent keeps the fact. One that came more than once, has a comma (WSGI servers join the two
        into one), is not UTF-8, or holds what `set_context` refuses, is refused with a log line and a count. **A header
        is as true as whoever sets it**: name only those that your gateway sets, and removes from what clients send.

        Args:
            app: What runs inside: the application, or the middleware around it.
            agent: Where the name of the agent is.
            user_id: Where the end customer is.
            user_role: Where the label of that user is.
            session_id: Where the conversation is.
            workflow_id: Where the orchestrated piece of work is.

        Raises:
            TypeError: An argument that does not exist, or is neither a name nor a plain function.
            ValueError: A name that is no header's.
        """
        sources = {"agent": agent, "user_id": user_id, "user_role": user_role}
        sources |= {"session_id": session_id, "workflow_id": workflow_id}
        self._app = app
        self._readers = [
            (field, Guard(f"reading {field} of a request"), self._reader(field, source))
            for field, source in sources.items()
            if source is not None
        ]

    def _reader(self, field: str, source: Source) -> Callable[[Any], Value]:
        if isinstance(source, str):
            if not _HEADER.fullmatch(source):
                raise ValueError(f"{field}={source!r} is no header name: letters, digits and hyphens, like 'x-user-id'")
            return functools.partial(self._header, field, source.lower())
        if not callable(source) or inspect.iscoroutinefunction(source):
            raise TypeError(f"{field}={source!r} must be a header's name or a function that is not async")
        return source

    def _header(self, field: str, name: str, request: Any) -> str | None:
        values = self._values(request, name)
        if not values:
            return None
        try:
            if len(values) == 1 and b"," not in values[0]:
                return values[0].decode()
        except UnicodeDecodeError:
            pass  # refused below
        log_once("header %s is ignored as %s: it must come once, without a comma, in UTF-8", name, field)
        count(f"refused:{field}")
        return None

    def _values(self, request: Any, name: str) -> list[bytes]:
        """Every value of the header with this name, which is in lower case."""
        raise NotImplementedError

    def _say(self, request: Any) -> None:
        """Set what the request says of whom it is for."""
        said: dict[str, Any] = {}
        for field, guard, read in self._readers:
            with guard:
                said[field] = read(request)
        set_context(**said)


class ASGIMiddleware(_Middleware[ASGIApplication]):
    """`app.add_middleware(ASGIMiddleware, user_id="x-user-id")`: what a request or a websocket sets ends with it.

    Covers streamed bodies and background tasks too. What was in force around it stays: the server span of an outer
    instrumentation, and the facts that it received and believed. Needs no framework, and leaves `lifespan` alone.
    """

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        before = start = get_current()
        other = cast("_Request | None", before.get(_REQUEST))
        if other is not None and other is not scope.get(_SCOPE_KEY):
            start = other.outside(before)
        attach(start)
        try:
            with context():
                attach(set_value(_REQUEST, scope.setdefault(_SCOPE_KEY, _Request(start))))
                self._say(scope)
                await self._app(scope, receive, send)
        finally:
            if get_current() is start:  # not where a loop that was closed lets go of us
                attach(before)

    def _values(self, request: Any, name: str) -> list[bytes]:
        key = name.encode()
        return [value for header, value in request["headers"] if header == key]


class _Request(NamedTuple):
    """A request that ASGIMiddleware runs: any context with it belongs to that request, wherever it turns up."""

    before: Context

    def outside(self, ctx: Context) -> Context:
        """What another request starts with that started in `ctx`, a context of this one."""
        if span_in(self.before) is None:
            return self.before
        # A server instrumentation is around us: its span is of the request that starts, the facts may be of this one.
        return set_span_in_context(get_current_span(ctx), without_facts(self.before))


class WSGIMiddleware(_Middleware[WSGIApplication]):
    """`app.wsgi_app = WSGIMiddleware(app.wsgi_app, user_id="x-user-id")`: what a request sets ends with it.

    Covers the whole response, streamed bodies too: their chunks are made in the request's context, and sent outside it.
    What was in force around it stays: the server span of an outer instrumentation, and the facts that it believed.
    """

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        steps = self._steps(environ, start_response)
        next(steps)  # calls the application now, as the server called us; the rest is its body
        return steps

    @context()
    def _steps(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        self._say(environ)
        body = self._app(environ, start_response)
        try:
            yield b""
            yield from body
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _values(self, request: Any, name: str) -> list[bytes]:
        value = request.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [value.encode("latin-1")]  # PEP 3333: a string of bytes
