"""Bedrock: each model family's words, model ids, agents, bodies that stay unread, and what is not Bedrock at all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import hashlib
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.clients import _bedrock_wire as bedrock
from tests.instrumentation.clients import botocore as subject
from tests.instrumentation.contract import Ask, told
from tests.instrumentation.wire import Request, Wire, replay

import egisai
from conftest import Spans
from egisai_instrumentation import bodies

pytest.importorskip("botocore")

FOLDER = Path(__file__).parents[3] / "shared" / "cassettes" / "bedrock"
SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."
ASKED = "Why was my card charged twice?"
TEXT = "".join(bedrock.TEXTS)


@pytest.fixture
def wire() -> Iterator[bedrock.BedrockWire]:
    with bedrock.BedrockWire() as server:
        yield server


@pytest.fixture
def client(wire: bedrock.BedrockWire) -> Iterator[Any]:
    made = subject.make(wire.url, "sync")
    yield made
    made.close()
    bedrock.collect()


OPENAI = {
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}],
    "max_tokens": 100,
    "top_p": 0.9,
    "stop": "###",
}
NOVA = {
    "system": [{"text": SYSTEM}],
    "messages": [{"role": "user", "content": [{"text": ASKED}]}],
    "inferenceConfig": {"max_new_tokens": 100, "topP": 0.9, "stopSequences": ["###"]},
}
TITAN = {"inputText": ASKED, "textGenerationConfig": {"maxTokenCount": 100, "topP": 0.9, "stopSequences": ["###"]}}
CHOICE = {"message": {"role": "assistant", "content": TEXT}}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "anthropic.claude-v2:1": (
        {"prompt": ASKED, "max_tokens_to_sample": 100, "top_p": 0.9, "stop_sequences": ["###"]},
        {"completion": TEXT, "stop_reason": "end"},
        [{"completion": "Sorry"}, {"completion": " about that.", "stop_reason": "end"}],
    ),
    "us.amazon.nova-lite-v1:0": (
        NOVA,
        {"output": {"message": {"role": "assistant", "content": [{"text": TEXT}]}}, "stopReason": "end"},
        [
            {"messageStart": {"role": "assistant"}},
            {"contentBlockDelta": {"delta": {"text": TEXT}, "contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end"}},
            {"metadata": {"usage": bedrock.USAGE}},
        ],
    ),
    "amazon.titan-text-express-v1": (
        TITAN,
        {"inputTextTokenCount": 31, "results": [{"tokenCount": 7, "outputText": TEXT, "completionReason": "end"}]},
        [{"outputText": TEXT, "index": 0, "completionReason": "end"}],
    ),
    "meta.llama3-2-1b-instruct-v1:0": (
        {"prompt": ASKED, "max_gen_len": 100, "top_p": 0.9},
        {"generation": TEXT, "prompt_token_count": 31, "generation_token_count": 7, "stop_reason": "end"},
        [{"generation": "Sorry", "stop_reason": None}, {"generation": " about that.", "stop_reason": "end"}],
    ),
    "mistral.mistral-7b-instruct-v0:2": (
        {"prompt": ASKED, "max_tokens": 100, "top_p": 0.9, "stop": ["###"]},
        {"outputs": [{"text": TEXT, "stop_reason": "end"}]},
        [
            {"outputs": [{"text": "Sorry", "stop_reason": None}]},
            {"outputs": [{"text": " about that.", "stop_reason": "end"}]},
        ],
    ),
    "mistral.mistral-large-2407-v1:0": (
        OPENAI,
        {"choices": [{"index": 0, **CHOICE, "stop_reason": "end"}]},
        [{"choices": [{"index": 0, **CHOICE, "stop_reason": "end"}]}],
    ),
    "cohere.command-text-v14": (
        {"prompt": ASKED, "max_tokens": 100, "p": 0.9, "stop_sequences": ["###"]},
        {"id": "c-1", "generations": [{"text": TEXT, "finish_reason": "end"}]},
        [{"text": "Sorry"}, {"text": " about that."}, {"is_finished": True, "finish_reason": "end"}],
    ),
    "cohere.command-r-v1:0": (
        {"message": ASKED, "preamble": SYSTEM, "max_tokens": 100, "p": 0.9, "stop_sequences": ["###"]},
        {"response_id": "c-1", "text": TEXT, "finish_reason": "end"},
        [{"event_type": "text-generation", "text": TEXT}, {"event_type": "stream-end", "finish_reason": "end"}],
    ),
    "ai21.j2-mid-v1": (
        {"prompt": ASKED, "maxTokens": 100, "topP": 0.9, "stopSequences": ["###"]},
        {"id": 1234, "completions": [{"data": {"text": TEXT}, "finishReason": {"reason": "end"}}]},
        [],
    ),
    "ai21.jamba-1-5-mini-v1:0": (
        OPENAI,
        {"id": "j-1", "model": "jamba", "choices": [{"index": 0, **CHOICE, "finish_reason": "end"}]},
        [
            {"id": "j-1", "choices": [{"index": 0, "delta": {"content": "Sorry"}}]},
            {"id": "j-1", "choices": [{"index": 0, "delta": {"content": " about that."}, "finish_reason": "end"}]},
        ],
    ),
}


def _content(attributes: dict[str, Any]) -> None:
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": TEXT}], "finish_reason": "end"}
    ]
    assert {"type": "text", "content": ASKED} in json.loads(attributes["gen_ai.input.messages"])[-1]["parts"]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", FAMILIES)
def test_bedrock_families(
    client: Any, wire: bedrock.BedrockWire, monkeypatch: pytest.MonkeyPatch, model: str, streams: bool
) -> None:
    """What each family asks and answers, whole and streamed, in the conventions' words."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    body, whole, pieces = FAMILIES[model]
    if streams and not pieces:
        pytest.skip("this family does not stream")
    if streams:
        wire.invoked = pieces
        list(client.invoke_model_with_response_stream(modelId=model, body=json.dumps(body))["body"])
    else:
        wire.hooks.append(replay(json.dumps(whole).encode(), headers=bedrock.HEADERS))
        answer = client.invoke_model(modelId=model, body=io.BytesIO(json.dumps(body).encode()))
        assert json.load(answer["body"]) == whole
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
    attributes = spans.only()
    operation = "text_completion" if "prompt" in body or "inputText" in body else "chat"
    assert attributes["gen_ai.operation.name"] == operation
    assert attributes["gen_ai.request.model"] == model
    assert (attributes["gen_ai.request.max_tokens"], attributes["gen_ai.request.top_p"]) == (100, 0.9)
    if "max_gen_len" not in body:
        assert attributes["gen_ai.request.stop_sequences"] == ("###",)
    assert attributes["gen_ai.response.finish_reasons"] == ("end",)
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (31, 7)
    assert attributes["egisai.agent.source"] == ("fingerprint" if SYSTEM in json.dumps(body) else "app")
    assert attributes.get("gen_ai.response.id") in (None, "c-1", "j-1", "1234")
    _content(attributes)


