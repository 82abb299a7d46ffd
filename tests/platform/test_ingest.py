"""Spans in: what a 2xx promises, and what is answered to everything that is not a good request."""

from __future__ import annotations

import contextlib
import gzip
import resource
import signal
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from egisai import semconv
from egisai.identity import agent_id


def request_of(spans):
    """The protobuf request, to be damaged."""
    return ExportTraceServiceRequest.FromString(encode_spans(spans).SerializeToString())


def spans_of(request):
    return request.resource_spans[0].scope_spans[0].spans


def rpc_message(response):
    """The text of a google.rpc.Status, which is field 2 after the code in field 1."""
    body = response.content
    assert response.headers["content-type"] == "application/x-protobuf"
    assert body[0] == 0x08
    assert body[2] == 0x12
    return body[4:].decode() if body[3] < 0x80 else body[5:].decode()


# --- the promise -------------------------------------------------------------------------------------------------
def test_plat_stored(start, tmp_path, make_organisation, recorder):
    """A 2xx means it survives kill -9 right after; a disk that takes nothing is a 503, and a stop is clean."""
    first = start(tmp_path)
    org = make_organisation(first)
    for _ in range(3):
        for _ in range(100):
            recorder.call(agent="billing", organisation=org.name)
        org.store(recorder.spans())
    first.process.kill()
    first.process.wait()

    second = start(tmp_path, "--retention-days", "0")  # which may be changed at any start
    org.server = second
    assert org.get("stats")["totals"]["calls"] == 300
    assert [agent["name"] for agent in org.items("agents")] == ["billing"]

    recorder.call(agent="billing", organisation=org.name)
    spans = recorder.spans()
    _, hard = resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    refused = org.send(spans)
    resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    org.store(spans)
    assert org.get("stats")["totals"]["calls"] == 301
    code, output = second.stop(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in output
    assert "not stored and not acknowledged" in output
    assert output.rstrip().endswith("stopped")


def test_plat_idempotent(org, recorder):
    """The same batch twice, in one request, one after the other or at the same time, is stored once."""
    for number in range(20):
        recorder.call(agent="billing", organisation=org.name, user_id=f"user-{number % 2}", workflow_id="w")
    spans = recorder.spans()
    org.store([*spans, *spans[:5]])
    org.store(spans)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(org.store, [spans] * 4))
    stats = org.get("stats")
    assert stats["totals"]["calls"] == 20
    assert stats["totals"]["input_tokens"] == 2000
    assert sum(point["calls"] for point in stats["series"]) == 20
    assert len(org.items("calls", limit=500)) == 20
    assert [user["totals"]["calls"] for user in org.items("users")] == [10, 10]
    assert org.items("agents")[0]["totals"]["calls"] == 20
    assert len(org.get("workflows/w")["calls"]) == 20


def test_a_call_that_two_instrumentors_saw_counts_once(org, recorder):
    """The inner of two spans of one call is kept, and is no second call: its tokens are not counted."""
    recorder.call(agent="billing", organisation=org.name)
    recorder.call(agent="billing", organisation=org.name, attributes={"egisai.call.nested": True})
    org.store(recorder.spans())
    totals = org.get("stats")["totals"]
    assert (totals["calls"], totals["input_tokens"]) == (1, 100)


