"""Google Gen AI beyond the contract: its public streams and chats, tool loops, Vertex, system instructions, blocks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import told

import egisai
from conftest import Spans

genai = pytest.importorskip("google.genai")

from tests.instrumentation.clients.google_genai import MODEL, GeminiWire, candidate, chunk, close, make  # noqa: E402

from provider import replay  # noqa: E402

SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."
FOLDER = Path(__file__).parents[3] / "shared" / "cassettes" / "google-genai"


@pytest.fixture
def wire() -> Iterator[GeminiWire]:
    with GeminiWire() as server:
        yield server


@pytest.fixture
def client(wire: GeminiWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    close(made)


def _reply(wire: GeminiWire, *replies: dict[str, Any]) -> None:
    wire.hooks += [replay(json.dumps(reply).encode(), times=1) for reply in replies]


def test_public_streams(spans: Spans, wire: GeminiWire, client: Any) -> None:
    """`generate_content_stream` and a chat's stream: one span each, of their caller, with what the chunks say."""
    with egisai.context(user_id="caller's"):
        streams = [
            client.models.generate_content_stream(model=MODEL, contents="Why?", config={"system_instruction": SYSTEM}),
            client.chats.create(model=MODEL, config={"system_instruction": SYSTEM}).send_message_stream("Why?"),
        ]
    for stream in streams:
        assert "".join(each.text for each in stream) == "Sorry about that."
    first, second = spans.calls()
    assert first.attributes["egisai.prompt.fingerprint"] == second.attributes["egisai.prompt.fingerprint"]
    for span in (first, second):
        assert told(span)["reasons"] == ("stop",)
        assert (told(span)["input"], told(span)["output"]) == (20, 9)
        assert span.attributes["gen_ai.request.stream"] is True
        assert span.attributes["user.id"] == "caller's"


def test_public_streams_async(spans: Spans, wire: GeminiWire) -> None:
    """The same of the async client, and its chat whole and streamed."""

    async def main() -> None:
        client = make(wire.url, "async")
        chat = client.chats.create(model=MODEL)
        with egisai.context(user_id="caller's"):
            await chat.send_message("Why?")
            streams = [
                await chat.send_message_stream("And then?"),
                await client.models.generate_content_stream(model=MODEL, contents="Why?"),
            ]
        for stream in streams:
            async for _ in stream:
                assert egisai.current_context() == {}
        await close(client)

    asyncio.run(main())
    assert [told(span)["output"] for span in spans.calls()] == [9, 9, 9]
    assert [span.attributes.get("gen_ai.request.stream", False) for span in spans.calls()] == [False, True, True]
    assert [span.attributes["user.id"] for span in spans.calls()] == ["caller's"] * 3


@pytest.mark.parametrize("streams", [False, True])
def test_tool_loop(spans: Spans, wire: GeminiWire, client: Any, streams: bool) -> None:
    """Automatic function calling: each request is a call, and a call made by the tool is one of its own."""

    def balance(account: str) -> str:
        """The balance of an account."""
        client.models.embed_content(model="embedder", contents=account)
        return "12 EUR"

    balance.__annotations__ = {"account": str, "return": str}  # version 2 calls no function with those of this module
    asked = {"functionCall": {"id": "c-1", "name": "balance", "args": {"account": "a-1"}}}
    answer = chunk(candidate(asked, reason="STOP"), usage={"promptTokenCount": 7, "candidatesTokenCount": 2})

    kind = "text/event-stream" if streams else "application/json"
    body = json.dumps(answer).encode()
    wire.hooks.append(replay(b"data: " + body + b"\n\n" if streams else body, content_type=kind, times=1))
    config = {"tools": [balance]}
    if streams:
        texts = [each.text for each in client.models.generate_content_stream(model=MODEL, contents="?", config=config)]
        assert "".join(text for text in texts if text) == "Sorry about that."
    else:
        said = client.models.generate_content(model=MODEL, contents="?", config=config)
        assert said.text == "Sorry about that."
    first, looked_up, second = sorted(spans.calls(), key=lambda span: span.start_time)
    assert told(first)["reasons"] == ("tool_calls",)
    assert (told(first)["input"], told(first)["output"]) == (7, 2)
    assert looked_up.attributes["gen_ai.operation.name"] == "embeddings"
    assert told(second)["reasons"] == ("stop",)
    assert told(second)["output"] == 9


