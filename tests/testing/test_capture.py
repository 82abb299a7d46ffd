"""egisai.testing: what a user's test sees of its program's calls, and that nothing is different afterwards."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from openai import AsyncOpenAI, OpenAI, OpenAIError
from opentelemetry.sdk.trace import TracerProvider

import egisai
from egisai import attribution, fingerprint, guard, propagation, runtime
from egisai.identity import agent_id
from egisai.testing import Call, capture
from provider import Provider


@pytest.fixture
def client(server: Provider) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0)


def ask(client: OpenAI, system: str | None = None, **options: object) -> object:
    messages = [{"role": "user", "content": "hello"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return client.chat.completions.create(model="gpt-test", messages=messages, **options)


def test_a_call_is_told_whole(client: OpenAI) -> None:
    """Every fact of the context and of the call is a field; the rest is in `attributes`."""
    with (
        capture(organisation="acme") as calls,
        egisai.context(agent="Billing", user_id="u", user_role="owner", session_id="s", workflow_id="w"),
    ):
        ask(client)
    call = calls.only()
    assert (call.agent, call.agent_id, call.agent_source) == ("Billing", agent_id("acme", "name", "billing"), "name")
    assert (call.user_id, call.user_role, call.session_id, call.workflow_id) == ("u", "owner", "s", "w")
    assert (call.model, call.operation, call.provider) == ("gpt-test", "chat", "openai")
    assert call.tokens == call.input_tokens + call.output_tokens > 0
    assert (call.status, call.error_type, call.complete) == ("ok", None, True)
    assert call.attributes["gen_ai.response.id"]
    with pytest.raises(TypeError):
        call.attributes["x"] = 1  # read only
    assert isinstance(hash(call), int)


def test_errors_and_left_streams(client: OpenAI) -> None:
    """A refused call has status error and its type; a stream left early is incomplete."""
    with capture() as calls:
        with pytest.raises(OpenAIError):
            ask(client, extra_headers={"x-simulate-status": "400"})
        with ask(client, stream=True) as stream:
            next(iter(stream))
    refused, left = calls
    assert (refused.status, refused.error_type, refused.complete) == ("error", "openai.BadRequestError", True)
    assert (left.status, left.error_type, left.complete) == ("incomplete", None, False)


def test_is_a_sequence_that_grows(client: OpenAI) -> None:
    """Calls are there as soon as they have ended; `clear` forgets them."""
    with capture() as calls:
        assert not calls
        ask(client)
        assert len(calls) == 1
        assert isinstance(calls[0], Call)
        assert list(calls[0:1]) == list(calls)
        calls.clear()
        assert not calls
        ask(client)
        assert calls.only().agent_source == "app"


def test_async_calls_with_long_prompts_are_there_at_once(server: Provider) -> None:
    """Inside an event loop too, where a long prompt is otherwise read in the background."""

    async def work() -> None:
        async with AsyncOpenAI(base_url=server.base_url, api_key="sk-test") as client:
            messages = [{"role": "system", "content": "You reconcile invoices. " * 1000}]
            await client.chat.completions.create(model="m", messages=messages)
            assert calls.only().agent_source == "fingerprint"

    with capture() as calls:
        asyncio.run(work())


def test_pools_are_attributed(client: OpenAI) -> None:
    """Jobs of a thread pool run in their submitter's context, as after `init()`."""
    with capture() as calls, ThreadPoolExecutor(1) as pool:
        for user in ("u1", "u2"):
            with egisai.context(user_id=user, session_id=f"{user}'s"):
                pool.submit(ask, client).result()
    assert [call.user_id for call in calls] == ["u1", "u2"]
    calls.assert_no_mixing(by="user_id", also="session_id")


def test_a_call_that_two_instrumentors_saw_is_one() -> None:
    """A span of the same call inside another is not a second call; other spans are no calls."""
    chat = {"gen_ai.operation.name": "chat"}
    with capture() as calls:
        tracer = calls.tracer_provider.get_tracer("vendor")
        with tracer.start_as_current_span("outer", attributes=chat), tracer.start_as_current_span("HTTP"):
            pass
        with (
            tracer.start_as_current_span("outer", attributes=chat),
            tracer.start_as_current_span("in", attributes=chat),
        ):
            pass
    assert len(calls) == 2
    calls.assert_attributed(agent="default")


