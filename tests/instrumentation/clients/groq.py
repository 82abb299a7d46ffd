"""Groq's client, which Stainless generates: OpenAI's wire format over httpx, a stream's usage in `x_groq`."""

from __future__ import annotations

from typing import Any

from tests.instrumentation.clients._openai_wire import USAGE, ChatWire, stainless_forms
from tests.instrumentation.contract import Subject


class GroqWire(ChatWire):
    model = "llama-3.3-70b-versatile"
    chat_path = "/openai/v1/chat/completions"
    embeddings_path = "/openai/v1/embeddings"

    def last_chunk(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"x_groq": {"id": "req_1", "usage": USAGE}}


def make(url: str, kind: str) -> Any:
    import groq

    return (groq.AsyncGroq if kind == "async" else groq.Groq)(base_url=url, api_key="gsk-local", max_retries=0)


SUBJECT = Subject(
    library="groq",
    provider="groq",
    model=GroqWire.model,
    wire=GroqWire,
    make=make,
    forms=stainless_forms(usage_of=lambda chunk: chunk.x_groq.usage if hasattr(chunk, "x_groq") else chunk.usage),
)
