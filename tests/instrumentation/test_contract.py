"""Every `call-*` case, on every client of `clients/`, in each of its forms, sync and async.

`pytest tests/instrumentation/test_contract.py -k ollama` runs one client. `contract.py` says how a client is described.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import attach, get_current
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from packaging.version import Version
from tests.instrumentation.contract import Ask, Form, Session, Subject, missing, subjects, told
from tests.instrumentation.wire import Wire, break_stream, fail, hold

import egisai
from conftest import Spans
from egisai import guard
from egisai_instrumentation import methods, stainless
from egisai_instrumentation.instrumentor import INTEGRATIONS

SUBJECTS = subjects()
CASES = [
    pytest.param(subject, form, kind, id=f"{subject.library}-{form.name}-{kind}")
    for subject in SUBJECTS
    for form in subject.forms
    for kind in form.kinds
]
STREAMS = [case for case in CASES if case.values[1].stream]
WHOLE = [case for case in CASES if not case.values[1].stream]
EACH = [pytest.param(subject, id=subject.library) for subject in SUBJECTS]


@pytest.fixture
def wire(subject: Subject, request: pytest.FixtureRequest) -> Iterator[Wire]:
    form = request.getfixturevalue("form") if "form" in request.fixturenames else None
    if why := missing(subject, form):
        pytest.skip(why)
    with subject.wire() as server:
        yield server


@pytest.fixture
def session(subject: Subject, form: Form, kind: str, wire: Wire) -> Iterator[Session]:
    """A client, made before `init()`: what is made before is covered too."""
    made = Session(subject, form, kind, wire)
    yield made
    made.close()


def facts(spans: Spans) -> dict[str, Any]:
    """What the span of the one call says of the response, without what the caller may not have been told."""
    [span] = spans.calls()
    return told(span)


def name_of(exc: BaseException) -> str:
    """What `error.type` says of an exception."""
    kind = type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def left_early(spans: Spans) -> dict[str, Any]:
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["egisai.call.complete"] is False
    return dict(span.attributes)


# --- what is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_modes(session: Session, spans: Spans) -> None:
    """One span with operation, provider, server, models, tokens, finish reason, latency, and the prompt's agent."""
    form, subject = session.form, session.subject
    got = session.run()
    [span] = spans.calls()
    attributes = dict(span.attributes)
    expected = form.said(got)
    assert {word: fact for word, fact in told(span).items() if word in expected} == expected
    assert "input" in expected or form.operation == "embeddings"  # whose usage some versions of clients do not tell
    assert span.kind is SpanKind.CLIENT
    assert span.name == f"{form.operation} {subject.model}"
    assert span.status.status_code is StatusCode.UNSET
    assert attributes["gen_ai.operation.name"] == form.operation
    assert attributes["gen_ai.provider.name"] == subject.provider
    assert attributes["gen_ai.request.model"] == subject.model
    assert f"http://{attributes['server.address']}:{attributes['server.port']}" == session.wire.url
    assert attributes["egisai.agent.source"] == ("fingerprint" if form.prompted else "app")
    assert "egisai.call.complete" not in attributes
    assert attributes.get("gen_ai.request.stream", False) is form.stream
    if form.stream:
        latency_s = (span.end_time - span.start_time) / 1e9
        assert 0 < attributes["gen_ai.response.time_to_first_chunk"] <= latency_s
    assert len(session.wire.requests) == 1


@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_modes_first_chunk(session: Session, spans: Spans) -> None:
    """The first chunk reaches the caller when the provider sends it, not when it sends the next."""
    released = threading.Event()
    session.wire.hooks.append(hold(1, released))
    chunks = session.each(session.start())
    next(chunks)
    assert not spans.calls()
    released.set()
    list(chunks)
    assert "egisai.call.complete" not in spans.calls()[0].attributes


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_unchanged(session: Session) -> None:
    """The result and the chunks are what they are without us: types, values, and what they can do."""
    bare = session.start()
    bare_shape = _shape(bare, session)
    egisai.init(app="app", quiet=True, tracer_provider=TracerProvider())
    ours = session.start()
    assert isinstance(ours, type(bare))
    assert _shape(ours, session) == bare_shape


def _shape(result: Any, session: Session) -> Any:
    """What a caller can see of a result, and of all its chunks."""
    abilities = {name for name in dir(result) if not name.startswith("_") or name in ("__iter__", "__aiter__")}
    abilities -= {"listener"}
    if not session.form.stream:
        return type(result), abilities, _dump(result)
    name = getattr(result, "__qualname__", None)
    chunks = [(type(chunk), _dump(chunk)) for chunk in session.each(result)]
    return result.__class__, name, abilities, chunks


