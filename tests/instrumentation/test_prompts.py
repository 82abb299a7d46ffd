"""Where a request carries the system prompt, and what a long unseen one costs an event loop: nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.instrumentation.forms import HAS_RESPONSES, MODEL, SYSTEM, Caller, request

import egisai
from conftest import Spans
from egisai import fingerprint
from egisai_instrumentation import background
from provider import Provider

USER = {"role": "user", "content": "Why?"}
PARTS = [{"type": "text", "text": SYSTEM}]

CHAT = {
    "system": [{"role": "system", "content": SYSTEM}, USER],
    "developer": [{"role": "developer", "content": SYSTEM}, USER],
    "content parts": [{"role": "system", "content": PARTS}, USER],
    "after the user": [USER, {"role": "system", "content": SYSTEM}],
    "not the first run": [{"role": "system", "content": SYSTEM}, USER, {"role": "system", "content": "Be brief now."}],
}
RESPONSES = {
    "instructions": {"instructions": SYSTEM, "input": "Why?"},
    "system item": {"input": [{"role": "system", "content": SYSTEM}, USER]},
    "developer item": {"input": [{"role": "developer", "content": SYSTEM}, USER]},
    "item parts": {"input": [{"role": "developer", "content": [{"type": "input_text", "text": SYSTEM}]}, USER]},
}
needs_responses = pytest.mark.skipif(not HAS_RESPONSES, reason=f"openai {openai.__version__} has no responses API")


def expected() -> fingerprint.Fingerprint:
    found = fingerprint.of((SYSTEM,))
    assert found is not None
    fingerprint.clear()
    return found


def check(call: dict[str, object], found: fingerprint.Fingerprint) -> None:
    assert call["egisai.agent.source"] == "fingerprint"
    assert call["egisai.prompt.fingerprint"] == found.digest
    assert call["gen_ai.agent.name"] == found.name


@pytest.mark.parametrize("where", list(CHAT))
def test_fp_where_chat(spans: Spans, caller: Caller, where: str) -> None:
    found = expected()
    caller.create("chat", messages=CHAT[where])
    check(spans.only(), found)


@needs_responses
@pytest.mark.parametrize("where", list(RESPONSES))
def test_fp_where_responses(spans: Spans, caller: Caller, where: str) -> None:
    found = expected()
    caller.wait(caller.client.responses.create(model=MODEL, **RESPONSES[where]))
    check(spans.only(), found)


@needs_responses
def test_fp_where_stored_prompt(spans: Spans, caller: Caller) -> None:
    """A prompt kept by the provider is its id: its versions are one agent, whatever else the request says."""
    for version in ("1", "2"):
        prompt = {"id": "pmpt_billing", "version": version, "variables": {"name": "Ada"}}
        caller.wait(caller.client.responses.create(prompt=prompt, input="Why?"))
    caller.wait(caller.client.responses.create(prompt={"id": "pmpt_other"}, input="Why?"))
    first, second, other = (dict(span.attributes) for span in spans.calls())
    assert first["egisai.agent.id"] == second["egisai.agent.id"] != other["egisai.agent.id"]
    assert (first["gen_ai.prompt.name"], first["gen_ai.prompt.version"]) == ("pmpt_billing", "1")
    assert first["egisai.agent.source"] == "fingerprint"


@pytest.mark.parametrize("system", [None, "", "   \n"])
def test_fp_where_none(spans: Spans, caller: Caller, api: str, system: str | None) -> None:
    """Without a system prompt, or with blanks, the app is the agent."""
    caller.create(api, system=system)
    call = spans.only()
    assert (call["egisai.agent.source"], call["gen_ai.agent.name"]) == ("app", "app")
    assert "egisai.prompt.fingerprint" not in call


def test_fp_where_odd_messages(spans: Spans, server: Provider) -> None:
    """Messages of any shape are the provider's to refuse, not ours to trip over."""
    odd: list[Any] = [
        "text",
        None,
        [1],
        [None],
        [{"role": "system"}],
        [{"role": "system", "content": [None, 7, {}]}],
        {},
    ]
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        for messages in odd:
            body = {"model": MODEL, "messages": messages}
            try:
                client.post("/chat/completions", body=body, cast_to=openai.types.chat.ChatCompletion)
            except openai.APIError:
                continue
    assert len(spans.calls()) == len(odd)


