"""IBM watsonx.ai's client: JSON and events with dictionaries, over httpx."""

from __future__ import annotations

import json
from typing import Any

from tests.instrumentation.clients._openai_wire import messages
from tests.instrumentation.contract import Form, Subject
from tests.instrumentation.wire import Refused, Request, Wire, sse

MODEL = "ibm/granite-4-h-small"
HEAD = {"model_id": MODEL, "created_at": "2026-01-01T00:00:00.000Z"}


class WatsonxWire(Wire):
    """https://cloud.ibm.com/apidocs/watsonx-ai"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        chat = {"id": "chat-1", "object": "chat.completion", "model": MODEL, **HEAD, "created": 1}
        used = {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}
        said = ("Sorry", " about", " that.")
        if request.path == "/ml/v1/text/chat":
            message = {"role": "assistant", "content": "Sorry about that."}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return json.dumps({**chat, "choices": choices, "usage": used}).encode()
        if request.path == "/ml/v1/text/chat_stream":
            pieces: list[dict[str, Any]] = [{"index": 0, "delta": {"content": text}} for text in said]
            pieces[-1]["finish_reason"] = "stop"
            chunks: list[dict[str, Any]] = [{**chat, "choices": [piece]} for piece in pieces]
            return sse(*chunks, {**chat, "choices": [], "usage": used}, done=False)
        if request.path == "/ml/v1/text/generation":
            counts = {"input_token_count": 31, "generated_token_count": 7}
            result = {"generated_text": "Sorry about that.", "stop_reason": "eos_token", **counts}
            return json.dumps({**HEAD, "results": [result]}).encode()
        if request.path == "/ml/v1/text/generation_stream":
            results: list[dict[str, Any]] = [
                {
                    "generated_text": text,
                    "generated_token_count": count,
                    "input_token_count": 0 if index else 31,
                    "stop_reason": "eos_token" if count == 7 else "not_finished",
                }
                for index, (text, count) in enumerate(zip(said, (2, 4, 7), strict=True))
            ]
            return sse(*({**HEAD, "results": [result]} for result in results), done=False)
        if request.path == "/ml/v1/text/embeddings":
            vectors = [{"embedding": [0.1, 0.2, 0.3]} for _ in request.body["inputs"]]
            return json.dumps({**HEAD, "results": vectors, "input_token_count": 8}).encode()
        raise Refused(404)

    def error(self, status: int) -> bytes:
        return json.dumps({"errors": [{"code": "refused", "message": f"refused with {status}"}]}).encode()


class Models:
    """A model and one for embeddings, of one client of the API."""

    def __init__(self, url: str, kind: str) -> None:
        from ibm_watsonx_ai import APIClient, Credentials
        from ibm_watsonx_ai.foundation_models import Embeddings, ModelInference

        api = APIClient(Credentials(url="https://us-south.ml.cloud.ibm.com", token="local"))
        for holder in (api.credentials, api._href_definitions):  # it accepts no other URL than https
            holder.url = url
        api.default_project_id = "p-1"  # without asking the platform about it
        options = {"model_id": MODEL, "api_client": api, "max_retries": 0}
        self.text = ModelInference(**options, validate=False)
        self.embeddings = Embeddings(**options)
        self._api = api
        self._kind = kind

    def close(self) -> Any:
        return self._aclose() if self._kind == "async" else self._close()

    def _close(self) -> None:
        self._api.httpx_client.close()

    async def _aclose(self) -> None:
        await self._api.async_httpx_client.aclose()
        self._close()


def make(url: str, kind: str) -> Any:
    return Models(url, kind)


def said(response: Any) -> dict[str, Any]:
    """What the span must say of a chat."""
    return {"id": "chat-1", "model": MODEL, "reasons": ("stop",), "input": 31, "output": 7}


def said_of_text(response: Any) -> dict[str, Any]:
    return {"model": MODEL, "reasons": ("stop",), "input": 31, "output": 7}


def prompted(method: str, **more: Any) -> Any:
    return lambda models, ask: getattr(models.text, method)(prompt=ask.content, **more)


def chat(method: str) -> Any:
    return lambda models, ask: getattr(models.text, method)(messages=messages(ask))


def _said_of_vectors(response: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": 8}


SUBJECT = Subject(
    library="ibm-watsonx-ai",
    imports="ibm_watsonx_ai.foundation_models",
    provider="ibm.watsonx.ai",
    model=MODEL,
    wire=WatsonxWire,
    make=make,
    forms=(
        Form("chat", chat("chat"), said, kinds=("sync",)),
        Form("chat", chat("achat"), said, kinds=("async",)),
        Form(
            "generate",
            prompted("agenerate"),
            said_of_text,
            operation="text_completion",
            prompted=False,
            kinds=("async",),
        ),
        Form(
            "embed",
            lambda models, ask: models.embeddings.generate(inputs=[ask.content]),
            _said_of_vectors,
            operation="embeddings",
            prompted=False,
            kinds=("sync",),
        ),
    ),
)
