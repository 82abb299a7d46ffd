"""Our bugs must never become the caller's, and never be silent: log them once, count them, raise them in tests."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from types import TracebackType
from typing import Final

log: Final = logging.getLogger("egisai")

strict = False
"""Tests set this, so that a bug of ours fails the test instead of being logged."""

_MAX_LOGGED: Final = 1000  # distinct messages remembered; past that, repeats may show again

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_logged: set[str] = set()


class Guard:
    """`with Guard("reading a chunk"):` swallows, logs and counts any `Exception` raised inside.

    Stateless and reentrant, so one module-level instance serves every thread. `BaseException`s that are not
    `Exception`s (cancellation, `KeyboardInterrupt`) pass through.
    """

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is None or not isinstance(exc, Exception):
            return False
        _note(self.what, exc)
        return not strict


def failed(what: str, exc: Exception) -> None:
    """What a `Guard` does, for an `except Exception` on a path where two calls of a context manager cost too much."""
    _note(what, exc)
    if strict:
        raise exc


def _note(what: str, exc: Exception) -> None:
    count(f"error:{what}")
    if _first(f"{what}:{type(exc).__name__}"):
        log.error("egisai: %s failed; the program is unaffected", what, exc_info=exc)


def count(reason: str, n: int = 1) -> None:
    """Add to a counter that `egisai.diagnostics()` shows."""
    with _lock:
        _counts[reason] += n


def counts() -> dict[str, int]:
    """A copy of all counters."""
    with _lock:
        return dict(_counts)


def log_once(message: str, *args: object, level: int = logging.WARNING) -> None:
    """Log a message the first time it is said with these arguments."""
    text = message % args if args else message
    if _first(text):
        log.log(level, "egisai: %s", text)


def reset() -> None:
    """Forget counts and what was logged; for tests, and for `init()` after `shutdown()`."""
    with _lock:
        _counts.clear()
        _logged.clear()


def _first(text: str) -> bool:
    with _lock:
        if text in _logged:
            return False
        if len(_logged) >= _MAX_LOGGED:
            _logged.clear()
        _logged.add(text)
        return True
