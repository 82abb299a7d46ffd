"""Everything at once, as `make demo` runs it: the platform, the examples, and what was attributed to whom.

Without an option it keeps serving the dashboard until Ctrl-C. With `--once` it stops after checking every attribution
it has shown (see `expected.py`), and exits with status 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from expected import EXAMPLES, TENANT, Check, Example, Observed, check, time_of
from provider import Provider

HERE = Path(__file__).resolve().parent
ORGANISATION = "demo"
PORT = 4318
START_TIMEOUT_S = 60
EXAMPLE_TIMEOUT_S = 300
ARRIVAL_TIMEOUT_S = 30
COLOURS = {"green": "32", "red": "31", "bold": "1", "dim": "2"}


class DemoError(Exception):
    """The demo cannot go on; the text says why, with the output that belongs to it."""


def paint(text: str, colour: str) -> str:
    """Colour for a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def say(text: str = "") -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def tail(text: str, lines: int = 15) -> str:
    """The end of some output, indented."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


def without_frames(output: str) -> str:
    """Some program's output with each traceback cut down to its error."""
    return re.sub(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)+", "", output, flags=re.MULTILINE)


# --- the platform ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform, and how to reach it."""

    base_url: str
    ingest_key: str
    read_key: str
    environment: Mapping[str, str]
    """For `egisai-platform` commands on its data."""

    def login_link(self) -> str:
        """A link that logs one browser in, once."""
        return printed(self.environment, r"https?://\S+", "login")

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `path`. Raises DemoError."""
        url = f"{self.base_url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {self.read_key}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise DemoError(f"the platform answered {error.code} to GET {path}:\n{tail(said)}") from error
        except (OSError, ValueError) as error:
            raise DemoError(f"the platform did not answer GET {path}: {error}") from error

    def items(self, path: str, **query: str) -> list[Any]:
        """All pages of a list."""
        items: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(path, **query, limit="500", **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page.get("next_cursor")
        return items


def installed(command: str) -> str:
    """A command of the environment this runs in, activated or not."""
    script = Path(sys.executable).parent / command
    if not script.exists():
        raise DemoError(f"{script} is not there: `make demo` installs what the demo needs")
    return str(script)


def choose_port() -> int:
    """4318 if it is free, otherwise one that is."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                say(f"Port {PORT} is in use: taking another one.")
            else:
                return int(probe.getsockname()[1])
    raise DemoError("no free port on 127.0.0.1")


