"""A local stand-in for an LLM provider: an HTTP server that speaks the OpenAI wire format and misbehaves when told to.

Run alone with `python examples/provider.py`, or inside a program:

    with Provider() as provider:
        client = openai.OpenAI(base_url=provider.base_url, api_key="sk-local")

It serves `POST /v1/chat/completions`, `/v1/responses` and `/v1/embeddings`, `GET /v1/models`, and the same under
Azure's paths (`/openai/deployments/<name>/...?api-version=...` and `/openai/v1/...`). The answers are made up
(see `provider_answers.py`); everything around them is as the real service does it.

Every API key is good except none at all and `sk-wrong`. A client asks for an error with the request header
`x-simulate-status: 429`; a test adds functions to `Provider.hooks`, ready-made ones being `fail`, `break_stream`,
`hold` and `replay`.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import provider_answers as answers

WRONG_KEY = "sk-wrong"


@dataclass(slots=True, eq=False)
class Request:
    """A request as it arrived."""

    index: int
    """0 for the first one."""
    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """The parsed JSON body; None when there is none, or when it is not JSON."""
    outcome: str = ""
    """Once answered: `sent`, `broken` (we cut it), or `client left`."""
    finished: threading.Event = field(default_factory=threading.Event)
    """Set as soon as `outcome` is known."""


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer a request. Every field left out means: as usual."""

    status: int | None = None
    """An error status, answered in OpenAI's error format (or with `body`)."""
    body: bytes | None = None
    """These very bytes instead of our own answer."""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    break_after: int | None = None
    """Cut the connection after so many stream chunks (0: before the response)."""
    hold_chunk: int | None = None
    """Send this chunk (0 is the first) only when `hold_until` is set. A whole answer is chunk 0."""
    hold_until: threading.Event | None = None


Hook = Callable[[Request], "Reply | None"]
When = Callable[[Request], bool]


def limited(reply: Reply, *, times: int | None = None, when: When | None = None) -> Hook:
    """A hook that gives `reply` to the first `times` requests (None: all) for which `when` is true."""
    left = [times]
    lock = threading.Lock()

    def hook(request: Request) -> Reply | None:
        if when is not None and not when(request):
            return None
        with lock:
            if left[0] is not None:
                if left[0] == 0:
                    return None
                left[0] -= 1
        return reply

    return hook


def fail(status: int, *, times: int | None = 1, retry_after_s: float | None = None, when: When | None = None) -> Hook:
    """Answer with an error; `retry_after_s` becomes the `Retry-After` header."""
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
    return limited(Reply(status=status, headers=headers), times=times, when=when)


def break_stream(after: int, *, times: int | None = 1, when: When | None = None) -> Hook:
    """Cut the connection after `after` chunks of a stream, without the terminator."""
    return limited(Reply(break_after=after), times=times, when=when)


def hold(chunk: int, until: threading.Event, *, times: int | None = 1, when: When | None = None) -> Hook:
    """Keep chunk `chunk` (0 is the first) back until the event is set, the client leaves or the provider stops."""
    return limited(Reply(hold_chunk=chunk, hold_until=until), times=times, when=when)


def replay(
    body: bytes,
    *,
    content_type: str = "application/json",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    times: int | None = None,
    when: When | None = None,
) -> Hook:
    """Answer with recorded bytes. A recorded event stream is sent event by event, so that it can be held and broken."""
    reply = Reply(status=status, body=body, content_type=content_type, headers=headers or {})
    return limited(reply, times=times, when=when)


