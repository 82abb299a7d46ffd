"""Virtual environments of the benchmarks' own, `.venv-bench-<name>`, made by uv on first use and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_LOCK: Final = ROOT / "requirements" / "dev.txt"
_UV: Final = ROOT / ".venv" / "bin" / "uv"
OURS: Final = ("-e", ".", "-e", "instrumentation", "-e", "exporter")


def locked() -> set[str]:
    """Names of the distributions in `requirements/dev.txt`."""
    return {line.partition("==")[0] for line in _LOCK.read_text().splitlines() if "==" in line}


def python_of(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with `requirements`, of which those that `requirements/dev.txt` has are in its
    versions. Raises SystemExit where there is no such environment."""
    venv = ROOT / f".venv-bench-{name}"
    python, ready = venv / "bin" / "python", venv / ".ready"
    made_from = hashlib.sha256("\n".join([sys.version, *requirements, _LOCK.read_text()]).encode()).hexdigest()
    if not ready.exists() or ready.read_text() != made_from:
        print(f"making {venv.name}", file=sys.stderr)
        _uv("venv", "--clear", "--python", sys.executable, str(venv))
        # Compiled: else the first program that imports a package pays for it, or each one does.
        _uv("pip", "install", "--compile-bytecode", "--python", str(python),
            "--constraint", str(_LOCK), *requirements)  # fmt: skip
        ready.write_text(made_from)
    return python


def _uv(*arguments: str) -> None:
    if subprocess.run([_UV, *arguments, "--quiet"], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"uv {arguments[0]} failed")
