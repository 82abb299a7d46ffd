"""Where the platform listens and keeps its data: command-line options, then the environment, then defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ENV_PREFIX: Final = "EGISAI_PLATFORM_"
"""An option `--data-dir` is mirrored by `EGISAI_PLATFORM_DATA_DIR`."""

DEFAULTS: Final[Mapping[str, str]] = {"host": "127.0.0.1", "port": "4318", "retention_days": "90"}
"""4318 is the port OTLP/HTTP exporters try first."""


class StartError(Exception):
    """The platform cannot do what the operator asked; the text says what is wrong, with which value, and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `egisai-platform` was told, checked."""

    host: str
    port: int
    """TCP port; 0 lets the system choose one."""
    data_dir: Path
    """Directory of everything that is not kept elsewhere by a DSN; made with mode 0700."""
    store: str
    """`chdb:///absolute/path` (embedded) or `clickhouse://user:password@host:port/database`."""
    metadata: str
    """SQLAlchemy URL of keys and operators' decisions: `sqlite:///path` or `postgresql+psycopg://...`."""
    retention_days: int
    """Spans older than this are dropped, a month's partition at a time; 0 keeps them for ever."""


def resolve(options: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Settings from what was typed (None: not typed), else `EGISAI_PLATFORM_*`, else the defaults.

    Raises:
        StartError: a value is not allowed, or `environ` holds an `EGISAI_PLATFORM_*` name nobody reads.
    """
    names = ("host", "port", "data_dir", "store", "metadata", "retention_days")
    known = {ENV_PREFIX + name.upper() for name in names}
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            raise StartError(f"unknown environment variable {name}: allowed are {', '.join(sorted(known))}")

    def read(name: str) -> tuple[str, str]:
        """The value, and what the operator would have to change."""
        typed = options.get(name)
        if typed is not None:
            return typed, "--" + name.replace("_", "-")
        variable = ENV_PREFIX + name.upper()
        return environ.get(variable) or DEFAULTS.get(name, ""), variable

    data_dir = Path(read("data_dir")[0] or _state_dir(environ)).expanduser().absolute()
    return Settings(
        host=read("host")[0],
        port=_whole_number(*read("port"), lowest=0, highest=65535),
        data_dir=data_dir,
        store=_checked(*read("store"), check=_store_fault) or f"chdb://{data_dir / 'store'}",
        metadata=_checked(*read("metadata"), check=_metadata_fault) or f"sqlite:///{data_dir / 'metadata.db'}",
        retention_days=_whole_number(*read("retention_days"), lowest=0, highest=36500),
    )


def make_data_dir(path: Path) -> None:
    """Makes the data directory, readable by its owner alone. Raises StartError when it cannot be written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StartError(
            f"cannot write to the data directory {path}: {error.strerror}. "
            "Make it writable for this user, or name another one with --data-dir."
        ) from error


def without_password(dsn: str) -> str:
    """A DSN as it may be shown."""
    parts = urlsplit(dsn)
    if parts.password is None:
        return dsn
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()


def _state_dir(environ: Mapping[str, str]) -> Path:
    """The XDG base directory specification's place for state, which outlives restarts but is not configuration."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "egisai" / "platform"


def _whole_number(value: str, name: str, *, lowest: int, highest: int) -> int:
    if value.isascii() and value.isdigit() and lowest <= int(value) <= highest:
        return int(value)
    raise StartError(f"{name}: {value!r} is not a whole number from {lowest} to {highest}")


def _checked(dsn: str, name: str, *, check: Callable[[str], str | None]) -> str:
    fault = check(dsn) if dsn else None
    if fault is not None:
        raise StartError(f"{name}: {without_password(dsn)!r} {fault}")
    return dsn


def _store_fault(dsn: str) -> str | None:
    allowed = "use chdb:///absolute/path (embedded) or clickhouse://user:password@host:8123/database"
    try:
        parts = urlsplit(dsn)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError as error:
        return f"is not a DSN ({error}): {allowed}"
    if parts.scheme == "chdb":
        if parts.netloc or not parts.path.strip("/"):
            return "names no absolute directory: write it with three slashes, chdb:///absolute/path"
        return None
    if parts.scheme != "clickhouse":
        return f"is not a DSN of a store: {allowed}"
    if not parts.hostname or not port_is_good:
        return f"names no server: {allowed}"
    return None


def _metadata_fault(dsn: str) -> str | None:
    scheme, colon, rest = dsn.partition("://")
    allowed = "use sqlite:////absolute/path.db or postgresql+psycopg://user:password@host/database"
    if not colon or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        return f"is not a DSN of a metadata database: {allowed}"
    if scheme.startswith("sqlite") and rest.strip("/") in ("", ":memory:"):
        return f"names no file, and keys must outlive the process: {allowed}"
    return None
