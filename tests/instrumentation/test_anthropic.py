"""Anthropic's client beyond the contract: its own spans, every way to a message, other clouds, what streams hold."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from tests.instrumentation.clients.anthropic import HEAD, MODEL, USAGE, AnthropicWire, events, messages
from tests.instrumentation.contract import SYSTEM, Ask, told
from tests.instrumentation.wire import break_stream, fail, hold, replay, sse

import egisai
from conftest import Spans
from egisai import semconv
from egisai_instrumentation import content, metrics
from egisai_instrumentation.anthropic import MESSAGES

anthropic: Any = pytest.importorskip("anthropic", minversion="2")
httpx2: Any = pytest.importorskip("httpx2")

SAID = {"id": "msg_1", "model": MODEL, "reasons": ("stop",), "input": 31, "output": 7, "cached": 16, "reasoning": 3}


@pytest.fixture
def wire() -> Iterator[AnthropicWire]:
    with AnthropicWire() as server:
        yield server


def asked(**more: Any) -> dict[str, Any]:
    return messages(Ask(MODEL), **more)


class Client:
    """A client of either kind, read as if it were sync."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.client: Any = (anthropic.AsyncAnthropic if self.loop else anthropic.Anthropic)(
            base_url=url, api_key="sk-local", max_retries=0, **options
        )

    def wait(self, value: Any) -> Any:
        return self.loop.run_until_complete(value) if self.loop and inspect.isawaitable(value) else value

    def create(self, **more: Any) -> Any:
        return self.wait(self.client.messages.create(**asked(**more)))

    def next(self, stream: Any) -> Any:
        return self.wait(stream.__anext__()) if self.loop else next(stream)

    def all(self, stream: Any) -> list[Any]:
        async def gathered() -> list[Any]:
            return [event async for event in stream]

        return self.wait(gathered()) if self.loop else list(stream)

    def close(self) -> None:
        self.wait(self.client.close())
        if self.loop:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


# --- the client's own spans ------------------------------------------------------------------------------------------


@pytest.fixture
def native(kind: str, wire: AnthropicWire, spans: Spans) -> Iterator[Client]:
    """A client that makes spans of its own, on the provider that ours are on."""
    client = Client(kind, wire.url, open_telemetry={"tracer_provider": spans.provider})
    yield client
    client.close()


def its_own(spans: Spans) -> ReadableSpan:
    """The one span there is: the client's."""
    [span] = spans.all()
    assert span.instrumentation_scope.name == "com.anthropic.sdk.python"
    assert semconv.is_call(span.attributes)
    assert span.attributes["egisai.agent.source"] == "fingerprint"
    assert span.attributes["gen_ai.request.model"] == MODEL
    return span


def test_native_whole(native: Client, spans: Spans) -> None:
    """The client's span is the call's: what it lacks is added after the client ended it, at the time it did."""
    with egisai.context(user_id="u-1", session_id="s-1"):
        native.create(extra_body={"temperature": 0.5})
    span = its_own(spans)
    assert told(span) == SAID
    assert span.attributes["gen_ai.usage.cache_write.input_tokens"] == 5
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.conversation.id"] == "s-1"
    assert span.attributes["anthropic.message.stop_reason"] == "end_turn"
    assert span.status.status_code is StatusCode.OK  # theirs


def test_native_stream(native: Client, spans: Spans) -> None:
    assert native.all(native.create(stream=True))[-1].type == "message_stop"
    span = its_own(spans)
    assert told(span) == SAID
    assert span.attributes["gen_ai.request.stream"] is True
    assert "egisai.call.complete" not in span.attributes
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 30  # theirs, from before the span's start


def test_native_stream_of_nothing(native: Client, spans: Spans, wire: AnthropicWire) -> None:
    """Where the client knows no time to the first chunk, for it counts from the first text, ours stands."""
    wire.hooks.append(replay(b"".join(sse(*events(), done=False, named=True)), content_type="text/event-stream"))
    native.all(native.create(stream=True))
    span = its_own(spans)
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 30


def test_native_left_early(native: Client, spans: Spans, wire: AnthropicWire) -> None:
    wire.hooks.append(hold(2, threading.Event()))
    stream = native.create(stream=True)
    native.next(stream)
    assert not spans.all()
    native.wait(stream.close())
    span = its_own(spans)
    assert span.attributes["egisai.call.complete"] is False
    assert span.status.status_code is StatusCode.UNSET


