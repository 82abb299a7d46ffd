"""Tells the platform of new identities and hears what it rules, in the background: never in the call's way.

Announcements are batched, bounded and retried with backoff. Once one was answered, the platform is asked now and then
what was ruled since; a process that made no call asks nothing. One thread does all of it, and writes the cache.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from opentelemetry.context import attach, get_current, set_value

from .attribution import Sighting
from .cache import Cache
from .guard import Guard, count, log_once

log: Final = logging.getLogger("egisai")

_MAX_WAITING: Final = 10_000  # sightings kept while the platform is away, about 1 KiB each; then the oldest go
_MAX_BATCH: Final = 500  # the platform's limit on one request
_TIMEOUT_S: Final = 10.0
_BACKOFF_S: Final = (1.0, 60.0)
_GATHER_S: Final = 0.2  # new agents come in bursts, at a program's start
_POLL_S = 60.0  # an operator who merged two agents looks again a minute later
_SAVE_S = 5.0  # the cache is written at most this often, and at the end
_MAX_ANSWER_BYTES: Final = 16 << 20
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
        on_canonical: Called on the thread with what the platform ruled: id to `(id, name)`, and whether what it ruled
            before does not hold any more.
        cache: Where to begin, and where what is learnt is kept.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        labels: Mapping[str, str],
        on_canonical: Callable[[dict[str, tuple[str, str]], bool], None],
        cache: Cache | None = None,
        *,
        backoff_s: tuple[float, float] = _BACKOFF_S,
        poll_s: float | None = None,
    ) -> None:
        self._url = f"{base_url}/v1/agents"
        self._headers = {"Content-Type": "application/json", "User-Agent": "egisai-python", **headers}
        self._labels = dict(labels)
        self._on_canonical = on_canonical
        self._cache = cache
        self._backoff_s = backoff_s
        self._poll_s = _POLL_S if poll_s is None else poll_s
        self._heard: tuple[int, int] | None = None
        if cache is not None and cache.version is not None:
            self._heard = cache.version, cache.version
        self._opener = urllib.request.build_opener(NoRedirect)
        self.announced = 0
        self.rulings = 0
        self.last_poll_s: float | None = None
        self.last_error: str | None = None
        self._is_afresh = False
        self._polls = True
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
        self._poll_at: float | None = None
        self._save_at = 0.0

    def put(self, sighting: Sighting) -> None:
        """Queue an identity. Takes microseconds, never blocks on the network, never raises."""
        if self._stopped.is_set():
            return
        if len(self._waiting) == _MAX_WAITING:
            count("announcement dropped: queue full")
        self._waiting.append(sighting)
        self._idle.clear()
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
        cache = self._cache
        return {
            "announced": self.announced,
            "waiting": len(self._waiting),
            "last_error": self.last_error,
            "rulings": self.rulings,
            "version": None if self._heard is None else self._heard[1],
            "last_poll_s": self.last_poll_s,
            "cache": None if cache is None or cache.path is None else str(cache.path),
            "cache_error": None if cache is None else cache.last_error,
        }

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attach(set_value("suppress_instrumentation", True, get_current()))  # our own requests are nobody's spans
        delay_s = self._backoff_s[0]
        while not self._stopped.is_set():
            if self._wake.wait(self._pause_s()):
                self._wake.clear()
                self._stopped.wait(_GATHER_S)
            while self._waiting and not self._stopped.is_set():
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]
                if self._delivered(batch):
                    delay_s = self._backoff_s[0]
                    continue
                self._waiting.extendleft(reversed(batch))
                self._save()
                self._stopped.wait(delay_s * random.uniform(0.5, 1.5))
                delay_s = min(delay_s * 2, self._backoff_s[1])
            if self._poll_at is not None and self._poll_at <= time.monotonic():
                self._poll()
            self._save()
            if not self._waiting:
                self._idle.set()
        self._save_at = 0.0
        self._save()

    def _pause_s(self) -> float | None:
        """How long there is nothing to do, unless there comes an agent; None without end."""
        times = [] if self._poll_at is None else [self._poll_at]
        if self._cache is not None and self._cache.is_due:
            times.append(self._save_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _delivered(self, batch: list[Sighting]) -> bool:
        """Send; True if there is nothing more to do for this batch, which may also mean that it was refused."""
        body = json.dumps({"agents": [self._announcement(sighting) for sighting in batch]}).encode()
        answer = self._asked(self._url, body)
        if answer is None:
            log_once("cannot announce agents to %s yet; retrying in the background", self._url, level=logging.INFO)
            return False
        if isinstance(answer, int):
            return self._refused(answer, len(batch))
        self.announced += len(batch)
        with _DELIVERING:
            self._hear(answer, False)
            version = answer.get("version")  # none of an older platform, which is not asked what it ruled
            if isinstance(version, int) and self._heard is None:
                self._heard = version, version
        if self._heard is not None and self._poll_at is None and self._polls:
            self._poll_later()
        return True

    def _poll(self) -> None:
        """Ask what was ruled since."""
        self._poll_later()
        more = True
        while more and self._heard is not None and not self._stopped.is_set():
            since, heard = self._heard
            url = f"{self._url}/rulings?since={heard}"
            answer = self._asked(url, None)
            if answer == 404:  # an older platform
                self._polls, self._poll_at = False, None
            if answer is None or isinstance(answer, int):
                if answer not in (None, 404):
                    self.last_error = f"{url} answered {answer}"
                return
            more = False
            with _DELIVERING:
                version = int(answer["version"])
                is_restored = version < heard  # of an older backup: what it ruled since then never was
                self._hear(answer, is_restored)
                self._is_afresh = self._is_afresh or is_restored
                self._heard = (version if is_restored else since), version
                more = bool(answer.get("more")) and version != heard
        self.last_poll_s = time.time()

    def _poll_later(self) -> None:
        self._poll_at = time.monotonic() + self._poll_s * random.uniform(0.75, 1.25)

    def _hear(self, answer: dict[str, Any], is_afresh: bool) -> None:
        canonical = cast("dict[str, dict[str, str]]", answer.get("canonical") or {})
        if canonical or is_afresh:
            self.rulings += len(canonical)
            self._on_canonical({old: (new["id"], new["name"]) for old, new in canonical.items()}, is_afresh)

    def _save(self) -> None:
        if self._cache is None or not self._cache.is_due or time.monotonic() < self._save_at:
            return
        self._save_at = time.monotonic() + _SAVE_S
        with _DELIVERING:
            since = self._cache.save(self._heard, afresh=self._is_afresh)
            self._is_afresh = False
            if self._heard is not None and since is not None and since < self._heard[1]:
                self._heard = since, since

    def _asked(self, url: str, body: bytes | None) -> dict[str, Any] | int | None:
        """The answer, else the status of a refusal, else None where nobody answered; the error is noted."""
        method = "GET" if body is None else "POST"
        request = urllib.request.Request(url, body, self._headers, method=method)  # noqa: S310 - http(s) only
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                answer = json.loads(reply.read(_MAX_ANSWER_BYTES))
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        except (OSError, http.client.HTTPException) as exc:
            self.last_error = f"{url}: {getattr(exc, 'reason', None) or exc}"
            return None
        except ValueError as exc:
            self.last_error = f"{url} answered something that is not JSON: {exc}"
            return 200
        self.last_error = None
        return cast("dict[str, Any]", answer)

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
            **({} if sighting.sketch is None else {"sketch": sighting.sketch.encode()}),
            **({} if sighting.under is None else {"with": sighting.under}),
            **({} if sighting.prompts == 1 else {"prompts": sighting.prompts}),
        }


_forkable: weakref.WeakSet[Announcer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for announcer in list(_forkable):
        announcer._start_afresh()  # pyright: ignore[reportPrivateUsage] - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
