"""OTLP out, durable."""
