"""Spans per second and CPU per span of the platform, from an OTLP request until an API can count them.

Beside it, in the same run and turn by turn, a floor: the smallest OTLP receiver one would write with the same HTTP
server, which decodes a request, puts one row per span with its attributes as JSON into SQLite (synchronous=FULL, five
indexes) and answers after the commit. It has no registry, prices, keys or limits. A full peer is no part of this run:
Arize Phoenix and MLflow bring hundreds of megabytes of their own; what they did on another day, 80 spans/s with 11.9 ms
of CPU per span and 609 spans/s with 1.6 ms, is for orientation only.

    python benchmarks/ingest.py [--spans 20000] [--batch 512] [--clients 4] [--rounds 4]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from egisai import semconv
from egisai.identity import agent_id


# --- the load ------------------------------------------------------------------------------------------------------
def requests(spans: int, batch: int) -> list[bytes]:
    """Gzipped OTLP requests of chat calls with 20 attributes, 600 bytes of messages among them."""
    rng = random.Random(spans)
    words = [f"{rng.getrandbits(40):x}" for _ in range(5000)]
    made: list[bytes] = []
    for first in range(0, spans, batch):
        request = ExportTraceServiceRequest()
        resource = request.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = "bench"
        scope = resource.scope_spans.add()
        for number in range(first, min(first + batch, spans)):
            now = time.time_ns()
            span = scope.spans.add(
                trace_id=os.urandom(16),
                span_id=os.urandom(8),
                name="chat gpt-4o-mini",
                kind=3,
                start_time_unix_nano=now - 10**9,
                end_time_unix_nano=now,
            )
            agent = f"agent-{number % 20}"
            texts = {
                semconv.OPERATION: "chat",
                semconv.PROVIDER: "openai",
                semconv.REQUEST_MODEL: "gpt-4o-mini",
                semconv.RESPONSE_MODEL: "gpt-4o-mini-2024-07-18",
                semconv.RESPONSE_ID: f"chatcmpl-{number}",
                semconv.AGENT_NAME: agent,
                semconv.AGENT_ID: agent_id("bench", "name", agent),
                semconv.AGENT_SOURCE: "name",
                semconv.USER_ID: f"user-{number % 500}",
                semconv.SESSION_ID: f"session-{number % 2000}",
                semconv.WORKFLOW_ID: f"workflow-{number % 1000}",
                semconv.SERVER_ADDRESS: "api.openai.com",
                semconv.INPUT_MESSAGES: json.dumps([{"role": "user", "content": " ".join(rng.choices(words, k=40))}]),
                semconv.OUTPUT_MESSAGES: json.dumps(
                    [{"role": "assistant", "content": " ".join(rng.choices(words, k=15))}]
                ),
            }
            for key, text in texts.items():
                span.attributes.add(key=key).value.string_value = text
            numbers = {
                semconv.USAGE_INPUT_TOKENS: rng.randrange(50, 5000),
                semconv.USAGE_OUTPUT_TOKENS: rng.randrange(5, 500),
                semconv.USAGE_CACHE_READ_TOKENS: 30,
                semconv.REQUEST_MAX_TOKENS: 512,
                semconv.SERVER_PORT: 443,
            }
            for key, value in numbers.items():
                span.attributes.add(key=key).value.int_value = value
            span.attributes.add(
                key=semconv.RESPONSE_FINISH_REASONS
            ).value.array_value.values.add().string_value = "stop"
        made.append(gzip.compress(request.SerializeToString(), 1))
    return made


# --- the floor -----------------------------------------------------------------------------------------------------
def floor(directory: str) -> None:
    """Serves the smallest receiver until it is killed."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    columns = ("trace_id", "span_id", "name", "start_ns", "end_ns", "agent_id", "user_id", "session_id", "attributes")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"{directory}/floor.db", timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    connection = connect()
    connection.execute(f"CREATE TABLE spans ({', '.join(columns)}, UNIQUE (trace_id, span_id) ON CONFLICT REPLACE)")
    for column in ("start_ns", "agent_id", "user_id", "session_id"):
        connection.execute(f"CREATE INDEX spans_{column} ON spans ({column})")
    connection.commit()

    def store(body: bytes) -> None:
        rows: list[tuple[object, ...]] = []
        for resource in ExportTraceServiceRequest.FromString(gzip.decompress(body)).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    facts = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                    who = [facts.get(key) for key in (semconv.AGENT_ID, semconv.USER_ID, semconv.SESSION_ID)]
                    times = span.start_time_unix_nano, span.end_time_unix_nano
                    text = json.dumps(facts, default=str)
                    rows.append((span.trace_id.hex(), span.span_id.hex(), span.name, *times, *who, text))
        connection = connect()
        with connection:
            connection.executemany(f"INSERT INTO spans VALUES ({', '.join('?' * len(columns))})", rows)
        connection.close()

    async def traces(request: Request) -> Response:
        await run_in_threadpool(store, await request.body())
        return Response(media_type="application/x-protobuf")

    async def stats(_request: Request) -> Response:
        (calls,) = connection.execute("SELECT count(*) FROM spans").fetchone()
        return JSONResponse({"totals": {"calls": calls}})

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    app = Starlette(routes=[Route("/v1/traces", traces, methods=["POST"]), Route("/api/v1/stats", stats)])
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])


