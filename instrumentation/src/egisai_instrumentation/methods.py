"""Follows calls of any client: functions and methods named by its integration, whatever they return.

For the clients that Stainless generates, `stainless.py` does the same nearer to the wire.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, MutableMapping
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry.context import Context, get_current

from egisai.guard import Guard, failed

from . import bodies, streams
from .calls import Call, Destination, Tracing, aside, begin
from .integration import Asked, Integration, Method
from .reading import member

_BEGINNING: Final = Guard("beginning a call")
_MAX_REFUSING: Final = 1000

Function = Callable[..., Any]


def follow(integration: Integration, method: Method, original: Function, tracing: Tracing, covered: bool) -> Function:
    """`original`, with each call followed.

    Args:
        integration: Whose method it is.
        method: How to read its calls.
        original: What to call; sync or async.
        tracing: Has the tracer, while calls are to be followed.
        covered: Whether another instrumentor wrapped `original`, and so makes the span.
    """
    start = _Start(integration, method, original, tracing, covered)
    begun, settled = start.begin, functools.partial(_settled, method)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            call, sent = begun(args, kwargs)
            if call is None:
                return await original(*args, **kwargs)
            call.resume()
            try:
                while True:
                    try:
                        result = await original(*args, **sent)
                        break
                    except Exception as exc:
                        if not start.usage_refused(call, exc):
                            raise
                    sent = kwargs
            except BaseException as exc:
                call.fail(exc)
                raise
            finally:
                call.suspend()
            return settled(call, result)

        return call_async

    @functools.wraps(original)
    def call_sync(*args: Any, **kwargs: Any) -> Any:
        call, sent = begun(args, kwargs)
        if call is None:
            return original(*args, **kwargs)
        call.resume()
        try:
            while True:
                try:
                    result = original(*args, **sent)
                    break
                except Exception as exc:
                    if not start.usage_refused(call, exc):
                        raise
                sent = kwargs
        except BaseException as exc:
            call.fail(exc)
            raise
        finally:
            call.suspend()
        return settled(call, result)

    return call_sync


def carry(original: Function, tracing: Tracing) -> Function:
    """`original`, whose generators make their calls in the context in which it is called, not in their reader's.

    It returns a generator, async or not, or awaited an async one, which calls a `Method` when it is first read.
    """

    def carried(result: Any, now: Context) -> Any:
        return streams.carried(result, now) if tracing.tracer or tracing.resolve() else result

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            now = get_current()
            return carried(await original(*args, **kwargs), now)

        return call_async

    @functools.wraps(original)
    def call_sync(*args: Any, **kwargs: Any) -> Any:
        return carried(original(*args, **kwargs), get_current())

    return call_sync


class _Start:
    """From a method's arguments to a call, and the keyword arguments to send."""

    def __init__(
        self, integration: Integration, method: Method, original: Function, tracing: Tracing, covered: bool
    ) -> None:
        self._destination = functools.lru_cache(maxsize=1000)(functools.partial(_destination, integration))
        self._asked = method.asked
        self._concerns = method.concerns
        self._traces_itself = integration.traces_itself
        self._tracing = tracing
        self._covered = covered
        self._names, self._rest = _parameters(original)
        self._refusing: set[Destination] = set()

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call | None, dict[str, Any]]:
        """The call that starts here, if it is one to follow, and the keyword arguments to send. Never raises."""
        try:
            if self._concerns is not None and not self._concerns(args[0]):
                return None, kwargs
            tracer = self._tracing.tracer or self._tracing.resolve()
            if tracer is None:
                return None, kwargs
            arguments = {**dict(zip(self._names, args, strict=False)), **kwargs}
            if self._rest is not None:
                arguments[self._rest] = args[len(self._names) :]
            asked = self._asked(arguments)
            if asked is None:
                return aside(), kwargs
            destination = self._destination(asked.client, asked.url)
            native = self._traces_itself is not None and self._traces_itself(arguments.get("self"))
            call = begin(tracer, asked.endpoint, asked.body, destination, covered=self._covered, native=native)
            if call is not None and call.span is not None and asked.endpoint.usage_on_request is not None:
                return call, self._asking_for_usage(call, asked, destination, kwargs)
        except Exception as exc:  # noqa: BLE001 - logged and counted
            failed("beginning a call", exc)
            return None, kwargs
        return call, kwargs

    def _asking_for_usage(
        self, call: Call, asked: Asked, destination: Destination, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The caller's keyword arguments, or others that ask for the usage of a stream."""
        call.destination = destination
        if destination in self._refusing or asked.endpoint.usage_on_request is None:
            return kwargs
        asking = asked.endpoint.usage_on_request(asked.body)
        if asking is None or (fold := call.folding()) is None:
            return kwargs
        fold.usage_asked = True
        return {**kwargs, **{name: value for name, value in asking.items() if asked.body.get(name) is not value}}

    def usage_refused(self, call: Call, exc: Exception) -> bool:
        """Whether the server refused the request only because we asked for usage: then it is not asked again."""
        with _BEGINNING:
            if call.usage_refused(exc):
                if call.destination is not None and len(self._refusing) < _MAX_REFUSING:
                    self._refusing.add(call.destination)
                return True
        return False


def _parameters(function: Function) -> tuple[tuple[str, ...], str | None]:
    """The names of the positional parameters, `self` included, and of the one that takes the rest, if any."""
    parameters = inspect.signature(function).parameters.values()
    rest = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return tuple(named), rest[0] if rest else None


def _destination(integration: Integration, client: str, url: str) -> Destination:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return Destination(integration.provider(client, host), host, parts.port or (80 if parts.scheme == "http" else 443))


# --- results ---------------------------------------------------------------------------------------------------------


def _settled(method: Method, call: Call, result: Any) -> Any:
    """What the caller gets for `result`: itself, or what stands for it until the call has ended. Never raises."""
    try:
        return _followed(method, call, result)
    except Exception as exc:  # noqa: BLE001 - logged and counted
        failed("following a response", exc)
        call.finish()
        return result


def _followed(method: Method, call: Call, result: Any) -> Any:
    if inspect.isgenerator(result):
        return streams.generator(call, result, lazy=method.lazy)
    if inspect.isasyncgen(result):
        return streams.async_generator(call, result, lazy=method.lazy)
    if isinstance(result, contextlib._GeneratorContextManager):  # pyright: ignore[reportPrivateUsage]
        inner = cast("Generator[Any, Any, Any]", result.gen)  # pyright: ignore[reportUnknownMemberType]
        result.gen = streams.managed(call, inner, _entered(method, call), lazy=method.lazy)
        return cast("Any", result)
    if isinstance(result, contextlib._AsyncGeneratorContextManager):  # pyright: ignore[reportPrivateUsage]
        inner_async = cast("AsyncGenerator[Any, Any]", result.gen)  # pyright: ignore[reportUnknownMemberType]
        result.gen = streams.async_managed(call, inner_async, _entered(method, call), lazy=method.lazy)
        return cast("Any", result)
    if call.span is None:  # nobody records
        call.finish()
        return result
    return _listened(method, call, result)


def _entered(method: Method, call: Call) -> Callable[[Any], Any]:
    return functools.partial(_settled, replace(method, lazy=False), call)


def _listened(method: Method, call: Call, result: Any) -> Any:
    if method.inner is not None and (iterator := getattr(result, method.inner, None)) is not None:
        listen = streams.AsyncListener if hasattr(iterator, "__anext__") else streams.Listener
        listener = listen(call, call.feed(), iterator)
        setattr(result, method.inner, listener)
        for closable in (result, getattr(result, "response", None)):  # callers close either
            streams.before_close(closable, weakref.ref(listener))
        return result
    names = (method.member,) if isinstance(method.member, str) else method.member
    for name in names:
        inside = member(result, name)
        if _is_body(inside):
            bodies.follow(call, result, name)
            return result
        if _is_stream(inside):
            _set(result, name, _followed(replace(method, member=()), call, inside))
            return result
    if _is_stream(result):
        return streams.proxy(call, result, call.feed())
    call.respond(result)
    return result


def _by_class(ask: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`ask`, remembered by the class of what it is asked of: what a model lacks, it takes 4 µs to say so."""
    known: dict[type[Any], bool] = {}

    @functools.wraps(ask)
    def asked(result: Any) -> bool:
        kind = cast("type[Any]", type(result))
        answer = known.get(kind)
        if answer is None:
            answer = ask(result)
            if len(known) < 1000 and not hasattr(result, "__wrapped__"):  # a proxy is what it stands for
                known[kind] = answer
        return answer

    return asked


@_by_class
def _is_stream(result: Any) -> bool:
    return any(hasattr(result, name) for name in ("__next__", "__anext__", "__aiter__")) or (
        hasattr(result, "__iter__") and hasattr(result, "close")
    )


@_by_class
def _is_body(result: Any) -> bool:
    return hasattr(result, "read")


def _set(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, MutableMapping):
        cast("MutableMapping[str, Any]", holder)[name] = value
    else:
        setattr(holder, name, value)
