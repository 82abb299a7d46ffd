"""otel-no-spoof and otel-hop: what arrives from other processes, believed only where one of ours signed it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import fastapi
import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.trust.conftest import SECRET

import egisai
from conftest import Spans
from egisai import propagation
from egisai.propagation import Trust
from egisai.settings import ConfigurationError, Settings

FACTS = {"agent": "Billing Agent", "user_id": "alice", "user_role": "a+b", "session_id": "s 1", "workflow_id": "100%"}
TRACER = TracerProvider().get_tracer("t")


def sent(kind: SpanKind = SpanKind.PRODUCER, context: Context | None = None, **facts: str) -> str:
    """The baggage header that a context with these facts sends."""
    carrier: dict[str, str] = {}
    attach(Context() if context is None else context)
    egisai.set_context(**facts)  # type: ignore[arg-type]
    with TRACER.start_as_current_span("send", kind=kind, attributes={"server.address": "billing"}):
        propagate.inject(carrier)
    attach(Context())
    return carrier.get("baggage", "")


def received(header: str, context: Context | None = None) -> dict[str, str]:
    """The facts that a process knows which receives this header."""
    attach(propagate.extract({"baggage": header}, Context() if context is None else context))
    try:
        return egisai.current_context()
    finally:
        attach(Context())


def counts() -> dict[str, int]:
    return {key: n for key, n in egisai.diagnostics()["counts"].items() if key.startswith("refused:context")}


# --- one process's word to another --------------------------------------------------------------------------------


def test_otel_no_spoof_signed(secret: str) -> None:
    """What one of ours sent is believed, field by field, and replaces what the receiver had."""
    header = sent(**FACTS)
    assert received(header) == FACTS
    egisai.set_context(agent_id="0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3b", user_id="mine")
    attach(propagate.extract({"baggage": header}, get_current()))
    assert egisai.current_context() == FACTS
    assert counts() == {}


FORGERIES: dict[str, tuple[Callable[[str], str], str]] = {
    "unsigned": (lambda h: h[: h.index(",egisai.signature")], "missing"),
    "empty": (lambda h: h[: h.index("egisai.signature")] + "egisai.signature=", "malformed"),
    "altered": (lambda h: h.replace("alice", "mallory"), "wrong"),
    "added": (lambda h: h + ",egisai.agent_id=0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3b", "wrong"),
    "repeated": (lambda h: h + ",egisai.user_id=mallory", "wrong"),
    "removed": (lambda h: h.replace("egisai.user_id=alice,", ""), "wrong"),
    "renamed": (lambda h: h.replace("user_id=", "user_role=", 1), "wrong"),
    "later": (lambda h: h.replace("signature=1.1", "signature=1.2"), "wrong"),
    "other version": (lambda h: h.replace("signature=1.", "signature=2."), "malformed"),
    "truncated": (lambda h: h[:-1], "malformed"),
    "other secret": (lambda h: h[:-4] + ("AAAA" if h[-4:] != "AAAA" else "BBBB"), "wrong"),
    "control": (lambda h: h.replace("alice", "al%0Aice"), "wrong"),
    "huge": (lambda h: h.replace("alice", "a" * 300), "wrong"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_otel_no_spoof_altered(forgery: str, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    """Unsigned, altered and rearranged members are ignored, counted by reason and logged once; the rest is kept."""
    forge, reason = FORGERIES[forgery]
    header = "theirs=kept," + forge(sent(**FACTS))
    for _ in range(2):
        assert received(header) == {}
    ctx = propagate.extract({"baggage": header}, Context())
    assert baggage.get_all(ctx) == {"theirs": "kept"}
    assert counts() == {f"refused:context:{reason}": 3}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "mallory" not in caplog.text


def test_otel_no_spoof_beneath(secret: str) -> None:
    """A forged header takes nothing away from what this process says itself."""
    egisai.set_context(agent="mine", user_id="u")
    attach(propagate.extract({"baggage": "egisai.user_id=mallory,egisai.session_id=s,theirs=kept"}, get_current()))
    assert egisai.current_context() == {"agent": "mine", "user_id": "u"}
    assert baggage.get_baggage("theirs") == "kept"
    assert baggage.get_baggage("egisai.user_id") == "u"


def test_otel_no_spoof_expired(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's facts are believed for five minutes, a message's for fourteen days."""
    import time

    now = time.time()
    request, message = sent(SpanKind.CLIENT, **FACTS), sent(SpanKind.PRODUCER, **FACTS)
    monkeypatch.setattr(time, "time", lambda: now + 298)
    assert received(request) == FACTS
    monkeypatch.setattr(time, "time", lambda: now + 302)
    assert received(request) == {}
    assert counts() == {"refused:context:expired": 1}
    monkeypatch.setattr(time, "time", lambda: now + 14 * 86_400 - 2)
    assert received(message) == FACTS
    monkeypatch.setattr(time, "time", lambda: now + 14 * 86_400 + 2)
    assert received(message) == {}


