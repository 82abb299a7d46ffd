"""Several agents in one program: triage reads each ticket and billing answers it.

`set_context` says who acts from here on; `with egisai.context(...)` says it for a block. Both merge: naming the agent
keeps the user and the session that were set before.
"""

from __future__ import annotations

from typing import Literal

from openai import OpenAI
from pydantic import BaseModel

import egisai
from _setup import MODEL

egisai.init(app="Helpdesk")

client = OpenAI()


class Routing(BaseModel):
    """What triage decides."""

    department: Literal["billing", "technical"]
    urgent: bool


def triage(question: str) -> Routing | None:
    """Decide where a ticket belongs, as a structured output."""
    completion = client.chat.completions.parse(
        model=MODEL,
        messages=[
            {"role": "system", "content": "You are the triage desk. Route each ticket to a department."},
            {"role": "user", "content": question},
        ],
        response_format=Routing,
    )
    return completion.choices[0].message.parsed


def answer(question: str) -> str:
    """Answer a ticket, streamed."""
    with client.responses.stream(
        model=MODEL, instructions="You are the billing desk. Answer in one sentence.", input=question
    ) as stream:
        return stream.get_final_response().output_text


for ticket, customer, question in (
    ("T-100", "maria", "I was charged twice in March. Can I have a refund?"),
    ("T-101", "tomas", "My invoice shows one seat too many."),
    ("T-102", "maria", "The payment failed, but the money is gone."),
):
    egisai.set_context(user_id=customer, session_id=ticket)

    egisai.set_context(agent="Triage")
    routing = triage(question)

    with egisai.context(agent="Billing"):
        text = answer(question)

    print(f"{ticket} ({customer}) -> {routing.department if routing else 'unclear'}: {text}")
