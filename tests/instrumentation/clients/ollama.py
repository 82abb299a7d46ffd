"""Ollama's client: NDJSON over httpx."""

from __future__ import annotations

import json
from typing import Any

from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Refused, Request, Wire, ndjson

MODEL = "llama3.2:1b"
_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 31, "eval_count": 7, "total_duration": 9}
_START = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "done": False}


class OllamaWire(Wire):
    """https://docs.ollama.com/api"""

    stream_type = "application/x-ndjson"

    def answer(self, request: Request) -> bytes | list[bytes]:
        body = request.body
        if request.path == "/api/chat":
            said = [{"message": {"role": "assistant", "content": text}} for text in ("Sorry", " about", " that.")]
        elif request.path == "/api/generate":
            said = [{"response": text} for text in ("Sorry", " about", " that.")]
        elif request.path == "/api/embed":
            return json.dumps({"model": MODEL, "embeddings": [[0.1, 0.2, 0.3]], "prompt_eval_count": 8}).encode()
        else:
            raise Refused(404)
        if body.get("stream"):
            return ndjson(*({**_START, **part} for part in said[:-1]), {**_START, **said[-1], **_END})
        return json.dumps({**_START, **said[-1], **_END}).encode()

    def error(self, status: int) -> bytes:
        return json.dumps({"error": f"refused with {status}"}).encode()

    def split(self, body: bytes) -> list[bytes]:
        return body.splitlines(keepends=True)


def make(url: str, kind: str) -> Any:
    import ollama

    return (ollama.AsyncClient if kind == "async" else ollama.Client)(host=url)


def _chat(client: Any, ask: Ask, **more: Any) -> Any:
    messages = [{"role": "system", "content": ask.system}, {"role": "user", "content": ask.content}]
    return client.chat(model=ask.model, messages=messages, **more)


def _generate(client: Any, ask: Ask, **more: Any) -> Any:
    return client.generate(model=ask.model, system=ask.system, prompt=ask.content, **more)


def _said(response: Any) -> dict[str, Any]:
    last = response[-1] if isinstance(response, list) else response
    told = {"model": last.model, "reasons": (last.done_reason,)}
    return {**told, "input": last.prompt_eval_count, "output": last.eval_count}


SUBJECT = Subject(
    library="ollama",
    provider="ollama",
    model=MODEL,
    wire=OllamaWire,
    make=make,
    close=lambda client: client._client.aclose() if hasattr(client._client, "aclose") else client._client.close(),
    setup="import ollama; client = ollama.Client(host=url)",
    forms=(
        Form("chat", _chat, _said),
        Form("chat-stream", lambda client, ask: _chat(client, ask, stream=True), _said, stream=True, raised="step"),
        Form("generate", _generate, _said, operation="text_completion"),
        Form(
            "generate-stream",
            lambda client, ask: _generate(client, ask, stream=True),
            _said,
            stream=True,
            operation="text_completion",
            raised="step",
        ),
        Form(
            "embed",
            lambda client, ask: client.embed(model=ask.model, input=ask.content),
            lambda result: {"model": result.model, "input": result.prompt_eval_count},
            operation="embeddings",
            prompted=False,
        ),
    ),
)
