"""The cases `ctx-*`: who acts, in every way in which Python programs run code."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from multiprocessing.pool import Pool, ThreadPool
from typing import Any
from uuid import UUID

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import openai
import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.trace import SpanKind

import egisai
from conftest import Spans
from egisai import pools, propagation
from egisai.context import NO_FACTS, Held, bound_steps, facts_of, hold, is_own, without_facts
from provider import Provider

AN_ID = "0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3b"
WHO = ("gen_ai.agent.name", "egisai.agent.id", "egisai.agent.source", "user.id", "session.id", "egisai.workflow.id")


@pytest.fixture
def client(server: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0) as made:
        yield made


def call(client: openai.OpenAI, system: str | None = None, model: str = "gpt-4.1-mini") -> None:
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    client.chat.completions.create(model=model, messages=[*messages, {"role": "user", "content": "hello"}])


def agent() -> str | None:
    return egisai.current_context().get("agent")


# --- merging ---------------------------------------------------------------------------------------------------------


def test_ctx_app(spans: Spans, client: openai.OpenAI) -> None:
    """init(app=) only: a call without a system prompt belongs to the app."""
    call(client)
    made = spans.only()
    assert (made["gen_ai.agent.name"], made["egisai.agent.source"]) == ("app", "app")
    assert UUID(str(made["egisai.agent.id"])).version == 5


def test_ctx_all(spans: Spans, client: openai.OpenAI) -> None:
    """Every fact is on the span, under its attribute's name."""
    egisai.set_context(agent="billing", user_id="alice", user_role="gold", session_id="s-1", workflow_id="w-1")
    call(client)
    made = spans.only()
    assert made["gen_ai.agent.name"] == "billing"
    assert made["egisai.agent.source"] == "name"
    assert made["user.id"] == "alice"
    assert made["user.roles"] == ("gold",)
    assert made["session.id"] == "s-1"
    assert made["gen_ai.conversation.id"] == "s-1"
    assert made["egisai.workflow.id"] == "w-1"


def test_ctx_merge(spans: Spans, client: openai.OpenAI) -> None:
    """A later agent keeps workflow, user and session."""
    egisai.set_context(agent="a", user_id="u", session_id="s", workflow_id="w")
    egisai.set_context(agent="b")
    call(client)
    made = spans.only()
    assert [made[name] for name in WHO if name not in WHO[1:3]] == ["b", "u", "s", "w"]


def test_ctx_none_empty(spans: Spans, client: openai.OpenAI) -> None:
    """None keeps a fact; "" clears it, and its attribute is absent, not empty."""
    egisai.set_context(agent="a", user_id="u", user_role="r", session_id="s", workflow_id="w")
    egisai.set_context(agent=None, user_id="", user_role="", session_id="  ", workflow_id=None)
    call(client)
    made = spans.only()
    assert made["gen_ai.agent.name"] == "a"
    assert made["egisai.workflow.id"] == "w"
    for name in ("user.id", "user.roles", "session.id", "gen_ai.conversation.id"):
        assert name not in made


def test_ctx_clear_agent(spans: Spans, client: openai.OpenAI) -> None:
    """agent="" falls back to what is detected, then to the app; no stale id stays, nor one of the span around."""
    egisai.set_context(agent="a", agent_id=AN_ID)
    with spans.provider.get_tracer("test").start_as_current_span("request"):
        egisai.set_context(agent="")
        call(client)
        assert spans.calls()[0].attributes["egisai.agent.source"] == "app"
        assert spans.only()["gen_ai.agent.name"] == "app"
        call(client, "You are the refunds assistant.")
        assert spans.only()["egisai.agent.source"] == "fingerprint"
    egisai.clear_context()
    assert egisai.current_context() == {}


def test_ctx_clear_context_keeps_other_baggage() -> None:
    """clear_context() empties ours and touches nobody else's."""
    attach(baggage.set_baggage("tenant", "t1"))
    egisai.set_context(agent="a", user_id="u")
    egisai.clear_context()
    assert egisai.current_context() == {}
    assert dict(baggage.get_all()) == {"tenant": "t1"}


def test_ctx_id_only(spans: Spans, client: openai.OpenAI) -> None:
    """agent_id alone wins, over a system prompt too, and borrows no name."""
    egisai.set_context(agent="earlier")
    egisai.set_context(agent_id=AN_ID)
    call(client, "You are the refunds assistant.")
    made = spans.only()
    assert (made["egisai.agent.id"], made["egisai.agent.source"]) == (AN_ID, "id")
    assert "gen_ai.agent.name" not in made


def test_ctx_id_and_name(spans: Spans, client: openai.OpenAI) -> None:
    """agent_id with agent: that id, shown by that name. Any form of a UUID is the same id."""
    egisai.set_context(agent_id=UUID(AN_ID), agent="n")
    call(client)
    first = spans.only()
    egisai.set_context(agent_id=AN_ID.upper().replace("-", ""), agent="n")
    call(client)
    second = spans.only()
    for made in (first, second):
        assert [made[name] for name in WHO[:3]] == ["n", AN_ID, "id"]


def test_ctx_later_name(spans: Spans, client: openai.OpenAI) -> None:
    """A name after an id replaces it."""
    egisai.set_context(agent_id=AN_ID, agent="x")
    egisai.set_context(agent="n")
    call(client)
    made = spans.only()
    assert (made["gen_ai.agent.name"], made["egisai.agent.source"]) == ("n", "name")
    assert made["egisai.agent.id"] != AN_ID


def test_ctx_before_init(server: Provider) -> None:
    """What was set before init() holds after it, for a client made before it too."""
    egisai.set_context(agent="early", user_id="u")
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        recorded = Spans()
        egisai.init(tracer_provider=recorded.provider, quiet=True)
        call(client)
    made = recorded.only()
    assert (made["gen_ai.agent.name"], made["user.id"]) == ("early", "u")


# --- asyncio ---------------------------------------------------------------------------------------------------------


async def in_tasks(server: Provider, names: list[str]) -> None:
    async def one(client: openai.AsyncOpenAI, name: str) -> None:
        egisai.set_context(agent=f"agent-{name}", user_id=f"user-{name}", session_id=f"session-{name}")
        await asyncio.sleep(0)
        await client.chat.completions.create(model=f"m-{name}", messages=[{"role": "user", "content": name}])

    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
        await asyncio.gather(*(asyncio.create_task(one(client, name)) for name in names))


