"""Real servers: in threads of this process for its own applications, as programs for those that a page shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cheroot.wsgi
import uvicorn
import waitress.server
import waitress.wasyncore


@contextmanager
def uvicorn_serving(app: Any, **config: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", **{"lifespan": "off", **config}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def cheroot_serving(app: Any, threads: int) -> Iterator[str]:
    server = cheroot.wsgi.Server(("127.0.0.1", 0), app, numthreads=threads, max=threads)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.bind_addr[1]}"
    finally:
        server.stop()
        thread.join()


@contextmanager
def waitress_serving(app: Any, threads: int) -> Iterator[str]:
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=threads)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.trigger.pull_trigger(lambda: waitress.wasyncore.close_all(server._map))
        thread.join()
        server.task_dispatcher.shutdown()
