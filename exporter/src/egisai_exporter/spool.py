"""A bounded queue of batches, oldest first: who waits, who is being sent, who must make room."""

from __future__ import annotations

import heapq
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from egisai_exporter.store import Batch, Store

log = logging.getLogger("egisai_exporter")

_LOOK_S: Final = 5.0
"""Seconds between two looks at what the other processes of this destination hold."""


class SpoolFull(Exception):  # noqa: N818 # said as operators say it
    """The batch alone is more than the spool may hold."""


class Waiting(NamedTuple):
    batches: int
    spans: int
    bytes: int


class Spool:
    """Batches in `store`, at most `max_bytes` of them together with the other writers of the destination.

    Each writer may use what the others leave free, and always its fair share. Only its own batches are dropped to
    make room, so that every loss is counted by the process that had accepted the spans.
    """

    def __init__(self, store: Store, max_bytes: int) -> None:
        self.store = store
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting: list[Batch] = []  # a heap, oldest first
        self._taken: set[Batch] = set()
        self._bytes = 0  # waiting, taken and being written
        self._spans = 0  # waiting and taken
        self._last_ns = 0
        self._others = (0, 0)
        self._look_at = 0.0

    def put(self, body: bytes, spans: int) -> int:
        """Accept a batch; returns how many older spans were dropped to make room for it.

        Raises:
            SpoolFull: it does not fit, however much is dropped.
            OSError: the system's reason not to store it.
        """
        with self._lock:
            self._last_ns = max(self._last_ns + 1, time.time_ns())
            batch = Batch(self._last_ns, secrets.token_hex(4), spans, len(body))
            dropped = self._make_room(batch.charge)
            self._bytes += batch.charge
        self._delete(*dropped)
        self._write(batch, body)
        return sum(old.spans for old in dropped)

    def take(self) -> Batch | None:
        """The oldest batch, to be given back by `done`, `release` or `replace`."""
        with self._lock:
            if not self._waiting:
                return None
            batch = heapq.heappop(self._waiting)
            self._taken.add(batch)
            return batch

    def release(self, batch: Batch) -> None:
        """Put a taken batch back in its place."""
        with self._lock:
            if batch in self._taken:
                self._taken.remove(batch)
                heapq.heappush(self._waiting, batch)

    def done(self, batch: Batch, *, keep_file: bool = False) -> None:
        """Forget a taken batch: delivered, or given up."""
        if not keep_file:
            self._delete(batch)
        with self._lock:
            if batch in self._taken:
                self._taken.remove(batch)
                self._bytes -= batch.charge
                self._spans -= batch.spans

    def replace(self, batch: Batch, pieces: Sequence[tuple[bytes, int]]) -> None:
        """Put `pieces` (body, spans) in the place of a taken batch. A failed write raises and changes nothing."""
        written: list[Batch] = []
        try:
            for body, spans in pieces:
                piece = Batch(batch.time_ns, secrets.token_hex(4), spans, len(body))
                self.store.write(piece, body)
                written.append(piece)
        except OSError:
            self._delete(*written)
            raise
        with self._lock:
            for piece in written:
                self._push(piece)
                self._bytes += piece.charge
        self.done(batch)

    def read(self, batch: Batch) -> bytes:
        return self.store.read(batch)

    def adopt(self) -> int:
        """Take over what dead processes left; returns the number of its spans."""
        adopted = self.store.adopt()
        with self._lock:
            for batch in adopted:
                self._push(batch)
                self._bytes += batch.charge
            if adopted:
                self._look_at = 0.0
        return sum(batch.spans for batch in adopted)

    def trim(self) -> int:
        """Give back what the other processes need by now; returns the number of spans dropped."""
        with self._lock:
            dropped = self._make_room(0)
        self._delete(*dropped)
        return sum(batch.spans for batch in dropped)

    def waiting(self) -> Waiting:
        with self._lock:
            return Waiting(len(self._waiting) + len(self._taken), self._spans, self._bytes)

    def newest_ns(self) -> int:
        """The time of the last batch there is, to ask `settled` about."""
        with self._lock:
            return self._last_ns

    def settled(self, until_ns: int) -> bool:
        """Whether nothing up to `until_ns` waits any more."""
        with self._lock:
            waits = bool(self._waiting) and self._waiting[0].time_ns <= until_ns
            return not waits and all(batch.time_ns > until_ns for batch in self._taken)

    def close(self) -> None:
        self.store.close()

    def _write(self, batch: Batch, body: bytes) -> None:
        try:
            self.store.write(batch, body)
        except BaseException:
            with self._lock:
                self._bytes -= batch.charge
            raise
        with self._lock:
            self._push(batch)

    def _push(self, batch: Batch) -> None:
        heapq.heappush(self._waiting, batch)
        self._spans += batch.spans
        self._last_ns = max(self._last_ns, batch.time_ns)

    def _make_room(self, size: int) -> list[Batch]:
        """Take from the queue, oldest first, what has to go for `size` more bytes."""
        now = time.monotonic()
        if now >= self._look_at:
            self._others = self.store.others()
            self._look_at = now + _LOOK_S
        used, writers = self._others
        allowed = max(self.max_bytes - used, self.max_bytes // (writers + 1))
        if size > allowed:
            raise SpoolFull(f"a batch of {size} bytes does not fit in {allowed} of {self.max_bytes} bytes")
        dropped: list[Batch] = []
        while self._waiting and self._bytes + size > allowed:
            batch = heapq.heappop(self._waiting)
            self._bytes -= batch.charge
            self._spans -= batch.spans
            dropped.append(batch)
        if size and self._bytes + size > allowed:  # what is left is being sent or written at this moment
            for batch in dropped:
                self._push(batch)
                self._bytes += batch.charge
            raise SpoolFull(
                f"a batch of {size} bytes does not fit in {allowed} bytes, {self._bytes} of them being sent"
            )
        return dropped

    def _delete(self, *batches: Batch) -> None:
        try:
            for batch in batches:
                self.store.delete(batch)
        except OSError as error:  # the spans are dealt with; the files may be sent again by the next process
            log.warning("egisai: cannot remove batches from the spool: %s", error)
