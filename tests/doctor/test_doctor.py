"""`egisai doctor`: right about what is right, and a plain word with advice about everything that is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

import egisai
from egisai import doctor
from egisai.doctor import Finding, examine, exit_code
from egisai_exporter import EgisExporter
from egisai_platform.auth import Auth
from egisai_platform.metadata import Metadata

KEY = "egis_live_acme_" + "a" * 60 + "beef"
EGISAI = Path(sys.executable).with_name("egisai")


@pytest.fixture(autouse=True)
def _otel_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("OTEL_", "EGISAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def found(check: str) -> Finding:
    """The one finding of that check."""
    findings = {finding.check: finding for finding in examine(timeout_s=1)}
    assert check in findings, findings
    assert not any(name.endswith(".failed") for name in findings), findings
    return findings[check]


def checks() -> set[str]:
    return {finding.check for finding in examine(timeout_s=1)}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(EGISAI), *arguments]
    env = {**os.environ, **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


# --- with a platform -------------------------------------------------------------------------------------------------


class Platform:
    def __init__(self, data_dir: Path) -> None:
        command = [sys.executable, "-m", "egisai_platform.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EGISAI_")}
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        )
        assert self.process.stdout is not None
        giving_up = threading.Timer(60, self.process.kill)
        giving_up.start()
        told = ""
        for line in self.process.stdout:
            told += line
            if "dashboard: " in line:
                break
        giving_up.cancel()
        listening = re.search(r"listening on (\S+)", told)
        assert listening, told
        self.url = listening[1]

    def key(self, scope: str) -> str:
        metadata = Metadata(f"sqlite:///{self.data_dir / 'metadata.db'}")
        key = Auth(metadata).create_key("acme", scope)
        metadata.close()
        return key


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.process.terminate()
    running.process.communicate(timeout=20)


def test_all_is_well(platform: Platform) -> None:
    """A good key: said with its organisation, masked; exit code 0; nothing of it is in the output."""
    key = platform.key("ingest")
    done = run(
        "doctor", EGISAI_BASE_URL=platform.url, EGISAI_API_KEY=key, EGISAI_APP="support", EGISAI_CONTEXT_SECRET=KEY
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{platform.url} answers" in done.stdout
    assert "the key is good and may send, for organisation 'acme'" in done.stdout
    assert "the clocks agree" in done.stdout
    assert "app = support (EGISAI_APP)" in done.stdout
    assert "env = production (default)" in done.stdout
    assert "organisation = acme (the key)" in done.stdout
    assert f"api_key = egis_live_acme_…{key[-4:]} (EGISAI_API_KEY)" in done.stdout
    assert re.search(r"instrumented, in a tested version: openai 3\.\d+\.\d+", done.stdout)
    assert "openinference-instrumentation-openai makes spans of openai calls too" in done.stdout
    assert "nothing waits in" in done.stdout
    assert "All is well." in done.stdout
    assert "context_secret = … (EGISAI_CONTEXT_SECRET)" in done.stdout
    assert key[:-4] not in done.stdout
    assert KEY[-20:] not in done.stdout
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) < 40  # one screen


def test_keys_that_are_not_good(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, an unknown one, one of another scope, one that is no key: each is named with what to do."""
    monkeypatch.setenv("EGISAI_BASE_URL", platform.url)
    assert "none is set" in found("platform.key").what
    monkeypatch.setenv("EGISAI_API_KEY", KEY)
    unknown = found("platform.key")
    assert "does not know the key egis_live_acme_…beef" in unknown.what
    assert "keys create --organisation acme" in str(unknown.advice)
    monkeypatch.setenv("EGISAI_API_KEY", platform.key("read"))
    assert "may not send" in found("platform.key").what
    monkeypatch.setenv("EGISAI_API_KEY", "sk-proj-123")
    assert "is not an Egis key" in found("settings.invalid").what
    assert exit_code(examine()) == 2
    assert not any(check.startswith("platform.") for check in checks())


# --- with something else ---------------------------------------------------------------------------------------------

Responder = Callable[[BaseHTTPRequestHandler], None]


