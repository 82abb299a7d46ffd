"""Attribution from outside: environment variables or a YAML file, and OpenTelemetry's own launcher."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.otel.programs import BIN, Backend

from egisai.identity import agent_id

DOCS = Path(__file__).parents[2] / "docs" / "opentelemetry.md"

PROGRAM = """
from openai import OpenAI
client = OpenAI()
client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
prompt = {"role": "system", "content": "You answer questions about invoices."}
list(client.chat.completions.create(model="m", messages=[prompt, {"role": "user", "content": "why?"}], stream=True))
"""


def test_otel_zero_code(backend: Backend) -> None:
    """Environment variables only: each call is one span, attributed, delivered, and nothing is said."""
    done = backend.run(PROGRAM, EGISAI_APP="Zero", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai")
    assert done.stderr == ""
    assert [(span.scope, span.attributes["egisai.agent.source"]) for span in backend.calls] == [
        ("egisai", "app"),
        ("egisai", "fingerprint"),
    ]
    plain, prompted = (span.attributes for span in backend.calls)
    assert plain["gen_ai.agent.name"] == "Zero"
    assert plain["egisai.agent.id"] == agent_id("acme", "name", "Zero")
    assert prompted["egisai.agent.id"] == agent_id("acme", "fingerprint", prompted["egisai.prompt.fingerprint"])
    assert len(backend.provider.requests) == 2


PREPARED = """
import json
from openai import OpenAI
from opentelemetry import trace
import egisai
from egisai import redaction
redaction.use(lambda text, name: text + "." if name == "note" else text)
with egisai.context(agent="billing", user_id="u-1", session_id="s-1"):
    OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
said = json.dumps([{"type": "text", "content": "You answer questions about invoices."}])
with trace.get_tracer("theirs").start_as_current_span("chat m") as span:
    span.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.system_instructions": said, "note": "4711"})
"""


@pytest.mark.parametrize("program", [PREPARED, "import egisai; egisai.init()\n" + PREPARED], ids=["alone", "init"])
def test_otel_zero_code_is_prepared(backend: Backend, program: str) -> None:
    """By environment alone: limits take nothing of ours, a foreign span's prompt is its agent, and all is redacted,
    once. Also with `init()` beside it, which ends before the launcher's exporter does."""
    backend.run(
        program, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="8", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai", EGISAI_APP="Zero"
    )
    said = {span.scope: span.attributes for span in backend.spans}
    ours, theirs = said["egisai"], said["theirs"]
    who = {"gen_ai.agent.name": "billing", "user.id": "u-1", "session.id": "s-1"}
    assert {name: ours.get(name) for name in who} == who
    assert theirs["egisai.agent.source"] == "fingerprint"
    assert theirs["egisai.agent.id"] == agent_id("acme", "fingerprint", theirs["egisai.prompt.fingerprint"])
    assert theirs["note"] == "4711."


def test_otel_zero_code_beside_other_vendors(backend: Backend) -> None:
    """Every instrumentor that is installed runs, ours among them: a call still counts once, and is attributed."""
    backend.run(PROGRAM, EGISAI_APP="Zero")
    assert {span.scope for span in backend.spans} > {"opentelemetry.instrumentation.genai.openai"}
    assert len(backend.calls) == 2
    assert backend.calls[0].attributes["gen_ai.agent.name"] == "Zero"
    assert all("egisai.agent.id" in span.attributes for span in backend.spans)


def test_otel_zero_code_any_backend(backend: Backend) -> None:
    """OpenTelemetry's own exporter takes the same spans wherever it sends them."""
    backend.run(
        PROGRAM,
        EGISAI_APP="Zero",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_ENDPOINT=backend.receiver.url,
        OTEL_SERVICE_NAME="theirs",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai",
    )
    assert [span.attributes["egisai.agent.source"] for span in backend.calls] == ["app", "fingerprint"]
    assert {span.resource["service.name"] for span in backend.spans} == {"theirs"}


