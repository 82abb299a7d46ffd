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
from opentelemetry import trace


def work(name):
    trace.get_tracer("test").start_span(name).end()
    return egisai.current_context()


@egisai.context(agent="decorated")
def decorated(name):
    return work(name)


def main(method, starting):
    if starting is None:
        egisai.init()
    context = multiprocessing.get_context(method)
    seen = {}
    tracer = trace.get_tracer("test")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=starting)
    with egisai.context(agent="first", user_id="u1", workflow_id="w1"), tracer.start_as_current_span("request 1"):
        seen["first"] = pool.submit(egisai.propagate(work), "first").result()
    with egisai.context(agent="second", user_id="u2"), tracer.start_as_current_span("request 2"):
        seen["bare"] = pool.submit(work, "bare").result()
        seen["decorated"] = pool.submit(decorated, "decorated").result()
        seen["mapped"] = list(pool.map(egisai.propagate(work), ["mapped"]))[0]
    pool.shutdown()
    with context.Pool(1, starting) as other, egisai.context(agent="of a Pool"):
        seen["pooled"] = other.apply(egisai.propagate(work), ["pooled"])
        seen["starred"] = other.starmap(egisai.propagate(work), [["starred"]])[0]
        other.close()
        other.join()
    with egisai.context(agent="of a Process"):
        target = egisai.propagate(work if starting is None else starts_itself)
        process = context.Process(target=target, args=["process"])
        process.start()
    process.join()
    print(json.dumps(seen))


def starts_itself(name):
    egisai.init()
    work(name)


if __name__ == "__main__":
    main(sys.argv[1], egisai.init if sys.argv[2] == "child" else None)
"""


@pytest.mark.parametrize(
    ("method", "who_starts"), [("fork", "parent"), ("fork", "child"), ("forkserver", "child"), ("spawn", "child")]
)
def test_facts_in_processes(jobs: Jobs, method: str, who_starts: str) -> None:
    """A propagated job has its submitter's facts, on a reused worker too; every span of every child is delivered."""
    seen = json.loads(jobs.python(PROGRAM, method, who_starts))
    assert seen == {
        "first": {"agent": "first", "user_id": "u1", "workflow_id": "w1"},
        "bare": {},  # a worker that was forked in the first request's context has nothing of it
        "decorated": {"agent": "decorated"},
        "mapped": {"agent": "second", "user_id": "u2"},
        "pooled": {"agent": "of a Pool"},
        "starred": {"agent": "of a Pool"},
    }
    spans = jobs.by_name()
    told = ("gen_ai.agent.name", "user.id", "egisai.workflow.id")
    assert {name: tuple(map(span.attributes.get, told)) for name, span in spans.items() if "request" not in name} == {
        "first": ("first", "u1", "w1"),
        "bare": ("app", None, None),
        "decorated": ("decorated", None, None),
        "mapped": ("second", "u2", None),
        "pooled": ("of a Pool", None, None),
        "starred": ("of a Pool", None, None),
        "process": ("of a Process", None, None),
    }
    if who_starts == "parent":
        for there, here in (("first", "request 1"), ("mapped", "request 2")):
            assert (spans[there].trace_id, spans[there].parent) == (spans[here].trace_id, spans[here].span_id)
    assert not spans["process"].parent


WITHOUT_INIT = """
import multiprocessing
import egisai
from openai import OpenAI

if __name__ != "__main__":
    egisai.set_context(session_id="of the module")


def work(queue, carried):
    OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    queue.put([egisai.current_context(), carried(), egisai.current_context()])


if __name__ == "__main__":
    egisai.init()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with egisai.context(agent="a", user_id="u"):
        process = context.Process(target=work, args=[queue, egisai.propagate(egisai.current_context)])
        process.start()
    print(*queue.get())
    process.join()
    assert process.exitcode == 0
"""


def test_a_process_without_init(jobs: Jobs) -> None:
    """In a spawned process that never calls init() facts work as everywhere, and nothing is recorded or said."""
    own = "{'session_id': 'of the module'}"
    assert jobs.python(WITHOUT_INIT) == f"{own} {{'agent': 'a', 'user_id': 'u'}} {own}\n"
    assert jobs.sent == []


IMPORTS_LATE = """
import multiprocessing


def work():
    import egisai
    from opentelemetry import trace

    egisai.init()
    trace.get_tracer("test").start_span("late").end()


if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=work)
    process.start()
    process.join()
"""


def test_a_process_that_imports_late(jobs: Jobs) -> None:
    """A process that meets egisai at its work delivers at its end all the same."""
    jobs.python(IMPORTS_LATE)
    assert list(jobs.by_name()) == ["late"]