# --- assertions ------------------------------------------------------------------------------------------------------


def test_only_says_what_there_was(client: OpenAI) -> None:
    with capture() as calls:
        with pytest.raises(AssertionError, match="expected one LLM call; no LLM call was recorded"):
            calls.only()
        with egisai.context(agent="a", user_id="u"):
            ask(client)
            ask(client)
        with pytest.raises(AssertionError, match=r"(?s)2 recorded:.*1\. chat gpt-test \(ok\): agent='a'.*user_id='u'"):
            calls.only()


def test_by_agent_compares_as_egis_does(client: OpenAI) -> None:
    """Letter case and surrounding space do not make another agent."""
    with capture() as calls:
        for agent in ("Billing", "triage", "billing "):
            with egisai.context(agent=agent):
                ask(client)
    assert len(calls.by_agent(" BILLING")) == 2
    assert len(calls.by_agent("nobody")) == 0
    calls.by_agent("Triage").assert_attributed(agent="TRIAGE")


def test_assert_attributed(client: OpenAI) -> None:
    """Every call must have the facts; the message names the first that has not, and in what; None means absent."""
    with capture() as calls:
        with pytest.raises(AssertionError, match="expected calls with agent='a', but no LLM call"):
            calls.assert_attributed(agent="a")
        with egisai.context(agent="a", user_id="u1"):
            ask(client)
        calls.assert_attributed(agent="a", user_id="u1", session_id=None)
        with egisai.context(agent="a", user_id="u2", session_id="s"):
            ask(client)
    calls.assert_attributed(agent="a")
    with pytest.raises(AssertionError, match=r"call 1 has user_id='u2' instead of user_id='u1'; 2 recorded"):
        calls.assert_attributed(agent="a", user_id="u1")
    with pytest.raises(AssertionError, match=r"call 1 has session_id='s' instead of no session_id"):
        calls.assert_attributed(session_id=None)
    with pytest.raises(TypeError, match="something to compare"):
        calls.assert_attributed()
    with pytest.raises(TypeError):
        calls.assert_attributed(tenant="acme")


def test_assert_no_mixing(client: OpenAI) -> None:
    """A session with two users, or with a user only sometimes, is named; no session at all proves nothing."""
    with capture() as calls:
        with pytest.raises(AssertionError, match="no call has a session_id"):
            calls.assert_no_mixing(by="user_id", also="session_id")
        for user, session in (("u1", "s1"), ("u1", "s2"), ("u2", "s3")):
            with egisai.context(user_id=user, session_id=session):
                ask(client)
        for user in ("u1", "u2"):  # without a session: nothing to mix
            with egisai.context(user_id=user):
                ask(client)
        calls.assert_no_mixing(by="user_id", also="session_id")
        with egisai.context(session_id="s3"):
            ask(client)
        with pytest.raises(AssertionError, match="session_id='s3' has user_id 'u2' and none"):
            calls.assert_no_mixing(by="user_id", also="session_id")
        with egisai.context(user_id="u2", session_id="s1"):
            ask(client)
        with pytest.raises(AssertionError, match="session_id='s1' has user_id 'u1' and 'u2'; session_id='s3'"):
            calls.assert_no_mixing(by="user_id", also="session_id")
    with pytest.raises(TypeError, match="'tenant' is not a fact"):
        calls.assert_no_mixing(by="tenant", also="session_id")


# --- nothing is different afterwards ---------------------------------------------------------------------------------


def test_uninitialised_before_and_after(client: OpenAI) -> None:
    original = OpenAI.request
    pool_submit = ThreadPoolExecutor.submit
    who = attribution.current()
    with capture():
        egisai.set_context(agent="left over")
        assert OpenAI.request is not original
    assert OpenAI.request is original
    assert ThreadPoolExecutor.submit is pool_submit
    assert attribution.current() is who
    assert egisai.diagnostics()["initialised"] is False
    assert egisai.current_context() == {}


