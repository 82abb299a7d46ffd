"""A server that sends the same head each time, for clients whose results or errors carry it."""

from __future__ import annotations

from tests.instrumentation.wire import Wire, _Handler


class _Plain(_Handler):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword in ("content-type", "content-length", "transfer-encoding", "connection"):
            super().send_header(keyword, value)


class PlainWire(Wire):
    def __init__(self) -> None:
        super().__init__()
        self._server.RequestHandlerClass = _Plain
