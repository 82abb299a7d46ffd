"""The way of a span into the store: receive, check, decode, group, insert, and only then acknowledge.

Requests are decoded in worker threads and handed to one writer thread, which waits a few milliseconds for company and
stores the group with one insert. Every byte of a request that is not answered yet is counted against one budget: when
it is spent, senders are told to come back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from egisai_platform import otlp
from egisai_platform.auth import bearer
from egisai_platform.store import StoreError

if TYPE_CHECKING:
    from egisai_platform.app import Platform
    from egisai_platform.events import Events
    from egisai_platform.metrics import Metrics
    from egisai_platform.registry import Registry

log = logging.getLogger("egisai_platform")

MAX_BODY_BYTES: Final = 20 << 20
"""Of a request as it is sent; the OpenTelemetry Collector's default."""
MAX_DECODED_BYTES: Final = 64 << 20
"""Of a request decompressed; the OpenTelemetry SDK's exporter sends no more."""
MAX_HELD_BYTES: Final = 256 << 20
"""Of all requests not answered yet. Decoded, a request takes a few times its size."""
GROUP_ROWS: Final = 20_000
GROUP_WAIT_S: Final = 0.004
"""How long the first request of a group waits for others. An insert with its fsyncs takes longer than this."""
RETRY_AFTER_S: Final = 2

_PROTOBUF: Final = "application/x-protobuf"
_RPC_CODES: Final = {400: 3, 401: 16, 403: 7, 413: 8, 415: 3, 503: 14}
"""google.rpc.Code for each HTTP status that OTLP clients may see here."""


class RefusedError(Exception):
    """An answer other than 200; whatever the request held is not stored."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Budget:
    """How many bytes may be held at once."""

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, n_bytes: int) -> bool:
        """Takes bytes of the budget, or none of them when there are not so many left."""
        with self._lock:
            if self.held_bytes + n_bytes > self._max_bytes:
                return False
            self.held_bytes += n_bytes
            return True

    def give_back(self, n_bytes: int) -> None:
        """Undoes `take`."""
        with self._lock:
            self.held_bytes -= n_bytes


class Share:
    """One request's part of the budget, given back when its block ends."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._bytes)

    def take(self, n_bytes: int) -> None:
        """Takes more. Raises RefusedError when there is no more to take."""
        if not self._budget.take(n_bytes):
            raise RefusedError(503, "the platform has too much to store at the moment: send this again later")
        self._bytes += n_bytes


class Sink(Protocol):
    """Where rows go: `store.Store`."""

    def insert(self, rows: Sequence[otlp.SpanRow]) -> None: ...


