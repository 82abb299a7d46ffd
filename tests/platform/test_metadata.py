"""The metadata database: databases of older versions are migrated where they are, once, and whole.

`tests/platform/postgres.sh` runs these on PostgreSQL too.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, inspect

from egisai.identity import agent_id
from egisai_platform import metadata as db
from egisai_platform.auth import Auth
from egisai_platform.metadata import SCHEMA_VERSION, Metadata
from egisai_platform.registry import Registry, Sighting
from egisai_platform.settings import StartError

VERSION_1 = """
CREATE TABLE settings (name VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE keys (id VARCHAR(16) NOT NULL, organisation VARCHAR(63) NOT NULL, scope VARCHAR(8) NOT NULL,
  name TEXT NOT NULL, hash VARCHAR(64) NOT NULL, hint VARCHAR(128) NOT NULL, created_at BIGINT NOT NULL,
  last_used_at BIGINT, revoked_at BIGINT, PRIMARY KEY (id), UNIQUE (hash));
CREATE TABLE logins (hash VARCHAR(64) NOT NULL, expires_at BIGINT NOT NULL, PRIMARY KEY (hash));
CREATE TABLE sessions (hash VARCHAR(64) NOT NULL, role VARCHAR(8) NOT NULL, key_id VARCHAR(16),
  expires_at BIGINT NOT NULL, PRIMARY KEY (hash), FOREIGN KEY(key_id) REFERENCES keys (id));
CREATE TABLE agents (organisation VARCHAR(63) NOT NULL, id VARCHAR(36) NOT NULL, name TEXT NOT NULL,
  operator_name TEXT, source VARCHAR(16) NOT NULL, description TEXT NOT NULL, fingerprint TEXT,
  merged_into VARCHAR(36), first_seen BIGINT NOT NULL, PRIMARY KEY (organisation, id));
CREATE INDEX keys_organisation ON keys (organisation);
INSERT INTO settings VALUES ('schema_version', '1'), ('secret', '00ff');
INSERT INTO agents VALUES
  ('acme', 'a', 'billing', 'Billing desk', 'name', 'Refunds.', NULL, NULL, 1700000000),
  ('acme', 'b', 'Invoices', NULL, 'fingerprint', '', 'f', 'a', 1700000001),
  ('acme', 'c', 'triage', NULL, 'name', '', NULL, NULL, 1700000002),
  ('other', 'a', 'billing', NULL, 'name', '', NULL, NULL, 1700000003)
"""
"""What version 1 of the schema was, and an operator's work in it."""


@pytest.fixture
def old(dsn):
    """A database as version 1 left it."""
    engine = create_engine(dsn)
    with engine.begin() as connection:
        for statement in VERSION_1.split(";"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return dsn


def columns(metadata):
    found = inspect(metadata.engine)
    return {
        table: (
            {column["name"]: column["nullable"] for column in found.get_columns(table)},
            {index["name"] for index in found.get_indexes(table) if not index.get("duplicates_constraint")},
        )
        for table in found.get_table_names()
    }


def test_version_1_is_migrated(old):
    """Everything in it is kept, merges count as the operator's, and what processes must know has a version."""
    metadata = Metadata(old)
    registry = Registry(metadata)
    assert (metadata.setting("schema_version", ""), metadata.secret()) == (SCHEMA_VERSION, b"\x00\xff")
    names = registry.names("acme")
    assert (names.name("b"), names.records["a"].description, names.records["b"].ruled_by) == (
        "Billing desk",
        "Refunds.",
        "operator",
    )
    assert {old: agent.id for old, agent in registry.rulings("acme", 0).canonical.items()} == {"a": "a", "b": "a"}
    assert registry.rulings("other", 0).canonical == {}
    registry.unmerge("acme", "b")
    assert registry.names("acme").name("b") == "Invoices"
    key = Auth(metadata).create_key("acme", "read")
    metadata.close()
    again = Metadata(old)
    assert Auth(again).key(key) is not None
    assert Registry(again).names("acme").aliases == {}
    again.close()


def test_a_migrated_database_is_like_a_new_one(old, tmp_path):
    """The same tables, columns and indexes, so that the next migration finds what it expects."""
    migrated, new = Metadata(old), Metadata(f"sqlite:///{tmp_path / 'new.db'}")
    assert columns(migrated) == columns(new)
    migrated.close()
    new.close()


def test_many_nodes_start_at_once(old):
    """One of them migrates; the others wait for it and find it done."""
    together = threading.Barrier(6)

    def start(_):
        together.wait(20)
        metadata = Metadata(old)
        names = Registry(metadata).names("acme")
        metadata.close()
        return names.version, dict(names.aliases)

    with ThreadPoolExecutor(6) as pool:
        assert set(map(repr, pool.map(start, range(6)))) == {repr((3, {"b": "a"}))}


def test_many_nodes_make_a_new_one_at_once(dsn):
    """Nodes that start on an empty database make it once, with one secret for all."""
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(Metadata, [dsn] * 6))
    assert len({metadata.secret() for metadata in opened}) == 1
    for metadata in opened:
        metadata.close()


def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    """A failure halfway leaves version 1, whole, for the next attempt."""
    real = db._MIGRATIONS

    def failing(connection):
        real["2"](connection)
        raise StartError("out of luck")

    monkeypatch.setattr(db, "_MIGRATIONS", {**real, "2": failing})
    with pytest.raises(StartError, match="out of luck"):
        Metadata(old)
    engine = create_engine(old)
    assert [column["name"] for column in inspect(engine).get_columns("agents")][-1] == "first_seen"
    assert "organisations" not in inspect(engine).get_table_names()
    engine.dispose()
    monkeypatch.setattr(db, "_MIGRATIONS", real)
    Metadata(old).close()


def test_a_newer_version_is_left_alone(dsn):
    """What a newer program made is refused by name, and not touched."""
    metadata = Metadata(dsn)
    metadata.set_setting("schema_version", "99")
    metadata.close()
    with pytest.raises(StartError, match="schema version 99"):
        Metadata(dsn)


def test_text_that_postgresql_cannot_keep(dsn):
    """Zero bytes in what programs send are stored as they are, or as their picture, and never an error."""
    metadata = Metadata(dsn)
    registry = Registry(metadata)
    agent = agent_id("o", "name", "a\0b")
    registry.saw([Sighting("o", agent, "a\0b", "name", "f\0")])
    registry.describe("o", agent, description="d\0")
    assert registry.names("o").name(agent) in ("a\0b", "a\N{SYMBOL FOR NULL}b")
    metadata.close()
