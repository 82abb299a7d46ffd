"""Mistral beyond the contract: agents, parsed answers, its own tracing, content, and recorded traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry import trace
from tests.instrumentation.contract import told
from tests.instrumentation.wire import sse

import egisai
from conftest import Spans

pytest.importorskip("mistralai.client")

from tests.instrumentation.clients.mistralai import MAJOR, SUBJECT, MistralWire, close, make

from provider import replay

ASKED = [{"role": "system", "content": "You are the billing assistant."}, {"role": "user", "content": "Why?"}]
FOLDER = Path(__file__).parents[3] / "shared" / "cassettes" / "mistral"


@pytest.fixture
def wire() -> Iterator[MistralWire]:
    with MistralWire() as server:
        yield server


@pytest.fixture
def client(wire: MistralWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    close(made)


def test_agents_and_fim(spans: Spans, client: Any) -> None:
    """An agent's call names no model; a stream of fill-in-the-middle is a completion of text."""
    client.agents.complete(agent_id="ag-1", messages=ASKED)
    with client.agents.stream(agent_id="ag-1", messages=ASKED) as events:
        list(events)
    list(client.fim.stream(model="codestral", prompt="def f(", suffix="return 1"))
    first, second, third = spans.calls()
    assert "gen_ai.request.model" not in first.attributes
    assert told(first) == told(second)
    assert first.attributes["egisai.agent.source"] == "fingerprint"
    assert (third.attributes["gen_ai.operation.name"], told(third)["output"]) == ("text_completion", 7)


def test_parse(spans: Spans, wire: MistralWire, client: Any) -> None:
    """`parse` is one chat, with its parameters."""
    from pydantic import BaseModel

    class Answer(BaseModel):
        eur: int

    message = {"role": "assistant", "content": '{"eur": 12}'}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    used = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": used}
    wire.hooks.append(replay(json.dumps(body).encode()))
    options = {"temperature": 0.5, "random_seed": 7, "stop": ["END"], "max_tokens": 9}
    said = client.chat.parse(Answer, model="m", messages=ASKED, **options)
    assert said.choices[0].message.parsed == Answer(eur=12)
    attributes = spans.only()
    assert attributes["gen_ai.output.type"] == "json"
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.usage.output_tokens"] == 2


@pytest.mark.parametrize("streams", [False, True])
def test_call_foreign_own_tracing(spans: Spans, client: Any, streams: bool) -> None:
    """Where the client traces into the program's provider, there is its span and no other, and it is attributed."""
    telemetry = pytest.importorskip("mistralai.extra.observability.telemetry")
    telemetry.configure_telemetry(client, provider=spans.provider)
    with egisai.context(agent="billing", user_id="u-1"):
        if streams:
            list(client.chat.stream(model=SUBJECT.model, messages=ASKED))
        else:
            client.chat.complete(model=SUBJECT.model, messages=ASKED)
    [span] = spans.all()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name != "egisai"
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.request.model"] == SUBJECT.model


@pytest.mark.parametrize("streams", [False, True])
def test_call_foreign_own_tracing_1(spans: Spans, wire: Any, monkeypatch: pytest.MonkeyPatch, streams: bool) -> None:
    """Version 1 traces where there is a global provider: what it makes is inside our span, and does not count."""
    if MAJOR > 1:
        pytest.skip("later versions have to be told to trace")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    client = make(wire.url, "sync")
    with egisai.context(agent="billing", user_id="u-1"):
        if streams:
            list(client.chat.stream(model=SUBJECT.model, messages=ASKED))
        else:
            client.chat.complete(model=SUBJECT.model, messages=ASKED)
    close(client)
    [call] = [span for span in spans.calls() if "egisai.call.nested" not in span.attributes]
    assert told(call)["output"] == 7
    theirs = [span for span in spans.all() if span is not call]
    assert theirs
    assert {span.parent.span_id for span in theirs} == {call.context.span_id}
    assert {span.attributes["gen_ai.agent.name"] for span in spans.all()} == {"billing"}


def test_content_parts(spans: Spans, wire: MistralWire, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thoughts and tool calls, whole and streamed, say the same."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    call = {"id": "c-1", "index": 0, "function": {"name": "balance", "arguments": '{"account": "a-1"}'}}
    message = {"role": "assistant", "content": [thinking, {"type": "text", "text": "Look:"}], "tool_calls": [call]}
    head = {"id": "c-1", "created": 1, "model": "m"}
    used = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": used}
    piece = {"choices": [{"index": 0, "delta": message, "finish_reason": "tool_calls"}], "usage": used}
    wire.hooks.append(replay(json.dumps({**head, "object": "chat.completion", **whole}).encode(), times=1))
    body = b"".join(sse({**head, "object": "chat.completion.chunk", **piece}))
    wire.hooks.append(replay(body, content_type="text/event-stream"))
    client.chat.complete(model="m", messages=ASKED)
    list(client.chat.stream(model="m", messages=ASKED))
    first, second = (json.loads(span.attributes["gen_ai.output.messages"]) for span in spans.calls())
    assert first == second
    assert first == [
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
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


# --- recorded traffic ------------------------------------------------------------------------------------------------


def _exchanges() -> list[Any]:
    found: dict[str, Any] = {}
    for file in sorted(FOLDER.glob("**/*.yaml")):
        for index, each in enumerate(yaml.safe_load(file.read_bytes()).get("interactions", [])):
            body = each["response"]["body"]
            answer = body["string"] if isinstance(body, dict) else body
            text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
            if text.lstrip().startswith(("{", "data:")):
                request = json.loads(each["request"]["body"])
                found.setdefault(text, pytest.param(request, text, id=f"{file.stem}[{index}]"))
    return list(found.values())


def _recorded(text: str) -> dict[str, Any]:
    """What the recorded bytes say, read without the SDK and without us."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    events = [json.loads(line) for line in lines if line != "[DONE]"] if lines else [json.loads(text)]
    used = next(event["usage"] for event in reversed(events) if event.get("usage"))
    reasons = [each["finish_reason"] for event in events for each in event.get("choices", ()) if each["finish_reason"]]
    said = {"id": events[0]["id"], "model": events[0]["model"], "reasons": tuple(reasons)}
    said |= {"input": used["prompt_tokens"], "output": used["completion_tokens"]}
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens")
    return said if cached is None else {**said, "cached": cached}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize(("asked", "text"), _exchanges())
def test_recorded(spans: Spans, wire: MistralWire, asked: dict[str, Any], text: str) -> None:
    """Recorded traffic through the real client, sync and async: the span says what the recorded bytes say."""
    streams = asked.pop("stream", False)
    wire.hooks.append(replay(text.encode(), content_type="text/event-stream" if streams else "application/json"))

    async def main() -> None:
        client = make(wire.url, "async")
        if "input" in asked:
            await client.embeddings.create_async(model=asked["model"], inputs=asked["input"])
        elif streams:
            async for _ in await client.chat.stream_async(**asked):
                pass
        else:
            await client.chat.complete_async(**asked)
        await close(client)

    asyncio.run(main())
    [span] = spans.calls()
    expected = _recorded(text)
    if "input" in asked:
        expected = {"model": expected["model"], "input": expected["input"]}
    assert told(span) == expected


def test_recorded_has_every_form() -> None:
    """The folder, where it is here, holds what the test above is for."""
    if not FOLDER.is_dir():
        pytest.skip("the recorded traffic is kept beside the project, and is not here")
    assert len(_exchanges()) > 4