class Writer:
    """The one thread that inserts."""

    def __init__(self, store: Sink, registry: Registry, events: Events, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._events = events
        self._metrics = metrics
        self._queue: queue.SimpleQueue[tuple[otlp.Batch, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="egisai-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether what is submitted will be stored."""
        return self._thread.is_alive()

    def submit(self, batch: otlp.Batch) -> Future[None]:
        """A future that is done when the batch is stored, and fails with StoreError when it is not."""
        future: Future[None] = Future()
        self._queue.put((batch, future))
        return future

    def close(self) -> None:
        """Stores what was submitted, then ends."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            n_rows = len(first[0].rows)
            deadline = time.monotonic() + GROUP_WAIT_S
            while n_rows < GROUP_ROWS:
                try:
                    item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if item is None:
                    over = True
                    break
                group.append(item)
                n_rows += len(item[0].rows)
            self._commit(group)

    def _commit(self, group: Sequence[tuple[otlp.Batch, Future[None]]]) -> None:
        error = self._insert([batch for batch, _ in group])
        if error is not None and len(group) > 1:  # what one request holds must not keep the others from being stored
            for item in group:
                self._commit([item])
            return
        if error is None:
            self._tell([batch for batch, _ in group])
        for _, future in group:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _insert(self, batches: Sequence[otlp.Batch]) -> StoreError | None:
        rows = [row for batch in batches for row in batch.rows]
        started = time.perf_counter()
        try:
            if rows:
                self._store.insert(rows)
        except StoreError as error:
            self._metrics.add("egisai_ingest_insert_failures_total")
            log.error(
                "%d spans of %d requests were not stored and not acknowledged: %s", len(rows), len(batches), error
            )
            return error
        except Exception as error:  # a bug must not end the only thread that stores
            self._metrics.add("egisai_ingest_insert_failures_total")
            log.exception("%d spans of %d requests were not stored and not acknowledged", len(rows), len(batches))
            return StoreError(f"internal error: {type(error).__name__}")
        self._metrics.add("egisai_ingest_inserts_total")
        self._metrics.add("egisai_ingest_insert_seconds_total", time.perf_counter() - started)
        self._metrics.add("egisai_ingest_spans_stored_total", len(rows))
        return None

    def _tell(self, batches: Sequence[otlp.Batch]) -> None:
        """Lets the registry and the watchers know what is stored now."""
        counts: dict[str, int] = {}
        for batch in batches:
            for row in batch.rows:
                counts[row.organisation] = counts.get(row.organisation, 0) + 1
        try:
            self._registry.saw(sighting for batch in batches for sighting in batch.sightings)
        except SQLAlchemyError as error:  # the spans are stored and name their agents; the next ones tell it again
            log.error("the registry could not be updated: %s", error)
        for organisation, count in counts.items():
            self._events.publish(organisation, count)


async def receive(request: Request) -> Response:
    """`POST /v1/traces`."""
    platform: Platform = request.app.state.platform
    try:
        with Share(platform.budget) as share:
            reply = await _store_request(request, platform, share)
        platform.metrics.add("egisai_ingest_requests_total", label=200)
    except ClientDisconnect:
        platform.metrics.add("egisai_ingest_requests_total", label=499)
        return Response(status_code=400)
    except SQLAlchemyError as error:
        log.error("the metadata database did not answer: %s", error)
        platform.metrics.add("egisai_ingest_requests_total", label=503)
        return refused(RefusedError(503, "the metadata database does not answer: send this again later"))
    except RefusedError as refusal:
        platform.metrics.add("egisai_ingest_requests_total", label=refusal.status)
        return refused(refusal)
    return Response(reply, media_type=_PROTOBUF)


def refused(refusal: RefusedError) -> Response:
    """The answer to a request that was not taken, as OTLP wants it: a protobuf `google.rpc.Status`."""
    headers: dict[str, str] = {}
    if refusal.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = otlp.status(_RPC_CODES[refusal.status], refusal.message)
    return Response(body, refusal.status, headers=headers, media_type=_PROTOBUF)


async def ingest_organisation(request: Request) -> str:
    """The organisation of the request's key. Raises RefusedError for no key, a wrong one, or one of another scope."""
    platform: Platform = request.app.state.platform
    key = await run_in_threadpool(platform.auth.key, bearer(request))
    if key is None:
        raise RefusedError(401, "a valid key is required: Authorization: Bearer egis_live_...")
    if not key.may("ingest"):
        raise RefusedError(403, "this key may not send: use a key of scope ingest")
    return key.organisation


async def read_body(request: Request, max_bytes: int, share: Share | None = None) -> bytes:
    """The body, unless it is larger than allowed or than there is room for. Raises RefusedError."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise RefusedError(413, f"the body is over {max_bytes} bytes")
        if share is not None:
            share.take(len(chunk))
        body += chunk
    return bytes(body)


async def _store_request(request: Request, platform: Platform, share: Share) -> bytes:
    organisation = await ingest_organisation(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != _PROTOBUF:
        raise RefusedError(415, f"content-type {content_type[:100]!r} is not supported: send {_PROTOBUF}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity"):
        raise RefusedError(415, f"content-encoding {encoding[:100]!r} is not supported: send gzip or identity")
    body = await read_body(request, MAX_BODY_BYTES, share)
    batch = await run_in_threadpool(_decode, body, encoding == "gzip", organisation, platform, share)
    if batch.rows:
        try:
            await asyncio.wrap_future(platform.writer.submit(batch))
        except StoreError as error:
            raise RefusedError(503, "the spans could not be stored: send them again later") from error
    for reason, count in batch.refused.items():
        platform.metrics.add("egisai_ingest_spans_refused_total", count, label=reason)
    return otlp.response(sum(batch.refused.values()), batch.message)


def _decode(body: bytes, gzipped: bool, organisation: str, platform: Platform, share: Share) -> otlp.Batch:
    try:
        if gzipped:
            body = otlp.gunzip(body, MAX_DECODED_BYTES, share.take)
        return otlp.decode(
            body,
            organisation,
            now_ns=time.time_ns(),
            retention_days=platform.retention_days,
            known=platform.registry.names(organisation).records,
        )
    except otlp.TooLargeError as error:
        raise RefusedError(413, str(error)) from error
    except otlp.MalformedError as error:
        raise RefusedError(400, str(error)) from error
