"""What `init()` was told: keyword, then environment, then default, checked once with clear errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

_KEY: Final = re.compile(r"egis_live_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_([A-Za-z0-9-]{43,})")
_ORGANISATION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f]")
_MAX_LABEL_CHARS: Final = 256
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f:]*:[0-9a-f:.]*")
_MIN_SECRET_CHARS: Final = 16  # `openssl rand -hex 32` makes 64
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


class ConfigurationError(ValueError):
    """`init()` cannot work with what it was given. The message names the setting, the value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. Each falls back from the keyword to its environment variable to its default."""

    api_key: str | None
    """`EGISAI_API_KEY`. None: nothing is sent to a platform that asks for one."""
    app: str
    """`EGISAI_APP`, default "default". The agent of every call that nothing finer is known of, and `service.name`."""
    env: str
    """`EGISAI_ENV`, default "production": `deployment.environment.name`."""
    base_url: str | None
    """`EGISAI_BASE_URL`, such as `http://127.0.0.1:4318`. None: spans go where OpenTelemetry is set up to send them."""
    organisation: str
    """`EGISAI_ORGANISATION`; by default the one in the key, else "default". Part of every agent's id."""
    trusted_hosts: tuple[str, ...] = ()
    """`EGISAI_TRUSTED_HOSTS`, comma-separated: hosts beyond the private ones that facts are sent to."""
    context_secret: tuple[str, ...] = field(default=(), repr=False)
    """`EGISAI_CONTEXT_SECRET`, one or two: the first signs the facts sent to other services, each verifies."""
    trust_inbound: bool = False
    """`EGISAI_TRUST_INBOUND`: believe facts that arrive unsigned."""
    redact: Callable[[str, str], str] | None = None
    """A function, so only a keyword: what every exported text passes through, see `redaction`."""

    @classmethod
    def resolve(
        cls,
        *,
        api_key: str | None = None,
        app: str | None = None,
        env: str | None = None,
        base_url: str | None = None,
        organisation: str | None = None,
        trusted_hosts: str | Sequence[str] | None = None,
        context_secret: str | None = None,
        trust_inbound: bool | None = None,
        redact: Callable[[str, str], str] | None = None,
    ) -> Settings:
        """Fill in from the environment and check.

        Raises:
            ConfigurationError: naming the setting, its value and what is allowed.
        """
        key = _given("api_key", api_key)
        key_organisation = _organisation_of(key) if key else None
        return cls(
            api_key=key,
            app=_label("app", _given("app", app) or "default"),
            env=_label("env", _given("env", env) or "production"),
            base_url=_url(_given("base_url", base_url)),
            organisation=_organisation(_given("organisation", organisation), key_organisation),
            trusted_hosts=_hosts(trusted_hosts),
            context_secret=_secrets(_given("context_secret", context_secret)),
            trust_inbound=_boolean("trust_inbound", trust_inbound),
            redact=_redactor(redact),
        )

    def shown(self) -> dict[str, str | None]:
        """The settings as `diagnostics()` shows them: the key without its secret."""
        return {
            "app": self.app,
            "env": self.env,
            "organisation": self.organisation,
            "base_url": self.base_url,
            "api_key": _masked(self.api_key) if self.api_key else None,
            "trusted_hosts": ",".join(self.trusted_hosts) or None,
            "context_secret": "…" if self.context_secret else None,
            "trust_inbound": "true" if self.trust_inbound else "false",
            "redact": getattr(self.redact, "__qualname__", type(self.redact).__qualname__) if self.redact else None,
        }


def spool_dir() -> Path | None:
    """Where the exporter keeps what waits, and we what was learnt (`EGISAI_SPOOL_DIR`); None without a home.

    As in exporter/README.md; the exporter, which does not know us, works it out by itself.
    """
    given, state = os.environ.get("EGISAI_SPOOL_DIR", ""), os.environ.get("XDG_STATE_HOME", "")
    try:
        if given:
            return Path(given).expanduser().absolute()
        if state and Path(state).is_absolute():
            return Path(state, "egisai", "spool")
        return Path.home() / ".local" / "state" / "egisai" / "spool"
    except RuntimeError:  # no HOME and no passwd entry
        return None


