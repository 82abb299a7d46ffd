"""Fireworks AI: chat and legacy completions in OpenAI's wire format, messages in Anthropic's. https://docs.fireworks.ai"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from . import anthropic, openai
from .integration import Integration

_ENDPOINTS: Final = {  # a stream's last chunk has the usage, unasked
    "/v1/chat/completions": replace(openai.CHAT, usage_on_request=None),
    "/v1/completions": replace(openai.INTEGRATION.endpoints["/completions"], usage_on_request=None),
    "/v1/messages": anthropic.MESSAGES,
}

INTEGRATION: Final = Integration(
    library="fireworks-ai",
    versions=">=1.2,<2",
    targets=(("fireworks", "Fireworks.request"), ("fireworks", "AsyncFireworks.request")),
    endpoints={
        **_ENDPOINTS,
        # The client asks for these, unless it was given another base URL.
        **{f"https://api.fireworks.ai/inference{path}": endpoint for path, endpoint in _ENDPOINTS.items()},
    },
    provider=lambda _client, _host: "fireworks_ai",
    note="Versions before 1, which are another client, and batches make no span.",
)
