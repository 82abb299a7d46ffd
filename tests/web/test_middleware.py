"""What the two middlewares read from a request, and that none sees what another set, on real servers."""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.context import attach, get_current
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as TracedASGI
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as TracedWSGI
from opentelemetry.trace import set_span_in_context
from tests.web.servers import cheroot_serving, uvicorn_serving, waitress_serving

import egisai
from conftest import Spans
from egisai import guard, propagation
from egisai.context import _SCOPE
from egisai.middleware import ASGIMiddleware, WSGIMiddleware

Handler = Callable[[Any], Any]


def asgi(handler: Handler) -> Any:
    """An application that answers with what `handler` makes of the scope, after the body has been read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = json.dumps(handler(scope)).encode()
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    return app


def wsgi(handler: Handler) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        answer = json.dumps(handler(environ)).encode()
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    return app


@dataclass(frozen=True)
class Protocol:
    make: Callable[[Handler], Any]
    middleware: Any
    serving: Callable[[Any], Any]

    @contextmanager
    def served(
        self, handler: Handler = lambda _: egisai.current_context(), around: Any = None, **sources: Any
    ) -> Iterator[str]:
        app = self.middleware(self.make(handler), **sources)
        with self.serving(app if around is None else around(app)) as url:
            yield url


PROTOCOLS = {
    "asgi": Protocol(asgi, ASGIMiddleware, uvicorn_serving),
    "wsgi": Protocol(wsgi, WSGIMiddleware, lambda app: waitress_serving(app, threads=1)),
}


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return PROTOCOLS[request.param]


class Connection:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, path: str = "/", *headers: tuple[str, bytes | str], body: bytes = b"") -> Any:
        self._http.putrequest("POST", path)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self._http.putheader(name, value)
        self._http.endheaders(body)
        answer = self._http.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())


def asked(url: str, *headers: tuple[str, bytes | str]) -> Any:
    with Connection(url) as connection:
        return connection.ask("/", *headers)


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "egisai"]


# --- who it is for --------------------------------------------------------------------------------------------------

FIVE = ("agent", "user_id", "user_role", "session_id", "workflow_id")


def test_headers_say_who(protocol: Protocol) -> None:
    """Each fact from a header of its own, whatever its letter case; one that is absent is not set."""
    with protocol.served(**{field: f"X-{field.replace('_', '-')}" for field in FIVE}) as url:
        everything = {field: f"the {field}" for field in FIVE}
        assert (
            asked(url, *[(f"x-{f.replace('_', '-').upper()}", value) for f, value in everything.items()]) == everything
        )
        assert asked(url, ("x-user-id", "acme")) == {"user_id": "acme"}
        assert asked(url) == {}


def test_functions_say_who(protocol: Protocol) -> None:
    """A function gets the request as the server made it, and returns what `set_context` takes."""
    id_ = UUID(int=7)

    def user(request: Any) -> int | None:
        path = request["path"] if "path" in request else request["PATH_INFO"]
        return int(path[1:]) if path != "/" else None

    with protocol.served(user_id=user, session_id=lambda _: id_) as url, Connection(url) as connection:
        assert connection.ask("/17") == {"user_id": "17", "session_id": str(id_)}
        assert connection.ask("/") == {"session_id": str(id_)}


def test_what_was_in_force_stays(protocol: Protocol) -> None:
    """Facts that something around the middleware set stay; a header replaces them, and an empty one clears them."""

    def around(app: Any) -> Any:
        def called(*args: Any) -> Any:
            egisai.set_context(user_id="received", session_id="kept")
            return app(*args)

        async def awaited(scope: Any, receive: Any, send: Any) -> None:
            await called(scope, receive, send)

        return awaited if protocol.make is asgi else called

    with protocol.served(around=around, user_id="x-user-id") as url:
        assert asked(url) == {"user_id": "received", "session_id": "kept"}
        assert asked(url, ("x-user-id", "acme")) == {"user_id": "acme", "session_id": "kept"}
        assert asked(url, ("x-user-id", " ")) == {"session_id": "kept"}


@pytest.mark.parametrize(
    "headers",
    [
        [("x-user-id", "acme"), ("x-user-id", "evil")],
        [("x-user-id", "acme,evil")],
        [("x-user-id", b"m\xfcller")],
        [("x-user-id", "next\u0085line".encode())],
        [("x-user-id", "x" * 257)],
    ],
    ids=["twice", "comma", "latin-1", "control", "long"],
)
def test_hostile_headers_are_refused(protocol: Protocol, headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A header that could be read in two ways, or would break something, sets nothing: one log line, and counted."""
    with protocol.served(user_id="x-user-id", session_id="x-session-id") as url:
        for _ in range(2):
            assert asked(url, *headers, ("x-session-id", "s")) == {"session_id": "s"}
    assert guard.counts() == {"refused:user_id": 2}
    assert [(r.levelname, "user_id" in r.message) for r in ours(caplog)] == [("WARNING", True)]


