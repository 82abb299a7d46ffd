"""What we send, read by those who have never heard of us: agent, user and session are where they look."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tests.otel.programs import KEY, Backend

import egisai
from provider import Provider

ROOT = Path(__file__).parents[2]
PHOENIX = ROOT / ".venv-phoenix" / "bin" / "python"
WHO = {"agent": "billing", "user_id": "u-1", "user_role": "admin", "session_id": "s-1", "workflow_id": "w-1"}


def call(server: Provider) -> None:
    with egisai.context(**WHO), openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])


# --- the wire format, read by its specification alone ----------------------------------------------------------------


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protobuf message: https://protobuf.dev/programming-guides/encoding/."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    at = 0
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = {1: lambda: 8, 2: varint, 5: lambda: 4}[key & 7]()
            at += size
            yield key >> 3, message[at - size : at]


def inside(message: bytes, *path: int) -> list[Any]:
    """What stands at a path of field numbers."""
    if not path:
        return [message]
    return [found for number, value in fields(message) if number == path[0] for found in inside(value, *path[1:])]


def test_otel_backends_by_the_specification(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that our exporter sends, read with field numbers from opentelemetry-proto and nothing else."""
    bodies: list[bytes] = []
    decode: Callable[[bytes], bytes] = gzip.decompress

    def kept(body: bytes) -> bytes:
        bodies.append(decode(body))
        return bodies[-1]

    monkeypatch.setattr("tests.exporter.receiver.gzip.decompress", kept)
    egisai.init(
        base_url=backend.receiver.url, api_key=KEY, tracer_provider=TracerProvider(shutdown_on_exit=False), quiet=True
    )
    call(backend.provider)
    egisai.flush()
    [body] = bodies
    [span] = inside(body, 1, 2, 2)  # resource_spans, scope_spans, spans
    assert [len(found) for path in (1, 2) for found in inside(span, path)] == [16, 8]  # trace_id, span_id
    strings = {inside(pair, 1)[0].decode(): b"".join(inside(pair, 2, 1)).decode() for pair in inside(span, 9)}
    assert {
        "gen_ai.agent.name": "billing",
        "user.id": "u-1",
        "session.id": "s-1",
        "gen_ai.conversation.id": "s-1",
        "egisai.workflow.id": "w-1",
    }.items() <= strings.items()
    [roles] = [pair for pair in inside(span, 9) if inside(pair, 1) == [b"user.roles"]]
    assert inside(roles, 2, 5, 1, 1) == [b"admin"]  # value.array_value.values[0].string_value


# --- Arize Phoenix ---------------------------------------------------------------------------------------------------


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[str]:
    """A Phoenix server, as it comes."""
    if not PHOENIX.exists():
        pytest.skip("Phoenix has an environment of its own, made by tests/otel/backends.sh")
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        port, grpc_port = one.getsockname()[1], other.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PHOENIX_WORKING_DIR": str(tmp_path),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with (tmp_path / "phoenix.log").open("w") as log:
        server = subprocess.Popen(
            [str(PHOENIX), "-m", "phoenix.server.main", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(f"{url}/healthz", lambda _: True, (tmp_path / "phoenix.log"))
        yield url
    finally:
        server.terminate()
        server.wait(20)


def until(url: str, enough: Callable[[bytes], Any], log: Path | None = None) -> bytes:
    """What is at `url`, once there is something, and enough of it."""
    deadline = time.monotonic() + 60
    while True:
        answer = b""
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                answer = reply.read()
            if enough(answer):
                return answer
        except urllib.error.URLError:
            pass  # it is not up yet
        assert time.monotonic() < deadline, log.read_text() if log else answer
        time.sleep(0.1)


def test_otel_backends_phoenix(phoenix: str, server: Provider) -> None:
    """Phoenix shows the call as an LLM span with agent, user and tokens, and our session as a session of its own."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{phoenix}/v1/traces")))
    egisai.init(tracer_provider=provider, quiet=True)
    call(server)
    provider.shutdown()
    project = f"{phoenix}/v1/projects/default"
    [span] = json.loads(until(f"{project}/spans", lambda answer: b"gen_ai" in answer))["data"]
    assert span["span_kind"] == "LLM"
    shown = {"gen_ai.agent.name": "billing", "user.id": "u-1", "session.id": "s-1", "llm.model_name": "m"}
    assert shown.items() <= span["attributes"].items()
    [session] = json.loads(until(f"{project}/sessions", lambda answer: b"s-1" in answer))["data"]
    assert session["session_id"] == "s-1"
    assert session["token_count_total"] == span["attributes"]["llm.token_count.total"] > 0
