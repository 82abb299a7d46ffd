"""Amazon Bedrock's wire format: JSON, and AWS event streams."""

from __future__ import annotations

import base64
import gc
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tests.instrumentation.contract import Ask, Form
from tests.instrumentation.wire import Refused, Request, Wire

MODEL = "anthropic.claude-3-5-haiku-20241022-v1:0"
OPTIONS = {"region_name": "us-east-1", "aws_access_key_id": "k", "aws_secret_access_key": "s"}
CONFIG = {"retries": {"total_max_attempts": 1}, "read_timeout": 20}
USAGE = {"inputTokens": 31, "outputTokens": 7, "totalTokens": 38}
METRICS = {"inputTokenCount": 31, "outputTokenCount": 7, "invocationLatency": 9, "firstByteLatency": 5}
HEADERS = {"x-amzn-bedrock-input-token-count": "31", "x-amzn-bedrock-output-token-count": "7"}
TEXTS = ("Sorry", " about", " that.")


def event(kind: str, payload: Mapping[str, Any], *, message: str = "event") -> bytes:
    """One message of an event stream: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html"""
    names = {":event-type" if message == "event" else ":exception-type": kind, ":content-type": "application/json"}
    names[":message-type"] = message
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in names.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return whole + struct.pack("!I", zlib.crc32(whole))


def pieces(*said: Mapping[str, Any]) -> list[bytes]:
    """What a model says, streamed by InvokeModelWithResponseStream: the last with Bedrock's own counts."""
    last = {**said[-1], "amazon-bedrock-invocationMetrics": METRICS}
    return [
        event("chunk", {"bytes": base64.b64encode(json.dumps(each).encode()).decode()}) for each in (*said[:-1], last)
    ]


def _converse(stop: str) -> list[bytes]:
    return [
        event("messageStart", {"role": "assistant"}),
        *(event("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0}) for text in TEXTS),
        event("contentBlockStop", {"contentBlockIndex": 0}),
        event("messageStop", {"stopReason": stop}),
        event("metadata", {"usage": USAGE, "metrics": {"latencyMs": 9}}),
    ]


_MESSAGE = {"id": "msg_bdrk_1", "type": "message", "role": "assistant", "model": "claude-3-5-haiku-20241022"}
_INVOKED = {
    **_MESSAGE,
    "content": [{"type": "text", "text": "".join(TEXTS)}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 31, "output_tokens": 7},
}
_STREAMED = (
    {"type": "message_start", "message": {**_MESSAGE, "content": [], "usage": {"input_tokens": 31}}},
    *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in TEXTS),
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
)


class BedrockWire(Wire):
    """https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html"""

    stream_type = "application/vnd.amazon.eventstream"

    def __init__(self) -> None:
        super().__init__()
        self.invoked: Mapping[str, Any] | list[Mapping[str, Any]] | None = None
        """What a model says instead: whole, or in pieces."""

    def answer(self, request: Request) -> bytes | list[bytes]:
        operation = unquote(request.path).rpartition("/")[2]
        if operation == "converse":
            message = {"role": "assistant", "content": [{"text": "".join(TEXTS)}]}
            said = {"output": {"message": message}, "stopReason": "end_turn", "usage": USAGE}
            return json.dumps({**said, "metrics": {"latencyMs": 9}}).encode()
        if operation == "converse-stream":
            return _converse("end_turn")
        if operation == "invoke":
            return json.dumps(self.invoked or _INVOKED).encode()
        if operation == "invoke-with-response-stream":
            return pieces(*(self.invoked or _STREAMED))
        raise Refused(404)

    def error(self, status: int) -> bytes:
        return json.dumps({"message": f"refused with {status}"}).encode()

    def split(self, body: bytes) -> list[bytes]:
        found: list[bytes] = []
        while body:
            length = struct.unpack("!I", body[:4])[0]
            found.append(body[:length])
            body = body[length:]
        return found


def arguments(ask: Ask) -> dict[str, Any]:
    """Converse's."""
    return {
        "modelId": ask.model,
        "system": [{"text": ask.system}],
        "messages": [{"role": "user", "content": [{"text": ask.content}]}],
        "inferenceConfig": {"maxTokens": 100, "temperature": 0.5},
    }


def invocation(ask: Ask) -> dict[str, Any]:
    """InvokeModel's."""
    messages = [{"role": "user", "content": [{"type": "text", "text": ask.content}]}]
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "system": ask.system, "messages": messages}
    return {"modelId": ask.model, "body": json.dumps(body)}


def _said(response: Any) -> dict[str, Any]:
    if isinstance(response, list):
        response = {**response[-2]["messageStop"], **response[-1]["metadata"]}
    used = response["usage"]
    return {"reasons": (response["stopReason"],), "input": used["inputTokens"], "output": used["outputTokens"]}


def _said_invoked(response: Any) -> dict[str, Any]:
    used = response["usage"]
    tokens = {"input": used["input_tokens"], "output": used["output_tokens"]}
    return {"id": response["id"], "model": response["model"], "reasons": (response["stop_reason"],), **tokens}


def collect() -> None:
    """Of the connections that a caller leaves or has cut, their libraries warn, without us too: here, not later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _whole(response: Any) -> Any:
    return {name: value for name, value in response.items() if name != "ResponseMetadata"}


def forms(kind: str) -> tuple[Form, ...]:
    """Of a sync or an async client."""

    def invoked(response: Any) -> Any:
        if kind == "sync":
            return json.loads(response["body"].read())

        async def read() -> Any:
            return json.loads(await response["body"].read())

        return read()

    kinds = (kind,)
    return (
        Form("converse", lambda client, ask: client.converse(**arguments(ask)), _said, read=_whole, kinds=kinds),
        Form(
            "converse-stream",
            lambda client, ask: client.converse_stream(**arguments(ask)),
            _said,
            stream=True,
            read=lambda response: response["stream"],
            kinds=kinds,
        ),
        Form(
            "invoke",
            lambda client, ask: client.invoke_model(**invocation(ask)),
            _said_invoked,
            read=invoked,
            kinds=kinds,
        ),
    )