def _dump(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "http_response") or hasattr(value, "raw_response"):
        return None  # a raw response: its bytes are compared by what it parses to
    return value if isinstance(value, (dict, list, str, int, float, tuple)) else str(type(value))


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_content(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked and answered is recorded where it is wanted, and only there."""
    ask = Ask(session.subject.model)
    for mode in ("NO_CONTENT", "SPAN_ONLY"):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", mode)
        spans = Spans()
        egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
        session.run()
        attributes = spans.only()
        told = {name: attributes.get(f"gen_ai.{name}", "") for name in ("input.messages", "system_instructions")}
        assert (ask.content in told["input.messages"]) is (mode == "SPAN_ONLY")
        if session.form.prompted:
            assert (ask.system in "".join(told.values())) is (mode == "SPAN_ONLY")
        if session.form.operation != "embeddings":
            assert ("gen_ai.output.messages" in attributes) is (mode == "SPAN_ONLY")
            assert json.loads(attributes.get("gen_ai.output.messages", "[{}]"))[0].get("parts", True)
        egisai.shutdown()
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


# --- streams that are left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_early_close(session: Session, spans: Spans) -> None:
    """Closed after a chunk: one span, incomplete and no error; the connection is let go."""
    session.wire.hooks.append(hold(2, threading.Event()))
    stream = session.start()
    chunks = session.each(stream)
    next(chunks)
    session.leave(stream)
    session.wait(_turns()) if session.is_async else None  # aiohttp closes on a later turn
    attributes = left_early(spans)
    assert "gen_ai.response.time_to_first_chunk" in attributes
    assert "error.type" not in attributes
    [request] = session.wire.requests
    assert request.finished.wait(5)
    assert request.outcome == "client left"
    session.leave(stream)  # again: nothing changes
    assert len(spans.calls()) == 1


@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_early_close_unread(session: Session, spans: Spans) -> None:
    """A stream that nobody reads is a call, where the request went out at all."""
    stream = session.start()
    session.leave(stream)
    del stream
    gc.collect()
    session.wait(_turns()) if session.is_async else None
    assert len(spans.calls()) == len(session.wire.requests)
    if session.wire.requests:
        left_early(spans)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's own, without us too
@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_early_close_abandoned(session: Session, spans: Spans) -> None:
    """A stream dropped in the middle and collected."""
    stream = session.start()
    chunks = session.each(stream)
    next(chunks)
    chunks.close()
    del stream, chunks
    gc.collect()
    if session.is_async:
        session.wait(_turns())
        gc.collect()
    left_early(spans)


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_early_close_consumer_fails(session: Session, spans: Spans) -> None:
    """The caller's own exception, raised while it reads: the same object comes out, and the call is incomplete."""
    mine = ValueError("mine")

    def consume() -> None:
        stream = session.start()
        try:
            for _ in session.each(stream):
                raise mine
        finally:
            session.leave(stream)

    with pytest.raises(ValueError, match="mine") as caught:
        consume()
    assert caught.value is mine
    assert "error.type" not in left_early(spans)


@pytest.mark.parametrize(("subject", "form", "kind"), [case for case in CASES if case.values[2] == "async"])
def test_call_early_close_cancelled(session: Session, spans: Spans) -> None:
    """A cancelled task: CancelledError passes, and the call is incomplete."""
    session.wire.hooks.append(hold(1 if session.form.stream else 0, threading.Event()))

    async def main() -> None:
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        session.wire.on_request = lambda _: loop.call_soon_threadsafe(arrived.set)

        async def work() -> None:
            result: Any = session.form.call(session.client, Ask(session.subject.model))
            result = session.form.read(await result if asyncio.iscoroutine(result) else result)
            if asyncio.iscoroutine(result):
                result = await result
            async for _ in result:
                arrived.set()

        task = asyncio.create_task(work())
        await arrived.wait()
        await _turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    session.wait(main())
    gc.collect()
    session.wait(_turns())
    left_early(spans)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_error(session: Session) -> None:
    """A refused request: the exception is the SDK's own, and the span says which, with the status."""

    def make() -> None:
        result = session.start()
        assert session.form.raised == "step"
        list(session.each(result))

    def refused() -> BaseException:
        session.wire.hooks.append(fail(429))
        with pytest.raises(Exception) as caught:
            make()
        return caught.value

    bare = refused()
    spans = Spans()
    egisai.init(app="app", quiet=True, tracer_provider=spans.provider)
    ours = refused()
    assert (type(ours), str(ours)) == (type(bare), str(bare))
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == name_of(ours)
    assert span.attributes["http.response.status_code"] == 429
    assert "egisai.call.complete" not in span.attributes


@pytest.mark.parametrize(("subject", "form", "kind"), STREAMS)
def test_call_error_broken_stream(session: Session, spans: Spans) -> None:
    """A connection that is cut in the middle of a stream is an error of the call."""
    session.wire.hooks.append(break_stream(1))
    with pytest.raises(Exception) as caught:
        list(session.each(session.start()))
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == name_of(caught.value)


# --- one call, one span ----------------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, spans: Spans, subject: Subject) -> Iterator[Spans]:
    """OTel's instrumentor of the HTTP client on, and the W3C propagators global."""
    if subject.transport is None:
        pytest.skip("its transport has no OpenTelemetry instrumentor")
    http = pytest.importorskip("opentelemetry.instrumentation.httpx")
    w3c = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    monkeypatch.setattr(propagate, "propagator", w3c)
    name = "HTTPX2ClientInstrumentor" if subject.transport == "httpx2" else "HTTPXClientInstrumentor"
    if not hasattr(http, name):
        pytest.skip(f"this version of OpenTelemetry has no {name}")
    instrumentor = getattr(http, name)()
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    yield spans
    instrumentor.uninstrument()


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_nested(traced: Spans, session: Session) -> None:
    """The HTTP client's span is inside the call's, carries agent and user, and tells the provider nothing of ours."""
    attach(baggage.set_baggage("theirs", "kept"))
    with egisai.context(agent="billing", user_id="alice@example.com", session_id="s-1"):
        session.run()
    [call] = traced.calls()
    inner = [span for span in traced.all() if span is not call]
    assert [span.parent.span_id for span in inner] == [call.context.span_id]
    assert inner[0].attributes["gen_ai.agent.name"] == "billing"
    assert inner[0].attributes["user.id"] == "alice@example.com"
    [sent] = session.wire.received
    assert b"theirs=kept" in sent
    assert b"alice" not in sent
    assert b"egisai" not in sent


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_foreign(session: Session, spans: Spans) -> None:
    """Another instrumentor's span around the call is the call's: attributed, completed, and none is added."""
    tracer = spans.provider.get_tracer("theirs")
    attributes = {"gen_ai.operation.name": session.form.operation}
    with tracer.start_as_current_span("theirs", attributes=attributes), egisai.context(agent="billing", user_id="u-1"):
        session.run()
    [span] = spans.all()
    assert span.name == "theirs"
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.request.model"] == session.subject.model


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_context_time(session: Session, spans: Spans) -> None:
    """The context of the call decides, not that of the stream's end; the call leaves the context as it was."""
    egisai.set_context(agent="first", user_id="u-1", session_id="s-1")
    before = get_current()
    result = session.start()
    assert get_current() is before
    egisai.set_context(agent="second", user_id="u-2")
    if session.form.stream:
        chunks = session.each(result)
        next(chunks)
        assert egisai.current_context()["agent"] == "second"
        list(chunks)
    call = spans.only()
    assert (call["gen_ai.agent.name"], call["user.id"], call["session.id"]) == ("first", "u-1", "s-1")
    assert call["gen_ai.conversation.id"] == "s-1"


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_concurrent(session: Session, spans: Spans) -> None:
    """Calls at the same time, each with its own agent and user: no span mixes two."""

    def facts_of(i: int) -> dict[str, str]:
        return {"agent": f"agent-{i}", "user_id": f"user-{i}"}

    if session.is_async:

        async def one(i: int) -> None:
            egisai.set_context(**facts_of(i))
            result: Any = session.form.call(session.client, Ask(session.subject.model))
            result = session.form.read(await result if asyncio.iscoroutine(result) else result)
            if asyncio.iscoroutine(result):
                result = await result
            if session.form.stream:
                async for _ in result:
                    await asyncio.sleep(0)

        async def all_of_them() -> None:
            await asyncio.gather(*(one(i) for i in range(8)))

        session.wait(all_of_them())
    else:

        def one_sync(i: int) -> None:
            egisai.set_context(**facts_of(i))
            session.run()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: contextvars.Context().run(one_sync, i), range(8)))
    seen = {(span.attributes["gen_ai.agent.name"], span.attributes["user.id"]) for span in spans.calls()}
    assert seen == {(f"agent-{i}", f"user-{i}") for i in range(8)}
    assert len(spans.calls()) == 8


