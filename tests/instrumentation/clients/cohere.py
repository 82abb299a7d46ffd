"""Cohere's clients, which Fern generates: JSON, and server-sent events (lines of JSON in version 1), over httpx."""

from __future__ import annotations

import json
from typing import Any

from tests.instrumentation.clients._openai_wire import messages
from tests.instrumentation.clients._plain_wire import PlainWire
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Refused, Request, ndjson, sse

from egisai_instrumentation.reading import member

MODEL = "command-a-03-2025"
_COUNTS = {"input_tokens": 20.0, "output_tokens": 5.0}
USAGE = {"billed_units": _COUNTS, "tokens": {"input_tokens": 120.0, "output_tokens": 9.0}, "cached_tokens": 8.0}
_TEXTS = ("Sorry", " about", " that.")


class CohereWire(PlainWire):
    """https://docs.cohere.com/reference"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        streams = bool(request.body.get("stream"))
        if request.path == "/v2/chat":
            return sse(*self.events(), named=True) if streams else json.dumps(self.message()).encode()
        if request.path == "/v1/chat":
            return self.old(streams)
        if request.path in ("/v1/embed", "/v2/embed"):
            vectors = [[0.1, 0.2, 0.3]]
            body = {"id": "e-1", "texts": ["x"], "meta": {"billed_units": {"input_tokens": 8}}}
            if "embedding_types" in request.body:
                return json.dumps(
                    {**body, "response_type": "embeddings_by_type", "embeddings": {"float": vectors}}
                ).encode()
            return json.dumps({**body, "response_type": "embeddings_floats", "embeddings": vectors}).encode()
        raise Refused(404)

    def message(self) -> dict[str, Any]:
        said = {"role": "assistant", "content": [{"type": "text", "text": "".join(_TEXTS)}]}
        return {"id": "m-1", "finish_reason": "COMPLETE", "message": said, "usage": USAGE}

    def events(self) -> list[dict[str, Any]]:
        texts = [{"message": {"content": {"text": text}}} for text in _TEXTS]
        return [
            {"type": "message-start", "id": "m-1", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            *({"type": "content-delta", "index": 0, "delta": delta} for delta in texts),
            {"type": "content-end", "index": 0},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": USAGE}},
        ]

    def old(self, streams: bool) -> bytes | list[bytes]:
        whole = {"text": "".join(_TEXTS), "generation_id": "g-1", "response_id": "r-1", "finish_reason": "COMPLETE"}
        whole = {**whole, "meta": {"billed_units": _COUNTS, "tokens": USAGE["tokens"]}}
        if not streams:
            return json.dumps(whole).encode()
        return ndjson(
            {"event_type": "stream-start", "generation_id": "g-1"},
            *({"event_type": "text-generation", "text": text} for text in _TEXTS),
            {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": whole},
        )

    def error(self, status: int) -> bytes:
        return json.dumps({"message": f"refused with {status}"}).encode()


def make(url: str, kind: str, version: int = 2) -> Any:
    import cohere
    import httpx

    names = {"sync": ("Client", "ClientV2"), "async": ("AsyncClient", "AsyncClientV2")}[kind]
    used: Any = (httpx.AsyncClient if kind == "async" else httpx.Client)(verify=False)
    # What it logs of experimental features it wraps its methods for, as they are when it is made.
    return getattr(cohere, names[version - 1])(
        "local", base_url=url, httpx_client=used, log_warning_experimental_features=False
    )


def close(client: Any) -> Any:
    used = client._client_wrapper.httpx_client.httpx_client
    return used.aclose() if hasattr(used, "aclose") else used.close()


NO_RETRY: Any = {"max_retries": 0}


def _chat(client: Any, ask: Ask) -> Any:
    return client.chat(model=ask.model, messages=messages(ask), request_options=NO_RETRY)


def _stream(client: Any, ask: Ask) -> Any:
    return client.chat_stream(model=ask.model, messages=messages(ask), request_options=NO_RETRY)


def _embed(client: Any, ask: Ask) -> Any:
    return client.embed(
        model=ask.model,
        texts=[ask.content],
        input_type="search_document",
        embedding_types=["float"],
        request_options=NO_RETRY,
    )


def _said(response: Any) -> dict[str, Any]:
    is_stream = isinstance(response, list)
    end = response[-1].delta if is_stream else response
    billed = member(end.usage, "billed_units")  # old versions leave plain objects in events
    tokens = {"input": int(member(billed, "input_tokens")), "output": int(member(billed, "output_tokens")), "cached": 8}
    return {"id": response[0].id if is_stream else response.id, "reasons": (end.finish_reason.lower(),), **tokens}


SUBJECT = Subject(
    library="cohere",
    provider="cohere",
    model=MODEL,
    wire=CohereWire,
    make=make,
    close=close,
    forms=(
        Form("chat", _chat, _said),
        Form("stream", _stream, _said, stream=True, raised="step"),
        Form(
            "embed",
            _embed,
            lambda result: {"id": result.id, "input": int(result.meta.billed_units.input_tokens)},
            operation="embeddings",
            prompted=False,
            kinds=("sync",),
        ),
    ),
)