def test_native_raw(native: Client, spans: Spans) -> None:
    response = native.wait(native.client.messages.with_raw_response.create(**asked()))
    assert native.wait(response.parse()).id == "msg_1"
    assert told(its_own(spans)) == SAID


def test_native_error(native: Client, spans: Spans, wire: AnthropicWire) -> None:
    """In the client's words, and with the status."""
    wire.hooks.append(fail(429))
    with pytest.raises(anthropic.RateLimitError):
        native.create()
    span = its_own(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "rate_limit_error"
    assert span.attributes["http.response.status_code"] == 429


def test_native_broken_stream(native: Client, spans: Spans, wire: AnthropicWire) -> None:
    wire.hooks.append(break_stream(1))
    stream = native.create(stream=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        native.all(stream)
    assert its_own(spans).status.status_code is StatusCode.ERROR


def test_native_content(native: Client, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said goes on the client's span too."""
    monkeypatch.setattr(content, "mode", content.Mode(span=True, event=False))
    native.all(native.create(stream=True))
    attributes = its_own(spans).attributes
    assert json.loads(attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": SYSTEM}]
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Sorry about that."}], "finish_reason": "stop"}
    ]


def test_native_metrics(native: Client, spans: Spans) -> None:
    reader = InMemoryMetricReader()
    metrics.use(MeterProvider([reader]))
    native.create()
    data = reader.get_metrics_data()
    assert data is not None
    recorded = {metric.name: metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics}
    [point] = recorded["gen_ai.client.operation.duration"].data.data_points
    assert point.attributes["gen_ai.response.model"] == MODEL
    assert point.attributes["gen_ai.agent.name"] == its_own(spans).attributes["gen_ai.agent.name"]
    assert len(recorded["gen_ai.client.token.usage"].data.data_points) == 2


def test_native_long_prompt(native: Client, spans: Spans) -> None:
    """An agent that is found off the event loop is on the span, which ends with the call's end."""
    native.create(system=SYSTEM + " Be kind to everybody who asks." * 500)
    from egisai_instrumentation import background

    background.drain(5)
    span = its_own(spans)
    assert span.attributes["gen_ai.agent.name"] != "app"
    assert told(span) == SAID


def test_native_or_ours(wire: AnthropicWire, spans: Spans) -> None:
    """One span, whatever the client's option says."""
    for option, scope in (
        (None, "egisai"),  # the global provider, which nobody set
        (False, "egisai"),
        ({"tracer_provider": Spans().provider}, "egisai"),  # theirs go elsewhere
        ({"tracer_provider": spans.provider}, "com.anthropic.sdk.python"),
    ):
        with anthropic.Anthropic(base_url=wire.url, api_key="k", max_retries=0, open_telemetry=option) as client:
            client.messages.create(**asked())
        [span] = spans.all()
        assert span.instrumentation_scope.name == scope
        assert told(span) == SAID
        spans.exporter.clear()


def test_native_under_a_framework(native: Client, spans: Spans) -> None:
    """A framework's span around it is the call's, and the client's is marked: it does not count."""
    tracer = spans.provider.get_tracer("framework")
    with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
        native.create()
    inner, outer = spans.all()
    assert inner.attributes["egisai.call.nested"] is True
    assert "egisai.call.nested" not in outer.attributes


def test_native_not_a_call(native: Client, spans: Spans, wire: AnthropicWire) -> None:
    """Counting tokens has a span of the client's, which is no call."""
    with pytest.raises(anthropic.NotFoundError):
        native.wait(native.client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "?"}]))
    [span] = spans.all()
    assert not semconv.is_call(span.attributes)


def test_native_of_no_method(native: Client, spans: Spans) -> None:
    """Of a request that none of its methods made, the client makes no span: ours is."""
    from anthropic.types import Message

    native.wait(native.client.post("/v1/messages", cast_to=Message, body=asked()))
    [span] = spans.all()
    assert span.instrumentation_scope.name == "egisai"
    assert span.attributes["gen_ai.response.id"] == "msg_1"


# --- every way to a message ------------------------------------------------------------------------------------------


@pytest.fixture
def client(wire: AnthropicWire, spans: Spans) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=wire.url, api_key="k", max_retries=0) as made:
        yield made


def _helper(client: Any) -> None:
    with client.messages.stream(**asked()) as stream:
        assert "".join(stream.text_stream) == "Sorry about that."
        assert stream.get_final_message().id == "msg_1"


def _beta_helper(client: Any) -> None:
    with client.beta.messages.stream(**asked()) as stream:
        assert stream.get_final_text() == "Sorry about that."


