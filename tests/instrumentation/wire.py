"""Local servers that speak providers' wire formats: what all have in common, so that each is a few dozen lines.

    class MyWire(Wire):
        stream_type = "application/x-ndjson"

        def answer(self, request: Request) -> bytes | list[bytes]:
            ...  # the whole answer, or a stream's chunks as they go over the wire

Everything else is `examples/provider.py`'s: `requests`, `hooks` (`fail`, `break_stream`, `hold`, `replay`), connections
that are really kept, cut and left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import provider
from provider import Hook, Provider, Reply, Request, break_stream, fail, hold, replay

__all__ = ["Hook", "Refused", "Reply", "Request", "Wire", "break_stream", "fail", "hold", "replay"]


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """Raised by `Wire.answer`: an error of this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Wire(Provider):
    """A provider that answers in its own wire format, the same every time."""

    stream_type = "text/event-stream"
    """Content type of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.url = self.azure_endpoint
        """Scheme, host and port; no path."""
        self.received: list[bytes] = []
        """Each request's head and body as bytes."""
        self._server.RequestHandlerClass = _Handler

    def answer(self, request: Request) -> bytes | list[bytes]:
        """The answer to a request: whole, or the chunks of a stream. May raise `Refused`."""
        raise NotImplementedError

    def error(self, status: int) -> bytes:
        """The body of an error, in the provider's format."""
        return json.dumps({"error": {"message": f"refused with {status}"}}).encode()

    def split(self, body: bytes) -> list[bytes]:
        """A recorded stream's body, chunk by chunk, with nothing changed."""
        return provider._split_events(body)


class _Handler(provider._Handler):
    def _exchange(self, raw: bytes) -> None:
        self._wire.received.append(self.requestline.encode() + b"\r\n" + self.headers.as_bytes() + raw)
        super()._exchange(raw)

    @property
    def _wire(self) -> Wire:
        assert isinstance(self.server.provider, Wire)
        return self.server.provider

    def _answer(self, request: Request, reply: Reply) -> None:
        if reply.body is not None:
            if reply.content_type.startswith(self._wire.stream_type):
                self._send_stream(request, reply, self._wire.split(reply.body))
            else:
                self._send(request, reply, reply.body)
            return
        status = reply.status
        if status is None:
            try:
                answer = self._wire.answer(request)
            except Refused as refused:
                status = refused.status
            else:
                if isinstance(answer, bytes):
                    self._send(request, reply, answer)
                else:
                    self._send_stream(request, reply, answer)
                return
        self._send(request, Reply(status, headers=reply.headers), self._wire.error(status))

    def _send_head(self, request: Request, reply: Reply, content_type: str, extra: Mapping[str, str]) -> None:
        is_stream = content_type.startswith("text/event-stream")
        super()._send_head(request, reply, self._wire.stream_type if is_stream else content_type, extra)


def ndjson(*chunks: Mapping[str, Any]) -> list[bytes]:
    """Chunks as lines of JSON."""
    return [json.dumps(chunk).encode() + b"\n" for chunk in chunks]


def sse(*chunks: Mapping[str, Any], done: bool = True, named: bool = False) -> list[bytes]:
    """Chunks as server-sent events: `named` by their `type`, and with OpenAI's `[DONE]` at the end if `done`."""
    events = [
        (b"event: %b\n" % chunk["type"].encode() if named else b"") + b"data: %b\n\n" % json.dumps(chunk).encode()
        for chunk in chunks
    ]
    return [*events, b"data: [DONE]\n\n"] if done else events
