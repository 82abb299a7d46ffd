"""Cohere beyond the contract: version 1, its public streams, tool calls, batched embeddings, and recorded traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.instrumentation.clients.cohere import MODEL, NO_RETRY, CohereWire, close, make
from tests.instrumentation.contract import told
from tests.instrumentation.wire import sse

import egisai
from conftest import Spans
from provider import replay

pytest.importorskip("cohere")

SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."
ASKED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Why?"}]
FOLDER = Path(__file__).parents[3] / "shared" / "cassettes" / "cohere"


@pytest.fixture
def wire() -> Iterator[CohereWire]:
    with CohereWire() as server:
        yield server


@pytest.fixture
def client(wire: CohereWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    close(made)


@pytest.fixture
def old(wire: CohereWire) -> Iterator[Any]:
    made = make(wire.url, "sync", 1)
    yield made
    close(made)


def test_version_1(spans: Spans, old: Any) -> None:
    """Version 1's chat, whole and streamed: what is billed counts, and the preamble is the system prompt."""
    asked: dict[str, Any] = {"model": MODEL, "message": "Why?", "preamble": SYSTEM, "p": 0.9, "max_tokens": 7}
    old.chat(**asked)
    texts = [event.text for event in old.chat_stream(**asked) if event.event_type == "text-generation"]
    assert "".join(texts) == "Sorry about that."
    old.embed(texts=["a", "b"], model="embedder", input_type="search_document")
    whole, streamed, embedded = spans.calls()
    for span in (whole, streamed):
        assert told(span) == {"id": "r-1", "reasons": ("complete",), "input": 20, "output": 5}
        assert span.attributes["egisai.agent.source"] == "fingerprint"
        assert span.attributes["gen_ai.request.top_p"] == 0.9
        assert span.attributes["gen_ai.request.max_tokens"] == 7
    assert streamed.attributes["gen_ai.request.stream"] is True
    assert told(embedded) == {"id": "e-1", "input": 8}
    assert embedded.attributes["gen_ai.embeddings.dimension.count"] == 3


def test_version_1_async(spans: Spans, wire: CohereWire) -> None:
    """The same of the async client."""

    async def main() -> None:
        client = make(wire.url, "async", 1)
        await client.chat(model=MODEL, message="Why?")
        async for _ in client.chat_stream(model=MODEL, message="Why?"):
            pass
        await close(client)

    asyncio.run(main())
    assert [told(span)["output"] for span in spans.calls()] == [5, 5]


def test_public_streams(spans: Spans, wire: CohereWire, client: Any) -> None:
    """`chat_stream`, read to its end, left early, and of the async client."""
    for _ in client.chat_stream(model=MODEL, messages=ASKED):
        pass
    stream = client.chat_stream(model=MODEL, messages=ASKED)
    next(stream)
    stream.close()

    async def main() -> None:
        made = make(wire.url, "async")
        async for _ in made.chat_stream(model=MODEL, messages=ASKED):
            pass
        await close(made)

    asyncio.run(main())
    whole, left, of_async = spans.calls()
    assert (
        told(whole) == told(of_async) == {"id": "m-1", "reasons": ("complete",), "input": 20, "output": 5, "cached": 8}
    )
    assert left.attributes["egisai.call.complete"] is False
    assert left.attributes["gen_ai.response.id"] == "m-1"


@pytest.mark.parametrize("version", [1, 2])
def test_streams_are_carried(spans: Spans, wire: CohereWire, version: int) -> None:
    """The context in which `chat_stream` is called counts, not that of the first read."""
    from cohere import Client, ClientV2

    asked: dict[str, Any] = {"message": "Why?"} if version == 1 else {"messages": ASKED}
    client = (Client if version == 1 else ClientV2)("local", base_url=wire.url)
    with egisai.context(agent="caller", user_id="u-1"):
        stream = client.chat_stream(model=MODEL, **asked)
    with egisai.context(agent="reader"):
        for _ in stream:
            assert egisai.current_context() == {"agent": "reader"}
    close(client)

    async def main() -> None:
        made = make(wire.url, "async", version)
        with egisai.context(agent="caller", user_id="u-1"):
            stream = made.chat_stream(model=MODEL, **asked)
        async for _ in stream:
            assert egisai.current_context() == {}
        await close(made)

    asyncio.run(main())
    told = [(span.attributes["gen_ai.agent.name"], span.attributes["user.id"]) for span in spans.calls()]
    assert told == [("caller", "u-1")] * 2


