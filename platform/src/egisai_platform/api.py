"""The JSON API: thin views over the reader and the registry. Fields are the words of `model.py`.

Read with a key of scope read or admin, or from the dashboard's session; write with a key of scope admin. Every refusal
is `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from egisai.identity import is_uuid
from egisai_platform import filters, ingest, sql
from egisai_platform.auth import Key, Scope, bearer, current_viewer
from egisai_platform.filters import Asked
from egisai_platform.model import Agent, AgentDetail, Call, CallDetail, Filter, Group, Page, Stats, Workflow
from egisai_platform.registry import MAX_TEXT, Answer, Record, Sighting
from egisai_platform.store import StoreError

if TYPE_CHECKING:
    from egisai_platform.app import Platform

T = TypeVar("T")

MAX_JSON_BYTES: Final = 10 << 20
"""Room for as many agents as may be announced at once, each with the longest sketch."""
MAX_ANNOUNCED: Final = 500
_MAX_DIGITS: Final = 18  # of a version, which is a signed 64-bit number
_TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class ProblemError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def problem(status: int, detail: str) -> Response:
    """The body of every refusal."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "2"} if status == 503 else None
    body = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status, "detail": detail}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


@dataclass(frozen=True, slots=True)
class Items(Generic[T]):
    """A list, and the cursor of its next page (null at the end)."""

    items: Sequence[T]
    next_cursor: str | None = None


# --- who asks, and what ------------------------------------------------------------------------------------------
def _platform(request: Request) -> Platform:
    return request.app.state.platform


def _key(request: Request, scope: Scope) -> Key:
    key = _platform(request).auth.key(bearer(request))
    if key is None:
        raise ProblemError(401, "a valid key is required: Authorization: Bearer egis_live_...")
    if not key.may(scope):
        raise ProblemError(403, f"this needs a key of scope {scope}")
    return key


def _reading(request: Request, wanted: str | None) -> str:
    """The organisation that this request may read, and reads; `wanted` chooses among several."""
    if bearer(request) or "authorization" in request.headers:
        organisations: Sequence[str] = [_key(request, "read").organisation]
    else:
        viewer = current_viewer(request)
        if viewer is None:
            raise ProblemError(401, "a valid key is required: Authorization: Bearer egis_live_...")
        organisations = viewer.organisations
    if wanted is None:
        if len(organisations) != 1:
            raise ProblemError(
                400, f"this session sees {len(organisations)} organisations: say which with ?organisation="
            )
        return organisations[0]
    if wanted not in organisations:
        raise ProblemError(403, "this key or session does not see that organisation")
    return wanted


@dataclass(frozen=True, slots=True)
class Question:
    """A checked request: whose data, and which of it."""

    organisation: str
    asked: Asked


class _Ask:
    """A dependency that checks key and query string; the names it allows are in the OpenAPI document too."""

    def __init__(self, *names: str) -> None:
        self._names = (*names, "organisation")

    def __call__(self, request: Request) -> Question:
        # The key is judged first: a stranger learns nothing from us, not even which parameters there are.
        organisation = _reading(request, request.query_params.get("organisation"))
        return Question(organisation, filters.parse(request.query_params.multi_items(), self._names))

    @property
    def docs(self) -> dict[str, Any]:
        return filters.openapi(self._names)


_ONE: Final = _Ask()
_TIMED: Final = _Ask(*filters.TIMES)
_FILTERED: Final = _Ask(*filters.FACTS, *filters.TIMES)
_PAGED: Final = _Ask(*filters.FACTS, *filters.TIMES, *filters.PAGING)

One = Annotated[Question, Depends(_ONE)]
Timed = Annotated[Question, Depends(_TIMED)]
Filtered = Annotated[Question, Depends(_FILTERED)]
Paged = Annotated[Question, Depends(_PAGED)]

router = APIRouter(prefix="/api/v1", tags=["read"])


# --- reading -------------------------------------------------------------------------------------------------------
@router.get("/stats", openapi_extra=_FILTERED.docs)
def stats(request: Request, question: Filtered) -> Stats:
    """Totals, how many took part, and calls over time."""
    return _platform(request).reader.stats(question.organisation, question.asked.where)


