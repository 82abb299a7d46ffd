"""Frameworks over OpenAI's client, and LiteLLM, described as the contract suite describes a client."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.instrumentation.clients import _openai_wire
from tests.instrumentation.clients import litellm as lite
from tests.instrumentation.clients._openai_wire import USAGE, ChatWire, messages
from tests.instrumentation.contract import Ask, Form, Subject
from tests.instrumentation.wire import Request

MODEL = "gpt-4.1-mini"
TOKENS = {"input": USAGE["prompt_tokens"], "output": USAGE["completion_tokens"]}


class OpenAIWire(ChatWire):
    """Usage of a stream only on request, in a chunk of its own, as OpenAI does it."""

    model = MODEL

    def last_chunk(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def answer(self, request: Request) -> bytes | list[bytes]:
        answer = super().answer(request)
        if isinstance(answer, list) and (request.body.get("stream_options") or {}).get("include_usage"):
            head = {"id": "chatcmpl-1", "created": 1767225600, "model": MODEL, "object": "chat.completion.chunk"}
            answer[-1:-1] = _openai_wire.sse({**head, "choices": [], "usage": USAGE}, done=False)
        return answer


def _said(_: Any) -> dict[str, Any]:
    return TOKENS


def subject(library: str, imports: str, make: Any, chat: Any, stream: Any, close: Any = lambda _: None) -> Subject:
    """A library whose two ways to ask are `chat` and `stream`, of what `make` makes for a server's URL."""
    return Subject(
        library=library,
        imports=imports,
        provider="openai",
        model=MODEL,
        wire=OpenAIWire,
        make=lambda url, _: make(f"{url}/v1"),
        close=close,
        forms=(Form("chat", chat, _said), Form("stream", stream, _said, stream=True)),
    )


# --- openai -----------------------------------------------------------------------------------------------------------


def _openai(url: str) -> Any:
    import openai

    return openai.OpenAI(base_url=url, api_key="sk-local", max_retries=0)


def _close(client: Any) -> None:
    client.close()


def _langfuse_openai(url: str) -> Any:
    from langfuse.openai import OpenAI

    return OpenAI(base_url=url, api_key="sk-local", max_retries=0)


def _observed(client: Any, ask: Ask, kind: Any = None, **more: Any) -> Any:
    from langfuse import observe

    return observe(as_type=kind)(_chat)(client, ask, **more)


def _chat(client: Any, ask: Ask, **more: Any) -> Any:
    return client.chat.completions.create(model=ask.model, messages=messages(ask), **more)


def _stream(client: Any, ask: Ask) -> Any:
    return _chat(client, ask, stream=True)


# --- langchain --------------------------------------------------------------------------------------------------------


def _langchain(url: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=MODEL, base_url=url, api_key="sk-local", max_retries=0)


def _pairs(ask: Ask) -> list[tuple[str, str]]:
    return [("system", ask.system), ("user", ask.content)]


# --- openai-agents ----------------------------------------------------------------------------------------------------


def _in_a_loop(run: Any) -> Any:
    """Makes `run(client, ask)` a function of a server's URL, with a client and a loop of its own."""

    def call(url: str, ask: Ask) -> Any:
        import openai

        async def whole() -> Any:
            async with openai.AsyncOpenAI(base_url=url, api_key="sk-local", max_retries=0) as client:
                return await run(client, ask)

        return asyncio.run(whole())

    return call


def _agent(client: Any, ask: Ask) -> Any:
    from agents import Agent, OpenAIChatCompletionsModel

    return Agent(name="helper", instructions=ask.system, model=OpenAIChatCompletionsModel(MODEL, client))


async def _agents_chat(client: Any, ask: Ask) -> Any:
    from agents import Runner

    return await Runner.run(_agent(client, ask), ask.content)


async def _agents_stream(client: Any, ask: Ask) -> list[Any]:
    from agents import Runner

    return [event async for event in Runner.run_streamed(_agent(client, ask), ask.content).stream_events()]


# --- pydantic-ai ------------------------------------------------------------------------------------------------------


def _pydantic_agent(client: Any, ask: Ask) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client)), instructions=ask.system)


async def _pydantic_chat(client: Any, ask: Ask) -> Any:
    return await _pydantic_agent(client, ask).run(ask.content)


async def _pydantic_stream(client: Any, ask: Ask) -> list[Any]:
    async with _pydantic_agent(client, ask).run_stream(ask.content) as result:
        return [text async for text in result.stream_text(debounce_by=None)]


# --- smolagents -------------------------------------------------------------------------------------------------------


def _smolagents(url: str) -> Any:
    from smolagents import OpenAIServerModel

    return OpenAIServerModel(MODEL, api_base=url, api_key="sk-local")


def _messages(ask: Ask) -> list[Any]:
    from smolagents import ChatMessage

    return [
        ChatMessage(role=role, content=[{"type": "text", "text": text}])
        for role, text in (("system", ask.system), ("user", ask.content))
    ]


# --- litellm ----------------------------------------------------------------------------------------------------------


def _litellm(url: str) -> Any:
    return lite.Client(url.removesuffix("/v1"), "sync")


FRAMEWORKS = {
    "openai": subject("openai", "openai", _openai, _chat, _stream, _close),
    "langfuse.openai": subject("langfuse", "langfuse.openai", _langfuse_openai, _chat, _stream),
    "langfuse.observe": subject(
        "langfuse",
        "langfuse",
        _openai,
        _observed,
        lambda client, ask: _observed(client, ask, "generation", stream=True),
    ),
    "langchain": subject(
        "langchain-openai",
        "langchain_openai",
        _langchain,
        lambda client, ask: client.invoke(_pairs(ask)),
        lambda client, ask: client.stream(_pairs(ask)),
    ),
    "openai-agents": subject("openai-agents", "agents", str, _in_a_loop(_agents_chat), _in_a_loop(_agents_stream)),
    "pydantic-ai": subject(
        "pydantic-ai-slim", "pydantic_ai", str, _in_a_loop(_pydantic_chat), _in_a_loop(_pydantic_stream)
    ),
    "smolagents": subject(
        "smolagents",
        "smolagents",
        _smolagents,
        lambda model, ask: model.generate(_messages(ask)),
        lambda model, ask: model.generate_stream(_messages(ask)),
    ),
    "litellm": subject(
        "litellm", "litellm", _litellm, lite._chat, lambda client, ask: lite._chat(client, ask, stream=True)
    ),
}
