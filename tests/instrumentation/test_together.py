"""Together beyond the contract: where its client really asks."""

from __future__ import annotations

import httpx
import pytest
from tests.instrumentation.clients._openai_wire import USAGE, messages
from tests.instrumentation.clients.together import TogetherWire
from tests.instrumentation.contract import Ask

from conftest import Spans

together = pytest.importorskip("together")

ASK = Ask(TogetherWire.model)


def test_own_url(spans: Spans) -> None:
    """Without a base URL the client asks another host for chats than for the rest: it is followed, and on the span."""
    with TogetherWire() as wire:

        class ToWire(httpx.HTTPTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                assert request.url.path == wire.chat_path
                request.url = httpx.URL(wire.url + wire.chat_path)
                return super().handle_request(request)

        with together.Together(api_key="local", http_client=httpx.Client(transport=ToWire())) as client:
            client.chat.completions.create(model=ASK.model, messages=messages(ASK))
    span = spans.only()
    assert (span["server.address"], span["server.port"]) == ("api-inference.together.ai", 443)
    assert span["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]
