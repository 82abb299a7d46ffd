"""Fireworks' client, which Stainless generates: OpenAI's wire format over httpx, or aiohttp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.instrumentation.clients._openai_wire import ChatWire, stainless_forms
from tests.instrumentation.contract import Subject


class FireworksWire(ChatWire):
    model = "accounts/fireworks/models/llama-v3p3-70b-instruct"


def make(url: str, kind: str) -> Any:
    """Both over httpx, which OpenTelemetry instruments; the async client's aiohttp is in `test_fireworks.py`."""
    import fireworks

    options: dict[str, Any] = {"base_url": url, "api_key": "local", "max_retries": 0}
    if kind == "async":
        return fireworks.AsyncFireworks(**options, http_client=fireworks.DefaultAsyncHttpxClient())
    return fireworks.Fireworks(**options)


_KINDS = {"chat-raw": ("sync",), "chat-raw-stream": ("async",)}  # the other kind tells nothing new

SUBJECT = Subject(
    library="fireworks-ai",
    imports="fireworks",
    provider="fireworks_ai",
    model=FireworksWire.model,
    wire=FireworksWire,
    make=make,
    forms=[replace(form, kinds=_KINDS.get(form.name, form.kinds)) for form in stainless_forms(embeddings=False)],
)
