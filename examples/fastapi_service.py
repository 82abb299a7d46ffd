"""A FastAPI service: 50 requests at once, each with its own user and session, and no call lands on another's.

`set_context` in an endpoint (or in an async dependency) holds for that request only, however many others wait for
their answers in the same thread. The service here runs under uvicorn and is asked over real HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated

import httpx
import uvicorn
from fastapi import FastAPI, Header
from openai import AsyncOpenAI
from pydantic import BaseModel

import egisai
from _setup import MODEL

egisai.init(app="Travel service")

app = FastAPI()
client = AsyncOpenAI()


class Question(BaseModel):
    """What a user asks, and how long the answer may be."""

    text: str
    max_tokens: int


@app.post("/ask/{agent}")
async def ask(
    agent: str, question: Question, x_user: Annotated[str, Header()], x_session: Annotated[str, Header()]
) -> dict[str, str]:
    """Two calls, one of them streamed, and many awaits in between: enough to be interrupted by every other request."""
    egisai.set_context(agent=agent, user_id=x_user, session_id=x_session)
    draft = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question.text}],
        max_completion_tokens=question.max_tokens,
    )
    polished = ""
    async for chunk in await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Polish: {draft.choices[0].message.content}"}],
        max_completion_tokens=question.max_tokens,
        stream=True,
    ):
        polished += chunk.choices[0].delta.content or "" if chunk.choices else ""
    return {"text": polished, **egisai.current_context()}


REQUESTS = [
    {
        "agent": "Guide" if number % 2 else "Booking",
        "user": f"guest-{number:02}",
        "session": f"stay-{number:02}",
        "max_tokens": 200
        + number,  # goes into the request itself: whatever the context says, it tells whose call it is
    }
    for number in range(50)
]


async def send(http: httpx.AsyncClient, request: dict[str, object]) -> bool:
    """Ask the service once; whether its context was still this request's own after both calls."""
    reply = await http.post(
        f"/ask/{request['agent']}",
        json={"text": "Where should I go on a rainy day?", "max_tokens": request["max_tokens"]},
        headers={"x-user": str(request["user"]), "x-session": str(request["session"])},
    )
    reply.raise_for_status()
    got = reply.json()
    return (got["agent"], got["user_id"], got["session_id"]) == (request["agent"], request["user"], request["session"])


async def send_all(base_url: str) -> None:
    """Send all requests at once."""
    async with httpx.AsyncClient(base_url=base_url, timeout=120, limits=httpx.Limits(max_connections=None)) as http:
        own = await asyncio.gather(*(send(http, request) for request in REQUESTS))
    print(f"{len(own)} concurrent requests of two calls each: {own.count(True)} kept their own agent, user and session")
    if not all(own):
        raise SystemExit("a request's context leaked")


def main() -> None:
    """Serve in a thread, ask, stop."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", backlog=256))
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        asyncio.run(send_all(f"http://127.0.0.1:{socket.getsockname()[1]}"))
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


if __name__ == "__main__":
    main()
