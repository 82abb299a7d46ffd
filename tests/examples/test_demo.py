"""The demo runs for real and every attribution it shows is right; a wrong one, or a failure, is said and not hidden."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egisai.identity import agent_id
from expected import EXAMPLES, TENANT, Observed, check

EXAMPLES_DIR = Path(__file__).parents[2] / "examples"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "EGISAI_", "OTEL_"))}


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the examples, which a test may break; the demo keeps its data beside it."""
    return Path(shutil.copytree(EXAMPLES_DIR, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__")))


def run_demo(examples: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(examples / "demo.py"), *options]
    return subprocess.run(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- for real ------------------------------------------------------------------------------------------------------


def test_demo_once(examples: Path) -> None:
    """`make demo ONCE=1`: every example runs, every check holds, and what was attributed to whom is shown."""
    done = run_demo(examples, "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "No OPENAI_API_KEY: the examples talk to a local provider" in done.stdout
    assert done.stdout.count("✓") == len(EXAMPLES)
    assert re.search(r"\d+ checks, all ok\n$", done.stdout)
    assert "FAILED" not in done.stdout
    calls = sum(len(example.rows) for example in EXAMPLES)
    agents = {row.agent for example in EXAMPLES for row in example.rows}
    assert f"Attributed: {calls} calls of {len(agents)} agents" in done.stdout
    for line in (
        r"Newsroom +app +4 ",
        r"Triage +name +3 +2 +3 ",
        r"Translator +fingerprint +3 ",
        r"Guide +name +50 +25 +25 ",
        r"Researcher +name +3 +1 +1 ",
        r"Librarian +name +2 +1 ",
        r"Zero code +app +2 ",
        r"acme-2 +member +Search +embeddings ",
        r"\+0\.00 s +.*Planner|Planner +.*",
    ):
        assert re.search(line, done.stdout), line
    assert "\x1b[" not in done.stdout


def test_demo_fails_on_a_wrong_attribution(examples: Path) -> None:
    """Examples that attribute wrongly make the demo say so and exit with status 1; the others stay right."""
    edit(examples / "saas.py", "user_id=tenant", 'user_id="acme"')
    edit(examples / "sub_agents.py", 'egisai.set_context(agent="Triage")', "pass")
    done = run_demo(examples, "--once", "--only", "saas", "--only", "sub_agents", "--only", "own_provider")
    assert done.returncode == 1, done.stdout
    assert done.stderr == ""
    assert f"FAILED saas: the filter user_id={TENANT}" in done.stdout
    assert "FAILED sub_agents: 3 calls by Triage" in done.stdout
    assert "FAILED own_provider" not in done.stdout


def test_demo_serves_until_ctrl_c(examples: Path) -> None:
    """Without `--once` the link shows the agents on the dashboard until Ctrl-C, which ends all without a traceback."""
    command = [sys.executable, str(examples / "demo.py"), "--only", "sub_agents"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if line.startswith("Serving until Ctrl-C"):
                break
        link = re.search(r"Dashboard: +((https?://\S+?)/login\?\S+)", shown)
        assert link is not None, shown
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(link[1], timeout=10) as page:
            shown = page.read().decode()
        assert "Triage" in shown
        assert "Billing" in shown
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == "\nStopped.\n"
    assert errors == ""
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{link[2]}/healthz", timeout=10)


def test_demo_says_which_example_failed(examples: Path) -> None:
    """An example that ends badly is named, with the end of its output, a traceback cut down to its error."""
    (examples / "one_agent.py").write_text("print('asking')\nraise ValueError('no such model')")
    done = run_demo(examples, "--once", "--only", "one_agent")
    assert done.returncode == 1
    assert "The demo failed: one_agent.py ended with status 1 (all its output: " in done.stdout
    assert done.stdout.endswith(":\n    asking\n    ValueError: no such model\n")
    assert "Traceback" not in done.stdout + done.stderr


def test_demo_says_why_the_platform_does_not_start(examples: Path) -> None:
    """A platform that ends at once is quoted; a data directory that cannot be made is said."""
    data = examples.parent / "data"
    data.mkdir()
    (data / "platform").write_text("a file where the platform wants a directory")
    done = run_demo(examples, "--once", "--only", "one_agent", "--data", str(data))
    assert done.returncode == 1
    assert "The demo failed: the platform did not start:\n    " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    done = run_demo(examples, "--once", "--only", "one_agent", "--data", str(examples / "demo.py"))
    assert done.returncode == 1
    assert "The demo failed: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


# --- the checks ------------------------------------------------------------------------------------------------------


def right() -> Observed:
    """What the API says of a run without a fault, made from the expectations."""
    calls: list[dict[str, Any]] = []
    max_tokens: dict[str, int | None] = {}
    for example in EXAMPLES:
        # a workflow's calls start in its order, which is also that of its rows
        for row in example.rows:
            number = len(calls)
            fingerprint = f"digest of {row.agent}" if row.source == "fingerprint" else ""
            kind: Any = "fingerprint" if fingerprint else "name"
            calls.append(
                {
                    "trace_id": f"{number:032x}",
                    "span_id": f"{number:016x}",
                    "start_time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z",
                    "operation": row.operation,
                    "agent_id": agent_id("demo", kind, fingerprint or row.agent),
                    "agent_name": row.agent,
                    "agent_source": row.source,
                    "user_id": row.user_id,
                    "user_role": row.user_role,
                    "session_id": row.session_id,
                    "workflow_id": "launch-1" if example.workflow else "",
                    "app": example.app,
                    "status": "ok",
                    "input_tokens": 10,
                    "output_tokens": None if row.operation == "embeddings" else 20,
                    "streamed": row.streamed,
                    "fingerprint": fingerprint,
                }
            )
            if example.is_marked:
                max_tokens[calls[-1]["span_id"]] = row.max_tokens
    agents: dict[str, dict[str, Any]] = {}
    for call in calls:
        totals = {"calls": 0, "input_tokens": 0, "output_tokens": 0}
        agent = agents.setdefault(call["agent_id"], {"name": call["agent_name"], "totals": totals})
        agent["totals"]["calls"] += 1
        agent["totals"]["input_tokens"] += call["input_tokens"]
        agent["totals"]["output_tokens"] += call["output_tokens"] or 0
    steps = [call for call in calls if call["workflow_id"]]
    group = {"traces": len(steps), "agents": sorted({call["agent_name"] for call in steps})}
    return Observed(
        organisation="demo",
        calls=calls,
        agents=list(agents.values()),
        tenant=[call for call in calls if call["user_id"] == TENANT],
        workflows={"launch-1": {"group": group, "calls": list(steps)}},
        max_tokens=max_tokens,
    )


def test_checks_hold_for_a_right_run() -> None:
    """Nothing is found wrong with a run that is right."""
    checks = list(check(right()))
    assert [each for each in checks if not each.ok] == []
    assert len(checks) > 80


def of(run: Observed, app: str) -> list[Any]:
    return [call for call in run.calls if call["app"] == app]


def swap(run: Observed, *facts: str) -> None:
    """Give two of the 50 concurrent requests each other's facts, whole, as a leaking context would."""
    first, second = (
        next(call for call in of(run, "Travel service") if call["user_id"] == user and not call["streamed"])
        for user in ("guest-03", "guest-05")
    )
    for fact in facts:
        first[fact], second[fact] = second[fact], first[fact]


def lose(run: Observed) -> None:
    run.calls.remove(of(run, "SaaS")[0])  # type: ignore[attr-defined]


def double(run: Observed) -> None:
    run.calls.append(of(run, "Library")[0])  # type: ignore[attr-defined]


def split_agent(run: Observed) -> None:
    of(run, "Prompts")[0]["agent_id"] = agent_id("demo", "fingerprint", "another")


def rename(run: Observed) -> None:
    of(run, "Prompts")[0]["agent_name"] = "Translator 2"


def merge_prompts(run: Observed) -> None:
    for call in of(run, "Prompts"):
        call["fingerprint"], call["agent_id"] = "one", agent_id("demo", "fingerprint", "one")
        call["agent_name"] = "Translator"


def wrong_id(run: Observed) -> None:
    of(run, "Helpdesk")[0]["agent_id"] = agent_id("demo", "name", "billing")


def guess_source(run: Observed) -> None:
    of(run, "Newsroom")[0]["agent_source"] = "name"


def leave_workflow(run: Observed) -> None:
    of(run, "Launch campaign")[2]["workflow_id"] = ""


def join_workflow(run: Observed) -> None:
    of(run, "Library")[0]["workflow_id"] = "launch-1"


def reorder_workflow(run: Observed) -> None:
    run.workflows["launch-1"]["calls"].reverse()


def shuffle_times(run: Observed) -> None:
    of(run, "Launch campaign")[1]["start_time"] = "2026-01-02T00:00:00Z"


def leak_tenant(run: Observed) -> None:
    run.tenant.append(next(call for call in run.calls if call["user_id"] == "globex"))  # type: ignore[attr-defined]


def hide_tenant_call(run: Observed) -> None:
    run.tenant.pop()  # type: ignore[attr-defined]


def miscount(run: Observed) -> None:
    run.agents[0]["totals"]["calls"] += 1


def misadd(run: Observed) -> None:
    run.agents[0]["totals"]["input_tokens"] += 1


def invent_agent(run: Observed) -> None:
    run.agents.append(copy.deepcopy(run.agents[0]))  # type: ignore[attr-defined]


def fail_call(run: Observed) -> None:
    of(run, "Zero code")[0]["status"] = "incomplete"


def count_nothing(run: Observed) -> None:
    of(run, "Zero code")[0]["input_tokens"] = None


def stray(run: Observed) -> None:
    of(run, "Zero code")[0]["app"] = "unknown_service"


@pytest.mark.parametrize(
    "mutate",
    [
        lambda run: swap(run, "user_id", "session_id"),
        lambda run: swap(run, "user_id"),
        lambda run: swap(run, "session_id"),
        lose,
        double,
        split_agent,
        rename,
        merge_prompts,
        wrong_id,
        guess_source,
        leave_workflow,
        join_workflow,
        reorder_workflow,
        shuffle_times,
        leak_tenant,
        hide_tenant_call,
        miscount,
        misadd,
        invent_agent,
        fail_call,
        count_nothing,
        stray,
    ],
)
def test_checks_find_every_fault(mutate: Callable[[Observed], None]) -> None:
    """One wrong fact anywhere makes a check fail."""
    run = copy.deepcopy(right())
    mutate(run)
    assert not all(each.ok for each in check(run))
