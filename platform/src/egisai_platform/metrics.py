"""The platform's own counters, as Prometheus text (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

HELP: Final[Mapping[str, tuple[str, str]]] = {
    "egisai_ingest_requests_total": ("counter", "OTLP trace requests, by HTTP status of the answer."),
    "egisai_ingest_spans_stored_total": ("counter", "Spans stored and acknowledged."),
    "egisai_ingest_spans_refused_total": ("counter", "Spans that cannot be stored, by reason."),
    "egisai_ingest_inserts_total": ("counter", "Inserts into the store; one serves many requests."),
    "egisai_ingest_insert_failures_total": ("counter", "Inserts that the store refused."),
    "egisai_ingest_insert_seconds_total": ("counter", "Seconds spent inserting."),
    "egisai_ingest_held_bytes": ("gauge", "Bytes of requests received and not yet answered."),
}
"""Every metric: its type and what it means."""


class Metrics:
    """Counters, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[tuple[str, str]] = Counter()  # pyright: ignore[reportMissingTypeArgument]
        self._gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, amount: float = 1, **label: object) -> None:
        """Adds to a counter, under at most one label."""
        text = ",".join(f'{key}="{value}"' for key, value in label.items())
        with self._lock:
            self._values[name, text] += amount  # pyright: ignore[reportArgumentType]

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Lets a gauge be read when somebody asks."""
        self._gauges[name] = read

    def render(self) -> str:
        """All of it as text."""
        with self._lock:
            values = dict(self._values)
        lines: list[str] = []
        for name, (kind, meaning) in HELP.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            if name in self._gauges:
                lines.append(f"{name} {self._gauges[name]()}")
                continue
            series = {label: value for (metric, label), value in values.items() if metric == name}
            if not series and "by " not in meaning:
                series = {"": 0}
            lines += [f"{name}{f'{{{label}}}' if label else ''} {value}" for label, value in sorted(series.items())]
        return "\n".join(lines) + "\n"
