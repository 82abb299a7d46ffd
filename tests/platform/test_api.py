"""Reading: filters, pages, organisations apart, merges and names for past and future, hostile text."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from egisai import semconv
from egisai.identity import agent_id


def names(org):
    return {agent["name"]: agent for agent in org.items("agents")}


# --- who did what ------------------------------------------------------------------------------------------------
def test_plat_agents(org, recorder):
    """Each sub-agent is its own row with calls, tokens, cost, errors, last seen."""
    now = time.time_ns()
    for number in range(3):
        recorder.call(agent="triage", organisation=org.name, start_ns=now - 10**9 * (10 - number))
    recorder.call(agent="billing", organisation=org.name, model="gpt-4o", start_ns=now - 10**9)
    recorder.call(agent="billing", organisation=org.name, model="unlisted-model")
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with recorder.tracer.start_as_current_span(
            "chat gpt-4o",
            attributes={
                semconv.OPERATION: "chat",
                semconv.AGENT_NAME: "billing",
                semconv.AGENT_ID: agent_id(org.name, "name", "billing"),
                semconv.AGENT_SOURCE: "name",
            },
        ):
            raise ZeroDivisionError
    org.store(recorder.spans())
    agents = names(org)
    assert set(agents) == {"triage", "billing"}
    triage, billing = agents["triage"]["totals"], agents["billing"]["totals"]
    assert (triage["calls"], triage["errors"], triage["input_tokens"], triage["output_tokens"]) == (3, 0, 300, 30)
    assert triage["cost_usd"] == pytest.approx(3 * (100 * 0.15 + 10 * 0.60) / 1e6)
    assert triage["unpriced_calls"] == 0
    assert triage["first_seen"] < triage["last_seen"]
    assert (billing["calls"], billing["errors"], billing["unpriced_calls"]) == (3, 1, 1)
    assert billing["cost_usd"] == pytest.approx((100 * 2.5 + 10 * 10) / 1e6)
    assert agents["billing"]["models"] == ["gpt-4o", "unlisted-model"]
    assert agents["billing"]["id"] == agent_id(org.name, "name", "billing")
    assert [call["status"] for call in org.items("calls", agent="billing", status="error")] == ["error"]


def test_rename_holds_for_past_and_future(org, recorder):
    """plat-agents: a rename shows on calls before and after it, and traffic never takes it back."""
    billing = agent_id(org.name, "name", "billing")
    recorder.call(agent="billing", organisation=org.name, workflow_id="w")
    org.store(recorder.spans())
    renamed = org.request("PATCH", f"agents/{billing}", json={"name": "Money desk", "description": "Bills."})
    assert renamed.status_code == 200
    assert (renamed.json()["name"], renamed.json()["description"]) == ("Money desk", "Bills.")
    recorder.call(agent="billing", organisation=org.name, workflow_id="w")
    org.store(recorder.spans())
    assert {call["agent_name"] for call in org.items("calls")} == {"Money desk"}
    assert len(org.items("calls", agent="money DESK")) == 2
    assert len(org.items("calls", agent="billing")) == 2, "the name the programs use finds it too"
    assert org.items("calls", agent="nobody") == []
    assert [agent["name"] for agent in org.items("agents")] == ["Money desk"]
    assert org.get("workflows/w")["group"]["agents"] == ["Money desk"]
    org.request("PATCH", f"agents/{billing}", json={"name": ""})
    assert {call["agent_name"] for call in org.items("calls")} == {"billing"}
    assert org.get(f"agents/{billing}")["description"] == "Bills."


def test_merge_holds_for_past_and_future(org, recorder):
    """plat-agents: a merge moves past and future calls, chains too; undoing it gives them back."""
    a, b, c = (agent_id(org.name, "name", name) for name in "abc")

    def call_all():
        for name in "abc":
            recorder.call(agent=name, organisation=org.name, user_id="u")
        org.store(recorder.spans())

    def counts():
        return {agent["name"]: agent["totals"]["calls"] for agent in org.items("agents")}

    call_all()
    assert org.request("POST", f"agents/{a}/merge", json={"into": b}).json()["name"] == "b"
    assert counts() == {"b": 2, "c": 1}
    call_all()
    assert counts() == {"b": 4, "c": 2}
    assert org.request("POST", f"agents/{b}/merge", json={"into": c}).json()["merged_ids"] == sorted([a, b])
    assert counts() == {"c": 6}
    assert {(call["agent_id"], call["agent_name"]) for call in org.items("calls")} == {(c, "c")}
    for member in (a, b, c):
        assert len(org.items("calls", agent_id=member)) == 6
        assert org.get(f"agents/{member}")["id"] == c
    assert len(org.items("calls", agent="a")) == 6
    assert org.items("users")[0]["agents"] == ["c"]
    assert org.get("stats")["agents"] == 1
    assert [agent["id"] for agent in org.items("agents", agent_id=a)] == [c]

    loop = org.request("POST", f"agents/{c}/merge", json={"into": a})
    assert (loop.status_code, loop.json()["status"]) == (409, 409)
    assert org.request("POST", f"agents/{c}/merge", json={"into": c}).status_code == 409
    unknown = agent_id(org.name, "name", "unknown")
    assert org.request("POST", f"agents/{c}/merge", json={"into": unknown}).status_code == 404
    assert org.request("DELETE", f"agents/{c}/merge").status_code == 409

    assert org.request("DELETE", f"agents/{b}/merge").status_code == 200
    assert counts() == {"b": 4, "c": 2}
    assert org.request("DELETE", f"agents/{a}/merge").status_code == 200
    assert counts() == {"a": 2, "b": 2, "c": 2}


def test_announcements(org, recorder):
    """An announced agent is in the registry before any call; the answer maps what operators changed, and no more."""
    ids = {name: agent_id(org.name, "fingerprint", name) for name in ("f1", "f2", "f3")}
    sent = [
        {
            "id": ids[f],
            "name": f"Agent {f}",
            "source": "fingerprint",
            "key": f,
            "fingerprint": f,
            "app": "x",
            "env": "y",
        }
        for f in ids
    ]
    assert org.announce(sent).json() == {"canonical": {}, "version": 3}
    agent = names(org)["Agent f1"]
    assert (agent["id"], agent["source"], agent["fingerprints"]) == (ids["f1"], "fingerprint", ["f1"])
    assert agent["totals"]["calls"] == 0
    assert org.items("agents", user_id="nobody") == []

    org.request("PATCH", f"agents/{ids['f2']}", json={"name": "Two"})
    org.request("POST", f"agents/{ids['f3']}/merge", json={"into": ids["f2"]})
    assert org.announce(sent).json() == {
        "canonical": {ids["f2"]: {"id": ids["f2"], "name": "Two"}, ids["f3"]: {"id": ids["f2"], "name": "Two"}},
        "version": 5,
    }
    recorder.call(
        attributes={semconv.AGENT_ID: ids["f3"], semconv.AGENT_NAME: "x", semconv.AGENT_SOURCE: "fingerprint"}
    )
    org.store(recorder.spans())
    assert names(org)["Two"]["totals"]["calls"] == 1

    assert org.announce(sent, key=org.read_key).status_code == 403
    assert org.announce(sent, key="").status_code == 401
    assert org.announce([sent[0]] * 501).status_code == 400
    bad = org.announce([sent[0] | {"id": "no uuid"}])
    assert bad.status_code == 400
    assert "agents.0.id" in bad.json()["detail"]


def test_many_announcers(org):
    """Many processes that meet the same agents at the same moment register each once."""
    sent = [
        {"id": agent_id(org.name, "name", f"a{n}"), "name": f"a{n}", "source": "name", "key": f"a{n}"}
        for n in range(20)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert {response.status_code for response in pool.map(lambda _: org.announce(sent), range(16))} == {200}
    assert len(org.items("agents")) == 20


# --- whose is what -----------------------------------------------------------------------------------------------
def test_plat_tenant(org, recorder):
    """By user and session: that tenant's every call and nothing else."""
    wanted = set()
    for number in range(60):
        user, session = f"tenant-{number % 3}", f"s-{number % 4}"
        recorder.call(agent=f"agent-{number % 2}", organisation=org.name, user_id=user, session_id=session)
    spans = recorder.spans()
    for span in spans:
        if span.attributes["user.id"] == "tenant-1":
            wanted.add(f"{span.context.span_id:016x}")
    org.store(spans)
    assert {call["span_id"] for call in org.items("calls", user_id="tenant-1", limit=500)} == wanted
    assert org.get("stats", user_id="tenant-1")["totals"]["calls"] == 20
    both = org.items("calls", user_id="tenant-1", session_id="s-1", limit=500)
    assert len(both) == 5
    assert {(call["user_id"], call["session_id"]) for call in both} == {("tenant-1", "s-1")}
    assert org.items("calls", user_id="tenant") == []
    assert org.items("calls", user_id="TENANT-1") == []
    users = {user["id"]: user for user in org.items("users")}
    assert {user: users[user]["totals"]["calls"] for user in users} == {f"tenant-{n}": 20 for n in range(3)}
    assert users["tenant-0"]["agents"] == ["agent-0", "agent-1"]
    assert users["tenant-0"]["sessions"] == ["s-0", "s-1", "s-2", "s-3"]
    sessions = org.items("sessions", user_id="tenant-2")
    assert {session["id"] for session in sessions} == {"s-0", "s-1", "s-2", "s-3"}
    assert all(session["users"] == ["tenant-2"] for session in sessions)


