"""Responses in the background: one call queues, polls are none, and whoever first sees the end tells the usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import told
from tests.instrumentation.forms import SYSTEM, VERSION, Caller
from tests.instrumentation.wire import Refused, Request, Wire, break_stream, sse

import egisai
from conftest import Spans
from egisai_instrumentation import later

pytestmark = pytest.mark.skipif(VERSION < (1, 90), reason="this version has no responses in the background")

USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 15,
}
END = {"id": "resp_1", "model": "gpt-4.1", "reasons": ("stop",), "input": 12, "output": 3, "cached": 4, "reasoning": 1}
ASKED = {"model": "gpt-4.1", "instructions": SYSTEM, "input": "Why twice?", "background": True}


class BackgroundWire(Wire):
    """Queues `resp_1`, which is done after as many polls as `polls` says. https://platform.openai.com/docs/guides/background"""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 2
        self.ends = "completed"

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        fixed = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4.1", "background": True}
        rest = {"output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": None}
        return {**fixed, **rest, "status": status, "error": None, "incomplete_details": None, **more}

    def done(self) -> dict[str, Any]:
        error = {"code": "server_error", "message": "sorry"} if self.ends == "failed" else None
        part = {"type": "output_text", "text": "Sorry.", "annotations": []}
        said = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        return self.response(self.ends, usage=USAGE, error=error, output=[said])

    def answer(self, request: Request) -> bytes | list[bytes]:
        streams = (request.body or {}).get("stream") or request.query.get("stream") == "true"
        if request.path == "/responses/compact":
            return json.dumps({"id": "resp_2", "object": "response.compaction", "output": [], "usage": USAGE}).encode()
        if request.path == "/responses/resp_1/cancel":
            return json.dumps(self.response("cancelled")).encode()
        if request.path not in ("/responses", "/responses/resp_1"):
            raise Refused(404)
        if streams:
            begun = [self.event("response.created", "queued", 0)] if "starting_after" not in request.query else []
            return sse(*begun, {"type": "response.completed", "sequence_number": 1, "response": self.done()})
        if request.method == "GET":
            self.polls -= 1
        is_done = request.method == "GET" and self.polls < 0
        return json.dumps(self.done() if is_done else self.response("queued")).encode()

    def event(self, kind: str, status: str, number: int) -> dict[str, Any]:
        return {"type": kind, "sequence_number": number, "response": self.response(status)}


@pytest.fixture
def wire() -> Iterator[BackgroundWire]:
    with BackgroundWire() as server:
        yield server


@pytest.fixture
def rest(kind: str, wire: BackgroundWire) -> Iterator[Caller]:
    caller = Caller(kind, wire, base_url=wire.url)
    later._known.clear()
    yield caller
    caller.close()


def poll(rest: Caller, **more: Any) -> Any:
    return rest.wait(rest.client.responses.retrieve("resp_1", **more))


def test_call_background(rest: Caller, spans: Spans) -> None:
    """The request is a call without usage, polls are none, and the first one that sees the end tells the usage, once,
    of the agent and user that asked."""
    with egisai.context(user_id="ada"):
        rest.wait(rest.client.responses.create(**ASKED))
    [queued] = spans.calls()
    assert told(queued) == {"id": "resp_1", "model": "gpt-4.1"}
    with egisai.context(user_id="poller", agent="Poller"):
        assert [poll(rest).status for _ in range(4)] == ["queued", "queued", "completed", "completed"]
    _, answered = spans.calls()
    assert told(answered) == END
    for name in ("user.id", "egisai.agent.id", "egisai.agent.source", "egisai.prompt.fingerprint"):
        assert answered.attributes[name] == queued.attributes[name], name
    assert answered.attributes["user.id"] == "ada"
    assert answered.name == "chat gpt-4.1"
    assert queued.start_time <= answered.start_time <= queued.end_time < answered.end_time