def test_initialised_before_and_after(client: OpenAI, spans: SimpleNamespace) -> None:
    """The program's own spans and settings come back; calls made inside are the capture's alone."""
    ask(client)
    before = egisai.diagnostics()
    with capture() as calls, egisai.context(user_id="inside"):
        ask(client)
        with spans.provider.get_tracer("theirs").start_as_current_span("theirs"):
            ask(client)
    assert egisai.diagnostics() == before
    with egisai.context(user_id="after"), ThreadPoolExecutor(1) as pool:
        pool.submit(ask, client).result()
    assert [call.attributes.get("user.id") for call in spans.calls()] == [None, "after"]
    theirs = next(span for span in spans.all() if span.name == "theirs")
    assert theirs.attributes["user.id"] == "inside"  # their spans are attributed all the while
    assert len(calls) == 2
    calls.assert_attributed(agent="app", user_id="inside")  # app= is what init() was told
    egisai.shutdown()
    assert egisai.diagnostics()["initialised"] is False


def test_trust_before_and_after() -> None:
    """Whom facts may be sent to, and whose are believed, is what `init()` was told."""
    egisai.init(
        trusted_hosts=["api.example.com"], context_secret="s" * 32, tracer_provider=TracerProvider(), quiet=True
    )
    trust = propagation.current()
    with capture():
        assert propagation.current() is trust
    assert propagation.current() is trust
    egisai.shutdown()


def test_shut_down_at_exit_after_all() -> None:
    """A `shutdown()` inside does not take away the one that `init()` outside put at the process's exit."""
    program = """
import atexit, egisai
from egisai.testing import capture
from opentelemetry.sdk.trace import TracerProvider
atexit.register(lambda: print("initialised at exit:", egisai.diagnostics()["initialised"]))
egisai.init(tracer_provider=TracerProvider(), quiet=True)
with capture():
    egisai.shutdown()
print("initialised:", egisai.diagnostics()["initialised"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.splitlines() == ["initialised: True", "initialised at exit: False"], done.stderr


def test_instrumentor_alone_before_and_after(client: OpenAI, spans: SimpleNamespace) -> None:
    """`EgisInstrumentor().instrument(...)` without `init()` is found again too."""
    egisai.shutdown()
    instrumentor = egisai.EgisInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    try:
        ask(client)
        with capture() as calls:
            ask(client)
        ask(client)
        assert (len(calls), len(spans.calls())) == (1, 2)
    finally:
        instrumentor.uninstrument()


def test_init_and_shutdown_inside_change_nothing(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program under test calls `init()` with its platform: nothing is sent there, and calls are recorded."""
    original, pool_submit = OpenAI.request, ThreadPoolExecutor.submit
    monkeypatch.setenv("EGISAI_BASE_URL", "http://127.0.0.1:9")
    with capture(app="support") as calls:
        egisai.init(app="support")
        assert egisai.diagnostics()["exporter"] is None
        ask(client)
        assert egisai.flush()
        egisai.shutdown()
        ask(client)
        egisai.init(tracer_provider=TracerProvider(), quiet=True)
        assert egisai.diagnostics()["exporter"] is not None
    assert [call.agent_source for call in calls] == ["app", "app"]
    assert calls[0].agent == "support"
    assert OpenAI.request is original
    assert ThreadPoolExecutor.submit is pool_submit
    assert runtime._runtime is None


def test_nested_and_repeated(client: OpenAI) -> None:
    """The innermost capture gets the call."""
    with capture() as outer:
        for _ in range(2):
            with capture() as inner:
                ask(client)
            inner.only()
        ask(client)
    outer.only()


def test_restores_after_a_failure(client: OpenAI) -> None:
    """The test's own exception comes through, and everything is put back."""
    original, strict = OpenAI.request, guard.strict
    with pytest.raises(OpenAIError), capture():
        ask(client, extra_headers={"x-simulate-status": "400"})
    assert OpenAI.request is original
    assert guard.strict is strict


# --- our own failures ------------------------------------------------------------------------------------------------


def break_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(fingerprint, "seen", broken)


def test_our_failures_fail_the_test(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In strict mode a failure of ours raises, and does so at the end where the program swallowed it."""
    monkeypatch.setattr(guard, "strict", False)  # as it is outside of Egis's own tests
    break_the_fingerprint(monkeypatch)
    with (
        caplog.at_level(logging.CRITICAL, "egisai"),
        pytest.raises(AssertionError, match="Egis itself failed"),
        capture(),
        pytest.raises(RuntimeError, match="on purpose"),
    ):
        ask(client, system="You sell.")
    with capture(strict=False) as calls:
        ask(client, system="You sell.")
    assert len(calls) == 1
