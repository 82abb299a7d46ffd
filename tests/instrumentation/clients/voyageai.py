"""Voyage AI's client: JSON over requests and aiohttp."""

from __future__ import annotations

import inspect
import json
from typing import Any

from tests.instrumentation.contract import Form, Subject
from tests.instrumentation.wire import Refused, Request, Wire

MODEL = "voyage-3.5"


class VoyageWire(Wire):
    """https://docs.voyageai.com/reference"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        embedded = [{"object": "embedding", "embedding": [0.1, 0.2, 0.3], "index": 0}]
        used: dict[str, Any] = {"total_tokens": 8}
        if request.path == "/embeddings":
            data: list[Any] = embedded
        elif request.path == "/contextualizedembeddings":
            data = [{"object": "list", "data": embedded, "index": 0}]
        elif request.path == "/multimodalembeddings":
            data = embedded
            used = {"text_tokens": 5, "image_pixels": 1680, "video_pixels": 0, "total_tokens": 8}
        elif request.path == "/rerank":
            data = [{"index": 0, "relevance_score": 0.9}]
        else:
            raise Refused(404)
        return json.dumps({"object": "list", "data": data, "model": MODEL, "usage": used}).encode()

    def error(self, status: int) -> bytes:
        return json.dumps({"detail": f"refused with {status}"}).encode()


def make(url: str, kind: str, **more: Any) -> Any:
    import voyageai

    client = voyageai.AsyncClient if kind == "async" else voyageai.Client
    if "base_url" in inspect.signature(client).parameters:
        return client(api_key="local", base_url=url, **more)
    voyageai.api_base = url
    return client(api_key="local", **more)


def _make(url: str, kind: str) -> Any:
    """With an HTTP session of ours for the async client: before 0.5 it leaves its own open when it is cancelled."""
    client = make(url, kind)

    async def with_session() -> Any:
        import aiohttp

        vars(client)["session"] = aiohttp.ClientSession()
        return client

    return with_session() if kind == "async" else client


def _close(client: Any) -> Any:
    import voyageai

    voyageai.aiosession.set(None)
    return vars(client)["session"].close() if "session" in vars(client) else None


def _call(method: str, client: Any, given: Any, model: str) -> Any:
    import voyageai

    voyageai.aiosession.set(vars(client).get("session"))
    return getattr(client, method)(given, model=model)


SUBJECT = Subject(
    library="voyageai",
    provider="voyageai",
    model=MODEL,
    wire=VoyageWire,
    make=_make,
    close=_close,
    transport=None,
    forms=(
        Form(
            "embed",
            lambda client, ask: _call("embed", client, [ask.content], ask.model),
            lambda result: {"input": result.total_tokens},
            operation="embeddings",
            prompted=False,
        ),
        Form(
            "contextualized",
            lambda client, ask: _call("contextualized_embed", client, [[ask.content]], ask.model),
            lambda result: {"input": result.total_tokens},
            operation="embeddings",
            prompted=False,
            kinds=("async",),
        ),
    ),
)
