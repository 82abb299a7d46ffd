"""A scope of its own for each request, where the server does not give one.

ASGI servers run each request in a task of its own, and servers on `ThreadPoolExecutor` (gunicorn's gthread) are covered
by `pools`. A WSGI server with worker threads of its own (waitress, cheroot, mod_wsgi) reuses them as they are: what one
request sets there is still set when the next one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .context import context

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WSGIMiddleware:
    """`app.wsgi_app = egisai.middleware.WSGIMiddleware(app.wsgi_app)`: what a request sets ends with it.

    Covers the whole response, streamed bodies too, whose chunks are made in the request's context and sent outside it.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    @context()
    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        body = self._app(environ, start_response)
        try:
            yield from body
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
