"""Each pair of `pairs.py`, theirs first and ours first: one call counts, once, and it is whose it is.

`tests/otel/vendors.sh` makes the environments and runs this; `make test` does not collect it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.otel.pairs import PAIRS, Pair

from egisai import semconv
from egisai_platform import otlp

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


def run(pair: Pair) -> dict[str, Json]:
    """What `pair.py` says, by order."""
    python = ROOT / f".venv-{pair.vendor}" / "bin" / "python"
    command = [str(python), str(ROOT / "tests" / "otel" / "pair.py"), pair.client, *filter(None, [pair.instrumentor])]
    done = subprocess.run(
        command,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENAI_AGENTS_DISABLE_TRACING": "0",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"order"')]
    assert [each["order"] for each in said] == ["alone", "before", "after"], done.stderr
    return {each["order"]: each for each in said}


def stored(phase: Json) -> list[otlp.SpanRow]:
    """The platform's rows of what was sent in a phase."""
    batch = otlp.decode(base64.b64decode(phase["otlp"]), "default", now_ns=time.time_ns(), retention_days=1)
    assert not batch.refused
    return batch.rows


def counted(phase: Json) -> otlp.SpanRow:
    """The one call that counts, with the tokens of the provider's answer."""
    assert phase["error"] is None, phase["error"]
    assert phase["restored"], "somebody's context is left behind"
    rows = stored(phase)
    [call] = [row for row in rows if row.is_call]
    assert {"input": call.input_tokens, "output": call.output_tokens} == phase["said"]
    assert {row.user_id for row in rows} == {call.user_id}
    if phase["delivered"]:  # to their own backend
        assert sum(map(semconv.is_call, phase["delivered"])) == 1
    assert call.provider
    assert call.request_model
    return call


def scopes(phase: Json) -> list[str]:
    return sorted(span["scope"] for span in phase["spans"])


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.client}-{pair.package}")
def test_pair(pair: Pair) -> None:
    said = run(pair)
    alone = said["alone"]["answer"]
    for order in ("before", "after"):
        answer = said[order]["answer"]
        assert "error" not in answer, answer["error"]
        call = counted(answer["chat"])
        assert (call.agent_name, call.agent_source) == ("billing", "name")
        assert (call.user_id, call.session_id, call.workflow_id) == ("u-1", "s-1", "w-1")
        call = counted(answer["stream"])
        assert call.agent_source in ("fingerprint", "framework")  # the prompt, or whom the framework names
        assert (call.user_id, call.workflow_id) == ("u-2", "")
        if order == "before":  # and out in reverse
            assert scopes(answer["with theirs"]) == scopes(alone["chat"])
        else:
            assert counted(answer["with ours"]).user_id == "u-3"
        assert scopes(answer["with "]) == scopes(alone["with "])
        new = set(said[order]["warned"]) - set(said["alone"]["warned"])
        assert not {each for each in new if not (pair.tolerated and each.startswith(pair.tolerated))}