def _systems() -> dict[str, Callable[[Any, str], Any]]:
    user = [{"role": "user", "content": [{"text": ASKED}]}]
    anthropic = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": []}

    def invoke(client: Any, system: Any) -> None:
        body = json.dumps({**anthropic, "system": system})
        client.invoke_model(modelId=bedrock.MODEL, body=body)["body"].read()

    return {
        "converse": lambda client, text: client.converse(modelId="m.n", system=[{"text": text}], messages=user),
        "anthropic string": invoke,
        "anthropic blocks": lambda client, text: invoke(client, [{"type": "text", "text": text}]),
    }


@pytest.mark.parametrize("where", _systems())
def test_fp_where_bedrock(client: Any, spans: Spans, where: str) -> None:
    """The system text of Converse and of the models' own bodies is one agent's, wherever it is said."""
    client.converse(**bedrock.arguments(Ask(bedrock.MODEL)))
    expected = spans.only()["egisai.agent.id"]
    _systems()[where](client, SYSTEM)
    assert spans.only()["egisai.agent.id"] == expected


@pytest.mark.parametrize(
    ("arn", "model"),
    [
        ("inference-profile/us.anthropic.claude-3-7-sonnet-v1:0", "us.anthropic.claude-3-7-sonnet-v1:0"),
        ("application-inference-profile/abc123", "abc123"),
        ("provisioned-model/xyz", "xyz"),
    ],
)
def test_bedrock_model_by_arn(client: Any, spans: Spans, arn: str, model: str) -> None:
    """The model is what the ARN ends in; the account in it is not told."""
    arguments = {**bedrock.arguments(Ask("")), "modelId": f"arn:aws:bedrock:us-east-1:012345678901:{arn}"}
    client.converse(**arguments)
    attributes = spans.only()
    assert attributes["gen_ai.request.model"] == model
    assert "012345678901" not in str(attributes)