class Provider:
    """The server, running in background threads from construction to `close()`.

    `latency_s` passes before each response and `chunk_delay_s` before each stream chunk. `on_request` is called with
    each `Request` before it is answered. `hooks` are asked in turn how to answer; the first that returns a `Reply`
    decides. `requests` holds what arrived, unless `record` is false. All may be changed while it runs.

    Raises OSError when the port is in use (0 picks a free one).
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_s: float = 0,
        chunk_delay_s: float = 0,
        on_request: Callable[[Request], None] | None = None,
        hooks: Iterable[Hook] = (),
        record: bool = True,
    ) -> None:
        self.latency_s = latency_s
        self.chunk_delay_s = chunk_delay_s
        self.on_request = on_request
        self.hooks: list[Hook] = list(hooks)
        self.record = record
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._count = 0
        self._lock = threading.Lock()
        self._server = _Server((host, port), _Handler, self)
        self.azure_endpoint = f"http://{host}:{self._server.server_address[1]}"
        self.base_url = f"{self.azure_endpoint}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="provider", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and close every connection. Can be called twice."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_connections(timeout_s=5)

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Request:
        parts = urlsplit(target)
        with self._lock:
            request = Request(self._count, method, parts.path, dict(parse_qsl(parts.query)), headers, body)
            self._count += 1
            if self.record:
                self.requests.append(request)
        return request

    def _reply(self, request: Request) -> Reply:
        if self.on_request is not None:
            self.on_request(request)
        for hook in list(self.hooks):
            reply = hook(request)
            if reply is not None:
                return reply
        asked = request.headers.get("x-simulate-status", "")
        if asked.isdigit():
            return Reply(status=int(asked), headers={"retry-after": "1"} if asked in ("429", "500", "503") else {})
        return Reply()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[_Handler], provider: Provider) -> None:
        self.provider = provider
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(address, handler)

    def add_connection(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.add(connection)

    def remove_connection(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def close_connections(self, timeout_s: float) -> None:
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _BrokenError(Exception):
    """We cut the connection on purpose."""


class _ClientLeftError(Exception):
    """The client closed the connection before we were done."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered: one write per response or chunk
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - as socketserver is meant to be used

    def setup(self) -> None:
        super().setup()
        self.server.add_connection(self.connection)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.remove_connection(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the program that uses us decides what to print."""

    def do_GET(self) -> None:
        self._exchange(b"")

    def do_POST(self) -> None:
        if "content-length" not in self.headers:
            self.send_error(411)
            return
        self._exchange(self.rfile.read(int(self.headers["content-length"])))

    def _exchange(self, raw: bytes) -> None:
        self._started = time.perf_counter()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        provider = self.server.provider
        request = provider._receive(self.command, self.path, headers, body)
        request.outcome = "sent"
        try:
            reply = provider._reply(request)
            if provider.latency_s:
                time.sleep(provider.latency_s)
            if reply.break_after == 0:
                raise _BrokenError
            self._answer(request, reply)
        except _BrokenError:
            request.outcome = "broken"
            self.close_connection = True
        except (_ClientLeftError, ConnectionError):
            request.outcome = "client left"
            self.close_connection = True
        finally:
            request.finished.set()

    # --- what to answer ------------------------------------------------------------------------------------------

    def _answer(self, request: Request, reply: Reply) -> None:
        if reply.body is not None:
            if reply.content_type.startswith("text/event-stream"):
                self._send_stream(request, reply, _split_events(reply.body))
            else:
                self._send(request, reply, reply.body)
            return
        if reply.status is not None:
            self._send(request, reply, _error_body(request, reply.status))
            return
        status = _refusal(request)
        if status is not None:
            self._send(request, replace(reply, status=status), _error_body(request, status))
            return
        try:
            answer = _route(request)
        except answers.BadRequestError as error:
            details = {"message": error.message, "type": "invalid_request_error"}
            details |= {"param": error.param, "code": error.code}
            self._send(request, replace(reply, status=400), json.dumps({"error": details}).encode())
            return
        if isinstance(answer, dict):
            self._send(request, reply, json.dumps(answer).encode())
        else:
            self._send_stream(request, reply, answer)

    # --- how to send it ------------------------------------------------------------------------------------------

    def _send(self, request: Request, reply: Reply, body: bytes) -> None:
        self._wait_if_held(reply, 0)
        self._send_head(request, reply, reply.content_type, {"content-length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()

    def _send_stream(self, request: Request, reply: Reply, events: Iterable[bytes]) -> None:
        delay_s = self.server.provider.chunk_delay_s
        for index, event in enumerate(events):
            if index == 0:
                # the headers go out at once, as the service's do, even when the first chunk is held
                self._send_head(request, reply, "text/event-stream; charset=utf-8", {"transfer-encoding": "chunked"})
                self.wfile.flush()
            if index == reply.break_after:
                raise _BrokenError
            if delay_s:
                time.sleep(delay_s)
            self._wait_if_held(reply, index)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
        if reply.break_after is not None:
            raise _BrokenError
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_head(self, request: Request, reply: Reply, content_type: str, extra: Mapping[str, str]) -> None:
        self.send_response(reply.status or 200)
        own = {
            "content-type": content_type,
            "x-request-id": "req_" + uuid.uuid4().hex,
            "openai-organization": "local",
            "openai-processing-ms": str(int((time.perf_counter() - self._started) * 1000)),
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
        }
        if request.path.startswith("/openai/"):
            own |= {"apim-request-id": str(uuid.uuid4()), "x-ms-region": "Local"}
        for name, value in {**own, **reply.headers, **extra}.items():
            self.send_header(name, value)
        self.end_headers()

    def _wait_if_held(self, reply: Reply, index: int) -> None:
        if reply.hold_until is None or index != reply.hold_chunk:
            return
        while not reply.hold_until.wait(0.01):
            if self.server.provider.stopping.is_set():
                raise _BrokenError
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise _ClientLeftError


def _refusal(request: Request) -> int | None:
    """The status of a request the service would not look into, else None."""
    if _key(request) in ("", WRONG_KEY):
        return 401
    if _endpoint(request) is None:
        return 404
    if request.method == "POST" and not isinstance(request.body, dict):
        return 400
    return None


def _key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("api-key") or (token.strip() if scheme.lower() == "bearer" else "")


def _endpoint(request: Request) -> str | None:
    """`chat/completions`, `responses`, `embeddings`, `models` or `models/<name>`; None for a path we do not serve."""
    parts = request.path.strip("/").split("/")
    if parts[0] == "openai":
        if parts[1:2] == ["deployments"]:
            if "api-version" not in request.query:
                return None
            rest = parts[3:]
        else:
            rest = parts[2:] if parts[1:2] == ["v1"] else parts[1:]
    elif parts[0] == "v1":
        rest = parts[1:]
    else:
        return None
    if request.method == "GET":
        return "/".join(rest) if rest[:1] == ["models"] and len(rest) <= 2 else None
    endpoint = "/".join(rest)
    return endpoint if endpoint in ("chat/completions", "responses", "embeddings") else None


def _route(request: Request) -> dict[str, Any] | Iterable[bytes]:
    endpoint = _endpoint(request)
    assert endpoint is not None
    if endpoint == "models":
        return answers.models()
    if endpoint.startswith("models/"):
        return answers.model(endpoint.removeprefix("models/"))
    body = dict(request.body)
    is_azure = request.path.startswith("/openai/deployments/")
    if is_azure:
        body.setdefault("model", request.path.split("/")[3])
    streams = body.get("stream") is True
    if endpoint == "embeddings":
        return answers.embeddings(body)
    if endpoint == "responses":
        if not streams:
            return answers.response(body)
        return [b"event: %b\ndata: %b\n\n" % (e["type"].encode(), _dump(e)) for e in answers.response_events(body)]
    if not streams:
        return answers.chat_completion(body, azure=is_azure)
    chunks = [b"data: %b\n\n" % _dump(chunk) for chunk in answers.chat_chunks(body, azure=is_azure)]
    return [*chunks, b"data: [DONE]\n\n"]


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _split_events(raw: bytes) -> list[bytes]:
    """A recorded event stream, event by event, with nothing changed."""
    separator = b"\r\n\r\n" if b"\r\n\r\n" in raw else b"\n\n"
    parts = raw.split(separator)
    return [part + separator for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _error_body(request: Request, status: int) -> bytes:
    """OpenAI's error object for this status (Azure's wording under Azure's paths)."""
    if request.path.startswith("/openai/") and status in (401, 404):
        message = {
            401: "Access denied due to invalid subscription key or wrong API endpoint.",
            404: "Resource not found",
        }[status]
        return json.dumps({"error": {"code": str(status), "message": message}}).encode()
    key = _key(request)
    message, kind, code = {
        400: ("We could not parse the JSON body of your request.", "invalid_request_error", None),
        401: (
            f"Incorrect API key provided: {key}." if key else "You didn't provide an API key.",
            "invalid_request_error",
            "invalid_api_key" if key else None,
        ),
        404: (f"Invalid URL ({request.method} {request.path})", "invalid_request_error", None),
        429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    }.get(
        status,
        (
            "The server had an error while processing your request. Sorry about that!"
            if status >= 500
            else f"The request was refused with status {status}.",
            "server_error" if status >= 500 else "invalid_request_error",
            None,
        ),
    )
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A local server that speaks the OpenAI wire format.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8399, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=0.2, metavar="S", help="seconds before each answer")
    parser.add_argument("--chunk-delay", type=float, default=0.03, metavar="S", help="seconds before each chunk")
    options = parser.parse_args()
    try:
        provider = Provider(
            host=options.host,
            port=options.port,
            latency_s=options.latency,
            chunk_delay_s=options.chunk_delay,
            record=False,
            on_request=lambda request: print(f"{request.method} {request.path}", flush=True),
        )
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error.strerror}; try --port 0")
    with provider:
        print(f"OPENAI_BASE_URL={provider.base_url} OPENAI_API_KEY=sk-local   (Ctrl-C stops)", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
