"""xAI's client: gRPC."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.instrumentation.clients._grpc_wire import GrpcWire
from tests.instrumentation.contract import Ask, Form, Subject

MODEL = "grok-4.5"
USAGE = {"prompt_tokens": 31, "completion_tokens": 7, "reasoning_tokens": 3, "cached_prompt_text_tokens": 16}
HEAD = {"id": "r-1", "model": "grok-4.5-0101"}


class XaiWire(GrpcWire):
    """The `xai_api.Chat` service, of the protos that come with the client."""

    text = "Sorry about that."
    recorded: Any = None
    """Instead of the whole answer."""
    recorded_chunk: Any = None
    """Instead of a stream's chunks."""

    def serve(self, server: Any) -> None:
        from xai_sdk.proto import chat_pb2_grpc

        service = chat_pb2_grpc.ChatServicer()
        service.GetCompletion = self.unary(self.whole)
        service.GetCompletionChunk = self.stream(self.chunks)
        service.StartDeferredCompletion = self.unary(self.deferred)
        service.GetDeferredCompletion = self.done
        chat_pb2_grpc.add_ChatServicer_to_server(service, server)

    def whole(self, request: Any) -> Any:
        from xai_sdk.proto import chat_pb2

        if self.recorded is not None:
            return self.recorded
        outputs = [
            {"index": i, "finish_reason": 3, "message": {"role": 2, "content": self.text}} for i in range(request.n)
        ]
        return chat_pb2.GetChatCompletionResponse(outputs=outputs, usage=USAGE, **HEAD)

    def chunks(self, _: Any) -> list[Any]:
        from xai_sdk.proto import chat_pb2

        if self.recorded_chunk is not None:
            return [self.recorded_chunk]
        said: list[Any] = [{"delta": {"role": 2, "content": text}} for text in ("Sorry", " about", " that.")]
        said[-1]["finish_reason"] = 3
        counts = [{"prompt_tokens": 31}, {"prompt_tokens": 31}, USAGE]
        return [
            chat_pb2.GetChatCompletionChunk(outputs=[{"index": 0, **each}], usage=used, **HEAD)
            for each, used in zip(said, counts, strict=True)
        ]

    def deferred(self, request: Any) -> Any:
        from xai_sdk.proto import deferred_pb2

        return deferred_pb2.StartDeferredResponse(request_id=f"d-{request.n}")

    def done(self, request: Any, context: Any) -> Any:
        from xai_sdk.proto import chat_pb2, deferred_pb2

        answer = self.whole(chat_pb2.GetCompletionsRequest(n=int(request.request_id[2:])))
        return chat_pb2.GetDeferredCompletionResponse(status=deferred_pb2.DeferredStatus.DONE, response=answer)


class _Pairs:
    """A stream's pairs as their protos, which can be compared."""

    def __init__(self, client: Any, stream: Any) -> None:
        self._client = client
        self._stream = stream

    def __iter__(self) -> Any:
        return self

    def __aiter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._read(next(self._stream))

    async def __anext__(self) -> Any:
        return self._read(await self._stream.__anext__())

    def _read(self, pair: Any) -> Any:
        return str(pair[0].proto), str(pair[1].proto)

    def close(self) -> Any:
        return self._aclose() if hasattr(self._stream, "aclose") else self._stream.close()

    async def _aclose(self) -> None:
        await self._stream.aclose()
        await self._client.close()  # until then grpc.aio goes on receiving


def make(url: str, kind: str) -> Any:
    import xai_sdk

    async def make_async() -> Any:  # on its loop
        return build(xai_sdk.AsyncClient)

    def build(client: Any) -> Any:
        host = url.removeprefix("http://")
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        return client(api_key="local", api_host=host, use_insecure_channel=True, channel_options=options)

    return make_async() if kind == "async" else build(xai_sdk.Client)


def asked(client: Any, ask: Ask, **more: Any) -> Any:
    from xai_sdk.chat import system, user

    return client.chat.create(model=ask.model, messages=[system(ask.system), user(ask.content)], **more)


def said(response: Any) -> dict[str, Any]:
    expected = {"id": "r-1", "model": "grok-4.5-0101", "reasons": ("stop",)}
    return {**expected, "input": 31, "output": 10, "cached": 16, "reasoning": 3}


def _defer(client: Any, ask: Ask) -> Any:
    return asked(client, ask).defer(interval=timedelta(milliseconds=1))


def _stream(client: Any, ask: Ask) -> Any:
    return _Pairs(client, asked(client, ask).stream())


SUBJECT = Subject(
    library="xai-sdk",
    imports="xai_sdk",
    provider="x_ai",
    model=MODEL,
    wire=XaiWire,
    make=make,
    transport=None,
    forms=(
        Form("sample", lambda client, ask: asked(client, ask).sample(), said),
        Form("stream", _stream, said, stream=True, raised="step"),
        Form("defer", _defer, said, kinds=("sync",)),
    ),
)
