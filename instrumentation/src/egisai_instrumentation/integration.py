"""What an integration is: plain data and pure readers. No tracing, no patching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .messages import Conversation, Gathered, Message

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
class Content:
    """How to read what is said. Nothing of it runs unless content is to be recorded; all of it may raise."""

    request: Callable[[Mapping[str, Any]], Conversation]
    response: Callable[[Any], Sequence[Message]]
    """The answers, one message each."""
    chunk: Callable[[Gathered, Any], None] | None = None
    """Adds a stream's chunk to what was gathered so far."""


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
    content: Content | None = None


class Asked(NamedTuple):
    """What one run of a `Method` asks for."""

    endpoint: Endpoint
    body: Mapping[str, Any]
    """What `endpoint` reads the request from: its JSON body where there is one, else the arguments themselves."""
    url: str
    """Where it goes, with scheme and host; "" where that is not known."""
    client: str = ""
    """The client's class name, where `Integration.provider` needs it."""


@dataclass(frozen=True, slots=True)
class Method:
    """A function or method of a client through which calls pass, sync or async, whatever it returns.

    What it returns is followed by what it is, and stays what it is:

        a value                            is the response
        a (async) generator                is a stream: another real generator stands for it
        a `contextlib` (async) manager     what it yields is followed by the same rules
        an object with `inner`             is a stream: that attribute, its iterator, is listened to in place
        an object or mapping with `member` has the stream (or the response, or its unread body) in that member
        any other (async) iterator         is a stream: a transparent proxy stands for it
    """

    module: str
    path: str
    """Dotted attribute of `module`. It is put in place when `module` is imported by the program."""
    asked: Callable[[Mapping[str, Any]], Asked | None]
    """From the arguments by name, `self` among them, and a `*rest` under its name as a tuple. None: no call of an LLM;
    it goes on untouched, only with our baggage kept out. Pure, and may raise: the caller's call is safe."""
    inner: str | None = None
    member: str | tuple[str, ...] = ()
    """Of several, the first that there is."""
    concerns: Callable[[Any], bool] | None = None
    """Of a client (`self`) that is for other things too: whether this one is for LLMs. If not, nothing is touched."""
    lazy: bool = False
    """Whether a stream's request goes out only when its first chunk is asked for: if it never is, there was no call."""
    since: str = ""
    """The library's first version that has the method."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A function or method that is followed in a way of its own: it calls no LLM, or does so by a `Method`."""

    module: str
    path: str
    follow: Callable[[Any, Any], Any]
    """From the original and the `Tracing` to what stands in its place."""
    since: str = ""
    """The library's first version that has it."""


@dataclass(frozen=True, slots=True)
class Integration:
    """An LLM client library and where its calls pass."""

    library: str
    """Distribution on PyPI."""
    versions: str
    """PEP 440 range that the tests cover at both ends."""
    provider: Callable[[str, str], str]
    """`gen_ai.provider.name` from the client's class name and the host it talks to."""
    targets: Sequence[tuple[str, str]] = ()
    """Of a client that Stainless generates: module and dotted attribute of each `request` method, sync or async."""
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict[str, Endpoint])
    """Of a client that Stainless generates, by path below the client's base URL; of others, by the name or path that
    `Method.asked` finds them by. The support table lists them."""
    methods: Sequence[Method] = ()
    """Of any other client."""
    others: Sequence[Wrapped] = ()
    """What belongs to the agents' work and is no call of an LLM, such as tools; and generator functions above a lazy
    `Method`, with `methods.carry`, so that the context of their call is the request's."""
    traces_itself: Callable[[Any], bool] | None = None
    """Whether this client (None: a function's) makes an OpenTelemetry span of its own for a call, inside what we
    follow, on a provider whose spans are attributed: that span is then the call's, attributed and completed, and none
    is added."""
    note: str = ""
    """What a user should know of what is not covered, for the support table."""
    oldest: Sequence[str] = ()
    """What else the oldest version needs pinned in order to work, such as `httpx==0.27.2`."""
