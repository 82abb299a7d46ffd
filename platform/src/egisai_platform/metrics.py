"""The platform's own counters, as Prometheus text (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple


class Metric(NamedTuple):
    """What a metric is."""

    kind: str
    meaning: str
    label: str = ""
    """The name of its only label, if it has one."""


METRICS: Final[Mapping[str, Metric]] = {
    "egisai_ingest_requests_total": Metric("counter", "OTLP trace requests, by HTTP status of the answer.", "status"),
    "egisai_ingest_spans_stored_total": Metric("counter", "Spans stored and acknowledged."),
    "egisai_ingest_spans_refused_total": Metric("counter", "Spans that cannot be stored, by reason.", "reason"),
    "egisai_ingest_inserts_total": Metric("counter", "Inserts into the store; one serves many requests."),
    "egisai_ingest_insert_failures_total": Metric("counter", "Inserts that the store refused."),
    "egisai_ingest_insert_seconds_total": Metric("counter", "Seconds spent inserting."),
    "egisai_ingest_held_bytes": Metric("gauge", "Bytes of requests received and not yet answered."),
}


class Metrics:
    """Counters, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, float]] = {
            name: {} if metric.label else {"": 0} for name, metric in METRICS.items()
        }
        self._gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, amount: float = 1, label: object = "") -> None:
        """Adds to a counter, for one value of its label."""
        with self._lock:
            series = self._values[name]
            series[str(label)] = series.get(str(label), 0) + amount

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Lets a gauge be read when somebody asks."""
        self._gauges[name] = read

    def render(self) -> str:
        """All of it as text."""
        lines: list[str] = []
        for name, metric in METRICS.items():
            lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} {metric.kind}"]
            with self._lock:
                series = {"": self._gauges[name]()} if name in self._gauges else dict(self._values[name])
            for label, value in sorted(series.items()):
                labels = f'{{{metric.label}="{label}"}}' if metric.label else ""
                lines.append(f"{name}{labels} {value}")
        return "\n".join(lines) + "\n"
