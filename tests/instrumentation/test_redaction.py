"""Redaction: everything that is exported passes through it, whoever recorded it, and what it fails on is not told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, Status, StatusCode

import egisai
from egisai import guard, redaction
from egisai.outgoing import Outgoing
from egisai.redaction import Redacting

SECRET = "4711-secret"


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    yield
    redaction.use(None)


def hide(text: str, name: str) -> str:
    return text.replace(SECRET, "…")


def exported(attributes: dict[str, Any], *, wrap: Any = Outgoing) -> ReadableSpan:
    """A span with these attributes, an event, a link and a status with the secret, as it is exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(wrap(exporter)))
    tracer = provider.get_tracer("theirs")
    other = tracer.start_span("other")
    span = tracer.start_span("call", attributes=attributes, links=[Link(other.get_span_context(), {"note": SECRET})])
    span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": SECRET})
    span.set_status(Status(StatusCode.ERROR, f"failed on {SECRET}"))
    span.end()
    [told] = exporter.get_finished_spans()
    provider.shutdown()
    return told


FOREIGN = {
    "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]),
    "gen_ai.prompt.0.content": SECRET,  # OpenLLMetry
    "traceloop.entity.input": json.dumps({"args": [SECRET]}),
    "llm.input_messages.0.message.content": SECRET,  # OpenInference
    "input.value": f'{{"a": "{SECRET}"}}',
    "llm.prompts": [SECRET, "else"],
    "http.url": f"https://host/?key={SECRET}",
}


@pytest.mark.parametrize("wrap", [Outgoing, Redacting])
def test_redaction_of_everything(wrap: Any) -> None:
    """Attributes in every vendor's words, events, links and the status: nothing of the secret is left."""
    redaction.use(hide)
    told = exported(FOREIGN, wrap=wrap)
    assert SECRET not in told.to_json()
    assert told.attributes.keys() == FOREIGN.keys()
    assert json.loads(told.attributes["gen_ai.input.messages"])[0]["parts"] == [{"type": "text", "content": "…"}]
    assert told.attributes["llm.prompts"] == ("…", "else")
    assert told.status.description == "failed on …"


def test_redaction_spares_who_and_what() -> None:
    """Who made a call, for whom, with which model, and what it cost is not the redactor's."""
    kept = {
        "user.id": SECRET,
        "egisai.agent.id": SECRET,
        "gen_ai.agent.name": SECRET,
        "gen_ai.request.model": SECRET,
        "gen_ai.usage.input_tokens": 3,
    }
    redaction.use(lambda text, name: "gone")
    assert dict(exported(kept).attributes) == kept


def test_redaction_keeps_json() -> None:
    """A redactor that would break JSON as text sees only the strings inside."""
    redaction.use(lambda text, name: text.replace('"', "").replace("a", '"'))
    told = exported({"gen_ai.output.messages": '[{"content": "a\\"b"}]'})
    assert json.loads(told.attributes["gen_ai.output.messages"]) == [{"content": '"b'}]


@pytest.mark.parametrize("answer", [None, 3, b"bytes", ValueError("broken")])
def test_redaction_fails_closed(answer: Any) -> None:
    """Where the redactor raises or returns no text, the text is left out and counted; the rest is told."""

    def broken(text: str, name: str) -> Any:
        if SECRET not in text:
            return text
        if isinstance(answer, Exception):
            raise answer
        return answer

    redaction.use(broken)
    told = exported({**FOREIGN, "kept": "kept"})
    assert SECRET not in told.to_json()
    assert dict(told.attributes) == {"kept": "kept"}
    assert told.status.status_code is StatusCode.ERROR
    assert guard.counts()["redaction: dropped"] == len(FOREIGN) + 3  # the event's, the link's and the status


def test_redaction_off_costs_nothing() -> None:
    """Without a redactor the span itself goes out."""
    told = exported(FOREIGN)
    assert told.attributes["gen_ai.prompt.0.content"] == SECRET
    assert redaction.redacted(told) is told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mail bob.smith@example.co.uk now", "mail <EMAIL> now"),
        ("call +49 30 901820 or", "call <PHONE> or"),
        ("card 4111 1111 1111 1111, ok", "card <CARD>, ok"),
        ("order 4111 1111 1111 1112", "order 4111 1111 1111 1112"),  # its check digit is wrong
        ("pay to DE89 3704 0044 0532 0130 00", "pay to <IBAN>"),
        ("AKIAIOSFODNN7EXAMPLE", "<SECRET>"),
        ("token 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.", "token <SECRET>."),
        ("sk-ant-api03-abcdefghijklmnopqrstuvwxyz", "<SECRET>"),
        ("https://user:hunter2@host/x", "https://user:<SECRET>@host/x"),
        ("a eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w b", "a <SECRET> b"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "<SECRET>"),
        ("The order 1234567 of 2026-11-22 costs 12.50", "The order 1234567 of 2026-11-22 costs 12.50"),
        ("12345678-1234-5678-1234-567812345678", "12345678-1234-5678-1234-567812345678"),
        ("risk-assessment-of-the-whole-year", "risk-assessment-of-the-whole-year"),
    ],
)
def test_redaction_common(text: str, told: str) -> None:
    """The ready redactor finds credentials and personal data by their form, and leaves prose and ids alone."""
    pytest.importorskip("detect_secrets")
    pytest.importorskip("phonenumbers")
    from egisai.common_redaction import common

    assert common()(text, "gen_ai.prompt.0.content") == told


# --- init() -----------------------------------------------------------------------------------------------------------


def test_init_redacts_until_shutdown() -> None:
    """`init(redact=)` is in force from there on, and no longer than until `shutdown()`."""
    egisai.init(redact=hide, quiet=True, tracer_provider=TracerProvider())
    assert egisai.diagnostics()["settings"]["redact"] == "hide"
    assert dict(exported({"note": SECRET}).attributes or {})["note"] == "…"
    egisai.shutdown()
    assert dict(exported({"note": SECRET}).attributes or {})["note"] == SECRET


def test_init_refuses_a_redactor_that_cannot_be_called() -> None:
    """A mistake that would let everything out is said at once."""
    wrong: Any = "common"
    with pytest.raises(egisai.ConfigurationError, match="redact='common' cannot be called"):
        egisai.init(redact=wrong)
