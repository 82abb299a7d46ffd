"""The dashboard's pages, asked of a real server over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from tests.platform.conftest import Organisation, Recorder, Server
from tests.platform.dashboard_data import HOSTILE, Page, messages
from tests.platform.test_prompts import announced, call, prompt

from egisai.identity import agent_id
from egisai_platform.dashboard import wording

PATHS = ("/", "/agents", "/calls", "/users", "/sessions", "/workflows")


@pytest.fixture
def browse(org: Organisation) -> Iterator[Callable[..., httpx.Client]]:
    """Makes clients that keep cookies, logged in with a key of the test's organisation or of another."""
    opened: list[httpx.Client] = []

    def browsing(key: str | None = None, server: Server = org.server) -> httpx.Client:
        client = httpx.Client(base_url=server.url, timeout=30)
        opened.append(client)
        answer = client.post("/login", data={"key": org.admin_key if key is None else key})
        assert answer.status_code == 303, answer.text
        return client

    yield browsing
    for client in opened:
        client.close()


@pytest.fixture
def client(browse: Callable[..., httpx.Client]) -> httpx.Client:
    return browse()


def read(client: httpx.Client, path: str, status: int = 200, **headers: str) -> Page:
    answer = client.get(path, headers=headers)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


def agent_path(org: Organisation, name: str) -> str:
    return f"/agents/{agent_id(org.name, 'name', name)}"


# --- coming in -------------------------------------------------------------------------------------------------
def test_the_login_link_works_once(server: Server) -> None:
    """The one-time link sets a cookie no script can read, leads to a clean address, and is then worthless."""
    with server.auth() as auth:
        token = auth.create_login()
    with httpx.Client(base_url=server.url) as client:
        answer = client.get("/login", params={"token": token})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert client.get("/").status_code == 200
    with httpx.Client(base_url=server.url) as other:
        again = other.get("/login", params={"token": token})
        assert again.status_code == 403
        assert "already used" in Page(again.text).text
        assert "set-cookie" not in again.headers


def test_looking_ahead_does_not_use_up_the_login_link(server: Server) -> None:
    """A HEAD request, as link previews send it, leaves the link good."""
    with server.auth() as auth:
        token = auth.create_login()
    with httpx.Client(base_url=server.url) as client:
        assert "set-cookie" not in client.head("/login", params={"token": token}).headers
        assert client.get("/login", params={"token": token}).status_code == 303


@pytest.mark.parametrize(("scope", "words"), [("ingest", "may only send data"), ("", "opens nothing")])
def test_a_key_that_may_not_read_is_refused(org: Organisation, scope: str, words: str) -> None:
    """An ingest key and a wrong one open no session, each with its own reason."""
    key = org.ingest_key if scope else org.read_key[:-1] + "x"
    answer = httpx.post(f"{org.server.url}/login", data={"key": key})
    assert answer.status_code == 403
    assert words in Page(answer.text).text
    assert key not in answer.text
    assert "set-cookie" not in answer.headers


def test_a_revoked_key_ends_its_sessions(org: Organisation, browse: Callable[..., httpx.Client]) -> None:
    client = browse(org.read_key)
    assert client.get("/").status_code == 200
    with org.server.auth() as auth:
        key = auth.key(org.read_key)
        assert key is not None
        auth.revoke_key(key.id)
    assert client.get("/").status_code == 303


@pytest.mark.parametrize("path", [*PATHS, "/agents/x", "/workflows/a%2Fb%3Fc", "/calls/a/b"])
def test_strangers_are_sent_to_the_login(server: Server, path: str) -> None:
    """Without a session no page says anything; the login leads back to where one wanted to go."""
    answer = httpx.get(f"{server.url}{path}?user_id=ada")
    assert answer.status_code == 303
    target = urlsplit(answer.headers["location"])
    assert target.path == "/login"
    assert parse_qs(target.query)["next"] == [f"{path}?user_id=ada"]
    assert httpx.get(server.url + path, headers={"X-Fragment": "main"}).status_code == 401


def test_strangers_hear_no_events(server: Server) -> None:
    assert httpx.get(f"{server.url}/events").status_code == 401


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_the_login_leads_nowhere_else(org: Organisation, target: str) -> None:
    answer = httpx.post(f"{org.server.url}/login", data={"key": org.read_key, "next": target})
    assert answer.headers["location"] == "/"


