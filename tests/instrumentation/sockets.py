"""A local websocket server that plays a provider: it hears messages, and says what a test has it say."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("websockets", "13")

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

Say = Callable[..., None]
Play = Callable[[dict[str, Any], Say], None]
"""Takes a message, and says any number of answers; raising `Cut` cuts the connection."""


class Cut(Exception):  # noqa: N818 - it reads as what happens
    """The connection is cut in the middle."""


class SocketWire:
    """Listens on loopback. `opens`: what is said first, unasked."""

    def __init__(self, play: Play, *opens: dict[str, Any]) -> None:
        self.play = play
        self.opens = opens
        self.heard: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None)
        self.port: int = self._server.socket.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.heads.append(f"{connection.request.path} {dict(connection.request.headers.raw_items())}")

        def say(*messages: dict[str, Any]) -> None:
            for message in messages:
                connection.send(json.dumps(message))

        try:
            say(*self.opens)
            for message in connection:
                self.heard.append(json.loads(message))
                self.play(self.heard[-1], say)
        except Cut:
            connection.socket.shutdown(socket.SHUT_RDWR)  # which also ends the reading of it, in another thread
        except ConnectionClosed:
            return

    def __enter__(self) -> SocketWire:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
