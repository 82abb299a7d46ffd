"""The metadata database: keys, sessions and operators' decisions, in SQLite by default or PostgreSQL when shared."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from egisai_platform.settings import StartError, without_password

SCHEMA_VERSION: Final = "1"

_schema = MetaData()

settings = Table(
    "settings", _schema, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False)
)

keys = Table(
    "keys",
    _schema,
    Column("id", String(16), primary_key=True),
    Column("organisation", String(63), nullable=False),
    Column("scope", String(8), nullable=False),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("hint", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
)
"""Times are whole seconds since the epoch, here and below."""

logins = Table(
    "logins", _schema, Column("hash", String(64), primary_key=True), Column("expires_at", BigInteger, nullable=False)
)

sessions = Table(
    "sessions",
    _schema,
    Column("hash", String(64), primary_key=True),
    Column("role", String(8), nullable=False),
    Column("key_id", String(16), ForeignKey("keys.id")),
    Column("expires_at", BigInteger, nullable=False),
)

agents = Table(
    "agents",
    _schema,
    Column("organisation", String(63), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("operator_name", Text),
    Column("source", String(16), nullable=False),
    Column("description", Text, nullable=False),
    Column("fingerprint", Text),
    Column("merged_into", String(36)),
    Column("first_seen", BigInteger, nullable=False),
)
"""`name` is what traffic and announcements say; `operator_name`, when set, is what people see."""

_indexes = (Index("keys_organisation", keys.c.organisation),)


class Metadata:
    """A pool of connections to the metadata database, with its tables made."""

    def __init__(self, dsn: str) -> None:
        """Opens (and where needed makes) the database.

        Raises:
            StartError: it cannot be reached or written, its driver is missing, or a newer version made it.
        """
        shown = without_password(dsn)
        try:
            self.engine: Final = create_engine(dsn)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise StartError(f"metadata database {shown!r}: {error}") from error
        except ModuleNotFoundError as error:
            raise StartError(
                f"metadata database {shown!r} needs the Python package {error.name!r}: install it with pip"
            ) from error
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
        try:
            self._create()
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StartError(
                f"cannot open the metadata database {shown!r}: {cause}. Check the path or address and its permissions."
            ) from error
        version = self.setting("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise StartError(
                f"the metadata database {shown!r} has schema version {version}, this program knows {SCHEMA_VERSION}: "
                "run the egisai-platform version that made it, or a newer one"
            )

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """A connection for reading."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Generator[Connection, None, None]:
        """A transaction that is committed at the end of the block; it holds SQLite's write lock from its start."""
        with self.engine.connect().execution_options(egisai_write=True) as connection, connection.begin():
            yield connection

    def setting(self, name: str, default: str) -> str:
        """The stored value of a setting; the first caller's default is stored for everybody."""
        query = select(settings.c.value).where(settings.c.name == name)
        with self.reading() as connection:
            value = connection.execute(query).scalar()
        if value is not None:
            return value
        try:
            with self.writing() as connection:
                connection.execute(insert(settings).values(name=name, value=default))
        except IntegrityError:  # another process was first
            return self.setting(name, default)
        return default

    def set_setting(self, name: str, value: str) -> None:
        """Stores a setting, whatever it was."""
        if self.setting(name, value) != value:
            with self.writing() as connection:
                connection.execute(update(settings).where(settings.c.name == name).values(value=value))

    def secret(self) -> bytes:
        """32 random bytes, the same for every process on this database."""
        return bytes.fromhex(self.setting("secret", secrets.token_hex(32)))

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()

    def _create(self) -> None:
        with self.writing() as connection:
            for table in _schema.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
            for index in _indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


def _prepare_sqlite(engine: Engine) -> None:
    """WAL so that commands work beside a running server, FULL so that an answer survives a power cut."""
    path = engine.url.database
    if path:  # the file holds hashes and session ids: nobody else's business
        try:
            Path(path).touch(mode=0o600)
        except OSError as error:
            raise StartError(f"cannot write the metadata database {path}: {error.strerror}") from error

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails at once when another writer came between.
        write = connection.get_execution_options().get("egisai_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
