"""otel-no-leak: the bytes that arrive, under public and private names, by every client with OTel's instrumentors on."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import attach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from tests.trust.conftest import Recorder

import egisai
from conftest import Spans
from egisai import propagation
from egisai.propagation import EgisPropagator, Trust
from egisai.settings import ConfigurationError, Settings

FACTS = {"agent": "Billing Agent", "user_id": "alice+1@example.com", "session_id": "s-1", "workflow_id": "w 100%"}
OURS = {f"egisai.{name}": value for name, value in FACTS.items()}


def _httpx(url: str, library: str = "httpx") -> None:
    importlib.import_module(library).get(url, follow_redirects=True)


def _httpx2(url: str) -> None:
    _httpx(url, "httpx2")


def _requests(url: str) -> None:
    importlib.import_module("requests").get(url, timeout=10)


def _urllib3(url: str) -> None:
    with importlib.import_module("urllib3").PoolManager() as pool:
        pool.request("GET", url)


def _aiohttp(url: str) -> None:
    aiohttp = importlib.import_module("aiohttp")

    async def get() -> None:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())) as session,
            session.get(url) as response,
        ):
            await response.read()

    asyncio.run(get())


def _botocore(url: str) -> None:
    session = importlib.import_module("botocore.session").get_session()
    client = session.create_client(
        "dynamodb", "us-east-1", endpoint_url=url, aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.list_tables()
    client.close()


CLIENTS: dict[str, tuple[str, str, Callable[[str], None]]] = {
    "httpx": ("httpx", "HTTPXClientInstrumentor", _httpx),
    "httpx2": ("httpx", "HTTPX2ClientInstrumentor", _httpx2),
    "requests": ("requests", "RequestsInstrumentor", _requests),
    "urllib3": ("urllib3", "URLLib3Instrumentor", _urllib3),
    "aiohttp": ("aiohttp_client", "AioHttpClientInstrumentor", _aiohttp),
    "botocore": ("botocore", "BotocoreInstrumentor", _botocore),
}


def _instrumentor(module: str, name: str) -> Any:
    made = getattr(pytest.importorskip(f"opentelemetry.instrumentation.{module}"), name, None)
    return made() if made is not None else pytest.skip(f"no {name} in this version")


@pytest.fixture(params=CLIENTS)
def get(request: pytest.FixtureRequest, spans: Spans) -> Iterator[Callable[[str], None]]:
    """A real client, traced by OTel's instrumentor."""
    pytest.importorskip(request.param)
    module, name, call = CLIENTS[request.param]
    instrumentor = _instrumentor(module, name)
    more = {"propagator": propagate.get_global_textmap()} if module == "botocore" else {}  # X-Ray's alone, otherwise
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True, **more)
    yield call
    instrumentor.uninstrument()


@pytest.mark.parametrize("host", ["127.0.0.1", "billing", "billing.prod.svc.cluster.local", "crm.partner.example"])
def test_otel_no_leak_but_to_ours(get: Callable[[str], None], recorder: Recorder, host: str, secret: str) -> None:
    """Private addresses and names, and those on the list, get the facts, signed, after other people's baggage."""
    propagation.use(Trust.of(Settings.resolve(trusted_hosts=["*.partner.example"])))
    attach(baggage.set_baggage("theirs", "kept"))
    with egisai.context(**FACTS):
        get(recorder.url(host))
    members = recorder.members()
    assert members.pop("egisai.signature").startswith("1.")
    assert members == {"theirs": "kept"} | OURS
    assert b"baggage: theirs=kept," in recorder.sent[-1].replace(b"Baggage:", b"baggage:")


@pytest.mark.parametrize("host", ["api.example.com", "localhost.evil.com", "partner.example"])
def test_otel_no_leak(get: Callable[[str], None], recorder: Recorder, host: str, secret: str) -> None:
    """A public host gets other people's baggage and not a byte of ours."""
    propagation.use(Trust.of(Settings.resolve(trusted_hosts=["*.partner.example"])))
    attach(baggage.set_baggage("theirs", "kept"))
    with egisai.context(**FACTS):
        get(recorder.url(host))
        assert egisai.current_context() == FACTS
    assert recorder.members() == {"theirs": "kept"}
    assert b"egisai." not in recorder.sent[-1]
    assert b"alice" not in recorder.sent[-1]


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_otel_no_leak_by_redirect(client: str, recorder: Recorder, spans: Spans, secret: str) -> None:
    """A trusted host that redirects to a public one: the second request has lost what the first one had."""
    pytest.importorskip(client)
    module, name, call = CLIENTS[client]
    instrumentor = _instrumentor(module, name)
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    recorder.redirect = recorder.url("api.example.com")
    try:
        with egisai.context(**FACTS):
            call(recorder.url("billing"))
    finally:
        instrumentor.uninstrument()
    first, second = recorder.sent
    assert b"egisai.user_id" in first
    assert b"egisai." not in second