def test_plat_partial(org, recorder):
    """One bad span in 500: 499 stored, and partial_success says which and why."""
    for _ in range(500):
        recorder.call()
    request = request_of(recorder.spans())
    spans_of(request)[123].trace_id = bytes(16)
    spans_of(request)[123].name = "the bad one"
    response = org.send(request.SerializeToString())
    assert response.status_code == 200
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert partial.rejected_spans == 1
    assert partial.error_message.startswith("1 of 500 spans refused: trace_id is all zeroes: 'the bad one'")
    assert spans_of(request)[123].span_id.hex() in partial.error_message
    assert org.get("stats")["totals"]["calls"] == 499


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("trace_id", b"short", "trace_id is not 16 bytes"),
        ("span_id", b"longer than eight", "span_id is not 8 bytes"),
        ("span_id", bytes(8), "span_id is all zeroes"),
        ("start_time_unix_nano", 0, "it has no start or no end time"),
        ("end_time_unix_nano", 0, "it has no start or no end time"),
        ("start_time_unix_nano", 1, "before the oldest time that is kept"),
        ("end_time_unix_nano", 2**63, "more than a day in the future"),
    ],
)
def test_refused_spans(org, recorder, field, value, reason):
    """Whatever cannot be stored is refused with its reason; the good span beside it is stored."""
    recorder.call()
    recorder.call()
    request = request_of(recorder.spans())
    setattr(spans_of(request)[0], field, value)
    response = org.send(request.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert (response.status_code, partial.rejected_spans) == (200, 1)
    assert reason in partial.error_message
    assert org.get("stats")["totals"]["calls"] == 1


def test_clock_set_back(org, recorder):
    """A span that ends before it starts is a clock's fault: it is stored, without a duration."""
    recorder.call(duration_ns=-5)
    org.store(recorder.spans())
    assert org.items("calls")[0]["duration_ms"] == 0


def test_stored_facts(org, recorder):
    """Every fact arrives as its field, and the detail has what the span carried."""
    start_ns = time.time_ns() // 1000 * 1000
    recorder.call(
        agent="Billing",
        organisation=org.name,
        user_id="alice",
        user_role="gold",
        session_id="s-1",
        workflow_id="w-1",
        start_ns=start_ns,
        duration_ns=1_500_000,
        attributes={
            semconv.RESPONSE_MODEL: "gpt-4o-mini-2024-07-18",
            semconv.USAGE_CACHE_READ_TOKENS: 40,
            semconv.USAGE_REASONING_TOKENS: 3,
            semconv.RESPONSE_FINISH_REASONS: ["stop", "length"],
            semconv.RESPONSE_TIME_TO_FIRST_CHUNK: 0.25,
            semconv.REQUEST_STREAM: True,
            semconv.PROMPT_FINGERPRINT: "f" * 16,
            semconv.CALL_COMPLETE: False,
            semconv.INPUT_MESSAGES: '[{"role":"user"}]',
            "mine": ["a", "b"],
        },
    )
    (span,) = recorder.spans()
    org.store([span])
    (call,) = org.items("calls")
    assert call == {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": "",
        "name": "chat gpt-4o-mini",
        "start_time": call["start_time"],
        "duration_ms": 1.5,
        "operation": "chat",
        "provider": "openai",
        "request_model": "gpt-4o-mini",
        "response_model": "gpt-4o-mini-2024-07-18",
        "agent_id": agent_id(org.name, "name", "billing"),
        "agent_name": "Billing",
        "agent_source": "name",
        "user_id": "alice",
        "user_role": "gold",
        "session_id": "s-1",
        "workflow_id": "w-1",
        "app": "app",
        "env": "test",
        "status": "incomplete",
        "error_type": "",
        "input_tokens": 100,
        "cached_input_tokens": 40,
        "output_tokens": 10,
        "reasoning_tokens": 3,
        "finish_reasons": ["stop", "length"],
        "time_to_first_chunk_ms": 250,
        "streamed": True,
        # 60 fresh tokens at $0.15, 40 cached at $0.075, 10 out at $0.60, all per million
        "cost_usd": pytest.approx((60 * 0.15 + 40 * 0.075 + 10 * 0.60) / 1e6),
        "fingerprint": "f" * 16,
    }
    seconds = call["start_time"].removesuffix("Z").partition(".")
    assert seconds[2].ljust(6, "0") == f"{start_ns // 1000 % 10**6:06}"
    detail = org.get(f"calls/{call['trace_id']}/{call['span_id']}")
    assert detail["call"] == call
    assert detail["trace"] == [call]
    assert detail["attributes"]["mine"] == ["a", "b"]
    assert detail["attributes"][semconv.INPUT_MESSAGES] == '[{"role":"user"}]'
    assert detail["resource"]["deployment.environment.name"] == "test"


def test_foreign_spans(org, recorder):
    """Another vendor's span is attributed by its agent's name, else to its app; what is no call is kept apart."""
    recorder.call(attributes={semconv.AGENT_NAME: " Researcher"})
    recorder.call()
    recorder.call(attributes={semconv.AGENT_ID: "not-a-uuid"})
    with recorder.tracer.start_as_current_span("invoke_agent", attributes={semconv.AGENT_NAME: "planner"}):
        pass
    with recorder.tracer.start_as_current_span("GET /"):
        pass
    org.store(recorder.spans())
    found = {(agent["name"], agent["source"], agent["totals"]["calls"]) for agent in org.items("agents")}
    assert found == {("Researcher", "framework", 1), ("app", "app", 2), ("planner", "framework", 0)}
    assert agent_id(org.name, "name", "researcher") in {agent["id"] for agent in org.items("agents")}
    assert org.get("stats")["totals"]["calls"] == 3


def test_unpriced(org, recorder):
    """A model nobody lists costs None, not nothing, and makes the sum a lower bound."""
    recorder.call(model="acme-private-1")
    org.store(recorder.spans())
    assert org.items("calls")[0]["cost_usd"] is None
    assert org.get("stats")["totals"]["cost_usd"] is None
    recorder.call()
    org.store(recorder.spans())
    totals = org.get("stats")["totals"]
    assert totals["cost_usd"] == pytest.approx((100 * 0.15 + 10 * 0.60) / 1e6)
    assert totals["unpriced_calls"] == 1


# --- keys --------------------------------------------------------------------------------------------------------
def test_plat_auth(org, recorder):
    """No key, a wrong, revoked or read key: 401 or 403, nothing stored, nothing revealed."""
    recorder.call(user_id="x")
    spans = recorder.spans()
    wrong = org.ingest_key[:-1] + ("0" if org.ingest_key[-1] != "0" else "1")
    with org.server.auth() as auth:
        revoked = auth.create_key(org.name, "ingest")
        assert org.send(spans[:0], key=revoked).status_code == 200
        (key_id,) = [key.id for key in auth.list_keys() if key.hint == f"egis_live_{org.name}_...{revoked[-4:]}"]
        auth.revoke_key(key_id)
    answers = [
        org.send(spans, key=key) for key in ("", wrong, revoked, "egis_live_", "é" * 9, f"egis_live_{org.name}_x")
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1, "the answers must not differ"
    assert all(answer.headers["www-authenticate"] == "Bearer" for answer in answers)
    assert org.send(spans, key=org.read_key).status_code == 403
    assert org.get("stats")["totals"]["calls"] == 0
    assert org.send(spans, key=org.admin_key).status_code == 200
    assert org.get("stats")["totals"]["calls"] == 1
    for path in ("stats", "agents", "calls", "users", "nothing-here"):
        for key in ("", wrong, revoked):
            assert org.request("GET", path, key=key).status_code == (404 if path == "nothing-here" else 401)
        if path != "nothing-here":
            assert org.request("GET", path, key=org.ingest_key).status_code == 403
            assert org.request("GET", f"{path}?nonsense=1", key=wrong).status_code == 401
            assert org.request("GET", path, key=org.read_key).status_code == 200
    agent = f"agents/{agent_id(org.name, 'name', 'app')}"
    assert org.request("PATCH", agent, key=org.read_key, json={"name": "n"}).status_code == 403
    assert org.request("PATCH", agent, key=org.ingest_key, json={"name": "n"}).status_code == 403
    assert org.request("PATCH", agent, key="", json={"name": "n"}).status_code == 401


def test_organisation_is_the_keys(org, make_organisation, recorder):
    """What a payload says about its organisation decides nothing."""
    other = make_organisation()
    recorder.call(attributes={"organisation": other.name, "egisai.organisation": other.name})
    org.store(recorder.spans())
    assert org.get("stats")["totals"]["calls"] == 1
    assert other.get("stats")["totals"]["calls"] == 0


# --- bad requests ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "content-type 'application/json' is not supported"),
        (b"", {"Content-Encoding": "br"}, 415, "content-encoding 'br' is not supported"),
        (b"\xff\xff\xff", {}, 400, "not an OTLP ExportTraceServiceRequest"),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        (gzip.compress(b"x" * 1000)[:-9], {"Content-Encoding": "gzip"}, 400, "cut short"),
        (b"", {"Content-Encoding": "gzip"}, 400, "cut short"),
        (gzip.compress(b"\0" * (65 << 20), 9), {"Content-Encoding": "gzip"}, 413, "decompressed body is over"),
        (b"\0" * ((20 << 20) + 1), {}, 413, "the body is over"),
    ],
    ids=["json", "br", "no protobuf", "no gzip", "cut", "empty gzip", "bomb", "large"],
)
def test_bad_requests(org, body, headers, status, message):
    """Each is refused with its own status and a google.rpc.Status that says why."""
    response = org.send(body, **headers)
    assert response.status_code == status
    assert message in rpc_message(response)


