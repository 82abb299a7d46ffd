"""What the contract suite (`test_contract.py`) needs to know of a client, and how it drives one.

A client's file in `clients/` describes it by a `Subject`, as `clients/ollama.py` does. The suite then runs every
`call-*` case on each of its forms, sync and async.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from packaging.version import Version
from tests.instrumentation.wire import Wire

SYSTEM = "You are the billing assistant of Example Ltd. Answer briefly."


@dataclass(frozen=True)
class Ask:
    """What to ask for."""

    model: str
    system: str = SYSTEM
    content: str = "Why was my card charged twice?"


@dataclass(frozen=True)
class Form:
    """One way of making a call with a client."""

    name: str
    """Such as `chat`, `chat-stream`, `chat-raw`."""
    call: Callable[[Any, Ask], Any]
    """Makes it with a client, sync or async alike: what the SDK returns, a coroutine or not."""
    said: Callable[[Any], dict[str, Any]]
    """What the span must say of the response (the words of `told`), from what the caller got: the result, or of a
    stream the list of its chunks."""
    stream: bool = False
    """Whether what the call returns is iterated over."""
    operation: str = "chat"
    prompted: bool = True
    """Whether the request carries `Ask.system`."""
    read: Callable[[Any], Any] = field(default=lambda result: result)
    """What the caller does with what the SDK returned, such as `.parse()` of a raw response: the result that is
    `said` of, or the stream. Sync or async."""
    since: str = "0"
    """The library's version that has it."""
    kinds: Sequence[str] = ("sync", "async")
    raised: str = "call"
    """Where a refused request raises: at the `call`, or, of a lazy stream, at its first `step`."""


@dataclass(frozen=True)
class Subject:
    """A client library."""

    library: str
    provider: str
    model: str
    wire: type[Wire]
    make: Callable[[str, str], Any]
    """A client for a server's URL, `sync` or `async`. Without retries."""
    forms: Sequence[Form]
    close: Callable[[Any], Any] = field(default=lambda client: client.close())
    transport: str | None = "httpx"
    """`httpx` or `httpx2`: instrumented by OpenTelemetry, its spans belong under the call's. None: something else."""
    imports: str | None = None
    """The module to import, where it is not the library's name."""
    setup: str = ""
    """For the late-import test: statements that make `client` for `url` in a fresh program."""


class Session:
    """A client talking to its wire and, for an async one, the loop it lives on. Everything reads as if it were sync."""

    def __init__(self, subject: Subject, form: Form, kind: str, wire: Wire) -> None:
        self.subject, self.form, self.kind, self.wire = subject, form, kind, wire
        self.is_async = kind == "async"
        self.loop = asyncio.new_event_loop() if self.is_async else None
        self.client = self.wait(subject.make(wire.url, kind))

    def wait(self, value: Any) -> Any:
        """The value, awaited where it has to be."""
        return self.loop.run_until_complete(_awaited(value)) if inspect.isawaitable(value) else value

    def start(self, ask: Ask | None = None) -> Any:
        """Make the call: the SDK's result, or its stream before its first chunk."""
        return self.wait(self.form.read(self.wait(self.form.call(self.client, ask or Ask(self.subject.model)))))

    def each(self, stream: Any) -> Iterator[Any]:
        """The stream's chunks, as a `for` or `async for` gets them."""
        if not self.is_async:
            yield from stream
            return
        chunks = stream.__aiter__()
        while True:
            try:
                yield self.wait(chunks.__anext__())
            except StopAsyncIteration:  # noqa: PERF203
                return

    def run(self, ask: Ask | None = None) -> Any:
        """Make the call and take all of it: the result, or the list of the chunks."""
        result = self.start(ask)
        return list(self.each(result)) if self.form.stream else result

    def leave(self, stream: Any) -> None:
        """Close the stream by whatever it has for that."""
        self.wait(next(getattr(stream, name) for name in ("aclose", "close") if hasattr(stream, name))())

    def close(self) -> None:
        self.wait(self.subject.close(self.client))
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def told(span: ReadableSpan) -> dict[str, Any]:
    """What a call's span says of the response."""
    attributes = dict(span.attributes or {})
    names = {
        "id": "gen_ai.response.id",
        "model": "gen_ai.response.model",
        "reasons": "gen_ai.response.finish_reasons",
        "input": "gen_ai.usage.input_tokens",
        "output": "gen_ai.usage.output_tokens",
        "cached": "gen_ai.usage.cache_read.input_tokens",
        "reasoning": "gen_ai.usage.reasoning.output_tokens",
    }
    return {word: attributes[name] for word, name in names.items() if name in attributes}


async def _awaited(value: Any) -> Any:
    return await value


def subjects() -> list[Subject]:
    """Every client of `clients/`, installed or not."""
    names = sorted(path.stem for path in (Path(__file__).parent / "clients").glob("[a-z]*.py"))
    return [importlib.import_module(f"tests.instrumentation.clients.{name}").SUBJECT for name in names]


def missing(subject: Subject, form: Form | None = None) -> str | None:
    """Why a subject cannot be tested here; None where it can."""
    try:
        installed = Version(version(subject.library))
    except PackageNotFoundError:
        return f"{subject.library} is not installed"
    if form is not None and installed < Version(form.since):
        return f"{subject.library} {installed} has no {form.name}"
    return None
