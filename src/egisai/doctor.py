"""`egisai doctor`: looks at this environment and says what is right, what is wrong, and what to do about it.

Each check is a function that yields findings; none raises, none sends anything but empty requests to the platform, and
the key goes nowhere but to a server that answers as a platform does. See docs/doctor.md.
"""

from __future__ import annotations

import difflib
import email.utils
import http.client
import importlib.metadata
import inspect
import json
import os
import platform
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from opentelemetry.context import attach, get_current, set_value

from .announce import NoRedirect
from .runtime import diagnostics
from .settings import ConfigurationError, Settings, spool_dir

__all__ = ["Finding", "Level", "examine", "exit_code", "rendered"]

Level = Literal["ok", "info", "warning", "problem"]

TIMEOUT_S: Final = 3.0
"""For each request, name lookup and everything included."""

_MAX_SKEW_S: Final = 10.0  # below it nobody is misled by the times shown
_OLD_S: Final = 300.0  # an exporter that can deliver has done so by then: its backoff ends at 60 s
_MAX_SHOWN_CHARS: Final = 300
_MAX_BODY_BYTES: Final = 65_536

_OURS: Final = ("egisai", "egisai-instrumentation", "egisai-exporter", "egisai-platform")
_OPENTELEMETRY: Final = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation")
_OTLP_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NATIVE: Final = {"anthropic": 2, "mistralai": 3, "mcp": 2}
"""Clients that make spans themselves, and since which major version."""
_FASTAPI_TRACES: Final = (0, 165)
"""Since when FastAPI traces by itself, as soon as there is a tracer provider."""
_LLM_SUITES: Final = ("traceloop-sdk", "langfuse", "logfire", "openlit", "agentops", "mlflow")
_LLM_LIBRARIES: Final = frozenset(
    {"alephalpha", "anthropic", "bedrock", "cohere", "crewai", "google_generativeai", "groq", "haystack", "langchain"}
    | {"llamaindex", "mcp", "mistralai", "ollama", "openai", "openai_agents", "openai_v2", "replicate", "sagemaker"}
    | {"together", "transformers", "vertexai", "watsonx", "writer"}
)
"""Whose instrumentors, called `opentelemetry.instrumentation.<one of these>`, make spans of LLM calls."""

_BATCH: Final = re.compile(r"(\d{20})-[0-9a-f]{8}-(\d+)-(\d+)\.otlp\.gz")  # documented in exporter/README.md


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `check` is stable, for scripts; `what` and `advice` are for people."""

    check: str
    level: Level
    what: str
    advice: str | None = None


def examine(timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """Everything there is to say about this environment, and about this process if `init()` was called in it."""
    findings: list[Finding] = []
    settings = _guarded(findings, "settings", _resolved)
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("installed", _installed),
        ("clients", _clients),
        ("others", _others),
        ("settings", lambda: _settings(settings)),
        ("opentelemetry", _opentelemetry),
        ("destination", lambda: _destination(settings)),
        ("platform", lambda: _platform(settings, timeout_s)),
        ("spool", lambda: _spool(settings)),
        ("process", _process),
    ]
    for name, check in checks:
        findings += _guarded(findings, name, lambda check=check: list(check())) or ()
    return findings


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where all is well, 1 with warnings, 2 with problems."""
    levels = {finding.level for finding in findings}
    return 2 if "problem" in levels else 1 if "warning" in levels else 0


def _guarded(findings: list[Finding], name: str, check: Callable[[], Any]) -> Any:
    try:
        return check()
    except ConfigurationError as exc:
        findings.append(Finding("settings.invalid", "problem", str(exc), "set it right: init() refuses it likewise"))
    except Exception as exc:  # noqa: BLE001 - said, and the other checks go on
        what = f"the check {name!r} failed itself: {type(exc).__name__}: {exc}"
        findings.append(Finding(f"{name}.failed", "warning", what, "please report this"))
    return None


# --- what is installed -----------------------------------------------------------------------------------------------


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _named(distributions: Iterable[str]) -> str:
    return ", ".join(f"{name} {_version(name) or '(not installed)'}" for name in distributions)


