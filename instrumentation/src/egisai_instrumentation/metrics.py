"""GenAI client metrics: duration, tokens and time to the first chunk of each call, by agent.

Names and buckets are the conventions' (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/). No user,
session or workflow: each would make a time series of its own. Without a meter provider nothing is recorded.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final, NamedTuple

from opentelemetry import metrics
from opentelemetry.metrics import Histogram, MeterProvider, NoOpMeter

from egisai import semconv
from egisai.guard import Guard

from .integration import Attributes

_RECORDING: Final = Guard("recording metrics")

_SECONDS: Final = tuple(0.01 * 2**n for n in range(14))
_TOKENS: Final = tuple(4**n for n in range(14))

_NAMES: Final = (
    semconv.OPERATION,
    semconv.PROVIDER,
    semconv.REQUEST_MODEL,
    semconv.RESPONSE_MODEL,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
    semconv.ERROR_TYPE,
    semconv.AGENT_NAME,
)
"""What a measurement is told apart by: few values each. A meter's limit on series holds for agents too."""


class _Instruments(NamedTuple):
    duration: Histogram
    tokens: Histogram
    first_chunk: Histogram


_instruments: _Instruments | None = None


def use(provider: MeterProvider | None) -> None:
    """Record with `provider`, else with the program's own, as soon as it has one."""
    global _instruments
    meter = metrics.get_meter(semconv.SCOPE, version("egisai"), provider)
    if isinstance(meter, NoOpMeter):
        _instruments = None
        return

    def histogram(name: str, unit: str, buckets: tuple[float, ...], description: str) -> Histogram:
        try:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)
        except TypeError:  # an API before 1.31 takes no advice
            return meter.create_histogram(name, unit, description)

    _instruments = _Instruments(
        histogram(semconv.METRIC_DURATION, "s", _SECONDS, "Duration of GenAI client operation"),
        histogram(semconv.METRIC_TOKENS, "{token}", _TOKENS, "Number of input and output tokens used by GenAI clients"),
        histogram(semconv.METRIC_FIRST_CHUNK, "s", _SECONDS, "Time to receive the first chunk of a streamed answer"),
    )


def stop() -> None:
    """Record nothing more."""
    global _instruments
    _instruments = None


def are_recorded() -> bool:
    """Whether anybody takes the measurements: a proxy's instrument has nothing behind it until a provider is set."""
    return _instruments is not None and getattr(_instruments.duration, "_real_instrument", _instruments) is not None


def record(call: Attributes, duration_s: float) -> None:
    """Record one call that has ended, from everything its span says."""
    instruments = _instruments
    if instruments is None:
        return
    with _RECORDING:
        by: dict[str, Any] = {name: call[name] for name in _NAMES if name in call}
        instruments.duration.record(duration_s, by)
        for kind, name in (("input", semconv.USAGE_INPUT_TOKENS), ("output", semconv.USAGE_OUTPUT_TOKENS)):
            if name in call:
                instruments.tokens.record(call[name], {**by, semconv.TOKENS_TYPE: kind})
        if semconv.RESPONSE_TIME_TO_FIRST_CHUNK in call:
            instruments.first_chunk.record(call[semconv.RESPONSE_TIME_TO_FIRST_CHUNK], by)
