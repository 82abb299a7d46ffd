"""The cases `id-*`: which agent it is, and how we know."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import openai
import pytest
from announcements import Platform
from opentelemetry import trace
from opentelemetry.context import Context

import egisai
from conftest import Spans
from egisai import attribution, fingerprint
from egisai.attribution import Attribution, Sighting
from egisai.context import NO_FACTS, Facts
from egisai.identity import agent_id
from provider import Provider

AN_ID = "0d9a4c1e-7d7a-4b0e-9d5f-0a4f6f1f2a3b"
KEY = "egis_live_acme_" + "a" * 64
REFUNDS = "You are the refunds assistant."
WORDS = ("poet", "cook", "driver", "nurse", "judge", "baker", "tailor", "sailor", "mason", "farmer", "pilot", "clown")


def job(word: str) -> str:
    return f"You are a {word}. You {word} for all of our guests."


def prompt_of(word: str) -> fingerprint.Fingerprint:
    found = fingerprint.of((job(word),))
    assert found is not None
    return found


@pytest.fixture
def client(server: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local", max_retries=0) as made:
        yield made


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as running:
        yield running


def call(client: openai.OpenAI, system: str | None = None) -> None:
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    client.chat.completions.create(model="gpt-4.1-mini", messages=[*messages, {"role": "user", "content": "hello"}])


def who(attributes: dict[str, object]) -> tuple[object, object]:
    return attributes.get("gen_ai.agent.name"), attributes["egisai.agent.source"]


def test_id_order(spans: Spans, client: openai.OpenAI) -> None:
    """Explicit id, explicit name, framework, fingerprint, app; explicit wins inside a framework's run too."""
    tracer = spans.provider.get_tracer("framework")
    seen = []
    with tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.agent.name": "planner"}):
        for facts in ({"agent_id": AN_ID, "agent": "x"}, {"agent": "billing"}, {}):
            with egisai.context(**facts):
                call(client, REFUNDS)
                seen.append(who(spans.only()))
    call(client, REFUNDS)
    seen.append((spans.calls()[0].attributes["egisai.agent.source"], who(spans.only())[1]))
    call(client)
    seen.append(who(spans.only()))
    assert seen == [
        ("x", "id"),
        ("billing", "name"),
        ("planner", "framework"),
        ("fingerprint", "fingerprint"),
        ("app", "app"),
    ]


def test_id_order_on_the_frameworks_own_span(spans: Spans) -> None:
    """A framework's span is its agent's; where the program says otherwise, the program is right, with its own name."""
    tracer = spans.provider.get_tracer("framework")
    named = {"gen_ai.agent.name": "Planner", "gen_ai.operation.name": "invoke_agent"}
    tracer.start_span("a", attributes=named).end()
    with egisai.context(agent="billing"):
        tracer.start_span("b", attributes=named).end()
    with egisai.context(agent_id=AN_ID):
        tracer.start_span("c", attributes=named).end()
    a, b, c = (span.attributes for span in spans.all())
    assert who(a) == ("Planner", "framework")
    assert a["egisai.agent.id"] == agent_id("default", "name", "planner")
    assert who(b) == ("billing", "name")
    assert (c["gen_ai.agent.name"], c["egisai.agent.id"]) == (AN_ID, AN_ID)


