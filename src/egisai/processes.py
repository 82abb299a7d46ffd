"""Processes that `multiprocessing` starts begin with no facts, as bare threads do, and deliver what they hold.

    fork          a copy of its parent, and of the context of whichever request made a pool start its worker:
                  that context's facts are dropped
    fork, forkserver   end without `atexit`, so without the `shutdown()` that `init()` registers: it runs all the same
    spawn         neither

What runs in them brings its facts along: see `propagate`.
"""

from __future__ import annotations

import os
from typing import Any, Final

import wrapt
from opentelemetry.context import attach, get_current

from .context import without_facts

_LAST: Final = -100  # of `Finalize`: when the child's own children are gone and other finalizers have run

_pid: Final = os.getpid()


def _imported(util: Any) -> None:
    from multiprocessing.process import parent_process

    util.register_after_fork(_started, _started)  # in every child, before its work
    if parent_process() is not None:  # this is a child, at its work
        _end_well()


def _started(_: object) -> None:
    if os.getpid() != _pid:
        attach(without_facts(get_current()))
    _end_well()


def _end_well() -> None:
    from multiprocessing.util import Finalize

    Finalize(None, _shutdown, exitpriority=_LAST)


def _shutdown() -> None:
    from .runtime import shutdown  # which was not there yet when this module was imported

    shutdown()


wrapt.register_post_import_hook(_imported, "multiprocessing.util")  # which costs 5 ms, and which few programs need