def test_conversation_is_a_session(org, recorder):
    """A span of another vendor that names only its conversation is of that session."""
    recorder.call(attributes={semconv.CONVERSATION_ID: "conv-1"})
    org.store(recorder.spans())
    assert [session["id"] for session in org.items("sessions")] == ["conv-1"]


def test_plat_workflow(org, make_recorder):
    """A workflow over agents, threads, processes and traces shows every call once, in order, under its agents."""
    workflow, now = "plan/42 ü", time.time_ns() - 10**10
    wanted = []
    lock = threading.Lock()

    def run(process):
        recorder = make_recorder(**{"service.name": f"process-{process}"})
        for step in range(10):
            start_ns = now + (step * 4 + process) * 10**6
            recorder.call(
                agent=f"step-{process}", organisation=org.name, workflow_id=workflow, user_id="u", start_ns=start_ns
            )
            recorder.call(agent="bystander", organisation=org.name, workflow_id="other", start_ns=start_ns)
        spans = recorder.spans()
        with lock:
            wanted.extend(
                (span.start_time, f"{span.context.span_id:016x}")
                for span in spans
                if span.attributes[semconv.WORKFLOW_ID] == workflow
            )
        org.store(spans)
        org.store(spans)  # a retry

    threads = [threading.Thread(target=run, args=(process,)) for process in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = org.get("workflows/plan%2F42%20%C3%BC")
    assert [call["span_id"] for call in found["calls"]] == [span_id for _, span_id in sorted(wanted)]
    assert len(found["calls"]) == 40
    assert found["group"]["agents"] == [f"step-{n}" for n in range(4)]
    assert found["group"]["traces"] == 40
    assert found["group"]["users"] == ["u"]
    assert found["group"]["totals"]["calls"] == 40
    assert {call["app"] for call in found["calls"]} == {f"process-{n}" for n in range(4)}
    assert {group["id"] for group in org.items("workflows")} == {workflow, "other"}
    assert org.ask("workflows/nothing").status_code == 404


def test_organisations_are_apart(org, make_organisation, recorder):
    """Nothing of one organisation is to be had with another's key, at any address."""
    other = make_organisation()
    recorder.call(agent="secret-agent", organisation=org.name, user_id="su", session_id="ss", workflow_id="sw")
    org.store(recorder.spans())
    (call,) = org.items("calls")
    agent, trace = call["agent_id"], f"calls/{call['trace_id']}/{call['span_id']}"
    for path in ("agents", "calls", "users", "sessions", "workflows"):
        assert len(org.items(path)) == 1
        assert other.items(path) == []
        for name in ("agent", "agent_id", "user_id", "session_id", "workflow_id"):
            value = call["agent_name"] if name == "agent" else call[name]
            assert other.items(path, **{name: value}) == []
    assert other.get("stats")["totals"]["calls"] == 0
    for path in (f"agents/{agent}", trace, "workflows/sw"):
        assert org.ask(path).status_code == 200
        assert other.ask(path).status_code == 404
    for method, path, body in (
        ("PATCH", f"agents/{agent}", {"name": "mine"}),
        ("POST", f"agents/{agent}/merge", {"into": agent}),
        ("DELETE", f"agents/{agent}/merge", None),
    ):
        assert other.request(method, path, json=body).status_code == 404
    assert other.ask("calls", organisation=org.name).status_code == 403
    assert org.ask("calls", organisation=org.name).status_code == 200
    for number in range(3):
        recorder.call(user_id=str(number))
    org.store(recorder.spans())
    cursor = org.get("calls", limit=1)["next_cursor"]
    assert other.ask("calls", limit=1, cursor=cursor).status_code == 400


# --- asking ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("calls", "agnt=x", ["unknown query parameter 'agnt'", "allowed are agent, agent_id"]),
        ("agents", "cursor=x", ["unknown query parameter 'cursor'"]),
        ("calls", "status=broken", ["status='broken'", "ok, error, incomplete"]),
        ("calls", "limit=0", ["limit='0'", "1 to 500"]),
        ("calls", "limit=501", ["limit='501'", "1 to 500"]),
        ("calls", "limit=ten", ["limit='ten'"]),
        ("calls", "since=yesterday", ["since='yesterday'", "ISO 8601", "7d"]),
        ("stats", "until=2026-13-01", ["until='2026-13-01'"]),
        ("stats", "since=1h&until=2h", ["since='1h' is not before until='2h'"]),
        ("calls", "agent=", ["agent=''", "1 to 1000 characters"]),
        ("calls", "agent=a&agent=b", ["'agent' is given twice"]),
        ("calls", "cursor=abc", ["cursor: not one that this list gave out"]),
        ("calls", "cursor=%C3%A9", ["cursor: not one"]),
    ],
)
def test_bad_questions(org, path, query, words):
    """Each is a 400 problem that gives the name, the value and what is allowed."""
    response = org.ask(f"{path}?{query}")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    for word in words:
        assert word in problem["detail"]


