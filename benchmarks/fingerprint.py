"""What a fingerprint costs and how well it finds the agent, beside the usual way: SHA-256 of the prompt with its
whitespace normalised.

    python benchmarks/fingerprint.py [--prompts FOLDER] [--no-quality | --no-cost]

Quality is pairwise. For each kind of variation every prompt is rendered several times. Of all pairs of texts of the
same prompt, recall is the share with one digest; of all pairs with one digest, precision is the share from one prompt.
Half of the prompts, chosen by a hash of their names, are held out: nothing in the code may be tuned on them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from egisai import fingerprint

VARIANTS = 6
"""Renderings of one prompt per kind."""

OWN_PROMPTS = {
    "billing": "You are the billing agent of a shop.\n\nExplain invoices; refund what was paid twice.\n\n- Be kind.",
    "shipping": "You are the shipping agent of a shop.\n\nSay where parcels are; send lost ones again.\n\n- Be kind.",
    "triage": "# Role\nYou sort tickets into billing, shipping and other.\n\n# Output\nOne word, in lower case.",
    "poet": "You are a poet.",
    "lawyer": "You are a lawyer.",
    "planner": "You plan the work of other agents. Give a numbered list of steps, one tool for each step, and no more.",
    "reviewer": "Review the change as a senior engineer would. Name defects only, with the line and a way to fix each.",
    "summary": "Summarise the conversation for the next agent: what was asked, what was done, and what is still open.",
    "steuern": "Du bist ein Steuerberater. Antworte knapp, nenne den Paragrafen, und rate im Zweifel zum Gespräch.",
    "support_fr": "Vous êtes un conseiller du service client. Répondez poliment et proposez toujours une solution.",
    "ventas": "Eres un asistente de ventas. Recomienda solo productos del catálogo y explica por qué.",
    "kefu": "你是一名客服助手。请用简洁的语言回答客户的问题，并在需要时转接人工客服。",  # noqa: RUF001
}
"""Used where no folder is given."""

PEOPLE = (
    ("Maria Lopez", "maria@example.com"),
    ("John Smith", "john.smith@mail.example.org"),
    ("Xiulan Okonkwo", "xo77@x.io"),
    ("Jürgen Weiß", "weiss@firma.example.de"),
    ("Aisha Khan", "aisha+work@y.co.uk"),
    ("Bo Ek", "bo@z.se"),
)
DATES = ("2026-11-22", "November 22, 2026", "Monday, March 3rd, 2025", "22.11.2026", "1/2/27", "7 May 2025")
TIMES = ("10:30", "2:05 PM", "23:59:59", "9am", "14:00 UTC", "07:15 CET")
LOCALES = (
    ("en-US", "America/New_York", "English"),
    ("de-DE", "Europe/Berlin", "German"),
    ("fr", "Europe/Paris", "French"),
    ("pt-BR", "America/Sao_Paulo", "Portuguese"),
    ("ja-JP", "Asia/Tokyo", "Japanese"),
    ("es-MX", "America/Mexico_City", "Spanish"),
)
MODELS = ("gpt-4o-2024-08-06", "claude-3-5-sonnet-20241022", "gemini-2.5-pro", "o3-mini", "llama-3.1-70b", "gpt-5")
NOUNS = (
    "invoice",
    "harbour",
    "engine",
    "garden",
    "museum",
    "contract",
    "river",
    "battery",
    "orchestra",
    "tax",
    "passport",
    "sensor",
    "bakery",
    "glacier",
)
VERBS = (
    "explains",
    "replaces",
    "measures",
    "opens",
    "supports",
    "delays",
    "describes",
    "improves",
    "protects",
    "follows",
)
PLANS = ("free plan", "pro plan since 2021", "enterprise plan, 400 seats", "trial", "family plan", "student plan")
LIKES = ("hiking and jazz", "short answers", "metric units", "tea", "long walks, chess", "early mornings")


def passage(rng: random.Random, sentences: int) -> str:
    """Text such as a retriever would insert."""
    return " ".join(
        f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} near the {rng.choice(NOUNS)}."
        for _ in range(sentences)
    )


def example(rng: random.Random) -> str:
    return f"User: What about the {rng.choice(NOUNS)}?\nAssistant: {passage(rng, 1)}"


def insert(prompt: str, text: str) -> str:
    """The text as a paragraph of its own after the first one."""
    head, gap, tail = prompt.partition("\n\n")
    return f"{head}\n\n{text}{gap}{tail}"


def rewrap(prompt: str, n: int) -> str:
    if n == 0:
        return " ".join(prompt.split())
    if n == 1:
        return prompt.replace("\n", "\r\n\r\n").replace(" ", "  ")
    return "\n\n".join(textwrap.fill(part, 40 + 15 * n) for part in prompt.split("\n\n"))


KINDS: dict[str, Callable[[str, int, random.Random], str]] = {
    "dates": lambda p, n, _: f"Today is {DATES[n]}, {TIMES[n]}.\n\n{p}",
    "users": lambda p, n, _: f"{p}\n\nYou are talking to {PEOPLE[n][0]} ({PEOPLE[n][1]}).",
    "user in a field": lambda p, n, _: insert(p, f"Customer name: {PEOPLE[n][0]}\nE-mail: {PEOPLE[n][1]}"),
    "numbers, ids": lambda p, n, r: insert(
        p, f"Ticket {r.randrange(10**n, 10**6)}, order ORD-{r.randrange(10**6)}, {r.getrandbits(128):032x}."
    ),
    "retrieved, tagged": lambda p, n, r: f"{p}\n\n<documents>\n{passage(r, n + 1)}\n</documents>",
    "retrieved, headed": lambda p, n, r: f"{p}\n\nContext:\n{passage(r, n + 1)}",
    "retrieved, bare": lambda p, n, r: insert(p, passage(r, n + 1)),
    "few-shot examples": lambda p, n, r: f"{p}\n\nExamples:\n" + "\n\n".join(example(r) for _ in range(n + 1)),
    "locale": lambda p, n, _: f"{p}\n\nLocale: {LOCALES[n][0]}\nTimezone: {LOCALES[n][1]}\nRespond in {LOCALES[n][2]}.",
    "model names": lambda p, n, _: f"{p}\n\nYou are running on {MODELS[n]}.",
    "profile, fields": lambda p, n, _: f"{p}\n\nUser: {PEOPLE[n][0]}\nPlan: {PLANS[n]}\nInterests: {LIKES[n]}",
    "profile, prose": lambda p, n, _: f"{p}\n\n{PEOPLE[n][0]} is on the {PLANS[n]} and likes {LIKES[n]}.",
    "whitespace": lambda p, n, _: rewrap(p, n),
    "case, typography": lambda p, n, _: (p, p.upper(), p.lower(), p.replace("'", "’"), f"**{p}**", f"\ufeff{p}")[n],  # noqa: RUF001
    "tail cut off": lambda p, n, _: p[: len(p) - n * len(p) // 50],
    "tail extended": lambda p, n, r: f"{p}\n\n{passage(r, n)}",
}


def whitespace_sha256(prompt: str) -> str:
    """The peer: an exact digest, as others take of a system prompt."""
    return hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()


def egis(prompt: str) -> str:
    found = fingerprint.of((prompt,))
    return found.digest if found else ""


def quality(rendered: Sequence[Sequence[str]], digest: Callable[[str], str]) -> tuple[float, float]:
    """Pairwise precision and recall of a digest over groups of texts that should each have one."""
    groups = [Counter(map(digest, texts)) for texts in rendered]
    together = sum(count * (count - 1) // 2 for group in groups for count in group.values())
    wanted = sum(len(texts) * (len(texts) - 1) // 2 for texts in rendered)
    everywhere: Counter[str] = sum(groups, Counter())
    claimed = sum(count * (count - 1) // 2 for count in everywhere.values())
    return together / claimed if claimed else 1.0, together / wanted


def render(prompts: dict[str, str], kind: str) -> list[list[str]]:
    vary = KINDS[kind]
    return [
        [vary(text, n, random.Random(f"{name} {kind} {n}")) for n in range(VARIANTS)] for name, text in prompts.items()
    ]


def print_quality(prompts: dict[str, str]) -> None:
    held_out = {name for name in prompts if hashlib.sha256(name.encode()).digest()[0] % 2}
    halves = {
        "seen in development": {name: text for name, text in prompts.items() if name not in held_out},
        "held out": {name: text for name, text in prompts.items() if name in held_out},
    }
    for half, members in halves.items():
        print(f"\n{len(members)} prompts {half}, {VARIANTS} renderings per kind")
        print(f"{'':22}{'Egis':>22}{'SHA-256':>22}")
        print(f"{'kind':22}{'precision':>12}{'recall':>10}{'precision':>12}{'recall':>10}")
        mixed: list[list[str]] = [[] for _ in members]
        for kind in KINDS:
            rendered = render(members, kind)
            for texts, more in zip(mixed, rendered, strict=True):
                texts.extend(more)
            print_row(kind, rendered)
        print_row("all kinds together", mixed)


def print_row(kind: str, rendered: Sequence[Sequence[str]]) -> None:
    figures = itertools.chain(quality(rendered, egis), quality(rendered, whitespace_sha256))
    print(
        f"{kind:22}" + "".join(f"{figure:>{width}.3f}" for figure, width in zip(figures, (12, 10, 12, 10), strict=True))
    )


def best_us(job: Callable[[str], object], texts: Iterator[str], times: int) -> float:
    """The least of several single runs, in microseconds: what the machine's other work adds is not the job's."""
    least = float("inf")
    for _ in range(times):
        text = next(texts)
        start = time.perf_counter_ns()
        job(text)
        least = min(least, time.perf_counter_ns() - start)
    return least / 1_000


def print_cost(prompts: dict[str, str]) -> None:
    corpus = "\n\n".join(prompts.values())
    words = (corpus + "\n").split(" ")
    while len(words) < 21_000:
        words += words
    long = " ".join(words)
    while len(long.split()) > 20_000:
        long = long[: len(long) * 20_000 // len(long.split())]
    short = (corpus + corpus)[:600]
    print(f"\nmicroseconds, least of many runs; short: {len(short)} characters, ", end="")
    print(f"long: {len(long.split()):,} words, {len(long):,} characters")
    print(f"{'':28}{'Egis short':>12}{'long':>12}{'SHA-256 short':>16}{'long':>12}")
    jobs: dict[str, tuple[Callable[[str], Iterator[str]], bool]] = {
        "first sight": (lambda text: (f"{text} {n}x" for n in itertools.count()), True),
        "seen, the same object": (itertools.repeat, False),
        "seen, rendered anew": (lambda text: (text[:-1] + text[-1:] for _ in itertools.count()), False),
    }
    for what, (texts_of, forget) in jobs.items():
        row: list[float] = []
        for digest in (egis, whitespace_sha256):
            for text, times in ((short, 300), (long, 15)):
                if forget:
                    fingerprint.clear()
                digest(text)
                row.append(best_us(digest, texts_of(text), times))
        print(f"{what:28}{row[0]:>12.2f}{row[1]:>12.2f}{row[2]:>16.2f}{row[3]:>12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost and quality of prompt fingerprints.")
    default = Path(__file__).parents[2] / "shared" / "prompts"
    parser.add_argument("--prompts", type=Path, default=default if default.is_dir() else None)
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--no-cost", action="store_true")
    options = parser.parse_args()
    prompts = dict(OWN_PROMPTS)
    if options.prompts is not None:
        files = sorted(
            path for path in options.prompts.rglob("*") if path.suffix in (".md", ".txt") and path.stem != "README"
        )
        prompts |= {path.stem: path.read_text("utf-8") for path in files}
    if not options.no_cost:
        print_cost(prompts)
    if not options.no_quality:
        print_quality(prompts)


if __name__ == "__main__":
    main()
