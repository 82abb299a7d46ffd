"""Attribution of LLM calls to agents, users, sessions and workflows, on OpenTelemetry.

import egisai

egisai.init(app="support")                       # instruments LLM clients, delivers spans
egisai.set_context(agent="billing", user_id=42)  # who acts, for whom, from here on
with egisai.context(session_id="s-1"):           # for a bounded stretch
    ...
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from .context import clear_context, context, current_context, propagate, set_context
from .processor import EgisSpanProcessor
from .runtime import diagnostics, flush, init, shutdown
from .settings import ConfigurationError

__all__ = [
    "ConfigurationError",
    "EgisInstrumentor",
    "EgisSpanProcessor",
    "clear_context",
    "context",
    "current_context",
    "diagnostics",
    "flush",
    "init",
    "propagate",
    "set_context",
    "shutdown",
]

EgisInstrumentor: Any  # loaded on first use from the distribution egisai-instrumentation, which depends on this one


def __getattr__(name: str) -> Any:
    if name == "EgisInstrumentor":
        found = next(iter(entry_points(group="opentelemetry_instrumentor", name="egisai")), None)
        if found is None:
            raise ImportError("egisai.EgisInstrumentor needs egisai-instrumentation: pip install 'egisai[all]'")
        return found.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
