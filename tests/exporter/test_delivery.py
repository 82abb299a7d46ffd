"""The delivery cases: what happens between an accepted batch and its receiver."""

from __future__ import annotations

import datetime
import gzip
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from exporter.conftest import SLOW, Pipeline
from exporter.receiver import Answer, Receiver, ok, partial, span_names, status

Make = Callable[..., Pipeline]
Program = Callable[..., "subprocess.Popen[str]"]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool").glob("*/*/*.otlp.gz"))


def finish(process: subprocess.Popen[str], timeout_s: float = 20) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def test_delivers_in_order_with_key_and_gzip(receiver: Receiver, pipeline: Make, tmp_path: Path) -> None:
    """Batches arrive oldest first, compressed, with the key, at /v1/traces, and leave nothing behind."""
    pipe = pipeline(receiver.url)
    for i in range(10):
        pipe.spans(f"s{i}")
    assert pipe.exporter.force_flush(5_000)
    assert receiver.names == [f"s{i}" for i in range(10)]
    request = receiver.requests[0]
    assert request["path"] == "/v1/traces"
    assert request["headers"]["Authorization"] == "Bearer egis_live_acme_" + "a" * 64
    assert (request["headers"]["Content-Type"], request["headers"]["Content-Encoding"]) == (
        "application/x-protobuf",
        "gzip",
    )
    assert files(tmp_path) == []
    assert pipe.stats() == {
        "endpoint": receiver.url + "/v1/traces",
        "spool_dir": pipe.stats()["spool_dir"],
        "accepted": 10,
        "adopted": 0,
        "delivered": 10,
        "dropped": {},
        "waiting_batches": 0,
        "waiting_spans": 0,
        "waiting_bytes": 0,
        "retry_in_s": None,
        "last_error": None,
    }


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "0"}], ids=["plain", "retry-after"])
def test_del_503(receiver: Receiver, pipeline: Make, headers: dict[str, str]) -> None:
    """An endpoint that answers 503 a hundred times over, then heals: each span arrives, once."""
    healed = threading.Event()
    receiver.answer = lambda _: ok() if healed.is_set() else status(503, **headers)
    pipe = pipeline(receiver.url)
    expected = [f"s{i}" for i in range(200)]
    for start in range(0, 200, 10):
        pipe.spans(*expected[start : start + 10])
    assert receiver.wait(lambda: len(receiver.requests) >= 12)
    assert receiver.names == []
    assert pipe.stats()["waiting_spans"] == 200
    assert pipe.stats()["dropped"] == {}
    healed.set()
    assert pipe.exporter.force_flush(10_000)
    assert receiver.names == expected
    assert pipe.stats()["delivered"] == 200


def test_del_503_flapping(receiver: Receiver, pipeline: Make) -> None:
    """An endpoint that refuses two requests out of three loses and doubles nothing."""
    count = iter(range(10_000))
    receiver.answer = lambda _: ok() if next(count) % 3 == 2 else status((503, 429, 502, 504)[next(count) % 4])
    pipe = pipeline(receiver.url)
    expected = [f"s{i}" for i in range(20)]
    for name in expected:
        pipe.spans(name)
    assert sorted(receiver.wait_names(20, 20)) == sorted(expected)
    assert pipe.exporter.force_flush(5_000)
    assert len(receiver.names) == 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed_even_by_flush(receiver: Receiver, pipeline: Make, form: str) -> None:
    """No request before Retry-After is over; a flush that cannot succeed before its deadline says so at once."""
    wait_s = 2 if form == "date" else 1  # an HTTP date has whole seconds: 2 means at least 1
    date = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=wait_s)
    value = format_datetime(date, usegmt=True) if form == "date" else str(wait_s)
    answers = iter([status(429, Retry_After=value)])
    receiver.answer = lambda _: next(answers, ok())
    pipe = pipeline(receiver.url)
    pipe.spans("s")
    assert receiver.wait(lambda: len(receiver.requests) == 1)
    begin = time.monotonic()
    assert not pipe.exporter.force_flush(300)
    assert time.monotonic() - begin < 0.6
    assert receiver.wait_names(1) == ["s"]
    gap = receiver.requests[1]["time"] - receiver.requests[0]["time"]
    assert 0.9 <= gap < 2.9


def test_flush_ends_a_backoff(receiver: Receiver, pipeline: Make) -> None:
    """A flush tries at once, however long the backoff has become."""
    answers = iter([status(503)])
    receiver.answer = lambda _: next(answers, ok())
    pipe = pipeline(receiver.url, _backoff=SLOW)
    pipe.spans("s")
    assert receiver.wait(lambda: len(receiver.requests) == 1)
    assert pipe.exporter.force_flush(5_000)
    assert receiver.names == ["s"]


def test_flush_keeps_its_deadline(receiver: Receiver, pipeline: Make) -> None:
    """A receiver that does not answer makes flush return False at its deadline, not later."""
    release = threading.Event()

    def hang(_: object) -> Answer:
        release.wait(10)
        return ok()

    receiver.answer = hang
    pipe = pipeline(receiver.url)
    pipe.spans("s")
    begin = time.monotonic()
    assert not pipe.exporter.force_flush(300)
    assert 0.25 <= time.monotonic() - begin < 1.0
    release.set()
    assert pipe.exporter.force_flush(5_000)


def test_del_down_restart(down: Receiver, pipeline: Make, program: Program, tmp_path: Path) -> None:
    """Endpoint down, program killed with -9, started again, endpoint up: what was accepted arrives, once."""
    source = "for i in range(20): pipe.spans(f'k{i}')\nos.kill(os.getpid(), signal.SIGKILL)"
    code, _, err = finish(program(down.url, source))
    assert code == -signal.SIGKILL, err
    assert len(files(tmp_path)) == 20
    pipe = pipeline(down.url)  # started again, and it makes no call of its own
    down.open()
    assert down.wait_names(20) == [f"k{i}" for i in range(20)]
    assert pipe.exporter.force_flush(5_000)
    assert len(down.names) == 20
    assert (pipe.stats()["adopted"], pipe.stats()["delivered"]) == (20, 20)
    assert files(tmp_path) == []


def test_unreachable_is_one_calm_line(
    down: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """An outage is one line that says what, why, how much is kept where; its end is another; no stack trace."""
    caplog.set_level(logging.INFO, "egisai_exporter")
    pipe = pipeline(down.url)
    pipe.spans("a")
    for _ in range(5):
        pipe.exporter.force_flush(50)
    assert "Connection refused" in pipe.stats()["last_error"]
    down.open()
    assert pipe.exporter.force_flush(5_000)
    lines = [record.getMessage() for record in caplog.records if record.name == "egisai_exporter"]
    assert len(lines) == 2, lines
    expected = f"egisai: cannot reach {down.url}/v1/traces (Connection refused); 1 batch is kept on disk in {tmp_path}"
    assert lines[0].startswith(expected)
    assert "again" in lines[1]
    assert not any(record.exc_info for record in caplog.records)


def test_del_refused(receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture) -> None:
    """400 drops and counts that batch only; partial_success counts the refused spans; neither is retried."""

    def answer(request: Any) -> Answer:
        names = span_names(request)
        if "bad" in names:
            return status(400, b"bad\x00 span\nid egis_live_acme_" + b"a" * 64)
        return partial(2, "no tenant") if "half" in names else ok()

    receiver.answer = answer
    pipe = pipeline(receiver.url)
    pipe.spans("bad", "b2", "b3")
    pipe.spans("half", "h2", "h3")
    pipe.spans("good")
    assert not pipe.exporter.force_flush(5_000)  # truthfully: not all of it was delivered
    assert pipe.stats()["dropped"] == {"refused_400": 3, "rejected": 2}
    assert pipe.stats()["delivered"] == 2
    assert pipe.stats()["waiting_spans"] == 0
    assert len(receiver.requests) == 3
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "400 Bad Request: bad span id ***" in text
    assert "no tenant" in text
    assert pipe.exporter.force_flush(1_000)


@pytest.mark.parametrize("code", [404, 500, 501])
def test_other_refusals_are_for_good(receiver: Receiver, pipeline: Make, code: int) -> None:
    """What OTLP does not call retryable is dropped after one attempt."""
    receiver.answer = lambda _: status(code)
    pipe = pipeline(receiver.url)
    pipe.spans("s")
    assert not pipe.exporter.force_flush(5_000)
    assert pipe.stats()["dropped"] == {f"refused_{code}": 1}
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_del_redirect(receiver: Receiver, pipeline: Make, code: int) -> None:
    """3xx is no success, and nobody is sent to: neither spans nor key follow a redirect."""
    elsewhere = Receiver()
    try:
        receiver.answer = lambda _: status(code, Location=elsewhere.url)
        pipe = pipeline(receiver.url)
        pipe.spans("s")
        assert not pipe.exporter.force_flush(5_000)
        assert pipe.stats()["dropped"] == {f"refused_{code}": 1}
        assert pipe.stats()["delivered"] == 0
        assert elsewhere.url in pipe.stats()["last_error"]
        assert elsewhere.requests == []
    finally:
        elsewhere.close()


def test_a_refusal_in_protobuf_is_read(receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture) -> None:
    """OTLP receivers say why in a protobuf google.rpc.Status: its message is in the log line, none of its bytes."""
    message = "the key is revoked"
    refusal = b"\x08\x10\x12" + bytes([len(message)]) + message.encode()  # code: 16, message
    receiver.answer = lambda _: status(401, refusal, Content_Type="application/x-protobuf")
    pipe = pipeline(receiver.url)
    pipe.spans("kept")
    assert not pipe.exporter.force_flush(5000)
    assert f"(401 Unauthorized: {message});" in caplog.text


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_loses_nothing(
    receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path, code: int
) -> None:
    """A wrong key is one error that says what to do; the spans wait, and a restart with a good key sends them."""
    receiver.answer = lambda _: status(code)
    pipe = pipeline(receiver.url, api_key="egis_live_acme_" + "b" * 64, _backoff=SLOW)
    pipe.spans("a")
    assert not pipe.exporter.force_flush(2_000)
    pipe.spans("b")
    assert not pipe.exporter.force_flush(2_000)
    assert len(receiver.requests) == 1  # not even a flush hammers a platform that has said no
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "EGISAI_API_KEY" in errors[0]
    assert pipe.stats()["dropped"] == {}
    pipe.exporter.shutdown()
    receiver.answer = lambda _: ok()
    again = pipeline(receiver.url)
    assert receiver.wait_names(2) == ["a", "b"]
    assert again.exporter.force_flush(5_000)


def test_another_destination_gets_nothing(receiver: Receiver, down: Receiver, pipeline: Make, tmp_path: Path) -> None:
    """What waits for one endpoint or organisation is never sent to another."""
    pipeline(down.url).spans("other endpoint")
    held = pipeline(receiver.url, api_key="egis_live_other_" + "c" * 64, _backoff=SLOW)
    receiver.answer = lambda _: status(401)
    held.spans("other organisation")
    assert receiver.wait(lambda: len(receiver.requests) == 1)
    held.exporter.shutdown()
    receiver.answer = lambda _: ok()
    pipe = pipeline(receiver.url)
    pipe.spans("mine")
    assert pipe.exporter.force_flush(5_000)
    assert receiver.names == ["mine"]
    assert len(files(tmp_path)) == 2


def test_del_big(receiver: Receiver, pipeline: Make) -> None:
    """One span with megabytes of content takes a request of its own; its batch arrives in requests under 4 MiB."""
    pipe = pipeline(receiver.url)
    tracer = pipe.provider.get_tracer("big")
    for i in range(9):
        attributes = {"text": "x" * (6 * 2**20 if i == 4 else 2**20)}
        tracer.start_span(f"s{i}", attributes=attributes).end()
    pipe.provider.force_flush()
    assert pipe.exporter.force_flush(10_000)
    assert receiver.names == [f"s{i}" for i in range(9)]
    sizes = sorted(request["size"] for request in receiver.requests)
    assert 6 * 2**20 < sizes[-1] < 6.1 * 2**20
    assert all(size < 4.1 * 2**20 for size in sizes[:-1])


def test_del_big_refused_span_does_not_take_its_batch_along(receiver: Receiver, pipeline: Make) -> None:
    """413 cuts a batch until only the span that is too large is refused."""
    receiver.answer = lambda request: status(413) if request.ByteSize() > 20_000 else ok()
    pipe = pipeline(receiver.url)
    tracer = pipe.provider.get_tracer("big")
    for i in range(16):
        tracer.start_span(f"s{i}", attributes={"text": "x" * (30_000 if i == 11 else 3_000)}).end()
    pipe.provider.force_flush()
    assert not pipe.exporter.force_flush(10_000)
    assert sorted(receiver.names) == sorted(f"s{i}" for i in range(16) if i != 11)
    assert pipe.stats()["dropped"] == {"refused_413": 1}
    assert pipe.stats()["waiting_spans"] == 0


def test_del_full(down: Receiver, pipeline: Make, tmp_path: Path) -> None:
    """At the byte limit the oldest go, counted in spans; the newest stay and arrive; export keeps succeeding."""
    limit = 10 * 4096
    pipe = pipeline(down.url, max_bytes=limit, _backoff=SLOW)
    for i in range(25):
        pipe.spans(f"a{i}", f"b{i}")
        assert sum(-(-file.stat().st_size // 4096) * 4096 for file in files(tmp_path)) <= limit
    stats = pipe.stats()
    assert stats["accepted"] == 50
    assert stats["waiting_bytes"] <= limit
    assert 0 < stats["waiting_spans"] < 50
    assert stats["dropped"] == {"spool_full": 50 - stats["waiting_spans"]}
    down.open()
    assert pipe.exporter.force_flush(5_000)
    assert "b24" in down.names
    assert len(down.names) + pipe.stats()["dropped"]["spool_full"] == 50


def test_del_full_batch_larger_than_the_spool(down: Receiver, pipeline: Make) -> None:
    """A batch that could never fit is refused and counted, and costs nobody else their place."""
    pipe = pipeline(down.url, max_bytes=4096, _backoff=SLOW)
    pipe.spans("small")
    pipe.spans("large", noise=os.urandom(10_000).hex())
    assert pipe.stats()["dropped"] == {"spool_full": 1}
    assert pipe.stats()["waiting_spans"] == 1


def test_del_exit(receiver: Receiver, program: Program) -> None:
    """A program that ends at once, with the endpoint up: its spans arrive at exit."""
    process = program(receiver.url, "import atexit; atexit.register(pipe.provider.shutdown)\npipe.spans('last')")
    code, _, err = finish(process)
    assert (code, err) == (0, "")
    assert receiver.names == ["last"]


@pytest.mark.parametrize("way", ["refusing", "hanging"])
def test_del_exit_is_bounded(way: str, down: Receiver, pipeline: Make, program: Program, tmp_path: Path) -> None:
    """Endpoint down or hanging: exit takes at most two seconds of ours, and the disk has all of it."""
    release = threading.Event()
    if way == "hanging":
        down.answer = lambda _: (release.wait(20), ok())[1]
        down.open()
    source = (
        "for i in range(50): pipe.spans(f's{i}')\n"
        "begin = time.monotonic()\npipe.provider.shutdown()\nprint(time.monotonic() - begin)"
    )
    code, out, err = finish(program(down.url, source))
    release.set()
    assert code == 0, err
    assert float(out) < (1.0 if way == "refusing" else 2.5)
    assert len(files(tmp_path)) == 50
    if way == "refusing":
        down.open()
        pipe = pipeline(down.url)
        assert down.wait_names(50) == [f"s{i}" for i in range(50)]
        assert pipe.exporter.force_flush(5_000)


def test_del_exit_without_a_thread(receiver: Receiver, program: Program) -> None:
    """When no thread can be started (as in an interpreter that exits), flush and shutdown deliver all the same."""
    source = (
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "provider = TracerProvider(shutdown_on_exit=False)\n"
        "threading.stack_size(2**46)  # more than there is: starting a thread fails\n"
        "provider.add_span_processor(SimpleSpanProcessor(pipe.exporter))\n"
        "provider.get_tracer('t').start_span('a').end()\n"
        "print(pipe.exporter.force_flush(5000))\n"
        "provider.get_tracer('t').start_span('b').end()\n"
        "pipe.exporter.shutdown()\n"
    )
    code, out, err = finish(program(receiver.url, source))
    assert (code, out) == (0, "True\n"), err
    assert receiver.names == ["a", "b"]


def test_nothing_is_accepted_after_shutdown(receiver: Receiver, pipeline: Make) -> None:
    """Spans after shutdown are refused and counted; shutting down twice is harmless."""
    pipe = pipeline(receiver.url)
    pipe.spans("before")
    pipe.exporter.shutdown()
    pipe.exporter.shutdown()
    assert receiver.names == ["before"]
    pipe.spans("after")
    assert pipe.stats()["dropped"] == {"shut_down": 1}
    assert pipe.exporter.export([]) is SpanExportResult.FAILURE


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_del_fork(receiver: Receiver, program: Program, tmp_path: Path) -> None:
    """Forks of a program whose exporter waits and runs: each span of parent and children arrives exactly once."""
    refuse = threading.Event()
    refuse.set()
    receiver.answer = lambda _: status(503) if refuse.is_set() else ok()
    source = (
        "pipe.spans(*[f'p{i}' for i in range(10)])\n"
        "assert not pipe.exporter.force_flush(50)\n"
        "children = []\n"
        "for c in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        assert pipe.exporter.stats()['accepted'] == 0\n"
        "        pipe.spans(*[f'c{c}-{i}' for i in range(10)])\n"
        "        os.write(1, b'ready\\n')\n"
        "        done = pipe.exporter.force_flush(15000)\n"
        "        os._exit(0 if done and pipe.exporter.stats()['delivered'] == 10 else 1)\n"
        "    children.append(pid)\n"
        "pipe.spans('after')\nos.write(1, b'ready\\n')\n"
        "assert pipe.exporter.force_flush(15000)\n"
        "sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))\n"
    )
    process = program(receiver.url, source)
    assert process.stdout is not None
    for _ in range(4):
        assert process.stdout.readline() == "ready\n"
    refuse.clear()
    code, _, err = finish(process, 30)
    assert code == 0, err
    expected = [f"p{i}" for i in range(10)] + ["after"] + [f"c{c}-{i}" for c in range(3) for i in range(10)]
    assert sorted(receiver.names) == sorted(expected)
    assert files(tmp_path) == []


def test_a_forked_child_does_not_keep_its_dead_parents_batches(
    down: Receiver, pipeline: Make, program: Program, tmp_path: Path
) -> None:
    """The parent is killed while a child lives on: the next process can take the parent's batches."""
    source = (
        "pipe.spans('p')\n"
        "if os.fork() == 0:\n"
        "    os.close(1); os.close(2)\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    reader, writer = os.pipe()
    saved = os.dup(0)
    os.dup2(reader, 0)
    try:
        process = program(down.url, source)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reader)
    try:
        assert finish(process)[0] == -signal.SIGKILL
        down.open()
        pipeline(down.url)
        assert down.wait_names(1) == ["p"]
    finally:
        os.close(writer)


def test_many_threads(receiver: Receiver, pipeline: Make) -> None:
    """Many threads that export, flush and read stats at once lose and double nothing."""
    pipe = pipeline(receiver.url)
    made: dict[str, ReadableSpan] = {}

    class Keep(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            made.update({span.name: span for span in spans})
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Keep()))
    expected = [f"{t}-{i}" for t in range(16) for i in range(25)]
    for name in expected:
        provider.get_tracer("t").start_span(name).end()

    def work(thread: int) -> None:
        for i in range(25):
            assert pipe.exporter.export([made[f"{thread}-{i}"]]) is SpanExportResult.SUCCESS
            if i % 10 == 0:
                pipe.exporter.force_flush(1)
                pipe.stats()

    threads = [threading.Thread(target=work, args=(t,)) for t in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipe.exporter.force_flush(20_000)
    assert sorted(receiver.names) == sorted(expected)
    assert pipe.stats()["dropped"] == {}
    assert (pipe.stats()["accepted"], pipe.stats()["delivered"]) == (400, 400)


def test_hostile_reply_is_one_line(receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A huge, binary or multi-line reply neither fills the log nor breaks a line; 200 with nonsense is a success."""
    answers = iter([status(400, b"\x1b[31mred\r\n" + b"y" * 300_000), status(200, b"\xff not protobuf")])
    receiver.answer = lambda _: next(answers)
    pipe = pipeline(receiver.url)
    pipe.spans("a")
    pipe.spans("b")
    pipe.exporter.force_flush(5_000)
    assert pipe.stats()["delivered"] == 1
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 600


def test_netrc_does_not_replace_the_key(
    receiver: Receiver, pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ~/.netrc entry for the platform's host, which requests would send instead, changes nothing."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    pipe = pipeline(receiver.url)
    pipe.spans("s")
    assert pipe.exporter.force_flush(5_000)
    assert receiver.requests[0]["headers"]["Authorization"].startswith("Bearer ")


def test_hung_connection_is_retried(down: Receiver, pipeline: Make) -> None:
    """A receiver that accepts and then drops the connection is an outage, not an end."""
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen()
        dropped = threading.Event()

        def drop() -> None:
            while True:
                try:
                    connection, _ = rude.accept()
                except OSError:
                    return
                connection.close()
                dropped.set()

        thread = threading.Thread(target=drop, daemon=True)
        thread.start()
        pipe = pipeline(f"http://127.0.0.1:{rude.getsockname()[1]}")
        pipe.spans("s")
        assert dropped.wait(5)
        pipe.exporter.shutdown()
        assert pipe.stats()["waiting_spans"] == 1
        rude.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_corrupt_files_do_not_block(down: Receiver, pipeline: Make, tmp_path: Path) -> None:
    """A truncated, emptied, removed or foreign file costs itself, counted by reason, and nobody else."""
    pipe = pipeline(down.url, _backoff=SLOW)
    for i in range(5):
        pipe.spans(f"s{i}")
    truncated, emptied, removed, _, _ = files(tmp_path)
    truncated.write_bytes(truncated.read_bytes()[:-1])
    emptied.write_bytes(b"")
    removed.unlink()
    (truncated.parent / "notes.txt").write_text("not ours")
    down.open()
    pipe.exporter.force_flush(5_000)
    assert down.names == ["s3", "s4"]
    assert pipe.stats()["dropped"] == {"corrupt": 2, "missing": 1}
    assert pipe.stats()["waiting_spans"] == 0


def test_rotten_bytes_are_refused_once(pipeline: Make, down: Receiver, tmp_path: Path) -> None:
    """A file of the right length whose content is no request is refused by the receiver and does not come back."""
    pipe = pipeline(down.url, _backoff=SLOW)
    pipe.spans("rotten", "r2")
    pipe.spans("good")
    first = files(tmp_path)[0]
    first.write_bytes(b"?" * first.stat().st_size)
    down.refuse_garbage = 413
    down.open()
    pipe.exporter.force_flush(5_000)
    assert down.names == ["good"]
    assert pipe.stats()["dropped"] == {"refused_413": 2}


def test_spans_of_our_own_requests_are_not_made(receiver: Receiver, program: Program) -> None:
    """With instrumentation of HTTP clients on the same provider, delivery makes no spans about itself."""
    source = (
        "import requests\n"
        "from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled\n"
        "plain, calls = requests.Session.send, []\n"
        "def traced(self, request, **options):\n"
        "    calls.append(request)\n"
        "    if is_http_instrumentation_enabled(): pipe._tracer.start_span('own').end()\n"
        "    return plain(self, request, **options)\n"
        "requests.Session.send = traced\n"
        "for _ in range(2): pipe.spans('s'); pipe.exporter.force_flush(5000)\n"
        "pipe.provider.force_flush(); pipe.exporter.force_flush(5000)\n"
        "assert len(calls) == 2, calls\n"
    )
    code, _, err = finish(program(receiver.url, source))
    assert code == 0, err
    assert receiver.names == ["s", "s"]


def test_gunzip_reads_what_waits(pipeline: Make, tmp_path: Path, down: Receiver) -> None:
    """What waits can be read with gunzip."""
    pipe = pipeline(down.url, _backoff=SLOW)
    pipe.spans("readable")
    assert b"readable" in gzip.decompress(files(tmp_path)[0].read_bytes())
