"""The guide to contributors, followed to the word; and the support table, which the code makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from egisai_instrumentation import support
from egisai_instrumentation.__main__ import main, oldest
from egisai_instrumentation.instrumentor import INTEGRATIONS

ROOT = Path(__file__).parents[2]

TOY = """
import http.client, json, urllib.parse

class ToyError(Exception):
    def __init__(self, status_code):
        super().__init__(f"refused with {status_code}")
        self.status_code = status_code

class Client:
    def __init__(self, url):
        self.url = url

    def chat(self, model, text, system=None, stream=False):
        body = {"model": model, "text": text, "system": system, "stream": stream}
        return self._lines(body) if stream else json.loads(b"".join(self._send(body)))

    def close(self):
        pass

    def _lines(self, body):
        piece = {}
        for line in self._send(body):
            piece = json.loads(line)
            yield piece
        if "model" not in piece:
            raise ConnectionError("cut")

    def _send(self, body):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc)
        try:
            connection.request("POST", "/chat", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                raise ToyError(response.status)
            yield from response
        finally:
            connection.close()
"""


def test_four_steps(tmp_path: Path) -> None:
    """A toy client, and the README's own files for it in a copy of the project: the contract suite passes."""
    guide = (ROOT / "instrumentation" / "README.md").read_text()
    guide = guide[guide.index("## Add a client in four steps") :]
    integration, subject = re.findall(r"^```python\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    ignored = shutil.ignore_patterns("__pycache__", ".venv*", ".git", ".demo", "node_modules")
    for part in ("instrumentation", "tests/instrumentation"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    for part in ("tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / part, tmp_path / part)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignored)
    installed = tmp_path / "site"
    (installed / "toy_llm-1.0.dist-info").mkdir(parents=True)
    (installed / "toy_llm-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-llm\nVersion: 1.0\n"
    )
    (installed / "toy_llm.py").write_text(TOY)
    package = tmp_path / "instrumentation" / "src" / "egisai_instrumentation"

    (package / "toy_llm.py").write_text(integration)  # 1.
    listed = (package / "instrumentor.py").read_text()  # 2.
    listed = listed.replace(
        "INTEGRATIONS: Final = (", "from . import toy_llm\nINTEGRATIONS: Final = (toy_llm.INTEGRATION, "
    )
    (package / "instrumentor.py").write_text(listed)
    (tmp_path / "tests" / "instrumentation" / "clients" / "toy_llm.py").write_text(subject)  # 3.
    path = os.pathsep.join(str(each) for each in (package.parent, installed, *filter(None, sys.path)))
    command = [
        "-m",
        "pytest",
        "tests/instrumentation/test_contract.py",
        "-q",
        "-k",
        "toy-llm",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(  # 4.
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 25, done.stdout
    table = subprocess.run(
        [sys.executable, "-m", "egisai_instrumentation", "support"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| `toy-llm` | `chat` | `chat` | yes | yes | on request |" in table.stdout


def test_support_table() -> None:
    """docs/support.md says what the code says: `python -m egisai_instrumentation support > docs/support.md`."""
    assert (ROOT / "docs" / "support.md").read_text() == support.table(INTEGRATIONS)


def test_every_integration_is_in_the_contract() -> None:
    """Whatever makes calls is tested; openai has a suite of its own beside this one."""
    from tests.instrumentation.contract import subjects

    listed = {integration.library for integration in INTEGRATIONS if integration.endpoints}
    assert listed - {"openai"} == {each.library for each in subjects()}


def test_oldest() -> None:
    """What to install for the oldest version is the integration's to say."""
    assert oldest("groq") == ["groq==0.9", "httpx==0.27.2"]
    with pytest.raises(SystemExit, match="no integration of 'nobody'"):
        main(["oldest", "nobody"])
