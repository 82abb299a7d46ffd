"""Mistral's client, which Speakeasy generates: nearly OpenAI's wire format, over httpx2 (httpx before version 3)."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.instrumentation.clients._openai_wire import ChatWire, messages, said
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Request


class MistralWire(ChatWire):
    """https://docs.mistral.ai/api"""

    model = "mistral-small-latest"

    def answer(self, request: Request) -> bytes | list[bytes]:
        if request.path in ("/v1/fim/completions", "/v1/agents/completions"):
            request.path = self.chat_path
        answer = super().answer(request)
        if request.path == self.embeddings_path and isinstance(answer, bytes):
            return json.dumps({"id": "e-1", **json.loads(answer)}).encode()
        return answer


def _major() -> int:
    try:
        return int(version("mistralai").partition(".")[0])
    except PackageNotFoundError:
        return 3


MAJOR = _major()
_IMPORTS = "mistralai.client" if MAJOR >= 2 else "mistralai"


def make(url: str, kind: str) -> Any:
    mistralai = importlib.import_module(_IMPORTS)
    client = mistralai.Mistral(api_key="local", server_url=url)
    vars(client)["kind"] = kind
    return client


def close(client: Any) -> Any:
    configuration = client.sdk_configuration
    return configuration.client.close() if vars(client)["kind"] == "sync" else configuration.async_client.aclose()


def _chat(method: str) -> Any:
    return lambda client, ask: getattr(client.chat, method)(model=ask.model, messages=messages(ask))


def _said(response: Any) -> dict[str, Any]:
    return said([event.data for event in response] if isinstance(response, list) else response)


def _closable(stream: Any) -> Any:
    """A stream; those of version 1 are closed as what they are, context managers."""
    if MAJOR < 2:
        if hasattr(stream, "__aexit__"):
            stream.aclose = lambda: stream.__aexit__(None, None, None)
        else:
            stream.close = lambda: stream.__exit__(None, None, None)
    return stream


def _fim(method: str) -> Any:
    return lambda client, ask: getattr(client.fim, method)(model=ask.model, prompt=ask.content)


def _embed(client: Any, ask: Ask) -> Any:
    return client.embeddings.create_async(model=ask.model, inputs=[ask.content])


SUBJECT = Subject(
    library="mistralai",
    imports=_IMPORTS,
    provider="mistral_ai",
    model=MistralWire.model,
    wire=MistralWire,
    make=make,
    close=close,
    transport="httpx2" if MAJOR >= 3 else "httpx",
    forms=(
        Form("chat", _chat("complete"), _said, kinds=("sync",)),
        Form("chat", _chat("complete_async"), _said, kinds=("async",)),
        Form("stream", _chat("stream"), _said, stream=True, read=_closable, kinds=("sync",)),
        Form("stream", _chat("stream_async"), _said, stream=True, read=_closable, kinds=("async",)),
        Form("fim", _fim("complete"), _said, operation="text_completion", prompted=False, kinds=("sync",)),
        Form(
            "embed",
            _embed,
            lambda result: {"model": result.model, "input": result.usage.prompt_tokens},
            operation="embeddings",
            prompted=False,
            kinds=("async",),
        ),
    ),
)
