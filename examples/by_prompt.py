"""Agents without names: each system prompt is its own agent, known by the fingerprint of its template.

What varies between two renderings of one prompt (dates, numbers, names, ids) is masked before the fingerprint is taken:
the same prompt on another day, for another customer, is the same agent. It does not matter where the client carries the
prompt either: as a system message, a developer message or the instructions of a response.
"""

from __future__ import annotations

from typing import Any

from openai import OpenAI

import egisai
from _setup import MODEL

egisai.init(app="Prompts")

client = OpenAI()

TRANSLATOR = "You are a translator. Render what you are given into formal French. Today is {date}."
CODE_REVIEWER = "You are a Python code reviewer. Name the one change that matters most. Ticket {ticket}."
CONCIERGE = "You are the concierge of a small hotel. Customer name: {customer}. Answer kindly and briefly."


def ask(role: str, prompt: str, question: str) -> str:
    """Ask with `prompt` as system message, developer message or instructions."""
    if role == "instructions":
        return client.responses.create(model=MODEL, instructions=prompt, input=question).output_text
    messages: list[Any] = [{"role": role, "content": prompt}, {"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content or ""


for role, prompt, question in (
    ("system", TRANSLATOR.format(date="2026-03-02"), "Dear neighbours"),
    ("developer", TRANSLATOR.format(date="17 November 2026"), "See you on Sunday"),
    ("instructions", TRANSLATOR.format(date="2027-01-01"), "With kind regards"),
    ("system", CODE_REVIEWER.format(ticket="PY-4711"), "for i in range(len(names)): print(names[i])"),
    ("instructions", CODE_REVIEWER.format(ticket="PY-12"), "def first(items): return items[0]"),
    ("system", CONCIERGE.format(customer="Ada Lovelace"), "When is breakfast?"),
    ("system", CONCIERGE.format(customer="Grace Hopper"), "May I bring a dog?"),
    ("system", CONCIERGE.format(customer="Alan Turing"), "Is there a bicycle?"),
    ("developer", CONCIERGE.format(customer="Mary Jackson"), "Where can I park?"),
):
    print(f"{role}: {prompt}\n    {ask(role, prompt, question)}")
