"""Recorded Anthropic traffic through the real client: the span says what the recorded bytes say."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import pytest
import yaml
from tests.instrumentation.clients.anthropic import AnthropicWire
from tests.instrumentation.contract import told
from tests.instrumentation.test_recorded import FOLDER, _bytes
from tests.instrumentation.wire import replay

from conftest import Spans

anthropic: Any = pytest.importorskip("anthropic")

REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


class Exchange(NamedTuple):
    """One request and what Anthropic really answered."""

    name: str
    path: str
    asked: dict[str, Any]
    answer: bytes


def _exchanges() -> list[Exchange]:
    found: dict[str, Exchange] = {}
    for file in sorted((FOLDER / "anthropic").glob("**/*.yaml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for interaction in yaml.load(file.read_bytes(), loader)["interactions"]:
            request, response = interaction["request"], interaction["response"]
            path = request["uri"].removeprefix("https://api.anthropic.com").partition("?")[0]
            if path in ("/v1/messages", "/v1/complete") and response["status"]["code"] == 200:
                asked, answer = _bytes(request["body"]), _bytes(response["body"])
                digest = hashlib.sha256(asked + answer).hexdigest()
                found.setdefault(digest, Exchange(file.stem, path, json.loads(asked), answer))
    return list(found.values())


EXCHANGES = _exchanges()


def recorded(exchange: Exchange) -> dict[str, Any]:
    """What the recorded bytes say, read without the SDK and without us."""
    if exchange.asked.get("stream"):
        lines = [line[5:] for line in exchange.answer.splitlines() if line.startswith(b"data:")]
        events = [json.loads(line) for line in lines]
        message = next(event["message"] for event in events if event["type"] == "message_start")
        end = next(event for event in events if event["type"] == "message_delta")
        message["stop_reason"] = end["delta"]["stop_reason"]
        message["usage"].update(end["usage"])
    else:
        message = json.loads(exchange.answer)
    used = message.get("usage", {})
    read, written = used.get("cache_read_input_tokens"), used.get("cache_creation_input_tokens")
    facts = {
        "id": message["id"],
        "model": message["model"],
        "reasons": (REASONS[message["stop_reason"]],),
        "input": used["input_tokens"] + (read or 0) + (written or 0) if used else None,
        "output": used.get("output_tokens"),
        "cached": read,
    }
    return {word: fact for word, fact in facts.items() if fact is not None}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize("exchange", EXCHANGES, ids=[exchange.name for exchange in EXCHANGES])
def test_recorded(spans: Spans, exchange: Exchange) -> None:
    """The same request by the real client, answered with the recorded bytes."""
    streams = bool(exchange.asked.get("stream"))
    if exchange.path == "/v1/complete":
        if not hasattr(anthropic.types, "Completion"):
            pytest.skip("this version has no completions any more")
        cast_to, stream_of = anthropic.types.Completion, anthropic.types.Completion
    else:
        cast_to, stream_of = anthropic.types.Message, anthropic.types.RawMessageStreamEvent
    with AnthropicWire() as wire:
        kind = "text/event-stream; charset=utf-8" if streams else "application/json"
        wire.hooks.append(replay(exchange.answer, content_type=kind))
        with anthropic.Anthropic(base_url=wire.url, api_key="k", max_retries=0) as client:
            result = client.post(
                exchange.path,
                body=exchange.asked,
                cast_to=cast_to,
                stream=streams,
                stream_cls=anthropic.Stream[stream_of],
            )
            if streams:
                list(result)
    [span] = spans.calls()
    assert told(span) == recorded(exchange)
    assert span.attributes["gen_ai.request.model"] == exchange.asked["model"]
    assert span.attributes["gen_ai.operation.name"] == (
        "chat" if exchange.path == "/v1/messages" else "text_completion"
    )


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
def test_recorded_has_every_form() -> None:
    """The folder holds what the test above is for."""
    forms = {(exchange.path, bool(exchange.asked.get("stream"))) for exchange in EXCHANGES}
    assert forms >= {("/v1/messages", False), ("/v1/messages", True), ("/v1/complete", False)}
    assert any(exchange.asked.get("tools") for exchange in EXCHANGES)
    assert len(EXCHANGES) > 10