def test_ctx_100_tasks(spans: Spans, server: Provider) -> None:
    """100 concurrent tasks, each with its own agent, user and session: no span mixes two."""
    names = [str(i) for i in range(100)]
    asyncio.run(in_tasks(server, names))
    made = {str(span.attributes["gen_ai.request.model"]).removeprefix("m-"): span.attributes for span in spans.calls()}
    assert sorted(made) == sorted(names)
    for name, attributes in made.items():
        assert attributes["gen_ai.agent.name"] == f"agent-{name}"
        assert attributes["user.id"] == f"user-{name}"
        assert attributes["session.id"] == f"session-{name}"
    assert len({attributes["egisai.agent.id"] for attributes in made.values()}) == 100


def test_ctx_task_inherits() -> None:
    """A task inherits what was set before it was made; what it sets does not reach its parent."""

    async def child() -> str | None:
        inherited = agent()
        egisai.set_context(agent="child")
        return inherited

    async def parent() -> tuple[str | None, str | None]:
        egisai.set_context(agent="parent")
        return await asyncio.create_task(child()), agent()

    assert asyncio.run(parent()) == ("parent", "parent")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctx_to_thread(spans: Spans, backend: str) -> None:
    """asyncio.to_thread and anyio.to_thread inherit, so does what a thread asks of the loop; workers keep nothing."""
    pytest.importorskip(backend)

    def worker() -> list[str | None]:
        inherited = agent()
        egisai.set_context(agent="left behind")
        return [inherited, anyio.from_thread.run_sync(agent), anyio.from_thread.run(coroutine)]

    async def coroutine() -> str | None:
        await anyio.lowlevel.checkpoint()
        return agent()

    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        for name in ("a", "b"):  # on one worker
            with egisai.context(agent=name):
                assert await anyio.to_thread.run_sync(worker, limiter=limiter) == [name, "left behind", "left behind"]
                if backend == "asyncio":
                    assert await asyncio.to_thread(agent) == name
                assert agent() == name
        assert await anyio.to_thread.run_sync(agent, limiter=limiter) is None

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctx_task_groups(backend: str) -> None:
    """Tasks of a group have the context in which they were started, and change nobody else's."""
    pytest.importorskip(backend)
    seen: dict[str, str | None] = {}

    async def child(name: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen[name] = agent()
        egisai.set_context(agent="child's own")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for name in ("a", "b"):
                with egisai.context(agent=name):
                    group.start_soon(child, name)
            egisai.set_context(agent="parent")
        assert agent() == "parent"

    anyio.run(main, backend=backend)
    assert seen == {"a": "a", "b": "b"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup is of Python 3.11")
def test_ctx_asyncio_task_group() -> None:
    """A TaskGroup whose one task fails ends the scopes of the others; the one around it goes on."""
    seen: list[str | None] = []

    async def waits() -> None:
        try:
            with egisai.context(agent="waits"):
                await asyncio.Event().wait()
        finally:
            seen.append(agent())

    async def fails() -> None:
        egisai.set_context(agent="fails")
        raise KeyError

    async def main() -> None:
        with egisai.context(agent="group"):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(waits())
                    group.create_task(fails())
            except Exception as failed:
                seen.append(type(failed).__name__)
            seen.append(agent())

    asyncio.run(main())
    assert seen == ["group", "ExceptionGroup", "group"]


def test_ctx_callbacks() -> None:
    """Callbacks of a loop run in the context of whoever asked for them, and keep what they set to themselves."""

    async def main() -> list[str | None]:
        loop, seen, done = asyncio.get_running_loop(), [], asyncio.Event()

        def callback(*last: object) -> None:
            seen.append(agent())
            egisai.set_context(agent="callback")
            if last:
                done.set()

        with egisai.context(agent="soon"):
            loop.call_soon(callback)
        with egisai.context(agent="threadsafe"):
            loop.call_soon_threadsafe(callback)
        with egisai.context(agent="done"):
            asyncio.ensure_future(asyncio.sleep(0)).add_done_callback(lambda _: callback())
        with egisai.context(agent="later"):
            loop.call_later(0.01, callback, "last")
        egisai.set_context(agent="main")
        await done.wait()
        copied = contextvars.copy_context()
        egisai.set_context(agent="after the copy")
        return [*seen, copied.run(agent), agent()]

    assert asyncio.run(main()) == ["soon", "threadsafe", "done", "later", "main", "after the copy"]


def test_ctx_run_coroutine_threadsafe(spans: Spans) -> None:
    """A coroutine handed to a loop in another thread runs in the context of whoever handed it over."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return agent()

    try:
        for name in ("a", "b"):
            with egisai.context(agent=name):
                assert asyncio.run_coroutine_threadsafe(coroutine(), loop).result(5) == name
        assert asyncio.run_coroutine_threadsafe(coroutine(), loop).result(5) is None
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_ctx_with_otel_asyncio(spans: Spans) -> None:
    """OTel's asyncio instrumentor wraps coroutines, futures and to_thread: facts are the same, and none leaks."""
    module = pytest.importorskip("opentelemetry.instrumentation.asyncio")
    instrumentor = module.AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)

    @egisai.context(agent="steps")
    async def steps() -> AsyncIterator[str | None]:
        yield agent()
        await asyncio.sleep(0)
        yield agent()

    async def one(name: str) -> list[str | None]:
        egisai.set_context(agent=name)
        seen = [await asyncio.to_thread(agent)]
        seen += [each async for each in steps()]
        return [*seen, agent()]

    async def main() -> list[Any]:
        egisai.set_context(agent="main")
        return [*await asyncio.gather(one("a"), one("b")), await asyncio.wait_for(asyncio.to_thread(agent), 5), agent()]

    try:
        assert asyncio.run(main()) == [["a", "steps", "steps", "a"], ["b", "steps", "steps", "b"], "main", "main"]
    finally:
        instrumentor.uninstrument()


# --- threads and pools -----------------------------------------------------------------------------------------------


def test_ctx_pool(spans: Spans) -> None:
    """submit and map run each job in its submitter's context."""
    with ThreadPoolExecutor(4) as pool:
        futures = []
        for i in range(20):
            with egisai.context(agent=f"a{i}", user_id=i):
                futures.append(pool.submit(egisai.current_context))
        assert [future.result() for future in futures] == [{"agent": f"a{i}", "user_id": str(i)} for i in range(20)]
        with egisai.context(agent="mapped"):
            assert list(pool.map(lambda _: agent(), range(5))) == ["mapped"] * 5


def test_ctx_run_in_executor(spans: Spans) -> None:
    """So does a loop's run_in_executor, with its default executor and another."""

    async def main() -> list[str | None]:
        egisai.set_context(agent="a")
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            return [await loop.run_in_executor(None, agent), await loop.run_in_executor(pool, agent)]

    assert asyncio.run(main()) == ["a", "a"]


def test_ctx_pool_reuse(spans: Spans) -> None:
    """A reused worker sees only its next submitter's context, whatever the job before set."""
    with ThreadPoolExecutor(1) as pool:
        with egisai.context(agent="first", user_id="u1"):
            pool.submit(egisai.set_context, session_id="left behind").result()
        assert pool.submit(egisai.current_context).result() == {}
        with egisai.context(user_id="u2"):
            assert pool.submit(egisai.current_context).result() == {"user_id": "u2"}

        def fails() -> None:
            egisai.set_context(agent="failed")
            raise KeyError

        with pytest.raises(KeyError):
            pool.submit(fails).result()
        assert pool.submit(egisai.current_context).result() == {}


def test_ctx_pool_context_made_before(spans: Spans) -> None:
    """A pool whose threads started before set_context behaves the same."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        egisai.set_context(agent="late")
        assert pool.submit(agent).result() == "late"


def in_thread(target: Callable[[], Any]) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(target()))
    thread.start()
    thread.join()
    return result[0]


def test_ctx_thread(spans: Spans) -> None:
    """A bare thread starts with the process's defaults; propagate() carries the context, and only there."""
    egisai.set_context(agent="a", user_id="u")
    assert in_thread(egisai.current_context) == {}
    carried = egisai.propagate(egisai.current_context)
    egisai.set_context(agent="later")
    assert in_thread(carried) == {"agent": "a", "user_id": "u"}
    assert agent() == "later"

    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return agent()

    bound = egisai.propagate(coroutine)
    egisai.clear_context()
    assert asyncio.run(bound()) == "later"


def frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def bindings() -> int:
    """How often the job that calls this was bound by us."""
    return sum(frame.f_code.co_filename.endswith("egisai/context.py") for frame in frames())


SUBMIT = ThreadPoolExecutor.submit


@pytest.fixture
def otel_threading() -> Iterator[ThreadingInstrumentor]:
    instrumentor = ThreadingInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    pools.uninstall()
    ThreadPoolExecutor.submit = SUBMIT  # type: ignore[method-assign]


def test_ctx_thread_with_otel_threading(spans: Spans, otel_threading: ThreadingInstrumentor) -> None:
    """With OTel's threading instrumentor on, its rule holds: threads inherit, and pool jobs are bound once."""
    otel_threading.instrument()
    with egisai.context(agent="a"):
        assert in_thread(agent) == "a"
        with ThreadPoolExecutor(1) as pool:
            with egisai.context(agent="b"):
                assert pool.submit(bindings).result() == 0
                assert pool.submit(agent).result() == "b"
            assert pool.submit(agent).result() == "a"


def test_ctx_thread_pool_with_otel_threading(spans: Spans, otel_threading: ThreadingInstrumentor) -> None:
    """OTel's has no rule for ThreadPool but that its threads keep their maker's context: ours holds, once."""
    otel_threading.instrument()
    with egisai.context(agent="maker"):
        pool = ThreadPool(1)
    with pool:
        assert pool.apply(agent) is None
        with egisai.context(agent="b"):
            assert pool.apply(agent) == "b"
            assert pool.apply(bindings) == 1


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("ours_off_first", [True, False])
def test_ctx_pools_with_otel_threading_on_and_off(
    spans: Spans, otel_threading: ThreadingInstrumentor, ours_first: bool, ours_off_first: bool
) -> None:
    """Whichever is installed first, and whichever is taken off first: bound while either is on, by one of them."""

    def seen() -> tuple[str | None, str | None, int]:
        with ThreadPoolExecutor(1) as pool, ThreadPool(1) as other:
            pool.submit(int).result()
            with egisai.context(agent="a"):
                return pool.submit(agent).result(), other.apply(agent), pool.submit(bindings).result()

    pools.uninstall()
    for install in (pools.install, otel_threading.instrument)[:: 1 if ours_first else -1]:
        install()
    assert seen() == ("a", "a", 0)
    if ours_off_first:
        pools.uninstall()
        assert seen() == ("a", None, 0)
        otel_threading.uninstrument()
    else:
        otel_threading.uninstrument()
        assert seen() == ("a", "a", 1)
        pools.uninstall()
    if ours_first or ours_off_first:  # else OTel's could not be taken off from beneath ours
        assert seen() == (None, None, 0)
    pools.install()
    assert seen() == ("a", "a", 1)


def test_pools_are_restored(spans: Spans) -> None:
    """Uninstalled, the pools are what they were; pools of processes were never touched."""
    assert {"apply_async", "_map_async", "imap", "imap_unordered"} <= set(vars(ThreadPool))
    assert not [name for name in ("apply_async", "_map_async", "imap") if hasattr(getattr(Pool, name), "__wrapped__")]
    pools.install()
    egisai.shutdown()
    assert set(vars(ThreadPool)).isdisjoint({"apply_async", "_map_async", "imap", "imap_unordered"})
    assert not hasattr(ThreadPoolExecutor.submit, "__wrapped__")
    with egisai.context(agent="a"), ThreadPool(1) as pool, ThreadPoolExecutor(1) as executor:
        assert (pool.map(lambda _: agent(), [1]), executor.submit(agent).result()) == ([None], None)


@pytest.fixture
def inheriting_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads as those of Python 3.14 under -X thread_inherit_context=1, the default of free-threaded builds."""
    start = threading.Thread.start

    def inheriting(thread: threading.Thread) -> None:
        run, context = thread.run, contextvars.copy_context()
        thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", inheriting)
    monkeypatch.setattr(pools, "_THREADS_INHERIT", True)


def test_ctx_thread_inherit(spans: Spans, inheriting_threads: None) -> None:
    """Where threads inherit context, a reused worker never keeps the agent of the request that made it start."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with egisai.context(agent="first"):
            assert in_thread(agent) == "first"  # the interpreter's own rule
            assert pool.submit(agent).result() == "first"
            assert agent() == "first"
        assert pool.submit(agent).result() is None
        with egisai.context(agent="second"):
            assert pool.submit(agent).result() == "second"
            job = pool.submit(release.wait)
        called: list[str | None] = []
        job.add_done_callback(lambda _: called.append(agent()))  # runs on the worker, in the worker's own context
        release.set()
        pool.submit(int).result()
        assert called == [None]


def test_ctx_thread_inherit_in_thread_pool(spans: Spans, inheriting_threads: None) -> None:
    """Nor do the workers of a ThreadPool and its threads for callbacks and iterables keep that of the pool's maker."""
    with egisai.context(agent="maker"):
        pool = ThreadPool(1)
    with pool:
        check_thread_pool(pool)
        assert pool.apply(agent) is None
        assert list(pool.imap(lambda seen: seen, (agent() for _ in range(2)))) == [None, None]


def check_thread_pool(pool: ThreadPool) -> None:
    """Every way of submitting runs jobs, callbacks, lazy iterables in the submitter's context, and leaves nothing."""
    called: list[str | None] = []

    def job(_: object = None, other: object = None) -> str | None:
        seen = agent()
        egisai.set_context(agent="left behind")
        return seen

    def callback(_: object) -> None:
        called.append(agent())
        egisai.set_context(agent="left behind")

    def fails(_: object = None) -> None:
        egisai.set_context(agent="left behind")
        raise KeyError

    def lazily(n: int, item: Any = None) -> Iterator[Any]:
        for _ in range(n):
            made.append(agent())
            egisai.set_context(agent="left behind")
            yield item

    made: list[str | None] = []
    with egisai.context(agent="s"):
        waiting = [
            pool.apply_async(job, (1,), {"other": 2}, callback, None),
            pool.map_async(job, range(5), 5, callback=callback),
            pool.starmap_async(job, [(1, 2)] * 5, callback=callback),
            pool.apply_async(func=fails, error_callback=callback),
            pool.map_async(fails, [1], error_callback=callback),
        ]
        ahead = [pool.imap(job, lazily(5)), pool.imap_unordered(job, lazily(5)), pool.imap(job, lazily(5), chunksize=5)]
        assert pool.apply(job) == "s"
        assert pool.map(job, range(5), chunksize=5) == ["s"] * 5  # one batch: jobs of a batch are apart, too
        assert pool.starmap(job, [(1, 2)] * 5) == ["s"] * 5
        with pytest.raises(KeyError):
            pool.map(fails, [1])
        assert agent() == "s"
    with egisai.context(agent="consumer"):
        assert [list(each) for each in ahead] == [["s"] * 5] * 3
        assert waiting[0].get() == "s"
        assert waiting[1].get() == waiting[2].get() == ["s"] * 5
        for failed in waiting[3:]:
            with pytest.raises(KeyError):
                failed.get()
    assert called == ["s"] * 5
    assert made == ["s"] * 15
    assert pool.apply(agent) is None
    assert list(pool.imap(lambda _: agent(), range(3))) == [None] * 3


@pytest.mark.parametrize("workers", [1, 3])
def test_ctx_thread_pool(spans: Spans, workers: int) -> None:
    """multiprocessing's ThreadPool: each job in its submitter's context, whenever its result is asked for."""
    with ThreadPool(workers) as pool:
        check_thread_pool(pool)


def test_ctx_thread_pool_is_itself(spans: Spans) -> None:
    """What a ThreadPool refuses, it refuses as before."""
    with ThreadPool(1, initializer=egisai.set_context, initargs=()) as pool:
        with pytest.raises(ValueError, match="Chunksize"):
            pool.imap(int, [], chunksize=0)
        with pytest.raises(TypeError, match="not iterable"):
            list(pool.imap(int, 5))  # type: ignore[call-overload]

        def breaks() -> Iterator[str]:
            yield "1"
            raise KeyError("of the iterable")

        results = pool.imap(int, breaks())
        assert next(results) == 1
        with pytest.raises(KeyError, match="of the iterable"):
            next(results)
    with pytest.raises(ValueError, match="not running"):
        pool.apply(int)


def test_ctx_thread_pool_imported_late() -> None:
    """init() does not import multiprocessing, and covers its ThreadPool when the program does."""
    program = (
        "import sys, egisai\n"
        "egisai.init(quiet=True); egisai.shutdown(); egisai.init(quiet=True)\n"
        "assert not [name for name in sys.modules if name.startswith('multiprocessing')]\n"
        "from multiprocessing.pool import ThreadPool\n"
        "with ThreadPool(1) as pool, egisai.context(agent='a'):\n"
        "    print(pool.apply(egisai.current_context))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{'agent': 'a'}\n", "")


def test_ctx_pool_subclasses(spans: Spans) -> None:
    """Executors derived from the thread pool, with a submit or a map of their own, are covered through it."""

    class Derived(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: ["derived", fn(*args, **kwargs)])

    with Derived(1) as pool:
        pool.submit(int).result()
        with egisai.context(agent="a"):
            assert pool.submit(agent).result() == ["derived", "a"]
            assert list(pool.map(lambda _: agent(), [1])) == [["derived", "a"]]


# --- propagate -------------------------------------------------------------------------------------------------------


def told() -> dict[str, Any]:
    """What is known where this runs."""
    span = trace.get_current_span().get_span_context()
    return {
        **egisai.current_context(),
        "others": {key: value for key, value in baggage.get_all().items() if not key.startswith("egisai.")},
        "trace": (span.trace_id, span.span_id) if span.is_valid else None,
        "state": span.trace_state.to_header(),
    }


def test_propagate_pickles(spans: Spans) -> None:
    """A propagated function can be pickled with all that another process can use: facts, others' baggage, the span."""
    egisai.set_context(agent="a", agent_id=AN_ID, user_id="José, 100%", user_role="r", session_id="s", workflow_id="w")
    attach(baggage.set_baggage("tenant", "t1"))
    attach(baggage.set_baggage("tier", 3))
    with spans.provider.get_tracer("t").start_as_current_span("caller") as span:
        pickled = pickle.dumps(egisai.propagate(told))
    attach(Context())
    egisai.set_context(agent="the other's own")
    for again in (pickled, pickle.dumps(pickle.loads(pickled))):
        assert pickle.loads(again)() == {
            "agent": "a",
            "agent_id": AN_ID,
            "user_id": "José, 100%",
            "user_role": "r",
            "session_id": "s",
            "workflow_id": "w",
            "others": {"tenant": "t1", "tier": "3"},
            "trace": (span.get_span_context().trace_id, span.get_span_context().span_id),
            "state": "",
        }
    assert agent() == "the other's own"
    attach(Context())
    assert pickle.loads(pickle.dumps(egisai.propagate(told)))() == {"others": {}, "trace": None, "state": ""}


def test_propagate_pickles_the_span_around(spans: Spans, client: openai.OpenAI) -> None:
    """In the other process a span below the caller's is its child, sampled as it is, and of its agent."""

    tracer = spans.provider.get_tracer("t")
    attributes = {"gen_ai.agent.name": "of a framework", "user.id": "u"}  # all that an event handler may know
    with tracer.start_as_current_span("invoke_agent", attributes=attributes) as span:
        call(client)
        here = spans.all()[-1]
        pickled = pickle.dumps(egisai.propagate(call))
    elsewhere = pickle.loads(pickled)
    attach(Context())
    elsewhere(client)
    there = spans.all()[-1]
    assert there.parent is not None
    assert there.parent.is_remote
    assert there.parent.span_id == span.get_span_context().span_id
    assert dict(there.attributes).keys() == dict(here.attributes).keys()
    assert [there.attributes.get(name) for name in WHO] == [here.attributes.get(name) for name in WHO]
    assert (there.attributes["egisai.agent.source"], there.attributes["user.id"]) == ("framework", "u")

    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))):  # sampled out
        pickled = pickle.dumps(egisai.propagate(call))
    spans.exporter.clear()
    pickle.loads(pickled)(client)
    assert spans.all() == []