def test_raw_streams(spans: Spans, wire: CohereWire, client: Any) -> None:
    """`with_raw_response` gives a manager: its request goes out when it is entered, and its data is the stream."""
    asked: dict[str, Any] = {"model": MODEL, "messages": ASKED}
    with client.with_raw_response.chat_stream(**asked) as response:
        assert len(list(response.data)) == 7
    with client.with_raw_response.chat_stream(**asked) as response:
        next(response.data)

    async def main() -> None:
        made = make(wire.url, "async")
        async with made.with_raw_response.chat_stream(**asked) as response:
            assert len([event async for event in response.data]) == 7
        await close(made)

    asyncio.run(main())
    client.with_raw_response.chat_stream(**asked)  # never entered
    assert len(wire.requests) == 3
    whole, left, of_async = spans.calls()
    assert told(whole)["output"] == told(of_async)["output"] == 5
    assert left.attributes["egisai.call.complete"] is False


def test_not_billed(spans: Spans, wire: CohereWire, client: Any) -> None:
    """Where what is billed is not told, what was processed counts."""
    usage = {"tokens": {"input_tokens": 12.0, "output_tokens": 3.0}}
    wire.hooks.append(replay(json.dumps({**wire.message(), "usage": usage}).encode()))
    client.chat(model=MODEL, messages=ASKED)
    [span] = spans.calls()
    assert (told(span)["input"], told(span)["output"]) == (12, 3)


def test_content_parts(spans: Spans, wire: CohereWire, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans and tool calls, whole and streamed, say the same; results of tools are told."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    call = {"id": "c-1", "type": "function", "function": {"name": "balance", "arguments": '{"account": "a-1"}'}}
    message = {"role": "assistant", "tool_plan": "I look.", "tool_calls": [call]}
    whole = {"id": "m-1", "finish_reason": "TOOL_CALL", "message": message}
    begun = {**call, "function": {"name": "balance", "arguments": ""}}
    rest = [{"message": {"tool_calls": {"function": {"arguments": text}}}} for text in ('{"account":', ' "a-1"}')]
    events = [
        {"type": "message-start", "id": "m-1", "delta": {"message": {"role": "assistant"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I look."}}},
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": begun}}},
        *({"type": "tool-call-delta", "index": 0, "delta": delta} for delta in rest),
        {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}},
    ]
    wire.hooks.append(replay(json.dumps(whole).encode(), times=1))
    wire.hooks.append(replay(b"".join(sse(*events, named=True)), content_type="text/event-stream"))
    past = [*ASKED, {"role": "tool", "tool_call_id": "c-0", "content": "12 EUR"}]
    client.chat(model=MODEL, messages=past)
    for _ in client.chat_stream(model=MODEL, messages=past):
        pass
    first, second = (span.attributes for span in spans.calls())
    assert first["gen_ai.output.messages"] == second["gen_ai.output.messages"]
    assert json.loads(first["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "I look."},
                {"type": "tool_call", "id": "c-1", "name": "balance", "arguments": {"account": "a-1"}},
            ],
            "finish_reason": "tool_call",
        }
    ]
    assert json.loads(first["gen_ai.input.messages"])[-1] == {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "c-0", "response": "12 EUR"}],
    }
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