def test_gzip(org, recorder):
    """gzip is understood, several members too."""
    for _ in range(2):
        recorder.call()
    encoded = encode_spans(recorder.spans()).SerializeToString()
    members = gzip.compress(encoded[:50]) + gzip.compress(encoded[50:])
    assert org.send(members, Content_Encoding="gzip").status_code == 200
    assert org.get("stats")["totals"]["calls"] == 2


def test_empty_request(org):
    """An exporter may send nothing; it is stored well."""
    response = org.send(b"")
    assert (response.status_code, response.content) == (200, b"")


def test_zip_bomb_is_not_held(org):
    """Ten bombs of 256 MiB at once neither fill the memory nor stop the server."""
    step = zlib.compressobj(9, wbits=31)
    bomb = b"".join(step.compress(b"\0" * (1 << 24)) for _ in range(16)) + step.flush()
    before = _peak_kib(org.server.process.pid)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: org.send(bomb, Content_Encoding="gzip").status_code, range(10)))
    assert set(answers) <= {413, 503}
    assert _peak_kib(org.server.process.pid) - before < 700 << 10
    assert httpx.get(f"{org.server.url}/healthz").text == "ok\n"


def _peak_kib(pid):
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


# --- many at once ------------------------------------------------------------------------------------------------
def test_group_commit(org, recorder):
    """Many clients at once share inserts, and each gets its own answer only when its spans can be read."""
    batches = []
    for client in range(48):
        for _ in range(5):
            recorder.call(user_id=f"client-{client}")
        batches.append((f"client-{client}", recorder.spans()))
    before = org.server.metrics()
    seen = []

    def send(batch):
        user, spans = batch
        org.store(spans)
        seen.append(org.get("stats", user_id=user)["totals"]["calls"])

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(send, batches))
    assert seen == [5] * 48
    after = org.server.metrics()
    assert after["egisai_ingest_spans_stored_total"] - before["egisai_ingest_spans_stored_total"] == 240
    assert after["egisai_ingest_inserts_total"] - before["egisai_ingest_inserts_total"] < 48


