"""IBM watsonx.ai's client beyond the contract: streams, whose refusals tell no status, prompts, parameters, content."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import Form, Session, told
from tests.instrumentation.wire import break_stream, fail, hold, replay, sse

import egisai
from conftest import Spans

pytest.importorskip("ibm_watsonx_ai")

from tests.instrumentation.clients.ibm_watsonx_ai import MODEL, SUBJECT, WatsonxWire, chat, make, prompted, said

ASKED = [{"role": "system", "content": "You are the billing assistant."}, {"role": "user", "content": "Why?"}]
STREAMS = [
    pytest.param(Form(name, call, said, stream=True), kind, id=name)
    for name, call, kind in (
        ("chat_stream", chat("chat_stream"), "sync"),
        ("achat_stream", chat("achat_stream"), "async"),
        ("generate_text_stream", prompted("generate_text_stream", raw_response=True), "sync"),
        ("agenerate_stream", prompted("agenerate_stream"), "async"),
    )
]


@pytest.fixture
def wire() -> Iterator[WatsonxWire]:
    with WatsonxWire() as server:
        yield server


@pytest.fixture
def models(wire: WatsonxWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    made.close()


@pytest.fixture
def session(form: Form, kind: str, wire: WatsonxWire) -> Iterator[Session]:
    made = Session(SUBJECT, form, kind, wire)
    yield made
    made.close()


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "kind"), STREAMS)
def test_stream(session: Session, spans: Spans) -> None:
    """One span, of the context in which the stream was asked for, with what the whole answer would have said."""
    with egisai.context(agent="billing", user_id="u-1"):
        stream = session.start()
    assert len(list(session.each(stream))) >= 3
    [span] = spans.calls()
    expected = {"model": MODEL, "reasons": ("stop",), "input": 31, "output": 7}
    assert {word: fact for word, fact in told(span).items() if word != "id"} == expected
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.request.model"] == MODEL
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0


@pytest.mark.parametrize(("form", "kind"), STREAMS)
def test_stream_left(session: Session, spans: Spans) -> None:
    """Left early: incomplete, and no error; never read: no request went out, and there was no call."""
    session.leave(session.start())
    assert (spans.calls(), session.wire.requests) == ([], [])
    session.wire.hooks.append(hold(2, threading.Event()))
    stream = session.start()
    next(session.each(stream))
    session.leave(stream)
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert span.status.status_code is StatusCode.UNSET
    assert session.wire.requests[0].finished.wait(5)


@pytest.mark.parametrize("hook", [lambda: fail(429), lambda: break_stream(1)], ids=["refused", "broken"])
@pytest.mark.parametrize(("form", "kind"), STREAMS)
def test_stream_fails(session: Session, spans: Spans, hook: Any) -> None:
    """Refused or cut: the client's own exception, and an error of the call."""
    session.wire.hooks.append(hook())
    with pytest.raises(Exception) as caught:
        session.run()
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == f"{type(caught.value).__module__}.{type(caught.value).__qualname__}"


# --- text ------------------------------------------------------------------------------------------------------------


def test_prompts(spans: Spans, models: Any) -> None:
    """Several prompts of one `generate` are one call with the sum of their usage, however it gives them back."""
    models.text.generate(prompt=["a", "b"])
    assert told_of(spans) == {"model": MODEL, "reasons": ("stop", "stop"), "input": 62, "output": 14}
    with pytest.warns(UserWarning, match="async"):
        list(models.text.generate(prompt=["a", "b"], async_mode=True))
    assert told_of(spans) == {"model": MODEL, "reasons": ("stop", "stop"), "input": 62, "output": 14}
    assert models.text.generate_text(prompt="a") == "Sorry about that."
    assert told_of(spans) == {"model": MODEL, "reasons": ("stop",), "input": 31, "output": 7}


def told_of(spans: Spans) -> dict[str, Any]:
    [span] = spans.calls()
    spans.exporter.clear()
    return told(span)


def test_text_stream_of_text(spans: Spans, models: Any) -> None:
    """A stream of nothing but text has no usage, and is whole."""
    assert list(models.text.generate_text_stream(prompt="a")) == ["Sorry", " about", " that."]
    attributes = spans.only()
    assert "egisai.call.complete" not in attributes
    assert "gen_ai.usage.output_tokens" not in attributes


def test_embed_documents(spans: Spans, models: Any) -> None:
    """What is built on `generate` is one call."""
    assert models.embeddings.embed_documents(texts=["a", "b"]) == [[0.1, 0.2, 0.3]] * 2
    attributes = spans.only()
    assert attributes["gen_ai.embeddings.dimension.count"] == 3
    assert attributes["gen_ai.usage.input_tokens"] == 8


# --- requests and content --------------------------------------------------------------------------------------------


def test_parameters(spans: Spans, models: Any) -> None:
    """Those of the call, else the model's own; as a mapping or as the client's schema."""
    from ibm_watsonx_ai.foundation_models.schema import TextChatParameters

    models.text.params = {"temperature": 0.5}
    models.text.chat(messages=ASKED)
    assert spans.only()["gen_ai.request.temperature"] == 0.5
    given = TextChatParameters(temperature=0.9, max_tokens=9, top_p=0.5, seed=7, stop=["END"], n=2)
    models.text.chat(messages=ASKED, params=given)
    attributes = spans.only()
    assert attributes["gen_ai.request.temperature"] == 0.9
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["gen_ai.request.choice.count"] == 2
    models.text.generate(prompt="a", params={"max_new_tokens": 9, "random_seed": 7, "stop_sequences": ["END"]})
    attributes = spans.only()
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)


def test_content_parts(spans: Spans, wire: WatsonxWire, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools and their calls, whole and streamed, say the same; a text's stream is put together."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    list(models.text.generate_text_stream(prompt="Why?"))
    assert json.loads(spans.only()["gen_ai.output.messages"])[0]["parts"][0]["content"] == "Sorry about that."
    call = {"id": "c-1", "index": 0, "type": "function", "function": {"name": "balance", "arguments": '{"n": 1}'}}
    message = {"role": "assistant", "content": "Look:", "tool_calls": [call]}
    head = {"id": "c-1", "model_id": MODEL}
    whole = {**head, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    piece = {**head, "choices": [{"index": 0, "delta": message, "finish_reason": "tool_calls"}]}
    wire.hooks.append(replay(json.dumps(whole).encode(), times=1))
    wire.hooks.append(replay(b"".join(sse(piece, done=False)), content_type="text/event-stream"))
    tools = [{"type": "function", "function": {"name": "balance", "parameters": {"type": "object"}}}]
    models.text.chat(messages=ASKED, tools=tools)
    list(models.text.chat_stream(messages=ASKED, tools=tools))
    first, second = (dict(span.attributes) for span in spans.calls())
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
    assert first["gen_ai.output.messages"] == second["gen_ai.output.messages"]
    [given] = json.loads(first["gen_ai.output.messages"])
    assert given["finish_reason"] == "tool_call"
    assert given["parts"] == [
        {"type": "text", "content": "Look:"},
        {"type": "tool_call", "id": "c-1", "name": "balance", "arguments": {"n": 1}},
    ]
    assert json.loads(first["gen_ai.tool.definitions"])[0]["name"] == "balance"
