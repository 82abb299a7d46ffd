"""The local provider answers the real `openai` client as the real service does, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from provider import Provider, Reply, Request, break_stream, fail, hold, limited, replay

MODEL = "gpt-4.1-mini"
BILLING = [
    {"role": "system", "content": "You are the billing agent."},
    {"role": "user", "content": "Why was my card charged twice this month?"},
]
WEATHER = {
    "name": "get_weather",
    "description": "The weather at a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["place", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Line(BaseModel):
    """A nested object of `Routing`."""

    what: str
    amount: float


class Routing(BaseModel):
    """What the structured outputs are parsed into."""

    department: Literal["technical", "billing"]
    urgent: bool
    note: str | None
    lines: list[Line]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.base_url, api_key="sk-local", max_retries=0) as client:
        yield client


def test_chat_whole(client: openai.OpenAI, provider: Provider) -> None:
    """A billing agent answers about billing, with usage, ids and OpenAI's headers."""
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=BILLING)
    assert raw.request_id is not None
    assert raw.request_id.startswith("req_")
    assert raw.headers["openai-version"] == "2020-10-01"
    answer = raw.parse()
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "gpt-4.1-mini-2025-04-14"
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert any(word in str(choice.message.content) for word in ("charge", "invoice", "payment"))
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 20 <= answer.usage.prompt_tokens <= 30  # 13 words and 2 messages
    again = client.chat.completions.create(model=MODEL, messages=BILLING)
    assert again.choices[0].message.content == choice.message.content
    assert provider.requests[0].path == "/v1/chat/completions"
    assert provider.requests[0].body["messages"] == BILLING
    assert provider.requests[0].headers["authorization"] == "Bearer sk-local"


def test_chat_several_choices_and_limit(client: openai.OpenAI) -> None:
    """`n` gives so many choices, and a limit cuts the text with finish reason `length`."""
    answer = client.chat.completions.create(model=MODEL, messages=BILLING, n=3, max_completion_tokens=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15


@pytest.mark.parametrize("with_usage", [True, False])
def test_chat_stream(client: openai.OpenAI, with_usage: bool) -> None:
    """Role, content, finish; usage in a last chunk without choices, only when asked for."""
    whole = client.chat.completions.create(model=MODEL, messages=BILLING)
    options: Any = {"stream_options": {"include_usage": True}} if with_usage else {}
    chunks = list(client.chat.completions.create(model=MODEL, messages=BILLING, stream=True, **options))
    if with_usage:
        last = chunks.pop()
        assert last.choices == []
        assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10


def test_chat_stream_of_several_choices(client: openai.OpenAI) -> None:
    """The choices of a stream are interleaved and each is finished."""
    finished: list[int] = []
    for chunk in client.chat.completions.create(model=MODEL, messages=BILLING, stream=True, n=2):
        finished += [choice.index for choice in chunk.choices if choice.finish_reason]
    assert finished == [0, 1]


def test_chat_parse_and_stream_helper(client: openai.OpenAI) -> None:
    """Structured output is valid under the schema, whole and streamed, and picks the department asked about."""
    parsed = client.chat.completions.parse(model=MODEL, messages=BILLING, response_format=Routing)
    routing = parsed.choices[0].message.parsed
    assert routing is not None
    assert routing.department == "billing"
    with client.chat.completions.stream(model=MODEL, messages=BILLING, response_format=Routing) as stream:
        kinds = {event.type for event in stream}
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert stream.get_final_completion().choices[0].message.parsed == routing


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_weather"}}, "stop")],
)
def test_chat_tools(client: openai.OpenAI, choice: Any, reason: str) -> None:
    """A forced tool is called with arguments valid under its schema, whole and streamed."""
    request: Any = {"model": MODEL, "messages": BILLING, "tools": [{"type": "function", "function": WEATHER}]}
    free = client.chat.completions.create(**request)
    assert free.choices[0].message.tool_calls is None
    forced = client.chat.completions.create(**request, tool_choice=choice)
    assert forced.choices[0].finish_reason == reason
    assert forced.choices[0].message.content is None
    (call,) = forced.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["days"] == 1
    with client.chat.completions.stream(**request, tool_choice=choice) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == call.function.arguments


