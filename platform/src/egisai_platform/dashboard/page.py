"""What every page is asked and answered with: viewer and address in, escaped HTML under strict headers out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from egisai_platform.auth import Viewer, current_viewer
from egisai_platform.dashboard import wording
from egisai_platform.dashboard.access import csrf_token
from egisai_platform.dashboard.address import RANGES, Address
from egisai_platform.dashboard.assets import static_url
from egisai_platform.filters import BadParameterError
from egisai_platform.model import Agent, Filter, Reader
from egisai_platform.store import StoreError, StoreTooSlowError

log = logging.getLogger("egisai_platform")

PAGES: Final = (
    ("/", "Overview"),
    ("/agents", "Agents"),
    ("/calls", "Calls"),
    ("/workflows", "Workflows"),
    ("/users", "Users"),
    ("/sessions", "Sessions"),
)

SOURCES: Final = {
    "id": "the program gave its id",
    "name": "the program named it",
    "framework": "the framework's own name for it",
    "fingerprint": "recognised by its system prompt",
    "app": "nothing told the agents of this program apart, so the program stands for them",
}
"""How an agent can be known, as `egisai.agent.source` says it, for people."""

_FACT_WORDS: Final = {
    "agent_id": "agent",
    "user_id": "user",
    "session_id": "session",
    "workflow_id": "workflow",
    "fingerprint": "prompt",
}

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: with it browsers send forms with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Vary": "Cookie, X-Fragment",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_templates = Environment(
    loader=PackageLoader("egisai_platform.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=wording.finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(wording.FILTERS)  # pyright: ignore[reportUnknownMemberType] - Jinja leaves it untyped
_templates.globals.update(  # pyright: ignore[reportUnknownMemberType] - likewise
    fact_words=_FACT_WORDS,
    pages=PAGES,
    ranges_offered=RANGES,
    sources=SOURCES,
    static_url=static_url,
    version=version("egisai-platform"),
)


@dataclass(frozen=True)
class Ask:
    """One request for a page, by somebody who may see `organisation`."""

    request: Request
    viewer: Viewer
    organisation: str
    organisations: Sequence[str]
    address: Address
    seen: int
    """How many spans the live stream had told of before anything was read for the page."""
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def reader(self) -> Reader:
        return self.request.app.state.platform.reader

    @cached_property
    def where(self) -> Filter:
        """The filter of the URL. Raises BadParameterError."""
        return self.address.where(self.now)

    # --- what templates ask for ----------------------------------------------------------------------------------
    @property
    def operates(self) -> bool:
        return self.viewer.may_operate(self.organisation)

    @property
    def csrf(self) -> str:
        return csrf_token(self.request)

    @property
    def theme(self) -> str:
        return theme(self.request)

    @cached_property
    def last_call(self) -> datetime | None:
        page = self.reader.calls(self.organisation, Filter(), limit=1)
        return page.items[0].start_time if page.items else None

    @cached_property
    def agents(self) -> Sequence[Agent]:
        """The agents to choose from in a form: the registry's first 500."""
        return self.reader.agents(self.organisation, Filter())[:500]

    def models(self) -> Sequence[str]:
        return sorted({model for agent in self.agents for model in agent.models})[:500]

    def agent_name(self, agent_id: str) -> str:
        agent = self.reader.agent(self.organisation, agent_id, Filter())
        return agent.name if agent else agent_id


View = Callable[[Ask], Response]


def endpoint(view: View, *, since: str = "all") -> Callable[[Request], Response]:
    """Return the endpoint of a page: it asks for a login, checks the organisation, and words what is wrong.

    `since` is the page's range when the URL names none. The endpoint is synchronous, so it runs in a worker
    thread and may wait for the store.
    """

    def answer(request: Request) -> Response:
        ask = begin(request, since)
        if isinstance(ask, Response):
            return ask
        try:
            return view(ask)
        except BadParameterError as error:
            return trouble(
                request, 400, "That address does not work", str(error), (ask.address.everything(), "Show everything")
            )
        except StoreTooSlowError:
            problem = "That is more than the store can read in time. Look at a shorter one."
            return trouble(request, 503, "Too much at once", problem, (ask.address.ranged("1h"), "Show the last hour"))
        except StoreError:
            log.exception("the store did not answer the dashboard")
            problem = "The store does not answer. The server's log says why; what was accepted is not lost."
            return trouble(request, 503, "Not now", problem, (ask.address.having(), "Try again"))

    return answer


def begin(request: Request, since: str = "all") -> Ask | Response:
    """Return who asks for what, or the answer to somebody who may not."""
    viewer = current_viewer(request)
    if viewer is None:
        if "x-fragment" in request.headers:
            return finish(Response("Log in again.", 401, media_type="text/plain"))
        target = _quoted(request) + (f"?{request.url.query}" if request.url.query else "")
        login = Address("/login", {"next": target if request.method == "GET" and target != "/" else ""})
        return finish(RedirectResponse(login.having(), 303))
    address = Address(request.url.path, dict(request.query_params), since)
    organisations = tuple(viewer.organisations) or ("default",)
    wanted = address.get("organisation")
    if wanted and wanted not in organisations:
        return trouble(request, 404, "Not found", "You cannot see an organisation of that name.")
    organisation = wanted or ("default" if "default" in organisations else organisations[0])
    seen = request.app.state.platform.events.published(organisation)
    return Ask(request, viewer, organisation, organisations, replace(address, path=_quoted(request)), seen)


def render(ask: Ask, template: str, section: str, **context: Any) -> Response:
    """Return a page, or only its live parts when `live.js` asks for those."""
    layout = "fragment.html" if ask.request.headers.get("x-fragment") == "main" else "page.html"
    return html(template, ask=ask, section=section, layout=layout, **context)


def trouble(
    request: Request, status: int, title: str, problem: str, way_out: tuple[str, str] = ("/", "Go to the overview")
) -> Response:
    """Return a page that says what is wrong, with a link (address, words) that leads on."""
    context = {"title": title, "problem": problem, "login": False, "way_out": way_out}
    return html("alone.html", status, theme=theme(request), **context)


def html(template: str, status: int = 200, **context: Any) -> Response:
    text = _templates.get_template(template).render(**context)
    return finish(HTMLResponse(text.encode("utf-8", "replace"), status))


def finish(response: Response) -> Response:
    """Add the headers that every answer of the dashboard carries."""
    response.headers.update(_HEADERS)
    return response


def theme(request: Request) -> str:
    """Return the chosen colour scheme, `dark` or `light`, or empty to follow the browser's."""
    chosen = request.cookies.get("egis_theme", "")
    return chosen if chosen in ("dark", "light") else ""


def _quoted(request: Request) -> str:
    """Return the path as it was sent: decoded, a slash inside an id would be one between ids."""
    raw = request.scope.get("raw_path") or b""
    return raw.decode("ascii", "replace") or request.url.path
