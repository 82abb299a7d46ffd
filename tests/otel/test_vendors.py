"""Other vendors' instrumentors with our processor alone: their spans say who made the call, and for whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.otel import pairs

import egisai
from egisai import attribution, fingerprint
from egisai.identity import agent_id
from egisai.outgoing import Outgoing

ROOT = Path(__file__).parents[2]
SYSTEM = "You answer questions about invoices, and about nothing else."

VENDORS = {
    "openllmetry": "opentelemetry.instrumentation.openai",
    "openinference": "openinference.instrumentation.openai",
    "genai": "opentelemetry.instrumentation.genai.openai",
}


def python_of(vendor: str) -> str:
    """The interpreter of the vendor's own environment, which `tests/otel/vendors.sh` makes; else this one."""
    own = ROOT / f".venv-{vendor}" / "bin" / "python"
    if own.exists():
        return str(own)
    if vendor == "openllmetry":
        pytest.skip("has an environment of its own, made by tests/otel/vendors.sh")
    return sys.executable


@pytest.mark.parametrize("vendor", VENDORS)
def test_vendor(vendor: str) -> None:
    """Who is named is on their span, with user, session and workflow; else the prompt that they record tells."""
    done = subprocess.run(
        [python_of(vendor), str(ROOT / "tests" / "otel" / "vendor.py"), VENDORS[vendor]],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", str(ROOT / "src"))]),
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["loaded"] == []
    spans = {span.get("gen_ai.request.model") or span["llm.model_name"]: span for span in said["spans"]}
    assert len(said["spans"]) == len(spans) == 5
    assert {
        "gen_ai.agent.name": "billing",
        "egisai.agent.id": agent_id("default", "name", "billing"),
        "egisai.agent.source": "name",
        "user.id": "u-1",
        "user.roles": ["admin"],
        "session.id": "s-1",
        "egisai.workflow.id": "w-1",
        "gen_ai.conversation.id": "s-1",
    }.items() <= spans["named"].items()
    prompt = fingerprint.of((SYSTEM,))
    assert prompt is not None
    for model in ("prompted", "streamed", "instructed"):
        assert {
            "gen_ai.agent.name": prompt.name,
            "egisai.agent.id": agent_id("default", "fingerprint", prompt.digest),
            "egisai.agent.source": "fingerprint",
            "egisai.prompt.fingerprint": prompt.digest,
            "user.id": "u-2",
        }.items() <= spans[model].items(), model
    assert spans["plain"]["egisai.agent.source"] == "app"


def test_pairs_in_the_docs() -> None:
    """The table of who was tested with whom is that of `pairs.py`."""
    assert "\n".join(pairs.table()) in (ROOT / "docs" / "opentelemetry.md").read_text()


# --- the shapes of recorded prompts, one by one -----------------------------------------------------------------------

CALL = {"gen_ai.operation.name": "chat"}
SHAPES: dict[str, dict[str, Any]] = {
    "instructions": {"gen_ai.system_instructions": json.dumps([{"type": "text", "content": SYSTEM}])},
    "messages": {"gen_ai.input.messages": json.dumps([{"role": "system", "parts": [{"content": SYSTEM}]}])},
    "openinference": {
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": SYSTEM,
        "llm.input_messages.1.message.role": "user",
        "llm.input_messages.1.message.content": "why?",
    },
    "openinference parts": {
        "llm.input_messages.10.message.role": "developer",
        "llm.input_messages.10.message.contents.1.message_content.text": SYSTEM[36:],
        "llm.input_messages.10.message.contents.0.message_content.text": SYSTEM[20:36],
        "llm.input_messages.9.message.role": "system",
        "llm.input_messages.9.message.content": SYSTEM[:20],
        "llm.input_messages.11.message.role": "user",
        "llm.input_messages.11.message.content": "why?",
    },
    "a later remark": {
        "gen_ai.input.messages": json.dumps(
            [
                {"role": "developer", "parts": [{"type": "text", "content": SYSTEM}]},
                {"role": "user", "parts": [{"type": "text", "content": "why?"}]},
                {"role": "system", "parts": [{"type": "text", "content": "The user seems upset."}]},
            ]
        )
    },
    "openllmetry": {
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": SYSTEM,
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": "why?",
    },
}


class Made:
    """Spans as they are exported; `sightings` is what the platform would be told."""

    def __init__(self, **limits: int) -> None:
        self.exported = InMemorySpanExporter()
        self.provider = TracerProvider(span_limits=SpanLimits(**limits), shutdown_on_exit=False)
        self.provider.add_span_processor(egisai.EgisSpanProcessor())
        self.provider.add_span_processor(SimpleSpanProcessor(Outgoing(self.exported)))

    def span(self, attributes: dict[str, Any], start: dict[str, Any] = CALL) -> dict[str, Any]:
        with self.provider.get_tracer("theirs").start_as_current_span("call", attributes=start) as span:
            span.set_attributes(attributes)
        return dict(self.exported.get_finished_spans()[-1].attributes or {})


@pytest.fixture(autouse=True)
def sightings() -> Iterator[list[attribution.Sighting]]:
    seen: list[attribution.Sighting] = []
    attribution.use(attribution.Attribution(on_sighting=seen.append))
    yield seen
    attribution.use(attribution.Attribution())


@pytest.mark.parametrize("shape", SHAPES)
def test_recorded_prompt(shape: str, sightings: list[attribution.Sighting]) -> None:
    """Whatever attributes hold the system prompt, its agent is one, and the platform is told of it once."""
    made, prompt = Made(), fingerprint.of((SYSTEM,))
    assert prompt is not None
    for _ in range(2):
        got = made.span(SHAPES[shape])
        assert got["egisai.prompt.fingerprint"] == prompt.digest
        assert got["egisai.agent.id"] == agent_id("default", "fingerprint", prompt.digest)
        assert got["egisai.agent.source"] == "fingerprint"
        assert got["gen_ai.agent.name"] != "default"
        assert SHAPES[shape].items() <= got.items()
    assert [each.fingerprint for each in sightings] == [None, prompt.digest]


@pytest.mark.parametrize(
    ("context", "start", "source"),
    [
        ({"agent": "billing"}, CALL, "name"),
        ({"agent_id": "8c1f2e0a-5b7e-4a53-9d1f-0a4d9a1f2b11"}, CALL, "id"),
        ({}, {**CALL, "gen_ai.agent.name": "Crew"}, "framework"),
        ({}, {"gen_ai.operation.name": "execute_tool"}, "app"),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_recorded_prompt_never_overrules(
    context: dict[str, Any], start: dict[str, Any], source: str, shape: str
) -> None:
    """An agent that the program or a framework named stays, and so does a span that is no call."""
    with egisai.context(**context):
        got = Made().span(SHAPES[shape], start)
    assert got["egisai.agent.source"] == source
    assert "egisai.prompt.fingerprint" not in got


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "limits",
    [{"max_span_attribute_length": 12}, {"max_span_attribute_length": 15}, {"max_span_attributes": 8}],
    ids=str,
)
def test_recorded_prompt_that_was_cut(shape: str, limits: dict[str, int]) -> None:
    """A prompt of which a limit left a part is nobody's prompt: no agent is made up from it."""
    got = Made(**limits).span({**SHAPES[shape], **{f"theirs.{i}": i for i in range(7)}})
    assert got["egisai.agent.source"] == "app"
    assert "egisai.prompt.fingerprint" not in got


def test_recorded_prompt_that_lost_its_head() -> None:
    """Of two system messages a limit dropped the first: what is left is not the prompt."""
    messages = {
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": SYSTEM,
        "llm.input_messages.1.message.role": "system",
        "llm.input_messages.1.message.content": "Be brief.",
    }
    got = Made(max_span_attributes=3).span({**messages, **CALL}, {})
    assert got["llm.input_messages.1.message.content"] == "Be brief."
    assert got["egisai.agent.source"] == "app"


@pytest.mark.parametrize(
    "attributes",
    [
        {"llm.input_messages.0.message.role": "system", "llm.input_messages.0.message.content": "__REDACTED__"},
        {"gen_ai.input.messages": '[1, {}, {"role": "system"}, {"role": "system", "parts": [5, {"content": 1}]}]'},
        {"gen_ai.input.messages": "not JSON", "gen_ai.system_instructions": "{}"},
        {"gen_ai.system_instructions": '[{"type": "text", "content": "  "}]'},
        {"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": SYSTEM},
    ],
    ids=["redacted", "odd", "broken", "blank", "user's"],
)
def test_recorded_prompt_that_is_none(attributes: dict[str, Any]) -> None:
    got = Made().span(attributes)
    assert got["egisai.agent.source"] == "app"
    assert "egisai.prompt.fingerprint" not in got


def test_recorded_prompt_below_another_agents_span() -> None:
    """The call's own prompt decides before the one of the span above it."""
    made = Made()
    with made.provider.get_tracer("theirs").start_as_current_span("above") as above:
        above.set_attribute("egisai.agent.source", "fingerprint")
        got = made.span(SHAPES["messages"])
    prompt = fingerprint.of((SYSTEM,))
    assert prompt is not None
    assert got["egisai.prompt.fingerprint"] == prompt.digest
