"""What an exporter is told, checked once: keyword, then environment, then default."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

log = logging.getLogger("egisai_exporter")

DEFAULT_MAX_BYTES: Final = 512 * 2**20
"""Bytes on disk per destination: days of an outage at ten calls a second, and a small part of any server's disk."""

DEFAULT_TIMEOUT_S: Final = 10.0
"""Seconds per request, the OTLP exporter specification's default."""

_TRACES_PATH: Final = "/v1/traces"
_KEY: Final = re.compile(r"egis_live_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_[^_]+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked configuration, whose `repr` holds no secret."""

    endpoint: str
    headers: Mapping[str, str]
    authorization: str | None
    spool_dir: Path | None
    max_bytes: int
    timeout_s: float
    destination: str

    def __repr__(self) -> str:
        return f"Settings(endpoint={self.endpoint!r}, spool_dir={str(self.spool_dir)!r}, max_bytes={self.max_bytes})"


def read(
    endpoint: str | None,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    spool_dir: str | os.PathLike[str] | None,
    max_bytes: int,
    timeout_s: float,
) -> Settings:
    """Settings from an exporter's arguments and the environment.

    Raises:
        ValueError: names the setting, its value (never a secret) and what is allowed.
    """
    url = _endpoint(endpoint)
    key = _api_key(api_key)
    extra = _headers(headers)
    if key is None and not any(name.lower() == "authorization" for name in extra):
        log.warning("egisai: no api_key (EGISAI_API_KEY) is set: a platform that asks for one will refuse the spans")
    _check_number("max_bytes", max_bytes, (int,), "a whole number of bytes above 0")
    _check_number("timeout_s", timeout_s, (int, float), "a number of seconds above 0")
    return Settings(
        endpoint=url,
        headers=extra,
        authorization=None if key is None else f"Bearer {key}",
        spool_dir=_spool_dir(spool_dir),
        max_bytes=max_bytes,
        timeout_s=timeout_s,
        destination=_destination(url, key, extra),
    )


def _check_number(name: str, value: object, kinds: tuple[type, ...], allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or type(value) not in kinds:
        raise ValueError(f"{name} is {value!r}; allowed is {allowed}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}; allowed is {allowed}")


def _endpoint(value: str | None) -> str:
    """The full traces URL of a base URL, or of one that already ends in /v1/traces."""
    name = "endpoint" if value is not None else "EGISAI_BASE_URL"
    url = value if value is not None else os.environ.get("EGISAI_BASE_URL", "")
    allowed = "allowed is an http:// or https:// URL such as http://127.0.0.1:4318"
    if not url:
        raise ValueError(f"endpoint (EGISAI_BASE_URL) is not set; {allowed}")
    if not _PRINTABLE.fullmatch(url) or " " in url:
        raise ValueError(f"{name} is {url!r}; {allowed}, without spaces or control characters")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port  # `.port` raises when it is no port
    except ValueError as error:
        raise ValueError(f"{name} is {url!r} ({error}); {allowed}") from None
    if parts.username is not None:
        raise ValueError(f"{name} carries a user or password (not shown); {allowed}; a key goes in api_key")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{name} is {url!r}; {allowed}")
    if parts.query or parts.fragment:
        raise ValueError(f"{name} is {url!r}; {allowed}, without query or fragment")
    path = parts.path.rstrip("/")
    path = path if path.endswith(_TRACES_PATH) else path + _TRACES_PATH
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _api_key(value: str | None) -> str | None:
    name = "api_key" if value is not None else "EGISAI_API_KEY"
    key = value if value is not None else os.environ.get("EGISAI_API_KEY", "")
    if not key:
        return None
    for position, char in enumerate(key):
        if not "\x21" <= char <= "\x7e":
            raise ValueError(
                f"{name} (a secret, not shown; {len(key)} characters) has {char!r} at position {position}; "
                "allowed are printable ASCII characters without spaces or line ends"
            )
    return key


def _headers(value: Mapping[str, str] | None) -> dict[str, str]:
    headers = dict(value or {})
    for name, text in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers has the name {name!r}; allowed are HTTP header names")
        if not _PRINTABLE.fullmatch(text):
            raise ValueError(
                f"headers[{name!r}] (value not shown) has a control or non-ASCII character; allowed is ASCII"
            )
    return headers


def _spool_dir(value: str | os.PathLike[str] | None) -> Path | None:
    """Where to keep batches, or None when the environment names no home to keep them in."""
    given = os.fspath(value) if value is not None else os.environ.get("EGISAI_SPOOL_DIR", "")
    if given:
        if "\0" in given:
            raise ValueError(f"spool_dir is {given!r}; allowed is a directory path")
        return Path(given).expanduser().absolute()
    # XDG base directory specification: a relative value is to be ignored.
    state = os.environ.get("XDG_STATE_HOME", "")
    if state and Path(state).is_absolute():
        return Path(state, "egisai", "spool")
    try:
        return Path.home() / ".local" / "state" / "egisai" / "spool"
    except RuntimeError:  # no HOME and no passwd entry, as in a container with an arbitrary uid
        return None


def _destination(url: str, key: str | None, headers: Mapping[str, str]) -> str:
    """A directory name per (endpoint, organisation, headers), so that a batch never goes to another destination.

    A key of the platform counts by the organisation in it, so that a rotated key still sends what waits.
    """
    match = _KEY.fullmatch(key) if key is not None else None
    who = f"organisation {match[1]}" if match else f"key {key}" if key is not None else "no key"
    given = sorted((name.lower(), text) for name, text in headers.items())
    digest = hashlib.sha256(repr((url, who, given)).encode()).hexdigest()[:16]
    host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(url).hostname or "")[:64]
    return f"{host}-{digest}"
