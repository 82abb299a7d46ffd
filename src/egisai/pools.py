"""Pool jobs run in their submitter's context, and leave nothing behind on the worker.

    submit(fn)   in context A          worker's own context W
        fn is bound to A      ------>  attach A, run fn, attach W again

Workers are reused: without this a job sees no context, or, on an interpreter whose threads inherit one, the context
of whichever request made the worker start. Pools of threads only: what goes to another process is pickled, and says
itself what it brings (see `propagate`).
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import wrapt
from opentelemetry.context import Context, attach, get_current

from . import processes as processes  # whose rules hold from here on
from .context import bound

_THREADS_INHERIT: Final = bool(getattr(sys.flags, "thread_inherit_context", False))
"""Python 3.14's `-X thread_inherit_context=1`, the default of free-threaded builds."""

_Make: TypeAlias = "Callable[[_Layer, Callable[..., Any]], Callable[..., Any]]"
"""What makes the replacement of a method, given its layer and the original."""

_lock: Final = threading.Lock()
_layers: list[_Layer] = []
_awaiting_pools = False


class _Layer:
    """A method of a class, replaced. Where somebody has patched on top of it, it stays there and does nothing."""

    def __init__(
        self, owner: type, name: str, make: Callable[[_Layer, Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        original = getattr(owner, name)
        self.on = True
        self._owner, self._name = owner, name
        self._before = owner.__dict__.get(name)
        self._method = functools.wraps(original)(make(self, original))
        setattr(owner, name, self._method)

    def remove(self) -> None:
        self.on = False
        if self._owner.__dict__.get(self._name) is not self._method:
            return
        if self._before is None:  # inherited
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


def install() -> None:
    """Patch `ThreadPoolExecutor` and, once it is imported, `multiprocessing.pool.ThreadPool`. Idempotent."""
    global _awaiting_pools
    with _lock:
        if _layers:
            return
        # `map`, `run_in_executor` and derived pools go through `submit`.
        _layers.append(_Layer(ThreadPoolExecutor, "submit", _submit))
        module = sys.modules.get("multiprocessing.pool")
        if module is not None:
            _patch(module)
        elif not _awaiting_pools:
            _awaiting_pools = True
            wrapt.register_post_import_hook(_imported, "multiprocessing.pool")


def uninstall() -> None:
    """Undo `install`."""
    with _lock:
        while _layers:
            _layers.pop().remove()


def _imported(module: Any) -> None:
    with _lock:
        if _layers:
            _patch(module)


def _patch(module: Any) -> None:
    # All its ways of submitting go through these; `ThreadPool` inherits them from the pool of processes.
    for name, make in (
        ("apply_async", _apply_async),
        ("_map_async", _map_async),
        ("imap", _imap),
        ("imap_unordered", _imap),
    ):
        _layers.append(_Layer(module.ThreadPool, name, make))


# --- concurrent.futures ----------------------------------------------------------------------------------------------


def _submit(layer: _Layer, original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not layer.on or _otel_does_it():
            return original(self, fn, *args, **kwargs)
        carried = get_current()
        if not _THREADS_INHERIT:
            return original(self, bound(fn, carried), *args, **kwargs)
        attach(Context())  # for the worker that this may start: callbacks of later futures run in its own context
        try:
            return original(self, bound(fn, carried), *args, **kwargs)
        finally:
            attach(carried)

    return submit


def _otel_does_it() -> bool:
    """Whether OTel's threading instrumentor is on: then its rule holds, and nothing is done twice."""
    module = sys.modules.get("opentelemetry.instrumentation.threading")
    return module is not None and bool(module.ThreadingInstrumentor().is_instrumented_by_opentelemetry)


# --- multiprocessing.pool, of which OTel's threading instrumentor has no rule ----------------------------------------


def _apply_async(layer: _Layer, original: Callable[..., Any]) -> Callable[..., Any]:
    def apply_async(
        self: Any,
        func: Callable[..., Any],
        args: Any = (),
        kwds: Any = None,
        callback: Any = None,
        error_callback: Any = None,
    ) -> Any:
        if layer.on:
            func, callback, error_callback = _all_bound(func, callback, error_callback)
        return original(self, func, args, {} if kwds is None else kwds, callback, error_callback)

    return apply_async


def _map_async(layer: _Layer, original: Callable[..., Any]) -> Callable[..., Any]:
    def _map_async(
        self: Any,
        func: Callable[..., Any],
        iterable: Any,
        mapper: Any,
        chunksize: int | None = None,
        callback: Any = None,
        error_callback: Any = None,
    ) -> Any:
        if layer.on:
            func, callback, error_callback = _all_bound(func, callback, error_callback)
        return original(self, func, iterable, mapper, chunksize, callback, error_callback)

    return _map_async


def _imap(layer: _Layer, original: Callable[..., Any]) -> Callable[..., Any]:
    def imap(self: Any, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> Any:
        if layer.on:
            carried = get_current()
            func, iterable = bound(func, carried), _read_in(carried, iterable)
        return original(self, func, iterable, chunksize)

    return imap


def _all_bound(*functions: Callable[..., Any] | None) -> Iterator[Any]:
    carried = get_current()
    return (function and bound(function, carried) for function in functions)


def _read_in(carried: Context, iterable: Iterable[Any]) -> Iterator[Any]:
    """`iterable`, each item made in the context `carried`: the pool reads it in a thread of its own."""
    following = bound(bound(iter, carried)(iterable).__next__, carried)
    while True:
        try:
            item = following()
        except StopIteration:
            return
        yield item
