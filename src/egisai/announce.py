"""Tells the platform of new identities, in the background: batched, bounded, with backoff, never in the call's way."""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import threading
import urllib.error
import urllib.request
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from opentelemetry.context import attach, get_current, set_value

from .attribution import Sighting
from .guard import Guard, count, log_once

log: Final = logging.getLogger("egisai")

_MAX_WAITING: Final = 10_000  # sightings kept while the platform is away, about 1 KiB each; then the oldest go
_MAX_BATCH: Final = 500  # the platform's limit on one request
_TIMEOUT_S: Final = 10.0
_BACKOFF_S: Final = (1.0, 60.0)
_GATHER_S: Final = 0.2  # new agents come in bursts, at a program's start
_DELIVERING: Final = Guard("announcing agents")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and lose the body: it is an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Announcer:
    """A queue and one daemon thread, started with the first sighting.

    Args:
        base_url: The platform.
        headers: Sent with every request, such as the `Authorization` header.
        labels: `app` and `env`, put on each announcement.
        on_canonical: Called on the thread with what the platform ruled: id to `(id, name)`.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        labels: Mapping[str, str],
        on_canonical: Callable[[dict[str, tuple[str, str]]], None],
        *,
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        self._url = f"{base_url}/v1/agents"
        self._headers = {"Content-Type": "application/json", "User-Agent": "egisai-python", **headers}
        self._labels = dict(labels)
        self._on_canonical = on_canonical
        self._backoff_s = backoff_s
        self._opener = urllib.request.build_opener(NoRedirect)
        self.announced = 0
        self.last_error: str | None = None
        self._start_afresh()
        _forkable.add(self)

    def _start_afresh(self) -> None:
        # Also run in a forked child, which has no thread, and whose parent announces what was waiting.
        self._waiting: deque[Sighting] = deque(maxlen=_MAX_WAITING)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, sighting: Sighting) -> None:
        """Queue an identity. Takes microseconds, never blocks on the network, never raises."""
        if self._stopped.is_set():
            return
        if len(self._waiting) == _MAX_WAITING:
            count("announcement dropped: queue full")
        self._idle.clear()
        self._waiting.append(sighting)
        self._wake.set()
        if self._thread is None and self._starting.acquire(blocking=False):
            self._thread = threading.Thread(target=self._run, name="egisai-announcer", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far was answered; False if that took longer than `timeout_s`."""
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Stop, after `timeout_s` at most. What was not announced is registered by its traffic."""
        if self.last_error is None:
            self.flush(timeout_s)
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def stats(self) -> dict[str, Any]:
        """Counts and the last error, for `egisai.diagnostics()`."""
        return {"announced": self.announced, "waiting": len(self._waiting), "last_error": self.last_error}

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attach(set_value("suppress_instrumentation", True, get_current()))  # our own requests are nobody's spans
        delay_s = self._backoff_s[0]
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            self._stopped.wait(_GATHER_S)
            while self._waiting and not self._stopped.is_set():
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]
                if self._delivered(batch):
                    delay_s = self._backoff_s[0]
                    continue
                self._waiting.extendleft(reversed(batch))
                self._stopped.wait(delay_s * random.uniform(0.5, 1.5))
                delay_s = min(delay_s * 2, self._backoff_s[1])
            if not self._waiting:
                self._idle.set()

    def _delivered(self, batch: list[Sighting]) -> bool:
        """Send; True if there is nothing more to do for this batch, which may also mean that it was refused."""
        body = json.dumps({"agents": [self._announcement(sighting) for sighting in batch]}).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")  # noqa: S310 - http(s) only
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as exc:
            with exc:
                return self._refused(exc.code, len(batch))
        except (OSError, http.client.HTTPException) as exc:
            self.last_error = f"{self._url}: {getattr(exc, 'reason', None) or exc}"
            log_once("cannot announce agents to %s yet; retrying in the background", self._url, level=logging.INFO)
            return False
        except ValueError as exc:
            self.last_error = f"{self._url} answered something that is not JSON: {exc}"
            return self._refused(200, len(batch))
        self.announced += len(batch)
        self.last_error = None
        with _DELIVERING:
            canonical = cast("dict[str, dict[str, str]]", answer.get("canonical") or {})
            if canonical:
                self._on_canonical({old: (new["id"], new["name"]) for old, new in canonical.items()})
        return True

    def _refused(self, status: int, n: int) -> bool:
        if status in (408, 429) or status >= 500:
            self.last_error = f"{self._url} answered {status}"
            return False
        hint = ": check api_key" if status in (401, 403) else ""
        self.last_error = f"{self._url} answered {status}{hint}"
        # The exporter sends the same key to the same platform, and says it louder.
        level = logging.INFO if hint else logging.WARNING
        log_once("%s answered %s to an announcement of agents%s", self._url, status, hint, level=level)
        count(f"announcement refused: {status}", n)
        return True

    def _announcement(self, sighting: Sighting) -> dict[str, Any]:
        identity = sighting.identity
        return {
            "id": identity.id,
            "name": identity.name,
            "source": identity.source,
            "key": sighting.key,
            "fingerprint": sighting.fingerprint,
            **self._labels,
        }


_forkable: weakref.WeakSet[Announcer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for announcer in list(_forkable):
        announcer._start_afresh()  # pyright: ignore[reportPrivateUsage] - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
