"""Anthropic's client: server-sent events, named, over httpx and later httpx2."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Refused, Request, Wire, sse

MODEL = "claude-opus-4-6"
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 16,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
}
HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_sequence": None}


def events(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], reason: str = "end_turn") -> list[dict[str, Any]]:
    """A stream of these blocks, each as it starts and with its deltas."""
    started = {**USAGE, "output_tokens": 1, "output_tokens_details": None}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**HEAD, "content": [], "stop_reason": None, "usage": started}}
    ]
    for index, (block, deltas) in enumerate(blocks):
        said.append({"type": "content_block_start", "index": index, "content_block": block})
        said += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        said.append({"type": "content_block_stop", "index": index})
    since = {name: USAGE[name] for name in ("output_tokens", "output_tokens_details")}
    end = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": since}
    return [*said, end, {"type": "message_stop"}]


class AnthropicWire(Wire):
    """https://platform.claude.com/docs/en/build-with-claude/streaming"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        if request.path.partition("?")[0] != "/v1/messages":
            raise Refused(404)
        if not request.body.get("stream"):
            content = [{"type": "text", "text": "Sorry about that."}]
            return json.dumps({**HEAD, "content": content, "stop_reason": "end_turn", "usage": USAGE}).encode()
        deltas = [{"type": "text_delta", "text": text} for text in ("Sorry", " about that.")]
        return sse(*events(({"type": "text", "text": ""}, deltas)), done=False, named=True)

    def error(self, status: int) -> bytes:
        error = {"type": "rate_limit_error", "message": f"refused with {status}"}
        return json.dumps({"type": "error", "error": error}).encode()


def make(url: str, kind: str) -> Any:
    import anthropic

    client = anthropic.AsyncAnthropic if kind == "async" else anthropic.Anthropic
    return client(base_url=url, api_key="sk-local", max_retries=0)


def messages(ask: Ask, **more: Any) -> dict[str, Any]:
    return {
        "model": ask.model,
        "max_tokens": 64,
        "system": ask.system,
        "messages": [{"role": "user", "content": ask.content}],
        **more,
    }


def said(response: Any) -> dict[str, Any]:
    """What the span must say of a message, or of the list of a stream's events."""
    facts = {"input": 31, "output": 7, "cached": 16, "reasoning": 3}
    if isinstance(response, list):
        start = next(event for event in response if event.type == "message_start").message
        end = next(event for event in response if event.type == "message_delta")
        assert end.delta.stop_reason == "end_turn"
        return {"id": start.id, "model": start.model, "reasons": ("stop",), **facts}
    assert response.stop_reason == "end_turn"
    return {"id": response.id, "model": response.model, "reasons": ("stop",), **facts}


def _transport() -> str:
    try:
        return "httpx2" if Version(version("anthropic")) >= Version("1") else "httpx"
    except PackageNotFoundError:
        return "httpx"


SUBJECT = Subject(
    library="anthropic",
    provider="anthropic",
    model=MODEL,
    wire=AnthropicWire,
    make=make,
    transport=_transport(),
    forms=(  # a client takes long to make: each way once, where the other kind tells nothing new
        Form("messages", lambda client, ask: client.messages.create(**messages(ask)), said),
        Form(
            "messages-stream",
            lambda client, ask: client.messages.create(**messages(ask, stream=True)),
            said,
            stream=True,
        ),
        Form(
            "messages-raw",
            lambda client, ask: client.messages.with_raw_response.create(**messages(ask)),
            said,
            kinds=("sync",),
            read=lambda response: response.parse(),
        ),
        Form(
            "messages-raw-stream",
            lambda client, ask: client.messages.with_raw_response.create(**messages(ask, stream=True)),
            said,
            stream=True,
            kinds=("async",),
            read=lambda response: response.parse(),
        ),
    ),
)
