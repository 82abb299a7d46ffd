"""Cerebras' client, which Stainless generates: OpenAI's wire format over httpx."""

from __future__ import annotations

from typing import Any

from tests.instrumentation.clients._openai_wire import ChatWire, stainless_forms
from tests.instrumentation.contract import Subject


class CerebrasWire(ChatWire):
    model = "llama-3.3-70b"


def make(url: str, kind: str) -> Any:
    from cerebras.cloud import sdk

    client = sdk.AsyncCerebras if kind == "async" else sdk.Cerebras
    return client(base_url=url, api_key="local", max_retries=0, warm_tcp_connection=False)


SUBJECT = Subject(
    library="cerebras-cloud-sdk",
    imports="cerebras.cloud.sdk",
    provider="cerebras",
    model=CerebrasWire.model,
    wire=CerebrasWire,
    make=make,
    forms=stainless_forms(embeddings=False),
)
