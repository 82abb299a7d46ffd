"""The metadata database: keys, sessions and operators' decisions, in SQLite by default or PostgreSQL when shared."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from egisai_platform.settings import StartError, without_password

SCHEMA_VERSION: Final = "3"

_schema = MetaData()


class AnyText(TypeDecorator[str]):
    """Text that may hold zero bytes, which PostgreSQL cannot keep: there they become their picture."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or dialect.name != "postgresql":
            return value
        return value.replace("\0", "\N{SYMBOL FOR NULL}")


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

organisations = Table(
    "organisations",
    _schema,
    Column("organisation", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
)
"""How often an organisation's agents changed. Its row is locked while they are changed, so versions become visible in
their order: who has read version v has seen every change up to v."""

agents = Table(
    "agents",
    _schema,
    Column("organisation", String(63), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("operator_name", AnyText),
    Column("source", String(16), nullable=False),
    Column("description", AnyText, nullable=False),
    Column("fingerprint", AnyText),
    Column("merged_into", String(36)),
    Column("first_seen", BigInteger, nullable=False),
    Column("sketch", Text),
    Column("prompts", BigInteger, nullable=False, server_default="1"),
    Column("ruled_by", String(8)),
    Column("ruled_on", BigInteger),
    Column("split_from", String(36)),
    Column("changed_version", BigInteger, nullable=False, server_default="0"),
    Column("ruled_version", BigInteger, nullable=False, server_default="0"),
)
"""`name` is what traffic and announcements say; `operator_name`, when set, is what people see.

`prompts` is from how many prompts of its template the `sketch` was learnt: 1 where it is that of the first alone.

`ruled_by` says who decided that the agent is merged, or that it stands alone: `sketch` or `operator`; nobody, when
null. `ruled_on` is when, and `split_from` the agent that an operator took it out of. `changed_version` is its
organisation's version at the row's last change, `ruled_version` the one at which what the processes have to know of it
(for whom it stands, and the name of that one) changed last; 0 is never. No two rows of an organisation share one."""

_indexes = (
    Index("keys_organisation", keys.c.organisation),
    Index("agents_merged", agents.c.organisation, agents.c.merged_into),
    Index("agents_changed", agents.c.organisation, agents.c.changed_version),
    Index("agents_ruled", agents.c.organisation, agents.c.ruled_version),
)

_POSTGRESQL_LOCK: Final = 0x45474953  # any number that is ours: one node at a time makes or migrates the tables


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
            self._prepare(shown)
        except StartError:
            self.close()
            raise
        except SQLAlchemyError as error:
            self.close()
            cause = getattr(error, "orig", None) or error
            raise StartError(
                f"cannot open the metadata database {shown!r}: {cause}. Check the path or address and its permissions."
            ) from error

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

    def _prepare(self, shown: str) -> None:
        """Makes the tables or migrates them, in one transaction: it happens whole or not at all, and once."""
        with self.writing() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _POSTGRESQL_LOCK})
            connection.execute(CreateTable(settings, if_not_exists=True))
            stored = select(settings.c.value).where(settings.c.name == "schema_version")
            version = connection.execute(stored).scalar()
            if version is not None and version != SCHEMA_VERSION and version not in _MIGRATIONS:
                raise StartError(
                    f"the metadata database {shown!r} has schema version {version}, this program knows "
                    f"{SCHEMA_VERSION}: run the egisai-platform version that made it, or a newer one"
                )
            for table in _schema.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
            if version is None:
                connection.execute(insert(settings).values(name="schema_version", value=SCHEMA_VERSION))
            while version is not None and version != SCHEMA_VERSION:
                version = _MIGRATIONS[version](connection)
                connection.execute(update(settings).where(settings.c.name == "schema_version").values(value=version))
            for index in _indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


# --- migrations ------------------------------------------------------------------------------------------------------
def _from_1(connection: Connection) -> str:
    """Version 2 knows who ruled, and in which order; in version 1 only operators did, in an order nobody noted."""
    added = ("sketch", "ruled_by", "ruled_on", "split_from", "changed_version", "ruled_version")
    for name in added:
        column = CreateColumn(agents.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE agents ADD COLUMN {column}")
    connection.execute(update(agents).where(agents.c.merged_into.is_not(None)).values(ruled_by="operator"))
    versions: dict[str, int] = {}
    for organisation, agent_id, ruled in connection.execute(
        select(
            agents.c.organisation,
            agents.c.id,
            agents.c.merged_into.is_not(None) | agents.c.operator_name.is_not(None),
        ).order_by(agents.c.organisation, agents.c.id)
    ).all():
        version = versions[organisation] = versions.get(organisation, 0) + 1
        connection.execute(
            update(agents)
            .where(agents.c.organisation == organisation, agents.c.id == agent_id)
            .values(changed_version=version, ruled_version=version if ruled else 0)
        )
    if versions:
        rows = [{"organisation": organisation, "version": version} for organisation, version in versions.items()]
        connection.execute(insert(organisations), rows)
    return "2"


def _from_2(connection: Connection) -> str:
    """Version 3 knows from how many prompts a sketch was learnt."""
    column = CreateColumn(agents.c.prompts).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE agents ADD COLUMN {column}")
    return "3"


_MIGRATIONS: Final[Mapping[str, Callable[[Connection], str]]] = {"1": _from_1, "2": _from_2}
"""What makes the next version of each older one, and says which that is."""


# --- SQLite ----------------------------------------------------------------------------------------------------------
_BUSY_S: Final = 10


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Two that switch a new file to WAL at the same moment are refused at once, whatever the busy timeout."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:  # noqa: PERF203 - each turn is a try
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


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
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")
        _use_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails at once when another writer came between.
        write = connection.get_execution_options().get("egisai_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
