"""What else OpenAI's client generates than chats and embeddings: text, images, speech, transcripts; and moderations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import told
from tests.instrumentation.forms import HAS_RESPONSES, VERSION, Caller
from tests.instrumentation.wire import Refused, Request, Wire, fail, sse

from conftest import Spans
from egisai import semconv
from egisai_instrumentation import content
from egisai_instrumentation import openai as integration

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # translations, in newer versions

IMAGE_USAGE = {
    "input_tokens": 50,
    "output_tokens": 272,
    "total_tokens": 322,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
HEARD_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "output_tokens": 5,
    "total_tokens": 19,
    "input_token_details": {"text_tokens": 2, "audio_tokens": 12},
}
TEXT_USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
MOST = {"id": "cmpl-1", "object": "text_completion", "created": 1767225600, "model": "gpt-3.5-turbo-instruct"}
PNG = "iVBORw0KGgo="


def _text(text: str, reason: str | None = None) -> dict[str, Any]:
    return {**MOST, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}


class RestWire(Wire):
    """https://platform.openai.com/docs/api-reference"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        body = request.body or {}  # of a form: None
        streams = body.get("stream")
        if request.path == "/completions":
            if not streams:
                return json.dumps({**_text("Sorry about that.", "stop"), "usage": TEXT_USAGE}).encode()
            asked = (body.get("stream_options") or {}).get("include_usage")
            end = [{**MOST, "choices": [], "usage": TEXT_USAGE}] if asked else []
            return sse(_text("Sorry"), _text(" about that.", "stop"), *end)
        if request.path == "/images/generations" and streams:
            partial = {"type": "image_generation.partial_image", "b64_json": PNG, "partial_image_index": 0}
            done = {"type": "image_generation.completed", "b64_json": PNG, "usage": IMAGE_USAGE}
            return sse(partial, done)
        if request.path.startswith("/images/"):
            return json.dumps({"created": 1, "data": [{"b64_json": PNG}], "usage": IMAGE_USAGE}).encode()
        if request.path == "/audio/transcriptions" and b"stream" in self.received[-1]:
            delta = {"type": "transcript.text.delta", "delta": "Hello"}
            return sse(delta, {"type": "transcript.text.done", "text": "Hello", "usage": HEARD_USAGE})
        if request.path.startswith("/audio/tr"):
            return json.dumps({"text": "Hello", "usage": HEARD_USAGE}).encode()
        if request.path == "/audio/speech":
            return b"RIFF\xff\xfe"
        if request.path == "/moderations":
            result = {"flagged": False, "categories": {}, "category_scores": {}}
            return json.dumps({"id": "modr-1", "model": "omni-moderation-latest", "results": [result]}).encode()
        if request.path == "/responses":
            response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4.1", "status": "queued"}
            return json.dumps({**response, "output": [], "background": True}).encode()
        raise Refused(404)


@pytest.fixture
def wire() -> Iterator[RestWire]:
    with RestWire() as server:
        yield server


@pytest.fixture
def rest(kind: str, wire: RestWire) -> Iterator[Caller]:
    caller = Caller(kind, wire, base_url=wire.url)
    yield caller
    caller.close()


class Way(NamedTuple):
    """One way of asking, and what its span says."""

    resource: str
    arguments: dict[str, Any]
    operation: str
    says: dict[str, Any]
    answer: str = ""
    """Part of the content of the answer."""


IMAGE = {
    "gen_ai.output.type": "image",
    "gen_ai.usage.input_tokens": 50,
    "gen_ai.usage.output_tokens": 272,
    "gen_ai.usage.text.input_tokens": 10,
    "gen_ai.usage.image.input_tokens": 40,
}
HEARD = {
    "gen_ai.output.type": "text",
    "gen_ai.usage.input_tokens": 14,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.audio.input_tokens": 12,
}
WRITTEN = {
    "gen_ai.response.id": "cmpl-1",
    "gen_ai.response.model": MOST["model"],
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 5,
    "gen_ai.usage.output_tokens": 7,
}
COMPLETE = {"model": MOST["model"], "prompt": "Why twice?", "max_tokens": 9}
DRAW = {"model": "gpt-image-1", "prompt": "Why twice?", "n": 2}
HEAR = {"model": "gpt-4o-transcribe", "file": ("a.wav", b"RIFF")}
WAYS = {
    "completions": Way("completions.create", COMPLETE, "text_completion", WRITTEN, "Sorry about that."),
    "completions-stream": Way(
        "completions.create",
        {**COMPLETE, "stream": True},
        "text_completion",
        {**WRITTEN, "gen_ai.request.stream": True},
        "Sorry about that.",
    ),
    "image": Way("images.generate", DRAW, "generate_content", {**IMAGE, "gen_ai.request.choice.count": 2}, PNG),
    "image-edit": Way("images.edit", {**DRAW, "image": ("a.png", b"png")}, "generate_content", IMAGE, PNG),
    "speech": Way(
        "audio.speech.create",
        {"model": "tts-1", "voice": "alloy", "input": "Why twice?"},
        "generate_content",
        {"gen_ai.output.type": "speech"},
    ),
    "transcription": Way("audio.transcriptions.create", HEAR, "generate_content", HEARD, "Hello"),
    "translation": Way(
        "audio.translations.create", {**HEAR, "model": "whisper-1"}, "generate_content", {"gen_ai.output.type": "text"}
    ),
    "moderation": Way(
        "moderations.create",
        {"model": "omni-moderation-latest", "input": "Why twice?"},
        "moderation",
        {"gen_ai.response.id": "modr-1", "gen_ai.response.model": "omni-moderation-latest"},
    ),
}
if VERSION >= (2, 0):
    WAYS["image-stream"] = Way(
        "images.generate", {**DRAW, "stream": True, "partial_images": 1}, "generate_content", IMAGE
    )
    WAYS["transcription-stream"] = Way(
        "audio.transcriptions.create", {**HEAR, "stream": True}, "generate_content", HEARD, "Hello"
    )


