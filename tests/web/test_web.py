"""The cases `ctx-fastapi` and `ctx-wsgi`: no request is ever taken for another, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fastapi
import flask
import httpx2
import openai
import pytest
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from tests.web.servers import cheroot_serving, uvicorn_serving, waitress_serving

import egisai
from conftest import Spans
from egisai.middleware import ASGIMiddleware, WSGIMiddleware
from provider import Provider

N = 60


def fastapi_app(provider: Provider, **telemetry: Any) -> fastapi.FastAPI:
    app = fastapi.FastAPI(telemetry=telemetry)
    messages: Any = [{"role": "user", "content": "hello"}]
    whole = openai.OpenAI(base_url=provider.base_url, api_key="sk-local")
    awaited = openai.AsyncOpenAI(base_url=provider.base_url, api_key="sk-local")

    @app.get("/async")
    async def asynchronous(user: str) -> dict[str, str]:
        seen = egisai.current_context()
        egisai.set_context(agent="async", user_id=user, session_id=f"s-{user}")
        await asyncio.sleep(0)
        await awaited.chat.completions.create(model=user, messages=messages)
        return seen

    @app.get("/sync")
    def synchronous(user: str) -> dict[str, str]:
        seen = egisai.current_context()
        egisai.set_context(agent="sync", user_id=user, session_id=f"s-{user}")
        whole.chat.completions.create(model=user, messages=messages)
        return seen

    @app.get("/streamed")
    async def streamed(user: str) -> StreamingResponse:
        egisai.set_context(agent="streamed", user_id=user, session_id=f"s-{user}")

        async def body() -> AsyncIterator[str]:
            await awaited.chat.completions.create(model=user, messages=messages)
            yield user

        return StreamingResponse(body())

    @app.get("/nobody")
    async def nobody() -> dict[str, str]:
        return egisai.current_context()

    return app


async def ask(base_url: str, paths: list[str]) -> list[httpx2.Response]:
    async with httpx2.AsyncClient(base_url=base_url, timeout=60) as client:
        return await asyncio.gather(*(client.get(path) for path in paths))


def check(spans: Spans, expected: int) -> None:
    calls = spans.calls()
    assert len(calls) == expected
    for call in calls:
        user = call.attributes["gen_ai.request.model"]
        assert (call.attributes["user.id"], call.attributes["session.id"]) == (user, f"s-{user}")
        assert call.attributes["gen_ai.agent.name"] == str(user).partition("-")[0]


@pytest.mark.parametrize("way", ["bare", "server instrumentation", "FastAPI's own", "middleware", "both"])
def test_ctx_fastapi(spans: Spans, server: Provider, way: str) -> None:
    """Async, sync and streaming endpoints under load: every call has its own request's user, none another's."""
    own = {"tracer_provider": spans.provider, "operation_spans": False} if way == "FastAPI's own" else {}
    app = fastapi_app(server, **own)
    if way in ("middleware", "both"):
        app.add_middleware(ASGIMiddleware)
    if way in ("server instrumentation", "both"):
        FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider)
    kinds = ("async", "sync", "streamed")
    paths = [f"/{kinds[i % 3]}?user={kinds[i % 3]}-{i}" for i in range(N)]
    with uvicorn_serving(app) as base_url:
        replies = asyncio.run(ask(base_url, paths + ["/nobody"] * 10))
    assert {reply.status_code for reply in replies} == {200}
    assert all(reply.json() == {} for reply in replies if "streamed" not in str(reply.url))
    check(spans, N)
    assert egisai.current_context() == {}


def flask_app(provider: Provider) -> flask.Flask:
    app = flask.Flask("test")
    client = openai.OpenAI(base_url=provider.base_url, api_key="sk-local")

    def call(user: str) -> None:
        egisai.set_context(agent="wsgi", user_id=user, session_id=f"s-{user}")
        client.chat.completions.create(model=user, messages=[{"role": "user", "content": "hello"}])

    @app.get("/plain")
    def plain() -> Any:
        seen = egisai.current_context()
        call(flask.request.args["user"])
        return flask.jsonify(seen)

    @app.get("/streamed")
    def streamed() -> Any:
        user = flask.request.args["user"]

        def body() -> Iterator[str]:
            call(user)
            yield user
            yield user

        return flask.Response(body())

    @app.get("/fails")
    def fails() -> Any:
        egisai.set_context(user_id="failed")
        raise ZeroDivisionError

    return app


@pytest.mark.parametrize("serving", [cheroot_serving, waitress_serving], ids=["cheroot", "waitress"])
@pytest.mark.parametrize("way", ["middleware", "server instrumentation", "both"])
def test_ctx_wsgi(spans: Spans, server: Provider, serving: Any, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A WSGI server's own worker threads, reused: request 2 never sees request 1's user, streamed or failed."""
    app = flask_app(server)
    kinds = ["plain", "fails"]
    if way in ("middleware", "both"):
        app.wsgi_app = WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]
        kinds.append("streamed")
    if way in ("server instrumentation", "both"):
        FlaskInstrumentor().instrument_app(app, tracer_provider=spans.provider)
    paths = [f"/{kinds[i % len(kinds)]}?user=wsgi-{i}" for i in range(N)]
    with serving(app, threads=3) as base_url:
        replies = asyncio.run(ask(base_url, paths))
    assert all(reply.json() == {} for reply in replies if "plain" in str(reply.url))
    check(spans, sum("fails" not in path for path in paths))
    assert "detach" not in caplog.text
