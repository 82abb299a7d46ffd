"""Hugging Face's client: OpenAI's wire format over requests and aiohttp, later httpx, later httpx2."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.instrumentation.clients._openai_wire import ChatWire, messages, said
from tests.instrumentation.clients._plain_wire import PlainWire
from tests.instrumentation.contract import Ask, Form, Subject


class HuggingFaceWire(PlainWire, ChatWire):
    """A server of the user's own: TGI, vLLM and others tell usage without being asked, or not at all."""

    model = "meta-llama/Llama-3.3-70B-Instruct"


def make(url: str, kind: str) -> Any:
    import huggingface_hub

    client = huggingface_hub.AsyncInferenceClient if kind == "async" else huggingface_hub.InferenceClient
    return client(base_url=url, api_key="local")


def close(client: Any) -> Any:
    return client.close() if hasattr(client, "close") else None


def chat(client: Any, ask: Ask, **more: Any) -> Any:
    return client.chat.completions.create(model=ask.model, messages=messages(ask), **more)


def _transport() -> str | None:
    try:
        major = int(version("huggingface_hub").partition(".")[0])
    except PackageNotFoundError:
        return None
    return (None, "httpx", "httpx2")[min(major, 2)]


SUBJECT = Subject(
    library="huggingface_hub",
    provider="huggingface",
    model=HuggingFaceWire.model,
    wire=HuggingFaceWire,
    make=make,
    close=close,
    transport=_transport(),
    forms=(
        Form("chat", chat, said),
        # The async one, in `test_huggingface_hub.py`: to close it takes the loop more turns than the suite gives.
        Form("chat-stream", lambda client, ask: chat(client, ask, stream=True), said, stream=True, kinds=("sync",)),
    ),
)