def _streaming_response(client: Any) -> None:
    with client.messages.with_streaming_response.create(**asked(stream=True)) as response:
        assert sum(1 for line in response.iter_lines() if line.startswith("data:")) == 7


WAYS: dict[str, Callable[[Any], Any]] = {
    "beta": lambda client: client.beta.messages.create(**asked(), betas=["context-1m-2025-08-07"]),
    "beta-stream": lambda client: list(client.beta.messages.create(**asked(stream=True))),
    "stream-helper": _helper,
    "beta-stream-helper": _beta_helper,
    "streaming-response": _streaming_response,
    "tool-runner": lambda client: client.beta.messages.tool_runner(**asked(), tools=[]).until_done(),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way(way: str, client: Any, spans: Spans) -> None:
    WAYS[way](client)
    [span] = spans.calls()
    assert told(span) == SAID
    assert span.attributes["egisai.agent.source"] == "fingerprint"


def test_parse(client: Any, spans: Spans, wire: AnthropicWire) -> None:
    """An answer in the caller's own type; one that does not fit it was paid for all the same."""
    from pydantic import BaseModel, ValidationError

    class Answer(BaseModel):
        count: int

    for text in ('{"count": 3}', '{"count": "many"}'):
        answer = {**HEAD, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": USAGE}
        wire.hooks.append(replay(json.dumps(answer).encode(), content_type="application/json", times=1))
    assert client.messages.parse(**asked(), output_format=Answer).parsed_output == Answer(count=3)
    with pytest.raises(ValidationError):
        client.messages.parse(**asked(), output_format=Answer)
    good, bad = spans.calls()
    assert good.attributes["gen_ai.output.type"] == "json"
    assert told(good) == told(bad) == SAID
    assert bad.attributes["error.type"].endswith("ValidationError")


def test_tool_runner_makes_a_call_per_turn(client: Any, spans: Spans, wire: AnthropicWire) -> None:
    @anthropic.beta_tool
    def refund(charge: str) -> str:
        """Refund a charge.

        Args:
            charge: Which.
        """
        return f"refunded {charge}"

    use = {"type": "tool_use", "id": "toolu_1", "name": "refund", "input": {"charge": "ch_1"}}
    first = {**HEAD, "content": [use], "stop_reason": "tool_use", "usage": USAGE}
    wire.hooks.append(replay(json.dumps(first).encode(), content_type="application/json", times=1))
    final = client.beta.messages.tool_runner(**asked(), tools=[refund]).until_done()
    assert final.content[0].text == "Sorry about that."
    assert [span.attributes["gen_ai.response.finish_reasons"] for span in spans.calls()] == [("tool_calls",), ("stop",)]


@pytest.mark.parametrize(
    ("system", "is_prompted"),
    [
        (SYSTEM, True),
        ([{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}], True),
        (anthropic.omit, False),
    ],
    ids=["string", "blocks", "none"],
)
def test_fp_where(client: Any, spans: Spans, system: Any, is_prompted: bool) -> None:
    """The system prompt as a string and as blocks is the same agent."""
    client.messages.create(**asked(system=system))
    [span] = spans.calls()
    assert span.attributes["egisai.agent.source"] == ("fingerprint" if is_prompted else "app")
    client.messages.create(**asked(system=SYSTEM))
    assert (span.attributes["egisai.agent.id"] == spans.calls()[1].attributes["egisai.agent.id"]) is is_prompted


# --- other clouds ----------------------------------------------------------------------------------------------------


def clouds(url: str) -> dict[str, Any]:
    common = {"base_url": url, "max_retries": 0}
    return {
        "aws.bedrock": lambda: anthropic.AnthropicBedrock(api_key="k", aws_region="eu-west-1", **common),
        "gcp.vertex_ai": lambda: anthropic.AnthropicVertex(
            region="europe-west1", project_id="p", access_token="t", **common
        ),
        "anthropic": lambda: anthropic.AnthropicFoundry(api_key="k", **common),
    }


@pytest.mark.parametrize("provider", ["aws.bedrock", "gcp.vertex_ai", "anthropic"])
@pytest.mark.parametrize("traces", [False, True], ids=["ours", "native"])
def test_clouds(provider: str, traces: bool, wire: AnthropicWire, spans: Spans) -> None:
    """Clients for other clouds, whose paths differ: the provider is the one that the client's own spans have."""
    wire.hooks.append(replay(_whole(), content_type="application/json", times=1))
    with clouds(wire.url)[provider]() as client:
        traced = client.with_options(open_telemetry={"tracer_provider": spans.provider} if traces else False)
        traced.messages.create(**asked())
    [span] = spans.calls()
    assert span.instrumentation_scope.name.startswith("com.anthropic" if traces else "egisai")
    assert span.attributes["gen_ai.provider.name"] == provider
    assert span.attributes["gen_ai.request.model"] == MODEL
    assert told(span) == SAID
    assert (wire.requests[0].path == "/v1/messages") is (provider == "anthropic")


def _whole() -> bytes:
    said = [{"type": "text", "text": "Sorry about that."}]
    return json.dumps({**HEAD, "content": said, "stop_reason": "end_turn", "usage": USAGE}).encode()


# --- what is said ----------------------------------------------------------------------------------------------------


def test_content_of_tools_and_thinking() -> None:
    """Blocks in the conventions' shapes, in and out."""
    from egisai_instrumentation.messages import messages_json

    assert MESSAGES.content is not None
    said = MESSAGES.content.request(
        {
            "system": [{"type": "text", "text": SYSTEM}],
            "tools": [
                {"name": "refund", "description": "Refunds", "input_schema": {"type": "object"}},
                {"type": "web_search_20250305", "name": "web_search"},
            ],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "?"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "tool_use", "id": "t1", "name": "refund", "input": {"charge": "ch_1"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "done"}]}
                    ],
                },
            ],
        }
    )
    assert list(said.system) == [SYSTEM]
    assert said.tools == [
        {"type": "function", "name": "refund", "description": "Refunds", "parameters": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    assert json.loads(messages_json(said.messages)[0]) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "?"},
                {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
                {"type": "uri", "modality": "document", "mime_type": None, "uri": "https://example.com/a.pdf"},
                {"type": "file", "modality": "document", "mime_type": None, "file_id": "file_1"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "t1", "name": "refund", "arguments": {"charge": "ch_1"}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "done"}]},
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_content_of_answers(client: Any, spans: Spans, wire: AnthropicWire, stream: bool) -> None:
    """Thinking, text, a server's tool and the program's own, whole and gathered from deltas."""
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": text} for text in ("Let me", " see.")],
        ),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in ("Look", "ing.")]),
        (
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
            [{"type": "input_json_delta", "partial_json": text} for text in ('{"query": ', '"x"}')],
        ),
        (
            {"type": "tool_use", "id": "t1", "name": "refund", "input": {}},
            [{"type": "input_json_delta", "partial_json": text} for text in ("", '{"charge":', ' "ch_1"}')],
        ),
    ]
    if stream:
        body = b"".join(sse(*events(*blocks, reason="tool_use"), done=False, named=True))
        wire.hooks.append(replay(body, content_type="text/event-stream", times=1))
    else:
        whole = [
            {"type": "thinking", "thinking": "Let me see.", "signature": "s"},
            {"type": "text", "text": "Looking."},
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
            {"type": "tool_use", "id": "t1", "name": "refund", "input": {"charge": "ch_1"}},
        ]
        answer = {**HEAD, "content": whole, "stop_reason": "tool_use", "usage": USAGE}
        wire.hooks.append(replay(json.dumps(answer).encode(), content_type="application/json", times=1))
    content.mode = content.Mode(span=True, event=False)
    try:
        result = client.messages.create(**asked(stream=stream))
        list(result) if stream else None
    finally:
        content.mode = None
    [span] = spans.calls()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert json.loads(span.attributes["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Let me see."},
                {"type": "text", "content": "Looking."},
                {"type": "tool_call", "id": "s1", "name": "web_search", "arguments": {"query": "x"}},
                {"type": "tool_call", "id": "t1", "name": "refund", "arguments": {"charge": "ch_1"}},
            ],
            "finish_reason": "tool_call",
        }
    ]


def test_usage_of_a_stream_that_counts_again(client: Any, spans: Spans, wire: AnthropicWire) -> None:
    """Server tools read more on the way: the last count of input holds, and what it leaves out stays."""
    said = events(({"type": "text", "text": ""}, []))
    said[-2]["usage"] = {"input_tokens": 100, "cache_read_input_tokens": None, "output_tokens": 9}
    wire.hooks.append(replay(b"".join(sse(*said, done=False, named=True)), content_type="text/event-stream", times=1))
    list(client.messages.create(**asked(stream=True)))
    facts = told(spans.calls()[0])
    assert (facts["input"], facts["output"], facts["cached"]) == (121, 9, 16)
