"""The cases `ctx-*`: who acts, in every way in which Python programs run code."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any
from uuid import UUID

import anyio.to_thread
import openai
import pytest
from opentelemetry import baggage, propagate
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.trace import SpanKind

import egisai
from conftest import Spans
from egisai import propagation
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


def test_ctx_to_thread(spans: Spans) -> None:
    """asyncio.to_thread and anyio.to_thread inherit, and the worker keeps nothing."""

    async def main() -> list[str | None]:
        egisai.set_context(agent="a")
        return [await asyncio.to_thread(agent), await anyio.to_thread.run_sync(agent)]

    assert asyncio.run(main()) == ["a", "a"]


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


def test_ctx_thread_with_otel_threading(spans: Spans) -> None:
    """With OTel's threading instrumentor on, its rule holds: threads inherit, and pool jobs are bound once."""
    instrumentor = ThreadingInstrumentor()
    instrumentor.instrument()
    try:
        with egisai.context(agent="a"):
            assert in_thread(agent) == "a"
            with ThreadPoolExecutor(1) as pool:
                with egisai.context(agent="b"):
                    files = pool.submit(lambda: [frame.f_code.co_filename for frame in frames()]).result()
                    assert not any(name.endswith("egisai/context.py") for name in files)
                    assert pool.submit(agent).result() == "b"
                assert pool.submit(agent).result() == "a"
    finally:
        instrumentor.uninstrument()


def frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_ctx_thread_inherit(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads inherit context, a reused worker never keeps the agent of the request that made it start."""
    start = threading.Thread.start

    def inheriting(thread: threading.Thread) -> None:  # as Python 3.14's -X thread_inherit_context=1 does
        run, context = thread.run, contextvars.copy_context()
        thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", inheriting)
    with ThreadPoolExecutor(1) as pool:
        with egisai.context(agent="first"):
            assert in_thread(agent) == "first"  # the interpreter's own rule
            assert pool.submit(agent).result() == "first"
        assert pool.submit(agent).result() is None
        with egisai.context(agent="second"):
            assert pool.submit(agent).result() == "second"


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
    """Baggage that somebody else wrote under our names is no fact; ours stays what it was beneath it and beside it."""
    ctx = baggage.set_baggage("egisai.session_id", "theirs", Context())
    spans.provider.get_tracer("t").start_span("a", ctx).end()
    attributes = spans.all()[0].attributes
    assert "session.id" not in attributes
    assert attributes["egisai.agent.source"] == "app"

    egisai.set_context(user_id="u", session_id="s")
    attach(baggage.set_baggage("tenant", "t1"))
    assert egisai.current_context() == {"user_id": "u", "session_id": "s"}
    attach(baggage.set_baggage("egisai.session_id", "theirs"))
    attach(baggage.set_baggage("egisai.agent", "theirs"))
    assert egisai.current_context() == {"user_id": "u", "session_id": "s"}
    attach(baggage.remove_baggage("egisai.user_id"))
    assert egisai.current_context() == {"session_id": "s"}
    egisai.set_context(workflow_id="w")
    assert baggage.get_all() == {"tenant": "t1", "egisai.session_id": "s", "egisai.workflow_id": "w"}


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
