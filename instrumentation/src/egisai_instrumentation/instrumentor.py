"""EgisInstrumentor: LLM clients instrumented, on the program's own tracer provider if it has one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.trace import ProxyTracerProvider, Tracer, TracerProvider

from egisai import runtime, semconv
from egisai.guard import Guard

from . import (
    anthropic,
    azure_inference,
    background,
    bedrock,
    cerebras,
    cohere,
    content,
    fireworks,
    google_genai,
    groq,
    huggingface_hub,
    litellm,
    mcp,
    metrics,
    mistralai,
    ollama,
    openai,
    replicate,
    together,
    voyageai,
    watsonx,
    xai,
)
from .patching import Patches

INTEGRATIONS: Final = (
    openai.INTEGRATION,
    anthropic.INTEGRATION,
    groq.INTEGRATION,
    together.INTEGRATION,
    cerebras.INTEGRATION,
    ollama.INTEGRATION,
    litellm.INTEGRATION,
    bedrock.INTEGRATION,
    bedrock.ASYNC_INTEGRATION,
    mcp.INTEGRATION,
    google_genai.INTEGRATION,
    azure_inference.INTEGRATION,
    watsonx.INTEGRATION,
    mistralai.INTEGRATION,
    xai.INTEGRATION,
    cohere.INTEGRATION,
    fireworks.INTEGRATION,
    huggingface_hub.INTEGRATION,
    replicate.INTEGRATION,
    voyageai.INTEGRATION,
)

_ATTACHING: Final = Guard("attaching to the tracer provider")
_DRAIN_S: Final = 1.0  # for agents still being worked out at exit


@dataclass(frozen=True)
class Configuration:
    """Options of `instrument()`, which a declarative configuration gives under `instrumentation/development`.

    Each falls back to the environment and to its default as in `egisai.init()`.
    """

    app: str | None = None
    organisation: str | None = None
    api_key: str | None = None
    """Only for the organisation that it names: delivery is the exporter's."""


_OPTIONS: Final = tuple(field.name for field in fields(Configuration))


class EgisInstrumentor(BaseInstrumentor):
    """Instruments every supported client that is installed, now or when it is imported.

    `EgisInstrumentor().instrument(tracer_provider=None)` uses the given provider, else the global one, and adds an
    `EgisSpanProcessor` to it. Where the global provider is not set yet, it is picked up when it is. `egisai.init()`
    does all this and delivers the spans as well. Without it, `instrument` also takes the options of `Configuration`.
    """

    configuration = Configuration  # where OpenTelemetry's declarative configuration looks for what options there are

    _patches: Patches | None = None
    _provider: TracerProvider | None = None
    _attached_to: TracerProvider | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()  # each integration states its own

    def _instrument(self, **kwargs: Any) -> None:
        runtime.ensure_attribution(**{option: kwargs.get(option) for option in _OPTIONS})
        self._provider = kwargs.get("tracer_provider")
        content.use_environment()
        metrics.use(kwargs.get("meter_provider"))
        self._patches = Patches(self._find_tracer)
        for integration in INTEGRATIONS:
            self._patches.apply(integration)
        with _ATTACHING:
            self._patches.resolve()

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the interface's
        if self._patches is not None:
            self._patches.undo()
        background.drain(_DRAIN_S)
        metrics.stop()
        attached, self._attached_to = self._attached_to, None
        if attached is not None:
            runtime.detach(attached)

    def stats(self) -> dict[str, str]:
        """Library to instrumented version, or to why it is not; for `egisai.diagnostics()`."""
        return {} if self._patches is None else self._patches.state()

    def _find_tracer(self) -> tuple[Tracer, bool]:
        provider = self._provider or trace.get_tracer_provider()
        tracer = trace.get_tracer(semconv.SCOPE, version("egisai"), provider)
        if isinstance(provider, ProxyTracerProvider):  # the program has yet to set its own
            return tracer, False
        if self._attached_to is None:
            runtime.attach(provider)
            self._attached_to = provider
        return tracer, True