def test_propagate_clears_as_here(spans: Spans, client: openai.OpenAI) -> None:
    """A fact that was cleared stays cleared in the other process, whatever the span around says."""
    egisai.set_context(agent="a", user_id="u")
    with spans.provider.get_tracer("t").start_as_current_span("request"):
        egisai.clear_context()
        pickled = pickle.dumps(egisai.propagate(call))
    pickle.loads(pickled)(client)
    made = spans.only()
    assert made["egisai.agent.source"] == "app"
    assert "user.id" not in made


def test_a_fork_amid_a_call_has_no_facts() -> None:
    """What a forked process begins with is nothing of ours, also where its parent had a request in flight."""
    attach(baggage.set_baggage("tenant", "t1"))
    egisai.set_context(agent="a")
    ctx = get_current()
    held = hold(ctx, Held(facts_of(ctx), None, None))
    for before in (ctx, held):
        after = without_facts(before)
        assert facts_of(after) is NO_FACTS
        assert is_own(after)
        assert dict(baggage.get_all(after)) == {"tenant": "t1"}


class Worker:
    """Has a method that is bound where its class is made."""

    name = "worker"

    @egisai.propagate
    def bound_when_made(self, x: int) -> tuple[str, int]:
        """What it does."""
        return self.name, x

    def method(self) -> tuple[str, str | None]:
        return self.name, agent()


