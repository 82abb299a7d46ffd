"""Libraries that trace by themselves, switched on and off as another vendor's instrumentor is."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class PydanticAI:
    """Pydantic AI's own spans."""

    def instrument(self, tracer_provider: TracerProvider, **_: Any) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.models.instrumented import InstrumentationSettings

        Agent.instrument_all(InstrumentationSettings(tracer_provider=tracer_provider))

    def uninstrument(self) -> None:
        from pydantic_ai import Agent

        Agent.instrument_all(False)


class LiteLLM:
    """LiteLLM's `otel` callback."""

    def instrument(self, tracer_provider: TracerProvider, **_: Any) -> None:
        import litellm
        from litellm.integrations.opentelemetry import OpenTelemetry

        litellm.callbacks = [OpenTelemetry(tracer_provider=tracer_provider)]

    def uninstrument(self) -> None:
        import litellm

        litellm.callbacks = []

    def settle(self) -> None:
        """Wait for what it says in threads of its own, once a call is over."""
        from litellm.litellm_core_utils.thread_pool_executor import executor

        while executor._work_queue.qsize() or executor._idle_semaphore._value < len(executor._threads):
            time.sleep(0.01)


class Langfuse:
    """Langfuse's client, as which `langfuse.openai` traces, with what it delivers kept here."""

    def instrument(self, tracer_provider: TracerProvider, **_: Any) -> None:
        from langfuse import Langfuse as Client

        self.delivered = InMemorySpanExporter()
        self.client = Client(
            public_key="pk-local",
            secret_key="sk-local",
            base_url="http://127.0.0.1:9",
            tracer_provider=tracer_provider,
            span_exporter=self.delivered,
        )

    def uninstrument(self) -> None:
        self.client.shutdown()

    def settle(self) -> None:
        """Deliver."""
        self.client.flush()