def test_call_background_raw(rest: Caller, spans: Spans) -> None:
    """The same where the caller takes raw responses, and parses them."""
    rest.wait(rest.client.responses.with_raw_response.create(**ASKED)).parse()
    for _ in range(4):
        rest.wait(rest.client.responses.with_raw_response.retrieve("resp_1")).parse()
    assert [told(span).get("input") for span in spans.calls()] == [None, 12]


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_call_background_error(rest: Caller, spans: Spans, wire: BackgroundWire, ends: str) -> None:
    """What went wrong while nobody looked, or was cancelled."""
    wire.ends, wire.polls = ends, 0
    rest.wait(rest.client.responses.create(**ASKED))
    poll(rest)
    _, span = spans.calls()
    assert span.attributes.get("error.type") == ("server_error" if ends == "failed" else None)
    assert span.attributes.get("egisai.call.complete") is (None if ends == "failed" else False)
    assert span.status.status_code is (StatusCode.ERROR if ends == "failed" else StatusCode.UNSET)


def test_cancel(rest: Caller, spans: Spans) -> None:
    """Whoever cancels sees the end."""
    rest.wait(rest.client.responses.create(**ASKED))
    rest.wait(rest.client.responses.cancel("resp_1"))
    assert poll(rest).status == "queued"  # of a wire that forgets
    assert [span.attributes.get("egisai.call.complete") for span in spans.calls()] == [None, False]


def test_a_strangers_response(rest: Caller, spans: Spans, wire: BackgroundWire) -> None:
    """A response that another process asked for, or that was there before, is no call of this process."""
    wire.polls = 0
    assert poll(rest).status == "completed"
    assert spans.calls() == []


def test_call_resumed(rest: Caller, spans: Spans, wire: BackgroundWire) -> None:
    """A stream that broke and is taken up again tells the usage; taken once more, it is a call without."""
    wire.hooks.append(break_stream(1))
    with pytest.raises(Exception):  # noqa: B017 - the SDK's, or its HTTP client's
        list(rest.each(rest.wait(rest.client.responses.create(**ASKED, stream=True))))
    [broken] = spans.calls()
    assert told(broken) == {"id": "resp_1", "model": "gpt-4.1"}
    for _ in range(2):
        chunks = list(rest.each(poll(rest, stream=True, starting_after=0)))
        assert [chunk.type for chunk in chunks] == ["response.completed"]
    _, resumed, again = spans.calls()
    assert told(resumed) == END
    assert told(again) == {"id": "resp_1", "model": "gpt-4.1", "reasons": ("stop",)}
    assert resumed.attributes["egisai.agent.id"] == broken.attributes["egisai.agent.id"]
    assert poll(rest).status
    assert len(spans.calls()) == 3


def test_a_strangers_stream(rest: Caller, spans: Spans) -> None:
    """Streamed, another process' response is a call: that this one is the first to see the end is likely."""
    list(rest.each(poll(rest, stream=True)))
    assert told(spans.calls()[0]) == END


def test_call_resumed_helper(rest: Caller, spans: Spans) -> None:
    with rest.within(rest.client.responses.stream(response_id="resp_1")) as stream:
        assert rest.wait(stream.get_final_response()).id == "resp_1"
    assert [told(span) for span in spans.calls()] == [END]


def test_bounded(rest: Caller, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses that nobody fetches are forgotten, the oldest first."""
    monkeypatch.setattr(later, "_MAX_KNOWN", 1)
    rest.wait(rest.client.responses.create(**ASKED))
    origin = later._known["resp_1"]
    assert origin is not None
    later._note(type("Response", (), {"id": "resp_0", "status": "queued"}), origin)
    assert list(later._known) == ["resp_0"]
    assert "Why twice?" not in str(origin.body)


@pytest.mark.skipif(VERSION < (2, 20), reason="this version has no compaction")
def test_compact(rest: Caller, spans: Spans) -> None:
    """A conversation made shorter by a model is a call."""
    rest.wait(rest.client.responses.compact(model="gpt-4.1", input="Why twice?"))
    assert told(spans.calls()[0]) == {
        "id": "resp_2",
        **{word: END[word] for word in ("input", "output", "cached", "reasoning")},
    }