def test_fp_where(spans: Spans, client: Any) -> None:
    """A system instruction is found in each form it may have, and is one agent in all of them."""
    from google.genai import types

    part = types.Part(text=SYSTEM)
    forms: list[Any] = [
        {"system_instruction": SYSTEM},
        {"systemInstruction": SYSTEM},
        {"system_instruction": [SYSTEM]},
        {"system_instruction": {"parts": [{"text": SYSTEM}]}},
        types.GenerateContentConfig(system_instruction=SYSTEM),
        types.GenerateContentConfig(system_instruction=part),
        types.GenerateContentConfig(system_instruction=[part]),
        types.GenerateContentConfig(system_instruction=types.Content(parts=[part])),
    ]
    for config in forms:
        client.models.generate_content(model=MODEL, contents="Why?", config=config)
    seen = {span.attributes.get("egisai.prompt.fingerprint") for span in spans.calls()}
    assert len(spans.calls()) == len(forms)
    assert len(seen) == 1
    assert None not in seen
    assert {span.attributes["egisai.agent.source"] for span in spans.calls()} == {"fingerprint"}


def test_parameters(spans: Spans, client: Any) -> None:
    """Parameters from a typed config, and the model's name out of its path."""
    from google.genai import types

    config = types.GenerateContentConfig(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=100,
        seed=7,
        stop_sequences=["END"],
        candidate_count=2,
        response_mime_type="application/json",
        thinking_config=types.ThinkingConfig(thinking_level="low"),
    )
    client.models.generate_content(model=f"models/{MODEL}", contents="Why?", config=config)
    attributes = spans.only()
    assert {name.removeprefix("gen_ai.request."): attributes[name] for name in attributes if ".request." in name} == {
        "model": MODEL,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 100,
        "seed": 7,
        "stop_sequences": ("END",),
        "choice.count": 2,
        "reasoning.level": "low",
    }
    assert attributes["gen_ai.output.type"] == "json"


def test_blocked(spans: Spans, wire: GeminiWire, client: Any) -> None:
    """A blocked prompt has no candidate: why is the finish reason. A blocked answer says so itself."""
    _reply(
        wire,
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 7}},
        chunk({"finishReason": "SAFETY", "index": 0}, usage={"promptTokenCount": 7}),
    )
    for _ in range(2):
        client.models.generate_content(model=MODEL, contents="Why?")
    assert [told(span)["reasons"] for span in spans.calls()] == [("prohibited_content",), ("safety",)]
    assert [told(span)["input"] for span in spans.calls()] == [7, 7]


def test_usage_by_modality(spans: Spans, wire: GeminiWire, client: Any) -> None:
    """Tokens of images and of tools' prompts are told apart and added up."""
    used = {
        "promptTokenCount": 270,
        "toolUsePromptTokenCount": 30,
        "candidatesTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}, {"modality": "IMAGE", "tokenCount": 258}],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 5}],
    }
    _reply(wire, chunk(candidate({"text": "x"}, reason="STOP"), usage=used))
    client.models.generate_content(model=MODEL, contents="Why?")
    attributes = spans.only()
    usage = {name.removeprefix("gen_ai.usage."): attributes[name] for name in attributes if ".usage." in name}
    assert usage == {
        "input_tokens": 300,
        "output_tokens": 5,
        "text.input_tokens": 12,
        "image.input_tokens": 258,
        "text.output_tokens": 5,
    }


def test_vertex(spans: Spans, wire: GeminiWire) -> None:
    """In Vertex mode the provider is another, and a model's path still ends in its name."""
    client = make(wire.url, "sync", vertexai=True)
    model = f"projects/p/locations/l/publishers/google/models/{MODEL}"
    client.models.generate_content(model=model, contents="Why?", config={"system_instruction": SYSTEM})
    counted = {"predictions": [{"embeddings": {"values": [0.1, 0.2], "statistics": {"token_count": 3}}}]}
    _reply(wire, counted)
    client.models.embed_content(model="text-embedding-005", contents=["Why?"])
    close(client)
    first, second = spans.calls()
    for span in (first, second):
        assert span.attributes["gen_ai.provider.name"] == "gcp.vertex_ai"
    assert first.attributes["gen_ai.request.model"] == MODEL
    assert told(first)["output"] == 9
    assert told(second)["input"] == 3
    assert second.attributes["gen_ai.embeddings.dimension.count"] == 2


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    yield spans
    egisai.shutdown()
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


