"""Who may do what: organisation keys, one-time login links and dashboard sessions.

Secrets are 32 random bytes, so a plain SHA-256 is enough to keep them at rest; only hashes are stored. Everything is
looked up in the metadata database on each use: what is revoked is refused at once.

For the dashboard:

* `current_viewer(request) -> Viewer | None` says who is logged in.
* `state.auth.redeem_login(token) -> str | None` turns the one-time token of `/login?token=...` into a session.
* `state.auth.open_session(key) -> str | None` does so for a read or admin key typed into the login form.
* `set_session_cookie(response, request, session)` and `clear_session_cookie(response)` hand it to the browser and take
  it away; `state.auth.close_session(session)` ends it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from sqlalchemy import Row, delete, insert, or_, select, update

from egisai_platform import metadata as db

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from egisai_platform.metadata import Metadata

Scope = Literal["ingest", "read", "admin"]
Role = Literal["operator", "admin", "read"]

KEY_PREFIX: Final = "egis_live_"
ORGANISATION: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A slug that is also a DNS label; no underscore, which separates the parts of a key."""

_SESSION_COOKIE: Final = "egis_session"
LOGIN_TTL_S: Final = 15 * 60
SESSION_TTL_S: Final = 7 * 24 * 3600
LAST_USED_STEP_S: Final = 10 * 60
"""`last_used_at` is this coarse, so that using a key is a read and not a write."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    organisation: str
    scope: Scope
    name: str
    hint: str
    """Enough to recognise the key: `egis_live_acme_...1f3c`."""
    created_at: int
    last_used_at: int | None
    revoked_at: int | None

    def may(self, scope: Scope) -> bool:
        """Whether the key is good for this; admin is good for everything."""
        return self.scope in (scope, "admin")


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the dashboard."""

    role: Role
    """`operator` came by the server's own login link and sees everything; the others came with a key."""
    organisations: Sequence[str]
    """What they may see, sorted; never empty for a key, empty for an operator before any key was made."""

    def may_operate(self, organisation: str) -> bool:
        """Whether they may rename and merge this organisation's agents."""
        return self.role in ("operator", "admin") and organisation in self.organisations


