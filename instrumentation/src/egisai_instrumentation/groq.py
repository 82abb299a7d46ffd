"""Groq: chat completions and embeddings in OpenAI's wire format. https://console.groq.com/docs/api-reference"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from . import openai
from .integration import Integration
from .reading import member


class _ChatFold(openai.ChatFold):
    """Chunks whose usage, unasked, is in `x_groq` of the last one."""

    __slots__ = ()

    def feed(self, chunk: Any) -> bool:
        self.used = member(member(chunk, "x_groq"), "usage") or self.used
        return super().feed(chunk)


INTEGRATION: Final = Integration(
    library="groq",
    versions=">=0.9,<2",
    targets=(("groq", "Groq.request"), ("groq", "AsyncGroq.request")),
    endpoints={
        "/openai/v1/chat/completions": replace(openai.CHAT, fold=_ChatFold, usage_on_request=None),
        "/openai/v1/embeddings": openai.EMBEDDINGS,
    },
    provider=lambda _client, _host: "groq",
    note="Audio and batches make no span.",
    oldest=("httpx==0.27.2",),  # groq before 0.13 passes arguments that 0.28 removed
)
