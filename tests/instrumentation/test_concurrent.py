"""Many threads and tasks at once, each with an agent and a user of its own: no span mixes two."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import openai
from tests.instrumentation.forms import MODEL

import egisai
from conftest import Spans
from provider import Provider


def _ask(number: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"I am {number}"}], "user": f"u-{number}"}


def _check(spans: Spans, expected: dict[str, int]) -> None:
    counted: dict[str, int] = {}
    for span in spans.calls():
        number = span.attributes["gen_ai.agent.name"].removeprefix("agent-")
        assert span.attributes["user.id"] == f"u-{number}"
        assert span.attributes["gen_ai.request.seed"] == int(number)  # what this very request asked for
        counted[number] = counted.get(number, 0) + 1
    assert counted == expected


def test_ctx_threads(spans: Spans, server: Provider) -> None:
    """16 threads, 50 calls each, plain and streamed, over one client."""
    failures: list[BaseException] = []
    with openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:

        def work(thread: int) -> None:
            try:
                for call in range(50):
                    number = thread * 100 + call % 5
                    with egisai.context(agent=f"agent-{number}", user_id=f"u-{number}"):
                        if call % 10 == 0:
                            stream = client.chat.completions.create(**_ask(number), seed=number, stream=True)
                        else:
                            client.chat.completions.create(**_ask(number), seed=number)
                            continue
                    for _ in stream:
                        pass
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    _check(spans, {str(thread * 100 + call): 10 for thread in range(16) for call in range(5)})


def test_ctx_100_tasks_of_calls(spans: Spans, server: Provider) -> None:
    """200 tasks on one loop, some cancelled, some leaving their streams."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-local") as client:
            limit = asyncio.Semaphore(32)

            async def work(number: int) -> None:
                egisai.set_context(agent=f"agent-{number}", user_id=f"u-{number}")
                async with limit:
                    if number % 3:
                        await client.chat.completions.create(**_ask(number), seed=number)
                    else:
                        stream = await client.chat.completions.create(**_ask(number), seed=number, stream=True)
                        async with stream:
                            async for _ in stream:
                                if number % 2:
                                    break
                assert egisai.current_context() == {"agent": f"agent-{number}", "user_id": f"u-{number}"}

            await asyncio.gather(*(work(number) for number in range(200)))
        assert egisai.current_context() == {}

    asyncio.run(main())
    _check(spans, {str(number): 1 for number in range(200)})
