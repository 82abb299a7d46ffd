"""`init()` and its counterparts: puts settings, processor, exporter and instrumentation together, and takes them apart.

    init -> Settings -> Attribution (and its Announcer, with a platform)
                     -> a tracer provider, theirs or ours -> one Slot on it -> EgisSpanProcessor
                                                                            -> batches -> exporter
                     -> pools, EgisInstrumentor

Exporter and instrumentation are found by entry point: the core never imports upward.
"""

from __future__ import annotations

import atexit
import difflib
import functools
import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoints, PackageNotFoundError, distribution, entry_points
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from . import attribution, guard, pools, propagation, redaction, semconv
from .announce import Announcer
from .cache import Cache
from .outgoing import Outgoing
from .processor import EgisSpanProcessor
from .settings import Settings, spool_dir

log: Final = logging.getLogger("egisai")
P = ParamSpec("P")
R = TypeVar("R")

_SCHEDULE_DELAY_MS: Final = 1000.0
"""How long a span may wait in memory, lost if the process is killed: our exporter's batches cost a file write, so five
times as often as OpenTelemetry's default. `OTEL_BSP_SCHEDULE_DELAY` wins."""

_LAST_WORD_S: Final = 1.0  # for announcements at exit; an agent that misses it is registered by its traffic

_OTLP_VARIABLES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


class _Instrumentor(Protocol):
    @property
    def is_instrumented_by_opentelemetry(self) -> bool: ...
    def instrument(self, **kwargs: Any) -> None: ...
    def uninstrument(self, **kwargs: Any) -> None: ...


class _Slot(SpanProcessor):
    """Our one place on a provider. Processors cannot be taken off a provider; a slot can be emptied and filled."""

    def __init__(self) -> None:
        self.attributing: EgisSpanProcessor | None = None
        self.delivering: BatchSpanProcessor | None = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if self.attributing is not None:
            self.attributing.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if self.delivering is not None:
            self.delivering.on_end(span)

    def shutdown(self) -> None:
        delivering, self.delivering = self.delivering, None
        if delivering is not None:
            delivering.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.delivering is None or self.delivering.force_flush(timeout_millis)


class _Runtime:
    """What one `init()` set up."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.announcer: Announcer | None = None
        self.slot: _Slot | None = None
        self.exporter: SpanExporter | None = None
        self.instrumentor: _Instrumentor | None = None
        self.provider: str = "none"


_lock: Final = threading.RLock()
_runtime: _Runtime | None = None
_slots: weakref.WeakKeyDictionary[object, _Slot] = weakref.WeakKeyDictionary()
_made: weakref.ref[TracerProvider] | None = None  # the global provider, if it was we who made it


def _strict(function: Callable[P, R]) -> Callable[P, R]:
    """Answer a parameter that does not exist with its name, its value and what is allowed."""
    allowed = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name not in allowed:
                meant = difflib.get_close_matches(name, allowed, 1)
                hint = f"did you mean {meant[0]!r}? " if meant else ""
                shown = "…" if "key" in name or "secret" in name else repr(value)
                raise TypeError(f"init() has no parameter {name}={shown}: {hint}It takes {', '.join(allowed)}")
        return function(*args, **kwargs)

    return called


@_strict
def init(
    *,
    api_key: str | None = None,
    app: str | None = None,
    env: str | None = None,
    base_url: str | None = None,
    organisation: str | None = None,
    trusted_hosts: str | Sequence[str] | None = None,
    context_secret: str | None = None,
    trust_inbound: bool | None = None,
    redact: redaction.Redactor | None = None,
    quiet: bool = False,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Attribute every LLM call of this process, and deliver the spans.

    Each setting is taken from its keyword, else from the environment, else from its default. An existing tracer
    provider is used, never replaced. A second call with the same settings does nothing; with others it is refused
    with a log line until `shutdown()`.

    Args:
        api_key: The platform's key, `egis_live_<organisation>_<secret>` (`EGISAI_API_KEY`).
        app: The agent of calls of which nothing finer is known, and `service.name` (`EGISAI_APP`, "default").
        env: Deployment environment (`EGISAI_ENV`, "production").
        base_url: The platform, such as `http://127.0.0.1:4318` (`EGISAI_BASE_URL`). Without it spans go where the
            program's own OpenTelemetry setup, or the standard `OTEL_*` variables, send them.
        organisation: Read from the key; give it only to compute the same agent ids without one
            (`EGISAI_ORGANISATION`, "default").
        trusted_hosts: Hosts that facts may be sent to beyond private ones: exact names, and `*.example.com` for each
            name below one (`EGISAI_TRUSTED_HOSTS`, comma-separated).
        context_secret: Shared by your services: signs the facts that go from one to another. Two, with a comma, to
            rotate: the first signs, both verify (`EGISAI_CONTEXT_SECRET`).
        trust_inbound: Believe facts that arrive unsigned. Only where nobody else can send requests
            (`EGISAI_TRUST_INBOUND`, false).
        redact: What every text of every span passes through before it leaves, whoever recorded it: a function of the
            text and of its attribute's name that returns what may be told, such as
            `egisai.common_redaction.common()`. What it fails on is left out (none).
        quiet: No log line about how things were set up. Errors are logged all the same.
        tracer_provider: Use this provider rather than the global one.

    Raises:
        ConfigurationError: A value cannot be worked with; the message says which, and what is allowed.
        TypeError: A parameter does not exist.
    """
    global _runtime
    settings = Settings.resolve(
        api_key=api_key,
        app=app,
        env=env,
        base_url=base_url,
        organisation=organisation,
        trusted_hosts=trusted_hosts,
        context_secret=context_secret,
        trust_inbound=trust_inbound,
        redact=redact,
    )
    with _lock:
        if _runtime is not None:
            if settings != _runtime.settings:
                log.warning("egisai: init() was called before with other settings, which stay; call shutdown() first")
            return
        runtime = _runtime = _Runtime(settings)
        try:
            _set_up(runtime, tracer_provider)
        except BaseException:
            shutdown()
            raise
        atexit.register(_stop)
    if not quiet:
        _say(runtime)


