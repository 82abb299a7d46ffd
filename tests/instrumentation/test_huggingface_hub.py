"""Hugging Face beyond the contract: usage on request, generated text, embeddings, async streams, who is asked where."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.clients._openai_wire import USAGE, messages
from tests.instrumentation.clients.huggingface_hub import HuggingFaceWire, chat, close, make
from tests.instrumentation.contract import Ask, told
from tests.instrumentation.wire import Reply, Request, break_stream, hold, sse

import egisai
from conftest import Spans
from provider import replay

huggingface_hub = pytest.importorskip("huggingface_hub")

ASK = Ask(HuggingFaceWire.model)
FACTS = {"id": "chatcmpl-1", "model": ASK.model, "reasons": ("stop",)}
CHAT_USAGE = {"input": 31, "output": 7, "cached": 16, "reasoning": 3}


class HubWire(HuggingFaceWire):
    """As TGI generates text, and tells the usage of a streamed chat only to those who ask, unless told otherwise."""

    is_open = False

    def last_chunk(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def answer(self, request: Request) -> bytes | list[bytes]:
        body = request.body
        if "inputs" in body:
            return self.generate(body)
        answer = super().answer(request)
        is_asked = self.is_open or (body.get("stream_options") or {}).get("include_usage")
        if isinstance(answer, list) and is_asked:
            head = {"id": "chatcmpl-1", "created": 1767225600, "model": self.model}
            answer[-1:-1] = sse({**head, "choices": [], "usage": USAGE}, done=False)
        return answer

    def generate(self, body: dict[str, Any]) -> bytes | list[bytes]:
        if "parameters" not in body:
            return json.dumps([[0.1, 0.2, 0.3]]).encode()
        details = {"finish_reason": "eos_token", "generated_tokens": 7}
        if not body.get("stream"):
            return json.dumps([{"generated_text": "Sorry.", "details": {**details, "tokens": []}}]).encode()
        tokens = [{"token": {"id": 1, "text": text, "logprob": 0, "special": False}} for text in ("Sorry", ".")]
        end = {"token": {"id": 2, "text": "</s>", "logprob": 0, "special": True}, "generated_text": "Sorry."}
        return sse(*tokens, {**end, "details": {**details, "input_length": 31}}, done=False)


@pytest.fixture
def wire() -> Iterator[HubWire]:
    with HubWire() as server:
        yield server


@pytest.fixture
def client(wire: HubWire) -> Iterator[Any]:
    made = make(wire.url, "sync")
    yield made
    close(made)


@pytest.fixture
def together(wire: HubWire, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes clients for a provider that is asked at the wire, by Hugging Face's router or with a key of its own."""
    from huggingface_hub.hf_api import InferenceProviderMapping
    from huggingface_hub.inference import _providers
    from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING

    mapping = InferenceProviderMapping(
        provider="together", hf_model_id=ASK.model, providerId="theirs", status="live", task="conversational"
    )
    monkeypatch.setitem(HARDCODED_MODEL_INFERENCE_MAPPING["together"], ASK.model, mapping)
    monkeypatch.setattr(_providers.PROVIDERS["together"]["conversational"], "base_url", wire.url)
    router = wire.url.replace("127.0.0.1", "localhost")
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", router + "/{provider}")
    return lambda token: huggingface_hub.InferenceClient(provider="together", api_key=token)


def test_usage_on_request(spans: Spans, wire: HubWire, together: Any) -> None:
    """Streams have usage, and their caller sees no more than without us."""
    client = together("local")
    chunks = list(chat(client, ASK, stream=True))
    assert [chunk.usage for chunk in chunks] == [None] * 4
    seen = list(chat(client, ASK, stream=True, stream_options={"include_usage": True}))
    assert len(seen) == 5
    extra = {"stream_options": {"include_usage": True}}
    assert len(list(chat(client, ASK, stream=True, extra_body=extra))) == 5
    list(chat(client, ASK, stream=True, stream_options={"include_usage": False}))
    chat(client, ASK)
    *asked, unasked, whole = spans.calls()
    assert [told(span) for span in asked] == [{**FACTS, **CHAT_USAGE}] * 3
    assert told(unasked) == FACTS
    assert "stream_options" not in wire.requests[-1].body
    assert told(whole) == {**FACTS, **CHAT_USAGE}