def test_fp_where_explicit_wins(spans: Spans, caller: Caller, api: str) -> None:
    """An agent that the program names needs no prompt, and none is read."""
    with egisai.context(agent="billing"):
        caller.create(api)
    call = spans.only()
    assert call["egisai.agent.source"] == "name"
    assert "egisai.prompt.fingerprint" not in call


# --- long prompts ----------------------------------------------------------------------------------------------------

WORDS = "You are the archivist. " + " ".join(f"Paragraph about topic {chr(97 + n % 26)}." for n in range(5_000))


class Gate:
    """Holds the computation of fingerprints in other threads until `go` is set; `threads` says where it ran."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Event()
        self.threads: list[int] = []
        self._of = fingerprint.of

    def of(self, system: tuple[str, ...]) -> Any:
        self.threads.append(threading.get_ident())
        self.started.set()
        if threading.current_thread() is not threading.main_thread():
            assert self.go.wait(20)
        return self._of(system)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(fingerprint, "of", gate.of)
    yield gate
    gate.go.set()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_id_no_loop_block(spans: Spans, server: Provider, gate: Gate, api: str, stream: bool) -> None:
    """A 20,000-word prompt never seen before: the call goes out and comes back while the agent is worked out."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
            where: Any = client.chat.completions if api == "chat" else client.responses
            result = await where.create(**request(api, system=WORDS, stream=stream))
            if stream:
                assert len([chunk async for chunk in result]) > 3

    with egisai.context(user_id="u-1"):
        asyncio.run(main())
    assert gate.started.wait(10)
    assert threading.get_ident() not in gate.threads
    assert not spans.calls()  # ended, but not told yet
    answered_ns = time.time_ns()
    gate.go.set()
    background.drain(10)
    [span] = spans.calls()
    assert span.end_time <= answered_ns
    assert span.attributes["egisai.agent.source"] == "fingerprint"
    assert span.attributes["egisai.prompt.fingerprint"] == fingerprint.of((WORDS,)).digest
    assert span.attributes["user.id"] == "u-1"


def test_id_no_loop_block_beside_a_foreign_span(spans: Spans, server: Provider, gate: Gate) -> None:
    """The same where another instrumentor's span stands for the call."""

    async def main() -> None:
        with spans.provider.get_tracer("x").start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
            async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
                await client.chat.completions.create(**request("chat", system=WORDS))
                gate.go.set()
                await asyncio.to_thread(background.drain, 10)

    asyncio.run(main())
    [span] = spans.all()
    assert span.attributes["egisai.agent.source"] == "fingerprint"


def test_id_no_loop_block_when_sync(spans: Spans, server: Provider, gate: Gate) -> None:
    """Without a loop there is nothing to keep free: the agent is known before the request goes out."""
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        client.chat.completions.create(**request("chat", system=WORDS))
    assert gate.threads == [threading.get_ident()]
    assert spans.only()["egisai.agent.source"] == "fingerprint"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("how", ["exit", "fork"])
def test_id_no_loop_block_at_exit(server: Provider, how: str) -> None:
    """A process that ends, or forks, with an agent still being worked out does not hang, and its child works."""
    code = f"""
import asyncio, os, sys
import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import egisai
from egisai_instrumentation import background
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
egisai.init(tracer_provider=provider, quiet=True)
words = "You are the archivist. " + " ".join("Paragraph %s." % chr(97 + n % 26) * 3 for n in range(20_000))

async def main(words):
    async with openai.AsyncOpenAI(base_url={server.base_url!r}, api_key="sk-local") as client:
        await client.chat.completions.create(
            model="gpt-4.1", messages=[{{"role": "system", "content": words}}, {{"role": "user", "content": "hi"}}]
        )

asyncio.run(main(words))
if {how!r} == "fork":
    pid = os.fork()
    if not pid:
        exporter.clear()
        asyncio.run(main("Another one. " + words))
        background.drain(10)
        own = [s for s in exporter.get_finished_spans()]
        os._exit(0 if len(own) == 1 and own[0].attributes["egisai.agent.source"] == "fingerprint" else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
egisai.shutdown()
assert exporter.get_finished_spans()[0].attributes["egisai.agent.source"] == "fingerprint"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