# --- our own failures, and being switched off ------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["read_request", "read_prompt", "read_response", "fold"])
@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_reader_fails(
    session: Session, spans: Spans, reader: str, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    """A reader of ours raises: the caller notices nothing, the failure is counted, and there is a span."""
    monkeypatch.setattr(guard, "strict", False)

    def boom(*_: Any) -> Any:
        raise RuntimeError("ours")

    def broken(endpoint: Any) -> Any:
        if reader != "fold":
            return _with(endpoint, reader, boom)
        return _with(endpoint, "fold", endpoint.fold and (lambda: _BrokenFold(endpoint.fold())))

    _replace_endpoints(monkeypatch, broken)
    form.said(session.run())
    assert len(spans.calls()) == 1
    counted = [reason for reason in guard.counts() if reason.startswith("error:")]
    is_read = {"read_response": not form.stream, "fold": form.stream}.get(reader, True)
    assert bool(counted) is is_read or reader == "read_response"  # a fold may use the reader of whole responses


class _BrokenFold:
    def __init__(self, fold: Any) -> None:
        self.usage_asked = False

    def feed(self, chunk: Any) -> bool:
        raise RuntimeError("ours")

    def attributes(self) -> dict[str, Any]:
        raise RuntimeError("ours")


def _with(endpoint: Any, name: str, value: Any) -> Any:
    return replace(endpoint, **{name: value})


def _replace_endpoints(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    for module in (methods, stainless):
        begin = module.begin

        def changed(tracer: Any, endpoint: Any, *args: Any, begin: Any = begin, **kwargs: Any) -> Any:
            return begin(tracer, change(endpoint), *args, **kwargs)

        monkeypatch.setattr(module, "begin", changed)


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_suppressed(session: Session, spans: Spans) -> None:
    """OTel's suppress_instrumentation is honoured."""
    with suppress_instrumentation():
        session.run()
    assert not spans.all()


@pytest.mark.parametrize(("subject", "form", "kind"), CASES)
def test_call_unsampled(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsampled call works, and nothing of its response is read."""
    read: list[str] = []

    def noted(endpoint: Any) -> Any:
        noting = _with(endpoint, "read_response", lambda _: read.append("response") or {})
        return _with(noting, "fold", endpoint.fold and (lambda: read.append("fold") or endpoint.fold()))

    egisai.init(app="app", quiet=True, tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    _replace_endpoints(monkeypatch, noted)
    session.form.said(session.run())
    assert read == []


@pytest.mark.parametrize("subject", EACH)
def test_call_uninstrument(subject: Subject, wire: Wire) -> None:
    """Every original is restored, and instrumenting twice does not double."""
    [integration] = [each for each in INTEGRATIONS if each.library == subject.library]
    importlib.import_module(subject.imports or subject.library)
    installed = Version(version(subject.library))
    hooks = [each for each in (*integration.methods, *integration.others) if installed >= Version(each.since or "0")]
    targets = [*integration.targets, *((each.module, each.path) for each in hooks)]
    targets = [(module, path) for module, path in targets if _exists(module)]

    def current() -> list[Any]:
        owners = [(importlib.import_module(module), *path.rpartition(".")[::2]) for module, path in targets]
        return [
            vars(reduce(getattr, filter(None, where.split(".")), module)).get(name) for module, where, name in owners
        ]

    originals = current()
    provider = TracerProvider()
    egisai.init(app="app", quiet=True, tracer_provider=provider)
    ours = current()
    assert all(a is not b for a, b in zip(originals, ours, strict=True))
    egisai.init(app="app", quiet=True, tracer_provider=provider)
    assert all(a is b for a, b in zip(ours, current(), strict=True))
    egisai.shutdown()
    assert all(a is b for a, b in zip(originals, current(), strict=True))


def _exists(module: str) -> bool:
    """Whether this version of a client has a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


PROGRAM = """
import sys
import types
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import egisai
url, module = sys.argv[1:]
provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
egisai.init(app="app", tracer_provider=provider, quiet=True)
assert module not in sys.modules, f"init() imported {module}"
import tests.instrumentation.contract as contract
subject = next(each for each in contract.subjects() if (each.imports or each.library) == module)
form = next(form for form in subject.forms if not contract.missing(subject, form))
contract.Session(subject, form, form.kinds[0], types.SimpleNamespace(url=url)).start()
[span] = exporter.get_finished_spans()
assert span.attributes["gen_ai.provider.name"] == subject.provider
"""


@pytest.mark.parametrize("subject", EACH)
def test_call_import_order(subject: Subject, wire: Wire, pytestconfig: pytest.Config) -> None:
    """`init()` before the client is imported imports nothing, and covers it when it is."""
    root = pytestconfig.rootpath
    arguments = [sys.executable, "-c", PROGRAM, wire.url, subject.imports or subject.library]
    path = ":".join(str(each) for each in (root, root / "examples", root / "tests", *filter(None, sys.path)))
    done = subprocess.run(arguments, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
