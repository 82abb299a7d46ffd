"""One workflow, many agents: a planner fans out to threads and tasks, and every call stays in the workflow.

`workflow_id` is set once. Jobs in a `ThreadPoolExecutor` have the context of whoever submitted them, asyncio tasks
that of whoever created them; each step only adds which agent runs it. No span ties these calls together (each is a
trace of its own): the workflow id does.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from openai import AsyncOpenAI, OpenAI

import egisai
from _setup import MODEL

egisai.init(app="Launch campaign")

client = OpenAI()


@egisai.context(agent="Planner")
def plan(goal: str) -> str:
    """The first step, on its own."""
    return client.responses.create(model=MODEL, instructions="Plan the work in three steps.", input=goal).output_text


@egisai.context(agent="Researcher")
def research(topic: str) -> str:
    """Three of these run in threads."""
    return client.responses.create(model=MODEL, instructions="Research in one sentence.", input=topic).output_text


@egisai.context(agent="Writer")
async def write(client: AsyncOpenAI, text: str, notes: list[str]) -> str:
    """Two of these run as tasks, streamed."""
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Write {text} from these notes: {' '.join(notes)}"}],
        stream=True,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


@egisai.context(agent="Reviewer")
async def review(client: AsyncOpenAI, texts: Sequence[str]) -> str:
    """The last step, when all texts are there."""
    response = await client.responses.create(model=MODEL, input=f"Review in one sentence: {' '.join(texts)}")
    return response.output_text


async def write_and_review(notes: list[str]) -> str:
    """Two texts side by side, then one review."""
    async with AsyncOpenAI() as client:
        texts = await asyncio.gather(write(client, "an announcement", notes), write(client, "a newsletter", notes))
        return await review(client, texts)


def main() -> None:
    """Run the workflow."""
    workflow_id = f"launch-{uuid.uuid4().hex[:8]}"
    with egisai.context(workflow_id=workflow_id, user_id="marketing"):
        print("plan:    ", plan("Announce our new product in May."))
        with ThreadPoolExecutor(3) as pool:
            notes = list(pool.map(research, ("the market", "the buyers", "the competition")))
        for note in notes:
            print("research:", note)
        print("review:  ", asyncio.run(write_and_review(notes)))
    print("workflow:", workflow_id)


if __name__ == "__main__":
    main()
