"""Facts and traces in processes of `multiprocessing` and `concurrent.futures`, however they are started."""

from __future__ import annotations

import json

import pytest
from tests.jobs.conftest import Jobs

PROGRAM = """
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import egisai
from openai import OpenAI
from opentelemetry import trace


def call(model):
    OpenAI().chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    return egisai.current_context()


@egisai.context(agent="decorated")
def decorated(model):
    return call(model)


def main(method, starting):
    if starting is None:
        egisai.init()
    context = multiprocessing.get_context(method)
    seen = {}
    tracer = trace.get_tracer("test")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=starting)
    with egisai.context(agent="first", user_id="u1", workflow_id="w1"), tracer.start_as_current_span("request 1"):
        seen["first"] = pool.submit(egisai.propagate(call), "first").result()
    with egisai.context(agent="second", user_id="u2"), tracer.start_as_current_span("request 2"):
        seen["bare"] = pool.submit(call, "bare").result()
        seen["decorated"] = pool.submit(decorated, "decorated").result()
        seen["mapped"] = list(pool.map(egisai.propagate(call), ["mapped"]))[0]
    pool.shutdown()
    with context.Pool(1, starting) as other, egisai.context(agent="of a Pool"):
        seen["pooled"] = other.apply(egisai.propagate(call), ["pooled"])
        seen["starred"] = other.starmap(egisai.propagate(call), [["starred"]])[0]
        other.close()
        other.join()
    with egisai.context(agent="of a Process"):
        target = egisai.propagate(call if starting is None else starts_itself)
        process = context.Process(target=target, args=["process"])
        process.start()
    process.join()
    print(json.dumps(seen))


def starts_itself(model):
    egisai.init()
    call(model)


if __name__ == "__main__":
    main(sys.argv[1], egisai.init if sys.argv[2] == "child" else None)
"""


@pytest.mark.parametrize(
    ("method", "who_starts"), [("fork", "parent"), ("fork", "child"), ("forkserver", "child"), ("spawn", "child")]
)
def test_facts_in_processes(jobs: Jobs, method: str, who_starts: str) -> None:
    """A propagated job has its submitter's facts, on a reused worker too; every call of every child is delivered."""
    seen = json.loads(jobs.python(PROGRAM, method, who_starts))
    assert seen == {
        "first": {"agent": "first", "user_id": "u1", "workflow_id": "w1"},
        "bare": {},  # a worker that was forked in the first request's context has nothing of it
        "decorated": {"agent": "decorated"},
        "mapped": {"agent": "second", "user_id": "u2"},
        "pooled": {"agent": "of a Pool"},
        "starred": {"agent": "of a Pool"},
    }
    calls = jobs.by_model()
    facts = {
        model: tuple(call.attributes.get(name) for name in ("gen_ai.agent.name", "user.id", "egisai.workflow.id"))
        for model, call in calls.items()
    }
    assert facts == {
        "first": ("first", "u1", "w1"),
        "bare": ("app", None, None),
        "decorated": ("decorated", None, None),
        "mapped": ("second", "u2", None),
        "pooled": ("of a Pool", None, None),
        "starred": ("of a Pool", None, None),
        "process": ("of a Process", None, None),
    }
    if who_starts == "parent":
        for model, name in (("first", "request 1"), ("mapped", "request 2")):
            call, span = calls[model], jobs.by_name()[name]
            assert (call.trace_id, call.parent) == (span.trace_id, span.span_id)
    assert not calls["process"].parent


UNINSTRUMENTED = """
import multiprocessing
import egisai
from openai import OpenAI


def work(queue):
    OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    queue.put(egisai.current_context())


if __name__ == "__main__":
    egisai.init()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with egisai.context(agent="a", user_id="u"):
        process = context.Process(target=egisai.propagate(work), args=[queue])
    process.start()
    print(queue.get())
    process.join()
    assert process.exitcode == 0
"""


def test_a_process_without_init(jobs: Jobs) -> None:
    """In a spawned process that never calls init() the facts are there, and nothing is recorded or said."""
    assert jobs.python(UNINSTRUMENTED) == "{'agent': 'a', 'user_id': 'u'}\n"
    assert jobs.sent == []
