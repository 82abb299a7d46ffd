"""Tells whoever watches an organisation that new spans are stored, from the writer's thread into the event loop.

For the dashboard: `with state.events.subscribe(organisation) as arrivals: async for count in arrivals` yields how many
spans were stored since the last turn. A slow subscriber gets one larger number instead of a queue. The iterator ends
when the server stops.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
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

    async def counts(self) -> AsyncIterator[int]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            if self.over:
                return
            count, self.count = self.count, 0
            yield count


class Events:
    """An in-process broadcaster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[str, set[_Subscriber]] = {}
        self._published: dict[str, int] = {}
        self._closed = False

    def published(self, organisation: str) -> int:
        """How many spans of the organisation were told of since the server started."""
        with self._lock:
            return self._published.get(organisation, 0)

    @contextmanager
    def subscribe(self, organisation: str) -> Generator[AsyncIterator[int], None, None]:
        """The numbers of newly stored spans, of every one published from when the block is entered until it is left."""
        subscriber = _Subscriber(asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                subscriber.end()
            else:
                self._subscribers.setdefault(organisation, set()).add(subscriber)
        try:
            yield subscriber.counts()
        finally:
            with self._lock:
                remaining = self._subscribers.get(organisation, set())
                remaining.discard(subscriber)
                if not remaining:
                    self._subscribers.pop(organisation, None)

    def publish(self, organisation: str, count: int) -> None:
        """Says that `count` spans of the organisation can now be read. From any thread; never waits for a watcher."""
        with self._lock:
            self._published[organisation] = self._published.get(organisation, 0) + count
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