def _set_up(runtime: _Runtime, tracer_provider: TracerProvider | None) -> None:
    settings = runtime.settings
    if settings.redact is not None:  # else what the program gave to `redaction.use` stays
        redaction.use(settings.redact)
    propagation.use(propagation.Trust.of(settings))
    _attribute(settings, runtime)
    if tracer_provider is not None:
        provider, runtime.provider = tracer_provider, "given"
    else:
        provider = _provider(settings, runtime)
    runtime.slot = attach(provider)
    if runtime.slot is not None:
        runtime.exporter = _exporter(settings, runtime)
        if runtime.exporter is not None:
            runtime.slot.delivering = _batches(Outgoing(runtime.exporter))
    runtime.instrumentor = _instrument(provider)


def attach(provider: trace.TracerProvider) -> _Slot | None:
    """Have `provider`'s spans attributed. Idempotent; undone by `detach`. None where it takes no span processor."""
    if not isinstance(provider, TracerProvider) and not hasattr(provider, "add_span_processor"):
        guard.log_once(
            "the tracer provider is a %s, which takes no span processor: calls are not attributed; pass an "
            "OpenTelemetry SDK provider as tracer_provider=",
            type(provider).__qualname__,
        )
        return None
    with _lock:
        slot = _slots.get(provider)
        if slot is None:
            slot = _slots[provider] = _Slot()
            cast(TracerProvider, provider).add_span_processor(slot)
        if slot.attributing is None:
            slot.attributing = EgisSpanProcessor()
        pools.install()
        return slot


def detach(provider: trace.TracerProvider) -> None:
    """Stop attributing `provider`'s spans."""
    with _lock:
        slot = _slots.get(provider)
        if slot is not None:
            slot.attributing = None
        if not any(slot.attributing for slot in _slots.values()):
            pools.uninstall()


def is_attached(provider: trace.TracerProvider) -> bool:
    """Whether `provider`'s spans are attributed."""
    slot = _slots.get(provider)
    return slot is not None and slot.attributing is not None


