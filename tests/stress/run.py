"""Runs a program for real: event loops, threads, pools, generators, a client and its provider; says what was seen.

One interpreter, an `async def`, serves every kind of actor. Where there is no event loop it is driven by hand, and in
a generator its `Yield`s are passed on to whoever consumes that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import openai
from opentelemetry import baggage
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import get_current_span, set_span_in_context
from tests.stress.model import PROMPT, Seen
from tests.stress.program import (
    Baggage,
    Call,
    Clear,
    Generate,
    Hang,
    Later,
    Pause,
    Place,
    Program,
    ProgramError,
    Raise,
    Scope,
    Set,
    Span,
    Spawn,
    Step,
    Steps,
    Stream,
    Try,
    Use,
    Yield,
    carrier_of,
    fitting,
    values,
)

import egisai
from egisai import semconv
from provider import Provider

_DEPTHS = 24
_YIELD = object()
_ENDED = object()
_MODEL = "m-"
_PATIENCE_S = 60  # for what must happen; a deadlock fails instead of hanging

Join = Callable[[], Awaitable[Any]]


class _Closed(BaseException):
    """A generator's `GeneratorExit`, inside the coroutines that interpret its body: Python does not throw that one into
    an awaited coroutine, but closes it, and what is being closed cannot await."""


@types.coroutine
def _pass(request: Any) -> Any:
    return (yield request)


def _thrown(exc: BaseException) -> BaseException:
    """What a generator's body gets for what was thrown into the generator."""
    return _Closed() if isinstance(exc, GeneratorExit) else exc


