"""What an integration is: plain data and pure readers. No tracing, no patching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Attributes = dict[str, Any]
"""Span attributes by name, see `egisai.semconv`."""


class StoredPrompt(NamedTuple):
    """A system prompt that the provider keeps and the request only names."""

    id: str
    version: str | None = None


Prompt = tuple[str, ...] | StoredPrompt | None
"""What identifies the agent in a request: the parts of its system text in order, or a stored prompt."""


class Fold(Protocol):
    """A stream, folded chunk by chunk into what the whole response would have said."""

    usage_asked: bool
    """Set when we asked for usage on the caller's behalf: then it is not the caller's to see."""

    def feed(self, chunk: Any) -> bool | None:
        """Take a chunk. True: it came only because we asked for usage, so the caller must not see it."""
        ...

    def attributes(self) -> Attributes: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider operation. The readers are pure and may raise: the caller's call is safe."""

    operation: str
    """`gen_ai.operation.name`."""
    read_request: Callable[[Mapping[str, Any]], Attributes]
    """From the request's JSON body, without operation, provider and server."""
    read_prompt: Callable[[Mapping[str, Any]], Prompt]
    read_response: Callable[[Any], Attributes]
    fold: Callable[[], Fold] | None = None
    usage_on_request: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | None = None
    """The streamed body with usage asked for; None where the caller asked already, or nobody needs to."""


@dataclass(frozen=True, slots=True)
class Integration:
    """An LLM client library and where its calls pass."""

    library: str
    """Distribution on PyPI."""
    versions: str
    """PEP 440 range that the tests cover at both ends."""
    targets: Sequence[tuple[str, str]]
    """Module and dotted attribute of each method through which every request passes, sync or async."""
    endpoints: Mapping[str, Endpoint]
    """By path below the client's base URL."""
    provider: Callable[[str, str], str]
    """`gen_ai.provider.name` from the client's class name and the host it talks to."""