def ensure_attribution(*, app: str | None = None, organisation: str | None = None, api_key: str | None = None) -> None:
    """Where `init()` was not called, take organisation and app from here, else the environment; never raises."""
    with _lock:
        if _runtime is None:
            try:
                settings = Settings.resolve(app=app, organisation=organisation, api_key=api_key)
            except ValueError as exc:
                guard.log_once("%s; using defaults", exc)
                return
            attribution.use(attribution.Attribution(organisation=settings.organisation, app=settings.app))


def flush(timeout_s: float = 10.0) -> bool:
    """Deliver what is waiting: spans still in memory, then what is on disk, then announcements.

    Returns True if everything was delivered within `timeout_s` seconds. Nothing accepted is lost when it was not.
    """
    runtime = _runtime
    if runtime is None:
        return True
    deadline = time.monotonic() + timeout_s
    done: list[bool] = []
    with guard.Guard("flushing"):
        if runtime.slot is not None:
            done.append(runtime.slot.force_flush(int(timeout_s * 1000)) is not False)
        if runtime.exporter is not None:
            done.append(runtime.exporter.force_flush(max(1, int((deadline - time.monotonic()) * 1000))))
        if runtime.announcer is not None:
            done.append(runtime.announcer.flush(max(0.0, deadline - time.monotonic())))
        return all(done)
    return False


def shutdown(timeout_s: float = 5.0) -> None:
    """Undo `init()`: every patch is removed, what is in memory goes to disk, delivery gets a last short try.

    Runs by itself at exit. `init()` may be called again afterwards, with other settings.
    """
    with _lock:
        stopped = _stop(timeout_s)
        if stopped is not None:
            attribution.use(attribution.Attribution())
            propagation.use(None)
            if stopped.settings.redact is not None:
                redaction.use(None)


def _stop(timeout_s: float = 5.0) -> _Runtime | None:
    """Take everything down but how spans are attributed and redacted: at exit, other exporters may have some left."""
    global _runtime
    with _lock:
        runtime, _runtime = _runtime, None
        if runtime is None:
            return None
        atexit.unregister(_stop)
        with guard.Guard("shutting down"):
            if runtime.instrumentor is not None:
                runtime.instrumentor.uninstrument()
        with guard.Guard("shutting down"):
            if runtime.slot is not None:
                runtime.slot.attributing = None
                runtime.slot.shutdown()
            pools.uninstall()
        if runtime.announcer is not None:
            runtime.announcer.close(min(_LAST_WORD_S, timeout_s))
        return runtime


def diagnostics() -> dict[str, Any]:
    """What is set up, where spans go, and everything that was dropped or refused, by reason.

    Returns a dictionary of plain values: `initialised`; `settings` (the key without its secret); `tracer_provider`
    (`existing`, `made`, `given` or `none`); `instrumented` (library to version, or why not); `exporter` and
    `announcements` (counts, what waits, the last error, `rulings` heard and their `version`, when the platform was
    last asked for them in seconds since the epoch, the `cache` file and what is wrong with it); `counts` (drops,
    refusals and failures of ours, by reason).
    """
    runtime = _runtime
    if runtime is None:
        return {"initialised": False, "counts": guard.counts()}
    return {
        "initialised": True,
        "settings": runtime.settings.shown(),
        "tracer_provider": runtime.provider,
        "instrumented": _stats(runtime.instrumentor),
        "exporter": _stats(runtime.exporter),
        "announcements": _stats(runtime.announcer),
        "counts": guard.counts(),
    }


def _stats(part: object) -> Any:
    stats = getattr(part, "stats", None)
    if callable(stats):
        return stats()
    return None if part is None else type(part).__name__


# --- the parts -----------------------------------------------------------------------------------------------------


def _provider(settings: Settings, runtime: _Runtime) -> trace.TracerProvider:
    global _made
    existing = trace.get_tracer_provider()
    ours = _made() if _made is not None else None
    if isinstance(existing, trace.ProxyTracerProvider):
        provider = TracerProvider(resource=_resource(settings))
        trace.set_tracer_provider(provider)
        _made = weakref.ref(provider)
        runtime.provider = "made"
        return provider
    if ours is not None and existing is ours:  # after shutdown(): the same provider, with the new settings
        _describe(ours, _resource(settings))
        runtime.provider = "made"
        return ours
    runtime.provider = "existing"
    return existing


