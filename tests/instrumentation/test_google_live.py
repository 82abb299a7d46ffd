"""Gemini's live sessions: each turn of the model is a call, whatever else is said in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from tests.instrumentation.contract import told
from tests.instrumentation.sockets import Cut, Say, SocketWire

import egisai
from conftest import Spans
from egisai_instrumentation import content

genai = pytest.importorskip("google.genai")
MODEL = "gemini-2.5-flash-native-audio"
SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."
ASKED = {"role": "user", "parts": [{"text": "Why twice?"}]}
TEXT = {"response_modalities": ["TEXT"], "system_instruction": SYSTEM, "temperature": 0.5}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of `send`, and of types that it imports


def used(response: int) -> dict[str, Any]:
    """What the server tells of usage, again and again."""
    details = [{"modality": "TEXT", "tokenCount": 12}]
    counts = {"promptTokenCount": 12, "responseTokenCount": response, "thoughtsTokenCount": 2}
    return {"usageMetadata": {**counts, "totalTokenCount": 14 + response, "promptTokensDetails": details}}


def content_of(**said: Any) -> dict[str, Any]:
    return {"serverContent": said}


def text(said: str) -> dict[str, Any]:
    return content_of(modelTurn={"role": "model", "parts": [{"text": said}]})


class Model:
    """Answers what asks for an answer."""

    def __init__(self) -> None:
        self.answers: list[list[dict[str, Any]]] = []
        self.is_cut = False

    def __call__(self, message: dict[str, Any], say: Say) -> None:
        if "setup" in message:
            say({"setupComplete": {"sessionId": "s"}})
            return
        said = message.get("client_content") or message.get("clientContent") or {}
        is_turn = said.get("turnComplete") or said.get("turn_complete") or "tool_response" in message
        if not is_turn and "realtime_input" not in message:
            return
        if self.is_cut:
            say(text("Sor"))
            raise Cut
        default = [text("Sorry"), {**text(" about that."), **used(2)}, {**content_of(turnComplete=True), **used(3)}]
        say(*(self.answers.pop(0) if self.answers else default))


TOLD = {"reasons": ("stop",), "input": 12, "output": 5, "reasoning": 2}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def wire(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketWire]:
    """A server without TLS, which the client insists on."""
    from google.genai import live

    connect = live.ws_connect
    monkeypatch.setattr(live, "ws_connect", lambda uri, ssl=None, **more: connect(uri.replace("wss:", "ws:"), **more))
    with SocketWire(model) as server:
        yield server


Connect = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


@pytest.fixture
def connect(wire: SocketWire) -> Connect:
    @contextlib.asynccontextmanager
    async def opened(config: Any = TEXT) -> AsyncGenerator[Any, None]:
        client = genai.Client(api_key="k", http_options={"base_url": wire.base_url})
        async with client.aio.live.connect(model=MODEL, config=config) as session:
            yield session
        await client.aio.aclose()

    return opened


async def taken(session: Any) -> list[Any]:
    return [message async for message in session.receive()]


def test_call_modes(connect: Connect, spans: Spans, wire: SocketWire) -> None:
    """A turn is a call, with the agent of the session's instruction and the facts of who asked."""

    async def main() -> None:
        async with connect() as session:
            with egisai.context(user_id="ada"):
                await session.send_client_content(turns=ASKED)
            messages = await taken(session)
            assert "".join(message.text or "" for message in messages) == "Sorry about that."

    asyncio.run(main())
    [span] = spans.calls()
    assert told(span) == TOLD
    assert span.name == f"generate_content {MODEL}"
    attributes = span.attributes
    assert (attributes["gen_ai.provider.name"], attributes["gen_ai.request.temperature"]) == ("gcp.gemini", 0.5)
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", wire.port)
    assert (attributes["user.id"], attributes["egisai.agent.source"]) == ("ada", "fingerprint")
    assert attributes["gen_ai.usage.text.input_tokens"] == 12
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert not any("ada" in head for head in (*wire.heads, *map(str, wire.heard)))


def test_conversation(connect: Connect, spans: Spans) -> None:
    """Several turns; a message that completes none belongs to the next; text in real time asks too."""

    async def main() -> None:
        async with connect() as session:
            await session.send_client_content(turns=ASKED, turn_complete=False)
            await session.send_client_content(turns=ASKED)
            await taken(session)
            await session.send(input="Why?", end_of_turn=True)
            await taken(session)
            with egisai.context(user_id="ada"):
                await session.send_realtime_input(text="Why?")
            await taken(session)

    asyncio.run(main())
    assert [told(span) for span in spans.calls()] == [TOLD] * 3
    assert [span.attributes.get("user.id") for span in spans.calls()] == [None, None, "ada"]
    assert len({span.attributes["egisai.agent.id"] for span in spans.calls()}) == 1


