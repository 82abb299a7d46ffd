"""init, shutdown, flush and diagnostics: what a newcomer meets first, and what an operator reads last."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from announcements import Platform
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

import egisai
from conftest import Spans
from egisai import guard
from egisai.announce import Announcer
from egisai.attribution import Attribution
from egisai.settings import Settings
from provider import Provider

KEY = "egis_live_acme_" + "a1" * 32


@pytest.fixture
def client(server: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0) as made:
        yield made


def call(client: openai.OpenAI) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])


def run(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with the tests' paths and a clean environment."""
    root = Path(__file__).parents[2]
    paths = f"{root / 'examples'}:{root / 'tests'}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", **env},
    )


# --- configuration ---------------------------------------------------------------------------------------------------

BAD = [
    (
        {"api_key": "sk-123456789abc"},
        "api_key='sk-1234567…' is not an Egis key: it must look like egis_live_<organisation>",
    ),
    ({"api_key": 5}, "api_key=5 is a int: it must be a str"),
    ({"app": "  "}, "app='  ' is not a label: it must be 1 to 256 printable characters"),
    ({"app": "a\nb"}, "app='a\\nb' is not a label"),
    ({"env": "x" * 300}, "env='xxx"),
    ({"base_url": "localhost:4318"}, "base_url='localhost:4318' is not the address of a platform"),
    ({"base_url": "http://"}, "a host, and a port"),
    ({"base_url": "http://h:99999"}, "base_url='http://h:99999' is not the address"),
    ({"base_url": "http://u:p@h"}, "the key goes in api_key"),
    ({"base_url": "http://h\r\nX: y"}, "no space or control character"),
    ({"organisation": "Acme Inc"}, "organisation='Acme Inc' is not a name: use lower-case letters"),
    ({"organisation": "other", "api_key": KEY}, "organisation='other' contradicts api_key, which belongs to 'acme'"),
]


@pytest.mark.parametrize(
    ("keywords", "message"), BAD, ids=[next(iter(keywords)) + str(i) for i, (keywords, _) in enumerate(BAD)]
)
def test_bad_configuration_raises(keywords: dict[str, Any], message: str) -> None:
    """Bad configuration raises at init() with the setting, its value and what is allowed; nothing stays set up."""
    with pytest.raises(egisai.ConfigurationError) as error:
        egisai.init(**keywords)
    assert message in str(error.value)
    assert KEY not in str(error.value)
    assert egisai.diagnostics()["initialised"] is False


def test_bad_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value from the environment is refused like one from a keyword."""
    monkeypatch.setenv("EGISAI_BASE_URL", "ftp://h")
    with pytest.raises(egisai.ConfigurationError, match="ftp://h"):
        egisai.init()


def test_unknown_parameter_raises() -> None:
    """A parameter that does not exist is named, with its value and what was meant."""
    with pytest.raises(TypeError) as error:
        egisai.init(ap="billing")  # type: ignore[call-arg]
    assert "init() has no parameter ap='billing': did you mean 'app'? It takes api_key, app, env" in str(error.value)
    with pytest.raises(TypeError) as error:
        egisai.init(apikey="hunter2")  # type: ignore[call-arg]
    assert "hunter2" not in str(error.value)
    with pytest.raises(TypeError) as error:
        egisai.init(context_secrets="hunter2")  # type: ignore[call-arg]
    assert "hunter2" not in str(error.value)


def test_keyword_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting: keyword, else EGISAI_*, else default; an empty variable is none. The key says the organisation."""
    assert Settings.resolve() == Settings(None, "default", "production", None, "default")
    for name, value in (("APP", "from-env"), ("ENV", " "), ("BASE_URL", "http://h:1/v1/traces/"), ("API_KEY", KEY)):
        monkeypatch.setenv(f"EGISAI_{name}", value)
    settings = Settings.resolve(app="from-keyword")
    assert settings == Settings(KEY, "from-keyword", "production", "http://h:1", "acme")
    assert Settings.resolve().app == "from-env"
    assert settings.shown()["api_key"] == "egis_live_acme_…a1a1"