def test_overload(org, recorder):
    """When unanswered requests fill the budget, what has no room is told to come later; once they go, all is well."""
    recorder.call(user_id="small")
    small = recorder.spans()
    recorder.call(user_id="large", attributes={semconv.INPUT_MESSAGES: "x" * (12 << 20)})
    large = recorder.spans()
    host, port = org.server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/traces HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {org.ingest_key}\r\n"
        f"Content-Type: application/x-protobuf\r\nContent-Length: {20 << 20}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as slow:
        for _ in range(13):
            connection = slow.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(head + bytes(19 << 20))
        wait_until(lambda: org.server.metrics()["egisai_ingest_held_bytes"] == 13 * (19 << 20))
        refused = org.send(large)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "later" in rpc_message(refused)
        org.store(small)
    wait_until(lambda: org.server.metrics()["egisai_ingest_held_bytes"] == 0)
    org.store(large)
    assert {call["user_id"] for call in org.items("calls")} == {"small", "large"}


def test_stop_during_uploads(start, tmp_path, make_organisation):
    """A stop does not wait for ever for a sender that stalls, answers it, and prints no traceback."""
    server = start(tmp_path)
    org = make_organisation(server)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stalled:
        stalled.sendall(
            f"POST /v1/traces HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {org.ingest_key}\r\n"
            "Content-Type: application/x-protobuf\r\nContent-Length: 10\r\n\r\n12345".encode()
        )
        wait_until(lambda: server.metrics()["egisai_ingest_held_bytes"] == 5)
        code, output = server.stop()
        assert stalled.recv(12) == b"HTTP/1.1 503"
    assert code == 0
    assert "Traceback" not in output


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
