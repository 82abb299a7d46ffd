"""Tells whoever watches an organisation that new spans are stored, from the writer's thread into the event loop.

For the dashboard: `async for count in state.events.subscribe(organisation)` yields how many spans were stored since
the last turn. A slow subscriber gets one larger number instead of a queue. The iterator ends when the server stops.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Final


class _Subscriber:
    """One watcher: a number to be fetched, and the event that says it changed. Touched on its loop's thread only."""

    __slots__ = ("changed", "count", "loop", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self.changed: Final = asyncio.Event()
        self.count = 0
        self.over = False

    def add(self, count: int) -> None:
        self.count += count
        self.changed.set()

    def end(self) -> None:
        self.over = True
        self.changed.set()


class Events:
    """An in-process broadcaster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[str, set[_Subscriber]] = {}
        self._closed = False

    async def subscribe(self, organisation: str) -> AsyncIterator[int]:
        """Yields the number of newly stored spans whenever there are some. Close it (`aclosing`) to unsubscribe."""
        subscriber = _Subscriber(asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                return
            self._subscribers.setdefault(organisation, set()).add(subscriber)
        try:
            while True:
                await subscriber.changed.wait()
                subscriber.changed.clear()
                if subscriber.over:
                    return
                count, subscriber.count = subscriber.count, 0
                yield count
        finally:
            with self._lock:
                remaining = self._subscribers.get(organisation, set())
                remaining.discard(subscriber)
                if not remaining:
                    self._subscribers.pop(organisation, None)

    def publish(self, organisation: str, count: int) -> None:
        """Says that `count` spans of the organisation can now be read. From any thread; never waits for a watcher."""
        with self._lock:
            for subscriber in self._subscribers.get(organisation, ()):
                if not subscriber.loop.is_closed():
                    subscriber.loop.call_soon_threadsafe(subscriber.add, count)

    def close(self) -> None:
        """Ends every subscription, so that a stopping server need not wait for open pages. From any thread."""
        with self._lock:
            self._closed = True
            for subscribers in self._subscribers.values():
                for subscriber in subscribers:
                    if not subscriber.loop.is_closed():
                        subscriber.loop.call_soon_threadsafe(subscriber.end)