# --- measuring -----------------------------------------------------------------------------------------------------
class Running(NamedTuple):
    """A server under test."""

    url: str
    pid: int
    directory: Path
    headers: dict[str, str]

    def cpu_s(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.directory.rglob("*") if file.is_file())

    def calls(self) -> int:
        return httpx.get(f"{self.url}/api/v1/stats", headers=self.headers, timeout=60).json()["totals"]["calls"]


@contextmanager
def running(command: list[str], directory: Path, headers: dict[str, str]) -> Iterator[Running]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(found[1] for line in process.stdout if (found := re.search(r"listening on (\S+)", line)))
        yield Running(url, process.pid, directory, headers)
    finally:
        process.terminate()
        process.communicate()


def send(server: Running, bodies: list[bytes], clients: int) -> None:
    headers = server.headers | {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with (
        httpx.Client(timeout=60, limits=httpx.Limits(max_connections=clients)) as client,
        ThreadPoolExecutor(clients) as pool,
    ):

        def post(body: bytes) -> None:
            client.post(f"{server.url}/v1/traces", content=body, headers=headers).raise_for_status()

        list(pool.map(post, bodies))


def measure(server: Running, bodies: list[bytes], spans: int, clients: int) -> tuple[float, float]:
    """Seconds, and CPU seconds of the server, from the first request until all spans can be counted."""
    before = server.calls()
    cpu, started = server.cpu_s(), time.perf_counter()
    send(server, bodies, clients)
    while server.calls() < before + spans:
        time.sleep(0.01)
    return time.perf_counter() - started, server.cpu_s() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--floor", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.floor:
        floor(options.floor)
        return
    from egisai_platform.auth import Auth
    from egisai_platform.metadata import Metadata

    each = options.spans // options.rounds
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Path(directory, "platform"), Path(directory, "floor")
        ours.mkdir()
        theirs.mkdir()
        metadata = Metadata(f"sqlite:///{ours / 'metadata.db'}")
        key = Auth(metadata).create_key("bench", "admin")
        metadata.close()
        serve = [sys.executable, "-m", "egisai_platform.cli", "serve", "--port", "0", "--data-dir", str(ours)]
        with (
            running(serve, ours, {"Authorization": f"Bearer {key}"}) as platform,
            running([sys.executable, __file__, "--floor", str(theirs)], theirs, {}) as smallest,
        ):
            contenders = {"egisai-platform": platform, "floor (SQLite per request)": smallest}
            for server in contenders.values():  # the first request pays for what is loaded late
                measure(server, requests(options.batch, options.batch), options.batch, 1)
            disk = {name: server.disk_bytes() for name, server in contenders.items()}
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for _ in range(options.rounds):
                for name, server in contenders.items():
                    bodies = requests(each, options.batch)
                    times[name].append(measure(server, bodies, each, options.clients))
            disk = {name: server.disk_bytes() - disk[name] for name, server in contenders.items()}
    report(times, disk, each, options)


def report(
    times: dict[str, list[tuple[float, float]]], disk: dict[str, int], each: int, options: argparse.Namespace
) -> None:
    print(
        f"{each * options.rounds} spans, batches of {options.batch}, {options.clients} clients, {options.rounds} rounds"
    )
    print(f"{'until queryable':<28}{'spans/s':>10}{'CPU µs/span':>14}{'disk B/span':>14}")
    middle: Callable[[list[float]], float] = lambda values: sorted(values)[len(values) // 2]  # noqa: E731
    cpu: dict[str, float] = {}
    rate: dict[str, float] = {}
    for name, measured in times.items():
        rate[name] = each / middle([seconds for seconds, _ in measured])
        cpu[name] = sum(used for _, used in measured) / (each * len(measured)) * 1e6
        print(f"{name:<28}{rate[name]:>10,.0f}{cpu[name]:>14.0f}{disk[name] / (each * options.rounds):>14.0f}")
    (ours, our_cpu), (_, floor_cpu) = cpu.items()
    rates = list(rate.values())
    print(f"{ours} / floor: {rates[0] / rates[1]:.2f} x the spans/s, {our_cpu / floor_cpu:.2f} x the CPU per span")


if __name__ == "__main__":
    main()
