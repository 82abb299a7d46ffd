"""What a process learnt of its agents, kept beside the spool so that the next one starts with it, also offline.

One small JSON file per platform and organisation, shared by all processes of a user: who writes merges what is there,
replaces the file as a whole, and holds a lock meanwhile. It has no prompt in it, only hashes and agents' names, and can
be deleted at any time. Whatever is wrong with it costs a count and one log line, never the program anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from .attribution import Attribution
from .fingerprint import Fingerprint
from .guard import count, log_once
from .identity import is_uuid

if sys.platform != "win32":
    import fcntl

_FORM: Final = 1
_MAX_BYTES: Final = 1 << 20  # takes 5 ms to read
_MAX_RULINGS: Final = 4_096  # about 120 bytes each
_MAX_PROMPTS: Final = 256  # about 1 kB each; decoded at the first prompt in about 10 ms
_TRIES, _TRY_S = 40, 0.025  # to get the lock, which is held for a millisecond
_MAX_NAME: Final = 1_000  # the platform's limit
_DIGEST: Final = re.compile("[0-9a-f]{32}")


class _Content(NamedTuple):
    """What is in a file."""

    version: int | None
    rulings: dict[str, tuple[str, str]]
    prompts: dict[str, tuple[str, int, bool, str]]
    """By digest: name, from how many prompts it was learnt, whether it came again, encoded sketch."""


_NOTHING: Final = _Content(None, {}, {})


class Cache:
    """One file, and the attribution that begins with it and that it is written from.

    Args:
        directory: Where; made if need be. None: nowhere, as without a home.
        base_url: The platform whose rulings are kept.
        who: What is remembered, and whom to remind at once.
    """

    def __init__(self, directory: Path | None, base_url: str, who: Attribution) -> None:
        self.path: Final = None if directory is None else directory / _name(base_url, who.organisation)
        self.last_error: str | None = None
        self._who = who
        found = self._read()
        self.version: Final = found.version
        """Up to which of the platform's versions the rulings in the file were heard; None where there is none."""
        if found.prompts:
            who.remember(
                (Fingerprint(digest, name), prompts, again, sketch)
                for digest, (name, prompts, again, sketch) in found.prompts.items()
            )
        if found.rulings:
            who.learn(found.rulings)
        self._saved: object = who.revision

    @property
    def is_due(self) -> bool:
        """Whether there is news that is not written."""
        return self.path is not None and self._who.revision != self._saved

    def save(self, heard: tuple[int, int] | None, *, afresh: bool = False) -> int | None:
        """Write; with `afresh`, without what is in the file.

        Args:
            heard: The versions between which this process heard everything that was ruled.

        Returns:
            The version from which to ask on. It is an older one where the file has rulings on which later ones may
            have been missed.
        """
        until = None if heard is None else heard[1]
        if self.path is None:
            return until
        self._saved = self._who.revision  # also where it fails: it is tried again when there is more
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self.path.parent):
                there = _NOTHING if afresh else self._read()
                content = self._merged(there, heard)
                _replace(self.path, _encoded(content))
        except OSError as exc:
            self.last_error = f"{self.path}: {exc.strerror or exc}"
            count("agent cache not written")
            log_once("what is learnt of agents is not kept: %s", self.last_error, level=logging.INFO)
            return until
        self.last_error = None
        return until if until is None or content.version is None else min(until, content.version)

    # -----------------------------------------------------------------------------------------------------------------

    def _merged(self, there: _Content, heard: tuple[int, int] | None) -> _Content:
        """What both know. A ruling of the later version counts; prompts that this process met come first."""
        ours, version = dict(self._who.rulings), there.version
        rulings = {**ours, **there.rulings}
        if heard is not None:
            since, until = heard
            if version is None:
                version = until
            elif version <= until:
                rulings = {**there.rulings, **ours}
                version = until if since <= version else version
            else:
                version = until
        prompts: dict[str, tuple[str, int, bool, str]] = {}
        for template in self._who.templates()[:_MAX_PROMPTS]:
            first, sketch = template.first, template.encoded
            if sketch is None and first.sketch is not None:
                sketch = first.sketch.encode()
            known = there.prompts.get(first.digest)
            if known is not None and known[1] > template.prompts:
                prompts[first.digest] = known
            elif sketch is not None:
                prompts[first.digest] = (first.name, template.prompts, template.comes_again, sketch)
        return _Content(version, rulings, {**prompts, **{k: v for k, v in there.prompts.items() if k not in prompts}})

    def _read(self) -> _Content:
        if self.path is None:
            return _NOTHING
        try:
            return _decoded(_bytes_of(self.path))
        except FileNotFoundError:
            return _NOTHING
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
            self.last_error = f"{self.path}: {getattr(exc, 'strerror', None) or exc}"
            count("agent cache not read")
            log_once("what is known of agents from before is ignored: %s", self.last_error)
            return _NOTHING