def test_propagate_keeps_the_function_itself() -> None:
    """What it returns looks like the function: name, signature, kind; as a method, it gets its instance."""
    assert Worker().bound_when_made(3) == ("worker", 3)
    assert inspect.signature(Worker.bound_when_made) == inspect.signature(Worker.bound_when_made.__wrapped__)
    assert (Worker.bound_when_made.__name__, Worker.bound_when_made.__doc__) == ("bound_when_made", "What it does.")
    egisai.set_context(agent="a")
    carried = egisai.propagate(Worker().method)
    egisai.clear_context()
    assert carried() == pickle.loads(pickle.dumps(carried))() == ("worker", "a")
    with pytest.raises(ZeroDivisionError):
        egisai.propagate(lambda: 1 / 0)()
    with pytest.raises((pickle.PicklingError, AttributeError), match=r"local|lambda"):
        pickle.dumps(egisai.propagate(lambda: 1))


def test_propagate_covers_whole_bodies() -> None:
    """Of coroutine functions and of both kinds of generators the whole body is covered, and their consumer never."""

    @egisai.propagate
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return agent()

    def generator() -> Iterator[str | None]:
        yield agent()
        egisai.set_context(agent="changed inside")
        yield agent()

    async def agenerator() -> AsyncIterator[str | None]:
        yield agent()
        await asyncio.sleep(0)
        yield agent()

    egisai.set_context(agent="carried")
    bound = egisai.propagate(generator), egisai.propagate(agenerator), egisai.propagate(coroutine)
    egisai.set_context(agent="consumer")

    async def main() -> list[str | None]:
        return [seen async for seen in bound[1]()] + [agent(), await bound[2](), agent()]

    for _ in range(2):
        steps = bound[0]()
        assert [next(steps), agent(), next(steps), agent()] == ["carried", "consumer", "changed inside", "consumer"]
        assert asyncio.run(main()) == ["carried", "carried", "consumer", None, "consumer"]
    assert inspect.isgeneratorfunction(bound[0])
    assert inspect.isasyncgenfunction(bound[1])
    assert inspect.iscoroutinefunction(bound[2])