def test_bad_bodies(org):
    """An unknown or malformed field is named."""
    agent = f"agents/{agent_id(org.name, 'name', 'x')}"
    for body, word in (({"nam": "x"}, "nam: "), ({"name": 5}, "name: "), ({"name": "x" * 1001}, "name: ")):
        response = org.request("PATCH", agent, json=body)
        assert response.status_code == 400
        assert response.json()["detail"].startswith(word)
    assert org.request("PATCH", agent, content=b"{").status_code == 400
    assert org.request("PATCH", agent, json={"name": "x"}).status_code == 404
    assert org.request("POST", f"{agent}/merge", json={}).json()["detail"].startswith("into: ")


def test_times(org, recorder):
    """`since` and `until` take ISO 8601 and how long ago; the end is not included."""
    now = time.time_ns() // 10**9 * 10**9
    for minutes in (1, 30, 90):
        recorder.call(start_ns=now - minutes * 60 * 10**9, user_id=f"m{minutes}")
    org.store(recorder.spans())

    def found(**params):
        return [call["user_id"] for call in org.items("calls", **params)]

    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9 - 1800))
    assert found(since="1h") == ["m1", "m30"]
    assert found(since="5400s", until="10m") == ["m30"] or found(since="5400s", until="10m") == ["m30", "m90"]
    assert found(until="1h") == ["m90"]
    assert found(since=stamp) == found(since=f"{stamp}Z") == found(since=f"{stamp}+00:00") == ["m1", "m30"]
    assert found(until=stamp) == ["m90"]
    assert org.get("stats", since="1h")["totals"]["calls"] == 2
    series = org.get("stats", since="2h")
    assert series["bucket_s"] == 300
    assert len(series["series"]) in (25, 26)
    assert sum(point["calls"] for point in series["series"]) == 3
    steps = [point["time"] for point in series["series"]]
    assert steps == sorted(steps)