def _name(base_url: str, organisation: str) -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(base_url).hostname or "")[:64]
    return f"{host}-{hashlib.sha256(repr((base_url, organisation)).encode()).hexdigest()[:16]}.agents.json"


# --- the file --------------------------------------------------------------------------------------------------------


def _bytes_of(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise ValueError("it is another user's")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"it is over {_MAX_BYTES} bytes")
        return file.read(_MAX_BYTES)


def _replace(path: Path, body: bytes) -> None:
    """All of it or nothing, whenever the process is killed; what a killed one left behind is taken over."""
    partial = path.with_name(path.name + ".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()  # who holds the lock is the only one to write it
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(body)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink()
        raise


@contextlib.contextmanager
def _locked(directory: Path) -> Generator[None, None, None]:
    """One writer at a time; where the system has no such lock, the last of two that write at once wins."""
    if sys.platform == "win32":
        yield
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(_TRIES):  # a forked child may keep a lock alive whose owner was killed
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # noqa: PERF203 - each turn is a try
                time.sleep(_TRY_S)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _encoded(content: _Content) -> bytes:
    """As bytes, with as many prompts as there is room for."""
    rulings = list(content.rulings.items())[-_MAX_RULINGS:]
    kept: list[list[object]] = []
    room = _MAX_BYTES - 200 - len(json.dumps(rulings))
    for digest, known in list(content.prompts.items())[:_MAX_PROMPTS]:
        entry: list[object] = [digest, *known]
        room -= len(json.dumps(entry)) + 2
        if room < 0:
            break
        kept.append(entry)
    told = {"form": _FORM, "version": content.version, "rulings": dict(rulings), "prompts": kept}
    return json.dumps(told).encode()


def _decoded(body: bytes) -> _Content:
    """What `_encoded` wrote.

    Raises:
        AttributeError, TypeError, ValueError: somebody else wrote it.
    """
    told = cast("Mapping[str, Any]", json.loads(body))
    if not isinstance(told, dict) or told.get("form") != _FORM:
        raise ValueError("it is not of this version")
    version, rulings, prompts = told.get("version"), told.get("rulings"), told.get("prompts")
    if type(version) not in (int, type(None)) or not isinstance(rulings, dict) or not isinstance(prompts, list):
        raise ValueError("it is damaged")
    read = _Content(version, {}, {})
    for old, (new, name) in cast("dict[str, tuple[str, str]]", rulings).items():
        if not (is_uuid(old) and is_uuid(new) and len(name) <= _MAX_NAME):
            raise ValueError("it is damaged: a ruling is none")
        read.rulings[old] = (new, name)
    for digest, name, n, again, sketch in cast("list[tuple[str, str, int, bool, str]]", prompts):
        if not (_DIGEST.fullmatch(digest) and len(name) <= _MAX_NAME and n > 0 and sketch.isascii()):
            raise ValueError("it is damaged: a prompt is none")
        read.prompts[digest] = (name, int(n), bool(again), sketch)
    return read