def test_otel_no_spoof_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two secrets signs, both verify, others do not."""
    old, new, other = "the old secret 00", "the new secret 00", "another's secret 0"

    def use(secret: str) -> None:
        propagation.use(Trust.of(Settings.resolve(context_secret=secret)))

    def reaches(sender: str, receiver: str) -> bool:
        use(sender)
        header = sent(user_id="u")
        use(receiver)
        return received(header) == {"user_id": "u"}

    assert reaches(old, f"{old}, {new}")
    assert reaches(old, f"{new},{old}")
    assert reaches(f"{old},{new}", old)
    assert reaches(f"{new},{old}", new)
    assert not reaches(f"{new},{old}", old)
    assert not reaches(other, f"{new},{old}")


def test_otel_no_spoof_without_a_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Facts go out unsigned; what arrives is not believed, not even a right signature, unless `trust_inbound`."""
    propagation.use(Trust.of(Settings.resolve(context_secret=SECRET)))
    signed = sent(**FACTS)
    propagation.use(None)
    unsigned = sent(**FACTS)
    assert "signature" not in unsigned
    assert received(signed) == received(unsigned) == {}
    assert counts() == {"refused:context:unverifiable": 2}
    assert "set EGISAI_CONTEXT_SECRET" in caplog.text
    monkeypatch.setenv("EGISAI_TRUST_INBOUND", "true")
    propagation.use(None)
    assert received(signed) == received(unsigned) == FACTS
    malformed = f"{unsigned},egisai.agent_id=nonsense,egisai.session_id=a%0Ab,egisai.user_id={'x' * 300}"
    assert received(malformed) == {key: FACTS[key] for key in ("agent", "user_role", "workflow_id")}


def test_init_sets_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """init() takes the trust settings, shows them without the secret, and shutdown() takes them back."""
    egisai.init(context_secret=SECRET, trusted_hosts=["a.example.com"], quiet=True, tracer_provider=TracerProvider())
    assert propagation.current().secrets == (SECRET.encode(),)
    assert propagation.current().sends_to("a.example.com")
    shown = egisai.diagnostics()["settings"]
    assert shown["trusted_hosts"] == "a.example.com"
    assert SECRET not in str(egisai.diagnostics())
    egisai.shutdown()
    assert propagation.current() == Trust()


@pytest.mark.parametrize("secret", ["short", "a,b", f"{SECRET},", f"{SECRET},{SECRET},{SECRET}"])
def test_secrets_are_checked(secret: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """init() refuses a secret that is none, without showing it; where nobody called init(), that is a log line."""
    with pytest.raises(ConfigurationError, match="context_secret is unusable") as error:
        egisai.init(context_secret=secret)
    assert SECRET not in str(error.value)
    monkeypatch.setenv("EGISAI_CONTEXT_SECRET", secret)
    propagation.use(None)
    assert propagation.current() == Trust()
    assert "context_secret is unusable" in caplog.text
    with pytest.raises(ConfigurationError, match="trust_inbound='yes' is neither"):
        Settings.resolve(context_secret=SECRET, trust_inbound="yes")  # type: ignore[arg-type]


def test_otel_hop_by_name(secret: str) -> None:
    """`OTEL_PROPAGATORS=tracecontext,baggage,egisai`, or without `baggage`: one and the same header, judged once."""
    [ours] = entry_points(group="opentelemetry_propagator", name="egisai")
    header = sent(**FACTS)
    for propagators in ([W3CBaggagePropagator(), ours.load()()], [ours.load()()]):
        both = CompositePropagator([TraceContextTextMapPropagator(), *propagators])
        carrier: dict[str, str] = {}
        egisai.set_context(**FACTS)  # type: ignore[arg-type]
        with TRACER.start_as_current_span("send", kind=SpanKind.PRODUCER):
            both.inject(carrier)
        attach(Context())
        assert carrier["baggage"].partition("egisai.signature")[0] == header.partition("egisai.signature")[0]
        attach(both.extract(carrier))
        assert egisai.current_context() == FACTS
        both.extract({"baggage": "egisai.user_id=mallory"})
    assert counts() == {"refused:context:missing": 2}


# --- the header ---------------------------------------------------------------------------------------------------


def test_otel_no_spoof_overflow(secret: str) -> None:
    """Where others leave little room, the agent goes first, what has none is counted, and what is sent verifies."""
    facts = {"agent_id": "0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3b", **FACTS, "user_id": "u" * 256, "session_id": "é" * 256}
    for length in (6000, 7300, *range(7850, 8181, 10)):
        others = {f"k{i}": "x" * min(4000, length - 4000 * i) for i in range(3) if length > 4000 * i}
        ctx = Context()
        for key, value in others.items():
            ctx = baggage.set_baggage(key, value, ctx)
        plain = ",".join(f"{key}={value}" for key, value in others.items())
        header = sent(context=ctx, **facts)
        assert len(header) <= 8192
        assert header.startswith(plain)
        believed = received(header)
        order = ["agent_id", "agent", "user_id", "user_role", "session_id", "workflow_id"]
        assert believed == {name: facts[name] for name in order[: len(believed)]}
    assert egisai.diagnostics()["counts"]["overflow:baggage"] > 6
    assert counts() == {}


def test_otel_no_spoof_members(secret: str) -> None:
    """No more than 180 members, ours and theirs together."""
    ctx = Context()
    for i in range(177):
        ctx = baggage.set_baggage(f"k{i}", "v", ctx)
    header = sent(context=ctx, **FACTS)
    assert header.count(",") + 1 == 180
    assert received(header) == {name: FACTS[name] for name in ("agent", "user_id")}


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=20)
VALUES = st.text(max_size=256)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    facts=st.fixed_dictionaries({}, optional=dict.fromkeys(FACTS, VALUES)),
    others=st.dictionaries(NAMES.filter(lambda name: not name.startswith("egisai.")), st.text(max_size=40), max_size=5),
)
def test_otel_hop_is_exact(facts: dict[str, str], others: dict[str, str], secret: str) -> None:
    """Whatever set_context takes arrives as it was; others' baggage is what plain W3C makes of it, byte for byte."""
    plain = Context()
    for key, value in others.items():
        plain = baggage.set_baggage(key, value, plain)
    expected: dict[str, str] = {}
    W3CBaggagePropagator().inject(expected, plain)
    attach(plain)
    egisai.set_context(**facts)  # type: ignore[arg-type]
    kept = egisai.current_context()
    header = sent(context=plain, **facts)
    theirs = ",".join(member for member in header.split(",") if not member.startswith("egisai."))
    assert theirs == expected.get("baggage", "")
    assert header.startswith(theirs)
    assert received(header) == kept
    without = baggage.get_all(propagate.extract(expected, Context()))
    arrived = baggage.get_all(propagate.extract({"baggage": header}, Context()))
    assert {key: value for key, value in arrived.items() if not key.startswith("egisai.")} == without