@router.get("/agents", openapi_extra=_FILTERED.docs)
def agents(request: Request, question: Filtered) -> Items[Agent]:
    """Every agent with what it did; with a filter other than time, those with matching calls."""
    return Items(_platform(request).reader.agents(question.organisation, question.asked.where))


@router.get("/agents/{agent_id}", openapi_extra=_TIMED.docs)
def agent(request: Request, agent_id: str, question: Timed) -> AgentDetail:
    """One agent; a merged id gives the agent it was merged into."""
    found = _platform(request).reader.agent(question.organisation, agent_id, question.asked.where)
    return _found(found, f"there is no agent {agent_id[:100]}")


@router.get("/calls", openapi_extra=_PAGED.docs)
def calls(request: Request, question: Paged) -> Items[Call]:
    """Calls, newest first."""
    return _page(question, _platform(request).reader.calls)


@router.get("/calls/{trace_id}/{span_id}", openapi_extra=_ONE.docs)
def call(request: Request, trace_id: str, span_id: str, question: One) -> CallDetail:
    """One call with everything its span carried, and the other calls of its trace."""
    found = _platform(request).reader.call(question.organisation, trace_id.lower(), span_id.lower())
    return _found(found, "there is no such call")


@router.get("/users", openapi_extra=_PAGED.docs)
def users(request: Request, question: Paged) -> Items[Group]:
    """Users, the one last seen first."""
    return _page(question, _platform(request).reader.users)


@router.get("/sessions", openapi_extra=_PAGED.docs)
def sessions(request: Request, question: Paged) -> Items[Group]:
    """Sessions, the one last seen first."""
    return _page(question, _platform(request).reader.sessions)


@router.get("/workflows", openapi_extra=_PAGED.docs)
def workflows(request: Request, question: Paged) -> Items[Group]:
    """Workflows, the one last seen first."""
    return _page(question, _platform(request).reader.workflows)


@router.get("/workflows/{workflow_id:path}", openapi_extra=_ONE.docs)
def workflow(request: Request, workflow_id: str, question: One) -> Workflow:
    """One workflow with its calls in time order, over all traces, processes and agents."""
    found = _platform(request).reader.workflow(question.organisation, workflow_id)
    return _found(found, "there is no such workflow")


def _page(question: Question, read: Callable[..., Page]) -> Items[Any]:
    """The page of a list that was asked for."""
    asked = question.asked
    page = read(question.organisation, asked.where, limit=asked.limit, cursor=asked.cursor)
    return Items(page.items, page.next_cursor)


def _found(thing: T | None, otherwise: str) -> T:
    if thing is None:
        raise ProblemError(404, otherwise)
    return thing


# --- operators' decisions --------------------------------------------------------------------------------------------
class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AgentPatch(_Body):
    """What an operator says of an agent; an empty name gives it back its own."""

    name: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    description: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None


class Merge(_Body):
    """The agent whose calls these shall be."""

    into: str


def _admin(request: Request) -> Key:
    return _key(request, "admin")


Admin = Annotated[Key, Depends(_admin)]


@router.patch("/agents/{agent_id}", tags=["operate"])
def describe_agent(request: Request, agent_id: str, patch: AgentPatch, key: Admin) -> AgentDetail:
    """Renames or describes an agent, for past and future calls."""
    _platform(request).registry.describe(key.organisation, agent_id, name=patch.name, description=patch.description)
    return _agent_now(request, key, agent_id)


@router.post("/agents/{agent_id}/merge", tags=["operate"])
def merge_agent(request: Request, agent_id: str, merge: Merge, key: Admin) -> AgentDetail:
    """Makes every call of this agent, past and future, a call of another. Answers with that one."""
    _platform(request).registry.merge(key.organisation, agent_id, merge.into)
    return _agent_now(request, key, agent_id)


@router.delete("/agents/{agent_id}/merge", tags=["operate"])
def unmerge_agent(request: Request, agent_id: str, key: Admin) -> AgentDetail:
    """Takes an agent out of the one it is merged into, or a prompt out of those merged into it, for good.

    In the second case the oldest of the others stands for the rest, and keeps the name and description given to it.
    """
    _platform(request).registry.unmerge(key.organisation, agent_id)
    return _agent_now(request, key, agent_id)


