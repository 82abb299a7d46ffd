"""A real OTLP/HTTP receiver on a local port, whose answers are scripted by the test."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Answer = tuple[int, dict[str, str], bytes]


def ok() -> Answer:
    return 200, {"Content-Type": "application/x-protobuf"}, b""


def partial(rejected: int, message: str) -> Answer:
    success = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return 200, {}, ExportTraceServiceResponse(partial_success=success).SerializeToString()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, body


def span_names(request: ExportTraceServiceRequest) -> list[str]:
    return [s.name for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


class Receiver:
    """`answer` decides on each decoded request; names of spans answered with 2xx are `names`.

    One that is made with `up=False` holds its port and refuses connections until `open()`.
    """

    def __init__(self, *, up: bool = True) -> None:
        self.answer: Callable[[ExportTraceServiceRequest], Answer] = lambda _: ok()
        self.refuse_garbage = 400
        self.names: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Quiet."""

            def do_POST(self) -> None:
                outer._handle(self)

            do_GET = do_POST  # noqa: N815 # a redirect followed the wrong way would arrive as GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.server_bind()
        self._thread: threading.Thread | None = None
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if up:
            self.open()

    def open(self) -> None:
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        try:
            raw = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(raw)
            code, headers, content = self.answer(request)
        except gzip.BadGzipFile:
            raw, request, (code, headers, content) = b"", ExportTraceServiceRequest(), status(self.refuse_garbage)
        with self.changed:
            self.requests.append(
                {
                    "path": handler.path,
                    "method": handler.command,
                    "headers": dict(handler.headers.items()),
                    "status": code,
                    "size": len(raw),
                    "time": time.monotonic(),
                }
            )
            if code < 300:
                self.names += span_names(request)
            self.changed.notify_all()
        handler.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def wait_names(self, count: int, timeout_s: float = 10.0) -> list[str]:
        self.wait(lambda: len(self.names) >= count, timeout_s)
        return list(self.names)

    def close(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
