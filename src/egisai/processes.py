"""Processes that `multiprocessing` starts begin with no facts, as bare threads do, and deliver what they hold.

    fork, forkserver   a copy, and so is its context, such as that of the request that made a pool start a worker: its
                       facts are dropped. It ends without `atexit`, by which `init()` registers `shutdown()`:
                       `multiprocessing` has a place for that of its own
    spawn              a new program, with facts only if its own modules set some; it ends with `atexit`

What runs in them brings its facts along: see `propagate`.
"""

from __future__ import annotations

from typing import Any, Final

import wrapt
from opentelemetry.context import attach, get_current

from .context import without_facts

_LAST: Final = -100  # of `Finalize`: when the child's own children are gone and other finalizers have run


def _imported(util: Any) -> None:
    from multiprocessing.process import parent_process

    util.register_after_fork(_forked, _forked)  # in a child, before its work
    if parent_process() is not None:  # in a child, at its work
        _end_well()


def _forked(_: object) -> None:
    attach(without_facts(get_current()))
    _end_well()


def _end_well() -> None:
    from multiprocessing.util import Finalize

    Finalize(None, _shutdown, exitpriority=_LAST)


def _shutdown() -> None:
    from .runtime import shutdown  # which was not there yet when this module was imported

    shutdown()


wrapt.register_post_import_hook(_imported, "multiprocessing.util")  # which costs 5 ms, and which few programs need