def test_content_parts(recording: Spans, wire: GeminiWire, client: Any) -> None:
    """Contents typed and plain, tools declared and run, images, thoughts: in the conventions' shapes."""
    from google.genai import types

    asked = {"functionCall": {"id": "c-2", "name": "balance", "args": {"account": "a-2"}}}
    _reply(wire, chunk(candidate({"text": "Hm.", "thought": True}, {"text": "Look:"}, asked, reason="STOP")))
    contents = [
        "Look at",
        types.Part.from_bytes(data=b"png", mime_type="image/png"),
        types.Content(role="model", parts=[types.Part.from_function_call(name="balance", args={"account": "a-1"})]),
        {"role": "user", "parts": [{"function_response": {"name": "balance", "response": {"eur": 12}}}]},
        {"role": "user", "parts": [{"fileData": {"fileUri": "gs://b/x.pdf", "mimeType": "application/pdf"}}]},
    ]
    schema = {"type": "OBJECT", "properties": {"account": {"type": "STRING"}}}
    tool = {"function_declarations": [{"name": "balance", "description": "Of an account.", "parameters": schema}]}
    client.models.generate_content(
        model=MODEL, contents=contents, config={"system_instruction": SYSTEM, "tools": [tool]}
    )
    attributes = recording.only()
    assert json.loads(attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": SYSTEM}]
    media = {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "cG5n"}
    file = {"type": "uri", "modality": "document", "mime_type": "application/pdf", "uri": "gs://b/x.pdf"}
    assert json.loads(attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Look at"}, media]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": None, "name": "balance", "arguments": {"account": "a-1"}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": None, "response": {"eur": 12}}]},
        {"role": "user", "parts": [file]},
    ]
    call = {"type": "tool_call", "id": "c-2", "name": "balance", "arguments": {"account": "a-2"}}
    thought, text = {"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Look:"}
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [thought, text, call], "finish_reason": "tool_call"}
    ]
    [defined] = json.loads(attributes["gen_ai.tool.definitions"])
    assert (defined["type"], defined["name"], defined["description"]) == ("function", "balance", "Of an account.")
    assert "account" in defined["parameters"]["properties"]


def test_interaction_content(recording: Spans, wire: GeminiWire, client: Any) -> None:
    """An interaction's steps, whole and streamed, say the same."""
    call = {"type": "function_call", "id": "c-1", "name": "balance", "arguments": {"account": "a-1"}}
    thought = {"type": "thought", "summary": [{"type": "text", "text": "Hm."}]}
    whole = {"id": "i-1", "object": "interaction", "model": MODEL, "status": "requires_action"}
    _reply(wire, {**whole, "steps": [thought, call]})
    events = [
        {"event_type": "interaction.created", "interaction": {**whole, "status": "in_progress"}},
        {"event_type": "step.start", "index": 0, "step": {"type": "thought"}},
        {
            "event_type": "step.delta",
            "index": 0,
            "delta": {"type": "thought_summary", "content": {"type": "text", "text": "Hm."}},
        },
        {"event_type": "step.start", "index": 1, "step": {**call, "arguments": {}}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "arguments_delta", "arguments": '{"account":'}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "arguments_delta", "arguments": ' "a-1"}'}},
        {"event_type": "interaction.completed", "interaction": whole},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    wire.hooks.append(replay(body, content_type="text/event-stream"))
    tool = {"type": "function", "name": "balance", "description": "Of an account."}
    past = [
        {"type": "user_input", "content": [{"type": "text", "text": "Why?"}]},
        {"type": "function_result", "call_id": "c-0", "name": "balance", "result": "12 EUR"},
    ]
    client.interactions.create(model=MODEL, input=past, tools=[tool], previous_interaction_id="i-0")
    for _ in client.interactions.create(request={"body": {"model": MODEL, "input": "Why?", "stream": True}}):
        pass
    first, second = [span.attributes for span in recording.calls()]
    assert first["gen_ai.request.previous_response.id"] == "i-0"
    assert json.loads(first["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Why?"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c-0", "response": "12 EUR"}]},
    ]
    assert json.loads(first["gen_ai.tool.definitions"]) == [tool]
    assert second["gen_ai.request.stream"] is True
    assert first["gen_ai.output.messages"] == second["gen_ai.output.messages"]
    assert json.loads(first["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "c-1", "name": "balance", "arguments": {"account": "a-1"}},
            ],
            "finish_reason": "tool_call",
        }
    ]