def _drive(steps: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class Spans(SpanProcessor):
    """Everything that ended: name or model, and attributes."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, dict[str, Any]]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None: ...

    def on_end(self, span: ReadableSpan) -> None:
        attributes = dict(span.attributes or {})
        model = attributes.get(semconv.REQUEST_MODEL)
        if model is None:
            self.ended.append((span.name, attributes))
            return
        session = attributes.pop(semconv.CONVERSATION_ID, None)
        assert session == attributes.get(semconv.SESSION_ID)
        about = ("user.", "session.", "egisai.agent.", "egisai.workflow.", "egisai.prompt.", "gen_ai.agent.")
        who = {name: value for name, value in attributes.items() if name.startswith(about)}
        self.ended.append((model.removeprefix(_MODEL), who))


class Meeting:
    """Lets threads go on in pairs, at the same moment, so that what they do next collides."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_waited_for = False

    def attend(self) -> None:
        with self._condition:
            if self._is_waited_for:
                self._is_waited_for = False
                self._condition.notify()
            else:
                self._is_waited_for = True
                self._condition.wait(0.0005)
                self._is_waited_for = False


class World:
    """What programs run in: one loop, one provider, one client of each kind; `close` it."""

    def __init__(self, server: Provider) -> None:
        self.spans = Spans()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self.spans)
        egisai.init(app="app", tracer_provider=self.provider, quiet=True)
        self.tracer = self.provider.get_tracer("stress")
        self.loop = asyncio.new_event_loop()
        options: dict[str, Any] = {"base_url": server.base_url, "api_key": "sk-local", "max_retries": 0}
        self.client = openai.OpenAI(**options)
        self.async_client = openai.AsyncOpenAI(**options)

    def run(self, program: Program) -> dict[str, Seen]:
        """What was seen at each call of `program`."""
        self.spans.ended.clear()
        attach(Context())
        otel = ThreadingInstrumentor()
        if program.otel:
            otel.instrument()
        try:
            run = _Run(self, program)
            self.loop.run_until_complete(run.root(program))
        finally:
            if program.otel:
                otel.uninstrument()
        assert get_current() == Context(), "left behind in the main thread"
        if run.failures:
            raise run.failures[0]
        return run.seen()

    def close(self) -> None:
        self.client.close()
        self.loop.run_until_complete(self.async_client.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        egisai.shutdown()
        self.provider.shutdown()


class _Actor:
    def __init__(self, place: Place, joins: list[Join]) -> None:
        self.place = place
        self.joins = joins  # what to wait for at its end; of a generator, its consumer's
        self.hanging: asyncio.Event | None = None


class _Run:
    def __init__(self, world: World, program: Program) -> None:
        self.world = world
        self.failures: list[BaseException] = []
        self._facts: dict[str, tuple[dict[str, str], Any]] = {}
        self._shared: dict[tuple[str, ...], egisai.context] = {}
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._decorating = threading.Lock()
        self._meeting = Meeting()
        self._pools = [ThreadPoolExecutor(2, f"depth-{depth}") for depth in range(_DEPTHS)]
        self._otel = program.otel

    async def root(self, program: Program) -> None:
        tasks = (self._act(_Actor(Place(), []), program.body, str(copy)) for copy in range(program.copies))
        await asyncio.wait_for(asyncio.gather(*map(asyncio.ensure_future, tasks)), _PATIENCE_S)
        for pool in self._pools:
            if not self._otel:
                self._look_at_workers(pool)
            pool.shutdown()

    def _look_at_workers(self, pool: ThreadPoolExecutor) -> None:
        """Nothing stayed behind: what a job sees that reaches a worker without our help."""
        unbound = getattr(ThreadPoolExecutor.submit, "__wrapped__")  # noqa: B009 - ours is around it
        workers = len(pool._threads)
        together = threading.Barrier(max(1, workers))  # of none there is no barrier, since Python 3.13

        def look() -> Context:
            together.wait(_PATIENCE_S)
            return get_current()

        for future in [unbound(pool, look) for _ in range(workers)]:
            assert future.result() == Context(), "left behind on a worker"

    def seen(self) -> dict[str, Seen]:
        made: dict[str, Seen] = {}
        for at, attributes in self.world.spans.ended:
            assert at not in made, f"two spans of {at}"
            made[at] = Seen(attributes, *self._facts.get(at, ({}, None)))
        return made

    # --- actors --------------------------------------------------------------------------------------------------

    async def _act(self, me: _Actor, body: Steps, at: str) -> None:
        try:
            await self._steps(me, body, at)
        except (ProgramError, asyncio.CancelledError):
            pass
        except BaseException as exc:
            self.failures.append(exc)
        for join in me.joins:
            await join()

    def _spawn(self, me: _Actor, step: Spawn, at: str) -> Join:
        kind = fitting(step.kind, me.place)
        child = _Actor(me.place.spawned(kind), [])
        if kind == "cancelled":
            return self._cancelled(child, step.body, at)
        if kind == "task":
            return self._start(me, kind, lambda: self._act(child, step.body, at))
        if kind == "loop":
            return self._start(me, kind, lambda: asyncio.run(self._act(child, step.body, at)))
        return self._start(me, kind, lambda: _drive(self._act(child, step.body, at)))

    def _cancelled(self, child: _Actor, body: Steps, at: str) -> Join:
        child.hanging = asyncio.Event()
        hangs = asyncio.ensure_future(child.hanging.wait())
        task = asyncio.ensure_future(self._act(child, body, at))

        async def join() -> None:
            await asyncio.wait({task, hangs}, return_when=asyncio.FIRST_COMPLETED)
            hangs.cancel()
            if not task.done():
                task.cancel()
            await task

        return join

    def _start(self, me: _Actor, kind: str, job: Callable[[], Any]) -> Join:
        """Start `job` as `kind` does it; what waits for it gives its result."""
        match kind:
            case "task":
                task = asyncio.ensure_future(job())
                return lambda: task
            case "to_thread":
                task = asyncio.ensure_future(asyncio.to_thread(job))
                return lambda: task
            case "run_in_executor":
                future = asyncio.get_running_loop().run_in_executor(None, job)
                return lambda: future
            case "pool":
                return self._waiting(me, self._pools[me.place.depth].submit(job))
            case "map":
                results = self._pools[me.place.depth].map(lambda _: job(), (0,))
                return self._waiting(me, self._threaded(lambda: next(results)))
            case "propagated":
                return self._waiting(me, self._threaded(egisai.propagate(job)))
            case _:
                return self._waiting(me, self._threaded(job))

    def _threaded(self, job: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(job())
            except BaseException as exc:
                done.set_exception(exc)

        threading.Thread(target=run).start()
        return done

    def _waiting(self, me: _Actor, future: Future[Any]) -> Join:
        async def join() -> Any:
            if me.place.is_async:
                return await asyncio.wrap_future(future)
            return future.result(_PATIENCE_S)

        return join

    # --- steps ---------------------------------------------------------------------------------------------------

    async def _steps(self, me: _Actor, steps: Steps, at: str) -> None:
        for i, step in enumerate(steps):
            await self._step(me, step, f"{at}.{i}")

    async def _step(self, me: _Actor, step: Step, at: str) -> None:
        match step:
            case Set(fields):
                egisai.set_context(**values(fields, at))
            case Clear():
                egisai.clear_context()
            case Baggage(key):
                gone = key.removeprefix("-")
                attach(baggage.set_baggage(key, at) if gone == key else baggage.remove_baggage(gone))
            case Call(how):
                self._look(at)
                await self._call(me, how, at)
            case Yield() if me.place.generates:
                await _pass(_YIELD)
            case Pause() | Yield():
                await self._pause(me)
            case Hang() if me.place.can_hang and me.hanging is not None:
                me.hanging.set()
                await asyncio.get_running_loop().create_future()
            case Raise():
                raise ProgramError
            case Scope():
                await self._scope(me, step, at)
            case Span(body, framework) if me.place.stays:
                self._look(at)
                attributes = {semconv.AGENT_NAME: f"framework@{at}"} if framework else {}
                with self.world.tracer.start_as_current_span(at, attributes=attributes, record_exception=False):
                    await self._steps(me, body, at)
            case Span(body):
                await self._steps(me, body, at)
            case Stream(body):
                self._look(at)
                await self._stream(me, body, at)
            case Try(body, handler):
                try:
                    await self._steps(me, body, at)
                except (ProgramError, asyncio.CancelledError, _Closed) as exc:
                    await self._steps(me, handler, f"{at}.h")
                    if not isinstance(exc, ProgramError):
                        raise
            case Spawn(at_end=at_end):
                join = self._spawn(me, step, at)
                if at_end:
                    me.joins.append(join)
                else:
                    await join()
            case Later(body, between):
                # (What is bound for the length of a bare `yield` would show in the consumer: nobody binds that.)
                carried = self._steps if me.place.bare else egisai.propagate(self._steps)
                await self._steps(me, between, f"{at}.b")
                await carried(me, body, at)
            case Generate():
                await self._generate(me, step, at)

    def _look(self, at: str) -> None:
        self._facts[at] = (egisai.current_context(), baggage.get_baggage("tenant"))

    async def _pause(self, me: _Actor) -> None:
        if me.place.is_async:
            await asyncio.sleep(0)
        else:
            self._meeting.attend()

    async def _scope(self, me: _Actor, step: Scope, at: str) -> None:
        scope = self._scope_of(step, at)
        if step.how == "async with":
            async with scope:
                await self._steps(me, step.body, at)
        elif step.how == "coroutine":
            await self._decorated(step, scope, self._steps)(me, step.body, at)
        elif step.how == "function" and not me.place.is_async and not me.place.generates:
            scope(lambda: _drive(self._steps(me, step.body, at)))()
        else:
            with scope:
                await self._steps(me, step.body, at)

    def _scope_of(self, step: Scope | Generate, at: str) -> Any:
        if step.fields is None:
            return lambda function: function
        scope = egisai.context(**values(step.fields, at, step.shared))
        return self._shared.setdefault(step.fields, scope) if step.shared else scope

    def _decorated(self, step: Scope | Generate, scope: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, decorated once for all who share the scope."""
        if not step.shared:
            return scope(function)
        key = (step.fields, function.__name__)
        with self._decorating:
            if key not in self._functions:
                self._functions[key] = scope(function)
            return self._functions[key]

    # --- calls ---------------------------------------------------------------------------------------------------

    def _asking(self, how: str, at: str) -> dict[str, Any]:
        system: list[Any] = [{"role": "system", "content": PROMPT}] if how == "prompted" else []
        return {"model": f"{_MODEL}{at}", "messages": [*system, {"role": "user", "content": at}]}

    def _has_async_client(self, me: _Actor) -> bool:
        return me.place.is_async and asyncio.get_running_loop() is self.world.loop

    async def _call(self, me: _Actor, how: str, at: str) -> None:
        if how == "span":
            self.world.tracer.start_span(at).end()
        elif how == "handler":
            around = get_current_span()
            alone = set_span_in_context(around, Context()) if around.get_span_context().is_valid else Context()
            self.world.tracer.start_span(at, alone).end()
        elif self._has_async_client(me):
            await self.world.async_client.chat.completions.create(**self._asking(how, at))
        else:
            self.world.client.chat.completions.create(**self._asking(how, at))

    async def _stream(self, me: _Actor, body: Steps, at: str) -> None:
        asking = self._asking("create", at)
        if self._has_async_client(me):
            async with await self.world.async_client.chat.completions.create(**asking, stream=True) as chunks:
                await self._steps(me, body, at)
                async for _ in chunks:
                    pass
        else:
            with self.world.client.chat.completions.create(**asking, stream=True) as stream:
                await self._steps(me, body, at)
                for _ in stream:
                    pass

    # --- generators ----------------------------------------------------------------------------------------------

    def _sync_steps(self, me: _Actor, body: Steps, at: str) -> Iterator[None]:
        steps = self._steps(me, body, at)
        take, value = steps.send, None
        while True:
            try:
                take(value)
            except (StopIteration, _Closed):
                return
            try:
                yield
                take, value = steps.send, None
            except BaseException as exc:
                take, value = steps.throw, _thrown(exc)

    async def _async_steps(self, me: _Actor, body: Steps, at: str, ended: asyncio.Event) -> AsyncIterator[None]:
        steps = self._steps(me, body, at)
        take, value = steps.send, None
        try:
            while True:
                try:
                    request = take(value)
                except (StopIteration, _Closed):
                    return
                try:
                    if request is _YIELD:
                        yield
                        take, value = steps.send, None
                    else:
                        take, value = steps.send, await _pass(request)
                except BaseException as exc:
                    take, value = steps.throw, _thrown(exc)
        finally:
            ended.set()

    async def _generate(self, me: _Actor, step: Generate, at: str) -> None:
        inner = _Actor(me.place.generator(step), me.joins)
        inner.hanging = me.hanging
        scope = self._scope_of(step, at)
        # In a box, so that no thread that took a step still holds the generator when it is dropped.
        if inner.place.is_async:
            ended = asyncio.Event()
            box: list[Any] = [self._decorated(step, scope, self._async_steps)(inner, step.body, at, ended)]
            await self._consume_async(me, step, box, at)
            if step.end == "drop":
                me.joins.append(ended.wait)  # the loop closes it, in a task of its own
        else:
            box = [self._decorated(step, scope, self._sync_steps)(inner, step.body, at)]
            await self._consume(me, step, box, at)
        box.clear()

    def _around(self, use: Use, at: str) -> Any:
        return contextlib.nullcontext() if use.fields is None else egisai.context(**values(use.fields, at))

    async def _consume(self, me: _Actor, step: Generate, box: list[Any], at: str) -> None:
        def take() -> Any:
            return next(box[0], _ENDED)

        for i, use in enumerate(step.uses):
            kind = carrier_of(use, False, me.place)
            with self._around(use, f"{at}.s{i}"):
                taken = take() if kind == "inline" else await self._start(me, kind, take)()
            if taken is _ENDED:
                return
            try:
                await self._steps(me, use.between, f"{at}.u{i}")
            except BaseException:
                box[0].close()
                raise
        if step.end == "exhaust":
            for _ in box[0]:
                pass
        elif step.end == "throw":
            with contextlib.suppress(StopIteration, ProgramError):
                box[0].throw(ProgramError())
        if step.end != "drop":
            box[0].close()

    async def _consume_async(self, me: _Actor, step: Generate, box: list[Any], at: str) -> None:
        async def take() -> Any:
            return await anext(box[0], _ENDED)

        for i, use in enumerate(step.uses):
            kind = carrier_of(use, True, me.place)
            with self._around(use, f"{at}.s{i}"):
                taken = await take() if kind == "inline" else await self._start(me, kind, take)()
            if taken is _ENDED:
                return
            try:
                await self._steps(me, use.between, f"{at}.u{i}")
            except BaseException:
                await box[0].aclose()
                raise
        if step.end == "exhaust":
            async for _ in box[0]:
                pass
        elif step.end == "throw":
            with contextlib.suppress(StopAsyncIteration, ProgramError):
                await box[0].athrow(ProgramError())
        if step.end != "drop":
            await box[0].aclose()
