"""Replicate's client: predictions over httpx, made and waited for, and server-sent events by GET."""

from __future__ import annotations

import json
from typing import Any

from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Refused, Request, Wire

MODEL = "meta/meta-llama-3-70b-instruct"
VERSION = "02e509c789964a7ea8736978a43525956ef40397be9033abf9fd2badfe68c9e3"
METRICS = {"input_token_count": 31, "output_token_count": 7, "predict_time": 0.5}
PIECES = ["Sorry", " about that."]


class ReplicateWire(Wire):
    """https://replicate.com/docs/reference/http"""

    def prediction(self, status: str = "succeeded", **more: Any) -> dict[str, Any]:
        done = {"output": PIECES, "metrics": METRICS} if status == "succeeded" else {}
        urls = {"get": f"{self.url}/v1/predictions/p-1", "stream": f"{self.url}/stream/p-1"}
        return {"id": "p-1", "model": MODEL, "version": "hidden", "status": status, "urls": urls, **done, **more}

    def answer(self, request: Request) -> bytes | list[bytes]:
        if request.path == "/stream/p-1":
            said = [("output", piece) for piece in PIECES]
            return [
                f"event: {event}\nid: {index}\ndata: {data}\n\n".encode()
                for index, (event, data) in enumerate([*said, ("done", "{}")])
            ]
        if "/versions/" in request.path:
            schema = {"components": {"schemas": {"Output": {"type": "array", "x-cog-array-type": "iterator"}}}}
            made = {"id": VERSION, "created_at": "2026-01-01T00:00:00Z", "cog_version": "0.9"}
            return json.dumps({**made, "openapi_schema": schema}).encode()
        if "/predictions" not in request.path:
            raise Refused(404)
        return json.dumps(self.prediction()).encode()

    def error(self, status: int) -> bytes:
        return json.dumps({"title": "Refused", "detail": f"refused with {status}", "status": status}).encode()


def make(url: str, kind: str) -> Any:
    import replicate.client

    client = replicate.client.Client(api_token="local", base_url=url)
    client.poll_interval = 0
    vars(client)["kind"] = kind
    _ = client._async_client if kind == "async" else client._client  # several threads at once would make several
    return client


def close(client: Any) -> Any:
    return client._async_client.aclose() if client.kind == "async" else client._client.close()


def asked(ask: Ask) -> dict[str, Any]:
    return {"system_prompt": ask.system, "prompt": ask.content}


def _run(client: Any, ask: Ask) -> Any:
    return (client.async_run if client.kind == "async" else client.run)(ask.model, input=asked(ask))


def _create(client: Any, ask: Ask) -> Any:
    create = client.predictions.async_create if client.kind == "async" else client.predictions.create
    return create(model=ask.model, input=asked(ask), wait=True)


def _said(prediction: Any) -> dict[str, Any]:
    used = prediction.metrics
    usage = {"input": used["input_token_count"], "output": used["output_token_count"]}
    return {"id": prediction.id, "model": prediction.model, "reasons": ("stop",), **usage}


SUBJECT = Subject(
    library="replicate",
    provider="replicate",
    model=MODEL,
    wire=ReplicateWire,
    make=make,
    close=close,
    forms=(  # streams, of which no usage is told, are in `test_replicate.py`
        Form("run", _run, lambda _: {"id": "p-1", "input": 31, "output": 7}, operation="generate_content"),
        Form("create", _create, _said, operation="generate_content"),
    ),
)
