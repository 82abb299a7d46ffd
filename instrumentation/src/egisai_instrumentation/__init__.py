"""EgisInstrumentor and one file per LLM client."""

from .instrumentor import EgisInstrumentor

__all__ = ["EgisInstrumentor"]