def test_content_of_version_1(spans: Spans, old: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """History, message and preamble of version 1; whole and streamed say the same."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    history = [{"role": "USER", "message": "Hi"}, {"role": "CHATBOT", "message": "Hello."}]
    asked: dict[str, Any] = {"model": MODEL, "message": "Why?", "preamble": SYSTEM, "chat_history": history}
    old.chat(**asked)
    for _ in old.chat_stream(**asked):
        pass
    first, second = (span.attributes for span in spans.calls())
    assert first["gen_ai.output.messages"] == second["gen_ai.output.messages"]
    said = [(each["role"], each["parts"][0]["content"]) for each in json.loads(first["gen_ai.input.messages"])]
    assert said == [("user", "Hi"), ("assistant", "Hello."), ("user", "Why?")]
    assert json.loads(first["gen_ai.system_instructions"]) == [{"type": "text", "content": SYSTEM}]
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


# --- recorded traffic ------------------------------------------------------------------------------------------------


def _exchanges() -> list[Any]:
    found: dict[str, Any] = {}
    for file in sorted(FOLDER.glob("**/*.yaml")):
        for index, each in enumerate(yaml.safe_load(file.read_bytes()).get("interactions", [])):
            body, uri = each["response"]["body"], each["request"]["uri"]
            answer = body["string"] if isinstance(body, dict) else body
            text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
            if each["response"]["status"]["code"] == 200 and uri.endswith(("/chat", "/generate")):
                request = json.loads(each["request"]["body"])
                found.setdefault(text, pytest.param(uri, request, text, id=f"{file.stem}[{index}]"))
    return list(found.values())


def _recorded(uri: str, text: str) -> dict[str, Any]:
    """What the recorded bytes say, read without the SDK and without us."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if not line.startswith(("event:", ":"))]
    events = [json.loads(line) for line in lines if line and line != "[DONE]"]
    last = events[-1]
    if "/v2/" in uri:
        end = last.get("delta", last)
        told_id, reason, used = events[0]["id"], end["finish_reason"], end["usage"]
    elif "generations" in last:
        told_id, reason, used = last["id"], last["generations"][0]["finish_reason"], last["meta"]
    else:
        end = last.get("response", last)
        told_id, reason, used = end.get("response_id") or end["generation_id"], end["finish_reason"], end["meta"]
    said = {"id": told_id, "reasons": (reason.lower(),)}
    counts = used.get("billed_units") or used["tokens"]
    cached = used.get("cached_tokens")
    said |= {"input": int(counts["input_tokens"]), "output": int(counts["output_tokens"])}
    return said if cached is None else {**said, "cached": int(cached)}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize(("uri", "asked", "text"), _exchanges())
def test_recorded(
    spans: Spans, wire: CohereWire, client: Any, old: Any, uri: str, asked: dict[str, Any], text: str
) -> None:
    """Recorded traffic through the real client: the span says what the recorded bytes say."""
    streams = asked.pop("stream", False)
    kind = "application/stream+json" if "/v1/" in uri and streams else "text/event-stream"
    wire.hooks.append(replay(text.encode(), content_type=kind if streams else "application/json"))
    used = client if "/v2/" in uri else old
    if uri.endswith("/generate"):
        used.generate(**asked, request_options=NO_RETRY)
    elif streams:
        for _ in used.chat_stream(**asked, request_options=NO_RETRY):
            pass
    else:
        used.chat(**asked, request_options=NO_RETRY)
    [span] = spans.calls()
    assert told(span) == _recorded(uri, text)
    assert "egisai.call.complete" not in span.attributes


def test_recorded_has_every_form() -> None:
    """The folder, where it is here, holds what the test above is for."""
    if not FOLDER.is_dir():
        pytest.skip("the recorded traffic is kept beside the project, and is not here")
    forms = {(each.values[0].rpartition("com/")[2], bool(each.values[1].get("stream"))) for each in _exchanges()}
    assert {("v1/chat", False), ("v1/chat", True), ("v2/chat", False), ("v2/chat", True)} <= forms