def test_tools(connect: Connect, spans: Spans, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn in which a tool is asked for and answers is one call."""
    monkeypatch.setattr(content, "mode", content.Mode(span=True, event=False))
    called = {"toolCall": {"functionCalls": [{"id": "f-1", "name": "refund", "args": {"order": 7}}]}}
    model.answers = [[{**called, **used(1)}]]

    async def main() -> None:
        async with connect() as session:
            await session.send_client_content(turns=ASKED)
            message = await session._receive()
            assert message.tool_call.function_calls[0].name == "refund"
            answer = {"id": "f-1", "name": "refund", "response": {"done": True}}
            await session.send_tool_response(function_responses=answer)
            await taken(session)

    asyncio.run(main())
    [span] = spans.calls()
    assert told(span) == TOLD
    assert "Why twice?" in str(span.attributes["gen_ai.input.messages"])
    assert SYSTEM in str(span.attributes["gen_ai.system_instructions"])
    for said in ("refund", "Sorry about that."):
        assert said in str(span.attributes["gen_ai.output.messages"])


def test_interrupted(connect: Connect, spans: Spans, model: Model) -> None:
    """A turn that somebody spoke into was not all."""
    model.answers = [[text("Sor"), content_of(interrupted=True), {**content_of(turnComplete=True), **used(1)}]]

    async def main() -> None:
        async with connect() as session:
            await session.send_client_content(turns=ASKED)
            await taken(session)

    asyncio.run(main())
    [span] = spans.calls()
    assert told(span) == {**TOLD, "reasons": ("interrupted",), "output": 3}
    assert span.attributes["egisai.call.complete"] is False


def test_asked_twice(connect: Connect, spans: Spans, model: Model) -> None:
    """Whatever is said before the model answers is answered once."""
    model.answers = [[]]

    async def main() -> None:
        async with connect() as session:
            for said in ("Why?", "Why twice?"):
                await session.send_realtime_input(text=said)
            await taken(session)

    asyncio.run(main())
    assert [told(span) for span in spans.calls()] == [TOLD]


def test_unasked(connect: Connect, spans: Spans) -> None:
    """What the model says to sounds is a call of whoever hears it."""

    async def main() -> None:
        async with connect(None) as session:
            await session.send_realtime_input(audio={"data": b"\0\0", "mime_type": "audio/pcm"})
            with egisai.context(agent="Receptionist"):
                await taken(session)

    asyncio.run(main())
    attributes = spans.only()
    assert attributes["gen_ai.agent.name"] == "Receptionist"
    assert attributes["gen_ai.request.model"] == MODEL


def test_connection_lost(connect: Connect, spans: Spans, model: Model) -> None:
    model.is_cut = True

    async def main() -> None:
        async with connect() as session:
            await session.send_client_content(turns=ASKED)
            with pytest.raises(Exception, match="1006"):
                await taken(session)

    asyncio.run(main())
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert span.attributes["error.type"].startswith("google.genai.errors.")


@pytest.mark.parametrize("how", ["left", "closed"])
def test_left(connect: Connect, spans: Spans, model: Model, how: str) -> None:
    model.answers = [[text("Sor")]]

    async def main() -> None:
        async with connect() as session:
            await session.send_client_content(turns=ASKED)
            await session._receive()
            assert spans.calls() == []
            if how == "closed":
                await session.close()
                assert len(spans.calls()) == 1

    asyncio.run(main())
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert "error.type" not in span.attributes


@pytest.mark.skipif(int(version("google-genai").split(".")[0]) < 3, reason="this version cannot")
def test_another_instruction(connect: Connect, spans: Spans) -> None:
    """The system instruction may be changed; the agent is that of the new one."""
    from google.genai import types

    async def main() -> None:
        for config in (TEXT, types.LiveConnectConfig(system_instruction=SYSTEM), None):
            async with connect(config) as session:
                await session.send_context_update(system_instruction="You translate poems from Greek.")
                await session.send_client_content(turns=ASKED)
                await taken(session)

    asyncio.run(main())
    first, second, third = (span.attributes["egisai.agent.id"] for span in spans.calls())
    assert first == second == third
    assert spans.calls()[2].attributes["egisai.agent.source"] == "fingerprint"