class Somebody:
    """A server that is not ours; remembers what came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str | None]] = []
        self.answer: Responder = lambda handler: reply(handler, 200)
        somebody = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                somebody.came.append((self.path, self.headers.get("Authorization")))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                somebody.answer(self)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response_only(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def platform_like(handler: BaseHTTPRequestHandler, **healthz: str) -> None:
    if handler.path == "/healthz":
        reply(handler, 200, b"ok\n", **healthz)
    else:
        reply(handler, 200, b'{"canonical": {}}')


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Somebody]:
    server = Somebody()
    monkeypatch.setenv("EGISAI_BASE_URL", server.url)
    monkeypatch.setenv("EGISAI_API_KEY", KEY)
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_strangers_do_not_get_the_key(somebody: Somebody) -> None:
    """A server that does not answer as a platform is called that, and never sees the key; so with a redirect."""
    somebody.answer = lambda handler: reply(handler, 404, b"<html>nginx")
    assert "is no Egis platform: /healthz answered 404" in found("platform.stranger").what
    somebody.answer = lambda handler: reply(handler, 200, b"<html>hello")
    assert "the key was not sent" in found("platform.stranger").what
    somebody.answer = lambda handler: reply(handler, 302, Location="https://elsewhere.example/\x1b[31mlogin")
    redirect = found("platform.redirect")
    assert "redirects to https://elsewhere.example/" in redirect.what
    assert "\x1b" not in doctor.rendered([redirect], colour=False)
    somebody.answer = lambda handler: reply(handler, 503)
    assert "healthz answered 503" in found("platform.reach").what
    assert {authorization for _, authorization in somebody.came} == {None}
    assert {path for path, _ in somebody.came} == {"/healthz"}


def test_half_a_platform(somebody: Somebody) -> None:
    """Healthy, but not taking announcements or spans as a platform does."""
    answers: dict[str, tuple[int, bytes]] = {"/healthz": (200, b"ok\n"), "/v1/agents": (200, b"[]")}
    somebody.answer = lambda handler: reply(handler, *answers.get(handler.path, (200, b"")))
    assert "is no Egis platform: it answered 200" in found("platform.stranger").what
    answers["/v1/agents"] = (200, b'{"canonical": {}}')
    assert "the key is good" in found("platform.key").what
    answers["/v1/traces"] = (503, b"")
    assert found("platform.busy").level == "warning"
    answers["/v1/traces"] = (405, b"")
    assert "/v1/traces is no Egis platform" in found("platform.stranger").what
    assert ("/v1/traces", f"Bearer {KEY}") in somebody.came


@pytest.mark.parametrize(("offset_s", "said"), [(-3600, "s ahead of the platform's"), (3600, "s behind")])
def test_clocks_that_differ(somebody: Somebody, offset_s: int, said: str) -> None:
    from email.utils import formatdate

    somebody.answer = lambda handler: platform_like(handler, Date=formatdate(time.time() + offset_s, usegmt=True))
    clock = found("platform.clock")
    assert clock.level == "warning"
    assert said in clock.what
    assert re.search(r"\b(3599|3600|3601) s", clock.what)


def test_a_date_that_is_none(somebody: Somebody) -> None:
    somebody.answer = lambda handler: platform_like(handler, Date="yesterday")
    assert "platform.clock" not in checks()
    assert "platform.key" in checks()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port, and a name that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("EGISAI_BASE_URL", f"http://127.0.0.1:{port}")
    assert f"nothing listens at 127.0.0.1:{port}" in found("platform.reach").what
    assert "egisai-platform serve" in str(found("platform.reach").advice)
    monkeypatch.setenv("EGISAI_BASE_URL", "http://nobody.invalid:4318")
    assert re.search("does not resolve|did not answer", found("platform.reach").what)


def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, and an answer that trickles for ever, are given up on in time."""

    def answered() -> str:
        return {finding.check: finding.what for finding in examine(0.3)}["platform.reach"]

    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("EGISAI_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "did not answer within 0.3 s" in answered()
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as trickling:
        monkeypatch.setenv("EGISAI_BASE_URL", f"http://127.0.0.1:{trickling.getsockname()[1]}")

        def trickle() -> None:
            with suppress(OSError), trickling.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not done.wait(0.05):
                    connection.sendall(b"X: y\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert "did not answer within 0.3 s" in answered()
        finally:
            done.set()
            thread.join()
    assert time.monotonic() - started < 5


def test_what_does_not_speak_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("EGISAI_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example.com ESMTP\r\n")
                connection.recv(4096)

        threading.Thread(target=speak, daemon=True).start()
        assert "does not speak HTTP" in found("platform.reach").what


def test_tls(somebody: Somebody, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """https:// to a server that has none, and a certificate that nobody signed."""
    monkeypatch.setenv("EGISAI_BASE_URL", somebody.url.replace("http:", "https:"))
    wrong = found("platform.reach")
    assert "does not speak TLS" in wrong.what
    assert "http:// rather than https://" in str(wrong.advice)
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run(
        [*make, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("EGISAI_BASE_URL", f"https://127.0.0.1:{server.getsockname()[1]}")

        def shake() -> None:
            connection, _ = server.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        threading.Thread(target=shake, daemon=True).start()
        assert "is not trusted: self-signed certificate" in found("platform.reach").what


# --- settings and destination ----------------------------------------------------------------------------------------


def test_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("destination").level == "warning"
    assert "spans go nowhere" in found("destination").what
    assert exit_code(examine()) == 1
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert "spans go nowhere" in found("destination").what
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "egisai")
    assert "without a platform" in found("destination").what


def test_where_opentelemetry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@collector:4318")
    assert found("destination").what == "spans go where OTEL_* says: otlp at http://collector:4318; to no platform"
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin_ng")
    assert found("destination").level == "problem"


@pytest.mark.parametrize(
    ("name", "value", "check", "level"),
    [
        ("OTEL_SDK_DISABLED", "true", "opentelemetry.disabled", "problem"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off", "opentelemetry.sampler", "problem"),
        ("OTEL_TRACES_SAMPLER", "traceidratio", "opentelemetry.sampler", "warning"),
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "flask, egisai", "opentelemetry.left_out", "warning"),
        ("OTEL_CONFIG_FILE", "/nowhere/otel.yaml", "opentelemetry.config", "problem"),
        ("EGISAI_TRUST_INBOUND", "true", "settings.trusting", "warning"),
        ("EGISAI_APIKEY", "x", "settings.unknown", "warning"),
        ("EGISAI_APP", "a\nb", "settings.invalid", "problem"),
        ("EGISAI_BASE_URL", "localhost:4318", "settings.invalid", "problem"),
    ],
)
def test_settings_that_hurt(monkeypatch: pytest.MonkeyPatch, name: str, value: str, check: str, level: str) -> None:
    assert check not in checks()
    monkeypatch.setenv(name, value)
    finding = found(check)
    assert finding.level == level
    assert finding.advice


# --- the spool, and this process -------------------------------------------------------------------------------------


def test_what_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Spans that the real exporter could not deliver, while its process has them and after it has ended."""
    assert "spool.waiting" not in checks()
    monkeypatch.setenv("EGISAI_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("EGISAI_BASE_URL", "http://127.0.0.1:9")
    assert "nothing waits" in found("spool.waiting").what
    exporter = EgisExporter()
    provider = TracerProvider()
    spans = [provider.get_tracer("t").start_span(f"s{n}") for n in range(3)]
    for span in spans:
        span.end()
    exporter.export(spans)
    waits = found("spool.waiting")
    assert "spans wait for 127.0.0.1: 3 (" in waits.what
    assert waits.level == "info"
    assert "a running process has them" in str(waits.advice)
    exporter.shutdown(timeout_millis=1)
    left = found("spool.waiting")
    assert left.level == "warning"
    assert "their process has ended" in str(left.advice)
    batch = next((tmp_path / "spool").rglob("*.otlp.gz"))
    batch.rename(batch.with_name(f"{time.time_ns() - 3 * 86_400 * 10**9:020d}{batch.name[20:]}"))
    assert "the oldest for 3 days" in found("spool.waiting").what
    provider.shutdown()


def test_a_spool_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EGISAI_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EGISAI_SPOOL_DIR", str(tmp_path / "file" / "spool"))
    assert found("spool.directory").level == "problem"


def test_what_this_process_lost(monkeypatch: pytest.MonkeyPatch, somebody: Somebody) -> None:
    """Called where `init()` was, it tells what was dropped and why."""
    assert found("process").level == "info"
    somebody.answer = lambda handler: reply(handler, 400, b"no")
    provider = TracerProvider()
    egisai.init(tracer_provider=provider, quiet=True)
    provider.get_tracer("t").start_span("s").end()
    egisai.flush(5)
    dropped = found("process.dropped.refused_400")
    assert dropped.what == "spans dropped as refused_400: 1"
    assert "platform's log" in str(dropped.advice)
    egisai.shutdown()
    provider.shutdown()


def test_what_this_process_heard_of_agents(somebody: Somebody) -> None:
    """What was announced and ruled, as of when, where it is kept, and the last error."""
    ruled = b'{"canonical": {"11111111-1111-5111-8111-111111111111": {"id": "x", "name": "y"}}, "version": 42}'
    somebody.answer = lambda handler: reply(handler, 200, ruled if "agents" in handler.path else b"")
    provider = TracerProvider()
    egisai.init(tracer_provider=provider, quiet=True)
    provider.get_tracer("t").start_span("s").end()
    egisai.flush(5)
    agents = found("process.agents").what
    assert agents == "agents announced: 1, waiting: 0, rulings heard: 1, as of version 42; last asked never"
    cache = Path(egisai.diagnostics()["announcements"]["cache"])
    assert str(cache) in found("process.agents.cache").what
    egisai.shutdown()
    assert cache.is_file()
    egisai.init(tracer_provider=provider, quiet=True)
    somebody.answer = lambda handler: reply(handler, 403, b"")
    provider.get_tracer("t").start_span("s").end()
    egisai.flush(5)
    assert "answered 403" in found("process.agents.last_error").what
    egisai.shutdown()
    provider.shutdown()


# --- the command -----------------------------------------------------------------------------------------------------


def test_json() -> None:
    done = run("doctor", "--json", EGISAI_API_KEY="sk-proj-123")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 2
    invalid = next(finding for finding in told["findings"] if finding["check"] == "settings.invalid")
    assert sorted(invalid) == ["advice", "check", "level", "what"]


def test_colour_only_for_people() -> None:
    """On a terminal, unless NO_COLOR is set."""

    def on_a_terminal(**environ: str) -> bytes:
        ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm", **environ}
        process = subprocess.Popen([str(EGISAI), "doctor"], stdout=theirs, env=env)
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
        except OSError:  # the other end was closed
            pass
        os.close(ours)
        process.wait(20)
        return written

    assert b"\x1b[33mwarning\x1b[0m" in on_a_terminal()
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1")


def test_odd_terminals() -> None:
    """An output that knows only ASCII, and one that is closed early: no stack trace."""
    done = run("doctor", EGISAI_API_KEY=KEY, PYTHONIOENCODING="ascii")
    assert "egis_live_acme_?beef" in done.stdout
    assert done.stderr == ""
    done = subprocess.run(["sh", "-c", f"{EGISAI} doctor | true"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_check_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in one check is a finding, and the others go on."""

    def broken() -> Iterator[Finding]:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(doctor, "_clients", broken)
    findings = {finding.check: finding for finding in examine()}
    assert "broken on purpose" in findings["clients.failed"].what
    assert "destination" in findings


@pytest.mark.parametrize(("version", "traces"), [("0.164.9", False), ("0.165.0", True), ("1.0", True), (None, False)])
def test_a_fastapi_that_traces_by_itself(version: str | None, traces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dependency sets would be gone before the endpoint runs: said, with what to do."""
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "fastapi" else installed(name))
    told = {finding.check: finding for finding in examine()}.get("others.fastapi")
    assert (told is not None) is traces
    if told is not None:
        assert f"fastapi {version} makes spans" in told.what
        assert 'telemetry={"operation_spans": False}' in str(told.advice)


def test_usage() -> None:
    assert run("--version").stdout.strip() == "0.90.0"
    done = run("docter")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