class Auth:
    """Keys, logins and sessions in the metadata database. Every method may be called from any thread."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    # --- keys ------------------------------------------------------------------------------------------------------
    def create_key(self, organisation: str, scope: str, name: str = "") -> str:
        """Makes a key and returns it whole, for the only time.

        Raises:
            ValueError: the organisation or scope is not allowed; the text says what is.
        """
        if not ORGANISATION.fullmatch(organisation):
            raise ValueError(
                f"organisation {organisation!r} is not allowed: use 1 to 63 of a-z, 0-9 and '-', "
                "starting and ending with a letter or digit"
            )
        if scope not in get_args(Scope):
            raise ValueError(f"scope {scope!r} is not allowed: use one of {', '.join(get_args(Scope))}")
        secret = secrets.token_hex(32)
        key = f"{KEY_PREFIX}{organisation}_{secret}"
        with self._metadata.writing() as connection:
            connection.execute(
                insert(db.keys).values(
                    id=secrets.token_hex(4),
                    organisation=organisation,
                    scope=scope,
                    name=name,
                    hash=_hash(key),
                    hint=f"{KEY_PREFIX}{organisation}_...{secret[-4:]}",
                    created_at=int(time.time()),
                )
            )
        return key

    def list_keys(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        with self._metadata.reading() as connection:
            return [_key(row) for row in connection.execute(select(db.keys).order_by(db.keys.c.created_at))]

    def revoke_key(self, key_id: str) -> bool:
        """Makes a key and the sessions it opened worthless at once. False when there is no such key in force."""
        with self._metadata.writing() as connection:
            connection.execute(delete(db.sessions).where(db.sessions.c.key_id == key_id))
            revoked = connection.execute(
                update(db.keys)
                .where(db.keys.c.id == key_id, db.keys.c.revoked_at.is_(None))
                .values(revoked_at=int(time.time()))
            )
        return revoked.rowcount > 0

    def key(self, presented: str) -> Key | None:
        """The key in force that this text is, or None."""
        if not presented.startswith(KEY_PREFIX):
            return None
        query = select(db.keys).where(db.keys.c.hash == _hash(presented), db.keys.c.revoked_at.is_(None))
        with self._metadata.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        key = _key(row)
        now = int(time.time())
        if now - (key.last_used_at or 0) >= LAST_USED_STEP_S:
            with self._metadata.writing() as connection:
                connection.execute(update(db.keys).where(db.keys.c.id == key.id).values(last_used_at=now))
        return key

    def organisations(self) -> list[str]:
        """Every organisation that ever had a key, sorted."""
        with self._metadata.reading() as connection:
            return sorted(connection.execute(select(db.keys.c.organisation).distinct()).scalars())

    # --- the dashboard ---------------------------------------------------------------------------------------------
    def create_login(self) -> str:
        """A token that opens one operator's session within 15 minutes."""
        token = secrets.token_urlsafe(32)
        now = int(time.time())
        with self._metadata.writing() as connection:
            connection.execute(delete(db.logins).where(db.logins.c.expires_at <= now))
            connection.execute(delete(db.sessions).where(db.sessions.c.expires_at <= now))
            connection.execute(insert(db.logins).values(hash=_hash(token), expires_at=now + LOGIN_TTL_S))
        return token

    def remember_url(self, url: str) -> None:
        """Keeps where the server can be reached, for `egisai-platform login`."""
        self._metadata.set_setting("url", url)

    def last_url(self) -> str | None:
        """Where a server was last started on this metadata database."""
        return self._metadata.setting("url", "") or None

    def redeem_login(self, token: str) -> str | None:
        """The operator's new session for a login token, once; None when it is unknown, used or too old."""
        with self._metadata.writing() as connection:
            redeemed = connection.execute(
                delete(db.logins).where(db.logins.c.hash == _hash(token), db.logins.c.expires_at > int(time.time()))
            )
        return self._new_session("operator", None) if redeemed.rowcount else None

    def open_session(self, presented: str) -> str | None:
        """A session that sees what a read or admin key may see; None for any other text."""
        key = self.key(presented.strip())
        if key is None or key.scope == "ingest":
            return None
        return self._new_session(key.scope, key.id)

    def close_session(self, session: str) -> None:
        """Logs out."""
        with self._metadata.writing() as connection:
            connection.execute(delete(db.sessions).where(db.sessions.c.hash == _hash(session)))

    def viewer(self, session: str) -> Viewer | None:
        """Who the session belongs to, or None when it is unknown, over, or its key was revoked."""
        query = (
            select(db.sessions.c.role, db.keys.c.organisation)
            .join_from(db.sessions, db.keys, db.sessions.c.key_id == db.keys.c.id, isouter=True)
            .where(
                db.sessions.c.hash == _hash(session),
                db.sessions.c.expires_at > int(time.time()),
                or_(db.sessions.c.key_id.is_(None), db.keys.c.revoked_at.is_(None)),
            )
        )
        with self._metadata.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return Viewer(row.role, [row.organisation] if row.organisation else self.organisations())

    def _new_session(self, role: Role, key_id: str | None) -> str:
        session = secrets.token_urlsafe(32)
        expires_at = int(time.time()) + SESSION_TTL_S
        with self._metadata.writing() as connection:
            connection.execute(
                insert(db.sessions).values(hash=_hash(session), role=role, key_id=key_id, expires_at=expires_at)
            )
        return session


def bearer(request: Request) -> str:
    """The key a request presents, or an empty text."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def current_viewer(request: Request) -> Viewer | None:
    """Who is logged in to the dashboard in this browser, or None. Costs one indexed read."""
    session = session_of(request)
    return request.app.state.platform.auth.viewer(session) if session else None


def session_of(request: Request) -> str:
    """The session that the browser presents, or an empty text."""
    return request.cookies.get(_cookie_name(request), "")


def set_session_cookie(response: Response, request: Request, session: str) -> None:
    """Hands the browser its session; scripts cannot read it and other sites' posts do not carry it."""
    response.set_cookie(
        _cookie_name(request),
        session,
        max_age=SESSION_TTL_S,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


def clear_session_cookie(response: Response, request: Request) -> None:
    """Takes the session out of the browser."""
    response.delete_cookie(_cookie_name(request), httponly=True, samesite="lax")


def _cookie_name(request: Request) -> str:
    # Browsers keep one set of cookies for all ports of a host: two platforms on one machine must not share a name.
    return f"{_SESSION_COOKIE}_{request.url.port}" if request.url.port else _SESSION_COOKIE


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: Row[tuple[object, ...]]) -> Key:
    return Key(
        row.id, row.organisation, row.scope, row.name, row.hint, row.created_at, row.last_used_at, row.revoked_at
    )