# --- recorded traffic ------------------------------------------------------------------------------------------------


def _exchanges() -> list[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[tuple[str, str], Any] = {}
    for file in sorted(FOLDER.glob("**/*.yaml")):
        for index, each in enumerate(yaml.load(file.read_bytes(), loader).get("interactions", [])):
            request, response = each["request"], each["response"]
            answer = response["body"]["string"]
            text = answer.decode() if isinstance(answer, bytes) else answer
            if response["status"]["code"] == 200 and any(
                method in request["uri"] for method in ("enerateContent", "/interactions")
            ):
                found.setdefault((str(request["body"]), text), pytest.param(request, text, id=f"{file.stem}[{index}]"))
    return list(found.values())


def _usage(counts: dict[str, Any], read: str, thought: str, given: Any, made: Any) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, members in (("input", given), ("output", made), ("cached", (read,)), ("reasoning", (thought,))):
        if present := [counts[member] for member in members if member in counts]:
            said[name] = sum(present)
    return said


def _recorded(uri: str, text: str) -> dict[str, Any]:
    """What the recorded bytes say, read without the SDK and without us."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    events = [json.loads(line) for line in lines if line != "[DONE]"] if lines else [json.loads(text)]
    if uri.endswith("/interactions"):
        whole = [event.get("interaction", event) for event in events][-1] if not lines else {}
        for event in events if lines else ():
            whole = {**whole, **event.get("interaction", {})}
        cached, thoughts = "total_cached_tokens", "total_thought_tokens"
        given, made = ("total_input_tokens", "total_tool_use_tokens"), ("total_output_tokens", thoughts)
        reasons = {"completed": ("stop",), "requires_action": ("tool_calls",), "incomplete": ("length",)}
        said = {"id": whole["id"], "model": whole.get("model"), "reasons": reasons.get(whole["status"])}
        said |= _usage(whole.get("usage", {}), cached, thoughts, given, made)
        return {name: value for name, value in said.items() if value is not None}
    used = next(event["usageMetadata"] for event in reversed(events) if "usageMetadata" in event)
    candidates = [each for event in events for each in event.get("candidates", [])]
    parts = [part for each in candidates for part in each.get("content", {}).get("parts", [])]
    reasons = [each["finishReason"].lower() for each in candidates if "finishReason" in each][-1:]
    if any("functionCall" in part for part in parts):
        reasons = ["tool_calls" if reason == "stop" else reason for reason in reasons]
    given = ("promptTokenCount", "toolUsePromptTokenCount")
    made = ("candidatesTokenCount", "thoughtsTokenCount")
    said = {"id": events[0].get("responseId"), "model": events[0].get("modelVersion"), "reasons": tuple(reasons)}
    said |= _usage(used, "cachedContentTokenCount", "thoughtsTokenCount", given, made)
    return {name: value for name, value in said.items() if value is not None}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize(("request_", "text"), _exchanges())
def test_recorded(spans: Spans, wire: GeminiWire, client: Any, request_: dict[str, Any], text: str) -> None:
    """Recorded traffic through the real client: the span says what the recorded bytes say."""
    uri = request_["uri"]
    streams = text.lstrip().startswith(("data:", "event:"))
    wire.hooks.append(replay(text.encode(), content_type="text/event-stream" if streams else "application/json"))
    asked = json.loads(request_["body"])
    if uri.endswith("/interactions"):
        result = client.interactions.create(**asked)
    else:
        call = client.models.generate_content_stream if streams else client.models.generate_content
        result = call(model=MODEL, contents="?", config={"system_instruction": "S"})
    if streams:
        for _ in result:
            pass
    [span] = spans.calls()
    assert told(span) == _recorded(uri, text)
    assert span.status.status_code is StatusCode.UNSET
    assert "egisai.call.complete" not in span.attributes


def test_recorded_has_every_form() -> None:
    """The folder, where it is here, holds what the test above is for."""
    if not FOLDER.is_dir():
        pytest.skip("the recorded traffic is kept beside the project, and is not here")
    uris = {each.values[0]["uri"].partition("?")[0].rpartition(":")[2].rpartition("/")[2] for each in _exchanges()}
    assert uris >= {"generateContent", "streamGenerateContent", "interactions"}
