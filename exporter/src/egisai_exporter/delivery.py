"""The thread that sends what the spool holds, oldest first, and what it does about failure.

idle --batch--> sending --2xx--> idle
                   |--Permanent--> dropped, counted ------> idle
                   |--Temporary--> waiting (backoff) --time, or flush--> sending
                   `--Temporary with a delay, Unauthorized--> waiting (held) --time--> sending
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from opentelemetry import context
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage] # the SDK's own processors use it so
)

from egisai_exporter import otlp
from egisai_exporter.counters import Counters, Notices
from egisai_exporter.sender import Permanent, Reply, Sender, Temporary, Unauthorized
from egisai_exporter.spool import Spool
from egisai_exporter.store import Batch, Damaged

log = logging.getLogger("egisai_exporter")

_SWEEP_S: Final = 10.0
"""Seconds between two looks for what dead processes left."""

_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})
"""Errors of reading a file that say nothing about the file."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait after the first failure, and at most; doubled in between, of which the upper half is random."""

    initial_s: float = 1.0
    maximum_s: float = 60.0


class Delivery:
    """Sends the batches of `spool` through `sender` in a daemon thread that starts with the first `wake`."""

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        counters: Counters,
        notices: Notices,
        *,
        endpoint: str,
        timeout_s: float,
        backoff: Backoff,
    ) -> None:
        self._spool, self._sender, self._counters = spool, sender, counters
        self._endpoint, self._timeout_s, self._backoff = endpoint, timeout_s, backoff
        self._notices = notices
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._attempts = 0  # requests begun
        self._failed = 0  # number of the latest attempt that failed temporarily
        self._failing: set[str] = set()  # the kinds of problem met since the last answer
        self._delay_s = backoff.initial_s
        self._retry_at = 0.0  # no attempt before this, unless a flush asks for one
        self._held_until = 0.0  # no attempt before this, whoever asks
        self._sweep_at = 0.0

    def wake(self) -> bool:
        """Tell the thread that there is work, starting it if need be; False when no thread can be started."""
        with self._changed:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name="egisai-exporter", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is exiting, or the system has no thread left
                    return False
                self._thread = thread
            self._changed.notify_all()
            return True

    def retry_in_s(self) -> float | None:
        """Seconds to the next attempt, or None when nothing holds delivery back."""
        wait = self._retry_at - time.monotonic()
        return wait if self._failing and wait > 0 else None

    def flush(self, timeout_s: float, *, once: bool = False) -> bool:
        """Deliver what waits now, ending a backoff; `once` gives up at the first failure.

        True when all of it was delivered. Returns as soon as no attempt is due before the deadline any more.
        """
        deadline = time.monotonic() + timeout_s
        until_ns = self._spool.newest_ns()
        lost = sum(self._counters.dropped().values())
        if not self._spool.settled(until_ns) and not self.wake():
            self._drain(deadline)
        with self._changed:
            before = self._attempts
            while not self._spool.settled(until_ns):
                now = time.monotonic()
                tried = self._failed > before
                if not tried:  # the failure of an attempt that began earlier sets a backoff too
                    self._retry_at = self._held_until
                    self._changed.notify_all()
                hopeless = self._retry_at > deadline or (once and tried)
                if now >= deadline or self._stopping or self._thread is None or hopeless:
                    return False
                self._changed.wait(deadline - now)
        return sum(self._counters.dropped().values()) == lost

    def stop(self, timeout_s: float) -> None:
        """One more attempt, then let go: what is left stays in the spool, for the next process."""
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s, once=True)
        with self._changed:
            self._stopping = True
            thread = self._thread
            self._changed.notify_all()
        if thread is None:
            self._close()
        else:
            # The thread closes the spool. If it is amid a request at the deadline it keeps the lock, so that nobody
            # adopts and sends a batch that may be arriving; the end of the process lets go of it.
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with _suppressed():
            while not self._stopping:
                self._guarded_sweep()
                batch = self._next()
                if batch is not None:
                    self._guarded_deliver(batch, self._timeout_s)
        self._close()

    def _next(self) -> Batch | None:
        """The batch to send now, or None after waiting for a reason to look again."""
        with self._changed:
            if self._stopping:
                return None
            now = time.monotonic()
            batch = self._spool.take() if now >= self._retry_at else None
            if batch is not None:
                self._attempts += 1
            else:
                due = min(self._sweep_at, self._retry_at) if self._retry_at > now else self._sweep_at
                self._changed.wait(max(0.0, due - now))
            return batch

    def _close(self) -> None:
        self._sender.close()
        self._spool.close()
        if self._spool.store.location is None:
            self._counters.drop("memory_lost", self._spool.waiting().spans)

    def _drain(self, deadline: float) -> None:
        """Deliver in the caller's thread: all that is left when the interpreter starts no more threads."""
        with _suppressed():
            failed = self._failed
            while self._failed == failed and (left := deadline - time.monotonic()) > 0:
                batch = self._spool.take() if time.monotonic() >= self._held_until else None
                if batch is None:
                    return
                self._attempts += 1
                # Half for the connection, half for the answer: requests applies its timeout to each.
                self._guarded_deliver(batch, min(self._timeout_s, left / 2))

    def _guarded_sweep(self) -> None:
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + _SWEEP_S
        try:
            self._counters.add("adopted", self._spool.adopt())
            self._counters.drop("spool_full", self._spool.trim())
        except OSError as error:
            self._notices.say("sweep", logging.WARNING, "egisai: cannot look through the spool: %s", error)

    def _guarded_deliver(self, batch: Batch, timeout_s: float) -> None:
        try:
            self._deliver(batch, timeout_s)
        except Exception:  # noqa: BLE001 # our bug must neither end the thread nor lose the batch
            self._notices.say("bug", logging.ERROR, "egisai: delivery failed in an unforeseen way", exc_info=True)
            self._put_off(batch, Temporary("bug", "unforeseen failure, see the log"))
        finally:
            with self._changed:
                self._changed.notify_all()

    def _deliver(self, batch: Batch, timeout_s: float) -> None:
        body = self._read(batch)
        if body is None:
            return
        try:
            reply = self._sender.send(body, timeout_s)
        except Temporary as error:
            self._put_off(batch, error)
        except Permanent as error:
            self._give_up(batch, body, error)
        else:
            self._delivered(batch, reply)

    def _read(self, batch: Batch) -> bytes | None:
        try:
            return self._spool.read(batch)
        except FileNotFoundError:
            reason, why = "missing", "its file was removed"
        except Damaged as error:
            reason, why = "corrupt", str(error)
        except OSError as error:
            if error.errno in _PASSING:
                self._put_off(batch, Temporary("disk", f"cannot read the spool: {error.strerror}"))
                return None
            reason, why = disk_reason(error), str(error)
        self._notices.say(reason, logging.ERROR, "egisai: %d spans are lost: %s", batch.spans, why)
        self._counters.drop(reason, batch.spans)
        self._spool.done(batch, keep_file=reason.startswith("disk_"))
        return None

    def _delivered(self, batch: Batch, reply: Reply) -> None:
        rejected = min(reply.rejected, batch.spans)
        if rejected or reply.message:
            self._notices.say(
                "rejected", logging.WARNING, "egisai: %s took a batch but for %d of %d spans: %s",
                self._endpoint, rejected, batch.spans, reply.message or "no reason given",
            )  # fmt: skip
        self._counters.add("delivered", batch.spans - rejected)
        self._counters.drop("rejected", rejected)
        self._spool.done(batch)
        self._answered()

    def _give_up(self, batch: Batch, body: bytes, error: Permanent) -> None:
        self._answered()
        if error.status == 413 and batch.spans > 1 and self._cut(batch, body):
            return
        reason = f"refused_{error.status}"
        self._counters.last_error = str(error)
        self._notices.say(
            reason, logging.ERROR, "egisai: %s refuses spans for good: %s; %d are dropped (counted as %s)",
            self._endpoint, error, batch.spans, reason,
        )  # fmt: skip
        self._counters.drop(reason, batch.spans)
        self._spool.done(batch)

    def _cut(self, batch: Batch, body: bytes) -> bool:
        """Replace a batch that is too large by parts; False when it cannot be cut."""
        try:
            parts = otlp.halves(body)
        except ValueError:
            return False
        if len(parts) < 2:
            return False
        try:
            self._spool.replace(batch, parts)
        except OSError as error:
            self._put_off(batch, Temporary("disk", f"cannot cut a batch in two: {error.strerror}"))
        return True

    def _put_off(self, batch: Batch, error: Temporary) -> None:
        self._spool.release(batch)
        pause = self._delay_s * random.uniform(0.5, 1.0)
        self._delay_s = min(self._delay_s * 2, self._backoff.maximum_s)
        hold = self._backoff.maximum_s if isinstance(error, Unauthorized) else error.retry_after_s
        with self._changed:
            now = time.monotonic()
            self._failed = self._attempts
            self._failing.add(error.problem)
            self._held_until = now + hold
            self._retry_at = now + max(pause, hold)
        self._counters.last_error = str(error)
        self._report(error)

    def _report(self, error: Temporary) -> None:
        count = self._spool.waiting().batches
        kept = f"{count} {'batch is' if count == 1 else 'batches are'} kept {_where(self._spool)}"
        if isinstance(error, Unauthorized):
            self._notices.say(
                error.problem, logging.ERROR,
                "egisai: %s does not accept the API key (%s); set EGISAI_API_KEY (or api_key) to a key with the ingest "
                "scope and restart; %s meanwhile", self._endpoint, error, kept,
            )  # fmt: skip
        else:
            level, what = logging.WARNING, "cannot reach" if error.problem == "unreachable" else "cannot deliver to"
            self._notices.say(
                error.problem, level, "egisai: %s %s (%s); %s, retrying", what, self._endpoint, error, kept
            )

    def _answered(self) -> None:
        """The receiver deals with our batches (again)."""
        with self._changed:
            failing, self._failing = self._failing, set()
            self._delay_s = self._backoff.initial_s
            self._retry_at = self._held_until = 0.0
        if failing:
            self._notices.over(*failing)
            waiting = self._spool.waiting()
            log.info("egisai: delivering to %s again; batches that still wait: %d", self._endpoint, waiting.batches)


def disk_reason(error: OSError) -> str:
    """The name under which an error of the system is counted: its own (`disk_ENOSPC`)."""
    return f"disk_{errno.errorcode.get(error.errno or 0, 'unknown')}"


def _where(spool: Spool) -> str:
    return f"on disk in {spool.store.location}" if spool.store.location is not None else "in memory"


@contextlib.contextmanager
def _suppressed() -> Generator[None, None, None]:
    """No spans about our own requests, which would become batches, and so on."""
    token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        context.detach(token)
