"""A gRPC server that does what `wire.Wire` does: it is held, broken and refused by the same hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.instrumentation.wire import Reply, Request, Wire


class GrpcWire(Wire):
    """A subclass adds its service to `serve`'s server, with each method through `unary` or `stream`."""

    def __init__(self) -> None:
        import grpc

        self.hooks, self.requests, self.received = [], [], []
        self.on_request = None
        self.record = True
        self.stopping = threading.Event()
        self._count, self._lock = 0, threading.Lock()
        self._grpc_server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self.serve(self._grpc_server)
        self.url = f"http://127.0.0.1:{self._grpc_server.add_insecure_port('127.0.0.1:0')}"
        self._grpc_server.start()

    def serve(self, server: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.stopping.set()
        self._grpc_server.stop(0).wait()

    def unary(self, answer: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        """A method that answers with one message."""

        def handle(request: Any, context: Any) -> Any:
            [said] = self._exchange(request, context, [answer])
            return said

        return handle

    def stream(self, answers: Callable[[Any], list[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        """A method that answers with several."""

        def handle(request: Any, context: Any) -> Iterator[Any]:
            yield from self._exchange(request, context, [lambda _, each=each: each for each in answers(request)])

        return handle

    def _exchange(self, message: Any, context: Any, answers: list[Callable[[Any], Any]]) -> Iterator[Any]:
        request = self._receive("POST", "/", {}, message)
        context.add_callback(lambda: self._ended(request))
        reply = self._reply(request)
        if reply.status is not None:
            self._abort(request, context, reply.status)
        for index, answer in enumerate(answers):
            if index == reply.break_after:
                self._abort(request, context, 503)
            self._wait_if_held(reply, index, context)
            if index == len(answers) - 1:
                request.outcome = "sent"
            yield answer(message)

    def _ended(self, request: Request) -> None:
        request.outcome = request.outcome or "client left"
        request.finished.set()

    def _abort(self, request: Request, context: Any, status: int) -> None:
        import grpc

        codes = {404: grpc.StatusCode.NOT_FOUND, 429: grpc.StatusCode.RESOURCE_EXHAUSTED}
        request.outcome = "broken"
        context.abort(codes.get(status, grpc.StatusCode.UNAVAILABLE), f"refused with {status}")

    def _wait_if_held(self, reply: Reply, index: int, context: Any) -> None:
        if reply.hold_until is not None and index == reply.hold_chunk:
            while context.is_active() and not self.stopping.is_set() and not reply.hold_until.wait(0.01):
                pass
