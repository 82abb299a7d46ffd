"""Where the bytes of a batch are kept: a private directory on disk, or memory when there is no disk.

A destination's directory has one subdirectory per living writer, and each writer holds an exclusive flock on the
`lock` file in its own. The kernel lets go of it when the process dies, however it dies; whoever gets it next owns
what was left:

    <spool_dir>/<destination>/<pid>-<random>/lock
                                             <time_ns>-<random>-<spans>-<size>.otlp.gz
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("egisai_exporter")

MEMORY_MAX_BYTES: Final = 32 * 2**20
"""Bytes kept when there is no disk to keep them on."""

_BLOCK: Final = 4096
"""Bytes that the smallest file takes on common file systems: what a batch is charged is rounded up to it."""

_LOCK: Final = "lock"
_PARTIAL: Final = ".partial"
_NAME: Final = re.compile(r"(\d{20})-([0-9a-f]{8})-(\d+)-(\d+)\.otlp\.gz")


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """One gzipped OTLP request that waits; everything worth knowing about it is in its file's name."""

    time_ns: int
    token: str
    spans: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.time_ns:020d}-{self.token}-{self.spans}-{self.size}.otlp.gz"

    @property
    def charge(self) -> int:
        """Bytes it takes on disk."""
        return -(-self.size // _BLOCK) * _BLOCK

    @classmethod
    def parse(cls, name: str) -> Batch | None:
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), match[2], int(match[3]), int(match[4])) if match else None


class Damaged(Exception):  # noqa: N818 # like FileNotFoundError, a finding rather than a fault
    """A batch's file is not what was written."""


class Store(Protocol):
    """Keeps bodies under batches. Errors of the system are raised as the OSError they are."""

    location: str | None
    """The directory to look into, or None for memory."""

    def write(self, batch: Batch, body: bytes) -> None:
        """Keep `body`. Once this returns it is as durable as the store can make it; if it raises, nothing is kept."""
        ...

    def read(self, batch: Batch) -> bytes:
        """The body. Raises Damaged or FileNotFoundError when it is not there any more."""
        ...

    def delete(self, batch: Batch) -> None: ...

    def adopt(self) -> list[Batch]:
        """Take over what dead writers left."""
        ...

    def others(self) -> tuple[int, int]:
        """Bytes charged to, and number of, the other writers of this destination."""
        ...

    def close(self) -> None:
        """Let go of what waits, for others to adopt."""
        ...

    def abandon(self) -> None:
        """Forget, in a forked child, what belongs to the parent, leaving all of it untouched."""
        ...


