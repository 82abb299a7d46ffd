"""Message content: nothing unless asked for, in the conventions' shapes, bounded, where the variable says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import _logs
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from tests.instrumentation.forms import HAS_RESPONSES, MODEL, SYSTEM, Caller

import egisai
from conftest import Spans
from egisai import guard, redaction
from egisai_instrumentation import content, messages
from egisai_instrumentation.messages import Gathered, Media, Message, Reasoning, Text, ToolCall, ToolResult
from provider import Provider, replay

NAMES = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions")
FUNCTION = {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spans]:
    """Starts with content in a mode; spans with these limits."""

    def start(mode: str, **limits: Any) -> Spans:
        monkeypatch.setenv(content.VARIABLE, mode)
        spans = Spans()
        if limits:
            spans.provider = TracerProvider(span_limits=SpanLimits(**limits))
            spans.provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
        egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
        return spans

    return start


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    yield
    content.mode = None
    redaction.use(None)


def said(attributes: Any) -> dict[str, Any]:
    return {name.removeprefix("gen_ai."): json.loads(attributes[name]) for name in NAMES if name in attributes}


@pytest.mark.parametrize("mode", ["", "NO_CONTENT", "false", "EVERYTHING"])
def test_content_off(recording: Callable[..., Spans], caller: Caller, api: str, mode: str) -> None:
    """Off by default, and by a value that nobody knows, which is said once."""
    spans = recording(mode)
    caller.create(api)
    list(caller.each(caller.create(api, stream=True)))
    assert all(not said(span.attributes) for span in spans.calls())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("mode", ["SPAN_ONLY", "span_only", "true"])
def test_content_on_spans(recording: Callable[..., Spans], caller: Caller, api: str, mode: str, stream: bool) -> None:
    """Input, output and system instructions, whole and streamed alike."""
    spans = recording(mode)
    result = caller.create(api, stream=stream)
    if stream:
        chunks = list(caller.each(result))
        text = (
            chunks[-1].response.output_text
            if api == "responses"
            else "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        )
    else:
        text = result.output_text if api == "responses" else result.choices[0].message.content
    told = said(spans.calls()[0].attributes)
    question = {"role": "user", "parts": [{"type": "text", "content": "Why was my card charged twice?"}]}
    if api == "responses":
        assert told["system_instructions"] == [{"type": "text", "content": SYSTEM}]
        assert told["input.messages"] == [question]
    else:
        assert told["input.messages"] == [{"role": "system", "parts": [{"type": "text", "content": SYSTEM}]}, question]
    [answer] = told["output.messages"]
    assert (answer["role"], answer["parts"]) == ("assistant", [{"type": "text", "content": text}])
    assert text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_content_tools(recording: Callable[..., Spans], caller: Caller, stream: bool) -> None:
    """Definitions, calls with their arguments as JSON, and results."""
    spans = recording("SPAN_ONLY")
    result = caller.create("chat", tools=[TOOL], tool_choice="required", stream=stream)
    if stream:
        list(caller.each(result))
    told = said(spans.calls()[0].attributes)
    assert told["tool.definitions"] == [{"type": "function", **FUNCTION}]
    [answer] = told["output.messages"]
    [call] = answer["parts"]
    assert (call["type"], call["name"], answer["finish_reason"]) == ("tool_call", "look_up", "tool_call")
    assert isinstance(call["arguments"], dict)
    assert call["id"]
    history = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    spans.exporter.clear()
    caller.create("chat", messages=history)
    assert said(spans.calls()[0].attributes)["input.messages"] == [
        {
            "role": "user",
            "parts": [{"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AAAA"}],
        },
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "look_up", "arguments": {"a": 1}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}]},
    ]


@pytest.mark.skipif(not HAS_RESPONSES, reason="no responses API in this version")
def test_content_of_response_items(recording: Callable[..., Spans], caller: Caller, server: Provider) -> None:
    """Items of the Responses API: reasoning, calls and their results."""
    spans = recording("SPAN_ONLY")
    output = [
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "name": "f", "arguments": '{"x": 2}', "call_id": "c"},
    ]
    body = {
        "id": "resp_1",
        "object": "response",
        "model": MODEL,
        "status": "completed",
        "output": output,
        "usage": None,
    }
    server.hooks.append(replay(json.dumps(body).encode()))
    caller.create("responses", content=[{"type": "function_call_output", "call_id": "b", "output": "42"}])
    told = said(spans.calls()[0].attributes)
    assert told["input.messages"] == [
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "b", "response": "42"}]}
    ]
    assert [message["parts"][0] for message in told["output.messages"]] == [
        {"type": "reasoning", "content": "Hm."},
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"x": 2}},
    ]


def test_content_of_embeddings(recording: Callable[..., Spans], caller: Caller) -> None:
    spans = recording("SPAN_ONLY")
    caller.create("embeddings", content=["one", "two"])
    told = said(spans.calls()[0].attributes)
    assert [message["parts"][0]["content"] for message in told["input.messages"]] == ["one", "two"]
    assert "output.messages" not in told


Emitted = Callable[[], list[Any]]


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emitted]:
    """The records that a program's log pipeline gets."""
    if not content._CAN_EMIT:
        pytest.skip("this opentelemetry-api has no events")
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    exporter = InMemoryLogRecordExporter()
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    monkeypatch.setattr(_logs, "get_logger", lambda name: logs.get_logger(name))
    yield lambda: [each.log_record for each in exporter.get_finished_logs()]
    logs.shutdown()


