"""OpenAI over websockets: each response is a call, whatever else is said over the connection."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.instrumentation.contract import told
from tests.instrumentation.forms import SYSTEM, VERSION, Caller
from tests.instrumentation.sockets import Cut, Say, SocketWire

import egisai
from conftest import Spans
from egisai_instrumentation import content

if VERSION < (1, 59):
    pytest.skip("this version has no websockets", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning"),  # the SDK's
    pytest.mark.filterwarnings("ignore:The beta:DeprecationWarning"),
]

USAGE = {
    "total_tokens": 15,
    "input_tokens": 12,
    "output_tokens": 3,
    "input_token_details": {"text_tokens": 7, "audio_tokens": 5, "cached_tokens": 4},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 0},
}
TOLD = {"id": "resp_1", "reasons": ("stop",), "input": 12, "output": 3, "cached": 4}
MODEL = "gpt-realtime"
SINCE = {"realtime": (1, 107), "beta": (1, 59), "responses": (2, 24)}
APIS = [api for api, since in SINCE.items() if since <= VERSION]
NEWEST = APIS[:1]


class Model:
    """Answers every `response.create`, or what it is told to answer."""

    def __init__(self) -> None:
        self.count = 0
        self.ends: dict[str, Any] = {"status": "completed"}
        self.is_cut = False
        self.refuses: dict[str, Any] | None = None

    def __call__(self, message: dict[str, Any], say: Say) -> None:
        if message["type"] == "unasked":
            self.answer(say, is_realtime=True)
        if message["type"] == "response.cancel":
            self.ends = {"status": "cancelled", "status_details": {"type": "cancelled", "reason": "client_cancelled"}}
            say({"type": "response.done", "event_id": "e9", "response": self.response(is_realtime=True)})
        if message["type"] != "response.create":
            return
        is_realtime = "response" in message or "model" not in message
        if self.refuses is not None:
            say({"type": "error", "event_id": "e1", "error": {"message": "no", "type": "invalid", **self.refuses}})
        else:
            self.answer(say, is_realtime=is_realtime)

    def answer(self, say: Say, *, is_realtime: bool) -> None:
        self.count += 1
        begun = {"type": "response.created", "event_id": "e1", "sequence_number": 0}
        say({**begun, "response": {**self.response(is_realtime), "status": "in_progress", "usage": None, "output": []}})
        delta = {"type": "response.output_text.delta", "event_id": "e2", "item_id": "i", "output_index": 0}
        identified = {"response_id": f"resp_{self.count}"} if is_realtime else {"sequence_number": 1}
        say({**delta, **identified, "content_index": 0, "delta": "Sorry"})
        if self.is_cut:
            raise Cut
        if self.ends["status"] == "held":
            return
        end = "done" if is_realtime else self.ends["status"]
        said = {"event_id": "e3", "sequence_number": 2, "response": self.response(is_realtime)}
        say({"type": f"response.{end}", **said})

    def response(self, is_realtime: bool) -> dict[str, Any]:
        part = {"type": "output_text", "text": "Sorry.", "annotations": []}
        item = {"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        head = {"id": f"resp_{self.count}", "output": [item], **self.ends}
        if is_realtime:
            return {"object": "realtime.response", "conversation_id": "conv_1", "usage": USAGE, **head}
        cached, reasoned = {"cached_tokens": 4}, {"reasoning_tokens": 0}
        usage = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15, "input_tokens_details": cached}
        rest = {"object": "response", "model": MODEL, "usage": {**usage, "output_tokens_details": reasoned}}
        return {"created_at": 1, "error": None, "incomplete_details": None, "tools": [], **rest, **head}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def wire(model: Model) -> Iterator[SocketWire]:
    session = {"type": "realtime", "model": MODEL, "instructions": "You are a helpful assistant of OpenAI's."}
    with SocketWire(model, {"type": "session.created", "event_id": "e0", "session": session}) as server:
        yield server


@pytest.fixture
def caller(kind: str, wire: SocketWire) -> Iterator[Caller]:
    made = Caller(kind, wire, websocket_base_url=wire.base_url.replace("http", "ws"))  # type: ignore[arg-type] - it only needs a URL
    yield made
    made.close()


Open = Callable[..., Any]


@pytest.fixture
def connect(caller: Caller, wire: SocketWire) -> Open:
    """Opens a connection of an API, with its opening message read."""

    @contextlib.contextmanager
    def opened(api: str) -> Iterator[Any]:
        client = caller.client.beta if api == "beta" else caller.client
        manager = client.responses.connect() if api == "responses" else client.realtime.connect(model=MODEL)
        with caller.within(manager) as connection:
            assert caller.wait(connection.recv()).type == "session.created"
            yield connection

    return opened


def ask(caller: Caller, connection: Any, api: str, **more: Any) -> None:
    if api == "responses":
        said = {"model": MODEL, "instructions": SYSTEM, "input": "Why twice?", **more}
        caller.wait(connection.response.create(**said))
    else:
        caller.wait(connection.session.update(session={"type": "realtime", "instructions": SYSTEM}))
        caller.wait(connection.response.create(response={"output_modalities": ["text"]}, **more))


def until_end(caller: Caller, connection: Any) -> list[Any]:
    events: list[Any] = []
    while not events or events[-1].type not in ("response.done", "response.completed", "response.failed", "error"):
        events.append(caller.wait(connection.recv()))
    return events


@pytest.mark.parametrize("api", APIS)
def test_call_modes(caller: Caller, connect: Open, spans: Spans, wire: SocketWire, api: str) -> None:
    """One response is one call, with the agent of its instructions and the facts of who asked."""
    with connect(api) as connection:
        with egisai.context(user_id="ada", session_id="s-1"):
            ask(caller, connection, api)
        events = until_end(caller, connection)
        assert [event.type for event in events][:2] == ["response.created", "response.output_text.delta"]
        [span] = spans.calls()
    assert told(span) == {**TOLD, **({"model": MODEL, "reasoning": 0} if api == "responses" else {})}
    assert span.name == f"chat {MODEL}"
    attributes = span.attributes
    assert (attributes["gen_ai.request.model"], attributes["gen_ai.provider.name"]) == (MODEL, "openai")
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", wire.port)
    assert (attributes["user.id"], attributes["egisai.agent.source"]) == ("ada", "fingerprint")
    assert attributes["gen_ai.conversation.id"] == ("s-1" if api == "responses" else "conv_1")
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    if api != "responses":
        assert attributes["gen_ai.usage.audio.input_tokens"] == 5
        assert attributes["gen_ai.usage.text.output_tokens"] == 3
    assert not any("ada" in head for head in wire.heads)


@pytest.mark.parametrize("api", NEWEST)
def test_conversation(caller: Caller, connect: Open, spans: Spans, api: str) -> None:
    """Several responses: instructions of the session hold until a response has its own; OpenAI's own are nobody's."""
    with connect(api) as connection:
        caller.wait(connection.response.create())
        until_end(caller, connection)
        for _ in range(2):
            ask(caller, connection, api)
            until_end(caller, connection)
        caller.wait(connection.response.create(response={"instructions": "You translate poems from Greek."}))
        until_end(caller, connection)
    default, first, second, other = (span.attributes for span in spans.calls())
    assert default["egisai.agent.source"] == "app"
    assert first["egisai.agent.id"] == second["egisai.agent.id"] != other["egisai.agent.id"]
    assert [each["gen_ai.response.id"] for each in (default, first, second, other)] == [
        f"resp_{n}" for n in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("api", NEWEST)
def test_unasked(caller: Caller, connect: Open, spans: Spans, api: str) -> None:
    """A response that the server begins, such as after somebody spoke, is a call of whoever hears it."""
    with connect(api) as connection:
        caller.wait(connection.send({"type": "unasked"}))
        with egisai.context(agent="Receptionist"):
            until_end(caller, connection)
        [span] = spans.calls()
    assert told(span) == TOLD
    assert span.attributes["gen_ai.agent.name"] == "Receptionist"


@pytest.mark.parametrize("api", NEWEST)
def test_cancelled(caller: Caller, connect: Open, spans: Spans, model: Model, api: str) -> None:
    model.ends = {"status": "held"}
    with connect(api) as connection:
        ask(caller, connection, api)
        for _ in range(2):
            caller.wait(connection.recv())
        assert spans.calls() == []
        caller.wait(connection.response.cancel())
        until_end(caller, connection)
        [span] = spans.calls()
    assert told(span) == {**TOLD, "reasons": ("client_cancelled",)}
    assert span.attributes["egisai.call.complete"] is False
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("api", APIS)
def test_connection_lost(caller: Caller, connect: Open, spans: Spans, model: Model, api: str) -> None:
    """What was told until the connection went is on the span, and that it was not all."""
    model.is_cut = True
    with pytest.raises(Exception, match="close"):
        _ask_once(caller, connect, api)
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert span.attributes["error.type"] == "websockets.exceptions.ConnectionClosedError"
    assert told(span)["id"] == "resp_1"


def _ask_once(caller: Caller, connect: Open, api: str) -> None:
    with connect(api) as connection:
        ask(caller, connection, api)
        until_end(caller, connection)


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_left(caller: Caller, spans: Spans, model: Model, how: str) -> None:
    """A response that nobody waits for any more: its connection is closed, or forgotten."""
    model.ends = {"status": "held"}
    manager = (caller.client if NEWEST == ["realtime"] else caller.client.beta).realtime.connect(model=MODEL)
    connection = caller.wait(manager.enter())
    websocket = connection._connection
    ask(caller, connection, *NEWEST)
    while caller.wait(connection.recv()).type != "response.created":
        assert spans.calls() == []
    if how == "closed":
        caller.wait(connection.close())
    del connection, manager
    gc.collect()
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert "error.type" not in span.attributes
    caller.wait(websocket.close())


@pytest.mark.parametrize("api", APIS)
def test_call_error(caller: Caller, connect: Open, spans: Spans, model: Model, api: str) -> None:
    """A refused request is an error, and the next one is answered."""
    model.refuses = {"code": "conversation_already_has_active_response"}
    with connect(api) as connection:
        ask(caller, connection, api)
        until_end(caller, connection)
        model.refuses = None
        ask(caller, connection, api)
        until_end(caller, connection)
    refused, answered = spans.calls()
    assert refused.attributes["error.type"] == "conversation_already_has_active_response"
    assert refused.status.status_code is StatusCode.ERROR
    assert told(answered)["input"] == 12


@pytest.mark.parametrize("api", NEWEST)
def test_errors_of_others(caller: Caller, connect: Open, spans: Spans, wire: SocketWire, api: str) -> None:
    """An error that is about another message ends no call; one that names its message ends that one."""
    wire.play = lambda _, say: say({"type": "error", "event_id": "e", "error": errors.pop(0)})
    error = {"message": "no", "type": "invalid", "code": "bad", "event_id": None, "param": None}
    errors = [{**error, "param": "session.voice"}, {**error, "event_id": "mine"}, {**error, "event_id": "second"}]
    with connect(api) as connection:
        for name in ("first", "second", "third"):
            caller.wait(connection.response.create(event_id=name))
            caller.wait(connection.recv())
        [span] = spans.calls()
        assert span.attributes["error.type"] == "bad"


@pytest.mark.parametrize("api", APIS)
def test_never_sent(caller: Caller, connect: Open, spans: Spans, api: str) -> None:
    """What could not be sent is an error, and stands for no later response."""
    with connect(api) as connection:
        with pytest.raises(TypeError, match="serializable"):
            caller.wait(connection.send({"type": "response.create", "model": MODEL, "metadata": {"x": object()}}))
        with egisai.context(user_id="ada"):
            ask(caller, connection, api)
        until_end(caller, connection)
    failed, answered = spans.calls()
    assert failed.attributes["error.type"] == "TypeError"
    assert (told(answered)["input"], answered.attributes["user.id"]) == (12, "ada")


@pytest.mark.parametrize("api", APIS)
def test_failed(caller: Caller, connect: Open, spans: Spans, model: Model, api: str) -> None:
    """A response that fails was begun and billed."""
    error = {"code": "rate_limit_exceeded", "message": "no"}
    details = {"status_details": {"type": "failed", "error": error}} if api != "responses" else {"error": error}
    model.ends = {"status": "failed", **details}
    _ask_once(caller, connect, api)
    [span] = spans.calls()
    assert (span.attributes["error.type"], told(span)["input"]) == ("rate_limit_exceeded", 12)
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("api", APIS)
def test_content(caller: Caller, connect: Open, spans: Spans, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said since the last response, and the answer."""
    monkeypatch.setattr(content, "mode", content.Mode(span=True, event=False))
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why twice?"}]}
    with connect(api) as connection:
        if api != "responses":
            caller.wait(connection.conversation.item.create(item=item))
        ask(caller, connection, api)
        until_end(caller, connection)
    attributes = spans.only()
    assert "Why twice?" in str(attributes["gen_ai.input.messages"])
    assert "Sorry." in str(attributes["gen_ai.output.messages"])
    assert SYSTEM in str(attributes["gen_ai.system_instructions"])


@pytest.mark.parametrize("api", NEWEST)
def test_system_item(caller: Caller, connect: Open, spans: Spans, api: str) -> None:
    """A system message in the conversation says who the agent is, from then on."""
    item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": SYSTEM}]}
    with connect(api) as connection:
        caller.wait(connection.conversation.item.create(item=item))
        for _ in range(2):
            caller.wait(connection.response.create())
            until_end(caller, connection)
    first, second = (span.attributes for span in spans.calls())
    assert first["egisai.agent.source"] == "fingerprint"
    assert first["egisai.agent.id"] == second["egisai.agent.id"]
