"""The web dashboard: server-rendered pages over a `Reader`, live by server-sent events. This file is its map.

It needs `app.state.platform` with `reader`, `registry`, `auth` and `events`.
"""

from __future__ import annotations

from fastapi import APIRouter

from egisai_platform.dashboard import assets, live, views
from egisai_platform.dashboard.page import endpoint

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

router.add_route("/", endpoint(views.overview, since="24h"))
router.add_route("/agents", endpoint(views.agents))
router.add_route("/agents/{agent_id:path}", endpoint(views.agent), methods=["GET"])
router.add_route("/agents/{agent_id:path}", views.change_agent, methods=["POST"])
router.add_route("/calls", endpoint(views.calls))
router.add_route("/calls/{trace_id}/{span_id}", endpoint(views.call))
router.add_route("/users", endpoint(views.users))
router.add_route("/sessions", endpoint(views.sessions))
router.add_route("/workflows", endpoint(views.workflows))
router.add_route("/workflows/{workflow_id:path}", endpoint(views.workflow))

router.add_route("/login", views.login, methods=["GET"])
router.add_route("/login", views.login_with_key, methods=["POST"])
router.add_route("/logout", views.logout, methods=["POST"])
router.add_route("/theme", views.choose_theme, methods=["POST"])

router.add_route("/events", live.events)
router.add_route("/static/{version}/{name}", assets.static)