def refuse(request: Request) -> Reply | None:
    """Like a server that knows no `stream_options`."""
    if "stream_options" not in (request.body or {}):
        return None
    return Reply(422, json.dumps({"error": "extra field: stream_options"}).encode())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_usage_refused(spans: Spans, wire: HubWire, kind: str) -> None:
    """A server that refuses to be asked for usage is asked once, and the caller's call succeeds."""

    async def use(client: Any) -> None:
        for _ in range(2):
            stream = chat(client, ASK, stream=True)
            assert len([c async for c in await stream] if kind == "async" else list(stream)) == 5

    wire.hooks.append(refuse)
    wire.is_open = True  # what comes unasked is the caller's
    run(wire, use, kind)
    assert [request.body.get("stream_options") for request in wire.requests] == [{"include_usage": True}, None, None]
    for span in spans.calls():
        assert span.status.status_code is StatusCode.UNSET
        assert told(span) == {**FACTS, **CHAT_USAGE}
    assert len(spans.calls()) == 2


def test_own_options_refused(spans: Spans, wire: HubWire, client: Any) -> None:
    """What the caller itself asked for is asked for again, and its refusal is the caller's."""
    wire.hooks.append(refuse)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="extra field"):
        chat(client, ASK, stream=True, stream_options={"continuous": True})
    asked = [request.body["stream_options"] for request in wire.requests]
    assert asked == [{"continuous": True, "include_usage": True}, {"continuous": True}]
    assert spans.only()["http.response.status_code"] == 422


def test_other_refusals(spans: Spans, wire: HubWire, client: Any) -> None:
    """What is refused for another reason is not asked again."""
    wire.hooks.append(replay(b'{"error": "no such model"}', status=422))
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="no such model"):
        chat(client, ASK, stream=True)
    assert len(wire.requests) == 1
    assert spans.only()["http.response.status_code"] == 422


def test_where(spans: Spans, wire: HubWire, together: Any) -> None:
    """The provider that was chosen, the model in Hugging Face's words, and the server that is asked for them."""
    chat(together("local"), ASK)
    wire.chat_path = "/together/v1/chat/completions"  # by the router
    chat(together("hf_local"), ASK)
    assert [request.path for request in wire.requests] == ["/v1/chat/completions", wire.chat_path]
    calls = [span.attributes for span in spans.calls()]
    assert [call["server.address"] for call in calls] == ["127.0.0.1", "localhost"]
    for call in calls:
        assert call["gen_ai.provider.name"] == "together_ai"
        assert call["gen_ai.request.model"] == ASK.model
        assert wire.url.endswith(f":{call['server.port']}")


GENERATED = {"reasons": ("stop",), "output": 7}


