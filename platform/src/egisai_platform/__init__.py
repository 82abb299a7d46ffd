"""OTLP in, registry, store, API and dashboard."""
