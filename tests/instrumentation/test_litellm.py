"""LiteLLM: one span whatever is called underneath, from any of its names, with the provider that it resolves itself.

Its newest version conflicts with the lock of this project: `tests/instrumentation/alone.sh` runs these tests, and its
part of the contract suite, in an environment of their own.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.instrumentation.clients import litellm as subject
from tests.instrumentation.clients._openai_wire import USAGE, messages
from tests.instrumentation.contract import Ask

import egisai
from conftest import Spans
from provider import Provider

litellm = pytest.importorskip("litellm")

ASK = Ask(subject.LiteWire.model)


@pytest.fixture
def wire() -> Iterator[subject.LiteWire]:
    with subject.LiteWire() as server:
        yield server


def _options(wire: subject.LiteWire) -> dict[str, Any]:
    return {"api_base": f"{wire.url}/v1", "api_key": "sk-local", "max_retries": 0}


def test_litellm_one_span_over_openai(wire: subject.LiteWire, spans: Spans) -> None:
    """The OpenAI client underneath is followed too: its call is LiteLLM's, counted once, sync and async."""
    import openai

    arguments = {"model": "openai/gpt-4.1-mini", "messages": messages(ASK), **_options(wire)}
    for stream in (False, True):
        with egisai.context(agent="billing"):
            answer = litellm.completion(stream=stream, **arguments)
            chunks = list(answer) if stream else []
        attributes = spans.only()
        assert attributes["gen_ai.agent.name"] == "billing"
        assert attributes["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]
        assert not any(getattr(chunk, "usage", None) for chunk in chunks)

    async def main() -> None:
        answer = await litellm.acompletion(**arguments)
        assert answer.choices[0].message.content == "Sorry about that."

    asyncio.run(main())
    assert spans.only()["gen_ai.request.model"] == "gpt-4.1-mini"
    with openai.OpenAI(base_url=f"{wire.url}/v1", api_key="k") as client:
        client.chat.completions.create(model="gpt-4.1-mini", messages=messages(ASK))
    assert spans.only()["gen_ai.provider.name"] == "openai"  # on its own it still is a call


PROGRAM = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import egisai
url, order = sys.argv[1:]
if order != "neither":
    __import__(order)
provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
egisai.init(app="app", tracer_provider=provider, quiet=True)
import litellm, openai
said = [{"role": "user", "content": "hello"}]
options = {"messages": said, "api_base": url + "/v1", "api_key": "k", "max_retries": 0}
litellm.completion("openai/gpt-4.1-mini", **options)
litellm.main.completion("openai/gpt-4.1-mini", **options)
assert len(exporter.get_finished_spans()) == 2, exporter.get_finished_spans()
egisai.shutdown()
litellm.completion("openai/gpt-4.1-mini", **options)
assert len(exporter.get_finished_spans()) == 2
"""


TAKEN = """
import asyncio, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from litellm import Router, acompletion, completion, embedding, text_completion
import egisai
url = sys.argv[1]
said = [{"role": "user", "content": "hello"}]
options = {"api_base": url + "/v1", "api_key": "k", "max_retries": 0}
router = Router(model_list=[{"model_name": "m", "litellm_params": {"model": "openai/gpt-4.1-mini", **options}}])
provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))

def spans(count):
    assert len(exporter.get_finished_spans()) == count, [span.name for span in exporter.get_finished_spans()]
    for span in exporter.get_finished_spans():
        assert span.attributes["gen_ai.usage.input_tokens"], span.attributes
    exporter.clear()

for _ in range(2):
    egisai.init(app="app", tracer_provider=provider, quiet=True)
    completion("openai/gpt-4.1-mini", said, **options)
    asyncio.run(acompletion("openai/gpt-4.1-mini", said, **options))
    assert list(completion("openai/gpt-4.1-mini", said, stream=True, **options))
    embedding("openai/text-embedding-3-small", ["hello"], **options)
    text_completion(model="openai/gpt-4.1-mini", prompt="hello", **options)
    spans(5)
    router.completion("m", said)
    asyncio.run(router.aembedding("m", ["hello"]))
    spans(2)
    egisai.shutdown()
    completion("openai/gpt-4.1-mini", said, **options)
    spans(0)
