"""EgisInstrumentor and one file per LLM client."""
