"""LLM clients whose requests go nowhere: what carries their bytes is replaced, in each HTTP library, by one function
that answers at once. What is left is the client's own work."""

from __future__ import annotations

import importlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

SYSTEM: Final = (
    "You are the billing assistant of a web shop. Answer what is asked of invoices and refunds, briefly. " * 6
)
QUESTION: Final = "Where is my invoice?"
TEXT: Final = "Your invoice. " * 20
CHUNKS: Final = 200
"""Of a stream, as the client yields them."""

MESSAGES: Final = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Client:
    """A client library, and how to call it.

    Attributes:
        make: The client.
        call: A call that is answered whole.
        stream: One that is answered in chunks; None where the client has none.
        whole: The answer's body.
        chunked: The stream's.
        content_type: Of `chunked`.
    """

    make: Callable[[], Any]
    call: Callable[[Any], object]
    stream: Callable[[Any], Iterable[object]] | None
    whole: bytes
    chunked: bytes = b""
    content_type: str = "text/event-stream"

    def answer_with(self) -> None:
        """Let every request of this process be answered by this client's provider."""

        def answer(url: str, body: bytes) -> tuple[str, bytes]:
            streams = b'"stream":true' in body.replace(b" ", b"") or "stream" in url.lower()
            return (self.content_type, self.chunked) if streams else ("application/json", self.whole)

        for replace in (_replace_httpx, _replace_requests, _replace_botocore):
            replace(answer)


# --- what carries bytes ----------------------------------------------------------------------------------------------

Answer = Callable[[str, bytes], tuple[str, bytes]]


def _replace_httpx(answer: Answer) -> None:
    for name in ("httpx", "httpx2"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue

        def handle_request(_: Any, request: Any, module: Any = module) -> Any:
            content_type, body = answer(str(request.url), request.read())
            return module.Response(200, headers={"content-type": content_type}, content=body)

        module.HTTPTransport.handle_request = handle_request


def _replace_requests(answer: Answer) -> None:
    import requests.adapters
    import urllib3

    def send(_: Any, request: Any, **__: Any) -> Any:
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        content_type, body = answer(request.url, request.body or b"")
        response.headers["Content-Type"] = content_type
        response.raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
        return response

    requests.adapters.HTTPAdapter.send = send


def _replace_botocore(answer: Answer) -> None:
    import botocore.awsrequest
    import botocore.httpsession
    import urllib3

    def send(_: Any, request: Any) -> Any:
        content_type, body = answer(request.url, request.body or b"")
        raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
        return botocore.awsrequest.AWSResponse(request.url, 200, {"Content-Type": content_type}, raw)

    session: Any = botocore.httpsession.URLLib3Session
    session.send = send


# --- what providers answer -------------------------------------------------------------------------------------------


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _sse(*events: Any, named: bool = False, done: bool = False) -> bytes:
    lines = [(f"event: {event['type']}\n" if named else "").encode() + b"data: " + _json(event) for event in events]
    return b"\n\n".join([*lines, *([b"data: [DONE]"] if done else []), b""])


def _ndjson(*chunks: Any) -> bytes:
    return b"".join(_json(chunk) + b"\n" for chunk in chunks)


def _aws(kind: str, payload: Any) -> bytes:
    """An event of an AWS event stream: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html"""
    named = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in named.items()
    )
    body = _json(payload)
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return whole + struct.pack("!I", zlib.crc32(whole))


def _words(others: int) -> list[str]:
    """Texts for a stream that has so many chunks without one."""
    return [f"word {i} " for i in range(CHUNKS - others)]


