"""What is imported only when `init()` is called must not take the caller's context for its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import openai, egisai
from conftest import Spans
from provider import Provider
egisai.set_context(agent="billing", user_id="u")  # before anything of the instrumentation is imported
spans = Spans()
egisai.init(tracer_provider=spans.provider)
with Provider() as server, openai.OpenAI(base_url=server.base_url, api_key="sk") as client:
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
print(spans.only()["user.id"])
"""


def test_ctx_before_init_and_import() -> None:
    """Facts set before the first import of the instrumentation hold, and suppress nothing."""
    root = Path(__file__).parents[2]
    paths = f"{root / 'examples'}:{root / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={"PYTHONPATH": paths}, timeout=60
    )
    assert done.stdout == "u\n", done.stderr