def _installed() -> Iterator[Finding]:
    yield Finding("installed.egis", "ok", _named(_OURS))
    yield Finding("installed.opentelemetry", "ok", _named(_OPENTELEMETRY))
    if _version("egisai-instrumentation") is None:
        advice = "pip install 'egisai[all]'"
        yield Finding("installed.instrumentation", "problem", "no LLM client can be instrumented", advice)
    versions = {version for version in map(_version, _OURS[:3]) if version is not None}
    if len(versions) > 1:
        what = "the egisai distributions are of different versions"
        yield Finding("installed.versions", "problem", what, "pip install -U 'egisai[all]'")


def _clients() -> Iterator[Finding]:
    instrumentor = next(iter(entry_points(group="opentelemetry_instrumentor", name="egisai")), None)
    if instrumentor is None:
        return
    module = inspect.getmodule(instrumentor.load())
    fine: list[str] = []
    absent: list[str] = []
    for integration in cast("Sequence[Any]", getattr(module, "INTEGRATIONS", ())):
        library, tested = str(integration.library), str(integration.versions)
        installed = _version(library)
        if installed is None:
            absent.append(library)
        elif _within(installed, tested):
            fine.append(f"{library} {installed}")
        else:
            what = f"{library} {installed} is outside of the tested range {tested}"
            advice = "it is instrumented all the same, which most often works; see what your spans say"
            yield Finding(f"client.{library}", "warning", what, advice)
    if fine:
        yield Finding("client.tested", "ok", f"instrumented, in a tested version: {', '.join(fine)}")
    if absent:
        yield Finding("client.absent", "info", f"supported, not installed: {', '.join(absent)}")


def _within(version: str, tested: str) -> bool:
    from packaging.specifiers import SpecifierSet  # the instrumentation's dependency: where there are ranges, it is

    return SpecifierSet(tested, prereleases=True).contains(version)


def _others() -> Iterator[Finding]:
    for found in sorted(entry_points(group="opentelemetry_instrumentor"), key=lambda found: found.value):
        words = found.value.partition(":")[0].split(".")
        of_llms = words[0] == "openinference" or "genai" in words or (words[2:3] and words[2] in _LLM_LIBRARIES)
        if of_llms:
            name = found.dist.name if found.dist is not None else found.value
            what = f"{name} makes spans of {found.name} calls too: Egis attributes its span and adds none"
            yield Finding(f"others.{name}", "info", what, "to have one instrumentor only, uninstall it")
    for name in _LLM_SUITES:
        if (installed := _version(name)) is not None:
            yield Finding(f"others.{name}", "info", f"{name} {installed} may trace LLM calls too: they count once")
    for name, major in _NATIVE.items():
        installed = _version(name)
        if installed is not None and int(re.sub(r"\D.*", "", installed) or 0) >= major:
            yield Finding(f"others.{name}", "info", f"{name} {installed} traces itself: Egis attributes its spans")
    fastapi = _version("fastapi")
    if fastapi is not None and tuple(map(int, re.findall(r"\d+", fastapi)[:2])) >= _FASTAPI_TRACES:
        what = f"fastapi {fastapi} makes spans around each dependency and endpoint: what is set in one ends with it"
        advice = 'where they call set_context(): FastAPI(telemetry={"operation_spans": False}), see recipes/web.md'
        yield Finding("others.fastapi", "info", what, advice)


# --- what it is told -------------------------------------------------------------------------------------------------


def _resolved() -> Settings:
    return Settings.resolve()


def _settings(settings: Settings | None) -> Iterator[Finding]:
    shown = settings.shown() if settings is not None else {}
    shown.pop("redact", None)  # a function, which only the program has
    for name, value in shown.items():
        variable = f"EGISAI_{name.upper()}"
        source = variable if os.environ.get(variable, "").strip() else "default"
        if name == "organisation" and source == "default" and settings is not None and settings.api_key is not None:
            source = "the key"
        if value is not None or source != "default":
            yield Finding(f"settings.{name}", "ok", f"{name} = {value} ({source})")
    if settings is not None and settings.trust_inbound:
        what = "whoever can send this program a request can say which user it is for"
        yield Finding("settings.trusting", "warning", what, "unset it and sign: see EGISAI_CONTEXT_SECRET")
    known = [f"EGISAI_{name.upper()}" for name in shown] + ["EGISAI_SPOOL_DIR"]
    for variable in sorted(os.environ):
        if variable.startswith(("EGISAI", "EGIS_")) and variable not in known and shown:
            meant = difflib.get_close_matches(variable, known, 1, cutoff=0.85)
            if meant:
                yield Finding("settings.unknown", "warning", f"{variable} is nothing", f"did you mean {meant[0]}?")