class Memory:
    """The store of last resort: lost with the process."""

    location: str | None = None

    def __init__(self) -> None:
        self._bodies: dict[Batch, bytes] = {}

    def write(self, batch: Batch, body: bytes) -> None:
        self._bodies[batch] = body

    def read(self, batch: Batch) -> bytes:
        try:
            return self._bodies[batch]
        except KeyError:
            raise FileNotFoundError(batch.name) from None

    def delete(self, batch: Batch) -> None:
        self._bodies.pop(batch, None)

    def adopt(self) -> list[Batch]:
        return []

    def others(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        """Nothing to let go of."""

    def abandon(self) -> None:
        self._bodies = {}


class Disk:
    """One writer's directory under `root`, made when first needed and removed when left empty."""

    def __init__(self, root: Path) -> None:
        self.location: str | None = str(root)
        self._root = root
        self._guard = threading.Lock()
        self._own: Path | None = None
        self._lock_fd = -1

    def write(self, batch: Batch, body: bytes) -> None:
        directory = self._directory()
        try:
            _write_durably(directory, batch.name, body)
        except FileNotFoundError:
            if directory.exists():
                raise
            self._forget(directory)  # an operator removed the whole directory: go on in a new one
            _write_durably(self._directory(), batch.name, body)

    def read(self, batch: Batch) -> bytes:
        if self._own is None:
            raise FileNotFoundError(batch.name)
        body = (self._own / batch.name).read_bytes()
        if len(body) != batch.size:
            raise Damaged(f"{batch.name} has {len(body)} bytes of {batch.size}")
        return body

    def delete(self, batch: Batch) -> None:
        if self._own is not None:
            (self._own / batch.name).unlink(missing_ok=True)

    def adopt(self) -> list[Batch]:
        adopted: list[Batch] = []
        for directory in self._siblings():
            self._adopt_from(directory, adopted)
        return adopted

    def others(self) -> tuple[int, int]:
        siblings = self._siblings()
        return sum(batch.charge for directory in siblings for batch in _batches(directory)), len(siblings)

    def close(self) -> None:
        with self._guard:
            if self._own is not None:
                if not _batches(self._own):
                    _remove(self._own)
                os.close(self._lock_fd)
                self._own = None

    def abandon(self) -> None:
        # The lock is the open file description's, shared with the parent: closing our copy leaves it locked there,
        # keeping it would leave the parent's batches locked after the parent's death.
        self._guard = threading.Lock()
        if self._own is not None:
            os.close(self._lock_fd)
            self._own = None

    def _directory(self) -> Path:
        with self._guard:
            if self._own is None:
                self._own, self._lock_fd = _open_writer(self._root)
            return self._own

    def _forget(self, directory: Path) -> None:
        with self._guard:
            if self._own == directory:
                os.close(self._lock_fd)
                self._own = None

    def _siblings(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                return [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and Path(e.path) != self._own]
        except FileNotFoundError:
            return []

    def _adopt_from(self, directory: Path, adopted: list[Batch]) -> None:
        try:
            with _locked(directory) as dead:
                if dead:
                    self._take_over(directory, adopted)
        except OSError as error:  # what could be moved is ours now; the rest is tried again at the next look
            log.warning("egisai: cannot take over the spool of a dead process: %s", error)

    def _take_over(self, dead: Path, adopted: list[Batch]) -> None:
        """Move the batches of a directory whose lock we hold; what was moved is in `adopted` even if this raises."""
        batches = _batches(dead)
        if batches:
            own = self._directory()
            for batch in batches:
                (dead / batch.name).rename(own / batch.name)
                adopted.append(batch)
            _sync_directory(own)
        for partial in dead.glob(f"*{_PARTIAL}"):
            partial.unlink()  # it was never accepted
        _remove(dead)


def open_store(spool_dir: Path | None, destination: str) -> Store:
    """The most durable store there is: `spool_dir`, else the temporary directory, else memory; less is warned of."""
    if sys.platform == "win32":
        log.warning("egisai: this system has no flock: spans that wait are kept in memory and lost with the process")
        return Memory()
    problem = "no home directory"
    if spool_dir is not None:
        try:
            spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Disk(_private(spool_dir / destination))
        except OSError as error:
            problem = str(error)
    temporary = Path(tempfile.gettempdir(), f"egisai-spool-{os.getuid()}")
    try:
        store = Disk(_private(_private(temporary) / destination))
    except OSError as error:
        log.warning(
            "egisai: no directory to keep spans in (%s; %s): they wait in memory, up to %d MiB, and are lost with the "
            "process; set EGISAI_SPOOL_DIR to a writable directory",
            *(problem, error, MEMORY_MAX_BYTES // 2**20),
        )
        return Memory()
    log.warning("egisai: no usable spool directory (%s): using %s; set EGISAI_SPOOL_DIR", problem, temporary)
    return store


def _private(directory: Path) -> Path:
    """`directory`, made if need be and checked to be ours: in a shared place somebody else may have made it first."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "is not a directory of this user", str(directory))
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "is not writable", str(directory))
    return directory


def _batches(directory: Path) -> list[Batch]:
    """What waits in a directory, oldest first; empty when it is gone."""
    try:
        return sorted(batch for path in directory.iterdir() if (batch := Batch.parse(path.name)))
    except FileNotFoundError:
        return []


def _write_durably(directory: Path, name: str, body: bytes) -> None:
    """All of the file under its name, safe from the death of process and machine, or nothing."""
    final, partial = directory / name, directory / (name + _PARTIAL)
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(fd)
        partial.rename(final)
        _sync_directory(directory)
    except OSError:
        for path in (partial, final):
            with contextlib.suppress(OSError):  # the first error is the one to tell
                path.unlink()
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_writer(root: Path) -> tuple[Path, int]:
    """A new directory of ours under `root` and the descriptor that keeps it locked."""
    while True:
        directory = root / f"{os.getpid()}-{secrets.token_hex(4)}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
        fd = _lock(directory)
        if fd is not None:
            return directory, fd
        # An adopter came between mkdir and lock and took the empty directory for a dead writer's: make another.


def _lock(directory: Path) -> int | None:
    """Lock a writer's directory; None when its writer lives, or when it has gone meanwhile."""
    path = directory / _LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.stat()):  # else its last owner removed it between open and lock
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


@contextlib.contextmanager
def _locked(directory: Path) -> Generator[bool, None, None]:
    fd = _lock(directory)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def _remove(directory: Path) -> None:
    """Remove a locked directory that holds no batch; one with files that are not ours stays."""
    (directory / _LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
