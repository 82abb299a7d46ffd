"""Which LLM endpoint the examples talk to; imported for its effect on the environment that `openai.OpenAI()` reads.

With OPENAI_API_KEY that is OpenAI, or OPENAI_BASE_URL if set. Without, a local server that speaks the same wire format
and makes its answers up. OPENAI_MODEL and OPENAI_EMBEDDING_MODEL choose the models.
"""

from __future__ import annotations

import os

from provider import Provider

MODEL = os.environ.get("OPENAI_MODEL") or "gpt-5.4-mini"
EMBEDDING_MODEL = os.environ.get("OPENAI_EMBEDDING_MODEL") or "text-embedding-3-small"

if not os.environ.get("OPENAI_API_KEY"):
    _provider = Provider(record=False)
    os.environ["OPENAI_BASE_URL"] = _provider.base_url
    os.environ["OPENAI_API_KEY"] = "sk-local"
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    print(f"No OPENAI_API_KEY: talking to a local provider at {_provider.base_url}, its answers are made up.\n")
