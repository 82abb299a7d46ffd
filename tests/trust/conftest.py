"""A local server under many names, which keeps every byte it is sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from egisai import propagation

SECRET = "a secret of our services"


class Recorder:
    """What arrived, whole: `sent` has one entry per request, headers and body."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.redirect: str | None = None
        """Where to send the first request on to."""
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                recorder.sent.append(self.raw_requestline + headers.encode("latin-1") + body)
                to, recorder.redirect = recorder.redirect, None
                self.send_response(302 if to else 200)
                if to:
                    self.send_header("location", to)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST  # noqa: N815 - the library's

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}/path"

    def members(self) -> dict[str, str]:
        """The baggage of the last request, read as any W3C library reads it."""
        lines = [line for line in self.sent[-1].decode("latin-1").splitlines() if line.lower().startswith("baggage:")]
        assert len(lines) <= 1, lines
        pairs = [pair.split("=", 1) for line in lines for pair in line[8:].strip().split(",") if pair]
        return {unquote(key): unquote(value) for key, value in pairs}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """The server; every name that a test uses leads to it."""
    resolve = socket.getaddrinfo

    def local(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    server = Recorder()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def fresh_trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whom to trust is what the environment says, which says nothing; nothing of a test is left for the next."""
    for name in ("TRUSTED_HOSTS", "CONTEXT_SECRET", "TRUST_INBOUND"):
        monkeypatch.delenv(f"EGISAI_{name}", raising=False)
    propagation.use(None)
    yield
    propagation.use(None)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret of the organisation's services is set in the environment."""
    monkeypatch.setenv("EGISAI_CONTEXT_SECRET", SECRET)
    propagation.use(None)
    return SECRET
