"""The whole of the platform in one place: its parts, and which address each answers.

For the dashboard, everything is at `request.app.state.platform`, a `Platform`:

    reader    model.Reader: stats, agents, agent, calls, call, users, sessions, workflows, workflow (synchronous)
    registry  registry.Registry: .describe(organisation, agent_id, name=, description=), .merge(organisation, agent_id,
              into), .unmerge(organisation, agent_id); raise UnknownAgentError, MergeRefusedError, ValueError
    auth      auth.Auth: .redeem_login(token) and .open_session(key) -> session | None, .close_session(session)
    events    events.Events: .subscribe(organisation) -> async iterator of counts of newly stored spans

and `auth.current_viewer(request) -> Viewer | None` (`.organisations`, `.role`, `.may_operate(organisation)`),
`auth.set_session_cookie(response, request, session)`, `auth.clear_session_cookie(response)`.
The login link printed at start is `/login?token=...`. The dashboard is mounted from
`egisai_platform.dashboard.router`, an APIRouter, after the routes below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egisai_platform import api, dashboard, ingest, prices
from egisai_platform.auth import Auth
from egisai_platform.events import Events
from egisai_platform.filters import BadParameterError
from egisai_platform.ingest import Budget, Writer
from egisai_platform.metadata import Metadata
from egisai_platform.metrics import Metrics
from egisai_platform.model import Reader
from egisai_platform.reader import BadCursorError, StoreReader
from egisai_platform.registry import MergeRefusedError, Registry, UnknownAgentError
from egisai_platform.store import Store, StoreError, StoreTooSlowError

log = logging.getLogger("egisai_platform")

_MACHINE_PATHS: Final = ("/api/", "/v1/", "/healthz", "/readyz", "/metrics")


class Platform:
    """The parts of a running platform."""

    def __init__(self, store: Store, metadata: Metadata, retention_days: int) -> None:
        self.store: Final = store
        self.metadata: Final = metadata
        self.retention_days: Final = retention_days
        self.auth: Final = Auth(metadata)
        self.registry: Final = Registry(metadata)
        self.events: Final = Events()
        self.metrics: Final = Metrics()
        self.budget: Final = Budget(ingest.MAX_HELD_BYTES)
        self.reader: Final[Reader] = StoreReader(store, self.registry, metadata.secret())
        prices.load()
        self.writer: Final = Writer(store, self.registry, self.events, self.metrics)
        self.metrics.gauge("egisai_ingest_held_bytes", lambda: self.budget.held_bytes)

    def close(self) -> None:
        """Stores what is waiting, then closes everything."""
        self.events.close()
        self.writer.close()
        self.store.close()
        self.metadata.close()


def create_app(platform: Platform) -> FastAPI:
    """The web application; closing it closes the platform."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        platform.close()

    app = FastAPI(
        title="Egis platform",
        version=version("egisai-platform"),
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        routes=[
            Route("/v1/traces", ingest.receive, methods=["POST"]),
            Route("/v1/agents", api.announce, methods=["POST"]),
            Route("/v1/agents/rulings", api.rulings),
            Route("/healthz", api.healthz),
            Route("/readyz", api.readyz),
            Route("/metrics", api.metrics),
        ],
    )
    app.state.platform = platform
    app.include_router(api.router)
    app.include_router(dashboard.router)
    _answer_refusals(app)
    app.add_middleware(_Edge)
    return app


def _answer_refusals(app: FastAPI) -> None:
    """Every error becomes the right answer for whoever asked: problem JSON for programs, a line for people."""

    def machine(request: Request) -> bool:
        return request.url.path.startswith(_MACHINE_PATHS)

    def answer(request: Request, status: int, detail: str) -> Response:
        return api.problem(status, detail) if machine(request) else PlainTextResponse(detail + "\n", status)

    @app.exception_handler(api.ProblemError)
    def _problem(_request: Request, error: api.ProblemError) -> Response:
        return api.problem(error.status, error.detail)

    @app.exception_handler(BadParameterError)
    @app.exception_handler(MergeRefusedError)
    @app.exception_handler(UnknownAgentError)
    @app.exception_handler(BadCursorError)
    def _refused(request: Request, error: Exception) -> Response:
        if isinstance(error, UnknownAgentError):
            return answer(request, 404, str(error))
        return answer(request, 409 if isinstance(error, MergeRefusedError) else 400, str(error))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 400, api.first_fault(error.errors()))

    @app.exception_handler(StoreError)
    def _store(request: Request, error: StoreError) -> Response:
        if isinstance(error, StoreTooSlowError):
            return answer(request, 503, f"{error}: ask for less, such as a shorter time (since=1h)")
        log.error("the store did not answer: %s", error)
        return answer(request, 503, "the store does not answer")

    @app.exception_handler(SQLAlchemyError)
    def _metadata(request: Request, error: SQLAlchemyError) -> Response:
        log.error("the metadata database did not answer: %s", error)
        return answer(request, 503, "the metadata database does not answer")

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        return answer(request, error.status_code, str(error.detail))


class _Edge:
    """What every answer carries, and what those get whom a stopping server no longer waits for.

    API answers are of the moment: nobody's cache keeps them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if scope["path"].startswith(_MACHINE_PATHS):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the task ends here anyway, and without an answer the server logs a traceback
            if not started:
                await api.problem(503, "the platform is stopping")(scope, receive, send_with_headers)