def _needs(client: Any, operation: str, direction: str, *path: str) -> None:
    """Skip where this version of botocore does not know a member of a request or an answer: it refuses or drops it."""
    shape = getattr(client.meta.service_model.operation_model(operation), f"{direction}_shape")
    for name in path:
        if name not in shape.members:
            pytest.skip(f"this version of botocore knows no {'.'.join(path)} of {operation}")
        shape = shape.members[name]


def test_bedrock_stored_prompt(client: Any, spans: Spans) -> None:
    """A managed prompt in the model's place is the agent's, with its version."""
    _needs(client, "Converse", "input", "promptVariables")
    arn = "arn:aws:bedrock:us-east-1:012345678901:prompt/PROMPT1234:2"
    client.converse(modelId=arn, promptVariables={"name": {"text": "Alice"}})
    attributes = spans.only()
    assert (attributes["gen_ai.prompt.name"], attributes["gen_ai.prompt.version"]) == ("PROMPT1234", "2")
    assert attributes["egisai.agent.source"] == "fingerprint"
    assert "gen_ai.request.model" not in attributes


def test_bedrock_embeddings(client: Any, wire: bedrock.BedrockWire, spans: Spans) -> None:
    wire.invoked = {"embedding": [0.1, 0.2, 0.3], "inputTextTokenCount": 8}
    headers = {"x-amzn-bedrock-input-token-count": "8"}
    wire.hooks.append(replay(json.dumps(wire.invoked).encode(), headers=headers))
    client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body='{"inputText": "hello"}')["body"].read()
    attributes = spans.only()
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 8
    assert attributes["gen_ai.embeddings.dimension.count"] == 3


def test_bedrock_cached_tokens(client: Any, wire: bedrock.BedrockWire, spans: Spans) -> None:
    """Bedrock counts what was cached apart; the conventions' input includes it."""
    _needs(client, "Converse", "output", "usage", "cacheReadInputTokens")
    used = {"inputTokens": 4, "outputTokens": 50, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20}
    said = {"output": {"message": {"role": "assistant", "content": []}}, "stopReason": "max_tokens"}
    wire.hooks.append(replay(json.dumps({**said, "usage": {**used, "totalTokens": 174}}).encode()))
    client.converse(**bedrock.arguments(Ask(bedrock.MODEL)))
    attributes = spans.only()
    assert attributes["gen_ai.usage.input_tokens"] == 124
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 100
    assert attributes["gen_ai.usage.cache_write.input_tokens"] == 20


# --- content ---------------------------------------------------------------------------------------------------------