def _opentelemetry() -> Iterator[Finding]:
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding("opentelemetry.disabled", "problem", "OTEL_SDK_DISABLED=true: no span is made", "unset it")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    if sampler.endswith("always_off"):
        what = f"OTEL_TRACES_SAMPLER={sampler}: no span is recorded"
        yield Finding("opentelemetry.sampler", "problem", what, "unset it, or choose another sampler")
    elif "ratio" in sampler:
        what = f"OTEL_TRACES_SAMPLER={sampler} ({environ.get('OTEL_TRACES_SAMPLER_ARG', '1.0')}): calls not sampled"
        yield Finding("opentelemetry.sampler", "warning", f"{what} are counted nowhere", "sample everything for totals")
    disabled = environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    if {"egisai", "*"} & {name.strip() for name in disabled}:
        what = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS leaves egisai out: opentelemetry-instrument does not attribute"
        yield Finding("opentelemetry.left_out", "warning", what, "take egisai off that list, or call egisai.init()")
    config = environ.get("OTEL_CONFIG_FILE", "").strip()
    if config and not Path(config).is_file():
        yield Finding("opentelemetry.config", "problem", f"OTEL_CONFIG_FILE={config} is no file", "give its path")


def _destination(settings: Settings | None) -> Iterator[Finding]:
    if settings is None:
        return
    if settings.base_url is not None:
        if _version("egisai-exporter") is None:
            what = f"spans cannot be sent to {settings.base_url} without egisai-exporter"
            yield Finding("destination", "problem", what, "pip install 'egisai[all]'")
        else:
            yield Finding("destination", "ok", f"spans go to the platform at {settings.base_url}")
        return
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")[0].strip()
    endpoint = next((os.environ[variable] for variable in _OTLP_VARIABLES if os.environ.get(variable)), None)
    if name == "egisai":
        what = "OTEL_TRACES_EXPORTER=egisai without a platform to send to"
        yield Finding("destination", "problem", what, "set EGISAI_BASE_URL")
    elif name == "none" or (not name and endpoint is None):
        advice = "set EGISAI_BASE_URL and EGISAI_API_KEY for a platform, or OTEL_EXPORTER_OTLP_ENDPOINT for any backend"
        what = "spans go nowhere, unless your program gives init() a base_url or sets up a tracer provider of its own"
        yield Finding("destination", "warning", what, advice)
    else:
        yield _by_otel(name or "otlp", endpoint)


def _by_otel(name: str, endpoint: str | None) -> Finding:
    to = f" at {_without_user(endpoint)}" if endpoint else ""
    grpc = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc"
    real = {"otlp": "otlp_proto_grpc" if grpc else "otlp_proto_http"}.get(name, name)
    if not entry_points(group="opentelemetry_traces_exporter", name=real):
        what = f"OTEL_* sends spans to {name}{to}, but no exporter {real!r} is installed"
        return Finding("destination", "problem", what, f"pip install opentelemetry-exporter-{real.replace('_', '-')}")
    return Finding("destination", "ok", f"spans go where OTEL_* says: {name}{to}; to no platform")


def _without_user(url: str) -> str:
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    except ValueError:
        return "an address that is none"


# --- the platform ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    between: tuple[float, float]
    """When the request left and when its answer came, in seconds since the epoch."""


