"""A real server as a subprocess, organisations of their own for each test, and spans made by the real SDK."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Tracer
from sqlalchemy import create_engine, make_url

from egisai import semconv
from egisai.identity import agent_id
from egisai_platform.auth import Auth
from egisai_platform.metadata import Metadata

_numbers = itertools.count()

POSTGRESQL = os.environ.get("TEST_POSTGRESQL")
"""A PostgreSQL server's DSN without a database, on which `postgres.sh` runs the tests that use `dsn`."""

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def bearer(key: str) -> dict[str, bytes]:
    """The header that presents a key; none for an empty one."""
    return {"Authorization": f"Bearer {key}".encode()} if key else {}


@dataclass
class Server:
    """A running `egisai-platform serve`."""

    process: subprocess.Popen[str]
    data_dir: Path
    lines: list[str]

    @property
    def url(self) -> str:
        return self._said(r"listening on (\S+)")

    @property
    def login_link(self) -> str:
        return self._said(r"dashboard: (\S+)")

    @property
    def cookie(self) -> str:
        """The name of its session cookie."""
        return f"egis_session_{self.url.rpartition(':')[2]}"

    @contextlib.contextmanager
    def auth(self) -> Iterator[Auth]:
        """What `egisai-platform keys` works with, while the server runs."""
        metadata = Metadata(f"sqlite:///{self.data_dir / 'metadata.db'}")
        yield Auth(metadata)
        metadata.close()

    def key(self, organisation: str, scope: str) -> str:
        with self.auth() as auth:
            return auth.create_key(organisation, scope)

    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Stops it; its exit code and everything it printed."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=20)
        return self.process.returncode, "".join(self.lines) + rest

    def _said(self, pattern: str) -> str:
        found = re.search(pattern, "".join(self.lines))
        assert found, self.lines
        return found[1]


def start_server(data_dir: Path, *options: str) -> Server:
    """Starts a server on any free port and waits until it listens."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EGISAI_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "egisai_platform.cli", "serve", "--port", "0", "--data-dir", str(data_dir), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        bufsize=1,
    )
    assert process.stdout is not None
    lines: list[str] = []
    giving_up = threading.Timer(60, process.kill)
    giving_up.start()
    for line in process.stdout:
        lines.append(line)
        if "dashboard: " in line:
            break
    giving_up.cancel()
    assert "dashboard: " in "".join(lines), f"the server did not start: {''.join(lines)}"
    return Server(process, data_dir, lines)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def starting(data_dir: Path, *options: str) -> Server:
        started.append(start_server(data_dir, *options))
        return started[-1]

    yield starting
    for server in started:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for every test that does not need its own. It must not print a traceback, whatever the tests do."""
    running = start_server(tmp_path_factory.mktemp("platform"))
    yield running
    code, output = running.stop()
    assert code == 0, output
    assert "Traceback" not in output, output


