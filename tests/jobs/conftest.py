"""What jobs talk to, and where their programs are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.exporter.receiver import Answer, ok
from tests.otel.programs import Backend, plain


@dataclass(frozen=True)
class Sent:
    """A span as it arrived, with its place in its trace."""

    scope: str
    name: str
    span_id: bytes
    parent: bytes
    trace_id: bytes
    attributes: Mapping[str, Any]


class Jobs(Backend):
    """A receiver and an LLM provider; `sent` are the spans, in the order in which they arrived."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.sent: list[Sent] = []
        self.folder = tmp_path

    def environment(self, **more: str) -> dict[str, str]:
        # A batch every minute: only what a process delivers at its end is seen.
        environment = super().environment(EGISAI_APP="app", OTEL_BSP_SCHEDULE_DELAY="60000", **more)
        del environment["OTEL_TRACES_EXPORTER"]
        return environment

    def python(self, program: str, *args: str) -> str:
        """What `python app.py` prints. It must end well and say nothing else."""
        app = self.folder / "app.py"
        app.write_text(program)
        done = subprocess.run(
            [sys.executable, str(app), *args], env=self.environment(), capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, said(done.stderr)) == (0, ""), done.stderr
        return done.stdout

    def by_name(self) -> dict[str, Sent]:
        """The spans that the test's programs made themselves, each once."""
        made = [sent for sent in self.sent if sent.scope == "test"]
        found = {sent.name: sent for sent in made}
        assert len(found) == len(made), sorted(sent.name for sent in made)
        return found

    def _take(self, request: ExportTraceServiceRequest) -> Answer:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.sent += [
                    Sent(
                        scope.scope.name,
                        span.name,
                        span.span_id,
                        span.parent_span_id,
                        span.trace_id,
                        {pair.key: plain(pair.value) for pair in span.attributes},
                    )
                    for span in scope.spans
                ]
        return ok()


def said(stderr: str) -> str:
    """What a program said, without the one line that a receiver which is no platform earns."""
    return "".join(line for line in stderr.splitlines(True) if "/v1/agents answered 400" not in line)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(tmp_path) as made:
        yield made


PAGE = Path(__file__).parents[2] / "docs" / "recipes" / "jobs.md"


def block(containing: str) -> str:
    """The first Python program of the page that has these words."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return next(found for found in blocks if containing in found)