def test_otel_no_leak_by_llm_clients(recorder: Recorder, spans: Spans, secret: str) -> None:
    """A provider gets nothing, even by a name that would be trusted, from clients that we or they themselves trace."""
    propagation.use(Trust.of(Settings.resolve(trusted_hosts=["api.example.com"])))
    openai = pytest.importorskip("openai")
    instrumentor = _instrumentor("httpx", "HTTPX2ClientInstrumentor")
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    attach(baggage.set_baggage("theirs", "kept"))
    base_url = f"http://api.example.com:{recorder.port}/v1"
    try:
        with egisai.context(**FACTS), openai.OpenAI(base_url=base_url, api_key="k") as client:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    finally:
        instrumentor.uninstrument()
    assert recorder.members() == {"theirs": "kept"}
    assert b"egisai." not in recorder.sent[-1]


def test_otel_no_leak_by_anthropic(recorder: Recorder, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """anthropic 2 traces itself and injects the global propagators into its requests: not our part of them."""
    anthropic = pytest.importorskip("anthropic", minversion="2")
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", spans.provider)
    attach(baggage.set_baggage("theirs", "kept"))
    base_url = f"http://api.example.com:{recorder.port}"
    with egisai.context(**FACTS), anthropic.Anthropic(base_url=base_url, api_key="k") as client:
        client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hello"}])
    assert recorder.members() == {"theirs": "kept"}
    assert b"egisai." not in recorder.sent[-1]


def test_otel_no_leak_by_grpc(spans: Spans) -> None:
    """OTel's gRPC client says nothing of the destination, so nothing of ours is in the metadata."""
    grpc = pytest.importorskip("grpc")
    otel = pytest.importorskip("opentelemetry.instrumentation.grpc")
    from concurrent.futures import ThreadPoolExecutor

    seen: list[dict[str, Any]] = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            seen.append(dict(details.invocation_metadata))
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    instrumentor = otel.GrpcInstrumentorClient()
    instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True)
    attach(baggage.set_baggage("theirs", "kept"))
    try:
        with egisai.context(**FACTS), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert channel.unary_unary("/service/Method")(b"x") == b"x"
    finally:
        instrumentor.uninstrument()
        server.stop(None).wait()
    assert seen[0]["baggage"] == "theirs=kept"


