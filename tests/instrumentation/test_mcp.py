"""MCP: tools that are called, over real stdio and streamable HTTP, as spans of the agent that calls them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach
from opentelemetry.trace import SpanKind, StatusCode

import egisai
from conftest import Spans
from egisai_instrumentation import content

mcp = pytest.importorskip("mcp")
if version("mcp").startswith("1."):
    pytest.skip("mcp 1 makes no spans: test_mcp_1.py", allow_module_level=True)

FACTS = {"agent": "billing", "user_id": "alice@example.com", "session_id": "s-1"}

SERVER = """
from mcp.server.mcpserver import Context, MCPServer
server = MCPServer("s")

@server.tool()
def refund(order: int) -> str:
    return f"refunded {order}"

@server.tool()
def broken() -> str:
    raise ValueError("no such order")

@server.tool()
def meta(ctx: Context) -> str:
    import json
    return json.dumps(dict(ctx.request_context.meta or {}), default=str)
"""


@pytest.fixture
def traced(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Spans:
    """mcp makes its spans on the global provider; its tracer is told apart here, because that can be set but once."""
    otel = pytest.importorskip("mcp.shared._otel")
    monkeypatch.setattr(otel, "_tracer", spans.provider.get_tracer("mcp-python-sdk"))
    return spans


@asynccontextmanager
async def _stdio(_: str, tmp_path: Path) -> Any:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    program = tmp_path / "server.py"
    program.write_text(SERVER + "\nserver.run('stdio')\n")
    async with stdio_client(StdioServerParameters(command=sys.executable, args=[str(program)])) as streams:
        yield streams


@asynccontextmanager
async def _http(url: str, _: Path) -> Any:
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as streams:
        yield streams[:2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of ours over streamable HTTP, in this process."""
    uvicorn = pytest.importorskip("uvicorn")
    names: dict[str, Any] = {}
    exec(SERVER, names)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(names["server"].streamable_http_app(), port=0, log_level="error", ws="none")
    server = Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(params=["stdio", "http"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:
    """Runs a coroutine with a session over this transport."""
    connect = _stdio if request.param == "stdio" else _http
    url = request.getfixturevalue("url") if request.param == "http" else ""

    def run(work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with connect(url, tmp_path) as (read, write), mcp.ClientSession(read, write) as session:
                await session.initialize()
                return await work(session)

        return asyncio.run(asyncio.wait_for(main(), 20))

    return run


def _tools(spans: Spans, kind: SpanKind = SpanKind.CLIENT) -> list[Any]:
    """Tool spans of this side; a server in this process makes the other side's."""
    return [
        span for span in spans.all() if span.attributes.get("mcp.method.name") == "tools/call" and span.kind is kind
    ]


def test_mcp_tool(traced: Spans, run: Callable[..., Any]) -> None:
    """One client span, the client's own: a tool's, by name, of the agent that calls it."""

    async def work(session: Any) -> Any:
        with egisai.context(**FACTS):
            return await session.call_tool("refund", {"order": 7})

    assert run(work).content[0].text == "refunded 7"
    [span] = _tools(traced)
    attributes = dict(span.attributes)
    assert span.instrumentation_scope.name == "mcp-python-sdk"
    assert attributes["gen_ai.operation.name"] == "execute_tool"
    assert attributes["gen_ai.tool.name"] == "refund"
    assert attributes["gen_ai.agent.name"] == "billing"
    assert attributes["user.id"] == "alice@example.com"
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.tool.call.arguments" not in attributes
    assert span.end_time > span.start_time


def test_mcp_tool_fails(traced: Spans, run: Callable[..., Any]) -> None:
    """A tool's own error is the span's, and the caller's result as ever; and so is a tool that does not exist."""

    async def work(session: Any) -> Any:
        return await session.call_tool("broken")

    assert run(work).is_error
    [span] = _tools(traced)
    assert span.attributes["error.type"] == "tool_error"
    assert span.status.status_code is StatusCode.ERROR


def test_mcp_content(traced: Spans, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments and results where content is wanted."""
    monkeypatch.setattr("egisai_instrumentation.content.mode", content.Mode(span=True, event=False))

    async def work(session: Any) -> Any:
        return await session.call_tool("refund", {"order": 7})

    run(work)
    [span] = _tools(traced)
    assert json.loads(span.attributes["gen_ai.tool.call.arguments"]) == {"order": 7}
    assert json.loads(span.attributes["gen_ai.tool.call.result"])[0]["text"] == "refunded 7"


def test_mcp_cancelled(traced: Spans, run: Callable[..., Any]) -> None:
    """A timeout is the caller's, and ends the span."""

    async def work(session: Any) -> Any:
        task = asyncio.ensure_future(session.call_tool("refund", {"order": 7}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)
    assert all(span.end_time for span in _tools(traced))


def test_otel_no_leak_by_mcp_meta(traced: Spans, run: Callable[..., Any]) -> None:
    """What arrives at a server in `_meta` has other people's baggage and nothing of ours."""
    attach(baggage.set_baggage("theirs", "kept"))

    async def work(session: Any) -> Any:
        with egisai.context(**FACTS):
            return await session.call_tool("meta")

    arrived = run(work).content[0].text
    assert "theirs=kept" in arrived
    assert "traceparent" in arrived
    assert "egisai" not in arrived
    assert "alice" not in arrived


def test_mcp_server(traced: Spans, url: str, tmp_path: Path) -> None:
    """The server's own span is in the caller's trace; what the client did not tell it, it does not say."""

    async def main() -> None:
        async with _http(url, tmp_path) as (read, write), mcp.ClientSession(read, write) as session:
            await session.initialize()
            with egisai.context(**FACTS):
                await session.call_tool("refund", {"order": 7})

    asyncio.run(asyncio.wait_for(main(), 20))
    [client], [server] = _tools(traced), _tools(traced, SpanKind.SERVER)
    assert server.context.trace_id == client.context.trace_id
    assert server.parent.span_id == client.context.span_id
    assert server.attributes["gen_ai.tool.name"] == "refund"
    assert server.attributes["gen_ai.agent.name"] == "app"
    assert "user.id" not in server.attributes


def test_mcp_uninstrumented(traced: Spans, run: Callable[..., Any]) -> None:
    """Switched off, the client's span is what it was."""
    egisai.shutdown()

    async def work(session: Any) -> Any:
        return await session.call_tool("refund", {"order": 7})

    assert run(work).content[0].text == "refunded 7"
    assert all("gen_ai.operation.name" not in span.attributes for span in _tools(traced))
