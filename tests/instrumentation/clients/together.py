"""Together's client, which Stainless generates: OpenAI's wire format over httpx."""

from __future__ import annotations

from typing import Any

from tests.instrumentation.clients._openai_wire import ChatWire, stainless_forms
from tests.instrumentation.contract import Form, Subject


class TogetherWire(ChatWire):
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def make(url: str, kind: str) -> Any:
    import together

    client = together.AsyncTogether if kind == "async" else together.Together
    return client(base_url=url, api_key="local", max_retries=0)


SUBJECT = Subject(
    library="together",
    provider="together_ai",
    model=TogetherWire.model,
    wire=TogetherWire,
    make=make,
    forms=(
        *stainless_forms(embeddings=False),
        Form(
            "embeddings",
            lambda client, ask: client.embeddings.create(model=ask.model, input=ask.content),
            lambda response: {"model": response.model, "input": response.usage["prompt_tokens"]},  # not in its types
            operation="embeddings",
            prompted=False,
        ),
    ),
)