@pytest.mark.parametrize("mode", ["EVENT_ONLY", "SPAN_AND_EVENT"])
def test_content_on_events(recording: Callable[..., Spans], caller: Caller, mode: str, emitted: Emitted) -> None:
    """The conventions' event, in the call's span, redacted before it is emitted, with all that the span says."""
    redaction.use(lambda text, name: text.replace("card", "…"))
    spans = recording(mode)
    caller.create("chat")
    [span] = spans.calls()
    [record] = emitted()
    assert record.event_name == "gen_ai.client.inference.operation.details"
    assert record.span_id == span.context.span_id
    assert "Why was my … charged twice?" in record.attributes["gen_ai.input.messages"]
    for name in ("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.response.model", "egisai.agent.id"):
        assert record.attributes[name] == span.attributes[name], name
    assert ("input.messages" in said(span.attributes)) is (mode == "SPAN_AND_EVENT")


@pytest.mark.parametrize(
    ("mode", "emits", "on_span", "in_event"),
    [
        ("NO_CONTENT", "true", False, False),
        ("SPAN_ONLY", " True", True, False),
        ("EVENT_ONLY", "true", False, True),
        ("EVENT_ONLY", "false", False, None),
        ("SPAN_AND_EVENT", "FALSE", True, None),
        ("SPAN_AND_EVENT", "perhaps", True, True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_events_by_their_own_variable(
    recording: Callable[..., Spans],
    caller: Caller,
    emitted: Emitted,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    emits: str,
    on_span: bool,
    in_event: bool | None,
    stream: bool,
) -> None:
    """Whether there are events is a question of its own, and content is in them only where it was to be.

    `in_event`: None where there is none.
    """
    monkeypatch.setenv(content.EVENTS_VARIABLE, emits)
    spans = recording(mode)
    made = caller.create("chat", stream=stream)
    if stream:
        list(caller.each(made))
    assert ("input.messages" in said(spans.calls()[0].attributes)) is on_span
    events = emitted()
    assert len(events) == (in_event is not None)
    for record in events:
        assert record.attributes["gen_ai.usage.input_tokens"]
        for name in ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"):
            assert (name in record.attributes) is (in_event and name != "gen_ai.system_instructions"), name


def test_content_is_bounded(recording: Callable[..., Spans], caller: Caller) -> None:
    """A long text is cut and says so; the oldest of too many messages are left out and counted; it stays JSON."""
    spans = recording("SPAN_ONLY")
    long = [{"role": "user", "content": f"{i} " + "x" * 30_000} for i in range(12)]
    caller.create("chat", messages=long)
    attributes = spans.calls()[0].attributes
    told = said(attributes)["input.messages"]
    assert len(attributes["gen_ai.input.messages"]) <= messages.MAX_TOTAL_CHARS
    assert attributes["egisai.content.omitted_messages"] == 12 - len(told) > 0
    assert told[-1]["parts"][0]["content"].startswith("11 xxx")
    assert told[-1]["parts"][0]["content"].endswith(f"…[{30_003 - messages.MAX_PART_CHARS} more characters]")


def test_content_within_the_limits_of_the_span(recording: Callable[..., Spans], caller: Caller) -> None:
    """A limit on the length of attributes would cut JSON in the middle: what is recorded fits into it."""
    spans = recording("SPAN_ONLY", max_span_attribute_length=300)
    caller.create("chat", messages=[{"role": "user", "content": "y" * 2000}, {"role": "user", "content": "z" * 2000}])
    told = said(spans.calls()[0].attributes)
    assert "zz" in told["input.messages"][-1]["parts"][0]["content"]


def test_content_reader_fails(
    recording: Callable[..., Spans], caller: Caller, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we fail to read is counted, and the call and its facts are whole."""
    monkeypatch.setattr(guard, "strict", False)
    spans = recording("SPAN_ONLY")
    monkeypatch.setattr(messages, "_message", lambda *_: 1 / 0)
    caller.create(api)
    list(caller.each(caller.create(api, stream=True)))
    assert all(span.attributes["gen_ai.usage.input_tokens"] > 0 for span in spans.calls())
    assert guard.counts()["error:reading content"] >= 2


def test_content_gathered() -> None:
    """A streamed answer in pieces: several choices, thoughts, and tool calls whose arguments come in parts."""
    gathered = Gathered()
    gathered.reasoning("Let me ")
    gathered.reasoning("see.")
    for piece in ("He", "llo"):
        gathered.text(piece)
    gathered.tool(0, id="c1", name="f", arguments='{"a"')
    gathered.tool(0, arguments=":1}")
    gathered.tool(1, name="g", arguments={"b": 2})
    gathered.finish("tool_calls")
    gathered.text("Other", 1)
    assert gathered.messages() == [
        Message(
            "assistant",
            [Reasoning("Let me see."), Text("Hello"), ToolCall("c1", "f", '{"a":1}'), ToolCall(None, "g", {"b": 2})],
            "tool_calls",
        ),
        Message("assistant", [Text("Other")], None),
    ]


def test_content_json_shapes() -> None:
    """Every part in the conventions' words; what JSON has no form for is named, not printed."""
    parts = [
        Media("image", uri="https://example.com/a.png"),
        Media("document", "application/pdf", file_id="file-1"),
        Media("image", "image/png", content="A" * (messages.MAX_PART_CHARS + 1)),
        ToolResult("c", {"found": object(), "bytes": b"abc"}),
        ToolCall("c", "f", "not json"),
    ]
    [told] = json.loads(messages.messages_json([Message("user", parts, name="bob")])[0])
    assert told == {
        "role": "user",
        "name": "bob",
        "parts": [
            {"type": "uri", "modality": "image", "mime_type": None, "uri": "https://example.com/a.png"},
            {"type": "file", "modality": "document", "mime_type": "application/pdf", "file_id": "file-1"},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": ""},
            {"type": "tool_call_response", "id": "c", "response": {"found": "<object>", "bytes": "<3 bytes>"}},
            {"type": "tool_call", "id": "c", "name": "f", "arguments": "not json"},
        ],
    }