def test_settings_table_is_true() -> None:
    """The settings table of the docs names every setting, its variable and its default."""
    table = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    for field in Settings.__slots__:
        variable = f"`EGISAI_{field.upper()}`" if field != "redact" else "none: it is a function"
        assert f"| `{field}` | {variable} |" in table


# --- twice, and again ------------------------------------------------------------------------------------------------


def test_del_once(client: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    """init twice makes no second span; shutdown then init works, with the new settings."""
    recorded = Spans()
    egisai.init(app="one", tracer_provider=recorded.provider, quiet=True)
    egisai.init(app="one", tracer_provider=recorded.provider, quiet=True)
    assert caplog.text == ""
    call(client)
    assert recorded.only()["gen_ai.agent.name"] == "one"
    egisai.init(app="two", tracer_provider=recorded.provider, quiet=True)
    assert "init() was called before with other settings, which stay; call shutdown() first" in caplog.text
    call(client)
    assert recorded.only()["gen_ai.agent.name"] == "one"

    egisai.shutdown()
    egisai.shutdown()
    call(client)
    assert recorded.all() == []
    egisai.init(app="two", tracer_provider=recorded.provider, quiet=True)
    call(client)
    assert recorded.only()["gen_ai.agent.name"] == "two"
    assert len(recorded.provider._active_span_processor._span_processors) == 2  # the exporter's and one slot


def test_del_once_on_our_own_provider() -> None:
    """The same where init() made the provider: the spans' resource says the new app and env too, exported once."""
    done = run(
        """
        import openai, egisai
        from conftest import Spans
        from opentelemetry import trace
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from provider import Provider
        spans = Spans()
        with Provider() as server, openai.OpenAI(base_url=server.base_url, api_key="sk") as client:
            for app, env in (("one", "test"), ("two", "live")):
                egisai.init(app=app, env=env, quiet=True)
                egisai.init(app=app, env=env, quiet=True)
                if app == "one":
                    first = trace.get_tracer_provider()
                    first.add_span_processor(SimpleSpanProcessor(spans.exporter))
                assert trace.get_tracer_provider() is first
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
                (span,) = spans.all()
                spans.exporter.clear()
                r = span.resource.attributes
                print(r["service.name"], r["deployment.environment.name"], span.attributes["gen_ai.agent.name"])
                egisai.shutdown()
        """
    )
    assert (done.stdout, done.returncode) == ("one test one\ntwo live two\n", 0), done.stderr


def test_the_users_resource_wins() -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES stay as the operator set them."""
    done = run(
        """
        import egisai
        from opentelemetry import trace
        egisai.init(app="app", env="env", quiet=True)
        r = trace.get_tracer_provider().resource.attributes
        print(r["service.name"], r["deployment.environment.name"])
        """,
        OTEL_SERVICE_NAME="theirs",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging",
    )
    assert done.stdout == "theirs staging\n", done.stderr


# --- OpenTelemetry ---------------------------------------------------------------------------------------------------


def test_otel_child(spans: Spans, client: openai.OpenAI) -> None:
    """The call span is the active span's child, in its trace; an unsampled parent has no call span."""
    tracer = spans.provider.get_tracer("test")
    with tracer.start_as_current_span("request") as parent:
        call(client)
    made, _ = spans.all()
    assert made.parent is not None
    assert made.parent.span_id == parent.get_span_context().span_id
    assert made.context.trace_id == parent.get_span_context().trace_id
    spans.exporter.clear()
    unsampled = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0)))
    with trace.use_span(unsampled):
        assert call(client).choices
    assert spans.all() == []