# --- real services ------------------------------------------------------------------------------------------------


@pytest.fixture
def service(spans: Spans, secret: str) -> Iterator[str]:
    """The URL of a FastAPI service, traced by OTel's instrumentor, that tells what it knows of its caller."""
    propagation.use(Trust.of(Settings.resolve()))
    app = fastapi.FastAPI()

    @app.post("/who")
    async def who() -> dict[str, str]:
        with spans.provider.get_tracer("service").start_as_current_span("work"):
            return egisai.current_context()

    FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/who"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(spans: Spans) -> Iterator[Any]:
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    yield httpx.post
    instrumentor.uninstrument()


def test_otel_hop(service: str, client: Any, spans: Spans) -> None:
    """Agent, user, session and workflow cross from one service to another of the organisation, and are on its spans."""
    with egisai.context(**FACTS):
        assert client(service).json() == FACTS
    [work] = [span for span in spans.all() if span.name == "work"]
    assert work.attributes["gen_ai.agent.name"] == "Billing Agent"
    assert work.attributes["egisai.agent.source"] == "name"
    assert work.attributes["user.id"] == "alice"
    assert work.attributes["user.roles"] == ("a+b",)
    assert work.attributes["session.id"] == "s 1"
    assert work.attributes["egisai.workflow.id"] == "100%"
    assert client(service).json() == {}  # the next request starts clean


@pytest.mark.parametrize("forgery", FORGERIES)
def test_otel_no_spoof(service: str, spans: Spans, forgery: str) -> None:
    """A forged header changes nothing: not what the service knows, not its spans."""
    header = FORGERIES[forgery][0](sent(**FACTS))
    assert httpx.post(service, headers={"baggage": header}).json() == {}
    for span in spans.all():
        assert span.attributes["gen_ai.agent.name"] == "app"
        assert not {"user.id", "user.roles", "session.id", "egisai.workflow.id"} & span.attributes.keys()


def test_otel_hop_by_a_queue(spans: Spans, secret: str) -> None:
    """A message carries the facts of its producer to its consumer."""
    propagation.use(None)
    tracer = spans.provider.get_tracer("queue")
    message: dict[str, str] = {}
    with egisai.context(**FACTS), tracer.start_as_current_span("send", kind=SpanKind.PRODUCER):
        propagate.inject(message)
    with tracer.start_as_current_span("process", propagate.extract(message, Context()), kind=SpanKind.CONSUMER) as span:
        assert span.attributes["user.id"] == "alice"
        assert span.attributes["gen_ai.agent.name"] == "Billing Agent"