def create(rest: Caller, way: Way) -> Any:
    found: Any = rest.client
    for name in way.resource.split("."):
        found = getattr(found, name)
    result = rest.wait(found(**way.arguments))
    return list(rest.each(result)) if way.arguments.get("stream") else result


@pytest.mark.parametrize("name", WAYS)
def test_call_modes(rest: Caller, spans: Spans, name: str) -> None:
    """One span each, of an operation that the conventions know; a moderation is the one that is no call."""
    way = WAYS[name]
    assert create(rest, way)
    [span] = spans.calls()
    assert span.name == f"{way.operation} {way.arguments['model']}"
    assert {key: span.attributes.get(key) for key in way.says} == way.says
    assert span.attributes["gen_ai.operation.name"] == way.operation
    assert span.attributes["egisai.agent.source"] == "app"
    assert span.status.status_code is StatusCode.UNSET
    assert semconv.is_call(span.attributes) is (name != "moderation")


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.answer])
def test_content(rest: Caller, spans: Spans, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for and what came, where that is wanted."""
    monkeypatch.setattr(content, "mode", content.Mode(span=True, event=False))
    create(rest, WAYS[name])
    attributes = spans.only()
    assert WAYS[name].answer in str(attributes["gen_ai.output.messages"])
    assert ("Why twice?" in str(attributes.get("gen_ai.input.messages"))) is ("prompt" in WAYS[name].arguments)


@pytest.mark.parametrize("name", WAYS)
def test_call_error(rest: Caller, spans: Spans, wire: RestWire, name: str) -> None:
    wire.hooks.append(fail(429))
    with pytest.raises(Exception, match="429"):
        create(rest, WAYS[name])
    [span] = spans.calls()
    assert span.attributes["http.response.status_code"] == 429
    assert span.attributes["error.type"] == "openai.RateLimitError"


def test_usage_on_request(rest: Caller, spans: Spans) -> None:
    """The usage of a streamed completion is asked for, and the caller sees what it would have seen."""
    chunks = create(rest, WAYS["completions-stream"])
    assert [chunk.choices[0].text for chunk in chunks] == ["Sorry", " about that."]
    assert told(spans.calls()[0])["input"] == 5


@pytest.mark.skipif(not HAS_RESPONSES, reason="this version has no responses")
def test_background(rest: Caller, spans: Spans) -> None:
    """A response that is only queued: a call, of which nothing more is known."""
    rest.wait(rest.client.responses.create(model="gpt-4.1", input="Why twice?", background=True))
    [span] = spans.calls()
    assert told(span) == {"id": "resp_1", "model": "gpt-4.1"}
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("bedrock-runtime.us-west-2.amazonaws.com", "aws.bedrock"),
        ("mine.us-west-2.elb.amazonaws.com", "openai"),
        ("europe-west1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("router.huggingface.co", "huggingface"),
        ("us-south.ml.cloud.ibm.com", "ibm.watsonx.ai"),
        ("api.together.ai", "together_ai"),
        ("max.ai", "openai"),
        ("api.x.ai", "x_ai"),
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("mine.openai.azure.com", "azure.ai.openai"),
        ("mine.services.ai.azure.com", "azure.ai.openai"),
        ("api.deepseek.com", "deepseek"),
        ("openrouter.ai", "openrouter"),
        ("api.groq.com", "groq"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("api.fireworks.ai", "fireworks_ai"),
        ("api.cerebras.ai", "cerebras"),
        ("integrate.api.nvidia.com", "nvidia"),
        ("models.github.ai", "github"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("notdeepseek.com", "openai"),
        ("deepseek.com.evil.example", "openai"),
        ("localhost", "openai"),
        ("192.168.1.7", "openai"),
        ("vllm.models.svc.cluster.local", "openai"),
    ],
)
def test_provider(host: str, provider: str) -> None:
    """The provider is known by the host that answers; what is behind an address of one's own is not guessed at."""
    assert integration.INTEGRATION.provider("OpenAI", host) == provider


def test_provider_by_client() -> None:
    assert integration.INTEGRATION.provider("AsyncAzureOpenAI", "gateway.local") == "azure.ai.openai"
    assert integration.INTEGRATION.provider("AsyncBedrockOpenAI", "gateway.local") == "aws.bedrock"
