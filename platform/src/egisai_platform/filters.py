"""What a URL may ask of a list: parameters checked, with messages that say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, cast, get_args

from egisai_platform.model import Filter, Status

FACTS: Final = ("agent", "agent_id", "user_id", "session_id", "workflow_id", "fingerprint", "model", "status")
TIMES: Final = ("since", "until")
PAGING: Final = ("cursor", "limit")
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500

_MAX_CHARACTERS: Final = 1000
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RELATIVE: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_OFFSET_SPACE: Final = re.compile(r" ([0-9]{2}:[0-9]{2})$")

DOCS: Final = {
    "agent": "Agents with this name, in any case: today's name or the first one.",
    "agent_id": "The agent with this id, and all merged into it.",
    "user_id": "Calls made for this user.",
    "session_id": "Calls of this session.",
    "workflow_id": "Calls of this workflow.",
    "fingerprint": "Calls with the system prompt of this fingerprint.",
    "model": "Calls that asked for, or were answered by, this model.",
    "status": f"Calls with this outcome: {', '.join(get_args(Status))}.",
    "since": "From this time on: ISO 8601 (without offset: UTC), or how long ago, such as 90s, 30m, 1h, 7d, 2w.",
    "until": "Before this time; written as `since`.",
    "cursor": "`next_cursor` of the page before.",
    "limit": f"Items of a page, 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} when absent.",
    "organisation": "Which organisation; for dashboard sessions that see several. A key has its own.",
}


class BadParameterError(ValueError):
    """A query parameter that cannot be obeyed; the text gives its name, value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked query string, but for `organisation`, which is judged where it is known who asks."""

    where: Filter
    limit: int
    cursor: str | None


def parse(items: Iterable[tuple[str, str]], allowed: tuple[str, ...], now: datetime | None = None) -> Asked:
    """Reads a query string's `(name, value)` pairs.

    Raises:
        BadParameterError: a name that is not among `allowed` or comes twice, or a bad value.
    """
    values: dict[str, str] = {}
    for name, value in items:
        if name not in allowed:
            raise BadParameterError(f"unknown query parameter {name[:100]!r}: allowed are {', '.join(allowed)}")
        if name in values:
            raise BadParameterError(f"query parameter {name!r} is given twice")
        if not value or len(value) > _MAX_CHARACTERS:
            raise BadParameterError(f"{name}={value[:20]!r}: 1 to {_MAX_CHARACTERS} characters are allowed")
        values[name] = value
    status = values.get("status")
    if status is not None and status not in get_args(Status):
        raise BadParameterError(f"status={status[:100]!r}: allowed are {', '.join(get_args(Status))}")
    now = now or datetime.now(timezone.utc)
    since, until = (_time(name, values[name], now) if name in values else None for name in TIMES)
    if since is not None and until is not None and since >= until:
        raise BadParameterError(f"since={values['since']!r} is not before until={values['until']!r}")
    return Asked(
        where=Filter(
            **{name: values.get(name) for name in FACTS if name != "status"},
            status=cast("Status | None", status),
            since=since,
            until=until,
        ),
        limit=_limit(values.get("limit", str(DEFAULT_LIMIT))),
        cursor=values.get("cursor"),
    )


def openapi(names: Iterable[str]) -> dict[str, Any]:
    """The parameters for the OpenAPI document."""
    schemas: dict[str, dict[str, Any]] = {
        "status": {"type": "string", "enum": list(get_args(Status))},
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    }
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": DOCS[name],
                "schema": schemas.get(name, {"type": "string"}),
            }
            for name in names
        ]
    }


def _time(name: str, value: str, now: datetime) -> datetime:
    relative = _RELATIVE.fullmatch(value)
    try:
        if relative:
            time = now - timedelta(**{_UNITS[relative[2]]: int(relative[1])})
        else:
            # Before Python 3.11 fromisoformat knows no Z; an unescaped + in a URL arrives as a space.
            text = _OFFSET_SPACE.sub(r"+\1", value)
            time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
        time = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        time = None
    if time is None or not 1970 <= time.year <= 2261:
        raise BadParameterError(
            f"{name}={value[:100]!r} is not a time: use ISO 8601, such as 2026-11-22T16:00:00Z, "
            "or how long ago, such as 90s, 30m, 1h, 7d, 2w"
        )
    return time


def _limit(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise BadParameterError(f"limit={value[:20]!r}: a whole number from 1 to {MAX_LIMIT} is allowed")
