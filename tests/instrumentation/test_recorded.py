"""Recorded OpenAI and Azure traffic through the real client: the span says what the recorded bytes say."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import yaml
from opentelemetry.trace import StatusCode
from tests.instrumentation.forms import HAS_RESPONSES, told

from conftest import Spans
from provider import Provider, replay

FOLDER = Path(__file__).parents[3] / "shared" / "cassettes"
PROVIDERS = ("openai", "azure-openai")
PATHS = {"/chat/completions": "chat", "/responses": "responses", "/embeddings": "embeddings"}


class Exchange(NamedTuple):
    """One request and what the provider really answered."""

    name: str
    api: str
    is_azure: bool
    asked: dict[str, Any]
    status: int
    answer: bytes


def _bytes(body: Any) -> bytes:
    text = body.get("string", b"") if isinstance(body, dict) else body or b""
    raw = text if isinstance(text, bytes) else text.encode()
    return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw


def _exchanges() -> list[Exchange]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Exchange] = {}
    for file in sorted(file for name in PROVIDERS for file in (FOLDER / name).glob("**/*.yaml")):
        interactions = yaml.load(file.read_bytes(), loader).get("interactions", [])
        for index, interaction in enumerate(interactions):
            request, response = interaction["request"], interaction["response"]
            uri = request["uri"].partition("?")[0]
            api = next((api for path, api in PATHS.items() if uri.endswith(path)), None)
            asked, answer = _bytes(request["body"]), _bytes(response["body"])
            status = response["status"]["code"]
            if request["method"] != "POST" or api is None or not asked or (api == "responses" and not HAS_RESPONSES):
                continue
            digest = hashlib.sha256(asked + answer).hexdigest()
            name = f"{file.stem}[{index}]"
            found.setdefault(digest, Exchange(name, api, "azure" in uri, json.loads(asked), status, answer))
    return list(found.values())


EXCHANGES = _exchanges()


def _without_nulls(**facts: Any) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _of_chat(message: dict[str, Any], usage: dict[str, Any], reasons: dict[int, str]) -> dict[str, Any]:
    return _without_nulls(
        id=message.get("id") or None,
        model=message.get("model") or None,
        reasons=tuple(reasons[index] for index in sorted(reasons)) or None,
        input=usage.get("prompt_tokens"),
        output=usage.get("completion_tokens"),
        cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
    )


def _of_response(response: dict[str, Any]) -> dict[str, Any]:
    usage = response.get("usage") or {}
    called = any(item["type"] == "function_call" for item in response["output"])
    reason = {"completed": "tool_calls" if called else "stop", "incomplete": "length", "failed": "error"}
    return _without_nulls(
        id=response["id"],
        model=response["model"],
        reasons=(reason[response["status"]],),
        input=usage.get("input_tokens"),
        output=usage.get("output_tokens"),
        cached=(usage.get("input_tokens_details") or {}).get("cached_tokens"),
        reasoning=(usage.get("output_tokens_details") or {}).get("reasoning_tokens"),
    )


def recorded(exchange: Exchange) -> dict[str, Any]:
    """What the recorded bytes say, read without the SDK and without us."""
    if not exchange.asked.get("stream"):
        body = json.loads(exchange.answer)
        if exchange.api == "responses":
            return _of_response(body)
        if exchange.api == "embeddings":
            return {"model": body["model"], "input": body["usage"]["prompt_tokens"]}
        reasons = {choice["index"]: choice["finish_reason"] for choice in body["choices"]}
        return _of_chat(body, body.get("usage") or {}, reasons)
    lines = [line[5:].strip() for line in exchange.answer.splitlines() if line.startswith(b"data:")]
    events = [json.loads(line) for line in lines if line != b"[DONE]"]
    if exchange.api == "responses":
        return _of_response(next(event["response"] for event in reversed(events) if "response" in event))
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), {})
    choices = [choice for event in events for choice in event["choices"]]
    reasons = {choice["index"]: choice["finish_reason"] for choice in choices if choice.get("finish_reason")}
    return _of_chat(next(event for event in events if event.get("id")), usage, reasons)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic is kept beside the project, and is not here")
@pytest.mark.parametrize("exchange", EXCHANGES, ids=[exchange.name for exchange in EXCHANGES])
def test_recorded(spans: Spans, server: Provider, exchange: Exchange) -> None:
    """The same request by the real client, answered with the recorded bytes."""
    streams = bool(exchange.asked.get("stream"))
    kind = "text/event-stream; charset=utf-8" if streams and exchange.status == 200 else "application/json"
    server.hooks.append(replay(exchange.answer, content_type=kind, status=exchange.status))
    client: Any = (
        openai.AzureOpenAI(azure_endpoint=server.azure_endpoint, api_version="2024-10-21", api_key="k", max_retries=0)
        if exchange.is_azure
        else openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0)
    )
    with client:
        create = client.chat.completions.create if exchange.api == "chat" else getattr(client, exchange.api).create
        known = inspect.signature(create).parameters
        asked = {"model": "deployment", **exchange.asked}
        arguments = {name: value for name, value in asked.items() if name in known}
        arguments["extra_body"] = {name: value for name, value in asked.items() if name not in known}
        if exchange.status != 200:
            with pytest.raises(openai.APIStatusError):
                create(**arguments)
            [span] = spans.calls()
            assert span.status.status_code is StatusCode.ERROR
            assert span.attributes["http.response.status_code"] == exchange.status
            return
        result = create(**arguments)
        if streams:
            for _ in result:
                pass
    [span] = spans.calls()
    assert told(span) == recorded(exchange)
    assert span.attributes["gen_ai.request.model"] == asked["model"]
    assert span.status.status_code is StatusCode.UNSET
    assert "egisai.call.complete" not in span.attributes


def test_recorded_has_every_form() -> None:
    """The folder, where it is here, holds what the test above is for."""
    if not FOLDER.is_dir():
        pytest.skip("the recorded traffic is kept beside the project, and is not here")
    forms = {(exchange.api, bool(exchange.asked.get("stream")), exchange.is_azure) for exchange in EXCHANGES}
    assert {("chat", False, False), ("chat", True, False), ("chat", False, True)} <= forms
    if HAS_RESPONSES:
        assert {("responses", False, False), ("responses", True, False)} <= forms
    assert len(EXCHANGES) > 80
