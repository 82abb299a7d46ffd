"""The static files, served under a path that names their content, so that a browser may keep them for ever."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_FILES = {
    item.name: item.read_bytes()
    for item in files("egisai_platform.dashboard").joinpath("static").iterdir()
    if item.is_file()
}
_VERSION = hashlib.sha256(b"".join(name.encode() + body for name, body in sorted(_FILES.items()))).hexdigest()[:12]


def static_url(name: str) -> str:
    """Return the address of a static file. Raises KeyError for one that is not packaged."""
    _FILES[name]
    return f"/static/{_VERSION}/{name}"


async def static(request: Request) -> Response:
    """Serve one file. An address from before an upgrade gets today's file, but may not be kept."""
    name = request.path_params["name"]
    if name not in _FILES:
        return PlainTextResponse("There is no such file.", 404)
    keep = "public, max-age=31536000, immutable" if request.path_params["version"] == _VERSION else "no-cache"
    headers = {"Cache-Control": keep, "X-Content-Type-Options": "nosniff"}
    return Response(_FILES[name], media_type=mimetypes.guess_type(name)[0], headers=headers)