# --- scopes ----------------------------------------------------------------------------------------------------------


def test_ctx_scope() -> None:
    """A scope restores on normal exit, exception and cancellation; the innermost wins; an instance is reentrant."""
    egisai.set_context(agent="outer", user_id="u")
    with egisai.context(agent="a"):
        with egisai.context(agent="b", session_id="s"):
            assert egisai.current_context() == {"agent": "b", "user_id": "u", "session_id": "s"}
            egisai.set_context(agent="set inside", workflow_id="w")
        assert agent() == "a"
        with pytest.raises(ZeroDivisionError), egisai.context(agent="c"):
            raise ZeroDivisionError
        assert agent() == "a"
    assert egisai.current_context() == {"agent": "outer", "user_id": "u"}

    scope = egisai.context(agent="again")
    with scope, egisai.context(agent="between"), scope:
        assert agent() == "again"
    assert agent() == "outer"

    async def cancelled() -> str | None:
        async def waits(started: asyncio.Event) -> None:
            async with egisai.context(agent="task"):
                started.set()
                await asyncio.Event().wait()

        started = asyncio.Event()
        task = asyncio.create_task(waits(started))
        await started.wait()
        task.cancel()
        async with egisai.context(agent="meanwhile"):
            with pytest.raises(asyncio.CancelledError):
                await task
            return agent()

    assert asyncio.run(cancelled()) == "meanwhile"
    assert agent() == "outer"


def test_ctx_scope_in_cancelled_task_restores_there() -> None:
    """Inside the cancelled task itself, the scope is over when the handler runs."""

    async def task(seen: list[str | None]) -> None:
        egisai.set_context(agent="task")
        try:
            async with egisai.context(agent="scope"):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(agent())
            raise

    async def main() -> list[str | None]:
        seen: list[str | None] = []
        running = asyncio.create_task(task(seen))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return seen

    assert asyncio.run(main()) == ["task"]


def test_ctx_scope_closed_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """A bare scope in a generator that is closed in another context changes nothing there and logs nothing."""

    def generator() -> Iterator[None]:
        with egisai.context(agent="generator"):
            yield

    steps = generator()
    context = contextvars.copy_context()
    context.run(next, steps)
    egisai.set_context(agent="here")
    steps.close()
    assert agent() == "here"
    assert caplog.text == ""


