"""Azure AI Inference's clients beyond the contract: its instrumentor, defaults, content, and recorded traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry import trace
from tests.instrumentation.contract import Ask, told
from tests.instrumentation.wire import replay, sse

import egisai
from conftest import Spans

pytest.importorskip("azure.ai.inference")

from tests.instrumentation.clients._bedrock_wire import collect
from tests.instrumentation.clients.azure_ai_inference import AzureWire, complete, make

ASK = Ask(AzureWire.model)
FOLDER = Path(__file__).parents[3] / "shared" / "cassettes" / "azure-openai"


@pytest.fixture
def wire() -> Iterator[AzureWire]:
    with AzureWire() as server:
        yield server


@pytest.fixture
def client(wire: AzureWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    made.close()


# --- the instrumentor that comes with it -----------------------------------------------------------------------------


@pytest.fixture(params=["before", "after"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The client's own instrumentor, on before ours or after it, and azure-core's tracing with it."""
    pytest.importorskip("azure.core.tracing.ext.opentelemetry_span")
    from azure.ai.inference.tracing import AIInferenceInstrumentor
    from azure.core.settings import settings

    spans, instrumentor = Spans(), AIInferenceInstrumentor()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    settings.tracing_implementation = "opentelemetry"
    if request.param == "before":
        instrumentor.instrument()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    if request.param == "after":
        instrumentor.instrument()
    yield spans
    if request.param == "before":
        egisai.shutdown()
    instrumentor.uninstrument()
    settings.tracing_implementation.unset_value()
    collect()


@pytest.mark.parametrize("streams", [False, True])
def test_call_foreign_own_tracing(native: Spans, client: Any, streams: bool) -> None:
    """Its span is the call's: attributed, completed, and there is no other."""
    with egisai.context(agent="billing", user_id="u-1"):
        result = complete(client, ASK, stream=streams)
        if streams:
            list(result)
            del result
    [span] = native.calls()
    assert span.name == f"chat {ASK.model}"
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name != "egisai"
    assert span.attributes["gen_ai.agent.name"] == "billing"
    assert span.attributes["user.id"] == "u-1"
    assert span.attributes["gen_ai.request.model"] == ASK.model
    assert span.attributes["gen_ai.provider.name"] == "azure.ai.inference"
    assert told(span)["output"] == 7


