"""One daemon thread for work too long for an event loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None


def later(work: Callable[[], T]) -> Future[T]:
    """Run `work` on the thread, first come first served."""
    global _jobs
    done: Future[T] = Future()
    with _lock:
        if _jobs is None:
            _jobs = SimpleQueue()
            threading.Thread(target=_run, args=(_jobs,), name="egisai-background", daemon=True).start()
        _jobs.put((work, done))
    return done


def drain(timeout_s: float) -> None:
    """Wait for what was queued so far, and for what is done with it, at most `timeout_s`."""
    if _jobs is not None:
        wait([later(_nothing)], timeout_s)  # a future is done before its callbacks have run; this job comes after them


def _nothing() -> None: ...


def _run(jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
    while True:
        work, done = jobs.get()
        try:
            result = work()
        except Exception as exc:  # noqa: BLE001 - the future carries it to whoever asked
            done.set_exception(exc)
        else:
            done.set_result(result)


def _after_fork_in_child() -> None:
    global _lock, _jobs
    _lock, _jobs = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