class Breaking(SpanProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise RuntimeError("start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("end")


def test_otel_no_provider(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """No provider, no SDK, a broken provider, an invalid span: the call is unaffected."""
    monkeypatch.setattr(guard, "strict", False)
    broken = TracerProvider()
    broken.add_span_processor(Breaking())

    class Raising(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            raise RuntimeError("no tracer")

    class Invalid(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            class Tracer(trace.NoOpTracer):
                def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
                    return trace.INVALID_SPAN

            return Tracer()

    for provider in (broken, trace.NoOpTracerProvider(), Raising(), Invalid(), trace.ProxyTracerProvider()):
        egisai.init(tracer_provider=provider, quiet=True)  # type: ignore[arg-type]
        assert call(client).choices
        egisai.shutdown()


def test_instrument_before_the_provider_is_set() -> None:
    """EgisInstrumentor().instrument() first, the program's own provider later: picked up with the first call after."""
    done = run(
        """
        import egisai, openai
        from opentelemetry import trace
        from conftest import Spans
        from provider import Provider
        egisai.EgisInstrumentor().instrument()
        with Provider() as server, openai.OpenAI(base_url=server.base_url, api_key="sk") as client:
            ask = lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            ask()
            spans = Spans()
            trace.set_tracer_provider(spans.provider)
            egisai.set_context(user_id="u")
            ask()
            (span,) = spans.all()
            print(span.attributes["gen_ai.agent.name"], span.attributes["user.id"])
            with spans.provider.get_tracer("t").start_as_current_span("plain"): pass
            print(spans.all()[1].attributes["user.id"])
        """,
        EGISAI_APP="from-env",
    )
    assert done.stdout == "from-env u\nu\n", done.stderr


def test_init_imports_no_client() -> None:
    """init() before any client imports none of those it follows, and covers each when it is imported."""
    done = run(
        """
        import sys, egisai
        egisai.init(quiet=True)
        from egisai_instrumentation.instrumentor import INTEGRATIONS
        modules = {module for each in INTEGRATIONS for module, _ in each.targets}
        modules |= {method.module for each in INTEGRATIONS for method in each.methods}
        print([name for name in (*modules, "openai", "httpx", "httpx2", "requests") if name in sys.modules])
        waiting = egisai.diagnostics()["instrumented"]
        print([state for state in waiting.values() if not state.endswith(("when imported", "not installed"))])
        import openai
        print(waiting["openai"] == f"{openai.__version__}, when imported")
        print(egisai.diagnostics()["instrumented"] == {**waiting, "openai": openai.__version__})
        """
    )
    assert done.stdout.splitlines() == ["[]", "[]", "True", "True"], done.stderr


def test_init_looks_for_no_client() -> None:
    """init() asks for the version of no client: what is not imported costs nothing, however many there are."""
    done = run(
        """
        import importlib.metadata
        asked, version = [], importlib.metadata.version
        importlib.metadata.version = lambda name: asked.append(name) or version(name)
        import egisai
        egisai.init(quiet=True)
        from egisai_instrumentation.instrumentor import INTEGRATIONS
        clients = {each.library for each in INTEGRATIONS}
        print(clients & {*asked})
        import openai
        print(clients & {*asked})
        """
    )
    assert done.stdout.splitlines() == ["set()", "{'openai'}"], done.stderr


# --- what it says ----------------------------------------------------------------------------------------------------


def test_spans_that_go_nowhere_are_said_once() -> None:
    """With neither platform nor OTEL_*: one log line says so, and what to do; quiet=True hides it."""
    loud, quiet = run("import egisai; egisai.init()"), run("import egisai; egisai.init(quiet=True)")
    assert loud.stderr.count("\n") == 1
    assert "spans are attributed but go nowhere: set base_url (EGISAI_BASE_URL)" in loud.stderr
    assert quiet.stderr == ""


def test_an_otel_backend_is_used_when_there_is_no_platform() -> None:
    """Without base_url the standard variables say where spans go."""
    done = run(
        """
        import egisai
        from opentelemetry import trace
        egisai.init()
        egisai.set_context(agent="billing")
        trace.get_tracer("t").start_span("hello").end()
        """,
        OTEL_TRACES_EXPORTER="console",
    )
    assert '"gen_ai.agent.name": "billing"' in done.stdout, done.stderr
    assert done.stderr == ""


def test_a_missing_exporter_is_named() -> None:
    """An exporter that is not installed: what to install, and the program goes on."""
    done = run("import egisai; egisai.init()", OTEL_TRACES_EXPORTER="zipkin_json")
    assert "pip install opentelemetry-exporter-zipkin-json" in done.stderr
    assert done.returncode == 0


def test_shutdown_at_exit_is_bounded_with_the_platform_down(tmp_path: Path) -> None:
    """Wrong address: the program runs and ends in good time, with no stack trace, and keeps its spans on disk."""
    done = run(
        """
        import time, egisai
        from opentelemetry import trace
        egisai.init(api_key="egis_live_acme_" + "a" * 64, base_url="http://127.0.0.1:9")
        trace.get_tracer("t").start_span("kept").end()
        """,
        EGISAI_SPOOL_DIR=str(tmp_path),
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "http://127.0.0.1:9" in done.stderr
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) > 100


def test_flush_is_true_without_anything_to_do() -> None:
    """flush() before init() has nothing to deliver."""
    assert egisai.flush(0.1) is True


def test_failures_of_ours_are_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours: one traceback in the log, every time in the count, none in the program."""
    monkeypatch.setattr(guard, "strict", False)
    for _ in range(3):
        with guard.Guard("testing"):
            raise ZeroDivisionError
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "testing failed; the program is unaffected" in caplog.text
    assert egisai.diagnostics()["counts"] == {"error:testing": 3}
    with pytest.raises(KeyboardInterrupt), guard.Guard("testing"):
        raise KeyboardInterrupt


# --- announcements ---------------------------------------------------------------------------------------------------


def test_an_announcement_says_who_and_where(client: openai.OpenAI) -> None:
    """One request with the key and, per agent, id, name, source, key, fingerprint, app and env."""
    with Platform() as platform:
        egisai.init(
            api_key=KEY, base_url=platform.url, app="shop", env="test", tracer_provider=Spans().provider, quiet=True
        )
        with egisai.context(agent=" Billing "):
            call(client)
            call(client)
        client.chat.completions.create(
            model="m", messages=[{"role": "system", "content": "You are a refunds assistant."}]
        )
        found = platform.wait_for("Refunds assistant", 10)
        billing = platform.wait_for("Billing", 10)
    assert platform.requests[0]["authorization"] == f"Bearer {KEY}"
    assert billing == {
        "id": egisai.identity.agent_id("acme", "name", "billing"),
        "name": "Billing",
        "source": "name",
        "key": " Billing ".strip(),
        "fingerprint": None,
        "app": "shop",
        "env": "test",
    }
    assert found["source"] == "fingerprint"
    assert found["key"] == found["fingerprint"]
    names = [agent["name"] for agent in platform.agents]
    assert sorted(names) == sorted(set(names))


def test_announcements_are_retried_and_refusals_counted(caplog: pytest.LogCaptureFixture) -> None:
    """503 and 429 are tried again; 401 is said once with what to check, and counted."""
    caplog.set_level(logging.INFO)
    with Platform() as platform:
        announcer = Announcer(platform.url, {}, {}, lambda *_: None, backoff_s=(0.01, 0.02))
        who = Attribution(on_sighting=announcer.put)
        platform.status[:] = [503, 429, 500]
        who.named("late", "name")
        platform.wait_for("late", 10)
        assert announcer.flush(10)
        told = announcer.stats()
        assert [told[name] for name in ("announced", "waiting", "last_error")] == [1, 0, None]
        platform.status[:] = [401, 401]
        for name in ("refused", "refused too"):
            who.named(name, "name")
            assert announcer.flush(10)
        assert caplog.text.count("check api_key") == 1
        assert egisai.diagnostics()["counts"]["announcement refused: 401"] == 2
        announcer.close(5)


def test_redirects_do_not_carry_the_key_elsewhere() -> None:
    """A redirect answered to an announcement is refused, not followed."""
    with Platform() as platform:
        announcer = Announcer(platform.url, {"Authorization": "Bearer x"}, {}, lambda *_: None)
        platform.status[:] = [307]
        Attribution(on_sighting=announcer.put).named("a", "name")
        assert announcer.flush(10)
        assert egisai.diagnostics()["counts"] == {"announcement refused: 307": 1}
        assert len(platform.requests) == 1
        announcer.close(5)
