"""The live stream: tells an open page that calls of its organisation arrived, and that the server is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from egisai_platform.auth import current_viewer
from egisai_platform.dashboard.page import Ask, begin, finish
from egisai_platform.events import Events

HEARTBEAT_S: Final = 15.0
MIN_GAP_S: Final = 0.5
"""Between two messages: however much arrives, an open page costs this little. Counts add up meanwhile."""


async def events(request: Request) -> Response:
    """Answer with server-sent events: `calls` with the number of spans newly stored, and comments as heartbeat."""
    ask = await run_in_threadpool(begin, request)
    if isinstance(ask, Response):
        return finish(Response("Log in again.", 401, media_type="text/plain"))
    response = StreamingResponse(_stream(ask), media_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return finish(response)


async def _stream(ask: Ask) -> AsyncIterator[bytes]:
    events: Events = ask.request.app.state.platform.events
    with events.subscribe(ask.organisation) as arrivals:
        # Hello comes when we listen already, with what was told before: a page that is older than that asks again.
        yield b"retry: 2000\nevent: hello\ndata: %d\n\n" % events.published(ask.organisation)
        arriving = asyncio.ensure_future(_next(arrivals))
        try:
            while True:
                await asyncio.wait((arriving,), timeout=HEARTBEAT_S)
                viewer = await run_in_threadpool(current_viewer, ask.request)
                if viewer is None or ask.organisation not in (tuple(viewer.organisations) or ("default",)):
                    return  # logged out, or the key was revoked
                if not arriving.done():
                    yield b": still here\n\n"
                    continue
                number = arriving.result()
                if number is None:  # the server stops
                    return
                yield b"event: calls\ndata: %d\n\n" % number
                await asyncio.sleep(MIN_GAP_S)
                arriving = asyncio.ensure_future(_next(arrivals))
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)


async def _next(arrivals: AsyncIterator[int]) -> int | None:
    """Return the next number of arrivals, or None when there will be none."""
    async for number in arrivals:
        return number
    return None