def test_otel_no_leak_by_mcp(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """mcp 2 injects the global propagators into `_meta` of what it asks a server: not our part of them."""
    mcp = pytest.importorskip("mcp")
    server_module = pytest.importorskip("mcp.server.mcpserver")
    otel = importlib.import_module("mcp.shared._otel")
    monkeypatch.setattr(otel, "_tracer", spans.provider.get_tracer("mcp"))
    server = server_module.MCPServer("s")
    seen: list[dict[str, Any]] = []
    inject = otel.inject_trace_context

    def spy(meta: dict[str, Any]) -> None:
        inject(meta)
        seen.append(dict(meta))

    monkeypatch.setattr("mcp.shared.jsonrpc_dispatcher.inject_trace_context", spy)
    server.tool()(_tool)
    attach(baggage.set_baggage("theirs", "kept"))

    async def call() -> None:
        async with mcp.Client(server, mode="legacy") as client:
            await client.call_tool("_tool", {})

    with egisai.context(**FACTS):
        asyncio.run(call())
    assert seen
    assert {meta["baggage"] for meta in seen} == {"theirs=kept"}


def _tool() -> str:
    return "done"


def test_otel_no_leak_where_the_destination_is_unknown(spans: Spans, secret: str) -> None:
    """No span, one that is not sampled, a server's, or a client's that says nothing: nothing of ours."""
    egisai.set_context(**FACTS)

    def inject() -> dict[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        carrier.pop("traceparent", None)
        return carrier

    address = {"server.address": "127.0.0.1"}
    assert inject() == {}
    tracer = spans.provider.get_tracer("t")
    for kind in (SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CONSUMER):
        with tracer.start_as_current_span("other", kind=kind, attributes=address):
            assert inject() == {}
    with tracer.start_as_current_span("blind", kind=SpanKind.CLIENT):
        assert inject() == {}
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("t")
    with unsampled.start_as_current_span("unsampled", kind=SpanKind.CLIENT, attributes=address):
        assert inject() == {}
    with tracer.start_as_current_span("get", kind=SpanKind.CLIENT, attributes=address):
        assert "egisai.user_id" in inject()["baggage"]
    with tracer.start_as_current_span("get", kind=SpanKind.CLIENT, attributes={**address, "http.url": "http://e.com"}):
        assert inject() == {}


@pytest.mark.parametrize("propagator", [W3CBaggagePropagator, EgisPropagator])
def test_otel_no_leak_whichever_propagator(propagator: type[W3CBaggagePropagator], spans: Spans, secret: str) -> None:
    """One that somebody made for himself, and ours on its own, are as careful as the global ones."""
    egisai.set_context(**FACTS)
    carrier: dict[str, str] = {}
    propagator().inject(carrier)
    assert carrier == {}
    with spans.provider.get_tracer("t").start_as_current_span("send", kind=SpanKind.PRODUCER):
        propagator().inject(carrier)
    assert "egisai.session_id=s-1" in carrier["baggage"]


TRUSTED = [
    *(
        "127.0.0.1",
        "127.8.8.8",
        "127.0.0.1.",
        "10.0.0.1",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "::1",
        "[::1]",
        "fd00::1",
    ),
    *("fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1", "localhost", "LOCALHOST.", "billing", "my_service", "a.localhost"),
    *("printer.local", "db.internal", "billing.prod.svc", "billing.prod.svc.cluster.local", "nas.home.arpa"),
    *("crm.example.org", "CRM.Example.org.", "eu.partner.example", "a.eu.partner.example", "203.0.113.7"),
]
STRANGERS = [
    *("", ".", "..", "8.8.8.8", "172.32.0.1", "100.64.0.1", "192.0.2.1", "0.0.0.0", "2001:db8::1", "::ffff:8.8.8.8"),
    *("64:ff9b::a00:1", "134744072", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "1.2", "8.8.8.8."),
    *("localhost.evil.com", "127.0.0.1.evil.com", "evil.com", "local.evil.com", "evil.com.", "internal.evil", "ai."),
    *(
        "evillocal.com",
        "localhost%2eevil.com",
        "localhost/evil.com",
        "localhost\\evil",
        "a b",
        "localhost\n",
        "ⓛocalhost",
    ),
    *("bücher.local", "evil。com", "/var/run/x.sock", "partner.example", "evilpartner.example", "www.crm.example.org"),
    *("localhost@evil.com", "localhost:80", "-..local", "http://localhost"),
]


@pytest.mark.parametrize("host", TRUSTED)
def test_otel_no_leak_trusted_forms(host: str) -> None:
    trusted = ["crm.example.org", "*.partner.example", "203.0.113.7"]
    assert Trust.of(Settings.resolve(trusted_hosts=trusted)).sends_to(host)


@pytest.mark.parametrize("host", STRANGERS)
def test_otel_no_leak_hostile_forms(host: str) -> None:
    trusted = ["crm.example.org", "*.partner.example", "203.0.113.7"]
    assert not Trust.of(Settings.resolve(trusted_hosts=trusted)).sends_to(host)


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://localhost/", True),
        ("http://LOCALHOST:8080", True),
        ("http://[::1]:80/x?y#z", True),
        ("http://REDACTED:REDACTED@billing/x", True),
        ("http://user@billing/x@evil.com", True),
        ("http://localhost@evil.com/", False),
        ("http://localhost:80@evil.com/", False),
        ("http://a@localhost@evil.com/", False),
        ("http://evil.com@a@localhost/", False),
        ("http://evil.com\\@localhost/", False),
        ("http://evil.com#@localhost/", False),
        ("http://evil.com?@localhost/", False),
        ("http://localhost\t.evil.com/", False),
        ("http://evil.com\u2044@localhost/", False),
        ("http://[::1/", False),
        ("http://[::1].evil.com/", False),
        ("http:///localhost", False),
        ("localhost/x", False),
        ("", False),
    ],
)
def test_otel_no_leak_hostile_urls(url: str, trusted: bool, spans: Spans) -> None:
    """Userinfo, ports, brackets, control and look-alike characters are read as the strictest client would."""
    egisai.set_context(user_id="u")
    carrier: dict[str, str] = {}
    tracer = spans.provider.get_tracer("t")
    with tracer.start_as_current_span("get", kind=SpanKind.CLIENT, attributes={"url.full": url}):
        propagate.inject(carrier)
    assert ("egisai.user_id=u" in carrier.get("baggage", "")) == trusted


@pytest.mark.parametrize(
    "hosts", ["*", "https://x.com", "x.com/a", "x.com:80", "*.*.com", "bücher.de", "a b", [5], ["ok.com", ""], 5]
)
def test_trusted_hosts_are_checked(hosts: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_hosts"):
        Settings.resolve(trusted_hosts=hosts)


def test_trusted_hosts_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGISAI_TRUSTED_HOSTS", "a.example.com, *.B.example, 10.0.0.1,fd00::1,")
    assert Settings.resolve().trusted_hosts == ("a.example.com", "*.b.example", "10.0.0.1", "fd00::1")