def test_otel_zero_code_config_file(backend: Backend, tmp_path: Path) -> None:
    """OTEL_CONFIG_FILE: the file that the documentation shows, as it stands there, does it all."""
    pytest.importorskip("opentelemetry.configuration")
    [shown] = re.findall(r"```yaml\n(file_format.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "otel.yaml").write_text(shown)
    done = backend.run(
        PROGRAM, OTEL_CONFIG_FILE=str(tmp_path / "otel.yaml"), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai"
    )
    assert "egisai" not in done.stderr
    assert [span.attributes["egisai.agent.source"] for span in backend.calls] == ["app", "fingerprint"]
    assert backend.calls[0].attributes["gen_ai.agent.name"] == "Support desk"
    assert backend.calls[0].attributes["egisai.agent.id"] == agent_id("acme", "name", "support desk")
    assert {span.resource["service.name"] for span in backend.spans} == {"support-desk"}


@pytest.mark.parametrize(
    ("option", "said"),
    [("ap: Typo", "unexpected keyword argument 'ap'"), ("app: 5", "app=5 is a int: it must")],
)
def test_otel_zero_code_config_file_mistakes(backend: Backend, tmp_path: Path, option: str, said: str) -> None:
    """A mistake in the file is said, and calls are attributed all the same."""
    pytest.importorskip("opentelemetry.configuration")
    (tmp_path / "otel.yaml").write_text(f"""
file_format: "1.0"
tracer_provider: {{processors: [{{batch: {{exporter: {{egisai: {{}}}}}}}}]}}
instrumentation/development: {{python: {{egisai: {{{option}}}}}}}
""")
    done = backend.run(
        PROGRAM, OTEL_CONFIG_FILE=str(tmp_path / "otel.yaml"), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai"
    )
    assert said in done.stderr
    assert [span.attributes["egisai.agent.source"] for span in backend.calls] == ["app", "fingerprint"]


@pytest.mark.parametrize("switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_SAMPLER": "always_off"}], ids=str)
def test_otel_zero_code_off(backend: Backend, switch: dict[str, str]) -> None:
    """What OpenTelemetry is told not to do is not done: the calls go through, no span leaves, nothing is said."""
    done = backend.run(PROGRAM, **switch)
    assert len(backend.provider.requests) == 2
    assert backend.spans == []
    assert "egisai" not in done.stderr


WSGI = """
from openai import OpenAI
client = OpenAI()
def app(environ, start_response):
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    start_response("200 OK", [])
    return [b"done"]
"""

ASGI = """
from openai import AsyncOpenAI
client = AsyncOpenAI()
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""

SERVERS = {
    "gunicorn": (WSGI, ["gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0", "served:app"]),
    "uvicorn": (ASGI, ["uvicorn", "--workers", "2", "--host", "127.0.0.1", "--port", "0", "served:app"]),
}


def fetched(url: str) -> bytes:
    """What is there, once a worker listens: a server says its address before."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read()
        except urllib.error.URLError:  # noqa: PERF203 - retried, not repeated
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("server", SERVERS)
def test_otel_zero_code_server(backend: Backend, tmp_path: Path, server: str) -> None:
    """A server that forks or spawns its workers under `opentelemetry-instrument`: each request's call once."""
    pytest.importorskip(server)
    program, command = SERVERS[server]
    (tmp_path / "served.py").write_text(program)
    environment = backend.environment(
        EGISAI_APP="Served", OTEL_BSP_SCHEDULE_DELAY="200", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai"
    )
    started = subprocess.Popen(
        [str(BIN / "opentelemetry-instrument"), sys.executable, "-m", *command],
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        said = ""
        for line in started.stdout:
            said += line
            found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
            if found:
                break
        else:
            pytest.fail(said)
        for _ in range(6):
            assert fetched(f"http://127.0.0.1:{found[1]}/") == b"done"
        backend.receiver.wait(lambda: len(backend.calls) >= 6, 20)
    finally:
        started.send_signal(signal.SIGTERM)
        rest, _ = started.communicate(timeout=20)
    assert [(span.scope, span.attributes["gen_ai.agent.name"]) for span in backend.calls] == [("egisai", "Served")] * 6
    assert "Traceback" not in rest