def printed(environment: Mapping[str, str], pattern: str, *arguments: str) -> str:
    """What an `egisai-platform` command prints that looks like `pattern`. Raises DemoError."""
    command = [installed("egisai-platform"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(pattern, done.stdout)
    if done.returncode != 0 or found is None:
        raise DemoError(f"`egisai-platform {' '.join(arguments)}` failed:\n{tail(done.stdout + done.stderr)}")
    return found[0]


def create_key(scope: str, environment: Mapping[str, str]) -> str:
    """A new key for the demo's organisation."""
    options = ("--organisation", ORGANISATION, "--scope", scope, "--name", "made by the demo")
    return printed(environment, r"egis_live_\S+", "keys", "create", *options)


@contextmanager
def platform(data: Path) -> Iterator[Platform]:
    """A platform on a free port, with its data and log under `data`, stopped at the end."""
    data.mkdir(parents=True, exist_ok=True)
    port = choose_port()
    base_url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EGISAI_")}
    environment["EGISAI_PLATFORM_DATA_DIR"] = str(data / "platform")
    log = data / "platform.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [installed("egisai-platform"), "serve", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle, and then to stop it
        )
    try:
        wait_until_ready(process, base_url, log)
        ingest_key, read_key = (create_key(scope, environment) for scope in ("ingest", "read"))
        yield Platform(base_url, ingest_key, read_key, environment)
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    """Return when /readyz answers 200. Raises DemoError with the platform's own words when it does not come up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the platform did not start:\n{tail(log.read_text())}")
        try:
            with urllib.request.urlopen(f"{base_url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise DemoError(f"the platform was not ready after {START_TIMEOUT_S} s:\n{tail(log.read_text())}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the platform as an operator would; by force only if it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the examples ------------------------------------------------------------------------------------------------


@contextmanager
def endpoint() -> Iterator[Mapping[str, str]]:
    """The environment that leads `openai.OpenAI()` to OPENAI_BASE_URL, or to a local provider without a key."""
    if os.environ.get("OPENAI_API_KEY"):
        say(f"The examples talk to {os.environ.get('OPENAI_BASE_URL') or 'https://api.openai.com/v1'}.")
        yield {}
        return
    with Provider(record=False, latency_s=0.1, chunk_delay_s=0.002) as local:
        say(f"No OPENAI_API_KEY: the examples talk to a local provider at {local.base_url}.")
        say("It speaks the OpenAI wire format; its answers are made up. Set OPENAI_API_KEY to use the real one.")
        yield {"OPENAI_BASE_URL": local.base_url, "OPENAI_API_KEY": "sk-local"}


def run_all(examples: Sequence[Example], environment: Mapping[str, str], data: Path) -> None:
    """Run the examples, a few at a time, and tell of each in order. Raises DemoError for the first that fails."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(run, example, environment, data) for example in examples]
        try:
            for example, job in zip(examples, jobs, strict=True):
                line = f"  {example.file:20} {example.shows:62}"
                try:
                    say(f"{line} {paint('✓', 'green')} {job.result():.1f} s")
                except DemoError:
                    say(f"{line} {paint('✗', 'red')}")
                    raise
        finally:
            pool.shutdown(cancel_futures=True)


def run(example: Example, environment: Mapping[str, str], data: Path) -> float:
    """Run an example as its own process; how many seconds it took. Raises DemoError with its output when it fails."""
    launcher = [installed(example.launcher)] if example.launcher else []
    started = time.monotonic()
    try:
        done = subprocess.run(
            [*launcher, sys.executable, str(HERE / example.file)],
            env={**environment, **example.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=EXAMPLE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        raise DemoError(f"{example.file} was not done after {EXAMPLE_TIMEOUT_S} s:\n{tail(said)}") from error
    if done.returncode != 0:
        log = data / f"{example.name}.log"
        log.write_text(done.stdout)
        said = tail(without_frames(done.stdout))
        raise DemoError(f"{example.file} ended with status {done.returncode} (all its output: {log}):\n{said}")
    return time.monotonic() - started


# --- what the platform says --------------------------------------------------------------------------------------


def observe(server: Platform, since: str, examples: Sequence[Example]) -> Observed:
    """Read back what this run did, once as many calls have arrived as were made or nothing arrives any more."""
    want = sum(len(example.rows) for example in examples)
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    while (calls := server.items("/api/v1/calls", since=since)) is not None and len(calls) < want:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    marked = {example.app for example in examples if example.is_marked}
    max_tokens = {
        call["span_id"]: server.get(f"/api/v1/calls/{call['trace_id']}/{call['span_id']}")["attributes"].get(
            "gen_ai.request.max_tokens"
        )
        for call in calls
        if call["app"] in marked
    }
    workflows = {call["workflow_id"] for call in calls if call["workflow_id"]}
    return Observed(
        organisation=ORGANISATION,
        calls=calls,
        agents=[agent for agent in server.get("/api/v1/agents", since=since)["items"] if agent["totals"]["calls"]],
        tenant=server.items("/api/v1/calls", since=since, user_id=TENANT),
        workflows={each: server.get(f"/api/v1/workflows/{urllib.parse.quote(each, safe='')}") for each in workflows},
        max_tokens=max_tokens,
    )


def show(observed: Observed) -> None:
    """Print who made which calls, one tenant's calls, and each workflow."""
    say(f"\n{paint('Attributed', 'bold')}: {len(observed.calls)} calls of {len(observed.agents)} agents\n")
    rows: list[tuple[str, ...]] = [
        ("agent", "known by", "calls", "users", "sessions", "workflows", "tokens in", "out", "cost")
    ]
    for agent in sorted(observed.agents, key=lambda agent: agent["totals"]["first_seen"]):
        own = [call for call in observed.calls if call["agent_id"] == agent["id"]]
        totals = agent["totals"]
        rows.append(
            (
                agent["name"],
                ", ".join(sorted({call["agent_source"] for call in own})),
                str(totals["calls"]),
                *(distinct(own, fact) for fact in ("user_id", "session_id", "workflow_id")),
                f"{totals['input_tokens']:,}",
                f"{totals['output_tokens']:,}",
                money(totals["cost_usd"]),
            )
        )
    table(rows, left=2)
    if observed.tenant:
        say(f"\n{paint('One tenant', 'bold')}: GET /api/v1/calls?user_id={TENANT}\n")
        table(
            [
                ("session", "role", "agent", "operation", "tokens in", "cost"),
                *(
                    (
                        call["session_id"],
                        call["user_role"],
                        call["agent_name"],
                        call["operation"],
                        str(call["input_tokens"]),
                        money(call["cost_usd"]),
                    )
                    for call in sorted(observed.tenant, key=time_of)
                ),
            ],
            left=4,
        )
    for name, workflow in observed.workflows.items():
        say(f"\n{paint('One workflow', 'bold')}: GET /api/v1/workflows/{name}\n")
        first = time_of(workflow["calls"][0])
        rows = [("at", "agent", "took", "streamed")]
        for call in workflow["calls"]:
            at = time_of(call) - first
            streamed = "streamed" if call["streamed"] else ""
            rows.append((f"{at.total_seconds():+.2f} s", call["agent_name"], f"{call['duration_ms']:.0f} ms", streamed))
        table(rows, left=2)


def distinct(calls: Sequence[Mapping[str, Any]], fact: str) -> str:
    """How many values of a fact these calls have, blank for none."""
    return str(len({call[fact] for call in calls if call[fact]}) or "")


def money(dollars: float | None) -> str:
    """A price, or a dash where nobody knows one."""
    return "-" if dollars is None else f"${dollars:.6f}"


def table(rows: Sequence[Sequence[str]], left: int) -> None:
    """Print rows in columns, the first `left` of them aligned left. The first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  " + "  ".join(cells).rstrip()
        say(paint(line, "dim") if index == 0 else line)


def report(checks: Sequence[Check]) -> bool:
    """Print every check; whether all hold."""
    say(f"\n{paint('Checks', 'bold')}\n")
    for each in checks:
        say(f"  {paint('ok    ', 'green') if each.ok else paint('FAILED', 'red')} {each.text}")
        if not each.ok:
            say(f"         {each.found}")
    failed = sum(not each.ok for each in checks)
    say(f"\n{len(checks)} checks, " + (paint(f"{failed} FAILED", "red") if failed else "all ok"))
    return failed == 0


# --- the run -----------------------------------------------------------------------------------------------------


def demo(data: Path, examples: Sequence[Example], *, once: bool) -> bool:
    """Run it all; whether everything was attributed as it should be."""
    since = datetime.now(timezone.utc).isoformat()
    say("Starting the platform ...")
    with platform(data) as server:
        say(f"The platform listens on {server.base_url}; its data and its log are in {data}.")
        with endpoint() as provider:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith(("EGISAI_", "OTEL_"))},
                **provider,
                "EGISAI_BASE_URL": server.base_url,
                "EGISAI_API_KEY": server.ingest_key,
                "EGISAI_READ_KEY": server.read_key,
                "EGISAI_SPOOL_DIR": str(data / "spool"),
                "PYTHONUNBUFFERED": "1",
            }
            say()
            run_all(examples, environment, data)
        observed = observe(server, since, examples)
        show(observed)
        checks = list(check(observed, examples, has_usage="OPENAI_BASE_URL" in provider))
        if once:
            return report(checks)
        wrong = [each for each in checks if not each.ok]
        if wrong:
            report(wrong)
        say(f"\nSend your own:  EGISAI_BASE_URL={server.base_url} EGISAI_API_KEY={server.ingest_key}")
        say(f"{paint('Dashboard', 'bold')}:      {server.login_link()}")
        say(f"                (works once; `egisai-platform login --data-dir {data / 'platform'}` prints another)")
        say("Serving until Ctrl-C.")
        threading.Event().wait()
    return True


def main() -> int:
    """Parse the options and run; the process's exit status."""
    parser = argparse.ArgumentParser(description="Run every example against a platform and show who did what.")
    parser.add_argument(
        "--once", action="store_true", help="check every attribution and stop; status 1 if one is wrong"
    )
    parser.add_argument("--data", type=Path, default=HERE.parent / ".demo", help="where the platform keeps its data")
    names = [example.name for example in EXAMPLES]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    options = parser.parse_args()
    examples = [example for example in EXAMPLES if not options.only or example.name in options.only]
    if (direct := os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "") != "*":
        # everything of ours is on this machine: no proxy for it, here and in the examples
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (direct, "127.0.0.1")))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    try:
        return 0 if demo(options.data.resolve(), examples, once=options.once) else 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130 if options.once else 0
    except (DemoError, OSError) as error:
        say(f"\n{paint('The demo failed', 'red')}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
