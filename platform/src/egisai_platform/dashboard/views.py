"""The pages: each view reads the store for what one page shows, and hands it to its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from egisai_platform.auth import clear_session_cookie, session_of, set_session_cookie
from egisai_platform.dashboard import charts
from egisai_platform.dashboard.access import FormRefusedError, local, read_form
from egisai_platform.dashboard.messages import is_message, messages, written
from egisai_platform.dashboard.page import Ask, begin, finish, html, render, theme, trouble
from egisai_platform.model import Agent, AgentDetail, Filter, Page
from egisai_platform.registry import MergeRefusedError, Registry, UnknownAgentError

PAGE_ITEMS: Final = 50
PROMPTS: Final = 20
"""Prompts shown with an agent before one asks for all."""
TRACE_CALLS: Final = 200
"""Calls of the same trace listed below a call."""


def overview(ask: Ask) -> Response:
    stats = ask.reader.stats(ask.organisation, ask.where)
    newcomer = not stats.totals.calls and ask.last_call is None
    return render(
        ask,
        "overview.html",
        "/",
        stats=stats,
        newcomer=newcomer,
        base_url=str(ask.request.base_url).rstrip("/"),
        chart=charts.chart(stats.series, stats.bucket_s, ask.where.since, ask.where.until or ask.now),
        agents=[] if newcomer else [agent for agent in _busiest(ask) if agent.totals.calls][:8],
        recent=[] if newcomer else ask.reader.calls(ask.organisation, ask.where, limit=8).items,
    )


def agents(ask: Ask) -> Response:
    return render(ask, "agents.html", "/agents", agents=_busiest(ask))


def agent(ask: Ask) -> Response:
    agent_id = ask.request.path_params["agent_id"]
    found = ask.reader.agent(ask.organisation, agent_id, ask.where)
    if found is None:
        return _missing(ask, "agent")
    if found.id != agent_id:  # merged into another
        return finish(RedirectResponse(ask.address.agent(found.id), 303))
    if ask.operates and ask.address.get("do") == "merge":
        return _choose(ask, found)
    if ask.operates and ask.address.get("do") == "split":
        return _confirm(ask, found)
    where = Filter(agent_id=found.id, since=ask.where.since, until=ask.where.until)
    users = ask.reader.users(ask.organisation, where, limit=40)
    whole = ask.address.get("show") == "all"
    return render(
        ask,
        "agent.html",
        "/agents",
        agent=found,
        prompts=found.prompts if whole else found.prompts[:PROMPTS],
        users=users.items,
        more_users=users.next_cursor is not None,
        recent=ask.reader.calls(ask.organisation, where, limit=20).items,
        done=_DONE.get(ask.address.get("done"), ""),
    )


def _choose(ask: Ask, agent: AgentDetail) -> Response:
    """The page on which an operator says into which agent this one is merged."""
    sought = ask.address.get("q").strip()
    found = [
        other
        for other in ask.reader.agents(ask.organisation, Filter())
        if other.id != agent.id and (sought.casefold() in other.name.casefold() or other.id.startswith(sought.lower()))
    ]
    found.sort(key=lambda other: (-other.totals.calls, other.name.casefold(), other.id))
    return render(
        ask,
        "merge.html",
        "/agents",
        agent=agent,
        sought=sought,
        others=found[:PAGE_ITEMS],
        more=len(found) - PAGE_ITEMS,
    )


def _confirm(ask: Ask, agent: AgentDetail) -> Response:
    """The page that says what splitting a prompt off means, and does it."""
    whole = ask.reader.agent(ask.organisation, agent.id, Filter()) or agent
    prompt = next((prompt for prompt in whole.prompts if prompt.agent_id == ask.address.get("prompt")), None)
    if prompt is None or (prompt.own and not whole.merged_ids):
        problem = f"There is no such prompt of the agent {agent.name}; it may have been split off already."
        return trouble(ask.request, 404, "Not found", problem, (ask.address.agent(agent.id), "Back to the agent"))
    return render(ask, "split.html", "/agents", agent=whole, prompt=prompt)


def calls(ask: Ask) -> Response:
    found = _page(ask, ask.reader.calls)
    return found if isinstance(found, Response) else render(ask, "calls.html", "/calls", page=found)


def call(ask: Ask) -> Response:
    detail = ask.reader.call(ask.organisation, ask.request.path_params["trace_id"], ask.request.path_params["span_id"])
    if detail is None:
        return _missing(ask, "call")
    attributes = [(name, written(value)) for name, value in sorted(detail.attributes.items()) if not is_message(name)]
    events = [_event(event) for event in detail.events]
    resource = [(name, written(value)) for name, value in sorted(detail.resource.items())]
    return render(
        ask,
        "call.html",
        "/calls",
        detail=detail,
        call=detail.call,
        messages=messages(detail.attributes, detail.events),
        trace=detail.trace[:TRACE_CALLS],
        tables=(("Attributes", attributes), ("Events", events), ("Resource", resource)),
        whole=ask.address.get("show") == "all",
    )


def _event(event: Mapping[str, Any]) -> tuple[str, str]:
    rest = {name: value for name, value in event.items() if name != "name"}
    return str(event.get("name", "")), written(rest)


def users(ask: Ask) -> Response:
    return _groups(ask, "user", ask.reader.users)


def sessions(ask: Ask) -> Response:
    return _groups(ask, "session", ask.reader.sessions)


def workflows(ask: Ask) -> Response:
    return _groups(ask, "workflow", ask.reader.workflows)


def workflow(ask: Ask) -> Response:
    found = ask.reader.workflow(ask.organisation, ask.request.path_params["workflow_id"])
    if found is None:
        return _missing(ask, "workflow")
    return render(ask, "workflow.html", "/workflows", group=found.group, picture=charts.lanes(found.calls))


def _busiest(ask: Ask) -> list[Agent]:
    found = ask.reader.agents(ask.organisation, ask.where)
    return sorted(found, key=lambda agent: (-agent.totals.calls, agent.name.casefold()))


def _groups(ask: Ask, noun: str, read: Callable[..., Page]) -> Response:
    found = _page(ask, read)
    return found if isinstance(found, Response) else render(ask, "groups.html", f"/{noun}s", noun=noun, page=found)


def _page(ask: Ask, read: Callable[..., Page]) -> Page | Response:
    where = ask.where
    try:
        return read(ask.organisation, where, limit=PAGE_ITEMS, cursor=ask.address.get("cursor") or None)
    except ValueError:  # the cursor
        problem = "This link to further results is no longer valid."
        way_out = ask.address.without(), "Start from the newest"
        return trouble(ask.request, 400, "That address does not work", problem, way_out)


def _missing(ask: Ask, noun: str) -> Response:
    problem = f"There is no such {noun} in the organisation {ask.organisation}. It may be older than what is kept."
    return trouble(ask.request, 404, "Not found", problem, (ask.address.to(f"/{noun}s"), f"Show all {noun}s"))


# --- operators' decisions --------------------------------------------------------------------------------------
_DONE: Final = {
    "rename": "Renamed.",
    "describe": "Description saved.",
    "merge": "Merged. This agent now stands for both.",
    "unmerge": "The merge is undone.",
    "split": "Split off. This is an agent of its own now, and stays one.",
}


async def change_agent(request: Request) -> Response:
    """Rename, describe, merge, unmerge or split an agent, then show it."""
    ask = await run_in_threadpool(begin, request)
    if isinstance(ask, Response):
        return ask
    agent_id: str = request.path_params["agent_id"]
    back = ask.address.agent(agent_id), "Back to the agent"
    if not ask.operates:
        return trouble(
            request, 403, "Not allowed", "Only an admin key or the operator's login may change agents.", back
        )
    try:
        form = await read_form(request)
        shown = await run_in_threadpool(_decide, request.app.state.platform.registry, ask.organisation, agent_id, form)
    except FormRefusedError as error:
        return trouble(request, 403, "Not done", str(error), back)
    except (UnknownAgentError, MergeRefusedError, ValueError) as error:
        return trouble(request, 400, "Not done", f"Nothing was changed: {error}.", back)
    target = ask.address.agent(shown)
    return finish(RedirectResponse(f"{target}{'&' if '?' in target else '?'}done={form['action']}", 303))


def _decide(registry: Registry, organisation: str, agent_id: str, form: dict[str, str]) -> str:
    """Carry out one form and return the id of the agent to show."""
    action = form.get("action", "")
    if action == "rename":
        registry.describe(organisation, agent_id, name=form.get("name", ""))
    elif action == "describe":
        registry.describe(organisation, agent_id, description=form.get("description", ""))
    elif action == "merge":
        into = form.get("into", "")
        registry.merge(organisation, agent_id, into)
        return into
    elif action == "unmerge":
        registry.unmerge(organisation, form.get("merged", ""))
    elif action == "split":
        registry.unmerge(organisation, form.get("prompt", ""))
        return form["prompt"]
    else:
        raise ValueError(f"{action!r} is not something to do with an agent")
    return agent_id


# --- coming and going ------------------------------------------------------------------------------------------
def login(request: Request) -> Response:
    """Redeem a one-time link, or show the form."""
    token = request.query_params.get("token")
    if token is None:
        return _login_form(request, "", request.query_params.get("next", "/"))
    session = request.app.state.platform.auth.redeem_login(token) if request.method == "GET" else None
    if session is None:
        return _login_form(
            request,
            "This login link was already used, or is more than 15 minutes old, or is not whole. "
            "Make a new one with `egisai-platform login`, or log in with a key.",
            "/",
            403,
        )
    response = RedirectResponse(local(request.query_params.get("next", "/")), 303)
    set_session_cookie(response, request, session)
    return finish(response)


async def login_with_key(request: Request) -> Response:
    try:
        form = await read_form(request, csrf=False)
    except FormRefusedError as error:
        return _login_form(request, str(error), "/", 403)
    auth = request.app.state.platform.auth
    key, target = form.get("key", "").strip(), form.get("next", "/")
    session = await run_in_threadpool(auth.open_session, key)
    if session is None:
        known = await run_in_threadpool(auth.key, key)
        problem = (
            "This key may only send data. Paste one made with --scope read or --scope admin."
            if known is not None
            else "This key opens nothing: it is mistyped, or was revoked, or belongs to another server."
        )
        return _login_form(request, problem, target, 403)
    response = RedirectResponse(local(target), 303)
    set_session_cookie(response, request, session)
    return finish(response)


async def logout(request: Request) -> Response:
    try:
        await read_form(request)
    except FormRefusedError as error:
        return trouble(request, 403, "Not done", str(error))
    auth = request.app.state.platform.auth
    await run_in_threadpool(auth.close_session, session_of(request))
    response = RedirectResponse("/login", 303)
    clear_session_cookie(response, request)
    return finish(response)


async def choose_theme(request: Request) -> Response:
    """Keep dark or light in a cookie that the page's own script may write as well."""
    try:
        form = await read_form(request, csrf=False)
    except FormRefusedError as error:
        return trouble(request, 403, "Not done", str(error))
    response = RedirectResponse(local(form.get("next", "/")), 303)
    if form.get("theme") in ("dark", "light"):
        response.set_cookie("egis_theme", form["theme"], max_age=31_536_000, samesite="lax")
    return finish(response)


def _login_form(request: Request, problem: str, target: str, status: int = 200) -> Response:
    context = {"title": "Log in", "problem": problem, "login": True, "next": local(target)}
    return html("alone.html", status, theme=theme(request), **context)
