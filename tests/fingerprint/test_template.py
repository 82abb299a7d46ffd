"""One template, one fingerprint; two roles, two fingerprints."""

# ruff: noqa: RUF001  (other scripts and typography are what this is about)
from __future__ import annotations

import itertools
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from egisai import fingerprint

ROLES = Path(__file__).parents[3] / "shared" / "prompts" / "roles"

BILLING = """# IDENTITY and PURPOSE

You are a billing assistant for café owners. You explain invoices step by step -- "line by line" -- and don't guess.

- Be kind.
- Ask when something isn't clear.
"""


def digest(*parts: str) -> str:
    found = fingerprint.of(parts)
    assert found is not None
    return found.digest


@pytest.mark.parametrize(
    "variant",
    [
        " ".join(BILLING.split()),
        BILLING.replace("\n", "\r\n"),
        BILLING.replace("\n", "\n\n").replace(" ", "  \t"),
        BILLING.replace(" ", "\u00a0").replace("\n", "\u2028"),
        BILLING.upper(),
        BILLING.lower(),
        unicodedata.normalize("NFD", BILLING),
        BILLING.replace("b", "\uff42"),
        BILLING.replace("i", "i\u200b").replace("You", "\ufeffYou\u202c"),
        BILLING.replace('"line by line"', "“line by line”")
        .replace("'", "’")
        .replace("--", "—")
        .replace("-by-", "‑by‑"),
        BILLING.replace("You are", "**You** are").replace("# IDENTITY", "## _IDENTITY_").replace("- ", "* "),
    ],
    ids=[
        "one line",
        "crlf",
        "spaced",
        "nbsp",
        "upper",
        "lower",
        "nfd",
        "wide",
        "zero width",
        "typographic",
        "markdown",
    ],
)
def test_fp_same(variant: str) -> None:
    """Whitespace, Unicode form, case, invisible characters, typography and markdown make no other agent."""
    assert variant != BILLING
    assert digest(variant) == digest(BILLING)


def test_capitals_are_evidence_only_among_small_letters() -> None:
    """Cues before capitalised words do not take the words of a text that is all in capitals."""
    text = "You are a clerk speaking with customers who run on trains. Help people. The model is old."
    assert digest(text.upper()) == digest(text)


def test_parts_are_one_text() -> None:
    """How a client divides the system text into messages and blocks does not matter."""
    assert digest("You are a poet.", "Write odes.") == digest("You are a poet.\n\nWrite odes.")


def test_blank_text_has_no_fingerprint() -> None:
    """No text, no fingerprint: such a call is attributed by the next tier."""
    assert [fingerprint.of(blank) for blank in ((), ("",), (" \n", "\t"))] == [None, None, None]


