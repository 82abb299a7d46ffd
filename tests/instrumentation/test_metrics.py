"""GenAI client metrics: who called what, how long it took and what it used; nothing where nobody listens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tests.instrumentation.forms import Caller, request

import egisai
from conftest import Spans
from egisai_instrumentation import EgisInstrumentor, metrics
from provider import Provider, fail


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    """A meter provider of the program's own, with our instrumentor on it."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    EgisInstrumentor().instrument(tracer_provider=Spans().provider, meter_provider=provider, skip_dep_check=True)
    yield reader
    EgisInstrumentor().uninstrument()
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Metric name to its data points."""
    data = reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
    return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_metrics(reader: InMemoryMetricReader, caller: Caller, api: str, stream: bool) -> None:
    """Duration, tokens by kind, and of a stream the time to its first chunk: by agent, never by user."""
    with egisai.context(agent="billing", user_id="u-1", session_id="s-1", workflow_id="w-1"):
        result = caller.create(api, stream=stream)
        if stream:
            list(caller.each(result))
    found = points(reader)
    [duration] = found["gen_ai.client.operation.duration"]
    assert duration.count == 1
    assert 0 < duration.sum < 60
    assert duration.explicit_bounds[:2] == (0.01, 0.02)
    by = dict(duration.attributes)
    assert by["gen_ai.agent.name"] == "billing"
    assert by["gen_ai.operation.name"] == "chat"
    assert by["gen_ai.request.model"] == "gpt-4.1-mini"
    assert not {"user.id", "session.id", "egisai.workflow.id", "gen_ai.conversation.id"} & by.keys()
    tokens = {point.attributes["gen_ai.token.type"]: point for point in found["gen_ai.client.token.usage"]}
    assert {kind: point.sum > 0 for kind, point in tokens.items()} == {"input": True, "output": True}
    assert ("gen_ai.client.operation.time_to_first_chunk" in found) is stream


def test_metrics_of_errors(reader: InMemoryMetricReader, caller: Caller, server: Provider) -> None:
    """A failed call has a duration, with its error."""
    server.hooks.append(fail(429))
    with pytest.raises(openai.RateLimitError):
        caller.create("chat")
    found = points(reader)
    [duration] = found["gen_ai.client.operation.duration"]
    assert duration.attributes["error.type"] == "openai.RateLimitError"
    assert "gen_ai.client.token.usage" not in found


def test_metrics_of_unsampled_calls(server: Provider) -> None:
    """Sampling is of traces: a call that leaves no span is counted all the same."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    tracers = TracerProvider(sampler=ALWAYS_OFF)
    EgisInstrumentor().instrument(tracer_provider=tracers, meter_provider=meters, skip_dep_check=True)
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.chat.completions.create(**request("chat"))
    EgisInstrumentor().uninstrument()
    assert points(reader)["gen_ai.client.operation.duration"][0].count == 1
    meters.shutdown()


def test_metrics_without_a_provider(spans: Spans) -> None:
    """Nobody listens: nothing is recorded."""
    assert metrics.are_recorded() is False


def test_metrics_after_uninstrument(reader: InMemoryMetricReader) -> None:
    assert metrics.are_recorded() is True
    EgisInstrumentor().uninstrument()
    assert metrics.are_recorded() is False
