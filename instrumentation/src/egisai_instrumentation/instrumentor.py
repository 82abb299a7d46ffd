"""EgisInstrumentor: LLM clients instrumented, on the program's own tracer provider if it has one."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.trace import ProxyTracerProvider, Tracer, TracerProvider

from egisai import runtime
from egisai.guard import Guard

from . import background, openai
from .patching import Patches

INTEGRATIONS: Final = (openai.INTEGRATION,)

_ATTACHING: Final = Guard("attaching to the tracer provider")
_DRAIN_S: Final = 1.0  # for agents still being worked out at exit


class EgisInstrumentor(BaseInstrumentor):
    """Instruments every supported client that is installed, now or when it is imported.

    `EgisInstrumentor().instrument(tracer_provider=None)` uses the given provider, else the global one, and adds an
    `EgisSpanProcessor` to it. Where the global provider is not set yet, it is picked up when it is. `egisai.init()`
    does all this and delivers the spans as well.
    """

    _patches: Patches | None = None
    _provider: TracerProvider | None = None
    _tracer: Tracer | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()  # each integration states its own

    def _instrument(self, **kwargs: Any) -> None:
        runtime.ensure_attribution()
        self._provider = kwargs.get("tracer_provider")
        self._tracer = None
        self._patches = Patches(self._get_tracer)
        for integration in INTEGRATIONS:
            self._patches.apply(integration)
        with _ATTACHING:
            self._get_tracer()

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the interface's
        if self._patches is not None:
            self._patches.undo()
        background.drain(_DRAIN_S)
        if self._tracer is not None:
            runtime.detach(self._provider or trace.get_tracer_provider())
        self._tracer = None

    def stats(self) -> dict[str, str]:
        """Library to instrumented version, or to why it is not; for `egisai.diagnostics()`."""
        return {} if self._patches is None else self._patches.state()

    def _get_tracer(self) -> Tracer:
        if self._tracer is not None:
            return self._tracer
        provider = self._provider or trace.get_tracer_provider()
        tracer = trace.get_tracer("egisai", version("egisai"), provider)
        if not isinstance(provider, ProxyTracerProvider):
            runtime.attach(provider)
            self._tracer = tracer
        return tracer