def _agent_now(request: Request, key: Key, agent_id: str) -> AgentDetail:
    found = _platform(request).reader.agent(key.organisation, agent_id, Filter())
    return _found(found, f"there is no agent {agent_id}")


# --- announcements ---------------------------------------------------------------------------------------------------
class Announced(BaseModel):
    """An agent that a process met, before or without any call of it."""

    id: str
    name: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    source: Literal["id", "name", "framework", "fingerprint", "app"]
    key: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    fingerprint: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    app: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    env: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    sketch: str | None = None
    """Judged by itself: a bad one is refused, its agent is not."""
    counted_under: Annotated[str | None, Field(alias="with")] = None
    prompts: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    """From how many prompts of its template the process has learnt the sketch."""

    @field_validator("id", "counted_under")
    @classmethod
    def _uuid(cls, value: str | None) -> str | None:
        if value is not None and not is_uuid(value):
            raise ValueError("not a UUID in its canonical form")
        return value


class Announcement(BaseModel):
    """A batch of them."""

    agents: Annotated[list[Announced], Field(max_length=MAX_ANNOUNCED)]


async def announce(request: Request) -> Response:
    """`POST /v1/agents`: the agents a process met. Answers which of their ids are, or may seem to be, other agents."""
    platform = _platform(request)
    try:
        organisation = await ingest.ingest_organisation(request)
        with ingest.Share(platform.budget) as share:
            body = await ingest.read_body(request, MAX_JSON_BYTES, share)
            announcement = Announcement.model_validate_json(body)
            answer = await run_in_threadpool(_announced, platform, organisation, announcement)
    except ingest.RefusedError as refusal:
        return problem(refusal.status, refusal.message)
    except ValidationError as error:
        return problem(400, first_fault(error.errors()))
    refused = {"refused": answer.refused} if answer.refused else {}
    return JSONResponse({"canonical": _canonical(answer.canonical), "version": answer.version, **refused})


def _announced(platform: Platform, organisation: str, announcement: Announcement) -> Answer:
    return platform.registry.announce(
        organisation,
        [
            Sighting(
                organisation,
                agent.id,
                agent.name or "",
                agent.source,
                agent.fingerprint,
                agent.sketch,
                agent.counted_under,
                agent.prompts,
            )
            for agent in announcement.agents
        ],
    )


async def rulings(request: Request) -> Response:
    """`GET /v1/agents/rulings?since=`: what was merged, split or renamed since, for processes to obey."""
    try:
        organisation = await ingest.ingest_organisation(request)
    except ingest.RefusedError as refusal:
        return problem(refusal.status, refusal.message)
    since = request.query_params.get("since")
    if since is not None and not (since.isascii() and since.isdigit() and len(since) <= _MAX_DIGITS):
        return problem(400, f"since={since[:20]!r}: a version is allowed, as an earlier answer gave it")
    found = await run_in_threadpool(
        _platform(request).registry.rulings, organisation, None if since is None else int(since)
    )
    return JSONResponse({"version": found.version, "canonical": _canonical(found.canonical), "more": found.more})


def _canonical(agents: Mapping[str, Record]) -> dict[str, dict[str, str]]:
    return {agent_id: {"id": agent.id, "name": agent.name} for agent_id, agent in agents.items()}


# --- health ----------------------------------------------------------------------------------------------------------
async def healthz(_request: Request) -> Response:
    """The process runs."""
    return PlainTextResponse("ok\n")


def readyz(request: Request) -> Response:
    """Spans can be stored and read."""
    platform = _platform(request)
    try:
        platform.store.query(sql.SELECT_ONE, {})
    except StoreError:
        return PlainTextResponse("the store does not answer\n", 503)
    return PlainTextResponse("ok\n") if platform.writer.alive else PlainTextResponse("nothing can be stored\n", 503)


async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return PlainTextResponse(_platform(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- refusals ------------------------------------------------------------------------------------------------------
def first_fault(errors: Sequence[Any]) -> str:
    """One sentence from what pydantic found, without the value: it may be anything."""
    error = errors[0]
    where = ".".join(str(part) for part in error["loc"] if part != "body") or "the body"
    return f"{where}: {error['msg']}"
