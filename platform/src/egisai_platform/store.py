"""The event store: ClickHouse, embedded in this process or on a server, behind one DSN.

The embedded engine is one per process and one process per directory. A handle is used by one thread at a time, so
readers borrow one of a few and the writer has its own.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import unquote, urlsplit

from egisai_platform import sql
from egisai_platform.settings import StartError, make_data_dir, without_password

if TYPE_CHECKING:
    from egisai_platform.otlp import SpanRow

_READERS: Final = 4
"""Questions answered at once; the engine uses several threads for each."""
_BUSY_S: Final = 15.0
"""How long a question waits for its turn: longer than any other may take."""


class StoreError(Exception):
    """The store did not do what it was asked; trying again later may help."""


class StoreTooSlowError(StoreError):
    """A question cost more time or memory than it may."""


class _Client(Protocol):
    """What is used of `clickhouse_connect.driver.client.Client`."""

    def insert(
        self,
        table: str,
        data: Sequence[Sequence[Any]],
        *,
        column_names: Sequence[str],
        column_type_names: Sequence[str],
        column_oriented: bool,
    ) -> object: ...
    def query(self, query: str, parameters: dict[str, Any] | None = None) -> Any: ...
    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object: ...
    def close(self) -> None: ...


class Store:
    """Connections to the store, with its tables made. `insert` is for one thread, `query` for any."""

    def __init__(self, dsn: str, retention_days: int) -> None:
        """Opens the store and makes or checks its tables; takes seconds the first time.

        Raises:
            StartError: it is locked by another process, cannot be reached or written, or is of another version.
        """
        self._dsn = dsn
        self._lock = _lock_directory(dsn)
        self._idle: queue.LifoQueue[_Client] = queue.LifoQueue()
        self._clients: list[_Client] = []
        try:
            self._writer = self._open(sql.INSERT_SETTINGS)
            self._create(retention_days)
            for _ in range(_READERS):
                self._idle.put(self._open(sql.READ_SETTINGS))
            # The first insert and the first answer import what they need, which takes a second: not at the first user.
            self.insert([])
            self.query(sql.SELECT_ONE, {})
        except StoreError as error:
            self.close()
            raise StartError(f"the store {without_password(dsn)!r} does not work: {error}") from error
        except BaseException:
            self.close()
            raise

    def insert(self, rows: Sequence[SpanRow]) -> None:
        """Stores rows; when this returns they survive a power cut. All or, after an error, perhaps some are stored.

        Raises:
            StoreError: the engine refused (a full disk, a lost server).
        """
        columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in sql.TYPES]
        with _translated():
            self._writer.insert(
                "spans",
                columns,
                column_names=list(sql.COLUMNS),
                column_type_names=sql.TYPES,
                column_oriented=True,
            )

    def query(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows that answer a statement.

        Raises:
            StoreTooSlowError: it takes too long, or no turn came.
            StoreError: the engine refused.
        """
        try:
            client = self._idle.get(timeout=_BUSY_S)
        except queue.Empty:
            raise StoreTooSlowError("the store is busy with other questions") from None
        try:
            with _translated():
                return client.query(statement, parameters=dict(parameters)).result_rows
        finally:
            self._idle.put(client)

    def close(self) -> None:
        """Closes the engine and gives its directory free."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._lock is not None:
            self._lock.close()

    def _open(self, settings: Mapping[str, str]) -> _Client:
        import clickhouse_connect  # 0.3 s, which `egisai-platform keys` need not spend
        from clickhouse_connect.driver.exceptions import ClickHouseError

        options: dict[str, Any] = (
            {"interface": "chdb", "path": str(_directory(self._dsn))}
            if self._dsn.startswith("chdb:")
            else {"dsn": self._dsn, "connect_timeout": 5, "autogenerate_session_id": False}
        )
        # A stranger's error log shows our statement, not a hint for us: the message is ours to word.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        try:
            connect = cast("Callable[..., _Client]", clickhouse_connect.get_client)  # pyright: ignore[reportUnknownMemberType]
            client = connect(settings=dict(settings), **options)
        except (ClickHouseError, OSError, ValueError, RuntimeError) as error:
            raise StartError(
                f"cannot open the store {without_password(self._dsn)!r}: {_first_line(error)}. "
                "Check that the address, user and database are right and that it is running."
            ) from error
        self._clients.append(client)
        return client

    def _create(self, retention_days: int) -> None:
        with _translated():
            for statement in (sql.CREATE_SCHEMA, sql.CREATE_SPANS):
                self._writer.command(statement)
            version = int(self._writer.query(sql.SELECT_SCHEMA).result_rows[0][0])
            if version == 0:
                self._writer.command(sql.INSERT_SCHEMA, parameters={"version": sql.SCHEMA_VERSION})
            elif version != sql.SCHEMA_VERSION:
                raise StartError(
                    f"the store {without_password(self._dsn)!r} has schema version {version}, this program knows "
                    f"{sql.SCHEMA_VERSION}: run the egisai-platform version that made it, or a newer one"
                )
            alter = sql.alter_retention(retention_days, self._writer.query(sql.SELECT_TTL).result_rows[0][0])
            if alter is not None:
                self._writer.command(alter)


def _directory(dsn: str) -> Path:
    return Path(unquote(urlsplit(dsn).path))


def _lock_directory(dsn: str) -> IO[str] | None:
    """Holds the embedded store's directory for this process: the engine allows one, and says so obscurely."""
    if not dsn.startswith("chdb:"):
        return None
    import fcntl  # the embedded engine exists for POSIX systems only

    directory = _directory(dsn)
    make_data_dir(directory)
    path = directory.with_name(directory.name + ".lock")
    try:
        file = path.open("a+")
    except OSError as error:
        raise StartError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StartError(
            f"the store {directory} is in use by process {owner}. Stop that process, or choose another directory "
            "with --data-dir or --store; one embedded store serves one process."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


_TOO_SLOW: Final = {159: "it took too long", 160: "it would take too long", 241: "it needs too much memory"}
"""ClickHouse error codes of our limits: TIMEOUT_EXCEEDED, TOO_SLOW, MEMORY_LIMIT_EXCEEDED."""


@contextmanager
def _translated() -> Generator[None, None, None]:
    """Makes the client's many kinds of error one."""
    from clickhouse_connect.driver.exceptions import ClickHouseError, Error

    try:
        yield
    except ClickHouseError as error:
        reason = _TOO_SLOW.get(error.code or 0) if isinstance(error, Error) else None
        if reason is not None:
            raise StoreTooSlowError(reason) from error
        raise StoreError(_first_line(error)) from error
    except OSError as error:  # the embedded engine reads what is inserted from a temporary file
        raise StoreError(error.strerror or str(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(" .")
