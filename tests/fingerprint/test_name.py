"""The automatic name: the template's own wording, and nobody's name."""

from __future__ import annotations

import pytest

from egisai import fingerprint


def name(text: str) -> str:
    found = fingerprint.of((text,))
    assert found is not None
    return found.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You are an expert at extracting ideas from text.", "Expert at extracting ideas from text"),
        ("You handle billing questions for Acme customers.", "Billing questions assistant"),
        ("You answer questions about shipping. Be brief.", "Shipping questions assistant"),
        ("You are a helpful assistant.", "Helpful assistant"),
        ("You are a helpful, friendly travel planner that books trains.", "Travel planner"),
        ("You are Ava, a friendly billing assistant.", "Ava, billing assistant"),
        ("# Role\n\n**Release notes writer**\n\nBe brief.", "Release notes writer"),
        ("Act as a Linux terminal. I type, you reply.", "Linux terminal"),
        ("I want you to act as an English translator.", "English translator"),
        ("As a senior SQL analyst, review the query.", "Senior SQL analyst"),
        ("YOU ARE A POET. WRITE ODES.", "Poet"),
        ("You are a Level 2 support engineer.", "Level 2 support engineer"),
        ("You are an AI assistant specialized in reviewing contracts.", "AI assistant for reviewing contracts"),
        ("You are an AI assistant. Your task is to summarise tickets.", "Summarise tickets"),
        ("Translate the text to French.", "Translate the text to French"),
        ("Today is 2026-11-22. You are a tax adviser.", "Tax adviser"),
        ("你是一个诗人。写诗。", "诗人"),
        ("Du bist ein freundlicher Steuerberater.", "Steuerberater"),
    ],
)
def test_reads_like_a_name(text: str, expected: str) -> None:
    """A name is the noun phrase of the role, or what the agent does, in sentence case."""
    assert name(text) == expected


def test_without_words_the_digest_names() -> None:
    """Where a template has no words to take, its digest is the name."""
    found = fingerprint.of(("🐱🐶",))
    assert found is not None
    assert found.name == f"Agent {found.digest[:8]}"


PEOPLE = [
    ("John Smith", "john@x.com", "cust_8Fh2kLqX"),
    ("Xiulan Okonkwo", "xo.77@mail.example.co.uk", "cust_HbQkTrWz"),
    ("Ludwig van Beethoven", "lvb@müller.de", "cust_4711"),
    ("Zoë O'Neill", "zoe+test@x.io", "cust_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
]

TEMPLATES = [
    "You are the personal assistant of {name} ({email}).",
    "You are the personal assistant of {name}. Always greet {name}.",
    "You are {first}'s personal assistant.",
    "You are an executive assistant to {name}, {id}.",
    "Hello {first}, you are talking to a travel planner.",
    "You are talking to {name}, who has questions.",
    "You are speaking with {name} <{email}>. Be brief.",
    "The user's name is {name}. You are their tutor.",
    "User: {name}\nEmail: {email}\nID: {id}",
    "Customer name: {name}\nYou sell cars.",
    "Name: {name}\n\nHelp with the taxes.",
    "{name} is a premium customer of ours. Help with the taxes.",
    "Customer name is {name} and the account is {id}.",
    "{email}",
    "{id}",
    "Reply to {email} about {id}.",
    '{{"user": "{name}", "email": "{email}"}} Help with the taxes.',
    "<user_profile>{name}, {email}</user_profile>Help with the taxes.",
    "You act on behalf of {name} ({id}).",
    "You are helping {name} <{email}> with the taxes.",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_fp_names(template: str) -> None:
    """Whoever the user is, the agent is one and its name says nothing of them."""
    found = set()
    for person, email, record in PEOPLE:
        first = person.split()[0]
        fingerprinted = fingerprint.of((template.format(name=person, first=first, email=email, id=record),))
        assert fingerprinted is not None
        shown = fingerprinted.name.casefold()
        for secret in (*person.casefold().split(), email.casefold(), record.casefold()):
            assert secret not in shown.split(), (template, person, fingerprinted.name)
        assert "@" not in shown
        found.add(fingerprinted)
    if template not in ("{email}", "{id}"):  # nothing but a value: each is a template of its own
        assert len(found) == 1, found


@pytest.mark.parametrize(
    "text",
    [
        "You are a support agent for Xiulan Okonkwo.",
        "You are an assistant for Okonkwo.",
        "You are a helper working with Xiulan on taxes.",
        "You are the concierge of Okonkwo Xiulan who is tired.",
    ],
)
def test_a_label_says_rather_too_little(text: str) -> None:
    """Who is served may be a company or a person: the digest keeps it, the name leaves it out."""
    assert "okonkwo" not in name(text).casefold()
    assert "xiulan" not in name(text).casefold()


@pytest.mark.parametrize(
    "text", ["You are a " + "very long " * 40 + "poet", "x" * 500, "You are a " + "x" * 500, "é" * 100]
)
def test_short_whatever_the_text(text: str) -> None:
    """A name has at most 60 characters and one line."""
    assert 0 < len(name(text)) <= 60
    assert "\n" not in name(text)