def test_ctx_generator(caplog: pytest.LogCaptureFixture) -> None:
    """A decorated generator, suspended or abandoned, is never its consumer's agent; inside, its own changes last."""

    @egisai.context(agent="generator")
    def generator() -> Iterator[str | None]:
        yield agent()
        egisai.set_context(agent="changed inside")
        yield agent()
        yield agent()

    egisai.set_context(agent="consumer")
    steps = generator()
    assert (next(steps), agent()) == ("generator", "consumer")
    with egisai.context(agent="consumer's scope"):
        assert (next(steps), agent()) == ("changed inside", "consumer's scope")
    assert (next(steps), agent()) == ("changed inside", "consumer")
    del steps
    gc.collect()
    assert agent() == "consumer"

    @egisai.context(agent="generator")
    async def agenerator() -> AsyncIterator[str | None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield agent()
        finally:
            finished.append(agent())

    finished: list[str | None] = []

    async def main() -> None:
        egisai.set_context(agent="consumer")
        steps = agenerator()
        assert (await anext(steps), agent()) == ("generator", "consumer")
        async for seen in steps:
            assert (seen, agent()) == ("generator", "consumer")
            break
        assert await asyncio.create_task(anext(steps)) == "generator"  # each step in a task of its own
        await steps.aclose()
        abandoned = agenerator()
        await anext(abandoned)
        del abandoned
        gc.collect()
        await asyncio.sleep(0.01)
        assert agent() == "consumer"

    asyncio.run(main())
    assert finished == ["generator", "generator"]
    assert caplog.text == ""


def test_ctx_generator_protocol() -> None:
    """A decorated generator is still a generator: send, throw, return value, close; timeouts and cancellation pass."""

    @egisai.context(agent="g")
    def echo() -> Any:
        received = yield "first"
        try:
            received = yield received
        except KeyError as exc:
            received = yield f"caught {exc.args[0]} as {agent()}"
        return received

    steps = echo()
    assert next(steps) == "first"
    assert steps.send("sent") == "sent"
    assert steps.throw(KeyError("k")) == "caught k as g"
    with pytest.raises(StopIteration) as stop:
        steps.send("returned")
    assert stop.value.value == "returned"

    @egisai.context(agent="ag")
    async def aecho() -> Any:
        try:
            received = yield "first"
            while True:
                received = yield received
        except KeyError:
            yield agent()

    @egisai.context(agent="slow")
    async def slow() -> Any:
        yield "first"
        await asyncio.Event().wait()

    async def main() -> None:
        steps = aecho()
        assert await anext(steps) == "first"
        assert await steps.asend("sent") == "sent"
        assert await steps.athrow(KeyError()) == "ag"
        await steps.aclose()
        waiting = slow()
        await anext(waiting)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(waiting), 0.01)

    asyncio.run(main())


class Outcome:
    """What happened to a generator and to its consumer, to compare a decorated one with a bare one."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def note(self, *what: object) -> None:
        self.seen.append(what)


def steps_of(outcome: Outcome, act: str) -> Iterator[Any]:
    """A generator that meets exceptions in the way that `act` says."""
    try:
        received = yield 1
        outcome.note("received", received)
        yield 2
    except BaseException as exc:
        outcome.note("thrown", type(exc), exc.__cause__, exc.__context__)
        if act == "raise":
            raise
        if act == "other":
            raise LookupError from exc
        if act == "yield":
            yield 3
        return "returned"
    finally:
        outcome.note("finally")


def bound_when_made(function: Any) -> Any:
    return lambda *args: bound_steps(function(*args), get_current())


@pytest.mark.parametrize("act", ["raise", "other", "yield", "return"])
@pytest.mark.parametrize("thrown", [KeyError, StopIteration, GeneratorExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("how", ["throw", "close"])
def test_ctx_generator_is_a_generator(act: str, thrown: type[BaseException], how: str) -> None:
    """Thrown into, closed, left: a decorated generator does to the letter what it does without the decorator."""

    def outcome_of(decorate: Callable[[Any], Any]) -> list[object]:
        outcome = Outcome()
        steps = decorate(steps_of)(outcome, act)
        outcome.note(next(steps))
        for step in ((lambda: steps.throw(thrown())) if how == "throw" else steps.close, lambda: next(steps)):
            try:
                outcome.note(step())
            except BaseException as exc:  # noqa: PERF203
                chain = (type(exc.__cause__), type(exc.__context__), exc.__suppress_context__)
                outcome.note(type(exc), str(exc).replace("generator", ""), getattr(exc, "value", None), chain)
        return outcome.seen

    assert outcome_of(egisai.context(agent="g")) == outcome_of(lambda function: function)
    assert outcome_of(egisai.propagate) == outcome_of(lambda function: function)
    assert outcome_of(bound_when_made) == outcome_of(lambda function: function)


async def asteps_of(outcome: Outcome, act: str) -> AsyncIterator[Any]:
    try:
        received = yield 1
        outcome.note("received", received)
        yield 2
    except BaseException as exc:
        outcome.note("thrown", type(exc), exc.__cause__, exc.__context__)
        await asyncio.sleep(0)
        if act == "raise":
            raise
        if act == "other":
            raise LookupError from exc
        if act == "yield":
            yield 3
    finally:
        await asyncio.sleep(0)
        outcome.note("finally")


@pytest.mark.parametrize("act", ["raise", "other", "yield", "return"])
@pytest.mark.parametrize("thrown", [KeyError, StopAsyncIteration, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("how", ["athrow", "aclose"])
def test_ctx_generator_is_an_async_generator(act: str, thrown: type[BaseException], how: str) -> None:
    """The same of async generators."""

    async def outcome_of(decorate: Callable[[Any], Any]) -> list[object]:
        outcome = Outcome()
        steps = decorate(asteps_of)(outcome, act)
        outcome.note(await anext(steps))
        for step in (lambda: steps.athrow(thrown()) if how == "athrow" else steps.aclose(), lambda: anext(steps)):
            try:
                outcome.note(await step())
            except BaseException as exc:  # noqa: PERF203
                chain = (type(exc.__cause__), type(exc.__context__), exc.__suppress_context__)
                outcome.note(type(exc), str(exc), chain)
        return outcome.seen

    bare = asyncio.run(outcome_of(lambda function: function))
    assert asyncio.run(outcome_of(egisai.context(agent="g"))) == bare
    assert asyncio.run(outcome_of(egisai.propagate)) == bare
    assert asyncio.run(outcome_of(bound_when_made)) == bare


def test_ctx_generator_left_to_the_loop() -> None:
    """An async generator that nobody closes is closed by the loop or the garbage collector, once, inside its scope."""
    finished: list[str | None] = []
    failed: list[object] = []

    @egisai.context(agent="g")
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            finished.append(agent())

    async def begin() -> AsyncIterator[int]:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: failed.append(about))
        steps = generator()
        await anext(steps)
        return steps

    kept = asyncio.run(begin())  # suspended when its loop ends
    assert finished == ["g"]

    async def collected() -> None:
        cycle: list[Any] = [await begin()]
        cycle.append(cycle)
        del cycle
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(collected())
    assert finished == ["g", "g"]
    assert failed == []
    del kept

    async def nowhere() -> None:  # hooks of the loop are what they were
        async def bare() -> AsyncIterator[int]:
            yield 1

        steps = bare()
        await anext(steps)
        assert len(asyncio.get_running_loop()._asyncgens) == 1  # type: ignore[attr-defined]
        await steps.aclose()

    asyncio.run(nowhere())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is of Python 3.11")
def test_ctx_generator_timeouts() -> None:
    """Timeouts around a step, inside one, and around the whole, hit what they would; the consumer's scope stays."""

    @egisai.context(agent="g")
    async def inside() -> AsyncIterator[str | None]:
        try:
            async with asyncio.timeout(0.005):
                await asyncio.Event().wait()
        except TimeoutError:
            yield agent()
        yield "went on"

    @egisai.context(agent="g")
    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(agent())
            raise

    cancelled: list[str | None] = []

    async def consume(limit: Any) -> None:
        async with limit:
            async for _ in endless():
                pass

    async def main() -> None:
        egisai.set_context(agent="consumer")
        assert [seen async for seen in inside()] == ["g", "went on"]
        for limit in (asyncio.timeout, lambda s: asyncio.timeout_at(asyncio.get_running_loop().time() + s)):
            with pytest.raises(TimeoutError):
                await consume(limit(0.005))
            assert agent() == "consumer"
            assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    asyncio.run(main())
    assert cancelled == ["g", "g"]


