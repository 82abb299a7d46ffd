"""Cerebras: chat completions in OpenAI's wire format. https://inference-docs.cerebras.ai/api-reference"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from . import openai
from .integration import Integration

INTEGRATION: Final = Integration(
    library="cerebras-cloud-sdk",
    versions=">=1.50,<2",
    targets=(("cerebras.cloud.sdk", "Cerebras.request"), ("cerebras.cloud.sdk", "AsyncCerebras.request")),
    endpoints={
        "/v1/chat/completions": replace(openai.CHAT, usage_on_request=None),  # the last chunk has it, unasked
    },
    provider=lambda _client, _host: "cerebras",
    note="Legacy completions make no span.",
)
