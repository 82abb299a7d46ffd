"""xAI's client beyond the contract: its own tracing, parsed and several answers, parameters and content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import Ask, told

import egisai
from conftest import Spans

pytest.importorskip("xai_sdk")

from tests.instrumentation.clients.xai_sdk import MODEL, XaiWire, asked, make
from tests.instrumentation.wire import fail

ASK = Ask(MODEL)


@pytest.fixture
def wire() -> Iterator[XaiWire]:
    with XaiWire() as server:
        yield server


@pytest.fixture
def client(wire: XaiWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    made.close()


@pytest.fixture
def native(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Spans:
    """The client traces into the program's own provider."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    for module in ("xai_sdk.sync.chat", "xai_sdk.aio.chat"):
        monkeypatch.setattr(f"{module}.tracer", spans.provider.get_tracer(module))
    return spans


def test_call_foreign_own_tracing(native: Spans, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is the client's span and no other; it is attributed, and completed with what it leaves out."""
    monkeypatch.setenv("XAI_SDK_DISABLE_SENSITIVE_TELEMETRY_ATTRIBUTES", "1")
    with egisai.context(agent="billing", user_id="u-1"):
        asked(client, ASK).sample()
        list(asked(client, ASK).stream())
    for span in native.all():
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "xai_sdk.sync.chat"
        assert span.attributes["gen_ai.agent.name"] == "billing"
        assert span.attributes["user.id"] == "u-1"
        assert told(span)["output"] == 10
    whole, streamed = native.all()
    assert "gen_ai.response.time_to_first_chunk" not in whole.attributes
    assert streamed.attributes["gen_ai.response.time_to_first_chunk"] > 0


def test_call_foreign_own_tracing_async(native: Spans, wire: XaiWire) -> None:
    """The same of an async stream, left early, and of a refused call."""

    async def main() -> None:
        client = await make(wire.url, "async")
        stream = asked(client, ASK).stream()
        await stream.__anext__()
        await stream.aclose()
        wire.hooks.append(fail(429))
        with pytest.raises(Exception, match="refused"):
            await asked(client, ASK).sample()
        await client.close()

    asyncio.run(main())
    left, refused = native.all()
    assert left.attributes["egisai.agent.source"] == refused.attributes["egisai.agent.source"] == "fingerprint"
    assert left.attributes["egisai.call.complete"] is False
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes["http.response.status_code"] == 429


def test_own_tracing_elsewhere(spans: Spans, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client's spans are not made, or go where nothing is attributed, the span is ours."""
    asked(client, ASK).sample()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    monkeypatch.setattr("xai_sdk.sync.chat.tracer", trace.NoOpTracer())
    asked(client, ASK).sample()
    assert [span.instrumentation_scope.name for span in spans.all()] == ["egisai", "egisai"]


def test_parameters(spans: Spans, client: Any) -> None:
    """What was asked for is on the span; of several answers, each one's reason."""
    more = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "seed": 7, "stop": ["END"]}
    more |= {"presence_penalty": 0.1, "reasoning_effort": "high", "conversation_id": "c-1", "response_format": "text"}
    with pytest.warns(PendingDeprecationWarning):
        asked(client, ASK, **more, previous_response_id="r-0").sample_batch(2)
    attributes = spans.only()
    assert attributes["gen_ai.request.temperature"] == 0.7
    assert attributes["gen_ai.request.top_p"] == 0.9
    assert attributes["gen_ai.request.presence_penalty"] == 0.1
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["gen_ai.request.reasoning.level"] == "high"
    assert attributes["gen_ai.request.previous_response.id"] == "r-0"
    assert attributes["gen_ai.request.choice.count"] == 2
    assert attributes["gen_ai.conversation.id"] == "c-1"
    assert attributes["gen_ai.output.type"] == "text"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")


def test_parse(spans: Spans, client: Any, wire: XaiWire) -> None:
    """`parse` is one chat that puts out JSON; what it could not read is an error of the call."""
    from pydantic import BaseModel

    class Answer(BaseModel):
        eur: int

    with pytest.raises(ValueError, match="validation"):
        asked(client, ASK).parse(Answer)
    refused = spans.only()
    assert refused["error.type"].endswith("ValidationError")
    assert refused["gen_ai.output.type"] == "json"
    wire.text = '{"eur": 12}'
    assert asked(client, ASK).parse(Answer)[1] == Answer(eur=12)
    assert spans.only()["gen_ai.usage.output_tokens"] == 10


@pytest.mark.parametrize("is_stream", [False, True])
def test_content_parts(
    spans: Spans, wire: XaiWire, client: Any, monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    """Pictures, thoughts, tools, their calls and results, whole and streamed; none of what the server's tools said."""
    from xai_sdk import chat
    from xai_sdk.proto import chat_pb2
    from xai_sdk.tools import web_search

    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    call = {"id": "c-1", "function": {"name": "balance", "arguments": '{"account": "a-1"}'}}
    message = {"role": 2, "content": "Look:", "reasoning_content": "Hm.", "tool_calls": [call]}
    outputs = [{"index": 0, "message": {"role": 5, "content": "found"}}]
    outputs.append({"index": 1, "message": message, "finish_reason": 4})
    pieces = [{**each, "delta": each["message"]} for each in outputs]
    for piece in pieces:
        del piece["message"]
    wire.recorded = chat_pb2.GetChatCompletionResponse(outputs=outputs)
    wire.recorded_chunk = chat_pb2.GetChatCompletionChunk(outputs=pieces)
    tools = [chat.tool("balance", "Of an account.", {"type": "object"}), web_search()]
    asks = asked(client, ASK, tools=tools)
    asks.append(chat.user("See", chat.image("https://example.com/a.png")))
    asks.append(chat.tool_result("12 EUR", "c-0"))
    list(asks.stream()) if is_stream else asks.sample()
    attributes = spans.only()
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Look:"},
                {"type": "tool_call", "id": "c-1", "name": "balance", "arguments": {"account": "a-1"}},
            ],
            "finish_reason": "tool_call",
        }
    ]
    given = json.loads(attributes["gen_ai.input.messages"])
    assert given[2]["parts"][1] == {
        "type": "uri",
        "modality": "image",
        "mime_type": None,
        "uri": "https://example.com/a.png",
    }
    assert given[3] == {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "c-0", "response": "12 EUR"}],
    }
    assert [tool["name"] for tool in json.loads(attributes["gen_ai.tool.definitions"])] == ["balance", "web_search"]
