"""Proof that a form was ours, and where it may send its user: what a page needs beside `egisai_platform.auth`."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from egisai_platform.auth import session_of

FORM_BYTES: Final = 64 * 1024
"""The longest form read: far above any form here."""


class FormRefusedError(ValueError):
    """A form that cannot be obeyed; the message is for who sent it."""


def csrf_token(request: Request) -> str:
    """Return what this session's forms carry: derived from its cookie, which no other site and no script can read."""
    return hmac.new(
        session_of(request).encode("utf-8", "replace"), b"egisai dashboard form", hashlib.sha256
    ).hexdigest()


async def read_form(request: Request, *, csrf: bool = True) -> dict[str, str]:
    """Return the fields of a posted form.

    Raises FormRefusedError when another site sent it, when it is too long, or when it lacks this session's token.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise FormRefusedError("This form was sent by another site. Nothing was changed.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise FormRefusedError(f"This form is longer than {FORM_BYTES} bytes. Nothing was changed.")
    try:
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise FormRefusedError("This form has too many fields. Nothing was changed.") from None
    if csrf and not hmac.compare_digest(fields.get("csrf", "").encode(), csrf_token(request).encode()):
        raise FormRefusedError("This form belongs to another session. Reload the page and try again.")
    return fields


def local(target: str) -> str:
    """Return `target` if it is a path on this server, else the overview: where a form may send its user afterwards."""
    safe = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if safe else "/"