def test_bedrock_tools(client: Any, wire: bedrock.BedrockWire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools asked for, in a stream, and answered with, where content is wanted."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    spans = Spans()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    use = {"toolUseId": "t-1", "name": "refund", "input": {"order": 7}}
    messages = [
        {"role": "user", "content": [{"text": ASKED}]},
        {"role": "assistant", "content": [{"toolUse": use}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t-1", "content": [{"text": "done"}]}}]},
    ]
    spec = {"name": "refund", "description": "Refunds.", "inputSchema": {"json": {"type": "object"}}}
    block = {"contentBlockIndex": 0}
    events = [
        bedrock.event("contentBlockStart", {"start": {"toolUse": {"toolUseId": "t-2", "name": "refund"}}, **block}),
        bedrock.event("contentBlockDelta", {"delta": {"toolUse": {"input": '{"order"'}}, **block}),
        bedrock.event("contentBlockDelta", {"delta": {"toolUse": {"input": ": 8}"}}, **block}),
        bedrock.event("messageStop", {"stopReason": "tool_use"}),
    ]
    wire.hooks.append(replay(b"".join(events), content_type=wire.stream_type))
    tools = {"tools": [{"toolSpec": spec}]}
    list(client.converse_stream(modelId=bedrock.MODEL, messages=messages, toolConfig=tools)["stream"])
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
    attributes = spans.only()
    assert json.loads(attributes["gen_ai.input.messages"])[1:] == [
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "t-1", "name": "refund", "arguments": {"order": 7}}],
        },
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "t-1", "response": [{"text": "done"}]}]},
    ]
    [answer] = json.loads(attributes["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "tool_call", "id": "t-2", "name": "refund", "arguments": {"order": 8}}]
    [tool] = json.loads(attributes["gen_ai.tool.definitions"])
    assert (tool["name"], tool["parameters"]) == ("refund", {"type": "object"})


# --- bodies ----------------------------------------------------------------------------------------------------------


def _invoke(client: Any) -> Any:
    return client.invoke_model(**bedrock.invocation(Ask(bedrock.MODEL)))["body"]


def _with(body: Any) -> bytes:
    with body as raw:
        return raw.read()


READINGS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda body: body.read(),
    "in pieces": lambda body: b"".join(iter(lambda: body.read(10), b"")),
    "lines": lambda body: b"".join(body.iter_lines(keepends=True)),
    "chunks": lambda body: b"".join(body.iter_chunks(10)),
    "iterated": lambda body: b"".join(body),
    "with": _with,
    "readlines": lambda body: b"".join(body.readlines()),
    "buffered": lambda body: io.BufferedReader(body).read(),
}


@pytest.mark.parametrize("reading", READINGS)
def test_bedrock_body(client: Any, spans: Spans, reading: str) -> None:
    """However the body is read, the call ends with what it said; until then it is under way."""
    from botocore.response import StreamingBody

    body = _invoke(client)
    assert type(body) is StreamingBody
    assert not spans.all()
    if reading == "buffered" and not body.readable():
        pytest.skip("this version's bodies cannot be buffered")
    assert json.loads(READINGS[reading](body))["id"] == "msg_bdrk_1"
    attributes = spans.only()
    assert attributes["gen_ai.response.id"] == "msg_bdrk_1"
    assert attributes["gen_ai.usage.output_tokens"] == 7
    assert "egisai.call.complete" not in attributes


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_bedrock_body_left(client: Any, spans: Spans, how: str) -> None:
    """A body that is not read to its end is a call that was left."""
    body = _invoke(client)
    body.read(3)
    if how == "closed":
        body.close()
    del body
    gc.collect()
    attributes = spans.only()
    assert attributes["egisai.call.complete"] is False
    assert "error.type" not in attributes


def test_bedrock_body_is_not_read_for_the_caller(client: Any, wire: bedrock.BedrockWire, spans: Spans) -> None:
    """Only what the caller reads comes over the connection, and no more than a limit of it is kept."""
    big = json.dumps({"completion": "x" * (bodies.MAX_BYTES * 3 // 2), "stop_reason": "end"}).encode()
    wire.hooks.append(replay(big, headers=bedrock.HEADERS))
    body = _invoke(client)
    copy = body._raw_stream._self_copy
    read = 0
    while chunk := body.read(1_000_000):
        read += len(chunk)
        assert len(copy._bytes) <= bodies.MAX_BYTES
    assert read == len(big)
    attributes = spans.only()
    assert "gen_ai.response.finish_reasons" not in attributes
    assert attributes["gen_ai.usage.output_tokens"] == 7


def test_bedrock_body_is_cut(client: Any, wire: bedrock.BedrockWire, spans: Spans) -> None:
    """A connection that is lost under the body is an error of the call, and botocore's own for the caller."""
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    wire.hooks.append(replay(b"{}", headers={"x": "y"}))
    body = _invoke(client)
    raw = body._raw_stream.__wrapped__

    def cut(*_: Any) -> bytes:
        from urllib3.exceptions import ProtocolError

        raise ProtocolError("cut")

    raw.read = cut
    with pytest.raises((ResponseStreamingError, IncompleteReadError)):
        body.read()
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR


def test_bedrock_body_async(wire: bedrock.BedrockWire, spans: Spans) -> None:
    """aiobotocore's bodies, read in its ways."""
    pytest.importorskip("aiobotocore")
    from tests.instrumentation.clients import aiobotocore as subject_async

    async def main() -> None:
        client = await subject_async.make(wire.url, "async")
        try:
            for reading in ("read", "chunks", "with", "left"):
                body = (await client.invoke_model(**bedrock.invocation(Ask(bedrock.MODEL))))["body"]
                assert not spans.all()
                if reading == "read":
                    await body.read()
                elif reading == "chunks":
                    async for _ in body.iter_chunks(10):
                        pass
                elif reading == "with":
                    async with body as stream:
                        await stream.read()
                else:
                    body.close()
                attributes = spans.only()
                assert attributes.get("egisai.call.complete", True) is (reading != "left")
                assert ("gen_ai.response.id" in attributes) is (reading != "left")
            stream = await client.invoke_model_with_response_stream(**bedrock.invocation(Ask(bedrock.MODEL)))
            assert not spans.all()
            assert [event async for event in stream["body"]]
            assert spans.only()["gen_ai.usage.input_tokens"] == 31
        finally:
            await client.close()

    asyncio.run(main())


# --- agents ----------------------------------------------------------------------------------------------------------


class AgentWire(bedrock.BedrockWire):
    def answer(self, request: Request) -> list[bytes]:
        used = {"metadata": {"usage": {"inputTokens": 20, "outputTokens": 5}}}
        trace = {"trace": {"orchestrationTrace": {"modelInvocationOutput": used}}}
        return [
            bedrock.event("trace", trace),
            bedrock.event("trace", trace),
            bedrock.event("chunk", {"bytes": "U29ycnk="}),
        ]


def test_bedrock_agent(spans: Spans) -> None:
    """A hosted agent: its session, and what its models used where traces are asked for."""
    with AgentWire() as wire:
        session = subject._session()
        client = session.create_client("bedrock-agent-runtime", endpoint_url=wire.url, **bedrock.OPTIONS)
        with contextlib.closing(client):
            _needs(
                client,
                "InvokeAgent",
                "output",
                "completion",
                "trace",
                "trace",
                "orchestrationTrace",
                "modelInvocationOutput",
            )
            asked = {"agentId": "AGENT12345", "agentAliasId": "ALIAS12345", "sessionId": "s-9", "inputText": ASKED}
            with egisai.context(agent="billing", session_id="s-1"):
                events = list(client.invoke_agent(**asked, enableTrace=True)["completion"])
    assert events[-1] == {"chunk": {"bytes": b"Sorry"}}
    [span] = spans.all()
    assert span.name == "invoke_agent"
    attributes = dict(span.attributes)
    assert attributes["gen_ai.agent.name"] == "billing"
    assert (attributes["session.id"], attributes["gen_ai.conversation.id"]) == ("s-1", "s-9")
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (40, 10)


# --- what is not Bedrock ---------------------------------------------------------------------------------------------


class Dynamo(Wire):
    def answer(self, request: Request) -> bytes:
        return b'{"TableNames": []}'


def test_bedrock_is_not_every_service(spans: Spans) -> None:
    """Another service's operation makes no span, and keeps the caller's context as it is, baggage and all."""
    seen: list[Any] = []
    with Dynamo() as wire:
        client = subject._session().create_client("dynamodb", endpoint_url=wire.url, **bedrock.OPTIONS)
        client.meta.events.register("before-send", lambda **_: seen.append(egisai.current_context()))
        from opentelemetry import baggage

        client.meta.events.register("before-send", lambda **_: seen.append(baggage.get_all()))
        with contextlib.closing(client), egisai.context(agent="billing"):
            assert client.list_tables()["TableNames"] == []
    assert not spans.all()
    assert seen == [{"agent": "billing"}, {"egisai.agent": "billing"}]


def test_bedrock_others_operations(client: Any, spans: Spans, wire: bedrock.BedrockWire) -> None:
    """An operation of Bedrock's that calls no model makes no span; our baggage is kept out of it."""
    from opentelemetry import baggage

    if not hasattr(client, "apply_guardrail"):
        pytest.skip("this version of botocore knows no such operation")
    seen: list[Any] = []
    client.meta.events.register("before-send", lambda **_: seen.append(dict(baggage.get_all())))
    wire.hooks.append(replay(b"{}"))
    with egisai.context(agent="billing"):
        client.apply_guardrail(
            guardrailIdentifier="g", guardrailVersion="1", source="INPUT", content=[{"text": {"text": "x"}}]
        )
    assert not spans.all()
    assert seen == [{}]


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_bedrock_beside_otel_botocore(wire: bedrock.BedrockWire, first: str) -> None:
    """OTel's botocore instrumentor makes the span of a call, whichever came first: attributed, and none is added."""
    otel = pytest.importorskip("opentelemetry.instrumentation.botocore")
    spans, instrumentor = Spans(), otel.BotocoreInstrumentor()
    instruments: list[Callable[[], Any]] = [
        lambda: instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True),
        lambda: egisai.init(app="app", tracer_provider=spans.provider, quiet=True),
    ]
    undoes = [instrumentor.uninstrument, egisai.shutdown]
    for instrument in instruments if first == "theirs" else reversed(instruments):
        instrument()
    try:
        client = subject.make(wire.url, "sync")
        with contextlib.closing(client), egisai.context(agent="billing", user_id="u-1"):
            client.converse(**bedrock.arguments(Ask(bedrock.MODEL)))
    finally:
        for undo in undoes if first == "ours" else reversed(undoes):
            undo()
    [span] = spans.all()
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.provider.name"] == "aws.bedrock"
    assert span.attributes["gen_ai.request.model"] == bedrock.MODEL


def test_call_error_in_a_stream(client: Any, wire: bedrock.BedrockWire, spans: Spans) -> None:
    """An exception that Bedrock sends as an event is the SDK's own, and the call's."""
    from botocore.exceptions import EventStreamError

    events = [
        bedrock.event("messageStart", {"role": "assistant"}),
        bedrock.event("throttlingException", {"message": "slow down"}, message="exception"),
    ]
    wire.hooks.append(replay(b"".join(events), content_type=wire.stream_type))
    with pytest.raises(EventStreamError, match="slow down"):
        list(client.converse_stream(**bedrock.arguments(Ask(bedrock.MODEL)))["stream"])
    [span] = spans.calls()
    assert span.attributes["error.type"] == "botocore.exceptions.EventStreamError"


# --- recorded traffic ------------------------------------------------------------------------------------------------


def _exchanges() -> list[Any]:
    yaml = pytest.importorskip("yaml")
    from urllib.parse import unquote

    found: dict[str, Any] = {}
    for file in sorted(FOLDER.glob("**/*.yaml")):
        for interaction in yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["interactions"]:
            asked, answer = interaction["request"]["body"], interaction["response"]["body"]["string"]
            raw = answer if isinstance(answer, bytes) else answer.encode()
            raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
            model, _, operation = unquote(interaction["request"]["uri"]).partition("/model/")[2].rpartition("/")
            headers = {name.lower(): values[0] for name, values in interaction["response"]["headers"].items()}
            kept = {name: value for name, value in headers.items() if name.startswith("x-amzn-bedrock")}
            key = hashlib.sha256(raw).hexdigest()
            found.setdefault(key, pytest.param(model, operation, asked, raw, kept, id=file.stem))
    return list(found.values())


def _events(raw: bytes) -> Iterator[dict[str, Any]]:
    """The JSON in an event stream, read without botocore and without us."""
    import base64

    while raw:
        length, headers = struct.unpack("!II", raw[:8])
        said = json.loads(raw[12 + headers : length - 4])
        yield json.loads(base64.b64decode(said["bytes"])) if "bytes" in said else said
        raw = raw[length:]


def _recorded(operation: str, raw: bytes, headers: dict[str, str]) -> tuple[int | None, int | None]:
    """Input and output tokens, as the recorded bytes have them."""
    if operation == "invoke":
        counts = [headers.get(f"x-amzn-bedrock-{name}-token-count") for name in ("input", "output")]
        cached = [headers.get(f"x-amzn-bedrock-cache-{name}-input-token-count", 0) for name in ("read", "write")]
        return int(counts[0] or 0) + sum(map(int, cached)), int(counts[1] or 0)
    if operation == "converse":
        used = json.loads(raw)["usage"]
    elif operation == "converse-stream":
        used = next(event["usage"] for event in _events(raw) if "usage" in event)
    else:
        metrics = [event for event in _events(raw) if "amazon-bedrock-invocationMetrics" in event]
        if not metrics:  # a guardrail answered: no model was asked
            return None, None
        used = metrics[-1]["amazon-bedrock-invocationMetrics"]
        return used["inputTokenCount"], used["outputTokenCount"]
    return used["inputTokens"], used["outputTokens"]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize(("model", "operation", "asked", "raw", "headers"), _exchanges() if FOLDER.is_dir() else [])
def test_bedrock_recorded(
    client: Any,
    wire: bedrock.BedrockWire,
    spans: Spans,
    model: str,
    operation: str,
    asked: Any,
    raw: bytes,
    headers: dict[str, str],
) -> None:
    """The same request by the real client, answered with the recorded bytes: the span says what they say."""
    kind = wire.stream_type if "stream" in operation else "application/json"
    wire.hooks.append(replay(raw, content_type=kind, headers=headers))
    if operation.startswith("converse"):
        arguments = {"modelId": model, **json.loads(asked)}
        _needs(client, "Converse", "input", *(["guardrailConfig"] if "guardrailConfig" in arguments else []))
        answer = getattr(client, operation.replace("-", "_"))(**arguments)
    else:
        method = "invoke_model" if operation == "invoke" else "invoke_model_with_response_stream"
        answer = getattr(client, method)(modelId=model, body=asked)
    if "stream" in operation:
        list(answer.get("stream") or answer["body"])
    elif operation == "invoke":
        answer["body"].read()
    [span] = spans.calls()
    expected = _recorded(operation, raw, headers)
    assert (told(span).get("input"), told(span).get("output")) == expected
    assert ("reasons" in told(span)) is (expected != (None, None))
    assert span.attributes["gen_ai.request.model"] == model.rpartition("/")[2]