def test_logging_out_ends_the_session(client: httpx.Client) -> None:
    csrf = read(client, "/").value("csrf")
    cookies = dict(client.cookies)
    assert client.post("/logout", data={"csrf": csrf}).headers["location"] == "/login"
    client.cookies.update(cookies)  # a copied cookie is worthless too
    assert client.get("/").status_code == 303


# --- every page ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [*PATHS, "/login"])
def test_pages_are_strict(client: httpx.Client, path: str) -> None:
    """A page runs nothing inline, loads nothing from elsewhere, cannot be framed or kept, and has a title."""
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    page = Page(answer.text)
    assert page.inline == []
    assert page.text.split(" · ")[0]
    for _tag, attributes in page.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            assert attributes.get(name, "/").startswith(("/", "#")), attributes
            assert not attributes.get(name, "/").startswith("//"), attributes


def test_static_files_are_kept_for_ever(client: httpx.Client) -> None:
    """A file's address names its content; an old address still works but is not kept."""
    page = read(client, "/")
    address = next(attributes["href"] for tag, attributes in page.elements if attributes.get("rel") == "stylesheet")
    answer = client.get(address)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/0/style.css").headers["cache-control"] == "no-cache"
    assert client.get("/static/0/views.py").status_code == 404


def test_a_fragment_is_the_live_parts_alone(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    recorder.call(agent="billing", organisation=org.name)
    org.store(recorder.spans())
    page = read(client, "/agents", **{"X-Fragment": "main"})
    assert {attributes.get("id") for _tag, attributes in page.elements if "data-live" in attributes} == {
        "content",
        "health",
    }
    assert "billing" in page.text
    assert not any(tag in ("html", "form", "nav") for tag, _ in page.elements)


def test_the_newcomer_is_told_what_to_run(client: httpx.Client, org: Organisation) -> None:
    """An empty platform shows the install command, the key command and `init` with this server's address."""
    text = read(client, "/").text
    assert 'pip install "egisai[all]"' in text
    assert f"egisai-platform keys create --organisation {org.name}" in text
    assert f'base_url="{org.server.url}"' in text


def test_the_theme_is_kept(client: httpx.Client) -> None:
    answer = client.post("/theme", data={"theme": "dark", "next": "/calls?user_id=ada"})
    assert answer.headers["location"] == "/calls?user_id=ada"
    assert read(client, "/").elements[0] == ("html", {"lang": "en", "data-theme": "dark"})


# --- what they show --------------------------------------------------------------------------------------------
def test_the_overview_adds_up(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    for user in ("ada", "bob", "bob"):
        recorder.call(agent="billing", organisation=org.name, user_id=user, session_id=f"s-{user}")
    org.store(recorder.spans())
    page = read(client, "/")
    assert "Calls 3 Errors 0 0% Tokens 330 300 in, 30 out" in page.text
    assert "Agents 1 Users 2 Sessions 2 Workflows 0" in page.text
    assert "Last call 10 s ago" in page.text or "Last call 1" in page.text
    assert any(tag == "rect" and "bar" in attributes.get("class", "").split() for tag, attributes in page.elements)


def test_an_empty_time_says_when_the_last_call_came(
    client: httpx.Client, org: Organisation, recorder: Recorder
) -> None:
    """Yesterday's calls do not make today's overview look like a new platform."""
    recorder.call(agent="billing", organisation=org.name, start_ns=time.time_ns() - 40 * 3600 * 10**9)
    org.store(recorder.spans())
    text = read(client, "/").text
    assert "No calls in this time. The last one came 1 d ago" in text
    assert "Calls 1" in read(client, "/?since=all").text


def test_filters_live_in_the_url(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    """A tenant's every call and nothing else; each filter is a chip whose link removes it."""
    for agent, user, session in (("a", "ada", "s1"), ("b", "ada", "s2"), ("a", "bob", "s1"), ("a", "bob & co", "s3")):
        recorder.call(agent=agent, organisation=org.name, user_id=user, session_id=session)
    spans = recorder.spans()
    org.store(spans)
    key = [f"{span.context.trace_id:032x}{span.context.span_id:016x}" for span in spans if span.context]
    assert set(read(client, "/calls").rows()) == set(key)
    assert set(read(client, "/calls?user_id=ada").rows()) == set(key[:2])
    page = read(client, "/calls?user_id=ada&session_id=s1")
    assert page.rows() == [key[0]]
    assert "/calls?session_id=s1" in page.links("/calls?")
    assert "/calls?user_id=ada" in page.links("/calls?")
    assert read(client, "/calls?user_id=bob+%26+co").rows() == [key[3]]
    assert "/calls?user_id=bob+%26+co" in read(client, "/calls").links()
    assert set(read(client, f"/calls?agent_id={agent_id(org.name, 'name', 'a')}").rows()) == {key[0], key[2], key[3]}
    assert set(read(client, "/calls?agent=B").rows()) == {key[1]}
    assert read(client, "/calls?status=error").rows() == []
    assert read(client, "/calls?until=2020-01-01").rows() == []
    assert "/calls?user_id=ada" in read(client, "/users").links()
    assert "/calls?session_id=s3" in read(client, "/sessions").links()


@pytest.mark.parametrize("query", ["status=fine", "since=yesterday", "until=2026-13-01", "cursor=made-up"])
def test_what_cannot_be_obeyed_is_not_ignored(client: httpx.Client, query: str) -> None:
    """A filter that is none is an error page with a way out, never a page that shows more than was asked for."""
    page = read(client, f"/calls?{query}", 400)
    assert "That address does not work" in page.text
    assert (query.split("=")[1] in page.text) is (not query.startswith("cursor"))
    assert page.links("/calls")


def test_pages_follow_each_other(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    """Every call is on one page and no call is on two, newest first, with the filter kept."""
    now_ns = time.time_ns()
    for index in range(120):
        recorder.call(agent="a", organisation=org.name, user_id="ada", start_ns=now_ns - index * 10**9)
    spans = recorder.spans()
    org.store(spans)
    seen: list[str] = []
    path: str | None = "/calls?user_id=ada"
    while path:
        page = read(client, path)
        seen += page.rows()
        path = next((a["href"] for _tag, a in page.elements if a.get("rel") == "next"), None)
        assert path is None or "user_id=ada" in path
    assert seen == [f"{span.context.trace_id:032x}{span.context.span_id:016x}" for span in spans if span.context]


def test_a_call_shows_all_it_has(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    recorder.call(
        agent="billing",
        organisation=org.name,
        user_id="ada",
        user_role="admin",
        workflow_id="w",
        duration_ns=1_240_000_000,
        attributes={**messages("Where is my invoice?"), "custom.key": "custom value"},
    )
    (span,) = recorder.spans()
    org.store([span])
    assert span.context
    page = read(client, f"/calls/{span.context.trace_id:032x}/{span.context.span_id:016x}")
    for words in (
        "the program named it",
        "ada admin",
        "1.24 s",
        "100 → 10",
        "custom.key custom value",
        "Where is my invoice?",
    ):
        assert words in page.text
    assert read(client, f"/calls/{span.context.trace_id:032x}/{'0' * 16}", 404).text.count("no such call") == 1


def test_a_workflow_shows_its_calls_under_its_agents(
    client: httpx.Client, org: Organisation, recorder: Recorder
) -> None:
    """Calls of three agents, each in its own trace, appear once, in order, in the lane and the rows of their agent."""
    workflow, now_ns = "plan/2026 & more", time.time_ns() - 60 * 10**9
    for index, agent in enumerate(("planner", "step-a", "step-b", "planner")):
        recorder.call(agent=agent, organisation=org.name, workflow_id=workflow, start_ns=now_ns + index * 10**9)
    recorder.call(agent="other", organisation=org.name, workflow_id="another")
    spans = recorder.spans()
    org.store(spans)
    assert f"/workflows/{quote(workflow, safe='')}" in read(client, "/workflows").links()
    page = read(client, f"/workflows/{quote(workflow, safe='')}")
    key = [f"{span.context.trace_id:032x}{span.context.span_id:016x}" for span in spans if span.context]
    rows = [row for row in page.rows() if len(row) == 48]
    assert rows == [key[0], key[3], key[1], key[2]]
    lanes = [
        attributes["data-key"]
        for _tag, attributes in page.elements
        if attributes.get("data-key", "").startswith("lane-")
    ]
    assert lanes == [f"lane-{agent_id(org.name, 'name', name)}" for name in ("planner", "step-a", "step-b")]
    assert sum(tag == "rect" for tag, _ in page.elements) == 4
    assert "Traces 4" in page.text
    assert read(client, "/workflows/none-of-ours", 404)


# --- operators -------------------------------------------------------------------------------------------------
def test_an_agent_is_renamed_described_merged_and_unmerged(
    client: httpx.Client, org: Organisation, recorder: Recorder
) -> None:
    for name in ("billing", "invoices"):
        recorder.call(agent=name, organisation=org.name)
    org.store(recorder.spans())
    path, other = agent_path(org, "billing"), agent_path(org, "invoices")
    csrf = read(client, path).value("csrf")

    def change(of: str, **form: str) -> Page:
        answer = client.post(of, data={"csrf": csrf, **form})
        assert answer.status_code == 303, answer.text
        return read(client, answer.headers["location"])

    assert "Accounts" in change(path, action="rename", name="Accounts").text
    assert "Answers <b>politely</b>" in change(path, action="describe", description="Answers <b>politely</b>").text
    merged = change(other, action="merge", into=path.removeprefix("/agents/"))
    assert "Merged." in merged.text
    assert "Calls 2" in merged.text
    assert client.get(other).headers["location"] == path
    assert len(read(client, "/agents").rows()) == 1
    assert "Calls 1" in change(path, action="unmerge", merged=other.removeprefix("/agents/")).text
    assert len(read(client, "/agents").rows()) == 2


def test_an_agents_prompts_are_listed_and_split_off(
    client: httpx.Client, org: Organisation, recorder: Recorder
) -> None:
    """The table says how each prompt came; a page says in words what a split does, and the history stays readable."""
    sent = [announced(prompt(0, passage), org) for passage in range(3)]
    assert org.announce(sent).status_code == 200
    first, second, third = (agent["id"] for agent in sent)
    path = f"/agents/{first}"
    for found in sent:
        call(recorder, prompt(0, sent.index(found)), found["id"])
    org.store(recorder.spans())
    page = read(client, path)
    assert sorted(page.rows()[:3]) == sorted([first, second, third])
    assert "the first of its template" in page.text
    assert page.text.count("same template") == 2
    calls = next(link for link in page.links("/calls") if f"fingerprint={sent[1]['fingerprint']}" in link)
    assert len(read(client, calls).rows()) == 1
    split = next(link for link in page.links() if f"prompt={second}" in link)
    confirm = read(client, split)
    assert "becomes an agent of its own, with its own name and its call, past and future" in confirm.text
    assert confirm.value("prompt") == second
    answer = client.post(path, data={"csrf": confirm.value("csrf"), "action": "split", "prompt": second})
    assert answer.headers["location"] == f"/agents/{second}?done=split"
    alone = read(client, answer.headers["location"])
    assert "An operator took this out of Billing clerk" in alone.text
    assert "by itself, an operator's choice" in alone.text
    page = read(client, path)
    assert "Split off by an operator: Billing clerk" in page.text
    assert second not in page.rows()
    root = read(client, next(link for link in page.links() if f"prompt={first}" in link))
    assert "keeps its other prompt and the name that it was given" in root.text
    read(client, f"{path}?do=split&prompt={second}", 404)
    read(client, f"/agents/{second}?do=split&prompt={second}", 404)


def test_the_other_agent_is_found_by_name(
    client: httpx.Client, org: Organisation, recorder: Recorder, browse: Callable[..., httpx.Client]
) -> None:
    """Whoever merges looks for the other agent by a part of its name; a reader of the page gets no such page."""
    for name in ("billing", "Accounts payable", "accounts receivable", *HOSTILE):
        recorder.call(agent=name, organisation=org.name)
    org.store(recorder.spans())
    path = agent_path(org, "billing")
    chosen = read(client, f"{path}?do=merge&q=ACCOUNTS")
    payable = agent_path(org, "Accounts payable").removeprefix("/agents/")
    receivable = agent_path(org, "accounts receivable").removeprefix("/agents/")
    assert sorted(chosen.rows()) == sorted([payable, receivable])
    assert read(client, f"{path}?do=merge&q={payable[:8]}").rows() == [payable]
    assert len(read(client, f"{path}?do=merge").rows()) == len(HOSTILE) + 2
    none = read(client, f"{path}?do=merge&q={quote('<b>nobody')}")
    assert "“ <b>nobody ”" in none.text
    assert none.rows() == []
    assert "into" not in {a.get("name") for _tag, a in read(browse(org.read_key), f"{path}?do=merge").elements}


def test_only_operators_change_agents_and_only_by_our_forms(
    org: Organisation, recorder: Recorder, browse: Callable[..., httpx.Client]
) -> None:
    """A read key sees no form and is refused; a form without this session's token, or from another site, is too."""
    recorder.call(agent="billing", organisation=org.name)
    org.store(recorder.spans())
    path = agent_path(org, "billing")
    reader, admin = browse(org.read_key), browse()
    assert "Change this agent" not in read(reader, path).text
    rename = {"action": "rename", "name": "Mallory"}
    foreign = {**rename, "csrf": read(reader, path).value("csrf")}
    own = {**rename, "csrf": read(admin, path).value("csrf")}
    assert reader.post(path, data=foreign).status_code == 403
    assert admin.post(path, data=rename).status_code == 403
    assert admin.post(path, data=foreign).status_code == 403
    assert admin.post(path, data=own, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert admin.post(path, content=b"x" * 100_000).status_code == 403
    assert admin.post(path, data={**own, "action": "delete"}).status_code == 400
    assert admin.post(path, data={**own, "action": "merge", "into": path.removeprefix("/agents/")}).status_code == 400
    assert "Mallory" not in read(admin, path).text
    assert admin.post(path, data=own).status_code == 303
    assert "Mallory" in read(admin, path).text


# --- organisations ---------------------------------------------------------------------------------------------
def test_one_organisation_never_sees_another(
    org: Organisation,
    make_organisation: Callable[..., Organisation],
    recorder: Recorder,
    browse: Callable[..., httpx.Client],
) -> None:
    """Not by address, not by parameter, not by form, not by a cursor."""
    other = make_organisation()
    for _ in range(60):
        recorder.call(agent="secret-agent", organisation=other.name, user_id="victim", session_id="s", workflow_id="w")
    spans = recorder.spans()
    other.store(spans)
    mine, theirs = browse(), browse(other.admin_key)
    assert "secret-agent" in read(theirs, "/agents").text
    for path in PATHS:
        text = read(mine, path).text
        assert "secret-agent" not in text
        assert "victim" not in text
        refused = read(mine, f"{path}?organisation={other.name}", 404)
        assert "secret-agent" not in refused.text
    context = spans[0].context
    assert context
    assert read(mine, f"/calls/{context.trace_id:032x}/{context.span_id:016x}", 404)
    assert read(mine, "/workflows/w", 404)
    path = agent_path(other, "secret-agent")
    assert read(mine, path, 404)
    form = {"csrf": read(mine, "/").value("csrf"), "action": "rename", "name": "Mallory"}
    assert mine.post(path, data=form).status_code == 400
    assert mine.post(f"{path}?organisation={other.name}", data=form).status_code == 404
    assert "secret-agent" in read(theirs, path).text
    cursor = next(a["href"] for _t, a in read(theirs, "/calls").elements if a.get("rel") == "next")
    assert read(mine, cursor, 400)
    assert mine.get(f"/events?organisation={other.name}").status_code == 401


def test_an_operator_switches_organisations(server: Server, org: Organisation, recorder: Recorder) -> None:
    """The server's own login sees every organisation, one at a time, named in the URL and kept by every link."""
    recorder.call(agent="billing", organisation=org.name)
    org.store(recorder.spans())
    with server.auth() as auth:
        token = auth.create_login()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        client.get("/login", params={"token": token})
        page = read(client, f"/agents?organisation={org.name}")
        assert "billing" in page.text
        assert f"/calls?organisation={org.name}" in page.links()
        assert any(tag == "option" for tag, _ in page.elements)


# --- live ------------------------------------------------------------------------------------------------------
def test_events_tell_of_this_organisations_calls_alone(
    client: httpx.Client,
    org: Organisation,
    make_organisation: Callable[..., Organisation],
    recorder: Recorder,
) -> None:
    other = make_organisation()
    recorder.call(agent="theirs", organisation=other.name)
    theirs = recorder.spans()
    for _ in range(2):
        recorder.call(agent="ours", organisation=org.name)
    ours = recorder.spans()
    with client.stream("GET", "/events", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = filter(None, answer.iter_lines())
        assert [next(lines) for _ in range(3)][1:] == ["event: hello", "data: 0"]
        other.store(theirs)
        org.store(ours)
        assert [next(lines) for _ in range(2)] == ["event: calls", "data: 2"]
    # Whoever comes later is told what was missed: a page made before those calls knows that it is out of date.
    assert next(a["data-seen"] for tag, a in read(client, "/").elements if tag == "body") == "2"
    with client.stream("GET", "/events", timeout=20) as answer:
        lines = filter(None, answer.iter_lines())
        assert [next(lines) for _ in range(3)][1:] == ["event: hello", "data: 2"]


def test_a_server_with_open_pages_stops_at_once(start: Callable[..., Server], tmp_path: Path) -> None:
    """An open stream ends when the server is told to stop, and does not hold it up."""
    server = start(tmp_path)
    key = server.key("acme", "read")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        client.post("/login", data={"key": key})
        listening, ended = threading.Event(), threading.Event()

        def listen() -> None:
            with client.stream("GET", "/events") as answer:
                for _line in answer.iter_lines():
                    listening.set()
            ended.set()

        thread = threading.Thread(target=listen)
        thread.start()
        assert listening.wait(10)
        started = time.monotonic()
        code, output = server.stop()
        thread.join(10)
    assert code == 0, output
    assert ended.is_set()
    assert time.monotonic() - started < 4
    assert "Traceback" not in output


# --- hostile input ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_plat_hostile(client: httpx.Client, org: Organisation, recorder: Recorder, text: str) -> None:
    """Wherever a span can carry text, the page shows it as text: no element, attribute or link of its making."""
    recorder.call(
        agent=text,
        organisation=org.name,
        user_id=text,
        user_role=text,
        session_id=text,
        workflow_id=text,
        model=text,
        attributes=messages(text),
    )
    (span,) = recorder.spans()
    org.store([span])
    assert span.context
    call = f"/calls/{span.context.trace_id:032x}/{span.context.span_id:016x}"
    agent = next(link for link in read(client, "/agents").links("/agents/"))
    quoted = quote(text, safe="")
    prompts = [announced(prompt(0, passage), org) | {"name": text} for passage in range(2)]
    org.announce(prompts)
    first, second = (body["id"] for body in prompts)
    split = f"/agents/{first}?do=split&prompt={second}"
    prompted = [f"/agents/{first}", split, f"/agents/{first}?do=merge", f"/agents/{first}?do=merge&q={quoted}"]
    paths = [
        *prompted,
        *PATHS,
        call,
        agent,
        f"/workflows/{quoted}",
        f"/calls?user_id={quoted}&agent={quoted}&model={quoted}",
    ]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert not set("\x00\x07\u202e\u202c\u2066\u2069\U000e0041") & set(answer.text), path
        page = Page(answer.text)
        assert page.inline == []
        for tag, attributes in page.elements:
            assert not any(name.startswith("on") for name in attributes), path
            assert attributes.get("href", "/").startswith(("/", "#")), path
            assert tag != "script" or attributes["src"].startswith("/static/"), path
            assert tag != "img" or attributes["src"].startswith("/static/"), path
        assert wording.visible(" ".join(text.split()))[:20] in page.text, path


def test_huge_text_is_cut_until_asked_for(client: httpx.Client, org: Organisation, recorder: Recorder) -> None:
    """A prompt of a megabyte neither fills the page nor is lost."""
    text = "word " * 200_000 + "the end"
    recorder.call(agent="a", organisation=org.name, attributes=messages(text))
    (span,) = recorder.spans()
    org.store([span])
    assert span.context
    path = f"/calls/{span.context.trace_id:032x}/{span.context.span_id:016x}"
    short = client.get(path)
    assert len(short.text) < 200_000
    assert "Show all 1,000,007 characters" in Page(short.text).text
    assert "the end" in Page(client.get(f"{path}?show=all").text).text
