"""One way to make every form of call: each API, sync and async, so that one test covers them all."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import openai
from tests.instrumentation.contract import told

from provider import Provider

__all__ = ["APIS", "HAS_RESPONSES", "MODEL", "SYSTEM", "VERSION", "Caller", "request", "resource", "said", "told"]

MODEL = "gpt-4.1-mini"
SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."
VERSION = tuple(int(part) for part in openai.__version__.split(".")[:2])
HAS_RESPONSES = VERSION >= (1, 66)
APIS = ("chat", "responses") if HAS_RESPONSES else ("chat",)


def request(api: str, **more: Any) -> dict[str, Any]:
    """What the API's `create` takes, with a system prompt unless `system=None`."""
    system = more.pop("system", SYSTEM)
    content = more.pop("content", "Why was my card charged twice?")
    if api == "embeddings":
        return {"model": "text-embedding-3-small", "input": content, **more}
    if api == "responses":
        return {"model": MODEL, "input": content, **({"instructions": system} if system else {}), **more}
    messages = [{"role": "system", "content": system}] if system else []
    return {"model": MODEL, "messages": [*messages, {"role": "user", "content": content}], **more}


def resource(client: Any, api: str) -> Any:
    """Where the API's `create` is."""
    return client.chat.completions if api == "chat" else getattr(client, api)


class Caller:
    """A client and, for an async one, the loop it lives on. Everything reads as if it were sync."""

    def __init__(self, kind: str, server: Provider, **options: Any) -> None:
        self.is_async = kind == "async"
        self.server = server
        self._loop = asyncio.new_event_loop() if self.is_async else None
        options = {"api_key": "sk-local", "max_retries": 0, "timeout": 20.0, **options}
        if "azure_endpoint" in options:
            make: Any = openai.AsyncAzureOpenAI if self.is_async else openai.AzureOpenAI
        else:
            make = openai.AsyncOpenAI if self.is_async else openai.OpenAI
            options.setdefault("base_url", server.base_url)
        self.client: Any = make(**options)

    def wait(self, value: Any) -> Any:
        """The value, awaited where it has to be."""
        return self._loop.run_until_complete(value) if inspect.isawaitable(value) else value

    def create(self, api: str, **more: Any) -> Any:
        return self.wait(resource(self.client, api).create(**request(api, **more)))

    def each(self, stream: Any) -> Iterator[Any]:
        """The stream's chunks, as a `for` or `async for` gets them."""
        if not self.is_async:
            yield from stream
            return
        chunks = stream.__aiter__()
        while True:
            try:
                yield self._loop.run_until_complete(chunks.__anext__())
            except StopAsyncIteration:  # noqa: PERF203
                return

    @contextlib.contextmanager
    def within(self, manager: Any) -> Iterator[Any]:
        """`with manager` or `async with manager`."""
        if not self.is_async:
            with manager as entered:
                yield entered
            return
        entered = self.wait(manager.__aenter__())
        try:
            yield entered
        except BaseException as exc:
            if not self.wait(manager.__aexit__(type(exc), exc, exc.__traceback__)):
                raise
        else:
            self.wait(manager.__aexit__(None, None, None))

    def busy_connections(self) -> int:
        """Connections that were not given back to the client's pool."""
        pool = self.client._client._transport._pool
        return sum(not connection.is_idle() and not connection.is_closed() for connection in pool.connections)

    def close(self) -> None:
        self.wait(self.client.close())
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


def said(response: Any) -> dict[str, Any]:
    """The same, read from a response that the caller got."""
    usage = response.usage
    if hasattr(usage, "prompt_tokens"):
        tokens = {"input": usage.prompt_tokens, "output": usage.completion_tokens}
        before, after = usage.prompt_tokens_details, usage.completion_tokens_details
        reasons = tuple(choice.finish_reason for choice in response.choices)
    else:
        tokens = {"input": usage.input_tokens, "output": usage.output_tokens}
        before, after = usage.input_tokens_details, usage.output_tokens_details
        reasons = ("length" if response.status == "incomplete" else "stop",)
    details = {"cached": _member(before, "cached_tokens"), "reasoning": _member(after, "reasoning_tokens")}
    return {"id": response.id, "model": response.model, "reasons": reasons, **tokens, **details}


def _member(details: Any, name: str) -> Any:
    return details[name] if isinstance(details, dict) else getattr(details, name)  # a dict in an SDK older than the API