@pytest.fixture
def dsn(tmp_path: Path) -> Iterator[str]:
    """A metadata database of this test's own: SQLite, or PostgreSQL under `postgres.sh`."""
    if POSTGRESQL is None:
        yield f"sqlite:///{tmp_path / 'metadata.db'}"
        return
    name = f"test_{next(_numbers)}"
    server = create_engine(make_url(POSTGRESQL).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@dataclass
class Organisation:
    """An organisation with its keys, and requests made with them."""

    name: str
    server: Server
    ingest_key: str
    read_key: str
    admin_key: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def send(self, body: bytes | Sequence[ReadableSpan], *, key: str | None = None, **headers: str) -> httpx.Response:
        """Posts spans, or bytes as they are."""
        content = body if isinstance(body, bytes) else encode_spans(body).SerializeToString()
        authorization = bearer(self.ingest_key if key is None else key)
        return self.client.post(
            f"{self.server.url}/v1/traces",
            content=content,
            headers=PROTOBUF | authorization | {name.replace("_", "-"): value for name, value in headers.items()},
        )

    def store(self, spans: Sequence[ReadableSpan]) -> None:
        """Posts spans, all of which must be stored."""
        response = self.send(spans)
        assert (response.status_code, response.content) == (200, b"")

    def ask(self, path: str, **params: object) -> httpx.Response:
        return self.request("GET", path, params={name: str(value) for name, value in params.items()} or None)

    def announce(self, agents: Sequence[Mapping[str, str]], *, key: str | None = None) -> httpx.Response:
        authorization = bearer(self.ingest_key if key is None else key)
        return self.client.post(f"{self.server.url}/v1/agents", json={"agents": list(agents)}, headers=authorization)

    def get(self, path: str, **params: object) -> Any:
        """A good answer's JSON."""
        response = self.ask(path, **params)
        assert response.status_code == 200, response.text
        return response.json()

    def items(self, path: str, **params: object) -> list[Any]:
        return self.get(path, **params)["items"]

    def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        authorization = bearer(self.admin_key if key is None else key)
        return self.client.request(method, f"{self.server.url}/api/v1/{path}", headers=authorization, **options)


@pytest.fixture
def make_organisation(server: Server) -> Iterator[Callable[..., Organisation]]:
    """Makes organisations nobody else has, on the shared server or another."""
    made: list[Organisation] = []

    def make(on: Server | None = None) -> Organisation:
        running = on or server
        name = f"org-{next(_numbers)}"
        with running.auth() as auth:
            keys = [auth.create_key(name, scope) for scope in ("ingest", "read", "admin")]
        made.append(Organisation(name, running, *keys))
        return made[-1]

    yield make
    for organisation in made:
        organisation.client.close()


@pytest.fixture
def org(make_organisation: Callable[..., Organisation]) -> Organisation:
    """An organisation of this test alone."""
    return make_organisation()


class Recorder:
    """The real SDK's tracer, and the spans it made."""

    def __init__(self, **resource: str) -> None:
        self._memory = InMemorySpanExporter()
        self._provider = TracerProvider(
            resource=Resource({"service.name": "app", "deployment.environment.name": "test"} | resource)
        )
        self._provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracer: Tracer = self._provider.get_tracer("test", "1")

    def spans(self) -> list[ReadableSpan]:
        """What was recorded since the last time."""
        spans = list(self._memory.get_finished_spans())
        self._memory.clear()
        return spans

    def call(
        self,
        *,
        agent: str | None = None,
        organisation: str = "",
        start_ns: int | None = None,
        duration_ns: int = 10**9,
        attributes: Mapping[str, Any] | None = None,
        **facts: str,
    ) -> None:
        """Records one chat call. `facts` are user_id, user_role, session_id, workflow_id, model."""
        start_ns = time.time_ns() - 10**10 if start_ns is None else start_ns
        names = {
            "user_id": semconv.USER_ID,
            "session_id": semconv.SESSION_ID,
            "workflow_id": semconv.WORKFLOW_ID,
        }
        model = facts.pop("model", "gpt-4o-mini")
        role = facts.pop("user_role", None)
        given: dict[str, Any] = {
            semconv.OPERATION: "chat",
            semconv.PROVIDER: "openai",
            semconv.REQUEST_MODEL: model,
            semconv.USAGE_INPUT_TOKENS: 100,
            semconv.USAGE_OUTPUT_TOKENS: 10,
            **{names[name]: value for name, value in facts.items()},
        }
        if role is not None:
            given[semconv.USER_ROLES] = [role]
        if agent is not None:
            given |= {
                semconv.AGENT_NAME: agent,
                semconv.AGENT_ID: agent_id(organisation, "name", agent),
                semconv.AGENT_SOURCE: "name",
            }
        span = self.tracer.start_span(
            f"chat {model}", kind=SpanKind.CLIENT, start_time=start_ns, attributes=given | dict(attributes or {})
        )
        span.end(start_ns + duration_ns)


@pytest.fixture
def recorder() -> Recorder:
    """A fresh recorder."""
    return Recorder()


@pytest.fixture
def make_recorder() -> type[Recorder]:
    """Makes recorders with resources of their own."""
    return Recorder
