"""The exporter from outside: configuration, entry point, metrics, encoding, documents."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

import egisai_exporter
from egisai_exporter import EgisExporter
from egisai_exporter.exporter import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S
from exporter.conftest import Pipeline
from exporter.receiver import Receiver

Make = Callable[..., Pipeline]
HOME = Path(egisai_exporter.__file__).parents[2]
KEY = "egis_live_acme_" + "a" * 64


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://egis.example/base/", "https://egis.example/base/v1/traces"),
        ("https://egis.example/v1/traces", "https://egis.example/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_endpoint_is_a_base_or_full_url(given: str, expected: str) -> None:
    exporter = EgisExporter(given, api_key=KEY)
    assert exporter.stats()["endpoint"] == expected


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["endpoint", "EGISAI_BASE_URL", "not set", "http://"]),
        ({"endpoint": "ftp://host"}, ["endpoint", "'ftp://host'", "https://"]),
        ({"endpoint": "host:4318"}, ["endpoint", "'host:4318'"]),
        ({"endpoint": "http://"}, ["endpoint", "'http://'"]),
        ({"endpoint": "http://host:port"}, ["endpoint", "'http://host:port'"]),
        ({"endpoint": "http://host\n"}, ["endpoint", r"'http://host\n'", "control"]),
        ({"endpoint": "http://host/?key=1"}, ["endpoint", "query"]),
        ({"endpoint": "http://user:hunter2@host"}, ["endpoint", "api_key"]),
        ({"api_key": KEY + "\n"}, ["api_key", r"'\n'", "position 79", "printable ASCII"]),
        ({"api_key": "egis live"}, ["api_key", "' '"]),
        ({"api_key": "clé"}, ["api_key", "'é'"]),
        ({"headers": {"a b": "c"}}, ["headers", "'a b'"]),
        ({"headers": {"X-Tenant": "a\r\nHost: evil"}}, ["headers", "X-Tenant"]),
        ({"max_bytes": 0}, ["max_bytes", "0", "above 0"]),
        ({"max_bytes": "1 GB"}, ["max_bytes", "'1 GB'", "whole number"]),
        ({"max_bytes": True}, ["max_bytes", "True"]),
        ({"timeout_s": -1.0}, ["timeout_s", "-1.0", "seconds"]),
        ({"timeout_s": float("nan")}, ["timeout_s", "nan"]),
        ({"spool_dir": "a\0b"}, ["spool_dir", r"'a\x00b'"]),
    ],
)
def test_bad_configuration_says_what_is_wrong(options: dict[str, Any], names: list[str]) -> None:
    """Setting, value and what is allowed are in the message; a secret is not."""
    if options and "endpoint" not in options:
        options = {"endpoint": "http://127.0.0.1:1"} | options
    with pytest.raises(ValueError) as caught:
        EgisExporter(**options)
    for name in names:
        assert name in str(caught.value)
    for secret in ("a" * 64, "hunter2", "evil"):
        assert secret not in str(caught.value)


def test_environment_names_itself_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value from the environment is blamed on the variable."""
    monkeypatch.setenv("EGISAI_BASE_URL", "nonsense")
    with pytest.raises(ValueError, match="EGISAI_BASE_URL is 'nonsense'"):
        EgisExporter()
    monkeypatch.setenv("EGISAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("EGISAI_API_KEY", "bad\nkey")
    with pytest.raises(ValueError, match="EGISAI_API_KEY"):
        EgisExporter()


def test_environment_configures_all(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No argument at all: endpoint, key and directory come from the environment, without a word."""
    monkeypatch.setenv("EGISAI_BASE_URL", receiver.url)
    monkeypatch.setenv("EGISAI_API_KEY", KEY)
    monkeypatch.setenv("EGISAI_SPOOL_DIR", str(tmp_path / "mine"))
    pipe = Pipeline(EgisExporter())
    pipe.spans("s")
    assert pipe.exporter.force_flush(5_000)
    pipe.provider.shutdown()
    assert receiver.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    assert pipe.stats()["spool_dir"].startswith(str(tmp_path / "mine"))
    assert caplog.records == []


def test_no_key_is_a_warning(receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Without a key the exporter works and says so once; a header of the caller's is a key too."""
    pipe = pipeline(receiver.url, api_key=None)
    pipe.spans("s")
    assert pipe.exporter.force_flush(5_000)
    assert "Authorization" not in receiver.requests[0]["headers"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog.clear()
    pipe = pipeline(receiver.url, api_key=None, headers={"authorization": "Basic eDp5", "X-Tenant": "t"})
    pipe.spans("s")
    assert pipe.exporter.force_flush(5_000)
    headers = receiver.requests[1]["headers"]
    assert (headers["authorization"], headers["X-Tenant"]) == ("Basic eDp5", "t")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"api_key": KEY}, {"api_key": "egis_live_acme_" + "b" * 64}, True),  # a rotated key
        ({"api_key": KEY}, {"api_key": "egis_live_other_" + "a" * 64}, False),
        ({"api_key": KEY}, {}, False),
        ({"api_key": "vendor-1"}, {"api_key": "vendor-2"}, False),
        ({"api_key": KEY}, {"api_key": KEY, "headers": {"X-Tenant": "t"}}, False),
        ({"endpoint": "http://a.example"}, {"endpoint": "http://a.example/v1/traces"}, True),
        ({"endpoint": "http://a.example"}, {"endpoint": "http://b.example"}, False),
    ],
)
def test_destination(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """Where spans wait depends on endpoint, organisation and headers, and shows no secret."""
    places = [
        EgisExporter(**({"endpoint": "http://x.example"} | options)).stats()["spool_dir"] for options in (one, other)
    ]
    assert (places[0] == places[1]) is same
    assert not any("aaaa" in place or "vendor" in place for place in places)


def test_entry_point() -> None:
    (entry,) = entry_points(group="opentelemetry_traces_exporter", name="egisai")
    assert entry.load() is EgisExporter


def test_zero_code(receiver: Receiver, tmp_path: Path) -> None:
    """`OTEL_TRACES_EXPORTER=egisai opentelemetry-instrument python app.py` sends the program's spans at exit."""
    app = tmp_path / "app.py"
    app.write_text("from opentelemetry import trace\ntrace.get_tracer('app').start_span('from app').end()\n")
    environment = {
        "OTEL_TRACES_EXPORTER": "egisai",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "EGISAI_BASE_URL": receiver.url,
        "EGISAI_API_KEY": KEY,
        "EGISAI_SPOOL_DIR": str(tmp_path / "spool"),
    }
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, str(app)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert receiver.names == ["from app"], done.stderr


def test_batch_processor_leaves_the_time_of_shutdown_to_us(pipeline: Make, receiver: Receiver) -> None:
    """BatchSpanProcessor passes its own 30 s to a `shutdown` that takes `timeout_millis` by position; ours does not."""
    assert "timeout_millis" not in inspect.getfullargspec(pipeline(receiver.url).exporter.shutdown).args
    assert BatchSpanProcessor  # whose behaviour this is about


def test_metrics(receiver: Receiver, pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are a counter and what waits is a gauge, on the meter provider of the program."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter", lambda name: provider.get_meter(name))
    receiver.answer = lambda _: (400, {}, b"")
    pipe = pipeline(receiver.url)
    pipe.spans("a", "b")
    pipe.exporter.force_flush(5_000)
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        (metric.name, *sorted(str(value) for value in point.attributes.values())): point.value  # pyright: ignore
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert points == {
        ("egisai.exporter.spans", "accepted"): 2,
        ("egisai.exporter.spans", "dropped", "refused_400"): 2,
        ("egisai.exporter.waiting", "127.0.0.1"): 0,
    }
    provider.shutdown()


def test_a_span_that_cannot_be_encoded_costs_only_itself(
    receiver: Receiver, pipeline: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """One span that breaks the encoder (its name is no text) is counted, and the others arrive."""
    pipe = pipeline(receiver.url)
    for name in ("a", 5, "b"):
        pipe._tracer.start_span(name).end()  # pyright: ignore
    pipe.provider.force_flush()
    assert pipe.exporter.force_flush(5_000)
    assert receiver.names == ["a", "b"]
    assert pipe.stats()["dropped"] == {"not_encodable": 1}


def test_spans_that_cannot_be_prepared_are_not_sent(receiver: Receiver, pipeline: Make) -> None:
    """What another distribution does to spans may be what keeps a secret: where it fails, nothing goes out."""

    def broken(spans: object) -> Any:
        raise RuntimeError(spans)

    pipe = pipeline(receiver.url)
    pipe.exporter._preparing.append(broken)  # pyright: ignore
    pipe._tracer.start_span("a").end()  # pyright: ignore
    pipe.provider.force_flush()
    assert pipe.exporter.force_flush(5_000)
    assert receiver.names == []
    assert pipe.stats()["dropped"] == {"not_prepared": 1}


def test_an_empty_batch_is_nothing(receiver: Receiver, pipeline: Make) -> None:
    pipe = pipeline(receiver.url)
    assert pipe.exporter.export([]) is SpanExportResult.SUCCESS
    assert pipe.exporter.force_flush(1_000)
    assert receiver.requests == []


def test_knows_opentelemetry_and_requests_only() -> None:
    """The arrows: no module imports Egis's other distributions."""
    allowed = {"egisai_exporter", "opentelemetry", "google", "requests"} | set(sys.stdlib_module_names)
    for path in (HOME / "src" / "egisai_exporter").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_readme_table_matches_the_code() -> None:
    """Each parameter is in the README's table of settings with the default it has."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (HOME / "README.md").read_text(), re.MULTILINE)
    parameters = inspect.signature(EgisExporter).parameters
    assert [name for name, _ in rows] == [name for name in parameters if not name.startswith("_")]
    documented = dict(rows)
    assert documented["max_bytes"] == f"{DEFAULT_MAX_BYTES} bytes (512 MiB)"
    assert documented["timeout_s"] == f"{DEFAULT_TIMEOUT_S:g} s"


def test_collector_configuration_is_whole() -> None:
    """Each component a pipeline uses is configured, and the key is taken from the environment."""
    config = yaml.safe_load((HOME / "collector" / "egis.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    assert config["exporters"]["otlphttp/egis"]["headers"]["Authorization"] == "Bearer ${env:EGISAI_API_KEY}"
