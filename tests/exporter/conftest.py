"""Receivers, exporters and programs for the exporter's tests, all real and all cleaned up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from egisai_exporter import EgisExporter
from egisai_exporter.delivery import Backoff
from exporter.receiver import Receiver

QUICK = Backoff(initial_s=0.02, maximum_s=0.2)
SLOW = Backoff(initial_s=600.0, maximum_s=600.0)


class Pipeline:
    """An exporter behind a real provider with a real BatchSpanProcessor."""

    def __init__(self, exporter: EgisExporter) -> None:
        self.exporter = exporter
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.processor = BatchSpanProcessor(exporter, schedule_delay_millis=60_000)
        self.provider.add_span_processor(self.processor)
        self._tracer = self.provider.get_tracer("test")

    def spans(self, *names: str, **attributes: Any) -> None:
        """End spans of these names, and hand them over as one batch."""
        for name in names:
            self._tracer.start_span(name, attributes=attributes).end()
        self.provider.force_flush()

    def stats(self) -> dict[str, Any]:
        return self.exporter.stats()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("EGISAI_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def down() -> Iterator[Receiver]:
    """A receiver that refuses connections until it is opened."""
    made = Receiver(up=False)
    yield made
    made.close()


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def make(url: str, **options: Any) -> Pipeline:
        options = {
            "spool_dir": tmp_path / "spool",
            "api_key": "egis_live_acme_" + "a" * 64,
            "_backoff": QUICK,
        } | options
        made.append(Pipeline(EgisExporter(url, **options)))
        return made[-1]

    yield make
    for one in made:
        one.exporter.shutdown(timeout_millis=100)
        one.provider.shutdown()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Runs Python source in another process, with `pipe` (a Pipeline) made for it; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(url: str, source: str, **environment: str) -> subprocess.Popen[str]:
        head = (
            "import os, signal, sys, threading, time\n"
            "from exporter.conftest import Pipeline, QUICK, SLOW\n"
            "from egisai_exporter import EgisExporter\n"
            f"url, spool, key = {url!r}, {str(tmp_path / 'spool')!r}, 'egis_live_acme_' + 'a' * 64\n"
            "pipe = Pipeline(EgisExporter(url, spool_dir=spool, api_key=key, _backoff=QUICK))\n"
        )
        tests = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-c", head + source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": tests} | environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
            process.communicate()