def test_filters_combine(org, recorder):
    """Every filter narrows; model matches what was asked for and what answered."""
    recorder.call(agent="a", organisation=org.name, user_id="u", session_id="s", workflow_id="w", model="m1")
    recorder.call(agent="b", organisation=org.name, user_id="u", model="m2", attributes={semconv.RESPONSE_MODEL: "m1"})
    org.store(recorder.spans())
    a = agent_id(org.name, "name", "a")
    everything = {"agent": "A ", "agent_id": a, "user_id": "u", "session_id": "s", "workflow_id": "w", "status": "ok"}
    assert [call["request_model"] for call in org.items("calls", **everything, model="m1")] == ["m1"]
    for name, value in everything.items():
        assert org.items("calls", **{**everything, name: "error" if name == "status" else value + "x"}) == []
    assert len(org.items("calls", model="m1")) == 2
    assert len(org.items("calls", model="m2")) == 1
    assert [agent["name"] for agent in org.items("agents", model="m2")] == ["b"]
    assert [agent["name"] for agent in org.items("agents", agent="a")] == ["a"]


def test_pages_are_stable(org, recorder):
    """Every call once, in order, while new ones arrive between the pages and start times collide."""
    now = time.time_ns() - 10**10
    for number in range(57):
        recorder.call(start_ns=now + number // 5 * 1000, user_id=f"user-{number:02}")
    spans = recorder.spans()
    wanted = [
        f"{span.context.span_id:016x}"
        for span in sorted(spans, key=lambda s: (s.start_time, s.context.trace_id, s.context.span_id), reverse=True)
    ]
    org.store(spans)
    found, users = [], []
    for path, seen, last_user in (("calls", found, "user-00"), ("users", users, "user-01")):
        cursor = None
        while True:
            page = org.get(path, limit=10, **({"cursor": cursor} if cursor else {}))
            seen += [item.get("span_id") or item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            assert len(page["items"]) == 10
            recorder.call(user_id=last_user, start_ns=time.time_ns())  # and so the last user moves to the front
            org.store(recorder.spans())
    assert found == wanted
    assert users[0] == "user-00", "it was called again while the calls were paged"
    assert sorted(users) == [f"user-{number:02}" for number in range(57)]


def test_altered_cursor(org, recorder):
    """A cursor is believed only as it was given out, and only by its own list."""
    for number in range(3):
        recorder.call(user_id=f"u{number}")
    org.store(recorder.spans())
    cursor = org.get("calls", limit=1)["next_cursor"]
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[-3] ^= 1
    altered = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    assert org.ask("calls", limit=1, cursor=altered).status_code == 400
    assert org.ask("users", limit=1, cursor=cursor).status_code == 400
    assert org.ask("calls", limit=1, cursor=cursor).status_code == 200


# --- hostile text ------------------------------------------------------------------------------------------------
HOSTILE = [
    "<script>alert(1)</script>",
    "zero\0byte",
    "\u202egnirts\u202c \u2066x\u2069",
    "'; DROP TABLE spans; --",
    "back\\slash \\' \\0 \\N",
    "tab\tnew\nline\r\x1b[31m",
    "{name:String} %s {{7*7}} ${x}",
    "emoji 👩‍👩‍👧‍👦 \U000e0041 é e\u0301",
    "\x7f\x80\xad\ufeff\uffff",
]


def test_plat_hostile(org, recorder):
    """Markup, zero bytes, bidi characters, SQL and huge text are stored, found and given back exactly as they were."""
    for text in HOSTILE:
        recorder.call(
            agent=text,
            organisation=org.name,
            user_id=text,
            session_id=text,
            workflow_id=text,
            model=text,
            user_role=text,
            attributes={text: text, semconv.INPUT_MESSAGES: text, semconv.RESPONSE_FINISH_REASONS: [text]},
        )
    org.store(recorder.spans())
    for text in HOSTILE:
        (call,) = org.items("calls", user_id=text, session_id=text, workflow_id=text, model=text)
        assert {call[f] for f in ("user_id", "session_id", "workflow_id", "request_model", "user_role")} == {text}
        assert call["finish_reasons"] == [text]
        assert call["agent_name"] == text.strip()
        assert [c["span_id"] for c in org.items("calls", agent=text)] == [call["span_id"]]
        detail = org.get(f"calls/{call['trace_id']}/{call['span_id']}")
        assert detail["attributes"][text] == text
        assert detail["attributes"][semconv.INPUT_MESSAGES] == text
    assert sorted(user["id"] for user in org.items("users")) == sorted(HOSTILE)
    assert org.get("stats")["users"] == len(HOSTILE)

    huge = "<b>" * (1 << 20)
    recorder.call(user_id=huge, attributes={semconv.INPUT_MESSAGES: huge, "nan": float("nan"), "inf": [float("-inf")]})
    org.store(recorder.spans())
    call = next(call for call in org.items("calls") if call["user_id"].startswith("<b>"))
    assert call["user_id"] == huge[:1000]
    attributes = org.get(f"calls/{call['trace_id']}/{call['span_id']}")["attributes"]
    assert attributes[semconv.INPUT_MESSAGES] == huge
    assert attributes["user.id"] == huge
    assert (attributes["nan"], attributes["inf"]) == ("nan", ["-inf"])


def test_invalid_utf8(org, recorder):
    """A sender whose strings are not UTF-8 loses no span: what cannot be read is replaced."""
    recorder.call(user_id="MARK-user", attributes={"bad": "MARK"})
    recorder.call(user_id="good é")
    body = encode_spans(recorder.spans()).SerializeToString().replace(b"MARK", b"\xff\xfe\x00\xc3")
    assert org.send(body).status_code == 200
    assert {call["user_id"] for call in org.items("calls")} == {"good é", "\ufffd\ufffd\0\ufffd-user"}


# --- around it ---------------------------------------------------------------------------------------------------
def test_session_reads_the_api(org, make_organisation, recorder):
    """A dashboard session may read: a key's its organisation, the operator's any, when it says which."""
    recorder.call()
    org.store(recorder.spans())
    make_organisation()
    with org.server.auth() as auth:
        by_key, by_link = auth.open_session(org.read_key), auth.redeem_login(auth.create_login())
        assert auth.open_session(org.ingest_key) is None
        assert auth.open_session("nonsense") is None
        token = auth.create_login()
        assert auth.redeem_login(token)
        assert auth.redeem_login(token) is None, "a link works once"

    def ask(session, **params):
        return httpx.get(f"{org.server.url}/api/v1/stats", params=params, cookies={org.server.cookie: session})

    assert ask(by_key).json()["totals"]["calls"] == 1
    assert ask(by_link).status_code == 400
    assert ask(by_link, organisation=org.name).json()["totals"]["calls"] == 1
    assert ask(by_link, organisation="nobodys").status_code == 403
    assert ask("forged").status_code == 401
    patch = httpx.patch(f"{org.server.url}/api/v1/agents/x", json={"name": "n"}, cookies={org.server.cookie: by_link})
    assert patch.status_code == 401, "a cookie alone may not write: other sites can make browsers send it"
    with org.server.auth() as auth:
        (key_id,) = [k.id for k in auth.list_keys() if k.organisation == org.name and k.scope == "read"]
        auth.revoke_key(key_id)
    assert ask(by_key).status_code == 401, "with its key ends what the key opened"


def test_health_and_openapi(server):
    """The addresses for machines answer without a key and reveal nothing."""
    assert httpx.get(f"{server.url}/healthz").text == "ok\n"
    assert httpx.get(f"{server.url}/readyz").text == "ok\n"
    metrics = httpx.get(f"{server.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "org-" not in metrics.text
    document = httpx.get(f"{server.url}/api/openapi.json")
    paths = document.json()["paths"]
    assert {p for p in paths if p.startswith("/api/v1")} == {
        f"/api/v1/{path}"
        for path in (
            "agents",
            "agents/{agent_id}",
            "agents/{agent_id}/merge",
            "calls",
            "calls/{trace_id}/{span_id}",
            "users",
            "sessions",
            "workflows",
            "workflows/{workflow_id}",
            "stats",
        )
    }
    named = [parameter["name"] for parameter in paths["/api/v1/calls"]["get"]["parameters"]]
    assert named == [
        *("agent", "agent_id", "user_id", "session_id", "workflow_id", "fingerprint", "model", "status"),
        *("since", "until", "cursor", "limit", "organisation"),
    ]
    for response in (
        document,
        metrics,
        httpx.get(f"{server.url}/api/v1/calls"),
        httpx.get(f"{server.url}/api/nothing"),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    missing = httpx.get(f"{server.url}/api/nothing")
    assert (missing.status_code, json.loads(missing.text)["status"]) == (404, 404)
    assert httpx.get(f"{server.url}/v1/traces").status_code == 405
