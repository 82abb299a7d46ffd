"""Pool jobs run in their submitter's context, and leave nothing behind on the worker.

    submit(fn)   in context A          worker's own context W
        fn is bound to A      ------>  attach A, run fn, attach W again

Workers are reused: without this a job sees no context, or, on an interpreter whose threads inherit one, the context
of whichever request made the worker start.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from opentelemetry.context import get_current

from .context import bound

_lock = threading.Lock()
_original: Callable[..., Future[Any]] | None = None


def install() -> None:
    """Patch `ThreadPoolExecutor.submit`, which `map`, `run_in_executor` and derived pools go through. Idempotent."""
    global _original
    with _lock:
        if _original is not None:
            return
        original = _original = ThreadPoolExecutor.submit

        @functools.wraps(original)
        def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if _original is None or _otel_does_it():
                return original(self, fn, *args, **kwargs)
            return original(self, bound(fn, get_current()), *args, **kwargs)

        ThreadPoolExecutor.submit = submit


def uninstall() -> None:
    """Undo `install`. Where somebody else has patched on top of us, our layer stays and does nothing."""
    global _original
    with _lock:
        if _original is None:
            return
        if getattr(ThreadPoolExecutor.submit, "__wrapped__", None) is _original:
            ThreadPoolExecutor.submit = _original
        _original = None


def _otel_does_it() -> bool:
    """Whether OTel's threading instrumentor is on: then its rule holds, and nothing is done twice."""
    module = sys.modules.get("opentelemetry.instrumentation.threading")
    return module is not None and bool(module.ThreadingInstrumentor().is_instrumented_by_opentelemetry)
