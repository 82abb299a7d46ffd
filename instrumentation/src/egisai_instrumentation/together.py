"""Together AI: chat completions and embeddings in OpenAI's wire format. https://docs.together.ai/reference"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from . import openai
from .integration import Integration

_CHAT: Final = replace(openai.CHAT, usage_on_request=None)  # the last chunk has it, unasked

INTEGRATION: Final = Integration(
    library="together",
    versions=">=3,<4",
    targets=(("together", "Together.request"), ("together", "AsyncTogether.request")),
    endpoints={
        "/v1/chat/completions": _CHAT,
        "https://api-inference.together.ai/v1/chat/completions": _CHAT,  # unless the client has another base URL
        "/v1/embeddings": openai.EMBEDDINGS,
    },
    provider=lambda _client, _host: "together_ai",
    note="Legacy completions, images, audio, reranking and batches make no span.",
)
