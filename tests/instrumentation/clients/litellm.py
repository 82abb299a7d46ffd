"""LiteLLM: functions, over OpenAI's wire format."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from tests.instrumentation.clients._openai_wire import USAGE, ChatWire, messages, said
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Request, sse

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks GitHub for prices


class LiteWire(ChatWire):
    model = "gpt-4.1-mini"

    def answer(self, request: Request) -> bytes | list[bytes]:
        """Chats, and legacy completions."""
        body = request.body
        if request.path != "/v1/completions":
            return super().answer(request)
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1767225600, "model": body["model"]}

        def said(text: str, finish: str | None) -> list[dict[str, Any]]:
            return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

        if not body.get("stream"):
            return json.dumps({**head, "choices": said("Sorry about that.", "stop"), "usage": USAGE}).encode()
        end = [{**head, "choices": [], **used} for used in (self.last_chunk(body),) if used]
        pieces = [{**head, "choices": said("Sorry", None)}, {**head, "choices": said(" about that.", "stop")}]
        return sse(*pieces, *end)

    def last_chunk(self, body: dict[str, Any]) -> dict[str, Any]:
        return super().last_chunk(body) if (body.get("stream_options") or {}).get("include_usage") else {}


@dataclass
class Client:
    """Where to, and which half of the functions."""

    url: str
    kind: str

    def call(self, name: str, ask: Ask, **arguments: Any) -> Any:
        import litellm

        function = getattr(litellm, f"a{name}" if self.kind == "async" else name)
        options = {"api_base": f"{self.url}/v1", "api_key": "sk-local", "max_retries": 0}
        return function(model=f"openai/{ask.model}", **options, **arguments)


def _chat(client: Client, ask: Ask, **more: Any) -> Any:
    return client.call("completion", ask, messages=messages(ask), **more)


def _said(response: Any) -> dict[str, Any]:
    if isinstance(response, list):  # what is asked for on the caller's behalf is not the caller's to see
        reasons = (response[-1].choices[0].finish_reason,)
        return {"reasons": reasons, "input": USAGE["prompt_tokens"], "output": USAGE["completion_tokens"]}
    return {name: fact for name, fact in said(response).items() if fact is not None}


def _close(client: Client) -> Any:
    """LiteLLM leaves a task of its own on the loop."""
    worker = sys.modules.get("litellm.litellm_core_utils.logging_worker")  # not in the oldest version
    return worker.GLOBAL_LOGGING_WORKER.stop() if client.kind == "async" and worker is not None else None


SUBJECT = Subject(
    library="litellm",
    provider="openai",
    model=LiteWire.model,
    wire=LiteWire,
    make=Client,
    close=_close,
    transport=None,
    forms=(
        Form("chat", _chat, _said),
        Form(
            "chat-stream",
            lambda client, ask: _chat(client, ask, stream=True),
            _said,
            stream=True,
            kinds=("async",),  # a sync stream cannot be closed: see test_litellm.py
            since="1.106",  # 1.75 holds each chunk back until the next has come
        ),
    ),
)