def test_other_scripts_are_utf_8(protocol: Protocol) -> None:
    """What is UTF-8 on the wire is the same text on every server."""
    with protocol.served(user_id="x-user-id") as url:
        assert asked(url, ("x-user-id", "Jürgen 王".encode())) == {"user_id": "Jürgen 王"}


def test_a_function_that_fails(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, once, and counted; the request and its other facts are there."""
    monkeypatch.setattr(guard, "strict", False)

    def user(_: Any) -> str:
        raise LookupError("no such customer")

    with protocol.served(user_id=user, session_id=lambda _: [], workflow_id=lambda _: "w") as url:
        assert [asked(url), asked(url)] == [{"workflow_id": "w"}] * 2
    assert guard.counts() == {"error:reading user_id of a request": 2, "refused:session_id": 2}
    assert [bool(record.exc_info) for record in ours(caplog)] == [True, False]
    assert "no such customer" in caplog.text


async def later(_: Any) -> str:
    return "too late"


@pytest.mark.parametrize("middleware", [ASGIMiddleware, WSGIMiddleware])
@pytest.mark.parametrize(
    ("sources", "error", "says"),
    [
        ({"userid": "x-user-id"}, TypeError, "userid"),
        ({"user_id": 7}, TypeError, "user_id=7 must be a header's name or a function"),
        ({"user_id": later}, TypeError, "not async"),
        ({"user_id": "x_user_id"}, ValueError, "user_id='x_user_id' is no header name: letters, digits and hyphens"),
        ({"user_id": "x-user-id: "}, ValueError, "no header name"),
        ({"user_id": ""}, ValueError, "no header name"),
    ],
    ids=["parameter", "type", "coroutine", "underscore", "colon", "empty"],
)
def test_a_typo_raises(middleware: Any, sources: Any, error: type[Exception], says: str) -> None:
    """Wrong configuration is said when the program starts, not by missing users in production."""
    with pytest.raises(error, match=says):
        middleware(lambda *_: None, **sources)


# --- clean ------------------------------------------------------------------------------------------------------------


def sets_user(request: Any) -> Any:
    """What the request finds; then it sets the user that its query names."""
    seen = egisai.current_context()
    query = request.get("QUERY_STRING") or request.get("query_string", b"").decode()
    if query:
        egisai.set_context(user_id=query, session_id=f"{query}'s")
    return seen


def test_nothing_is_left_for_the_next(protocol: Protocol) -> None:
    """The next request of a worker, and of a kept-alive connection, starts with nothing, after a large body too."""
    with protocol.served(sets_user) as url, Connection(url) as connection:
        for size in (0, 10, 100_000, 1_000_000):
            assert connection.ask("/?acme", body=b"x" * size) == {}
            assert connection.ask("/") == {}


def test_uvicorn_can_do_it_alone() -> None:
    """`uvicorn --reset-contextvars` without the middleware: nothing is left either, as docs/recipes/web.md says."""
    with uvicorn_serving(asgi(sets_user), reset_contextvars=True) as url, Connection(url) as connection:
        assert connection.ask("/?acme", body=b"x" * 1_000_000) == {}
        assert connection.ask("/") == {}


def test_pipelined_requests_are_apart(protocol: Protocol) -> None:
    """A request that came before the first one was answered starts with nothing."""
    with protocol.served(sets_user) as url:
        parts = urlsplit(url)
        request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n\r\n"
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(request % (b"/?acme", b"keep-alive") + request % (b"/", b"close"))
            answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.count(b"200 OK") == answers.count(b"{}") == 2


@pytest.mark.parametrize("traced", [False, True], ids=["bare", "with server instrumentation"])
def test_a_request_that_starts_in_another(spans: Spans, traced: bool) -> None:
    """Where a server starts a request in the context of the one before, it has nothing of it, not even its open span.

    With OpenTelemetry's instrumentation around, which takes that span for its parent, it has none of its facts.
    """
    tracer = spans.provider.get_tracer("app")

    def handler(scope: Any) -> Any:
        seen = egisai.current_context()
        attach(set_span_in_context(tracer.start_span(scope["path"])))
        trace.get_current_span().end()
        return seen

    def around(app: Any) -> Any:
        return TracedASGI(app, tracer_provider=spans.provider, exclude_spans=["receive", "send"]) if traced else app

    egisai.set_context(workflow_id="of the process")  # a server's thread, started from here, inherits nothing
    with PROTOCOLS["asgi"].served(handler, around, user_id="x-user-id") as url, Connection(url) as connection:
        assert connection.ask("/1", ("x-user-id", "acme"), body=b"x" * 1_000_000) == {"user_id": "acme"}
        assert connection.ask("/2") == {}
    first, second = (next(span for span in spans.all() if span.name == name) for name in ("/1", "/2"))
    assert first.attributes["user.id"] == "acme"
    assert "user.id" not in second.attributes
    assert (second.parent is None) is not traced
    if traced:
        parents = {span.context.span_id: span for span in spans.all()}
        assert parents[second.parent.span_id].name == "POST /2"


def test_received_facts_are_of_one_request(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    """What a server instrumentation received and believed is in force, and not for the connection's next request."""
    monkeypatch.setattr(propagation, "_trust", propagation.Trust(unsigned=True))

    def around(app: Any) -> Any:
        return TracedASGI(app, tracer_provider=spans.provider)

    with PROTOCOLS["asgi"].served(around=around, session_id="x-session-id") as url, Connection(url) as connection:
        facts = ("baggage", "egisai.user_id=acme"), ("x-session-id", "s")
        assert connection.ask("/", *facts, body=b"x" * 1_000_000) == {"user_id": "acme", "session_id": "s"}
        assert connection.ask("/") == {}


def test_a_request_that_is_given_up() -> None:
    """A request that an event loop left unfinished ends wherever it is collected, and changes nothing there."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)

    served = ASGIMiddleware(app, user_id="x-user-id")
    server = contextvars.copy_context()
    requests: list[Any] = []
    for user in (b"acme", b"other"):  # the second one starts in the context of the first
        scope = {"type": "http", "headers": [(b"x-user-id", user)]}
        requests.append(served(scope, asyncio.sleep, asyncio.sleep))
        server.run(requests[-1].send, None)
        assert server.run(egisai.current_context) == {"user_id": user.decode()}
    egisai.set_context(user_id="here")
    for request in requests:
        request.close()
        assert egisai.current_context() == {"user_id": "here"}


@pytest.mark.parametrize("around", [None, TracedASGI], ids=["bare", "with server instrumentation"])
def test_contexts_do_not_pile_up(around: Any) -> None:
    """A connection that lives long does not collect the contexts of former requests, whatever they opened."""

    def handler(_: Any) -> int:
        open_scopes, scope = 0, get_current().get(_SCOPE)
        while scope is not None:
            open_scopes, scope = open_scopes + 1, scope.outer
        egisai.context(user_id="u").__enter__()
        return open_scopes

    with PROTOCOLS["asgi"].served(handler, around) as url, Connection(url) as connection:
        assert [connection.ask("/", body=b"x" * 1_000_000) for _ in range(3)] == [1, 1, 1]


def test_a_middleware_inside_another() -> None:
    """A mounted application has the facts of the request that it is part of, though its scope is a copy."""
    seen: list[Any] = []

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        seen.append(egisai.current_context())
        egisai.set_context(agent="of this one alone")

    inner = ASGIMiddleware(mounted, session_id="x-session-id")
    answering = asgi(lambda _: egisai.current_context())

    async def mounting(scope: Any, receive: Any, send: Any) -> None:
        egisai.set_context(workflow_id="w")
        await inner({**scope, "root_path": "/mounted"}, receive, send)
        for _ in range(2):
            await inner(scope, receive, send)
        await answering(scope, receive, send)

    with uvicorn_serving(ASGIMiddleware(mounting, user_id="x-user-id")) as url:
        facts = {"user_id": "acme", "workflow_id": "w"}
        assert asked(url, ("x-user-id", "acme"), ("x-session-id", "s")) == facts
    assert seen == [{**facts, "session_id": "s"}] * 3


def test_a_request_made_inside_a_request() -> None:
    """An application that is called in process is a request of its own, as it would be over the network."""
    inner = ASGIMiddleware(asgi(lambda _: egisai.current_context()), session_id="x-session-id")

    async def calling(scope: Any, receive: Any, send: Any) -> None:
        egisai.set_context(workflow_id="w")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(inner), base_url="http://inner") as client:
            answer = await client.get("/", headers={"x-session-id": "s"})
        await asgi(lambda _: [answer.json(), egisai.current_context()])(scope, receive, send)

    with uvicorn_serving(ASGIMiddleware(calling, user_id="x-user-id")) as url:
        assert asked(url, ("x-user-id", "acme")) == [{"session_id": "s"}, {"user_id": "acme", "workflow_id": "w"}]


def test_lifespan_is_left_alone() -> None:
    """Other scopes than http and websocket reach the application as they are, whatever the middleware reads."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    with uvicorn_serving(ASGIMiddleware(app, user_id="x-user-id"), lifespan="on"):
        pass
    assert [(scope["type"], "egisai.request" in scope) for scope in scopes] == [("lifespan", False)]


# --- WSGI's two phases ---------------------------------------------------------------------------------------------


class Body:
    """A response body that remembers what happened to it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.closed: list[Any] = []

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self.closed.append(egisai.current_context())


def test_the_application_is_called_when_the_server_calls() -> None:
    """`start_response` and exceptions come as without us; a body that nobody reads is closed, in its context."""
    started: list[str] = []
    body = Body(iter([b"never read"]))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        if environ["fails"]:
            raise ZeroDivisionError
        egisai.set_context(session_id="s")
        return body

    served = WSGIMiddleware(app, user_id=lambda _: "acme")
    response: Any = served({"fails": False}, lambda status, _: started.append(status))
    assert started == ["200 OK"]
    assert egisai.current_context() == {}
    response.close()
    assert body.closed == [{"user_id": "acme", "session_id": "s"}]
    with pytest.raises(ZeroDivisionError):
        served({"fails": True}, lambda *_: None)
    assert egisai.current_context() == {}


def test_chunks_are_made_in_the_requests_context() -> None:
    """What a body sets between two chunks holds for the next one, and is not seen by whoever sends them."""

    def chunks() -> Iterator[bytes]:
        for n in range(3):
            yield json.dumps(egisai.current_context()).encode()
            egisai.set_context(session_id=n)

    body = Body(chunks())
    response: Any = WSGIMiddleware(lambda *_: body, user_id=lambda _: "acme")({}, lambda *_: None)
    seen = [(json.loads(chunk), egisai.current_context()) for chunk in response]
    response.close()
    facts = [{"user_id": "acme"}, {"user_id": "acme", "session_id": "0"}, {"user_id": "acme", "session_id": "1"}]
    assert seen == [(each, {}) for each in facts]
    assert body.closed == [{"user_id": "acme", "session_id": "2"}]


def test_the_server_span_is_the_parent(spans: Spans) -> None:
    """Under OpenTelemetry's WSGI middleware, spans of the application and of its streamed body are in its trace."""
    tracer = spans.provider.get_tracer("app")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        tracer.start_span("called").end()
        start_response("200 OK", [])

        def body() -> Iterator[bytes]:
            tracer.start_span("streamed").end()
            yield b"{}"

        return body()

    traced = TracedWSGI(WSGIMiddleware(app, user_id="x-user-id"), tracer_provider=spans.provider)
    with cheroot_serving(traced, threads=1) as url:
        asked(url, ("x-user-id", "acme"))
    called, streamed, server = spans.all()
    assert (called.name, streamed.name, server.kind) == ("called", "streamed", trace.SpanKind.SERVER)
    for span in (called, streamed):
        assert span.parent.span_id == server.context.span_id
        assert span.attributes["user.id"] == "acme"
