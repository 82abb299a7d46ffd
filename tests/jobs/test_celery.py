"""Facts in Celery tasks: real workers, real messages, the code of the page."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.jobs.conftest import Jobs, block, said

pytestmark = pytest.mark.slow

pytest.importorskip("celery")

CONFIG = """
broker_url = "filesystem://"
broker_transport_options = {folders}
result_backend = "file://{results}"
task_store_errors_even_if_ignored = True
broker_connection_retry_on_startup = True
worker_prefetch_multiplier = 0
"""

TASKS = """

import os
import threading

from opentelemetry import trace


def step(name):
    trace.get_tracer("test").start_span(name).end()
    seen = egisai.current_context()
    egisai.set_context(session_id="left behind")
    return seen


@app.task
def work(name):
    return step(name), os.getpid()


@app.task
def fails(name):
    step(name)
    raise KeyError(name)


@app.task(bind=True)
def again(self, name):
    seen = step(f"{name} {self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=0)
    return seen


@app.task
def outer(name):
    seen = step(name)
    with egisai.context(agent="inner"):
        work.delay(f"{name} inner")
    return seen


@app.task
def after(before, name):
    return step(name)
"""

PRODUCER = """
import json
import os

import egisai
import tasks
from opentelemetry import trace

seen, soon = {}, (30, True, 0.02)  # timeout, propagate, interval
with egisai.context(agent="a", user_id="u1"), trace.get_tracer("test").start_as_current_span("request"):
    first = tasks.work.delay("first")
with egisai.context(agent="b", user_id="u2", workflow_id="w"):
    failed = tasks.fails.delay("fails")
seen["first"], worker = first.get(*soon)
try:
    failed.get(*soon)
except KeyError:
    pass
seen["bare"], reused = tasks.work.delay("bare").get(*soon)
seen["reused"] = worker == reused != os.getpid()
with egisai.context(agent="retried", user_id="José, 100%"):
    retried = tasks.again.delay("retry")
with egisai.context(agent="outer", user_id="u3"):
    nested = tasks.outer.delay("outer")
with egisai.context(agent="chained", user_id="u4"):
    chained = (tasks.work.s("link 1") | tasks.after.s("link 2")).apply_async()
seen["retry"], seen["outer"], seen["chain"] = retried.get(*soon), nested.get(*soon), chained.get(*soon)
with egisai.context(agent="eager", user_id="u5"):
    seen["eager"] = tasks.work.apply(["eager"]).get()[0]
    assert egisai.current_context() == {"agent": "eager", "user_id": "u5"}
seen["last"] = tasks.work.delay("last").get(*soon)[0]
print(json.dumps(seen))
"""


@contextmanager
def worker(jobs: Jobs, environment: dict[str, str], *options: str) -> Iterator[None]:
    """`celery worker`, ended as a service manager ends it: with SIGTERM, after which it finishes and leaves."""
    log = jobs.folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "WARNING", "-O", "fair"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=jobs.folder, stdout=output, stderr=output)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


RECYCLED = ("--max-tasks-per-child", "1")


@pytest.mark.parametrize(
    ("recipe", "pool"),
    [
        ("send_facts", ("prefork",)),
        ("send_facts", ("prefork", *RECYCLED)),
        ("send_facts", ("threads",)),
        ("CeleryInstrumentor", ("prefork",)),
        ("CeleryInstrumentor", ("threads",)),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, tuple) else given,
)
def test_celery(jobs: Jobs, recipe: str, pool: tuple[str, ...]) -> None:
    """Each task has the facts of whoever sent it, on a worker that is reused or recycled; every span is delivered."""
    (jobs.folder / "tasks.py").write_text(block("worker_process_shutdown") + block(recipe) + TASKS)
    messages, results = jobs.folder / "messages", jobs.folder / "results"
    for folder in (messages, results):
        folder.mkdir()
    folders = {name: str(messages) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    config = CONFIG.format(folders=folders | {"polling_interval": 0.05}, results=results)
    (jobs.folder / "celeryconfig.py").write_text(config)
    environment = jobs.environment(EGISAI_CONTEXT_SECRET="the secret of both", CELERY_CONFIG_MODULE="celeryconfig")
    with worker(jobs, environment, "--concurrency", "1", "--pool", *pool):
        done = subprocess.run(
            [sys.executable, "-c", PRODUCER],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=jobs.folder,
        )
        assert (done.returncode, said(done.stderr)) == (0, ""), done.stderr + (jobs.folder / "worker.log").read_text()
    facts = {
        "first": {"agent": "a", "user_id": "u1"},
        "bare": {},
        "retry": {"agent": "retried", "user_id": "José, 100%", "session_id": "left behind"},
        "outer": {"agent": "outer", "user_id": "u3"},
        "chain": {"agent": "chained", "user_id": "u4", "session_id": "left behind"},
        "eager": {"agent": "eager", "user_id": "u5"},
        "last": {},
        "reused": RECYCLED[0] not in pool,
    }
    assert json.loads(done.stdout) == facts
    spans = jobs.by_name()
    told = ("gen_ai.agent.name", "user.id")
    assert {name: tuple(map(span.attributes.get, told)) for name, span in spans.items()} == {
        "request": ("a", "u1"),
        "first": ("a", "u1"),
        "fails": ("b", "u2"),
        "bare": ("tasks", None),
        "retry 0": ("retried", "José, 100%"),
        "retry 1": ("retried", "José, 100%"),
        "outer": ("outer", "u3"),
        "outer inner": ("inner", "u3"),
        "link 1": ("chained", "u4"),
        "link 2": ("chained", "u4"),
        "eager": ("eager", "u5"),
        "last": ("tasks", None),
    }
    if recipe == "CeleryInstrumentor":
        ran = next(sent for sent in jobs.sent if sent.span_id == spans["first"].parent)
        assert (ran.name, ran.attributes["user.id"]) == ("run/tasks.work", "u1")
        assert ran.trace_id == spans["request"].trace_id


def test_the_page_of_processes(jobs: Jobs) -> None:
    """The page's program of processes runs as printed, and its calls are the summariser's, for acme."""
    assert jobs.python(block("ProcessPoolExecutor")).count("\n") == 1
    calls = [sent.attributes for sent in jobs.sent if "gen_ai.request.model" in sent.attributes]
    assert [(call["gen_ai.agent.name"], call["user.id"]) for call in calls] == [("summariser", "acme")] * 2
