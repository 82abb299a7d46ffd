"""mcp 1 traces nothing: the client's tool spans are ours. It conflicts with the lock, so this runs where it is."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import egisai
from conftest import Spans
from egisai_instrumentation import content

mcp = pytest.importorskip("mcp")
if not version("mcp").startswith("1."):
    pytest.skip("mcp 2 makes its own spans: test_mcp.py", allow_module_level=True)

SERVER = """
from mcp.server.fastmcp import FastMCP
server = FastMCP("s")

@server.tool()
def refund(order: int) -> str:
    return f"refunded {order}"

server.run("stdio")
"""


def _call(tmp_path: Path, arguments: dict[str, Any]) -> Any:
    from mcp.client.stdio import stdio_client

    program = tmp_path / "server.py"
    program.write_text(SERVER)

    async def main() -> Any:
        parameters = mcp.StdioServerParameters(command=sys.executable, args=[str(program)])
        async with stdio_client(parameters) as streams, mcp.ClientSession(*streams) as session:
            await session.initialize()
            with egisai.context(agent="billing", user_id="u-1"):
                before = trace.get_current_span()
                result = await session.call_tool("refund", arguments)
                assert trace.get_current_span() is before
                return result

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_mcp_1_tool(spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One span a tool call, attributed, with arguments and results where content is wanted."""
    for mode in (None, content.Mode(span=True, event=False)):
        monkeypatch.setattr(content, "mode", mode)
        assert _call(tmp_path, {"order": 7}).content[0].text == "refunded 7"
        [span] = spans.all()
        spans.exporter.clear()
        attributes = dict(span.attributes)
        assert (span.name, span.kind) == ("tools/call refund", SpanKind.CLIENT)
        assert (attributes["gen_ai.operation.name"], attributes["gen_ai.tool.name"]) == ("execute_tool", "refund")
        assert (attributes["gen_ai.agent.name"], attributes["user.id"]) == ("billing", "u-1")
        assert ("gen_ai.tool.call.arguments" in attributes) is (mode is not None)
        if mode is not None:
            assert json.loads(attributes["gen_ai.tool.call.arguments"]) == {"order": 7}
            assert json.loads(attributes["gen_ai.tool.call.result"])[0]["text"] == "refunded 7"


def test_mcp_1_tool_fails(spans: Spans, tmp_path: Path) -> None:
    """A tool's own error is the span's, and the caller's result as ever."""
    assert _call(tmp_path, {"order": "none"}).isError
    [span] = spans.all()
    assert span.attributes["error.type"] == "tool_error"
    assert span.status.status_code is StatusCode.ERROR