def test_own_tracing_without_instrumentor(spans: Spans, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """azure-core's tracing alone makes spans of methods and requests: the call's is ours."""
    pytest.importorskip("azure.core.tracing.ext.opentelemetry_span")
    from azure.core.settings import settings

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    settings.tracing_implementation = "opentelemetry"
    complete(client, ASK)
    client.embeddings.embed(input=["x"], model="m")
    settings.tracing_implementation.unset_value()
    assert [span.name for span in spans.calls()] == [f"chat {ASK.model}", "embeddings m"]
    assert {span.attributes["egisai.agent.source"] for span in spans.all()} == {"fingerprint", "app"}


# --- requests and content --------------------------------------------------------------------------------------------


def test_defaults(spans: Spans, wire: AzureWire) -> None:
    """What the client was made with counts, unless the call says otherwise; a body given whole is read as it is."""
    from azure.ai.inference import ChatCompletionsClient
    from azure.ai.inference.models import JsonSchemaFormat, SystemMessage, UserMessage
    from azure.core.credentials import AzureKeyCredential

    schema = JsonSchemaFormat(name="Answer", schema={"type": "object"})
    options = {"model": "default", "temperature": 0.5, "seed": 7, "response_format": schema}
    client = ChatCompletionsClient(wire.url, AzureKeyCredential("local"), **options)
    asked = [SystemMessage(content=ASK.system), UserMessage(content="Why?")]
    with client:
        client.complete(messages=asked, temperature=0.9, max_tokens=5, stop=["END"], response_format="text")
        attributes = spans.only()
        client.complete({"messages": [{"role": "user", "content": "Why?"}], "model": "other"})
        assert spans.only()["gen_ai.request.model"] == "other"
        client.complete(messages=asked)
        assert spans.only()["gen_ai.output.type"] == "json"
    assert attributes["egisai.agent.source"] == "fingerprint"
    assert attributes["gen_ai.request.model"] == "default"
    assert attributes["gen_ai.request.temperature"] == 0.9
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.max_tokens"] == 5
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["gen_ai.output.type"] == "text"


def test_content_parts(spans: Spans, wire: AzureWire, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, tools and their calls, given as the SDK's models; whole and streamed, the answers say the same."""
    from azure.ai.inference import models

    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    call = {"id": "c-1", "index": 0, "type": "function", "function": {"name": "balance", "arguments": '{"n": 1}'}}
    message = {"role": "assistant", "content": "Look:", "tool_calls": [call]}
    head = {"id": "c-1", "created": 1, "model": "m"}
    used = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": used}
    begun = {**message, "tool_calls": [{**call, "function": {"name": "balance", "arguments": '{"n":'}}]}
    rest = {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}
    pieces = [
        {"choices": [{"index": 0, "delta": begun}]},
        {"choices": [{"index": 0, "delta": rest, "finish_reason": "tool_calls"}], "usage": used},
    ]
    wire.hooks.append(replay(json.dumps({**head, **whole}).encode(), times=1))
    wire.hooks.append(replay(b"".join(sse(*({**head, **piece} for piece in pieces))), content_type="text/event-stream"))
    picture = models.ImageContentItem(image_url=models.ImageUrl(url="https://example.com/a.png"))
    asked = [models.UserMessage(content=[models.TextContentItem(text="See"), picture])]
    function = models.FunctionDefinition(name="balance", description="Of an account.", parameters={"type": "object"})
    tools = [models.ChatCompletionsToolDefinition(function=function)]
    client.chat.complete(messages=asked, tools=tools)
    list(client.chat.complete(messages=asked, tools=tools, stream=True))
    first, second = (dict(span.attributes) for span in spans.calls())
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)
    assert first["gen_ai.output.messages"] == second["gen_ai.output.messages"]
    [said] = json.loads(first["gen_ai.output.messages"])
    assert said["finish_reason"] == "tool_call"
    assert said["parts"] == [
        {"type": "text", "content": "Look:"},
        {"type": "tool_call", "id": "c-1", "name": "balance", "arguments": {"n": 1}},
    ]
    [given] = json.loads(first["gen_ai.input.messages"])
    assert [part["type"] for part in given["parts"]] == ["text", "uri"]
    [tool] = json.loads(first["gen_ai.tool.definitions"])
    assert (tool["name"], tool["parameters"]) == ("balance", {"type": "object"})


# --- recorded traffic ------------------------------------------------------------------------------------------------


def _exchanges() -> list[Any]:
    """Of Azure's service of OpenAI's models, which this client can be pointed at."""
    found: dict[str, Any] = {}
    for file in sorted(FOLDER.glob("**/*.yaml")):
        for index, each in enumerate(yaml.safe_load(file.read_bytes()).get("interactions", [])):
            answer = each["response"]["body"]["string"]
            text = answer.decode() if isinstance(answer, bytes) else answer
            if text.startswith("{") and "usage" in text:
                asked = json.loads(each["request"]["body"])
                found.setdefault(text, pytest.param(asked, text, id=f"{file.stem}[{index}]"))
    return list(found.values())


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize(("asked", "text"), _exchanges())
def test_recorded(spans: Spans, wire: AzureWire, asked: dict[str, Any], text: str) -> None:
    """Recorded traffic through the real client: the span says what the recorded bytes say."""
    wire.hooks.append(replay(text.encode()))

    async def main() -> None:
        client = make(wire.url, "async")
        await client.chat.complete(asked)
        await client.close()

    asyncio.run(main())
    said = json.loads(text)
    used = said["usage"]
    expected = {"id": said["id"], "model": said["model"], "reasons": (said["choices"][0]["finish_reason"],)}
    expected |= {"input": used["prompt_tokens"], "output": used["completion_tokens"]}
    [span] = spans.calls()
    found = told(span)
    assert {word: found[word] for word in expected} == expected


def test_recorded_is_there() -> None:
    """The folder, where it is here, holds what the test above is for."""
    if not FOLDER.is_dir():
        pytest.skip("the recorded traffic is kept beside the project, and is not here")
    assert len(_exchanges()) > 4
