"""A platform of a hundred lines: takes announcements, and answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Platform:
    """Listens on `url`. `hold` cleared: requests wait. `status`: answered to every request, while it is set."""

    def __init__(self, port: int = 0) -> None:
        self.agents: list[dict[str, Any]] = []
        self.requests: list[dict[str, str]] = []
        self.canonical: dict[str, dict[str, str]] = {}
        self.status: list[int] = []
        self.version: int | None = None
        self.rulings: list[dict[str, Any]] = []
        """Answers to the next questions; what has none is told that there is nothing new."""
        self.asked: list[str] = []
        self.answered = 0
        self.arrived = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self._changed = threading.Condition()
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with platform._changed:
                    answer = platform.rulings.pop(0) if platform.rulings else None
                if answer is None:
                    answer = {"version": int(self.path.partition("since=")[2]), "canonical": {}, "more": False}
                reply = json.dumps(answer).encode()
                self.send_response(answer.get("status", 200))
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
                with platform._changed:
                    platform.asked.append(self.path)
                    platform._changed.notify_all()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                platform.arrived.set()
                platform.hold.wait(30)
                platform.requests.append({name.lower(): value for name, value in self.headers.items()})
                status = platform.status.pop(0) if platform.status else 200
                reply = b"{}"
                if status == 200 and self.path == "/v1/agents":
                    agents = json.loads(body)["agents"]
                    known = {agent["id"] for agent in agents}
                    answer: dict[str, Any] = {"canonical": {i: a for i, a in platform.canonical.items() if i in known}}
                    if platform.version is not None:
                        answer["version"] = platform.version
                    reply = json.dumps(answer).encode()
                    with platform._changed:
                        platform.agents += agents
                        platform._changed.notify_all()
                self.send_response(status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
                platform.answered += 1

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None: ...  # a client that left

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait_for(self, name: str, timeout_s: float) -> dict[str, Any]:
        """The announcement of the agent of that name."""

        def found() -> list[dict[str, Any]]:
            return [agent for agent in self.agents if agent["name"] == name]

        with self._changed:
            assert self._changed.wait_for(found, timeout_s), [agent["name"] for agent in self.agents]
            return found()[0]

    def wait_for_question(self, n: int, timeout_s: float = 10) -> list[str]:
        """The first n questions for rulings."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= n, timeout_s), self.asked
            return self.asked[:n]

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