def test_ctx_generator_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """Begun in one thread or task and gone on with in another, it keeps its own context and touches nobody's."""

    @egisai.context(agent="g", user_id="u")
    def generator() -> Iterator[dict[str, str]]:
        yield egisai.current_context()
        egisai.set_context(session_id="s")
        yield egisai.current_context()
        yield egisai.current_context()

    egisai.set_context(agent="here", workflow_id="w")
    steps = generator()
    first = next(steps)
    assert first == {"agent": "g", "user_id": "u", "workflow_id": "w"}

    def there() -> tuple[dict[str, str], dict[str, str]]:
        egisai.set_context(agent="there")
        return next(steps), egisai.current_context()

    assert in_thread(there) == ({**first, "session_id": "s"}, {"agent": "there"})
    assert contextvars.Context().run(there) == ({**first, "session_id": "s"}, {"agent": "there"})
    assert egisai.current_context() == {"agent": "here", "workflow_id": "w"}

    @egisai.context(agent="ag")
    async def agenerator() -> AsyncIterator[str | None]:
        yield agent()
        egisai.set_context(agent="changed")
        yield agent()
        yield agent()

    async def one_step(steps: AsyncIterator[str | None], name: str) -> tuple[str | None, str | None]:
        egisai.set_context(agent=name)
        return await anext(steps), agent()

    async def main() -> list[Any]:
        steps = agenerator()
        return [await asyncio.create_task(one_step(steps, name)) for name in ("a", "b")] + [await anext(steps), agent()]

    assert asyncio.run(main()) == [("ag", "a"), ("changed", "b"), "changed", "here"]
    assert caplog.text == ""


def test_ctx_generator_frees_what_was_thrown() -> None:
    """An exception thrown in leaves no cycle that would keep it, and what it holds, until the next collection."""

    class HeldError(Exception):
        pass

    @egisai.context(agent="g")
    def generator() -> Iterator[int]:
        yield 1

    @egisai.context(agent="g")
    async def agenerator() -> AsyncIterator[int]:
        yield 1

    async def thrown() -> weakref.ref[HeldError]:
        steps = agenerator()
        await anext(steps)
        return await left_by(steps.athrow)

    async def left_by(throw: Callable[[BaseException], Any]) -> weakref.ref[HeldError]:
        exc = HeldError()
        try:
            await throw(exc)
        except HeldError:
            return weakref.ref(exc)
        finally:
            del exc
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(thrown())() is None
        steps = generator()
        next(steps)
        held = HeldError()
        reference = weakref.ref(held)
        try:
            steps.throw(held)
        except HeldError:
            del held, steps
        assert reference() is None
    finally:
        gc.enable()


def test_ctx_contextmanagers() -> None:
    """Between @contextmanager and a generator, a scope covers what the manager does, not the block it is for."""

    @contextmanager
    @egisai.context(agent="manager")
    def manager() -> Iterator[str | None]:
        try:
            yield agent()
        except KeyError:
            seen.append(agent())
        finally:
            seen.append(agent())

    @asynccontextmanager
    @egisai.context(agent="manager")
    async def amanager() -> AsyncIterator[str | None]:
        try:
            yield agent()
        except KeyError:
            seen.append(agent())
        finally:
            await asyncio.sleep(0)
            seen.append(agent())

    @egisai.context(agent="around")  # of a function that makes a manager: its body is not run yet
    @contextmanager
    def around() -> Iterator[str | None]:
        yield agent()

    seen: list[str | None] = []
    egisai.set_context(agent="block")
    with manager() as inside:
        assert (inside, agent()) == ("manager", "block")
        raise KeyError
    for thrown in (ZeroDivisionError, StopIteration, GeneratorExit):
        with pytest.raises(thrown), manager():
            raise thrown
    with around() as inside:
        assert (inside, agent()) == ("block", "block")

    async def main() -> None:
        async with amanager() as inside:
            assert (inside, agent()) == ("manager", "block")
            raise KeyError
        for thrown in (ZeroDivisionError, StopAsyncIteration, asyncio.CancelledError):
            with pytest.raises(thrown):
                async with amanager():
                    raise thrown

    asyncio.run(main())
    assert seen == ["manager"] * 10
    assert agent() == "block"


def test_ctx_decorator() -> None:
    """The scope as a decorator covers the whole body of every kind of function and restores after."""

    @egisai.context(agent="d", user_id="u")
    def function(x: int) -> tuple[str | None, int]:
        return agent(), x

    @egisai.context(agent="d")
    async def coroutine() -> list[str | None]:
        before = agent()
        await asyncio.sleep(0)
        return [before, agent()]

    @egisai.context(agent="d")
    def generator() -> Iterator[str | None]:
        yield agent()
        yield agent()

    @egisai.context(agent="d")
    async def agenerator() -> AsyncIterator[str | None]:
        yield agent()
        await asyncio.sleep(0)
        yield agent()

    async def consume() -> list[str | None]:
        return [seen async for seen in agenerator()]

    egisai.set_context(agent="caller")
    assert function(3) == ("d", 3)
    assert asyncio.run(coroutine()) == ["d", "d"]
    assert list(generator()) == ["d", "d"]
    assert asyncio.run(consume()) == ["d", "d"]
    assert agent() == "caller"
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(agenerator)
    assert list(inspect.signature(function).parameters) == ["x"]

    @egisai.context(agent="raises")
    def raises() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raises()
    assert agent() == "caller"


