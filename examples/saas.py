"""A multi-tenant product: each request names its agent, its tenant and its session, then one tenant is looked up.

The tenant is the `user_id`. The requests run in a thread pool: each job has the context of the code that submitted it,
whichever worker picks it up. At the end the platform's JSON API is asked for one tenant's calls, which needs a read key
(`egisai-platform keys create`, scope `read`) in EGISAI_READ_KEY.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import httpx
from openai import OpenAI

import egisai
from _setup import EMBEDDING_MODEL, MODEL

egisai.init(app="SaaS")

client = OpenAI()

REQUESTS = [  # tenant, role, session, agent, question
    ("acme", "admin", "acme-1", "Onboarding", "How do I invite my colleagues?"),
    ("acme", "admin", "acme-1", "Support", "The invitation link has expired."),
    ("acme", "member", "acme-2", "Search", "contracts that end this year"),
    ("globex", "member", "globex-1", "Support", "Where do I change my password?"),
    ("globex", "member", "globex-1", "Search", "our travel policy"),
    ("initech", "admin", "initech-1", "Onboarding", "Can we sign in with our own directory?"),
    ("initech", "admin", "initech-1", "Support", "The report shows last year's numbers."),
    ("acme", "member", "acme-2", "Support", "How do I share a contract?"),
    ("globex", "admin", "globex-2", "Support", "Please add ten seats."),
]
TENANT = "acme"


def handle(agent: str, question: str) -> str:
    """Serve one request. It says nothing about its tenant: the context does."""
    if agent == "Search":
        vectors = client.embeddings.create(model=EMBEDDING_MODEL, input=question)
        return f"searched with a vector of {len(vectors.data[0].embedding)}"
    response = client.responses.create(model=MODEL, instructions=f"You are the {agent} agent.", input=question)
    return response.output_text


def print_tenant(base_url: str, key: str, since: datetime) -> None:
    """Ask the platform for one tenant's calls, until all that we made have arrived."""
    expected = sum(tenant == TENANT for tenant, *_ in REQUESTS)
    query = {"user_id": TENANT, "since": since.isoformat(), "limit": "100"}
    calls: list[dict[str, str]] = []
    with httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {key}"}) as http:
        for _ in range(100):
            reply = http.get("/api/v1/calls", params=query).raise_for_status()
            calls = reply.json()["items"]
            if len(calls) >= expected:
                break
            time.sleep(0.1)
    print(f"\n{TENANT}'s calls, according to the platform:")
    for call in reversed(calls):
        print(
            f"  {call['session_id']:7} {call['agent_name']:10} {call['operation']:10} {call['input_tokens']} tokens in"
        )


def main() -> None:
    """Serve every request, then look one tenant up."""
    since = datetime.now(timezone.utc)
    with ThreadPoolExecutor(4) as pool:
        jobs = []
        for tenant, role, session, agent, question in REQUESTS:
            with egisai.context(agent=agent, user_id=tenant, user_role=role, session_id=session):
                jobs.append(pool.submit(handle, agent, question))
        for (tenant, _, session, agent, _), job in zip(REQUESTS, jobs, strict=True):
            print(f"{tenant:8} {session:10} {agent:11} {job.result()}")
    egisai.flush()

    base_url, key = os.environ.get("EGISAI_BASE_URL"), os.environ.get("EGISAI_READ_KEY")
    if base_url and key:
        print_tenant(base_url, key, since)
    else:
        print("\nWith EGISAI_BASE_URL and EGISAI_READ_KEY set, one tenant's calls would be listed here.")


if __name__ == "__main__":
    main()
