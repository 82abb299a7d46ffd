"""The pytest fixture and the documented examples, each in a pytest of its own as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from provider import Provider

DOC = Path(__file__).parents[2] / "docs/testing.md"


def run(directory: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    """The documentation's files."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["support.py", "test_support.py", "part.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_documented_examples_run(documented: Path, server: Provider) -> None:
    """The documentation's tests pass, and fail when the program is wrong; its script runs."""
    where = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-test"}
    pytest_ = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    done = run(documented, *pytest_, **where)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    done = run(documented, "part.py", **where)
    assert done.returncode == 0, done.stderr
    program = documented / "support.py"
    program.write_text(program.read_text().replace("session_id=chat", 'session_id="one chat of all"'))
    done = run(documented, *pytest_, **where)
    assert "2 failed" in done.stdout, done.stdout + done.stderr
    assert "session_id='one chat of all' has user_id 'customer-" in done.stdout
    assert "pytest_plugin" not in done.stdout  # the traceback shows the user's lines
    assert "src/egisai" not in done.stdout


def test_documented_examples_are_typed(documented: Path) -> None:
    """Pyright, strict, finds nothing in them, nor in what they use of ours."""
    (documented / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = run(documented, "-m", "pyright", "--pythonpath", sys.executable)
    assert done.stdout.startswith("0 errors"), done.stdout


def test_fixture_starts_empty_and_leaves_nothing(tmp_path: Path) -> None:
    """What one test sets is not there in the next; without the fixture nothing is instrumented."""
    (tmp_path / "test_it.py").write_text(
        "import egisai\n"
        "def test_1(egisai_calls):\n"
        "    assert egisai.current_context() == {}\n"
        "    egisai.set_context(agent='a')\n"
        "def test_2(egisai_calls):\n"
        "    assert egisai.current_context() == {}\n"
        "    assert egisai.diagnostics()['initialised']\n"
        "def test_3():\n"
        "    assert not egisai.diagnostics()['initialised']\n"
        "    assert not egisai.EgisInstrumentor().is_instrumented_by_opentelemetry\n"
    )
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_light(tmp_path: Path) -> None:
    """`egisai.testing` does not import pytest."""
    done = run(tmp_path, "-c", "import egisai.testing, sys; print('pytest' in sys.modules, 'openai' in sys.modules)")
    assert done.stdout.split() == ["False", "False"]
