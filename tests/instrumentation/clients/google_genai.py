"""Google Gen AI's client: JSON and server-sent events over httpx, or httpx2 where there is no httpx."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
from typing import Any

from tests.instrumentation.clients._plain_wire import PlainWire
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Refused, Request, sse

MODEL = "gemini-3.5-flash"
_USAGE = {
    "promptTokenCount": 20,
    "cachedContentTokenCount": 8,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 4,
    "totalTokenCount": 29,
}
_INTERACTION_USAGE = {
    "total_input_tokens": 20,
    "total_cached_tokens": 8,
    "total_output_tokens": 5,
    "total_thought_tokens": 4,
    "total_tokens": 29,
}


def candidate(*parts: Any, reason: str | None = None) -> dict[str, Any]:
    said = {"content": {"role": "model", "parts": list(parts)}}
    return {**said, "finishReason": reason} if reason else said


def chunk(*candidates: Any, usage: Any = None, **more: Any) -> dict[str, Any]:
    said = {"responseId": "r-1", "modelVersion": f"{MODEL}-001", "candidates": list(candidates), **more}
    return {**said, "usageMetadata": usage} if usage else said


class GeminiWire(PlainWire):
    """https://ai.google.dev/api/generate-content"""

    def answer(self, request: Request) -> bytes | list[bytes]:
        path = request.path.partition("?")[0]
        texts = ("Sorry", " about", " that.")
        if path.endswith(":streamGenerateContent"):
            first = [chunk(candidate({"text": text})) for text in texts[:2]]
            return sse(*first, chunk(candidate({"text": texts[2]}, reason="STOP"), usage=_USAGE), done=False)
        if path.endswith(":generateContent"):
            return json.dumps(chunk(candidate({"text": "".join(texts)}, reason="STOP"), usage=_USAGE)).encode()
        if path.endswith(":batchEmbedContents"):
            usage = {"promptTokenCount": 8}
            return json.dumps({"embeddings": [{"values": [0.1, 0.2, 0.3]}], "usageMetadata": usage}).encode()
        if path.endswith("/interactions"):
            return self.interaction(request, texts)
        raise Refused(404)

    def interaction(self, request: Request, texts: tuple[str, ...]) -> bytes | list[bytes]:
        """https://ai.google.dev/api/interactions-api"""
        whole = {"id": "i-1", "object": "interaction", "model": MODEL, "status": "completed"}
        whole = {**whole, "usage": _INTERACTION_USAGE}
        if not request.body.get("stream"):
            said = {"type": "model_output", "content": [{"type": "text", "text": "".join(texts)}]}
            return json.dumps({**whole, "steps": [said]}).encode()
        deltas = [{"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": text}} for text in texts]
        begun = {**whole, "status": "in_progress", "usage": None}
        return sse(
            {"event_type": "interaction.created", "interaction": begun},
            {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
            *deltas,
            {"event_type": "step.stop", "index": 0},
            {"event_type": "interaction.completed", "interaction": whole},
            done=False,
        )

    def error(self, status: int) -> bytes:
        return json.dumps({"error": {"code": status, "message": f"refused with {status}", "status": "NO"}}).encode()


def make(url: str, kind: str, **more: Any) -> Any:
    import httpx
    from google import genai
    from google.genai import types

    options = types.HttpOptions(
        base_url=url,
        retry_options=types.HttpRetryOptions(attempts=1, http_status_codes=[599]),  # 429 is not tried again
        httpx_client=httpx.Client(verify=False),
        httpx_async_client=httpx.AsyncClient(verify=False),  # else aiohttp, where that is installed
        async_client_args={"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},  # else it loads certificates each time
    )
    client = genai.Client(api_key="local", http_options=options, **more)
    return client.aio if kind == "async" else client


def close(client: Any) -> Any:
    used = client._api_client  # which leaves the clients open that were given to it
    return used._async_httpx_client.aclose() if hasattr(client, "aclose") else used._httpx_client.close()


def config(ask: Ask) -> dict[str, Any]:
    return {"system_instruction": ask.system}


def _generate(client: Any, ask: Ask) -> Any:
    return client.models.generate_content(model=ask.model, contents=ask.content, config=config(ask))


def _stream(client: Any, ask: Ask) -> Any:
    return client.models.generate_content_stream(model=ask.model, contents=ask.content, config=config(ask))


async def _turning(stream: Any) -> Any:
    """The stream. Where it is left, the SDK, alone too, leaves closing the response to the garbage collector."""
    try:
        async for each in stream:
            yield each
    except GeneratorExit:
        await stream.aclose()
        for turn in range(60):
            if turn % 20 == 0:
                gc.collect()
            await asyncio.sleep(0)
        raise


def _embed(client: Any, ask: Ask) -> Any:
    return client.models.embed_content(model=ask.model, contents=ask.content)


def _interact(client: Any, ask: Ask, **more: Any) -> Any:
    return client.interactions.create(
        model=ask.model, input=ask.content, system_instruction=ask.system, api_version="v1beta", **more
    )


def _said(response: Any) -> dict[str, Any]:
    first, last = (response[0], response[-1]) if isinstance(response, list) else (response, response)
    used = last.usage_metadata
    return {
        "id": first.response_id,
        "model": first.model_version,
        "reasons": (last.candidates[0].finish_reason.value.lower(),),
        "input": used.prompt_token_count,
        "output": used.candidates_token_count + used.thoughts_token_count,
        "cached": used.cached_content_token_count,
        "reasoning": used.thoughts_token_count,
    }


def _said_of_embeddings(result: Any) -> dict[str, Any]:
    used = getattr(result, "usage_metadata", None)  # which version 2 has not
    return {} if used is None else {"input": used.prompt_token_count}


def _said_in_interaction(response: Any) -> dict[str, Any]:
    interaction = response[-1].interaction if isinstance(response, list) else response
    used = interaction.usage
    return {
        "id": interaction.id,
        "model": interaction.model,
        "reasons": ("stop",),
        "input": used.total_input_tokens,
        "output": used.total_output_tokens + used.total_thought_tokens,
        "cached": used.total_cached_tokens,
        "reasoning": used.total_thought_tokens,
    }


SUBJECT = Subject(
    library="google_genai",
    imports="google.genai",
    provider="gcp.gemini",
    model=MODEL,
    wire=GeminiWire,
    make=make,
    close=close,
    forms=(
        Form("generate", _generate, _said, operation="generate_content"),
        Form("stream", _stream, _said, stream=True, operation="generate_content", raised="step", kinds=("sync",)),
        Form(
            "stream",
            _stream,
            _said,
            stream=True,
            operation="generate_content",
            read=_turning,
            raised="step",
            kinds=("async",),
        ),
        Form(
            "embed",
            _embed,
            _said_of_embeddings,
            operation="embeddings",
            prompted=False,
            kinds=("async",),
        ),
        Form("interaction", _interact, _said_in_interaction, operation="generate_content", kinds=("sync",)),
        Form(
            "interaction-stream",
            lambda client, ask: _interact(client, ask, stream=True),
            _said_in_interaction,
            stream=True,
            kinds=("async",),
            operation="generate_content",
        ),
    ),
)
