"""OTLP trace exporter for OpenTelemetry that accepts a batch by making it durable."""

from __future__ import annotations

from egisai_exporter.exporter import EgisExporter

__all__ = ["EgisExporter"]
