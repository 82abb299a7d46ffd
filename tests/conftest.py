"""What every test starts from: an empty context, no settings in the environment, and bugs of ours that raise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import egisai
from egisai import attribution, fingerprint, guard
from provider import Provider

if TYPE_CHECKING:
    from selenium import webdriver


@pytest.fixture(autouse=True, scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test speaks TLS, but each client made reads a whole bundle of authorities, which is a third of its test."""
    end = "-----END CERTIFICATE-----"
    bundle = tmp_path_factory.mktemp("tls") / "authority.pem"
    bundle.write_text(certifi.contents().split(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(bundle))
        yield


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in (
        "API_KEY",
        "APP",
        "ENV",
        "BASE_URL",
        "ORGANISATION",
        "SPOOL_DIR",
        "TRUSTED_HOSTS",
        "CONTEXT_SECRET",
        "TRUST_INBOUND",
    ):
        monkeypatch.delenv(f"EGISAI_{name}", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(guard, "strict", True)
    guard.reset()
    fingerprint.clear()
    attribution.use(attribution.Attribution())
    attach(Context())
    yield
    egisai.shutdown()
    attach(Context())


_CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A Chromium of its own; skips where there is none."""
    from selenium import webdriver  # the SDK's oldest environment has no browser

    chromium, chromedriver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs Chromium and its driver on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_CHROMIUM_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


class Spans:
    """The spans that a test made, in the order in which they ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.all() if "gen_ai.operation.name" in span.attributes]

    def only(self) -> dict[str, object]:
        """The attributes of the one call there was, which is then forgotten."""
        calls = self.calls()
        assert [span.name for span in calls] == [calls[0].name] if calls else False, calls
        self.exporter.clear()
        return dict(calls[0].attributes)


@pytest.fixture
def spans() -> Iterator[Spans]:
    """A provider that keeps its spans in memory; `egisai.init()` was called on it, with app "app"."""
    recorded = Spans()
    egisai.init(app="app", tracer_provider=recorded.provider, quiet=True)
    yield recorded
    egisai.shutdown()
    recorded.provider.shutdown()


@pytest.fixture(scope="session")
def _server() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def server(_server: Provider) -> Iterator[Provider]:
    """The local provider, behaving, with no requests recorded."""
    _server.requests.clear()
    yield _server
    _server.hooks.clear()
    _server.on_request = None
    _server.latency_s = _server.chunk_delay_s = 0