def test_responses_whole(client: openai.OpenAI) -> None:
    """`responses.create` has text, usage details and the ids of the real thing."""
    answer = client.responses.create(model=MODEL, instructions="You are the billing agent.", input="Why two charges?")
    assert answer.id.startswith("resp_")
    assert answer.status == "completed"
    assert "Why two charges" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    following = client.responses.create(model=MODEL, input="And now?", previous_response_id=answer.id)
    assert following.previous_response_id == answer.id
    cut = client.responses.create(model=MODEL, input="And now, please, at length?", max_output_tokens=4)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    stored = client.responses.create(prompt={"id": "pmpt_billing", "version": "2"}, input="Hello")
    assert stored.model.startswith(MODEL)


def test_responses_stream(client: openai.OpenAI) -> None:
    """The typed events come in the documented order, numbered, and end with the whole response."""
    events = list(client.responses.create(model=MODEL, input="Why two charges?", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with client.responses.stream(model=MODEL, input="Why two charges?") as stream:
        final = stream.get_final_response()
    assert final.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert final.usage is not None


def test_responses_parse_and_tools(client: openai.OpenAI) -> None:
    """`responses.parse` parses, and a forced function is called, whole and streamed."""
    parsed = client.responses.parse(model=MODEL, input="Refund my invoice: billing?", text_format=Routing)
    assert parsed.output_parsed is not None
    assert parsed.output_parsed.department == "billing"
    request: Any = {"model": MODEL, "input": "Weather?", "tools": [{"type": "function", **WEATHER}]}
    forced = client.responses.create(**request, tool_choice="required")
    (item,) = forced.output
    assert item.type == "function_call"
    assert item.name == "get_weather"
    with client.responses.stream(**request, tool_choice={"type": "function", "name": "get_weather"}) as stream:
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert streamed.arguments == item.arguments


def test_usage_details(client: openai.OpenAI) -> None:
    """Reasoning tokens for reasoning models only, cached tokens for long prompts only, in blocks of 128."""
    for model, reasons in (("o4-mini", True), ("gpt-5-mini", True), ("gpt-5.4-mini", False), (MODEL, False)):
        usage = client.chat.completions.create(model=model, messages=BILLING).usage
        assert usage is not None
        assert usage.completion_tokens_details is not None
        assert bool(usage.completion_tokens_details.reasoning_tokens) is reasons
    thinking = client.responses.create(model="o4-mini", input="Why?", reasoning={"effort": "low"})
    assert [item.type for item in thinking.output] == ["reasoning", "message"]
    assert thinking.usage is not None
    assert thinking.usage.output_tokens_details.reasoning_tokens > 0
    long = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 1000}])
    assert long.usage is not None
    assert long.usage.prompt_tokens_details is not None
    assert long.usage.prompt_tokens_details.cached_tokens == 1280


def test_embeddings(client: openai.OpenAI) -> None:
    """Both encodings carry the same unit vectors; the client asks for base64 by itself."""
    binary = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    plain = client.embeddings.create(model="text-embedding-3-small", input="one", encoding_format="float")
    assert len(binary.data) == 2
    assert len(plain.data[0].embedding) == 1536
    assert binary.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert binary.data[0].embedding != binary.data[1].embedding
    assert sum(value * value for value in plain.data[0].embedding) == pytest.approx(1, abs=1e-4)
    assert binary.usage.prompt_tokens == 2
    small = client.embeddings.create(model="text-embedding-3-small", input=[[1, 2, 3]], dimensions=8)
    assert len(small.data[0].embedding) == 8
    assert small.usage.prompt_tokens == 3


def test_models(client: openai.OpenAI) -> None:
    """The list of models can be paged through, and each can be asked for."""
    names = [model.id for model in client.models.list()]
    assert MODEL in names
    assert client.models.retrieve(MODEL).id == MODEL


