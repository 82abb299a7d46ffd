"""What became of the spans, counted for `stats()` and as OpenTelemetry metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Final

from opentelemetry.metrics import Counter as MetricCounter

log = logging.getLogger("egisai_exporter")

_REPEAT_S: Final = 300.0
"""Seconds before a problem that lasts is logged again."""


class Counters:
    """Thread-safe numbers of spans by outcome."""

    def __init__(self, metric: MetricCounter) -> None:
        self._metric = metric
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self.last_error: str | None = None

    def add(self, outcome: str, spans: int) -> None:
        """Count `spans` as accepted, adopted or delivered."""
        if spans:
            with self._lock:
                self._outcomes[outcome] += spans
            self._metric.add(spans, {"outcome": outcome})

    def drop(self, reason: str, spans: int) -> None:
        if spans:
            with self._lock:
                self._dropped[reason] += spans
            self._metric.add(spans, {"outcome": "dropped", "reason": reason})

    def count(self, outcome: str) -> int:
        with self._lock:
            return self._outcomes[outcome]

    def dropped(self) -> dict[str, int]:
        with self._lock:
            return dict(self._dropped)


class Notices:
    """Says each problem once, and again only when it lasts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}

    def say(self, problem: str, level: int, message: str, *args: object, exc_info: bool = False) -> None:
        """Log `message` unless the same `problem` was logged within the last minutes."""
        now = time.monotonic()
        with self._lock:
            if now < self._said.get(problem, 0.0):
                return
            self._said[problem] = now + _REPEAT_S
        log.log(level, message, *args, exc_info=exc_info)

    def over(self, *problems: str) -> None:
        """Let a problem that has passed be said at once when it comes back."""
        with self._lock:
            for problem in problems:
                self._said.pop(problem, None)
