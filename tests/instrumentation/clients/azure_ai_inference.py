"""Azure AI Inference's clients: nearly OpenAI's wire format, over requests and aiohttp."""

from __future__ import annotations

from typing import Any

from tests.instrumentation.clients._bedrock_wire import collect
from tests.instrumentation.clients._openai_wire import ChatWire, messages, said
from tests.instrumentation.contract import Ask, Form, Subject


class AzureWire(ChatWire):
    """https://learn.microsoft.com/azure/ai-foundry/model-inference/reference"""

    model = "mistral-small"
    chat_path = "/chat/completions"
    embeddings_path = "/embeddings"


class _Clients:
    """A client for chats and one for embeddings."""

    def __init__(self, url: str, kind: str) -> None:
        from azure.core.credentials import AzureKeyCredential

        if kind == "async":
            from azure.ai.inference import aio as inference
        else:
            from azure.ai import inference
        options = {"endpoint": url, "credential": AzureKeyCredential("local"), "retry_total": 0}
        self.chat = inference.ChatCompletionsClient(**options)
        self.embeddings = inference.EmbeddingsClient(**options)
        self._is_async = kind == "async"

    def close(self) -> Any:
        if self._is_async:
            return self._aclose()
        self.chat.close()
        return self.embeddings.close()

    async def _aclose(self) -> None:
        await self.chat.close()
        await self.embeddings.close()
        collect()


def make(url: str, kind: str) -> Any:
    return _Clients(url, kind)


def complete(client: Any, ask: Ask, **more: Any) -> Any:
    return client.chat.complete(messages=messages(ask), model=ask.model, **more)


SUBJECT = Subject(
    library="azure-ai-inference",
    imports="azure.ai.inference",
    provider="azure.ai.inference",
    model=AzureWire.model,
    wire=AzureWire,
    make=make,
    transport=None,
    forms=(
        Form("complete", complete, said),
        Form("stream", lambda client, ask: complete(client, ask, stream=True), said, stream=True),
        Form(
            "embed",
            lambda client, ask: client.embeddings.embed(input=[ask.content], model=ask.model),
            lambda result: {"model": result.model, "input": result.usage.prompt_tokens},
            operation="embeddings",
            prompted=False,
        ),
    ),
)