def _platform(settings: Settings | None, timeout_s: float) -> Iterator[Finding]:
    if settings is None or settings.base_url is None:
        return
    url = settings.base_url
    health = _ask(f"{url}/healthz", None, {}, timeout_s)
    if isinstance(health, Finding):
        yield health
        return
    if 300 <= health.status < 400:
        what = f"{url} redirects to {health.headers.get('Location', 'somewhere')}; spans do not follow redirects"
        yield Finding("platform.redirect", "problem", what, "set EGISAI_BASE_URL to where the platform itself is")
        return
    if health.status in (502, 503, 504):
        what = f"{url}/healthz answered {health.status}: what stands before the platform does not reach it"
        yield Finding("platform.reach", "problem", what, "start the platform; spans wait on disk until then")
        return
    if health.status != 200 or health.body.strip() != b"ok":
        yield _stranger(url, f"/healthz answered {health.status} (the key was not sent)")
        return
    yield Finding("platform.reach", "ok", f"{url} answers")
    yield from _clock(health)
    yield from _key(settings, url, timeout_s)


def _stranger(url: str, why: str) -> Finding:
    advice = (
        "EGISAI_BASE_URL is the address that `egisai-platform serve` prints; for another backend, unset it and set "
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    return Finding("platform.stranger", "problem", f"{url} is no Egis platform: {why}", advice)


def _clock(answer: _Answer) -> Iterator[Finding]:
    try:
        server = email.utils.parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() + 0.5  # whole seconds
    except (ValueError, TypeError):
        return
    skew_s = sum(answer.between) / 2 - server
    if abs(skew_s) > _MAX_SKEW_S:
        ahead = "ahead of" if skew_s > 0 else "behind"
        what = f"this machine's clock is {abs(skew_s):.0f} s {ahead} the platform's"
        yield Finding("platform.clock", "warning", what, "set both clocks by NTP: calls appear at wrong times")
    else:
        yield Finding("platform.clock", "ok", "the clocks agree")


def _key(settings: Settings, url: str, timeout_s: float) -> Iterator[Finding]:
    """Requests with nothing in them: an empty announcement, and an empty `ExportTraceServiceRequest`."""
    authorization = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    requests = (
        ("/v1/agents", b'{"agents": []}', "application/json"),
        ("/v1/traces", b"", "application/x-protobuf"),
    )
    for path, body, kind in requests:
        answer = _ask(url + path, body, {"Content-Type": kind, **authorization}, timeout_s)
        if isinstance(answer, Finding):
            yield answer
            return
        if answer.status != 200 or (path == "/v1/agents" and not _announced(answer.body)):
            yield _refused(settings, f"{url}{path}", answer)
            return
    who = f"the key is good and may send, for organisation {settings.organisation!r}"
    yield Finding("platform.key", "ok", who if settings.api_key else "the platform asks for no key")


def _announced(body: bytes) -> bool:
    try:
        return "canonical" in json.loads(body)
    except (ValueError, TypeError):
        return False


def _refused(settings: Settings, url: str, answer: _Answer) -> Finding:
    create = f"egisai-platform keys create --organisation {settings.organisation}"
    if answer.status == 401 and settings.api_key is None:
        what, advice = "the platform asks for a key, and none is set", f"set EGISAI_API_KEY to what `{create}` prints"
        return Finding("platform.key", "problem", what, advice)
    if answer.status == 401:
        what = f"the platform does not know the key {settings.shown()['api_key']}: it is wrong, or was revoked"
        return Finding("platform.key", "problem", what, f"see `egisai-platform keys list`, or make one: `{create}`")
    if answer.status == 403:
        what = f"the key {settings.shown()['api_key']} may not send: its scope is another"
        return Finding("platform.key", "problem", what, f"use a key of scope ingest: `{create}`")
    if answer.status == 429 or answer.status >= 500:
        what = f"the platform is up but takes nothing now: {url} answered {answer.status}"
        return Finding("platform.busy", "warning", what, "see its log; spans wait on disk until it does")
    return _stranger(url, f"it answered {answer.status}, not as a platform does")


def _ask(url: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> _Answer | Finding:
    """One request, on a thread of its own: neither a name lookup nor a trickling answer minds a socket's timeout."""
    results: list[_Answer | Exception] = []

    def ask() -> None:
        attach(set_value("suppress_instrumentation", True, get_current()))
        try:
            results.append(_asked(url, body, headers, timeout_s))
        except Exception as exc:  # noqa: BLE001 - sorted below
            results.append(exc)

    thread = threading.Thread(target=ask, name="egisai-doctor", daemon=True)
    thread.start()
    thread.join(timeout_s)
    result = results[0] if results else TimeoutError()
    return result if isinstance(result, _Answer) else _unreachable(url, result, timeout_s)


def _asked(url: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> _Answer:
    opener = urllib.request.build_opener(NoRedirect)
    sent = {"User-Agent": "egisai-doctor", **headers}
    request = urllib.request.Request(url, body, sent, method="GET" if body is None else "POST")  # noqa: S310
    started = time.time()
    try:
        reply: Any = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as exc:
        reply = exc
    with reply:
        return _Answer(reply.status, reply.headers, reply.read(_MAX_BODY_BYTES), (started, time.time()))


def _unreachable(url: str, exc: Exception, timeout_s: float) -> Finding:
    reason = exc.reason if isinstance(exc, urllib.error.URLError) and isinstance(exc.reason, Exception) else exc
    host = urlsplit(url).netloc
    if isinstance(reason, socket.gaierror):
        why, advice = f"the name of {host} does not resolve", "see EGISAI_BASE_URL, and this machine's DNS"
    elif isinstance(reason, ConnectionRefusedError):
        why = f"nothing listens at {host}"
        advice = "start `egisai-platform serve`, or set EGISAI_BASE_URL to where it is"
    elif isinstance(reason, TimeoutError):
        why, advice = f"{host} did not answer within {timeout_s:g} s", "see firewall, proxy and load of the platform"
    elif isinstance(reason, ssl.SSLCertVerificationError):
        why = f"the certificate of {host} is not trusted: {reason.verify_message}"
        advice = "name your authority's file in both SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
    elif isinstance(reason, ssl.SSLError):
        why = f"{host} does not speak TLS as it should: {reason.reason or reason}"
        advice = "is it http:// rather than https://?"
    elif isinstance(reason, (http.client.HTTPException, ConnectionError)):
        why = f"what answers at {host} does not speak HTTP: {type(reason).__name__}"
        advice = "is it https:// rather than http://, or the gRPC port (4317 instead of 4318)?"
    else:
        why, advice = f"{host} cannot be reached: {reason}", "see EGISAI_BASE_URL and this machine's network"
    return Finding("platform.reach", "problem", why, f"{advice}; until then spans wait on disk")


# --- what waits, what was lost ---------------------------------------------------------------------------------------


def _spool(settings: Settings | None) -> Iterator[Finding]:
    root = spool_dir()
    if settings is None or settings.base_url is None:
        if root is None or not root.is_dir():
            return
    elif root is None:
        what = "this user has no home, so spans wait in a temporary directory, or in memory"
        yield Finding("spool.directory", "warning", what, "set EGISAI_SPOOL_DIR to a directory that stays")
        return
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        what = f"the spool {root} cannot be used: {existing} is no directory that this user may write to"
        yield Finding("spool.directory", "problem", what, "set EGISAI_SPOOL_DIR, or its owner and mode, right")
        return
    directories = _directories(root) if root.is_dir() else []
    waiting = [found for path in directories if (found := _waiting(path)) is not None]
    yield from waiting
    if not waiting:
        yield Finding("spool.waiting", "ok", f"nothing waits in {root}")


def _directories(path: Path) -> list[Path]:
    return sorted(found for found in path.iterdir() if found.is_dir())


def _waiting(destination: Path) -> Finding | None:
    spans = size = running = 0
    oldest_ns = time.time_ns()
    for writer in _directories(destination):
        batches = [match for path in writer.iterdir() if (match := _BATCH.fullmatch(path.name))]
        running += bool(batches) and _is_held(writer / "lock")
        for batch in batches:
            spans += int(batch[2])
            size += int(batch[3])
            oldest_ns = min(oldest_ns, int(batch[1]))
    if not spans:
        return None
    age_s = (time.time_ns() - oldest_ns) / 1e9
    host = destination.name.rpartition("-")[0]
    kib = -(-size // 1024)
    what = f"spans wait for {host}: {spans} ({kib} KiB), the oldest for {_duration(age_s)}, in {destination}"
    if running:
        advice = "a running process has them: its egisai.diagnostics() and its log say why they do not go out"
    else:
        advice = (
            "their process has ended: start a program with the same EGISAI_BASE_URL and organisation, or remove them"
        )
    return Finding("spool.waiting", "warning" if age_s > _OLD_S or not running else "info", what, advice)


def _is_held(lock: Path) -> bool:
    """Whether a living process holds the writer's lock; asking for a shared one disturbs nobody."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


_DROPS: Final = {
    "spool_full": "the platform was away too long for max_bytes of disk",
    "disk_": "see the disk and the permissions of the spool",
    "refused_": "see the platform's log for why it refused them",
    "rejected": "see the platform's log for why it refused them",
}
"""Why spans were dropped, by the first letters of the exporter's reasons."""


def _process() -> Iterator[Finding]:
    """What this process lost, where `init()` was called in it: drops are counted where they happen."""
    told = diagnostics()
    if not told["initialised"]:
        what = "what a running program dropped, and why, only it knows"
        yield Finding("process", "info", what, "log egisai.diagnostics() there, or call egisai.doctor.examine()")
        return
    found = told["exporter"]  # another exporter's name, where it is not ours
    exporter = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    for reason, spans in exporter.get("dropped", {}).items():
        advice = next((advice for start, advice in _DROPS.items() if reason.startswith(start)), None)
        yield Finding(f"process.dropped.{reason}", "problem", f"spans dropped as {reason}: {spans}", advice)
    if exporter.get("last_error"):
        yield Finding("process.last_error", "warning", f"the last delivery failed: {exporter['last_error']}")
    yield from _agents(told["announcements"])
    for reason, count in told["counts"].items():
        yield Finding("process.count", "warning", f"{reason}: {count}", "the log says more, at the first time")


def _agents(told: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What this process told the platform of its agents, and what it heard."""
    if told is None:
        return
    polled = told["last_poll_s"]
    asked = "never" if polled is None else f"{_duration(max(0.0, time.time() - polled))} ago"
    what = f"agents announced: {told['announced']}, waiting: {told['waiting']}, rulings heard: {told['rulings']}"
    if told["version"] is not None:
        what += f", as of version {told['version']}"
    yield Finding("process.agents", "ok", f"{what}; last asked {asked}")
    if told["last_error"]:
        advice = "calls are attributed all the same; what an operator rules is heard later"
        yield Finding("process.agents.last_error", "warning", f"agents: {told['last_error']}", advice)
    if told["cache_error"]:
        advice = "the next process begins without what this one learns; see EGISAI_SPOOL_DIR"
        yield Finding("process.agents.cache", "warning", f"not kept: {told['cache_error']}", advice)
    elif told["cache"] is not None:
        yield Finding("process.agents.cache", "ok", f"what is learnt of agents is kept in {told['cache']}")


# --- for people ------------------------------------------------------------------------------------------------------

_MARKS: Final[Mapping[Level, tuple[str, str]]] = {
    "ok": ("ok", "32"),
    "info": ("--", "2"),
    "warning": ("warning", "33"),
    "problem": ("PROBLEM", "31;1"),
}


def rendered(findings: Sequence[Finding], *, colour: bool) -> str:
    """The findings as one screen of text."""
    version = f"Egis {_version('egisai')} on Python {platform.python_version()}, {platform.platform(terse=True)}"
    lines = [version, ""]
    for finding in findings:
        mark, code = _MARKS[finding.level]
        shown = f"\x1b[{code}m{mark:>7}\x1b[0m" if colour else f"{mark:>7}"
        lines.append(f"{shown}  {_plain(finding.what)}")
        if finding.advice is not None:
            lines.append(f"{'':7}  -> {_plain(finding.advice)}")
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count("problem"), levels.count("warning")
    lines += ["", f"Problems: {problems}, warnings: {warnings}." if problems or warnings else "All is well."]
    return "\n".join(lines) + "\n"


def as_json(findings: Sequence[Finding]) -> str:
    """The same for programs."""
    told = {
        "egisai": _version("egisai"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "exit_code": exit_code(findings),
        "findings": [{name: getattr(finding, name) for name in Finding.__slots__} for finding in findings],
    }
    return json.dumps(told, indent=2) + "\n"


def _plain(text: str) -> str:
    """What a server or a file said, made harmless to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_SHOWN_CHARS])