def test_async_client(provider: Provider) -> None:
    """The async client gets the same: whole, streamed, parsed, events, embeddings."""

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="sk-local") as client:
            whole = await client.chat.completions.create(model=MODEL, messages=BILLING)
            stream = await client.chat.completions.create(model=MODEL, messages=BILLING, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == whole.choices[0].message.content
            parsed = await client.responses.parse(model=MODEL, input="Hi", text_format=Routing)
            assert parsed.output_parsed is not None
            async with client.responses.stream(model=MODEL, input="Hi") as events:
                assert (await events.get_final_response()).output_text
            async with client.chat.completions.with_streaming_response.create(model=MODEL, messages=BILLING) as raw:
                assert "chatcmpl-" in await raw.text()
            assert len((await client.embeddings.create(model="text-embedding-3-small", input="x")).data) == 1
            many = [client.chat.completions.create(model=MODEL, messages=BILLING) for _ in range(60)]
            assert len(await asyncio.gather(*many)) == 60

    asyncio.run(run())


def test_streaming_response(client: openai.OpenAI) -> None:
    """`with_streaming_response` reads lines of the raw event stream, `[DONE]` included."""
    with client.chat.completions.with_streaming_response.create(model=MODEL, messages=BILLING, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("base", ["deployment", "v1"])
def test_azure(provider: Provider, base: str) -> None:
    """Azure's client finds its paths; a stream opens with the prompt's filter results and no choice."""
    if base == "deployment":
        client: openai.OpenAI = openai.AzureOpenAI(
            azure_endpoint=provider.azure_endpoint, api_version="2024-10-21", api_key="azure-key", max_retries=0
        )
    else:
        client = openai.OpenAI(base_url=f"{provider.azure_endpoint}/openai/v1/", api_key="azure-key", max_retries=0)
    with client:
        whole = client.chat.completions.create(model=MODEL, messages=BILLING)
        assert whole.choices[0].message.content
        chunks = list(client.chat.completions.create(model=MODEL, messages=BILLING, stream=True))
        assert (chunks[0].choices == []) is (base == "deployment")
        client.embeddings.create(model="text-embedding-3-small", input="x")
        client.responses.create(model=MODEL, input="x")
    wanted = {"deployment": f"/openai/deployments/{MODEL}/chat/completions", "v1": "/openai/v1/chat/completions"}
    assert provider.requests[0].path == wanted[base]
    if base == "deployment":
        assert provider.requests[0].query == {"api-version": "2024-10-21"}
        assert provider.requests[0].headers["api-key"] == "azure-key"


def test_refusals(client: openai.OpenAI, provider: Provider) -> None:
    """Wrong or no key 401, unknown path 404, missing parameters and malformed JSON 400: in OpenAI's error format."""
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided: sk-wrong") as wrong:
        client.with_options(api_key="sk-wrong").models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError, match="didn't provide"):
        client.models.list(extra_headers={"authorization": "Basic abc"})
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        client.post("/nowhere", body={}, cast_to=object)
    with pytest.raises(openai.BadRequestError, match="you must provide a model parameter"):
        client.post("/chat/completions", body={"messages": BILLING}, cast_to=object)
    with pytest.raises(openai.BadRequestError) as missing:
        client.post("/responses", body={"model": MODEL}, cast_to=object)
    assert missing.value.param == "input"
    headers = {"authorization": "Bearer sk-local"}
    malformed = urllib.request.Request(f"{provider.base_url}/chat/completions", data=b"{nope", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as unparsed:
        urllib.request.urlopen(malformed)
    with unparsed.value as answer:
        assert answer.code == 400
        assert "could not parse the JSON" in json.load(answer)["error"]["message"]
    assert provider.requests[-1].body is None


def test_errors_on_demand(client: openai.OpenAI, provider: Provider) -> None:
    """A header asks for an error; a hook fails so many times and then heals, which the client's retries bridge."""
    with pytest.raises(openai.RateLimitError) as limit:
        client.responses.create(model=MODEL, input="Hi", extra_headers={"x-simulate-status": "429"})
    assert limit.value.response.headers["retry-after"] == "1"
    provider.hooks.append(fail(500, times=2, retry_after_s=0.01))
    before = len(provider.requests)
    answer = client.with_options(max_retries=2).responses.create(model=MODEL, input="Hi")
    assert answer.output_text
    assert len(provider.requests) - before == 3


def test_broken_stream(client: openai.OpenAI, provider: Provider) -> None:
    """The connection is cut after the chunks asked for; before the response it is a connection error."""
    provider.hooks.append(break_stream(after=3))
    got: list[object] = []
    # openai 3 wraps the transport's error, older clients let it through
    with pytest.raises(Exception, match=r"(?i)connection|peer closed"):  # noqa: PT012
        for chunk in client.chat.completions.create(model=MODEL, messages=BILLING, stream=True):
            got.append(chunk)  # noqa: PERF402
    assert len(got) == 3
    assert provider.requests[-1].finished.wait(5)
    assert provider.requests[-1].outcome == "broken"
    provider.hooks.append(break_stream(after=0))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=MODEL, messages=BILLING)


def test_held_chunk(client: openai.OpenAI, provider: Provider) -> None:
    """Chunks before the held one arrive while it is held; it comes when the event is set."""
    release = threading.Event()
    provider.hooks.append(hold(2, release))
    stream = client.chat.completions.create(model=MODEL, messages=BILLING, stream=True)
    assert next(stream)
    assert next(stream)
    assert not provider.requests[-1].finished.is_set()
    release.set()
    assert len(list(stream)) > 5
    assert provider.requests[-1].finished.wait(5)
    assert provider.requests[-1].outcome == "sent"


def test_client_leaves_a_held_stream(client: openai.OpenAI, provider: Provider) -> None:
    """A client that closes its stream early is noticed."""
    provider.hooks.append(hold(1, threading.Event()))
    stream = client.chat.completions.create(model=MODEL, messages=BILLING, stream=True)
    assert next(stream)
    stream.close()
    assert provider.requests[-1].finished.wait(5)
    assert provider.requests[-1].outcome == "client left"


def test_closing_ends_held_streams() -> None:
    """`close()` does not wait for a chunk that nobody will release, and can be called twice."""
    provider = Provider(hooks=[hold(0, threading.Event())])
    client = openai.OpenAI(base_url=provider.base_url, api_key="sk-local", max_retries=0)
    stream = client.chat.completions.create(model=MODEL, messages=BILLING, stream=True)
    provider.close()
    provider.close()
    assert provider.requests[-1].outcome == "broken"
    stream.close()
    client.close()


def test_replay(client: openai.OpenAI, provider: Provider) -> None:
    """Recorded bytes are sent as they are, whole and as an event stream."""
    recorded = client.chat.completions.with_raw_response.create(model=MODEL, messages=BILLING).content
    provider.hooks[:] = [replay(recorded.replace(b"chatcmpl-", b"recorded-"))]
    assert client.chat.completions.create(model="any", messages=BILLING).id.startswith("recorded-")
    stream = (
        b'data: {"id":"r1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        b'"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n\ndata: [DONE]\n\n'
    )
    provider.hooks[:] = [replay(stream, content_type="text/event-stream")]
    (chunk,) = client.chat.completions.create(model="any", messages=BILLING, stream=True)
    assert chunk.choices[0].delta.content == "Hi"


def test_hooks_see_the_request(client: openai.OpenAI, provider: Provider) -> None:
    """A hook may answer by what it sees; `on_request` sees every request; recording can be off."""
    seen: list[Request] = []
    provider.on_request = seen.append
    provider.record = False
    provider.hooks.append(limited(Reply(status=503), when=lambda request: request.body["input"] == "bad"))
    client.responses.create(model=MODEL, input="good")
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model=MODEL, input="bad")
    assert [request.body["input"] for request in seen] == ["good", "bad"]
    assert provider.requests == []


def test_alone() -> None:
    """It runs alone: serves, says where, and stops on Ctrl-C without a traceback; a taken port is said."""
    script = Path(__file__).parents[2] / "examples" / "provider.py"
    with Provider() as taken:
        port = taken.azure_endpoint.rpartition(":")[2]
        refused = subprocess.run(
            [sys.executable, str(script), "--port", port], capture_output=True, text=True, timeout=30, check=False
        )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"cannot listen on 127.0.0.1:{port}")
    command = [sys.executable, str(script), "--port", "0", "--latency", "0", "--chunk-delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        base_url = line.split()[0].partition("=")[2]
        with openai.OpenAI(base_url=base_url, api_key="sk-local") as client:
            assert client.responses.create(model=MODEL, input="Hi").output_text
        process.send_signal(2)
        _, errors = process.communicate(timeout=10)
    assert errors == ""
    assert process.returncode == 0
