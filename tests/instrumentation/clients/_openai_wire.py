"""OpenAI's wire format as other providers serve it: chat completions, embeddings, and forms of calling them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.instrumentation.contract import Ask, Form
from tests.instrumentation.wire import Refused, Request, Wire, sse

USAGE = {
    "prompt_tokens": 31,
    "completion_tokens": 7,
    "total_tokens": 38,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


class ChatWire(Wire):
    """A subclass names its model and paths, and where a stream has its usage."""

    model = "model"
    chat_path = "/v1/chat/completions"
    embeddings_path = "/v1/embeddings"

    def last_chunk(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the last chunk, with the finish reason, has besides."""
        return {"usage": USAGE}

    def answer(self, request: Request) -> bytes | list[bytes]:
        body = request.body
        head = {"id": "chatcmpl-1", "created": 1767225600, "model": self.model}
        if request.path == self.embeddings_path:
            data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2, 0.3]}]
            used = {"prompt_tokens": 8, "total_tokens": 8}
            return json.dumps({"object": "list", "model": self.model, "data": data, "usage": used}).encode()
        if request.path != self.chat_path:
            raise Refused(404)
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Sorry about that."}
            choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
            return json.dumps({**head, "object": "chat.completion", "choices": choices, "usage": USAGE}).encode()

        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
            choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
            return {**head, "object": "chat.completion.chunk", "choices": choices, **more}

        said = [
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": c}) for c in ("Sorry", " about that.")),
        ]
        return sse(*said, chunk({}, "stop", **self.last_chunk(body)))


def messages(ask: Ask) -> list[dict[str, str]]:
    return [{"role": "system", "content": ask.system}, {"role": "user", "content": ask.content}]


def said(response: Any, usage_of: Callable[[Any], Any] = lambda response: response.usage) -> dict[str, Any]:
    """What the span must say of a completion, or of the list of a stream's chunks."""
    last = response[-1] if isinstance(response, list) else response
    usage = usage_of(last)
    facts = {"id": last.id, "model": last.model, "reasons": (last.choices[0].finish_reason,)}
    details = {"cached": USAGE["prompt_tokens_details"]["cached_tokens"], "reasoning": 3}
    return {**facts, "input": usage.prompt_tokens, "output": usage.completion_tokens, **details}


def stainless_forms(
    usage_of: Callable[[Any], Any] = lambda response: response.usage, *, embeddings: bool = True
) -> list[Form]:
    """The forms that every client has which Stainless generates, on `client.chat.completions`."""

    def chat(client: Any, ask: Ask, **more: Any) -> Any:
        return client.chat.completions.create(model=ask.model, messages=messages(ask), **more)

    def raw(client: Any, ask: Ask, **more: Any) -> Any:
        return client.chat.completions.with_raw_response.create(model=ask.model, messages=messages(ask), **more)

    def told(response: Any) -> dict[str, Any]:
        return said(response, usage_of)

    forms = [
        Form("chat", chat, said),
        Form("chat-stream", lambda client, ask: chat(client, ask, stream=True), told, stream=True),
        Form("chat-raw", raw, said, read=lambda response: response.parse()),
        Form(
            "chat-raw-stream",
            lambda client, ask: raw(client, ask, stream=True),
            told,
            stream=True,
            read=lambda response: response.parse(),
        ),
    ]
    if embeddings:
        forms.append(
            Form(
                "embeddings",
                lambda client, ask: client.embeddings.create(model=ask.model, input=ask.content),
                lambda response: {"model": response.model, "input": response.usage.prompt_tokens},
                operation="embeddings",
                prompted=False,
            )
        )
    return forms
