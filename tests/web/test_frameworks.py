"""Where FastAPI and Starlette run what: what is set in one place is there, or is not, in the next."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx2
import openai
import pytest
import websockets.sync.client
from fastapi import BackgroundTasks, Depends, FastAPI, Header, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.web.servers import uvicorn_serving

import egisai
from conftest import Spans
from egisai.middleware import ASGIMiddleware
from provider import Provider, hold

User = Annotated[str, Header(alias="x-user")]


def user() -> str | None:
    """Who this code runs for."""
    return egisai.current_context().get("user_id")


async def async_dependency(x_user: User) -> None:
    egisai.set_context(user_id=x_user)


def sync_dependency(x_user: User) -> None:
    egisai.set_context(user_id=x_user)


async def async_yielding(x_user: User) -> AsyncIterator[None]:
    with egisai.context(user_id=x_user):
        yield


def sync_yielding(x_user: User) -> Iterator[None]:
    with egisai.context(user_id=x_user):
        yield


def of_middleware() -> None:
    """No dependency: `ASGIMiddleware` reads the header."""


TELEMETRY: dict[str, dict[str, Any]] = {
    "untraced": {"tracing": False},
    "requests traced": {"operation_spans": False},
    "operations traced": {"operation_spans": True},
}


@pytest.fixture(params=TELEMETRY)
def traced(request: pytest.FixtureRequest) -> str:
    """What FastAPI makes spans of by itself."""
    if importlib.util.find_spec("fastapi.telemetry") is None and request.param != "untraced":
        pytest.skip("this FastAPI does not trace by itself")
    return request.param


def telemetry(traced: str, spans: Spans) -> Any:
    return {"tracer_provider": spans.provider, "metrics": False, "logs": False, **TELEMETRY[traced]}


@pytest.mark.parametrize(
    ("dependency", "holds"),
    [
        (async_dependency, ["untraced", "requests traced"]),
        (async_yielding, ["untraced", "requests traced"]),
        (sync_dependency, []),
        (sync_yielding, []),
        (of_middleware, list(TELEMETRY)),
    ],
)
def test_fastapi_dependencies(
    spans: Spans, traced: str, dependency: Any, holds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What an `async def` dependency sets holds for all of the request; what a `def` one sets, in its thread, for none.

    All of it: both kinds of endpoints, streamed bodies and background tasks of both kinds. Where FastAPI makes a span
    of the dependencies, what they set ends with it, and what the middleware set holds.
    """
    app = FastAPI(dependencies=[Depends(dependency)], telemetry=telemetry(traced, spans))
    if dependency is of_middleware:
        app.add_middleware(ASGIMiddleware, user_id="x-user")
    background: dict[str, str | None] = {}
    done = threading.Semaphore(0)

    def after(name: str) -> None:
        background[name] = user()
        done.release()

    async def after_async(name: str) -> None:
        after(name)

    @app.get("/async")
    async def asynchronous(tasks: BackgroundTasks) -> str | None:
        tasks.add_task(after, "def")
        tasks.add_task(after_async, "async def")
        return user()

    @app.get("/sync")
    def synchronous() -> str | None:
        return user()

    @app.get("/threadpool")
    async def threadpool() -> str | None:
        return await run_in_threadpool(user)

    @app.get("/async-stream")
    async def async_stream() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield json.dumps(user())

        return StreamingResponse(body())

    @app.get("/sync-stream")
    def sync_stream() -> StreamingResponse:
        def body() -> Iterator[str]:
            yield json.dumps(user())

        return StreamingResponse(body())

    with uvicorn_serving(app) as url, httpx2.Client(base_url=url, headers={"x-user": "acme"}) as client:
        paths = ["/async", "/sync", "/threadpool", "/async-stream", "/sync-stream"]
        seen = {path: client.get(path).json() for path in paths}
        assert done.acquire(timeout=10)
        assert done.acquire(timeout=10)
    expected = "acme" if traced in holds else None
    assert seen == dict.fromkeys(paths, expected)
    assert background == {"def": expected, "async def": expected}
    assert not [record for record in caplog.records if record.name == "egisai"]


def test_fastapi_endpoints(spans: Spans, traced: str) -> None:
    """What an endpoint sets holds for its streamed body and its background tasks.

    Where FastAPI makes a span of the endpoint, it ends with it; a decorated generator has its own facts.
    """
    app = FastAPI(telemetry=telemetry(traced, spans))
    background: list[str | None] = []
    done = threading.Event()

    async def after() -> None:
        background.append(user())
        done.set()

    @app.get("/{which}")
    async def endpoint(which: str, tasks: BackgroundTasks) -> StreamingResponse:
        egisai.set_context(user_id="acme")
        tasks.add_task(after)

        async def body() -> AsyncIterator[str]:
            yield json.dumps(user())

        return StreamingResponse(body() if which == "bare" else egisai.context(user_id="acme")(body)())

    with uvicorn_serving(app) as url:
        bare, decorated = httpx2.get(f"{url}/bare").json(), httpx2.get(f"{url}/decorated").json()
        assert done.wait(10)
    expected = None if traced == "operations traced" else "acme"
    assert (bare, background[0], decorated) == (expected, expected, "acme")