def _resource(settings: Settings) -> Resource:
    resource = Resource.create()  # with OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    ours: dict[str, str] = {}
    if semconv.DEPLOYMENT_ENVIRONMENT not in resource.attributes:
        ours[semconv.DEPLOYMENT_ENVIRONMENT] = settings.env
    if str(resource.attributes.get(semconv.SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        ours[semconv.SERVICE_NAME] = settings.app
    return resource.merge(Resource(ours))


def _describe(provider: TracerProvider, resource: Resource) -> None:
    """Give a provider that we made another resource: it can be made only once per process, `init()` called again."""
    update = getattr(provider, "_update_resource", None)
    if update is not None:  # newer SDKs, 1.45 among them: also updates tracers already handed out
        update(resource)
    else:
        provider._resource = resource  # pyright: ignore[reportPrivateUsage]


def _attribute(settings: Settings, runtime: _Runtime) -> None:
    who = attribution.Attribution(organisation=settings.organisation, app=settings.app)
    if settings.base_url is not None and settings.api_key is not None:
        runtime.announcer = Announcer(
            settings.base_url,
            {"Authorization": f"Bearer {settings.api_key}"},
            {"app": settings.app, "env": settings.env},
            who.learn,
            Cache(spool_dir(), settings.base_url, who),
        )
        who.on_sighting = runtime.announcer.put
    attribution.use(who)


def _exporter(settings: Settings, runtime: _Runtime) -> SpanExporter | None:
    if settings.base_url is not None:
        load = _entry_point("opentelemetry_traces_exporter", "egisai", "egisai-exporter")
        return None if load is None else load(settings.base_url, api_key=settings.api_key)
    if runtime.provider != "made" or not any(os.environ.get(name) for name in _OTLP_VARIABLES):
        return None
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")[0].strip()
    if name == "none":
        return None
    if name == "otlp":
        name = "otlp_proto_grpc" if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc" else "otlp_proto_http"
    load = _entry_point("opentelemetry_traces_exporter", name, f"opentelemetry-exporter-{name.replace('_', '-')}")
    return None if load is None else load()


def _entry_point(group: str, name: str, package: str) -> Callable[..., Any] | None:
    # Where it most likely is first: `entry_points` reads those of every distribution, 8 ms where there are 200.
    found = next(iter(_entry_points_of(package).select(group=group, name=name)), None) or next(
        iter(entry_points(group=group, name=name)), None
    )
    if found is None:
        log.error("egisai: %s is not installed, and is needed here: pip install %s", package, package)
        return None
    return cast("Callable[..., Any]", found.load())


def _entry_points_of(package: str) -> EntryPoints:
    try:
        return distribution(package).entry_points
    except PackageNotFoundError:
        return EntryPoints()


def _batches(exporter: SpanExporter) -> BatchSpanProcessor:
    if os.environ.get("OTEL_BSP_SCHEDULE_DELAY"):
        return BatchSpanProcessor(exporter)
    return BatchSpanProcessor(exporter, schedule_delay_millis=_SCHEDULE_DELAY_MS)


def _instrument(provider: trace.TracerProvider) -> _Instrumentor | None:
    load = _entry_point("opentelemetry_instrumentor", "egisai", "egisai-instrumentation")
    if load is None:
        return None
    instrumentor = cast(_Instrumentor, load())
    if not instrumentor.is_instrumented_by_opentelemetry:  # else the program, or opentelemetry-instrument, did it
        instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    return instrumentor


def _say(runtime: _Runtime) -> None:
    settings = runtime.settings
    if settings.base_url is not None:
        log.info("egisai: attributing calls of app %r, delivering to %s", settings.app, settings.base_url)
        if settings.api_key is None:
            log.warning("egisai: base_url=%r without an api_key: the platform will refuse the spans", settings.base_url)
    elif runtime.exporter is None and runtime.provider == "made":
        log.warning(
            "egisai: spans are attributed but go nowhere: set base_url (EGISAI_BASE_URL) to a platform, or "
            "OTEL_EXPORTER_OTLP_ENDPOINT to any OpenTelemetry backend (quiet=True hides this line)"
        )
