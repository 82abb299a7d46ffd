"""Follows an answer that the caller gets as an unread body, such as botocore's `StreamingBody`.

Nothing is read for the caller: what the caller reads passes by, and is copied up to a limit. A proxy stands for the
connection's own object inside the body, so that the body stays itself, with every way of reading that it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import wrapt

from .calls import Call
from .reading import an_object

MAX_BYTES: Final = 4_000_000
"""Of a body that is copied. A longer one is read as if it were empty: what came before it, such as headers, counts."""

_Proxy: Any = wrapt.ObjectProxy


def follow(call: Call, response: Mapping[str, Any], name: str) -> None:
    """End `call` when the body `response[name]` is read to its end, with `response` where bytes stand for the body."""
    body = response[name]
    rest = {key: value for key, value in response.items() if key != name}  # the body itself would be a cycle
    copy = _Copy(call, lambda content: {**rest, name: content}, _length(rest))
    held = "_raw_stream" if "_raw_stream" in vars(body) else "__wrapped__"  # aiobotocore 2's bodies are proxies
    raw = getattr(body, held)
    # The order matters: what httpx calls `content` raises before it is read.
    kind = _HttpxRaw if hasattr(raw, "aiter_raw") else _AiohttpRaw if hasattr(raw, "content") else _Raw
    setattr(body, held, kind(raw, copy))


def _length(response: Mapping[str, Any]) -> int | None:
    """The announced length of the body."""
    length = an_object(an_object(response.get("ResponseMetadata")).get("HTTPHeaders")).get("content-length")
    return None if length is None else int(length)


class _Copy:
    """What was read so far. It goes with the body: where nobody reads that to its end, the call was left."""

    __slots__ = ("_bytes", "_call", "_length", "_read", "_response")

    def __init__(self, call: Call, response: Callable[[bytes], Any], length: int | None) -> None:
        self._call = call
        self._response = response
        self._length = length
        self._bytes = bytearray()
        self._read = 0

    def take(self, chunk: bytes | memoryview, *, is_last: bool = False) -> None:
        """Take what was read; the announced length is the end too."""
        if self._call.span is None:
            return
        self._read += len(chunk)
        if self._read <= MAX_BYTES:
            self._bytes += chunk
        if is_last or self._read == self._length:
            self._call.respond(self._response(bytes(self._bytes) if self._read <= MAX_BYTES else b""))
            self._bytes.clear()

    def took(self, chunk: bytes, amount: int | None) -> bytes:
        """Take what `read(amount)` returned, and return it. Nothing for something is the end."""
        self.take(chunk, is_last=amount is None or amount < 0 or (amount > 0 and not chunk))
        return chunk

    def fail(self, exc: BaseException) -> None:
        self._call.fail(exc)

    def leave(self) -> None:
        self._call.abandon()

    def __del__(self) -> None:
        self._call.abandon()


class _Raw(_Proxy):
    """A urllib3 response."""

    def __init__(self, raw: Any, copy: _Copy) -> None:
        super().__init__(raw)  # pyright: ignore[reportUnknownMemberType]
        self._self_copy = copy

    def read(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
        try:
            chunk = self.__wrapped__.read(amt, *args, **kwargs)
        except BaseException as exc:
            self._self_copy.fail(exc)
            raise
        return self._self_copy.took(chunk, amt)

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self.__wrapped__.readinto(buffer)
        except BaseException as exc:
            self._self_copy.fail(exc)
            raise
        view = memoryview(buffer)
        self._self_copy.take(view[:count], is_last=not count and len(view) > 0)
        return count

    def readlines(self) -> list[bytes]:
        return self.read().splitlines(keepends=True)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        for chunk in self.__wrapped__.stream(*args, **kwargs):
            self._self_copy.take(chunk)
            yield chunk
        self._self_copy.take(b"", is_last=True)

    def close(self) -> None:
        self._self_copy.leave()
        self.__wrapped__.close()


class _AiohttpRaw(_Proxy):
    """An aiohttp response, whose `content` is what is read; by aiobotocore 2 also the response itself."""

    def __init__(self, raw: Any, copy: _Copy) -> None:
        super().__init__(raw)  # pyright: ignore[reportUnknownMemberType]
        self._self_copy = copy

    @property
    def content(self) -> Any:
        return _AiohttpContent(self.__wrapped__.content, self._self_copy)

    async def read(self) -> bytes:
        try:
            content = await self.__wrapped__.read()
        except BaseException as exc:
            self._self_copy.fail(exc)
            raise
        return self._self_copy.took(content, None)

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    def close(self) -> None:
        self._self_copy.leave()
        self.__wrapped__.close()


class _AiohttpContent(_Proxy):
    def __init__(self, content: Any, copy: _Copy) -> None:
        super().__init__(content)  # pyright: ignore[reportUnknownMemberType]
        self._self_copy = copy

    async def read(self, amount: int = -1) -> bytes:
        try:
            chunk = await self.__wrapped__.read(amount)
        except BaseException as exc:
            self._self_copy.fail(exc)
            raise
        return self._self_copy.took(chunk, amount)


class _HttpxRaw(_Proxy):
    """An httpx response, read piece by piece."""

    def __init__(self, raw: Any, copy: _Copy) -> None:
        super().__init__(raw)  # pyright: ignore[reportUnknownMemberType]
        self._self_copy = copy

    async def aiter_raw(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.__wrapped__.aiter_raw(chunk_size):
                self._self_copy.take(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as exc:
            self._self_copy.fail(exc)
            raise
        self._self_copy.take(b"", is_last=True)

    async def aclose(self) -> None:
        self._self_copy.leave()
        await self.__wrapped__.aclose()