def test_streamed_by_def() -> None:
    """Each chunk of a `def` generator is made in a thread with a copy of the context: decorate it, and facts hold."""
    app = FastAPI()

    def bare() -> Iterator[str]:
        egisai.set_context(session_id="s")
        for _ in range(3):
            yield json.dumps(egisai.current_context()) + "\n"

    @egisai.context(session_id="s")
    def decorated() -> Iterator[str]:
        egisai.set_context(workflow_id="w")
        for _ in range(3):
            yield json.dumps(egisai.current_context()) + "\n"

    @app.get("/{which}")
    async def streamed(which: str) -> StreamingResponse:
        egisai.set_context(user_id="acme")
        return StreamingResponse(bare() if which == "bare" else decorated())

    with uvicorn_serving(app) as url:
        chunks = {
            which: [json.loads(line) for line in httpx2.get(f"{url}/{which}").text.splitlines()]
            for which in ("bare", "decorated")
        }
    facts = {"user_id": "acme", "session_id": "s"}
    assert chunks["bare"] == [facts, {"user_id": "acme"}, {"user_id": "acme"}]
    assert chunks["decorated"] == [{**facts, "workflow_id": "w"}] * 3


def test_base_http_middleware() -> None:
    """What one sets before `call_next` holds inside; what the endpoint sets does not come back out."""
    outside: list[str | None] = []

    class Setting(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            egisai.set_context(user_id=request.headers["x-user"])
            response = await call_next(request)
            outside.append(user())
            return response

    async def endpoint(request: Request) -> JSONResponse:
        seen = user()
        egisai.set_context(user_id="of the endpoint")
        return JSONResponse(seen, background=BackgroundTask(lambda: outside.append(user())))

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Setting), Middleware(ASGIMiddleware)])
    with uvicorn_serving(app) as url:
        assert httpx2.get(url, headers={"x-user": "acme"}).json() == "acme"
    assert sorted(outside) == ["acme", "of the endpoint"]


def test_who_logged_in() -> None:
    """What Starlette's authentication found out is in the scope of the middlewares inside it."""

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> Any:
            return AuthCredentials(), SimpleUser(conn.headers["authorization"].removeprefix("Bearer "))

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(user())

    app = Starlette(
        routes=[Route("/", endpoint)],
        middleware=[
            Middleware(AuthenticationMiddleware, backend=Backend()),
            Middleware(ASGIMiddleware, user_id=lambda scope: scope["user"].display_name),
        ],
    )
    with uvicorn_serving(app) as url:
        assert httpx2.get(url, headers={"authorization": "Bearer acme"}).json() == "acme"


def test_exceptions() -> None:
    """A request that fails is the caller's 500, and leaves nothing."""
    app = FastAPI()
    app.add_middleware(ASGIMiddleware, user_id="x-user")
    app.add_middleware(ASGIMiddleware, session_id="x-session")

    @app.exception_handler(ZeroDivisionError)
    async def handler(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse(egisai.current_context(), 500)

    @app.get("/fails")
    async def fails() -> None:
        egisai.set_context(workflow_id="w")
        raise ZeroDivisionError

    @app.get("/")
    async def fine() -> dict[str, str]:
        return egisai.current_context()

    with uvicorn_serving(app) as url, httpx2.Client(base_url=url) as client:
        answer = client.get("/fails", headers={"x-user": "acme", "x-session": "s"})
        assert (answer.status_code, answer.json()) == (500, {"user_id": "acme", "session_id": "s", "workflow_id": "w"})
        assert client.get("/").json() == {}


def test_websockets() -> None:
    """One context for each websocket, from its handshake to its end: what a message sets holds for the next ones."""
    app = FastAPI()
    app.add_middleware(ASGIMiddleware, user_id="x-user")

    @app.websocket("/")
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            if message:
                egisai.set_context(session_id=message)
            with egisai.context(workflow_id=message or None):
                await websocket.send_json(egisai.current_context())

    with uvicorn_serving(app) as url:
        address = url.replace("http", "ws", 1)

        def connect(name: str) -> Any:
            return websockets.sync.client.connect(address, additional_headers={"x-user": name})

        def say(socket: Any, message: str) -> Any:
            socket.send(message)
            return json.loads(socket.recv(10))

        with connect("acme") as first, connect("other") as second:
            assert say(first, "s1") == {"user_id": "acme", "session_id": "s1", "workflow_id": "s1"}
            assert say(second, "") == {"user_id": "other"}
            assert say(second, "s2") == {"user_id": "other", "session_id": "s2", "workflow_id": "s2"}
            assert say(first, "") == {"user_id": "acme", "session_id": "s1"}
        with connect("third") as third:
            assert say(third, "") == {"user_id": "third"}


def test_a_client_that_leaves(spans: Spans, server: Provider) -> None:
    """The call that a departed client was waiting for is that client's, and incomplete; the next request is clean."""
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local")
    app = FastAPI()
    app.add_middleware(ASGIMiddleware, user_id="x-user")
    left = threading.Event()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            try:
                async with await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hello"}], stream=True
                ) as chunks:
                    async for _ in chunks:
                        yield "chunk\n"
            finally:
                left.set()

        return StreamingResponse(body())

    @app.get("/")
    async def nobody() -> dict[str, str]:
        return egisai.current_context()

    until = threading.Event()
    server.hooks.append(hold(2, until))
    with uvicorn_serving(app) as url:
        with httpx2.stream("GET", f"{url}/stream", headers={"x-user": "acme"}) as response:
            assert next(response.iter_lines()) == "chunk"
        assert left.wait(10)
        until.set()
        assert httpx2.get(url).json() == {}
    call = spans.only()
    assert (call["user.id"], call["egisai.call.complete"]) == ("acme", False)
