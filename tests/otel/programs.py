"""Programs run as users run them, and every span that they deliver, as OTLP says it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from tests.exporter.receiver import Answer, Receiver, ok

from egisai import semconv
from provider import Provider

BIN = Path(sys.executable).parent
KEY = "egis_live_acme_" + "a1" * 32


@dataclass(frozen=True)
class Received:
    """A span as it arrived."""

    scope: str
    name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def is_call(self) -> bool:
        return semconv.is_call(self.attributes) and semconv.CALL_NESTED not in self.attributes


class Backend:
    """An OTLP/HTTP receiver and an LLM provider on local ports, and the environment that leads there."""

    def __init__(self, tmp_path: Path) -> None:
        self.spans: list[Received] = []
        self.receiver = Receiver()
        self.receiver.answer = self._take
        self.provider = Provider()
        self._tmp_path = tmp_path

    def __enter__(self) -> Backend:
        self.provider.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.provider.__exit__(*exc)
        self.receiver.close()

    @property
    def calls(self) -> list[Received]:
        return [span for span in self.spans if span.is_call]

    def environment(self, **more: str) -> dict[str, str]:
        """What an operator sets, and nothing of the machine's own."""
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "examples"), str(self._tmp_path)]),
            "OPENAI_BASE_URL": self.provider.base_url,
            "OPENAI_API_KEY": "sk-local",
            "OTEL_TRACES_EXPORTER": "egisai",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "EGISAI_BASE_URL": self.receiver.url,
            "EGISAI_API_KEY": KEY,
            "EGISAI_SPOOL_DIR": str(self._tmp_path / "spool"),
            **more,
        }

    def run(self, program: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`opentelemetry-instrument python app.py`, to its end."""
        app = self._tmp_path / "app.py"
        app.write_text(program)
        command = [str(BIN / "opentelemetry-instrument"), sys.executable, str(app)]
        done = subprocess.run(command, env=self.environment(**env), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Failed to auto initialize" not in done.stderr, done.stderr
        return done

    def _take(self, request: ExportTraceServiceRequest) -> Answer:
        for resource in request.resource_spans:
            about = {pair.key: plain(pair.value) for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    Received(scope.scope.name, span.name, {a.key: plain(a.value) for a in span.attributes}, about)
                    for span in scope.spans
                ]
        return ok()


def plain(value: AnyValue) -> Any:
    """An OTLP value as Python's."""
    kind = value.WhichOneof("value")
    return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))