VARIANTS = {
    "date": (
        "You are a tax adviser. Today is {}. Cite the law.",
        [
            "November 22, 2026",
            "22.11.2026",
            "2026-11-22",
            "22 November 2026",
            "11/22/26",
            "Sunday, Nov 22nd, 2026",
            "Monday",
        ],
    ),
    "time": (
        "You plan trips. The current time is {}. Be quick.",
        ["10:30", "10:30 AM PST", "2026-11-22T10:00:00Z", "2026-11-22 10:00:00.123+02:00", "22.11.2026, 14:05 UTC+2"],
    ),
    "user name": (
        "You are a bank clerk. The user's name is {}. Greet them.",
        ["Maria", "John Smith", "Xiulan Okonkwo", "Ludwig van Beethoven", "Dr. Ann O'Neill"],
    ),
    "talking to": ("You are a bank clerk. You are talking to {}. Be kind.", ["Maria", "John Smith", "Xiulan Okonkwo"]),
    "served": ("You are the personal assistant of {}. Be kind.", ["John Smith (john@x.com)", "Xi Wu (x.wu@y.co.uk)"]),
    "his name": ("You are a bank clerk. His name is {}. Be kind.", ["Juan", "John Smith", "Xiulan Okonkwo"]),
    "possessive": ("You are {}'s travel planner.", ["Maria", "Ahmed"]),
    "greeting": ("Hello {}, how are you?\nYou are a friendly chef.", ["Maria", "Xiulan"]),
    "introduced": ("You are a clerk.\n{} is a premium customer. Be kind.", ["Maria Lopez", "Xiulan Okonkwo"]),
    "e-mail": (
        "You answer letters. Reply to {} at once.",
        ["john@x.com", "mary.ann+7@sub.example.co.uk", "jürgen@müller.de"],
    ),
    "uuid": (
        "You audit sessions. The session is {} now.",
        [
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "0e02b2c3-aaaa-bbbb-cccc-ddddeeeeffff",
            "DEADBEEF-58CC-4372-A567-0E02B2C3D479",
        ],
    ),
    "id": ("You track parcels. Look at cust_{} first.", ["8Fh2kLqX", "HbQkTrWz", "42"]),
    "order": ("You track parcels. Look at ORD-{} first.", ["12345", "9"]),
    "hash": ("You track builds of {} only.", ["da39a3ee5e6b4b0d3255bfef95601890afd80709", "0123456789abcdef"]),
    "number": ("You sell {} tickets at {} each.", ["7", "1,234.56", "1 234,56"]),
    "money": ("You pay out {} today.", ["$45.20", "45.20 EUR", "€7", "1,000 USD"]),
    "url": ("You read {} aloud.", ["https://x.com/a?b=1#c", "http://localhost:8080/", "www.example.org/path"]),
    "ip": ("You watch the host {} closely.", ["10.0.0.1", "192.168.100.254", "2001:db8::8a2e:370:7334"]),
    "phone": ("You call {} back.", ["+1 (555) 123-4567", "+49 30 123456", "555-0100"]),
    "path": ("You edit {} only.", ["/home/joe/notes.txt", "C:\\Users\\ann\\notes.txt", "~/a/b.md"]),
    "blob": ("You decode {} for fun.", ["aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"]),
    "locale": ("You are a clerk.\nLocale: {}\nBe kind.", ["en-US", "de-DE", "zh-Hant-TW"]),
    "language": ("You are a clerk. Respond in {}.", ["German", "Brazilian Portuguese"]),
    "time zone": ("You are a clerk.\nTimezone: {}\nBe kind.", ["Europe/Berlin", "America/New_York", "UTC"]),
    "profile": ("You are a clerk.\nUser: {}\nPlan: {} plan\nBe kind.", ["Ann Lee", "joe", "joe@x.com"]),
    "json": ('You are a clerk. {{"name": "{}", "age": 3}}', ["Ann Lee", "Joe", 'a \\"b\\" c']),
    "context": ("You are a clerk. <context>{}</context> Be kind.", ["Cats purr.", "Dogs <b>bark</b>.\n\nA lot."]),
    "documents": (
        "You cite. <retrieved_documents>{}</retrieved_documents>",
        ["<doc>a b</doc>", "<doc>c</doc><doc>d</doc>"],
    ),
    "fence": ("You cite.\nContext:\n```\n{}\n```\nBe kind.", ["Cats purr.", "Dogs bark.\nA lot."]),
    "model": ("You are a chef. You run on {} now.", ["gpt-4o", "claude-3-5-sonnet-20241022", "gemini-2.5-pro"]),
    "learned": ("The customer is called {0}. You are a chef. Ask {0} what they like.", ["Xiulan", "Bo Ek"]),
    "German": (
        "Du bist Steuerberater. Heute ist {}. Sei kurz.",
        ["Sonntag, der 22. November 2026", "Montag, der 3. März 2025"],
    ),
    "German name": ("Du bist Koch. Der Name des Kunden ist {}.", ["Hans Müller", "Jörg"]),
    "French": ("Vous êtes conseiller. Nous sommes le {}.", ["22 novembre 2026", "3 août 2025"]),
    "Spanish": (
        "Eres asesor. Hoy es {}. Usuario: Ana",
        ["domingo 22 de noviembre de 2026", "lunes 3 de marzo de 2025"],
    ),
    "Chinese": ("你是客服助手。今天是{}。用户姓名：王小明。", ["2026年11月22日星期日", "2025年1月3日"]),
    "Chinese name": ("你是客服助手。用户姓名：{}。请帮忙。", ["王小明", "李雷"]),
    "Japanese": ("あなたは請求サポートです。今日は{}です。", ["2026年11月22日(日)", "2025年1月3日(金)"]),
    "Arabic": ("أنت مساعد الفواتير. اليوم {}.", ["٢٢ نوفمبر ٢٠٢٦", "٣ مارس ٢٠٢٥"]),
    "Hindi": ("आप एक सहायक हैं। आज {} है।", ["22 नवंबर 2026", "३ मार्च २०२५"]),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_fp_masks(kind: str) -> None:
    """Texts that differ in a value of one kind are one template, under one name, and the template's words count."""
    template, values = VARIANTS[kind]
    found = {fingerprint.of((template.format(value, value),)) for value in values}
    assert len(found) == 1
    other = template.replace("You", "Never you", 1) if "You" in template else f"{template} 2x no"
    assert digest(other.format(values[0], values[0])) != next(iter(found)).digest  # type: ignore[union-attr]


def test_instructions_in_tags_are_the_template() -> None:
    """A tag hides data only: a prompt written in tags is its own template, and so is a role in a "context" tag."""
    texts = [
        f"<{tag}>You are a {job}.</{tag}><instructions>Be {mood}.</instructions>"
        for tag in ("role", "context")
        for job in ("cook", "nurse")
        for mood in ("brief", "thorough")
    ]
    assert len({digest(text) for text in texts}) == len(texts)
    assert digest('{"role": "You are a cook"}') != digest('{"role": "You are a nurse"}')
    assert digest("```\nYou are a cook\n```") != digest("```\nYou are a nurse\n```")


ROLES_APART = [
    "You are a C tutor.",
    "You are a C++ tutor.",
    "You are a C# tutor.",
    "You are a Level 1 support agent.",
    "You are a Level 2 support agent.",
    "You are an ISO 27001 auditor.",
    "You are an ISO 9001 auditor.",
    "You are a 2D artist.",
    "You are a 3D artist.",
    "You are a B2B seller.",
    "You are a B2C seller.",
    "You are a support agent for Acme.",
    "You are a support agent for Globex.",
    "You are an assistant for Visual Studio.",
    "You are an assistant for Google Sheets.",
    "You are Ava, the front desk.",
    "You are Ben, the front desk.",
    "Name: Billing Agent",
    "Name: Refund Agent",
    "Translate to German.",
    "Translate to French.",
    "You write in the style of Jane Austen.",
    "You write in the style of Ernest Hemingway.",
    "You schedule meetings on Mondays.",
    "You schedule meetings on Fridays.",
    "You speak as a March hare.",
    "You speak as a May queen.",
    "तुम कवि हो",
    "तुम किव हो",
    "你是律师",
    "你是诗人",
    "🐱",
    "🐶",
    "???",
    "!!!",
]


def test_fp_roles() -> None:
    """Different roles are different agents, whatever they share."""
    met = [pair for pair in itertools.combinations(ROLES_APART, 2) if digest(pair[0]) == digest(pair[1])]
    assert met == []
    boilerplate = "\n".join(f"- Rule {n}: follow all of the steps, and output Markdown only." for n in range(200))
    assert digest(f"You are a cook.\n{boilerplate}") != digest(f"You are a nurse.\n{boilerplate}")
    assert digest(f"{boilerplate}\nSort them.") != digest(f"{boilerplate}\nCount them.")


@pytest.mark.skipif(not ROLES.is_dir(), reason="the folder of real prompts is not here")
def test_fp_roles_of_real_prompts() -> None:
    """Every prompt of a folder of real ones with much common boilerplate is an agent of its own."""
    prompts = [path.read_text("utf-8") for path in sorted(ROLES.glob("*.md"))]
    assert len({digest(prompt) for prompt in prompts}) == len(prompts) > 50


def test_fp_short() -> None:
    """Prompts of a few words are templates like any other."""
    short = [
        "You are a poet.",
        "You are a lawyer.",
        "Be brief.",
        "Be bold.",
        "Poet",
        "Answer in JSON.",
        "Count to ten.",
    ]
    assert len({digest(text) for text in short}) == len(short)
    assert digest("You are a poet.") == digest("you are a  POET")


def test_fp_words() -> None:
    """Words that are also names of models, months or people are words: only a model's id with its version is masked."""
    animals = ["llama", "alpaca", "falcon", "claude", "gemini", "command", "may", "march", "mark", "will", "ruby"]
    assert len({digest(f"You are an expert on {animal} care.") for animal in animals}) == len(animals)
    name = fingerprint.of(("You are a llama care expert.",))
    assert name is not None
    assert name.name == "Llama care expert"


def test_stored_prompt() -> None:
    """A prompt that the provider stores is its id; a new version of it is the same agent."""
    first = fingerprint.of_stored("pmpt_68a1b2c3d4e5f6", "1")
    assert first == fingerprint.of_stored("pmpt_68a1b2c3d4e5f6", "2") == fingerprint.of_stored(" pmpt_68a1b2c3d4e5f6")
    assert first.digest != fingerprint.of_stored("pmpt_other").digest
    assert first.digest != digest("pmpt_68a1b2c3d4e5f6")
    assert first.name == "Prompt pmpt_68a1b2c3d4…"


def test_digest_is_the_same_everywhere() -> None:
    """A digest is 32 hex digits that never change: other processes, hash seeds and releases must agree on them."""
    texts = (BILLING, "你是客服助手。今天是2026年11月22日。", "Hello Maria, it is 10:30. You are a poet.")
    script = "import sys; from egisai import fingerprint as f; print([f.of((t,)).digest for t in eval(sys.argv[1])])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, repr(texts)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {repr([digest(text) for text in texts])}
    assert digest("You are a poet.") == PINNED


PINNED = "c9584ed6878cc10ef24bf73e134db5db"


def test_masks_cannot_be_forged() -> None:
    """The character that stands for a masked value has no meaning in a text."""
    assert digest("You are a poet on \x1a leave") == digest("You are a poet on leave")
    assert digest("You sell 7 cars") != digest("You sell \x1a cars")


def test_any_text_is_accepted() -> None:
    """Half surrogates, zero bytes, nothing but marks or masks: a digest, never an exception."""
    for text in ("\ud800", "\x00", "\x1a", "12", "<context>x</context>", "\u0301", "```", "\U0010ffff", "\u200b"):
        assert fingerprint.of((text,)) is not None or not text.strip("\u200b\x1a\x00")
