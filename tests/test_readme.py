"""README says what is true: its program runs as printed, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from provider import Provider

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(found for found in blocks if containing in found)


def test_the_program_runs_as_printed(server: Provider, tmp_path: Path) -> None:
    """The first program, in a process of its own: it answers, and says once that its spans go nowhere."""
    program = tmp_path / "program.py"
    program.write_text(block("python", "egisai.init"))
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_", "EGISAI_"))
    }
    environment |= {"OPENAI_API_KEY": "sk-local", "OPENAI_BASE_URL": server.base_url}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "charged" in done.stdout
    assert done.stderr.count("\n") == 1
    assert not any("egisai" in str(request.headers) for request in server.requests)


def test_the_first_two_commands_exist() -> None:
    """`make demo` and `make test` are the first thing shown, and targets of the Makefile."""
    shown = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert shown
    assert [line.split("#")[0].strip() for line in shown[1].splitlines()] == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= set(targets)


def test_links_lead_somewhere() -> None:
    """Every relative link of README and docs leads to a file."""
    for page in [ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