def _given(name: str, value: object) -> str | None:
    variable = f"EGISAI_{name.upper()}"
    if value is None:
        value = os.environ.get(variable, "").strip() or None
        name = variable
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{name}={value!r} is a {type(value).__name__}: it must be a str")
    return value


def _organisation_of(key: str) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        raise ConfigurationError(
            f"api_key={_masked(key)!r} is not an Egis key: it must look like egis_live_<organisation>_<secret>, "
            "as `egisai-platform keys create` prints it"
        )
    return match[1]


def _masked(key: str) -> str:
    match = _KEY.fullmatch(key)
    return f"egis_live_{match[1]}_…{match[2][-4:]}" if match else key[:10] + "…"


def _organisation(given: str | None, in_key: str | None) -> str:
    if given is None:
        return in_key or "default"
    if not _ORGANISATION.fullmatch(given):
        raise ConfigurationError(
            f"organisation={given!r} is not a name: use lower-case letters, digits and inner hyphens, at most 63"
        )
    if in_key is not None and given != in_key:
        raise ConfigurationError(
            f"organisation={given!r} contradicts api_key, which belongs to {in_key!r}: leave organisation out"
        )
    return given


def _label(name: str, value: str) -> str:
    text = value.strip()
    if not text or len(text) > _MAX_LABEL_CHARS or not text.isprintable():
        raise ConfigurationError(
            f"{name}={value[:64]!r} is not a label: it must be 1 to {_MAX_LABEL_CHARS} printable characters"
        )
    return text


def _hosts(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        items = list(cast("Sequence[object]", value))
    else:
        items = [item for item in (_given("trusted_hosts", value) or "").split(",") if item.strip()]
    hosts: list[str] = []
    for item in items:
        host = item.strip().lower() if isinstance(item, str) else ""
        if not _HOST.fullmatch(host):
            raise ConfigurationError(
                f"trusted_hosts={item!r} is not a host: use names such as api.example.com, *.example.com (each name "
                "below it) or addresses, without scheme, port or path; international names in their xn-- form"
            )
        hosts.append(host)
    return tuple(hosts)


def _secrets(value: str | None) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in value.split(",")) if value else ()
    if len(secrets) > 2 or any(len(secret) < _MIN_SECRET_CHARS for secret in secrets):
        raise ConfigurationError(
            f"context_secret is unusable: give one secret, or two with a comma (the first signs, both verify), of "
            f"{_MIN_SECRET_CHARS} characters or more each, such as `openssl rand -hex 32` makes"
        )
    return secrets


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _given(name, value) or "false"
    if text.lower() not in _BOOLEANS:
        raise ConfigurationError(f"{name}={text!r} is neither true nor false")
    return _BOOLEANS[text.lower()]


def _redactor(value: object) -> Callable[[str, str], str] | None:
    if value is not None and not callable(value):
        raise ConfigurationError(
            f"redact={value!r} cannot be called: it must be a function of a text and an attribute's name, such as "
            "egisai.common_redaction.common() returns"
        )
    return cast("Callable[[str, str], str] | None", value)


def _url(value: str | None) -> str | None:
    if value is None:
        return None
    wrong = f"base_url={value!r} is not the address of a platform: it must look like http://127.0.0.1:4318 ({{}})"
    if _BLANK.search(value):  # before urlsplit, which drops some silently
        raise ConfigurationError(wrong.format("no space or control character"))
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(wrong.format(exc)) from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(wrong.format("http or https, with the //"))
    if not parts.hostname or port == 0:
        raise ConfigurationError(wrong.format("a host, and a port if not the usual one"))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(wrong.format("no user, query or fragment; the key goes in api_key"))
    return value.rstrip("/").removesuffix("/v1/traces")