def test_text_generation(spans: Spans, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and streamed, each as a text and with details."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    egisai.shutdown()
    egisai.init(app="app", tracer_provider=spans.provider, quiet=True)
    asked: dict[str, Any] = {"prompt": "Why?", "max_new_tokens": 20, "stop": ["\n"]}
    assert client.text_generation(**asked) == "Sorry."
    assert client.text_generation(**asked, details=True).details.generated_tokens == 7
    assert list(client.text_generation(**asked, stream=True)) == ["Sorry", ".", "</s>"]
    assert [chunk.token.text for chunk in client.text_generation(**asked, stream=True, details=True)][:2] == [
        "Sorry",
        ".",
    ]
    calls = spans.calls()
    assert [told(span) for span in calls] == [{}, GENERATED, {}, {**GENERATED, "input": 31}]
    outputs = [json.loads(span.attributes["gen_ai.output.messages"])[0] for span in calls]
    said = [output["parts"][0]["content"] for output in outputs]
    assert said == ["Sorry.", "Sorry.", "Sorry.</s>", "Sorry."]
    assert [output.get("finish_reason") for output in outputs] == [None, "stop", None, "stop"]
    for span in calls:
        assert span.name == "text_completion"  # of whatever model is at that URL
        assert span.attributes["gen_ai.request.max_tokens"] == 20
        assert span.attributes["gen_ai.request.stop_sequences"] == ("\n",)
        assert json.loads(span.attributes["gen_ai.input.messages"])[0]["parts"][0]["content"] == "Why?"
    assert [span.attributes.get("gen_ai.request.stream") for span in calls] == [None, None, True, True]
    monkeypatch.setattr("egisai_instrumentation.content.mode", None)


def test_text_generation_again(spans: Spans, wire: HubWire, client: Any) -> None:
    """A server that does not know all parameters is asked again without them: one call."""
    refusal = {"error": "The following `model_kwargs` are not used by the model: ['watermark', 'best_of']"}
    wire.hooks.append(replay(json.dumps(refusal).encode(), status=400, times=1))
    client.text_generation("Why?", model=wire.url + "/once")
    assert len(wire.requests) == 2
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.UNSET


def test_feature_extraction(spans: Spans, client: Any) -> None:
    """Embeddings: their dimension; Hugging Face tells no usage."""
    assert client.feature_extraction("Why?").shape == (1, 3)
    [span] = spans.calls()
    assert span.attributes["gen_ai.operation.name"] == "embeddings"
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 3


def run(wire: HubWire, use: Any, kind: str = "async") -> None:
    async def main() -> None:
        client = make(wire.url, kind)
        try:
            await use(client)
        finally:
            if kind == "async":
                await client.close()

    asyncio.run(main())


def test_async(spans: Spans, wire: HubWire) -> None:
    """The async client's streams and texts: the context of the call decides, and each is one call."""

    async def use(client: Any) -> None:
        with egisai.context(agent="billing", user_id="u-1"):
            stream = await client.chat_completion(messages(ASK), model=ASK.model, stream=True)
        with egisai.context(user_id="u-2"):
            assert len([chunk async for chunk in stream]) == 4
        assert await client.text_generation("Why?") == "Sorry."
        assert "".join([text async for text in await client.text_generation("Why?", stream=True)]) == "Sorry.</s>"
        await client.text_generation("Why?", details=True)
        await client.feature_extraction("Why?")

    run(wire, use)
    streamed, whole, texts, detailed, embedded = spans.calls()
    assert told(streamed) == {**FACTS, **CHAT_USAGE}
    assert (streamed.attributes["gen_ai.agent.name"], streamed.attributes["user.id"]) == ("billing", "u-1")
    assert streamed.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert told(whole) == told(texts) == {}
    assert told(detailed) == GENERATED
    assert embedded.attributes["gen_ai.embeddings.dimension.count"] == 3


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_async_left(spans: Spans, wire: HubWire, how: str) -> None:
    """An async stream that is closed, or whose reader is cancelled, is incomplete, and no error."""
    wire.hooks.append(hold(1, threading.Event()))

    async def use(client: Any) -> None:
        stream = await chat(client, ASK, stream=True)
        await stream.__anext__()
        if how == "closed":
            await stream.aclose()
            return
        task = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(wire, use)
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["egisai.call.complete"] is False
    assert wire.requests[0].finished.wait(5)
    assert wire.requests[0].outcome == "client left"


def test_async_broken(spans: Spans, wire: HubWire) -> None:
    """An async stream that is cut is an error of the call."""
    wire.hooks.append(break_stream(1))

    async def use(client: Any) -> None:
        with pytest.raises(Exception, match="closed"):
            [chunk async for chunk in await chat(client, ASK, stream=True)]

    run(wire, use)
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "httpx2.RemoteProtocolError"


def test_said_in_the_stream(spans: Spans, wire: HubWire, client: Any) -> None:
    """An error that comes as an event is raised by the client, and is the call's."""
    event = {"error": "out of memory", "error_type": "generation"}
    wire.hooks.append(replay(b"".join(sse(event, done=False)), content_type="text/event-stream"))
    with pytest.raises(Exception, match="out of memory"):
        list(chat(client, ASK, stream=True))
    [span] = spans.calls()
    assert span.attributes["error.type"] == "huggingface_hub.errors.GenerationError"