"""


def test_litellm_names_taken_before(wire: subject.LiteWire, pytestconfig: pytest.Config) -> None:
    """A program that took LiteLLM's functions, and made its router, before `init()`: one span a call, each time that
    we are put in place, and none when we are out."""
    _run(TAKEN, pytestconfig, wire.url)


def _run(program: str, pytestconfig: pytest.Config, *arguments: str) -> None:
    path = ":".join(str(each) for each in (pytestconfig.rootpath, *filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={"PYTHONPATH": path, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["neither", "openai"])
def test_litellm_import_order(wire: subject.LiteWire, order: str, pytestconfig: pytest.Config) -> None:
    """Imported after `init()`, with what it calls before or after: one span a call, by either of its names."""
    _run(PROGRAM, pytestconfig, wire.url, order)


@pytest.mark.parametrize("stream", [False, True])
def test_litellm_text_completion(wire: subject.LiteWire, spans: Spans, stream: bool) -> None:
    """Text completions, sync and async, whole and streamed; of a chat model, LiteLLM makes a chat of them: one call."""
    options = {"prompt": "Why twice?", "stream": stream, **_options(wire)}
    for model in ("text-completion-openai/gpt-3.5-turbo-instruct", "openai/gpt-4.1-mini"):
        answer = litellm.text_completion(model=model, **options)
        _text_told(spans, list(answer) if stream else [answer], model)

        async def taken(model: str = model) -> list[Any]:
            answer = await litellm.atext_completion(model=model, **options)
            return [chunk async for chunk in answer] if stream else [answer]

        _text_told(spans, asyncio.run(taken()), model)


def _text_told(spans: Spans, chunks: list[Any], model: str) -> None:
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == "Sorry about that."
    attributes = spans.only()
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == model.partition("/")[2]
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    is_raw = len(chunks) > 1 and model.startswith("text-completion-openai")  # LiteLLM reads it past OpenAI's client
    assert attributes.get("gen_ai.usage.input_tokens") == (None if is_raw else USAGE["prompt_tokens"])


def test_litellm_stream_in_another_thread(wire: subject.LiteWire, spans: Spans) -> None:
    """Whoever takes the chunks: the call is of who asked."""
    with egisai.context(agent="Asker"):
        stream = litellm.completion("openai/gpt-4.1-mini", messages(ASK), stream=True, **_options(wire))
    chunks: list[Any] = []
    thread = threading.Thread(target=lambda: chunks.extend(stream))
    thread.start()
    thread.join()
    assert chunks
    attributes = spans.only()
    assert attributes["gen_ai.agent.name"] == "Asker"
    assert attributes["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]


def test_litellm_stream_left(wire: subject.LiteWire, spans: Spans) -> None:
    """A sync stream cannot be closed; dropped, it was left."""
    stream = litellm.completion("openai/gpt-4.1-mini", messages(ASK), stream=True, **_options(wire))
    assert isinstance(stream, litellm.CustomStreamWrapper)
    next(stream)
    del stream
    gc.collect()
    assert spans.only()["egisai.call.complete"] is False


def test_litellm_stream_usage_of_the_callers(wire: subject.LiteWire, spans: Spans) -> None:
    """Who asks for usage himself gets it."""
    options = {"stream_options": {"include_usage": True}, **_options(wire)}
    chunks = list(litellm.completion("openai/gpt-4.1-mini", messages(ASK), stream=True, **options))
    assert chunks[-1].usage.prompt_tokens == USAGE["prompt_tokens"]
    assert spans.only()["gen_ai.usage.output_tokens"] == USAGE["completion_tokens"]


def test_litellm_embedding(wire: subject.LiteWire, spans: Spans) -> None:
    """Embeddings, sync and async."""
    litellm.embedding("openai/text-embedding-3-small", ["hello"], **_options(wire))
    attributes = spans.only()
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 8
    assert attributes["gen_ai.embeddings.dimension.count"] == 3
    asyncio.run(litellm.aembedding("openai/text-embedding-3-small", ["hello"], **_options(wire)))
    assert spans.only()["gen_ai.request.model"] == "text-embedding-3-small"


@pytest.mark.parametrize("stream", [False, True])
def test_litellm_responses(spans: Spans, server: Provider, stream: bool) -> None:
    """Responses, whole and streamed."""
    options = {"api_base": server.base_url, "api_key": "sk-local", "stream": stream}
    answer = litellm.responses(model="openai/gpt-4.1-mini", input="hello", instructions=ASK.system, **options)
    last = list(answer)[-1].response if stream else answer
    attributes = spans.only()
    assert attributes["gen_ai.usage.output_tokens"] == last.usage.output_tokens
    assert attributes["egisai.agent.source"] == "fingerprint"


def test_litellm_router(wire: subject.LiteWire, spans: Spans) -> None:
    """A router's deployment is what is called: its model, and its address."""
    deployment = {"model_name": "cheap", "litellm_params": {"model": "openai/gpt-4.1-mini", **_options(wire)}}
    router = litellm.Router(model_list=[deployment])
    router.completion("cheap", messages(ASK))
    attributes = spans.only()
    assert attributes["gen_ai.request.model"] == "gpt-4.1-mini"
    assert f"http://127.0.0.1:{attributes['server.port']}" == wire.url

    async def main() -> None:
        stream = await router.acompletion("cheap", messages(ASK), stream=True)
        assert [chunk async for chunk in stream]

    asyncio.run(main())
    assert spans.only()["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("gpt-4.1-mini", "openai", "gpt-4.1-mini"),
        ("azure/mine", "azure.ai.openai", "mine"),
        ("anthropic/claude-3-5-haiku-20241022", "anthropic", "claude-3-5-haiku-20241022"),
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "aws.bedrock", "anthropic.claude-3-haiku-20240307-v1:0"),
        ("vertex_ai/gemini-2.5-flash", "gcp.vertex_ai", "gemini-2.5-flash"),
        ("gemini/gemini-2.5-flash", "gcp.gemini", "gemini-2.5-flash"),
        ("mistral/mistral-large-latest", "mistral_ai", "mistral-large-latest"),
        ("xai/grok-4", "x_ai", "grok-4"),
    ],
)
def test_litellm_provider(spans: Spans, model: str, provider: str, name: str) -> None:
    """Model and provider are what LiteLLM itself makes of the name."""
    litellm.completion(model, messages(ASK), mock_response="Sorry", api_key="k", api_base="http://127.0.0.1:9")
    attributes = spans.only()
    assert (attributes["gen_ai.provider.name"], attributes["gen_ai.request.model"]) == (provider, name)


def test_litellm_unknown_model(spans: Spans) -> None:
    """What LiteLLM cannot resolve, it says itself."""
    with pytest.raises(litellm.BadRequestError):
        litellm.completion("no-such-model", messages(ASK))
    [span] = spans.calls()
    assert span.attributes["error.type"] == "litellm.exceptions.BadRequestError"