_OPENAI_USAGE: Final = {
    "prompt_tokens": 120,
    "completion_tokens": 60,
    "total_tokens": 180,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def _openai_whole() -> bytes:
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2026"}
    return _json({**head, "choices": choices, "usage": _OPENAI_USAGE})


def _openai_chunked() -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-2026"}

    def chunk(delta: Any, finish: str | None = None, **more: Any) -> Any:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    said = [chunk({"content": word}) for word in _words(2)]
    return _sse(chunk({"role": "assistant", "content": ""}), *said, chunk({}, "stop", usage=_OPENAI_USAGE), done=True)


def _openai_wire(make: Callable[[], Any], **options: Any) -> Client:
    """A client that speaks OpenAI's wire format and looks like OpenAI's."""

    def create(client: Any, **more: Any) -> Any:
        return client.chat.completions.create(model="m", messages=MESSAGES, temperature=0.2, **more)

    return Client(
        make, create, lambda client: create(client, stream=True, **options), _openai_whole(), _openai_chunked()
    )


# --- the clients -----------------------------------------------------------------------------------------------------


def _openai() -> Client:
    import openai

    # Asked for by the caller, so that what the instrumentation asks for is no part of the comparison.
    return _openai_wire(lambda: openai.OpenAI(api_key="k"), stream_options={"include_usage": True})


def _groq() -> Client:
    import groq

    return _openai_wire(lambda: groq.Groq(api_key="k"))


def _together() -> Client:
    import together

    return _openai_wire(lambda: together.Together(api_key="k"))


def _cerebras() -> Client:
    from cerebras.cloud.sdk import Cerebras

    return _openai_wire(lambda: Cerebras(api_key="k", warm_tcp_connection=False))


def _fireworks() -> Client:
    import fireworks

    return _openai_wire(lambda: fireworks.Fireworks(api_key="k"))


def _huggingface_hub() -> Client:
    import huggingface_hub

    return _openai_wire(lambda: huggingface_hub.InferenceClient(base_url="https://api.example.com", api_key="k"))


def _litellm() -> Client:
    import litellm

    def completion(_: Any, **more: Any) -> Any:
        return litellm.completion(model="openai/m", messages=MESSAGES, temperature=0.2, api_key="k", **more)

    chunked = _openai_chunked()
    return Client(lambda: None, completion, lambda _: completion(None, stream=True), _openai_whole(), chunked)


def _mistralai() -> Client:
    from mistralai.client import Mistral

    return Client(
        lambda: Mistral(api_key="k"),
        lambda client: client.chat.complete(model="m", messages=MESSAGES, temperature=0.2),
        lambda client: client.chat.stream(model="m", messages=MESSAGES, temperature=0.2),
        _openai_whole(),
        _openai_chunked(),
    )


def _anthropic() -> Client:
    import anthropic

    used = {"input_tokens": 56, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 64, "output_tokens": 60}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-2026", "stop_sequence": None}
    message = {**head, "content": [], "stop_reason": None, "usage": {**used, "output_tokens": 1}}
    said = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in _words(5)
    ]
    end = {"stop_reason": "end_turn", "stop_sequence": None}

    def create(client: Any, **more: Any) -> Any:
        messages = [{"role": "user", "content": QUESTION}]
        return client.messages.create(model="m", system=SYSTEM, messages=messages, max_tokens=64, **more)

    return Client(
        lambda: anthropic.Anthropic(api_key="k"),
        create,
        lambda client: create(client, stream=True),
        _json({**head, "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "usage": used}),
        _sse(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *said,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": 60}},
            {"type": "message_stop"},
            named=True,
        ),
    )


def _google_genai() -> Client:
    from google import genai

    counts = {"promptTokenCount": 120, "cachedContentTokenCount": 64, "candidatesTokenCount": 60}
    config = {"system_instruction": SYSTEM, "temperature": 0.2}

    def said(text: str, **more: Any) -> Any:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **more}
        return {"responseId": "r-1", "modelVersion": "m-2026", "candidates": [candidate], "usageMetadata": counts}

    return Client(
        lambda: genai.Client(api_key="k"),
        lambda client: client.models.generate_content(model="m", contents=QUESTION, config=config),
        lambda client: client.models.generate_content_stream(model="m", contents=QUESTION, config=config),
        _json(said(TEXT, finishReason="STOP")),
        _sse(*map(said, _words(1)), said("", finishReason="STOP")),
    )


def _botocore() -> Client:
    import botocore.session

    used = {"inputTokens": 120, "outputTokens": 60, "totalTokens": 180}
    asked = {
        "modelId": "m",
        "system": [{"text": SYSTEM}],
        "messages": [{"role": "user", "content": [{"text": QUESTION}]}],
        "inferenceConfig": {"temperature": 0.2},
    }
    output = {"message": {"role": "assistant", "content": [{"text": TEXT}]}}
    events = [
        _aws("messageStart", {"role": "assistant"}),
        *(_aws("contentBlockDelta", {"delta": {"text": word}, "contentBlockIndex": 0}) for word in _words(4)),
        _aws("contentBlockStop", {"contentBlockIndex": 0}),
        _aws("messageStop", {"stopReason": "end_turn"}),
        _aws("metadata", {"usage": used, "metrics": {"latencyMs": 9}}),
    ]
    credentials = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    session: Any = botocore.session.get_session()
    return Client(
        lambda: session.create_client("bedrock-runtime", region_name="us-east-1", **credentials),
        lambda client: client.converse(**asked),
        lambda client: client.converse_stream(**asked)["stream"],
        _json({"output": output, "stopReason": "end_turn", "usage": used, "metrics": {"latencyMs": 9}}),
        b"".join(events),
        "application/vnd.amazon.eventstream",
    )


def _cohere() -> Client:
    import cohere

    used = {
        "billed_units": {"input_tokens": 120, "output_tokens": 60},
        "tokens": {"input_tokens": 120, "output_tokens": 60},
    }
    deltas = [{"message": {"content": {"text": word}}} for word in _words(4)]
    return Client(
        lambda: cohere.ClientV2("k", log_warning_experimental_features=False),
        lambda client: client.chat(model="m", messages=MESSAGES, temperature=0.2),
        lambda client: client.chat_stream(model="m", messages=MESSAGES, temperature=0.2),
        _json(
            {
                "id": "m-1",
                "finish_reason": "COMPLETE",
                "message": {"role": "assistant", "content": [{"type": "text", "text": TEXT}]},
                "usage": used,
            }
        ),
        _sse(
            {"type": "message-start", "id": "m-1", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            *({"type": "content-delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content-end", "index": 0},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": used}},
            named=True,
        ),
    )


def _ollama() -> Client:
    import ollama

    head = {"model": "m-2026", "created_at": "2026-01-01T00:00:00Z", "done": False}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 120, "eval_count": 60, "total_duration": 9}

    def said(text: str, **more: Any) -> Any:
        return {**head, "message": {"role": "assistant", "content": text}, **more}

    def chat(client: Any, **more: Any) -> Any:
        return client.chat(model="m", messages=MESSAGES, options={"temperature": 0.2}, **more)

    return Client(
        lambda: ollama.Client(host="https://api.example.com"),
        chat,
        lambda client: chat(client, stream=True),
        _json(said(TEXT, **end)),
        _ndjson(*map(said, _words(1)), said("", **end)),
        "application/x-ndjson",
    )


def _voyageai() -> Client:
    import voyageai

    data = [{"object": "embedding", "embedding": [0.1] * 64, "index": 0}]
    return Client(
        lambda: voyageai.Client(api_key="k"),
        lambda client: client.embed([QUESTION], model="m"),
        None,
        _json({"object": "list", "data": data, "model": "m-2026", "usage": {"total_tokens": 8}}),
    )


CLIENTS: Final[dict[str, Callable[[], Client]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google-genai": _google_genai,
    "botocore": _botocore,
    "litellm": _litellm,
    "mistralai": _mistralai,
    "cohere": _cohere,
    "groq": _groq,
    "together": _together,
    "cerebras-cloud-sdk": _cerebras,
    "fireworks-ai": _fireworks,
    "ollama": _ollama,
    "huggingface-hub": _huggingface_hub,
    "voyageai": _voyageai,
}
"""By distribution."""
