"""EgisExporter: a span exporter for which accepted means durable."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from egisai_exporter import otlp, settings
from egisai_exporter.counters import Counters, Notices
from egisai_exporter.delivery import Backoff, Delivery, disk_reason
from egisai_exporter.sender import HttpSender
from egisai_exporter.settings import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S
from egisai_exporter.spool import Spool, SpoolFull
from egisai_exporter.store import MEMORY_MAX_BYTES, Store, open_store

log = logging.getLogger("egisai_exporter")

Prepare = Callable[[Sequence[ReadableSpan]], Sequence[ReadableSpan]]
"""What other distributions do to spans before they leave: entry points of the group `egisai_exporter.prepare`."""


class EgisExporter(SpanExporter):
    """Sends spans over OTLP/HTTP; what `export` accepted survives the death of the process and is sent by the next.

    Args:
        endpoint: Base URL of the platform, or its full /v1/traces URL. Default: EGISAI_BASE_URL.
        api_key: Sent as `Authorization: Bearer`. Default: EGISAI_API_KEY.
        headers: More HTTP headers, e.g. for a gateway.
        spool_dir: Where batches wait. Default: EGISAI_SPOOL_DIR, else egisai/spool in the user's state directory.
        max_bytes: Bytes on disk for this destination, over all processes; the oldest batches go first.
        timeout_s: Seconds to wait for a connection, and for an answer.

    Raises:
        ValueError: the configuration is wrong; says which setting, its value and what is allowed.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        _backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings.read(endpoint, api_key, headers, spool_dir, max_bytes, timeout_s)
        self._backoff = _backoff or Backoff()
        self._preparing: list[Prepare] = [found.load() for found in entry_points(group="egisai_exporter.prepare")]
        self._metric = self._create_metrics()
        self._shut_down = False
        self._build(open_store(self._settings.spool_dir, self._settings.destination))
        if self._left_behind():
            self._delivery.wake()  # do not wait for the first span to send what an earlier process left
        _after_fork_in_child(self)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Accept a batch by making it durable. SUCCESS: it is on disk. FAILURE: what is missing was counted."""
        self._ensure_own_process()
        if self._shut_down:
            self._counters.drop("shut_down", len(spans))
            self._notices.say("shut_down", logging.WARNING, "egisai: spans come after shutdown and are dropped")
            return SpanExportResult.FAILURE
        try:
            for prepare in self._preparing:
                spans = prepare(spans)
        except Exception:  # noqa: BLE001 - said and counted: unprepared, they may tell what must not be told
            self._counters.drop("not_prepared", len(spans))
            self._notices.say("not_prepared", logging.ERROR, "egisai: spans cannot be prepared and are dropped")
            return SpanExportResult.FAILURE
        bodies, bad = otlp.encode(spans)
        self._counters.drop("not_encodable", bad)
        accepted = [self._accept(body, count) for body, count in bodies]
        if any(accepted):
            self._delivery.wake()
        return SpanExportResult.SUCCESS if all(accepted) and not bad else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Deliver what waits now, at once. True only if all of it was delivered before the deadline."""
        self._ensure_own_process()
        return self._delivery.flush(timeout_millis / 1000)

    # Keyword only on purpose: BatchSpanProcessor looks for a positional `timeout_millis` and, finding it, passes its
    # own 30 seconds; a program's exit is not ours to hold up for so long.
    def shutdown(self, *, timeout_millis: float = 2_000) -> None:
        """One more attempt to deliver, bounded in time; the rest stays on disk. Nothing is accepted afterwards."""
        self._ensure_own_process()
        with self._closing:
            already, self._shut_down = self._shut_down, True
        if not already:
            self._delivery.stop(timeout_millis / 1000)

    def stats(self) -> dict[str, Any]:
        """What became of the spans of this process, as plain data."""
        waiting = self._spool.waiting()
        return {
            "endpoint": self._settings.endpoint,
            "spool_dir": self._spool.store.location,
            "accepted": self._counters.count("accepted"),
            "adopted": self._counters.count("adopted"),
            "delivered": self._counters.count("delivered"),
            "dropped": self._counters.dropped(),
            "waiting_batches": waiting.batches,
            "waiting_spans": waiting.spans,
            "waiting_bytes": waiting.bytes,
            "retry_in_s": self._delivery.retry_in_s(),
            "last_error": self._counters.last_error,
        }

    def _accept(self, body: bytes, spans: int) -> bool:
        try:
            made_room = self._spool.put(body, spans)
        except SpoolFull as error:
            return self._refuse("spool_full", spans, str(error))
        except OSError as error:
            return self._refuse(disk_reason(error), spans, str(error))
        self._counters.add("accepted", spans)
        if made_room:
            self._refuse("spool_full", made_room, f"the oldest made room, the limit is {self._spool.max_bytes} bytes")
        return True

    def _refuse(self, reason: str, spans: int, why: str) -> bool:
        self._counters.drop(reason, spans)
        self._counters.last_error = why
        message = "egisai: %d spans are dropped (counted as %s): %s"
        self._notices.say(reason, logging.ERROR, message, spans, reason, why)
        return False

    def _left_behind(self) -> bool:
        try:
            return self._spool.store.others()[0] > 0
        except OSError:
            return True  # the thread will look again, and say what is wrong

    def _build(self, store: Store) -> None:
        """Everything that belongs to one process."""
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._counters = Counters(self._metric)
        self._notices = Notices()
        limit = self._settings.max_bytes
        self._spool = Spool(store, limit if store.location is not None else min(limit, MEMORY_MAX_BYTES))
        self._delivery = Delivery(
            self._spool,
            HttpSender(self._settings),
            self._counters,
            self._notices,
            endpoint=self._settings.endpoint,
            timeout_s=self._settings.timeout_s,
            backoff=self._backoff,
        )

    def _rebuild(self) -> None:
        self._spool.store.abandon()
        self._build(self._spool.store)

    def _ensure_own_process(self) -> None:
        """Notice a fork by something that runs no Python hooks (uWSGI)."""
        if os.getpid() != self._pid:
            self._rebuild()

    def _create_metrics(self) -> metrics.Counter:
        meter = metrics.get_meter("egisai_exporter")
        this = weakref.ref(self)
        where = {"server.address": urlsplit(self._settings.endpoint).hostname or ""}

        def waiting(_: CallbackOptions) -> Iterable[Observation]:
            exporter = this()
            return () if exporter is None else (Observation(exporter._spool.waiting().spans, where),)

        meter.create_observable_gauge("egisai.exporter.waiting", [waiting], "{span}", "Spans that wait to be delivered")
        return meter.create_counter("egisai.exporter.spans", "{span}", "Spans by what became of them")


def _after_fork_in_child(exporter: EgisExporter) -> None:
    """Give a forked child an exporter of its own: the parent's thread, locks and batches are not the child's."""
    if hasattr(os, "register_at_fork"):
        rebuild = weakref.WeakMethod(exporter._rebuild)  # pyright: ignore[reportPrivateUsage]

        def in_child() -> None:
            method = rebuild()
            if method is not None:
                method()

        os.register_at_fork(after_in_child=in_child)