def test_ctx_span_scope(spans: Spans) -> None:
    """set_context inside a span's scope ends with it, and neither brings back an ended span nor an older value."""
    tracer = spans.provider.get_tracer("test")
    egisai.set_context(agent="before")
    with tracer.start_as_current_span("request"):
        egisai.set_context(agent="inside", user_id="u")
        with egisai.context(agent="scope"):
            egisai.set_context(session_id="s")
        assert egisai.current_context() == {"agent": "inside", "user_id": "u"}
    assert egisai.current_context() == {"agent": "before"}

    scope = egisai.context(agent="scope")
    scope.__enter__()
    span = tracer.start_as_current_span("other")
    span.__enter__()
    scope.__exit__(None, None, None)  # the wrong way round: the scope ends, and the span's end brings nothing back
    span.__exit__(None, None, None)
    egisai.clear_context()
    assert egisai.current_context() == {}


# --- values ----------------------------------------------------------------------------------------------------------


class Level(str, Enum):
    GOLD = "gold"


BAD = [
    b"bytes",
    object(),
    1.5,
    True,
    ["list"],
    {"a": 1},
    "x" * 257,
    "x" * 10_000,
    "a\nb",
    "a\x00b",
    "\ud800",
    "\x9b31m",
]


@pytest.mark.parametrize("value", BAD, ids=[f"{type(value).__name__}{i}" for i, value in enumerate(BAD)])
def test_ctx_bad_values(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be a fact is refused with one line, never an exception; the field and the others keep."""
    egisai.set_context(user_id="kept")
    for _ in range(3):
        egisai.set_context(user_id=value, session_id="s")
    assert egisai.current_context() == {"user_id": "kept", "session_id": "s"}
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].getMessage().startswith("egisai: user_id=")
    assert lines[0].getMessage().isprintable()
    assert len(lines[0].getMessage()) < 300
    assert egisai.diagnostics()["counts"]["refused:user_id"] == 3


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (7, "7"),
        (UUID(AN_ID), AN_ID),
        ('José, "quoted"; 100% =a&b ✓ 日本', 'José, "quoted"; 100% =a&b ✓ 日本'),
        ("  padded ", "padded"),
        ("x" * 256, "x" * 256),
        (Level.GOLD, "gold"),
        ("a+b c", "a+b c"),
    ],
)
def test_ctx_bad_values_that_are_good(value: Any, kept: str, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ints, UUIDs and any printable text are kept, and survive a W3C baggage header unharmed."""
    monkeypatch.setenv("EGISAI_CONTEXT_SECRET", "a secret of services")
    propagation.use(None)
    egisai.set_context(user_id=value)
    assert egisai.current_context() == {"user_id": kept}
    headers: dict[str, str] = {}
    with spans.provider.get_tracer("t").start_as_current_span("send", kind=SpanKind.PRODUCER):
        propagate.inject(headers)
    assert headers["baggage"].isascii()
    assert "\n" not in headers["baggage"]
    attach(propagate.extract(headers, Context()))
    assert egisai.current_context() == {"user_id": kept}


@pytest.mark.parametrize("bad", ["not-a-uuid", "1234", "0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3", "agent"])
def test_ctx_bad_agent_id(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed agent_id is refused; the name given with it holds, alone."""
    egisai.set_context(agent="n", agent_id=bad)
    assert egisai.current_context() == {"agent": "n"}
    assert f"agent_id='{bad}' is ignored: it must be a UUID" in caplog.text


def test_ctx_foreign_baggage_is_not_believed(spans: Spans) -> None:
    """Baggage that somebody else wrote under our names is no fact; ours stays what it was beside it."""
    ctx = baggage.set_baggage("egisai.session_id", "theirs", Context())
    spans.provider.get_tracer("t").start_span("a", ctx).end()
    attributes = spans.all()[0].attributes
    assert "session.id" not in attributes
    assert attributes["egisai.agent.source"] == "app"

    egisai.set_context(user_id="u", session_id="s")
    attach(baggage.set_baggage("tenant", "t1"))
    assert egisai.current_context() == {"user_id": "u", "session_id": "s"}
    attach(baggage.set_baggage("egisai.agent", "theirs"))
    assert egisai.current_context() == {"user_id": "u", "session_id": "s"}
    attach(baggage.remove_baggage("egisai.user_id"))
    assert egisai.current_context() == {"session_id": "s"}
    egisai.set_context(workflow_id="w")
    assert baggage.get_all() == {"tenant": "t1", "egisai.session_id": "s", "egisai.workflow_id": "w"}


@pytest.mark.parametrize("is_removed", [True, False])
def test_ctx_a_fact_that_was_replaced_does_not_come_back(is_removed: bool) -> None:
    """What somebody else puts in the place of our member is no fact, and ours is gone: nothing brings it back."""
    egisai.set_context(agent="billing", user_id="u")
    if is_removed:
        attach(baggage.remove_baggage("egisai.user_id"))
    attach(baggage.set_baggage("egisai.user_id", "theirs"))
    assert egisai.current_context() == {"agent": "billing"}
    attach(baggage.set_baggage("tenant", "t1"))
    egisai.set_context(session_id="s")
    assert egisai.current_context() == {"agent": "billing", "session_id": "s"}
    assert baggage.get_all() == {"tenant": "t1", "egisai.agent": "billing", "egisai.session_id": "s"}


def test_unknown_parameters_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt parameter is a hint in the log, not a TypeError in production."""
    for _ in range(2):
        egisai.set_context(agnet="billing", user_id="u")  # type: ignore[call-arg]
    egisai.set_context("billing")  # type: ignore[misc]
    with egisai.context(sesion_id="s"):  # type: ignore[call-arg]
        pass
    assert egisai.current_context() == {"user_id": "u"}
    assert [record.getMessage() for record in caplog.records] == [
        "egisai: set_context() has no parameter 'agnet': did you mean agent?",
        "egisai: set_context() takes keyword arguments only, such as agent='billing'; 'billing' is ignored",
        "egisai: context() has no parameter 'sesion_id': did you mean session_id?",
    ]


def test_the_context_is_immutable_for_others() -> None:
    """What one holder of a context sees does not change when another goes on."""
    egisai.set_context(agent="a")
    held = get_current()
    egisai.set_context(agent="b")
    attach(held)
    assert agent() == "a"
