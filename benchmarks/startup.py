"""What `egisai.init()` adds to the start of a program, with every client installed and none of them used.

Each figure is CPU time, user and system, of a fresh interpreter that runs one line and ends. The programs take turns,
so that all see the same machine. Each runs in two environments of its own: without any LLM client, and with all that
the instrumentation knows. Bytecode is compiled beforehand, as it is after the first run.

The peer is OpenLLMetry's `Traceloop.init()`, with an exporter that does nothing, its telemetry and its metrics off. It
comes with instrumentors of more libraries than clients of LLMs, none of which are installed here.

    python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from egisai_instrumentation.instrumentor import INTEGRATIONS
from environments import OURS, locked, python_of

_OTEL: Final = "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider"
_SINK: Final = "type('Sink', (SpanExporter,), {'export': lambda *_: None, 'shutdown': lambda *_: None})()"

PROGRAMS: Final = {
    "python, doing nothing": "pass",
    "OpenTelemetry's SDK, a provider": f"{_OTEL}; trace.set_tracer_provider(TracerProvider())",
    "egisai, imported": "import egisai",
    "egisai.init()": "import egisai; egisai.init(quiet=True)",
}
PEER: Final = (
    "import logging; logging.disable()\n"
    "from traceloop.sdk import Traceloop\n"
    "from opentelemetry.sdk.trace.export import SpanExporter\n"
    f"Traceloop.init(exporter={_SINK}, telemetry_enabled=False)"
)


_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Program(NamedTuple):
    name: str
    source: str
    without: Path
    """The interpreter of an environment without clients."""
    with_clients: Path


def cpu_ms(python: Path, source: str) -> float:
    """CPU time of a fresh interpreter."""
    process = subprocess.Popen([python, "-c", source], stdout=subprocess.DEVNULL, env=_ENVIRONMENT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{source!r} failed")
    return (used.ru_utime + used.ru_stime) * 1000


def programs() -> list[Program]:
    clients = sorted({each.library.replace("_", "-") for each in INTEGRATIONS} & locked())
    print(f"Clients: {', '.join(clients)}.\n")
    ours = python_of("none", OURS), python_of("clients", [*OURS, *clients])
    # httpx: which it imports and does not ask for.
    peer = ["traceloop-sdk", "httpx"]
    theirs = python_of("traceloop", peer), python_of("traceloop-clients", [*peer, *clients])
    return [
        *(Program(name, source, *ours) for name, source in PROGRAMS.items()),
        Program("OpenLLMetry, Traceloop.init()", PEER, *theirs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    contenders = programs()
    figures: dict[tuple[str, bool], list[float]] = {}
    for turn in range(-1, rounds):
        for each in contenders:
            for has_clients, python in ((False, each.without), (True, each.with_clients)):
                used = cpu_ms(python, each.source)
                if turn >= 0:  # the first one warms up
                    figures.setdefault((each.name, has_clients), []).append(used)
    print("{:40}{:>20}{:>20}{:>14}".format("ms of CPU: least, median", "no client", "all clients", "difference"))
    for each in contenders:
        none, all_of_them = figures[each.name, False], figures[each.name, True]
        print(f"{each.name:40}{_both(none)}{_both(all_of_them)}{min(all_of_them) - min(none):14.1f}")


def _both(values: list[float]) -> str:
    return f"{min(values):11.1f}{statistics.median(values):9.1f}"


if __name__ == "__main__":
    main()