def test_id_stable() -> None:
    """The same name and prompt give the same UUIDs in another process, with another hash seed and no network."""
    program = (
        "from egisai import fingerprint, identity as i; import json\n"
        "p = fingerprint.of(('You are the refunds assistant of Acme.',))\n"
        "ids = [i.agent_id('acme', 'name', 'Billing'), i.agent_id('acme', 'fingerprint', p.digest)]\n"
        "print(json.dumps([*ids, p.name]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    name, prompt, _ = json.loads(runs[0])
    # Written down once: another value would orphan every agent that any platform knows.
    assert name == "69987bbc-2ad3-551b-baf7-beadf09f80db"
    assert UUID(prompt).version == 5
    assert name != agent_id("other", "name", "Billing") != agent_id("acme", "fingerprint", "Billing")


def test_id_name_forms(spans: Spans, client: openai.OpenAI) -> None:
    """Case, surrounding space and Unicode form make no other agent, nor does who gives the name."""
    ids = set()
    for name in (" Billing-Ägent", "billing-a\u0308gent", "BILLING-ÄGENT  "):
        with egisai.context(agent=name):
            call(client)
            made = spans.only()
            ids.add(made["egisai.agent.id"])
            assert made["gen_ai.agent.name"] == name.strip()
    tracer = spans.provider.get_tracer("framework")
    tracer.start_span("invoke_agent", attributes={"gen_ai.agent.name": "Billing-Ägent"}).end()
    ids.add(spans.all()[0].attributes["egisai.agent.id"])
    assert len(ids) == 1


def test_id_never_mixed(spans: Spans, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails on the way, no span has one agent's name beside another's id."""
    monkeypatch.setattr(egisai.guard, "strict", False)
    own = {name: agent_id("default", "name", name) for name in ("a", "b", "app", "fw")}

    def check() -> None:
        for span in spans.all():
            name, identifier = span.attributes.get("gen_ai.agent.name"), span.attributes.get("egisai.agent.id")
            assert identifier is None or name in (None, identifier) or own.get(name, identifier) == identifier
        spans.exporter.clear()

    class Broken(Attribution):
        broken = ""

        def __getattribute__(self, name: str) -> Any:
            if name == Broken.broken:
                raise RuntimeError(name)
            return super().__getattribute__(name)

    attribution.use(Broken(app="app"))
    tracer = spans.provider.get_tracer("framework")
    for broken in ("", "explicit", "named", "prompted", "app", "_met"):
        Broken.broken = broken
        for facts in ({}, {"agent": "a"}, {"agent_id": own["b"]}, {"agent_id": own["b"], "agent": "b"}):
            with (
                egisai.context(**facts),
                tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.agent.name": "fw"}),
            ):
                call(client, REFUNDS)
        check()


@pytest.mark.parametrize("system", [None, REFUNDS])
def test_id_offline(client: openai.OpenAI, system: str | None) -> None:
    """The platform is down at first use: no delay, the agent is on the span, the announcement follows."""
    recorded = Spans()
    with Platform() as gone:
        url = gone.url
    started = time.perf_counter()
    egisai.init(base_url=url, api_key=KEY, tracer_provider=recorded.provider, quiet=True)
    egisai.set_context(agent=None if system else "billing")
    call(client, system)
    assert time.perf_counter() - started < 5  # a refused connection alone would be retried for longer
    made = recorded.only()
    found = fingerprint.of((REFUNDS,))
    assert found is not None
    kind, key = ("fingerprint", found.digest) if system else ("name", "billing")
    assert made["egisai.agent.id"] == agent_id("acme", kind, key)
    announcer = egisai.runtime._runtime.announcer
    while announcer.last_error is None:  # the first try has failed
        assert not announcer.flush(0.05)
    with Platform(port=int(url.rpartition(":")[2])) as back:
        assert back.wait_for(str(made["gen_ai.agent.name"]), 20)["source"] == kind


@pytest.mark.parametrize("by", ["name", "prompt"])
def test_id_no_loop_block(server: Provider, platform: Platform, by: str) -> None:
    """New agents met inside async code never wait for the platform, which here answers nobody."""
    recorded = Spans()
    platform.hold.clear()
    egisai.init(base_url=platform.url, api_key=KEY, tracer_provider=recorded.provider, quiet=True)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
            for word in WORDS:
                egisai.set_context(agent=word if by == "name" else None)
                await client.chat.completions.create(model="m", messages=[{"role": "system", "content": job(word)}])

    asyncio.run(asyncio.wait_for(main(), 30))
    assert platform.arrived.wait(10)
    assert len({span.attributes["egisai.agent.id"] for span in recorded.calls()}) == len(WORDS)
    assert platform.answered == 0
    platform.hold.set()
    platform.wait_for(str(recorded.calls()[-1].attributes["gen_ai.agent.name"]), 10)


@pytest.mark.parametrize("by", ["name", "prompt"])
def test_id_no_global_lock(by: str) -> None:
    """N threads meeting N new agents share no lock: one that stops inside an announcement stops nobody else."""
    stopped, go = threading.Event(), threading.Event()

    def on_sighting(sighting: Sighting) -> None:
        if sighting.identity.id == slow_id:
            stopped.set()
            go.wait(60)

    who = Attribution(on_sighting=on_sighting)
    meet = (lambda word: who.named(word, "name")) if by == "name" else lambda word: who.prompted(prompt_of(word))
    slow_id = Attribution().named("slow", "name").id if by == "name" else Attribution().prompted(prompt_of("slow")).id
    slow = threading.Thread(target=meet, args=("slow",))
    slow.start()
    assert stopped.wait(10)
    threads = [threading.Thread(target=meet, args=(word,)) for word in WORDS]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    held_up = [thread for thread in threads if thread.is_alive()]
    go.set()
    slow.join(10)
    assert held_up == []


@pytest.mark.parametrize("system", [None, REFUNDS])
def test_id_canonical(client: openai.OpenAI, platform: Platform, system: str | None) -> None:
    """The platform rules that an agent is another one: the call after that carries the other's id and name."""
    recorded = Spans()
    found = fingerprint.of((REFUNDS,))
    assert found is not None
    kind, key = ("fingerprint", found.digest) if system else ("name", "billing-v2")
    old = agent_id("acme", kind, key)
    platform.canonical[old] = {"id": AN_ID, "name": "Billing"}
    egisai.init(base_url=platform.url, api_key=KEY, tracer_provider=recorded.provider, quiet=True)
    egisai.set_context(agent=None if system else "billing-v2")
    call(client, system)
    assert recorded.only()["egisai.agent.id"] == old
    assert egisai.runtime._runtime.announcer.flush(10)
    call(client, system)
    made = recorded.only()
    assert [made[name] for name in ("egisai.agent.id", "gen_ai.agent.name", "egisai.agent.source")] == [
        AN_ID,
        "Billing",
        kind,
    ]
    assert [agent["id"] for agent in platform.agents] == [old]  # announced once


def test_id_no_guess(spans: Spans, client: openai.OpenAI) -> None:
    """Names of variables, functions and classes on the caller's stack decide nothing."""

    class BillingAgent:
        name = "billing"

        def run_refund_agent(self) -> None:
            agent_name = "triage"
            billing_agent = agent_name
            call(client)
            del billing_agent

    BillingAgent().run_refund_agent()
    assert who(spans.only()) == ("app", "app")


def test_nearest_agent(spans: Spans) -> None:
    """A span started with only its parent, as in event handlers, has that one's agent and facts; cleared, none."""
    tracer = spans.provider.get_tracer("t")
    with egisai.context(agent="billing", user_id="u", session_id="s", workflow_id="w"):
        parent = tracer.start_span("parent")
    tracer.start_span("child", trace.set_span_in_context(parent, Context())).end()
    tracer.start_span("clean", Context()).end()
    with trace.use_span(parent):
        egisai.clear_context()
        tracer.start_span("cleared").end()
    child, clean, cleared = (dict(span.attributes) for span in spans.all())
    assert child == dict(parent.attributes)
    assert set(clean) == set(cleared) == {"gen_ai.agent.name", "egisai.agent.id", "egisai.agent.source"}
    assert clean["gen_ai.agent.name"] == cleared["gen_ai.agent.name"] == "app"


def test_an_empty_parent_context_stays_clean(spans: Spans) -> None:
    """A span started with an explicitly empty context does not take the ambient agent or user."""
    egisai.set_context(agent="ambient", user_id="u")
    spans.provider.get_tracer("t").start_span("clean", Context()).end()
    attributes = spans.all()[0].attributes
    assert attributes["gen_ai.agent.name"] == "app"
    assert "user.id" not in attributes


def test_memory_of_identities_is_bounded() -> None:
    """Past its bound the memo starts anew; ids are the same before and after."""
    met: list[Sighting] = []
    who = Attribution(on_sighting=met.append)
    first = who.named("n0", "name")
    for i in range(40_000):
        who.named(f"n{i}", "name")
    assert len(who._known) <= 16_384
    assert who.named("n0", "name") == first
    assert who.explicit(NO_FACTS) is None
    assert who.explicit(Facts(agent_id="no uuid")) is None
