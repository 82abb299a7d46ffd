"""Fireworks beyond the contract: where its client really asks, over aiohttp, and its other endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.instrumentation.clients._openai_wire import USAGE, messages
from tests.instrumentation.clients.anthropic import HEAD
from tests.instrumentation.clients.anthropic import USAGE as MESSAGES_USAGE
from tests.instrumentation.clients.fireworks_ai import FireworksWire, make
from tests.instrumentation.contract import SYSTEM, Ask, told

from conftest import Spans
from provider import replay

fireworks = pytest.importorskip("fireworks")

ASK = Ask(FireworksWire.model)


@pytest.fixture
def wire() -> Iterator[FireworksWire]:
    with FireworksWire() as server:
        yield server


def test_own_url(spans: Spans, wire: FireworksWire) -> None:
    """Without a base URL the client asks for whole URLs: those are followed, and their host is on the span."""

    class ToWire(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert request.url.path == "/inference/v1/chat/completions"
            request.url = httpx.URL(wire.url + wire.chat_path)
            return super().handle_request(request)

    with fireworks.Fireworks(api_key="local", http_client=httpx.Client(transport=ToWire())) as client:
        client.chat.completions.create(model=ASK.model, messages=messages(ASK))
    span = spans.only()
    assert (span["server.address"], span["server.port"]) == ("api.fireworks.ai", 443)
    assert span["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]


def test_aiohttp(spans: Spans, wire: FireworksWire) -> None:
    """The async client's own transport: whole, streamed, and left early."""

    async def main() -> None:
        async with fireworks.AsyncFireworks(base_url=wire.url, api_key="local", max_retries=0) as client:
            await client.chat.completions.create(model=ASK.model, messages=messages(ASK))
            async for _ in await client.chat.completions.create(model=ASK.model, messages=messages(ASK), stream=True):
                pass
            left = await client.chat.completions.create(model=ASK.model, messages=messages(ASK), stream=True)
            await left.__anext__()
            await left.close()

    asyncio.run(main())
    whole, streamed, left = spans.calls()
    assert told(whole) == told(streamed)
    assert told(streamed)["output"] == USAGE["completion_tokens"]
    assert left.attributes["egisai.call.complete"] is False


def test_completions(spans: Spans, wire: FireworksWire) -> None:
    """A legacy completion is a call without a system prompt."""
    choice = {"index": 0, "text": "Sorry.", "finish_reason": "stop"}
    said = {"id": "cmpl-1", "created": 1, "model": ASK.model, "choices": [choice], "usage": USAGE}
    wire.hooks.append(replay(json.dumps(said).encode()))
    with make(wire.url, "sync") as client:
        client.completions.create(model=ASK.model, prompt="Why?")
    [span] = spans.calls()
    assert span.name == f"text_completion {ASK.model}"
    assert told(span) == {
        "id": "cmpl-1",
        "model": ASK.model,
        "reasons": ("stop",),
        "input": 31,
        "output": 7,
        "cached": 16,
        "reasoning": 3,
    }


def test_messages(spans: Spans, wire: FireworksWire) -> None:
    """Anthropic's format: its usage, and its system prompt."""
    said: dict[str, Any] = {**HEAD, "content": [], "stop_reason": "end_turn", "usage": MESSAGES_USAGE}
    wire.hooks.append(replay(json.dumps(said).encode()))
    with make(wire.url, "sync") as client:
        client.messages.create(model=ASK.model, system=SYSTEM, messages=[{"role": "user", "content": "Why?"}])
    [span] = spans.calls()
    assert span.attributes["egisai.agent.source"] == "fingerprint"
    assert (told(span)["input"], told(span)["output"], told(span)["reasons"]) == (31, 7, ("stop",))
