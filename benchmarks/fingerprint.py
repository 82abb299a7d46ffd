"""How well prompts find their agents, and what a fingerprint costs, beside the usual way: SHA-256 of the prompt with
its whitespace normalised.

    python benchmarks/fingerprint.py [--only cost|quality|processes|streams ...] [--half shared|dev|second|heldout ...]
                                     [--failures N] [--prompts FOLDER]

Quality is pairwise and measures agents, as a user gets them: the renderings of many prompts arrive shuffled at one
fresh `Attribution`. Of all pairs of texts of one prompt, recall is the share that got one agent; of all pairs that got
one agent, precision is the share from one prompt. Texts that are equal to the letter count once.

At first sight a prompt has the agent that it is counted under when it arrives. In the end, some agents turned out to be
one: their ids are aliases then, as the platform shows them.

The prompts, and what is inserted into them, are described in `prompts/README.md`. Code is tuned on `dev`, `second` and
the shared prompts only; `--failures` says nothing about `heldout`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import multiprocessing
import random
import re
import sys
import tempfile
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from egisai import fingerprint
from egisai.attribution import Attribution, Sighting
from egisai_platform.metadata import Metadata
from egisai_platform.registry import Registry
from egisai_platform.registry import Sighting as Announced

VARIANTS = 6
"""Renderings of one prompt per kind of variation."""

SEEDS = (1, 2, 3)
"""Orders in which the renderings arrive; figures are over all of them."""

PROMPTS = Path(__file__).parent / "prompts"
SHARED = Path(__file__).parents[2] / "shared" / "prompts"


# --- the material -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """Prompts and what is inserted into them.

    Attributes:
        name: `dev`, `second`, `heldout` or `shared`.
        roles: prompts by name, each an agent.
        families: by name, prompts of different agents with most of their text in common, by name.
        inserts: by kind, texts or lines.
    """

    name: str
    roles: dict[str, str]
    families: dict[str, dict[str, str]]
    inserts: dict[str, list[str]]

    def members(self) -> dict[str, str]:
        """The prompts of all families, named `family/member`."""
        return {f"{family}/{name}": text for family, texts in self.families.items() for name, text in texts.items()}


def sections(text: str, mark: str) -> dict[str, str]:
    """What follows each line `mark name`, by name; what precedes the first one under the empty name."""
    before, *rest = re.split(rf"^{mark} (.+)\n", text, flags=re.MULTILINE)
    found = {"": before.strip("\n")}
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = body.strip("\n")
    return found


def file_sections(path: Path) -> dict[str, str]:
    found = sections(path.read_text("utf-8"), "===")
    del found[""]  # a comment
    return found


def family(text: str) -> dict[str, str]:
    """The members: whole texts, or values for the slots {{1}}, {{2}}... of the text before them, divided by `..`."""
    members = sections(text, "---")
    base = members.pop("")
    if base:
        for name, values in members.items():
            member = base
            for number, value in enumerate(re.split(r"\n\.\.\n", values), 1):
                member = member.replace(f"{{{{{number}}}}}", value)
            members[name] = member
    return members


def half(name: str) -> Half:
    """The half of that name of our own prompts."""
    folder = PROMPTS / name
    inserts: dict[str, list[str]] = {}
    for kind, body in file_sections(folder / "inserts.txt").items():
        texts = sections(body, "---")
        lines = texts.pop("").splitlines()
        inserts[kind] = list(texts.values()) or [line.replace(r"\n", "\n") for line in lines]
    families = {family_name: family(body) for family_name, body in file_sections(folder / "families.txt").items()}
    return Half(name, file_sections(folder / "roles.txt"), families, inserts)


def shared(folder: Path) -> Half:
    """Other people's prompts, each file an agent, with the inserts of `dev`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".txt") and path.stem != "README")
    return Half("shared", {path.stem: path.read_text("utf-8") for path in files}, {}, half("dev").inserts)


# --- variations: what differs between two renderings of one prompt ----------------------------------------------------

Inserts = Mapping[str, Sequence[str]]


class Draw(NamedTuple):
    """What decides a rendering.

    Attributes:
        n: which of the prompt's renderings in this kind, from 0.
        frame: draws what the application's author wrote once: the place, the wording and the form of what is inserted.
        data: draws what differs from call to call.
        inserts: the texts to insert.
    """

    n: int
    frame: random.Random
    data: random.Random
    inserts: Inserts

    def form(self, kind: str) -> str:
        """A wording of that kind."""
        return self.frame.choice(self.inserts[kind])


Vary = Callable[[str, Draw], str]


def paragraphs(prompt: str) -> list[str]:
    return re.split(r"\n{2,}", prompt)


def at_head(prompt: str, text: str) -> str:
    return f"{text}\n\n{prompt}"


def at_tail(prompt: str, text: str) -> str:
    return f"{prompt}\n\n{text}"


def on_next_line(prompt: str, text: str) -> str:
    return f"{prompt}\n{text}"


def after_first(prompt: str, text: str) -> str:
    first, *rest = paragraphs(prompt)
    return "\n\n".join((first, text, *rest))


def before_last(prompt: str, text: str) -> str:
    *rest, last = paragraphs(prompt)
    return "\n\n".join((*rest, text, last) if rest else (last, text))


def in_the_middle(prompt: str, text: str) -> str:
    """Between two bullets or paragraphs, whichever there are."""
    bullets = [found.start() for found in re.finditer(r"^[-*•] ", prompt, re.MULTILINE)]
    if len(bullets) > 2:
        at = bullets[len(bullets) // 2]
        return f"{prompt[:at]}\n{text}\n\n{prompt[at:]}"
    parts = paragraphs(prompt)
    return "\n\n".join((*parts[: (len(parts) + 1) // 2], text, *parts[(len(parts) + 1) // 2 :]))


PLACES = (at_tail, after_first, before_last, in_the_middle, at_head, on_next_line)


def put(prompt: str, draw: Draw, text: str) -> str:
    return draw.frame.choice(PLACES)(prompt, text)


def fill(form: str, **values: str) -> str:
    """The form with `{name}` replaced by values; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), form)


def under(lead: str, *lines: str) -> str:
    """The lines below a line that leads to them, where there is one; in its tag, where it is one."""
    if lead == "(none)":
        return "\n".join(lines)
    return "\n".join((lead, *lines, lead.replace("<", "</")) if lead.startswith("<") else (lead, *lines))


def retrieved(*kinds: str, dress: str = "") -> Vary:
    """One to four of the passages of these kinds, as a retriever would insert them, dressed by a form of that kind."""

    def vary(prompt: str, draw: Draw) -> str:
        texts = draw.data.sample([text for kind in kinds for text in draw.inserts[kind]], 1 + draw.n % 4)
        form = draw.form("passage forms")
        chunks = [fill(form, n=str(n), text=text, line=" ".join(text.split())) for n, text in enumerate(texts, 1)]
        text = "\n".join(chunks).strip()
        return put(prompt, draw, fill(draw.form(dress), text=text) if dress else text)

    return vary


def examples(prompt: str, draw: Draw) -> str:
    pairs = [line.split(" => ") for line in draw.data.sample(draw.inserts["examples"], 1 + draw.n)]
    form = draw.form("example forms")
    lines = [fill(form, n=str(n), q=question, a=answer) for n, (question, answer) in enumerate(pairs, 1)]
    return put(prompt, draw, under(draw.form("example leads"), *lines))


def person(draw: Draw) -> dict[str, str]:
    """Somebody, by the fields that the half's people have."""
    fields, *people = (line.split(" | ") for line in draw.inserts["people"])
    return dict(zip(fields, draw.data.choice(people), strict=True))


def profile_fields(prompt: str, draw: Draw) -> str:
    form = draw.form("field forms")
    lines = [fill(form, key=key, value=value) for key, value in person(draw).items()]
    return put(prompt, draw, under(draw.form("profile leads"), *lines))


def profile_prose(prompt: str, draw: Draw) -> str:
    return put(prompt, draw, draw.data.choice(draw.inserts["profiles"]))


def memories(prompt: str, draw: Draw) -> str:
    lines = draw.data.sample(draw.inserts["memories"], 1 + draw.n)
    form = draw.form("memory forms")
    return put(prompt, draw, under(draw.form("memory leads"), *(fill(form, text=line) for line in lines)))


def conversation(prompt: str, draw: Draw) -> str:
    return put(prompt, draw, under(draw.form("summary leads"), draw.data.choice(draw.inserts["summaries"])))


def tools(prompt: str, draw: Draw) -> str:
    chosen = [line.split(" | ") for line in draw.data.sample(draw.inserts["tools"], 2 + draw.n)]
    form = draw.form("tool forms")
    lines = [fill(form, name=name, args=args, does=does) for name, args, does in chosen]
    return put(prompt, draw, under(draw.form("tool leads"), *lines))


def block(kind: str) -> Vary:
    """One of the kind's texts, as it is."""
    return lambda prompt, draw: put(prompt, draw, draw.data.choice(draw.inserts[kind]))


def dates(prompt: str, draw: Draw) -> str:
    date, time_of_day = draw.inserts["dates"][draw.n].split(" | ")
    line = fill(draw.form("date lines"), date=date, time=time_of_day)
    return draw.frame.choice((at_head, at_tail, after_first))(prompt, line)


def users(prompt: str, draw: Draw) -> str:
    who = person(draw)
    line = fill(draw.form("user lines"), name=who["Name"], mail=who["Email"])
    return draw.frame.choice((at_tail, after_first))(prompt, line)


def ids(prompt: str, draw: Draw) -> str:
    number, order, key = draw.data.randrange(10**draw.n, 10**6), draw.data.randrange(10**6), draw.data.getrandbits(128)
    return after_first(prompt, f"Ticket {number}, order ORD-{order}, {key:032x}.")


def models(prompt: str, draw: Draw) -> str:
    return at_tail(prompt, fill(draw.form("model lines"), model=draw.inserts["models"][draw.n]))


def whitespace(prompt: str, draw: Draw) -> str:
    if draw.n == 0:
        return " ".join(prompt.split())
    if draw.n == 1:
        return prompt.replace("\n", "\r\n\r\n").replace(" ", "  ")
    return "\n\n".join(textwrap.fill(part, 40 + 15 * draw.n) for part in paragraphs(prompt))


def typography(prompt: str, draw: Draw) -> str:
    return (
        prompt,
        prompt.upper(),
        prompt.lower(),
        prompt.replace("'", "’"),  # noqa: RUF001
        f"**{prompt}**",
        f"\ufeff{prompt}",
    )[draw.n]


def cut_off(prompt: str, draw: Draw) -> str:
    """Up to a tenth cut off its end, as a limit does; short prompts meet no limit."""
    return prompt[: len(prompt) - draw.n * len(prompt) // 50] if len(prompt) > 600 else prompt


def several(prompt: str, draw: Draw) -> str:
    """What an application in use puts together: somebody, the date, memories, passages."""
    parts = (dates, users, profile_fields, memories, conversation, retrieved("help", "faq"), locale)
    for vary in draw.frame.sample(parts, 3):
        prompt = vary(prompt, draw)
    return prompt


locale = block("locale")

PASSAGES = ("help", "faq", "legal", "news", "products", "tables and code", "messages", "other languages")

KINDS: dict[str, Vary] = {
    "dates": dates,
    "users": users,
    "numbers, ids": ids,
    "model names": models,
    "whitespace": whitespace,
    "case, typography": typography,
    "tail cut off": cut_off,
    "retrieved, tagged": retrieved(*PASSAGES, dress="tagged forms"),
    "retrieved, headed": retrieved(*PASSAGES, dress="headed forms"),
    **{f"retrieved: {kind}": retrieved(kind) for kind in PASSAGES},
    "few-shot examples": examples,
    "profile, fields": profile_fields,
    "profile, prose": profile_prose,
    "memories": memories,
    "conversation summary": conversation,
    "tools": tools,
    "locale": locale,
    "feature flags": block("flags"),
    "several at once": several,
}
SLIGHT = ("dates", "users", "numbers, ids", "whitespace")
"""Kinds that leave the text nearly as it was written."""

OF_FAMILIES = [kind for kind in KINDS if kind != "tail cut off"]
"""Where members differ in the tail, cutting it off makes them one text."""


class Rendering(NamedTuple):
    """A text as it reaches a provider: of which prompt, varied how."""

    prompt: str
    kind: str
    text: str


def render(prompts: Mapping[str, str], inserts: Inserts, kinds: Iterable[str]) -> list[Rendering]:
    """Every prompt in every kind of variation, the same in every run; no text twice for one prompt."""
    found: dict[tuple[str, str], Rendering] = {}
    for (name, prompt), kind, n in itertools.product(prompts.items(), kinds, range(VARIANTS)):
        draw = Draw(n, random.Random(f"{name} {kind}"), random.Random(f"{name} {kind} {n}"), inserts)
        text = KINDS[kind](prompt, draw)
        found.setdefault((name, text), Rendering(name, kind, text))
    return list(found.values())


# --- agents of texts --------------------------------------------------------------------------------------------------

_fingerprints: dict[str, fingerprint.Fingerprint] = {}


def fingerprint_of(text: str) -> fingerprint.Fingerprint:
    """What a process thinks of the text, computed once: a fingerprint depends on nothing but the text."""
    if text not in _fingerprints:
        found = fingerprint.of((text,))
        if found is None:
            raise ValueError("a prompt without text")
        _fingerprints[text] = found
    return _fingerprints[text]


def egis(renderings: Sequence[Rendering], seed: int) -> tuple[list[str], list[str]]:
    """The agent of each, when they reach one fresh process in an order of the seed's: at first sight and in the end."""
    under: dict[str, str] = {}

    def on_sighting(sighting: Sighting) -> None:
        if sighting.under is not None:
            under[sighting.identity.id] = sighting.under

    found = agents(Attribution(on_sighting=on_sighting), renderings, seed)
    return found, [leader(under, agent) for agent in found]


def leader(under: Mapping[str, str], agent: str) -> str:
    while agent in under:
        agent = under[agent]
    return agent


def agents(attribution: Attribution, renderings: Sequence[Rendering], seed: int) -> list[str]:
    found = [""] * len(renderings)
    for at in random.Random(seed).sample(range(len(renderings)), len(renderings)):
        found[at] = attribution.prompted(fingerprint_of(renderings[at].text)).id
    return found


def whitespace_sha256(prompt: str) -> str:
    """The peer: an exact digest, as others take of a system prompt."""
    return hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()


def peer(renderings: Sequence[Rendering]) -> list[str]:
    return [whitespace_sha256(rendering.text) for rendering in renderings]


class Score(NamedTuple):
    """Pairs of renderings: of one prompt and with one agent, with one agent, of one prompt."""

    right: int = 0
    claimed: int = 0
    wanted: int = 0

    def plus(self, other: Score) -> Score:
        return Score(*map(sum, zip(self, other, strict=True)))

    def __str__(self) -> str:
        precision = self.right / self.claimed if self.claimed else 1.0
        recall = self.right / self.wanted if self.wanted else 1.0
        return f"{precision:>11.4f}{recall:>9.4f}"


def pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def score(renderings: Sequence[Rendering], found: Sequence[str]) -> Score:
    owners = [rendering.prompt for rendering in renderings]
    return Score(
        pairs(Counter(zip(owners, found, strict=True)).values()),
        pairs(Counter(found).values()),
        pairs(Counter(owners).values()),
    )


class Stream(NamedTuple):
    """Renderings and the agents they got.

    Attributes:
        renderings: in no particular order.
        orders: the agents of the renderings when they arrived in one order, at first sight, for each of `SEEDS`.
        ends: the same in the end.
        exact: what the peer says of the renderings, in whichever order.
    """

    renderings: Sequence[Rendering]
    orders: Sequence[Sequence[str]]
    ends: Sequence[Sequence[str]]
    exact: Sequence[str]

    def of(self, prompts: Container[str]) -> Stream:
        """What became of these prompts among all of them."""
        kept = [at for at, rendering in enumerate(self.renderings) if rendering.prompt in prompts]
        return Stream(
            [self.renderings[at] for at in kept],
            [[found[at] for at in kept] for found in self.orders],
            [[found[at] for at in kept] for found in self.ends],
            [self.exact[at] for at in kept],
        )


def stream_of(renderings: Sequence[Rendering]) -> Stream:
    found = [egis(renderings, seed) for seed in SEEDS]
    return Stream(renderings, [first for first, _ in found], [end for _, end in found], peer(renderings))


# --- quality ----------------------------------------------------------------------------------------------------------


def print_quality(material: Half, failures: int) -> None:
    members = material.members()
    print(f"\n{material.name}: {len(material.roles)} roles", end="")
    if members:
        print(f", {len(material.families)} families with {len(members)} members", end="")
    print(f"; up to {VARIANTS} renderings per kind, in {len(SEEDS)} orders")
    print(f"{'':47}{'Egis at first sight':>20}{'in the end':>20}{'SHA-256':>20}")
    print(f"{'':32}{'texts':>8}{'agents':>7}", end="")
    print(f"{'precision':>11}{'recall':>9}" * 3)
    for kind in KINDS:
        print_row(kind, stream_of(render(material.roles, material.inserts, [kind])))
    renderings = render(material.roles, material.inserts, KINDS)
    everything = stream_of(renderings)
    print_row("all kinds together", everything)
    if members:
        print_row("families, slight kinds", stream_of(render(members, material.inserts, SLIGHT)))
        of_families = render(members, material.inserts, OF_FAMILIES)
        print_row("families, all kinds", stream_of(of_families))
        everything = stream_of(renderings + of_families)
        print_row("roles and families", everything)
        print_apart(material)
    print_by_length(material.roles | members, everything)
    if failures:
        print_failures(everything, failures)


def print_row(what: str, stream: Stream) -> None:
    """The number of agents is that of the first order in the end, the figures are over all orders."""
    print(f"{what:32}{len(stream.renderings):>8}{len(set(stream.ends[0])):>7}", end="")
    for orders in (stream.orders, stream.ends, [stream.exact]):
        print(functools.reduce(Score.plus, (score(stream.renderings, found) for found in orders)), end="")
    print(flush=True)


def print_by_length(prompts: Mapping[str, str], everything: Stream) -> None:
    """The last row of all kinds again, by how long the prompts are without anything inserted."""
    bounds = (0, 120, 500, 1_500, sys.maxsize)
    for least, most in itertools.pairwise(bounds):
        chosen = {name for name, text in prompts.items() if least <= len(text) < most}
        if chosen:
            what = f"of {least:,} characters or more" if most == sys.maxsize else f"of {least:,} to {most:,} characters"
            print_row(f"  {what}", everything.of(chosen))


def print_apart(material: Half) -> None:
    """How many pairs of members of one family, as they are written, have two agents."""
    apart = together = 0
    worst: Counter[str] = Counter()
    for seed in SEEDS:
        written = [Rendering(name, "", text) for name, text in material.members().items()]
        agent_of = {one.prompt: agent for one, agent in zip(written, egis(written, seed)[1], strict=True)}
        for name, texts in material.families.items():
            for one, other in itertools.combinations(texts, 2):
                same = agent_of[f"{name}/{one}"] == agent_of[f"{name}/{other}"]
                together += same
                apart += not same
                worst[name] += same
    print(f"pairs of members, as written: {apart} of {apart + together} apart")
    if together and material.name != "heldout":
        print("  not apart:", ", ".join(f"{name} {count}" for name, count in worst.most_common() if count))


def print_failures(stream: Stream, most: int) -> None:
    """The prompts that most often share an agent, what most often loses its own, and some of those texts."""
    renderings, found = stream.renderings, stream.ends[0]
    counts: Counter[tuple[str, str]] = Counter()
    members: defaultdict[str, list[Rendering]] = defaultdict(list)
    for rendering, agent in zip(renderings, found, strict=True):
        counts[rendering.prompt, agent] += 1
        members[agent].append(rendering)
    shared_by: Counter[tuple[str, str]] = Counter()
    for agent, texts in members.items():
        for one, other in itertools.combinations(sorted({text.prompt for text in texts}), 2):
            shared_by[one, other] += counts[one, agent] * counts[other, agent]
    for (one, other), count in shared_by.most_common(most):
        print(f"\n*** {one} and {other} share an agent: {count} pairs of texts")
    largest: dict[str, str] = {}
    for (prompt, agent), _ in counts.most_common():
        largest.setdefault(prompt, agent)
    lost = [rendering for rendering, agent in zip(renderings, found, strict=True) if agent != largest[rendering.prompt]]
    print(f"\n{len(lost)} of {len(renderings)} texts are not with the most of their prompt, by kind and by prompt:")
    print(" ", Counter(rendering.kind for rendering in lost).most_common())
    print(" ", Counter(rendering.prompt for rendering in lost).most_common(40))
    for rendering in random.Random(most).sample(lost, min(most, len(lost))):
        print(f"\n*** {rendering.prompt}, {rendering.kind}\n{rendering.text}")


# --- across processes -------------------------------------------------------------------------------------------------


def canonical(sightings: Iterable[Sighting]) -> dict[str, str]:
    """What a platform makes of the announcements of all processes, in the order they arrive: other ids for ids."""
    with tempfile.TemporaryDirectory() as folder:
        metadata = Metadata(f"sqlite:///{folder}/metadata.db")
        registry = Registry(metadata)
        waiting = iter(sightings)
        while batch := list(itertools.islice(waiting, ANNOUNCED_AT_ONCE)):
            registry.announce("default", [announced(sighting) for sighting in batch])
        aliases = dict(registry.names("default", now=True).aliases)
        metadata.close()
    return aliases


ANNOUNCED_AT_ONCE = 20
"""A process gathers what it meets within a fifth of a second; the fewer, the more often the platform is asked."""


def announced(sighting: Sighting) -> Announced:
    identity, sketch = sighting.identity, sighting.sketch
    return Announced(
        "default",
        identity.id,
        identity.name or "",
        identity.source,
        sighting.fingerprint,
        None if sketch is None else sketch.encode(),
        sighting.under,
        sighting.prompts,
    )


def print_processes(material: Half) -> None:
    """Two processes see other renderings, in other orders; only pairs across them count."""
    renderings = render(material.roles, material.inserts, KINDS)
    renderings += render(material.members(), material.inserts, OF_FAMILIES)
    total = Score()
    exact = Score()
    for seed in SEEDS:
        random.Random(seed).shuffle(renderings)
        halves = renderings[::2], renderings[1::2]
        sightings: list[Sighting] = []
        found = [agents(Attribution(on_sighting=sightings.append), texts, seed + n) for n, texts in enumerate(halves)]
        answer = canonical(sightings)
        total = total.plus(across(halves, [[answer.get(one, one) for one in ids_of] for ids_of in found]))
        exact = exact.plus(across(halves, [peer(texts) for texts in halves]))
    print(f"{material.name:32}{len(renderings):>8}{'':14}{total}{exact}", flush=True)


def across(halves: Sequence[Sequence[Rendering]], found: Sequence[Sequence[str]]) -> Score:
    def meetings(keys: Sequence[Iterable[object]]) -> int:
        one, other = map(Counter, keys)
        return sum(count * other[key] for key, count in one.items())

    owners = [[rendering.prompt for rendering in texts] for texts in halves]
    both = [list(zip(*keys, strict=True)) for keys in zip(owners, found, strict=True)]
    return Score(meetings(both), meetings(found), meetings(owners))


# --- 100,000 prompts --------------------------------------------------------------------------------------------------

STREAM = 100_000

_SYLLABLES = re.findall("..", "bacedifoguhajekilomunapequirosutavewixoyuzabrcldrflgrstth")


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(count))


def new_text(rng: random.Random, sentences: Sequence[str]) -> str:
    """A passage nobody has seen: written sentences in a new mixture, with new names among them."""
    return " ".join(
        f"{rng.choice(sentences)} {words(rng, 2).title()}: {words(rng, 5)}." for _ in range(rng.randint(2, 6))
    )


def prompts_of(what: str, rng: random.Random) -> Iterator[str]:
    material = half("dev")
    passages = [text for kind in PASSAGES for text in material.inserts[kind]]
    sentences = [one for text in passages for one in re.split(r"(?<=[.!?])\s+", text) if 20 < len(one) < 200]
    templates = list((material.roles | material.members()).values())
    for _ in range(STREAM):
        if what == "unrelated texts":
            yield f"{words(rng, rng.randint(3, 60)).capitalize()}.\n\n{words(rng, rng.randint(3, 60)).capitalize()}."
        else:
            prompt = templates[0] if what == "one template" else rng.choice(templates[:50])
            yield rng.choice(PLACES)(prompt, new_text(rng, sentences))


def memory_mb(field: str) -> float:
    """This process's memory, now (VmRSS) or at most so far (VmHWM), as Linux counts it.

    `ru_maxrss` would not do: it includes what the parent of a process had.
    """
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) * 1_024 / 1_000_000


def run_stream(what: str) -> None:
    """Prints the stream's row; in a process of its own, whose peak of memory is the stream's."""
    sightings = 0

    def on_sighting(_: Sighting) -> None:
        nonlocal sightings
        sightings += 1

    attribution = Attribution(on_sighting=on_sighting)
    before_mb = memory_mb("VmRSS")
    spent_ns = 0
    found: set[bytes] = set()
    for text in prompts_of(what, random.Random(what)):
        start = time.perf_counter_ns()
        seen = fingerprint.of((text,))
        agent = attribution.prompted(seen).id if seen else ""
        spent_ns += time.perf_counter_ns() - start
        found.add(hashlib.blake2b(agent.encode(), digest_size=8).digest())
    own_mb = (sys.getsizeof(found) + sum(map(sys.getsizeof, found))) / 1_000_000
    grown_mb = memory_mb("VmHWM") - before_mb - own_mb
    print(f"{what:20}{len(found):>9,}{sightings:>15,}{grown_mb:>11.1f}{spent_ns / STREAM / 1_000:>14.0f}", flush=True)


def print_streams() -> None:
    print(f"\n{STREAM:,} distinct prompts in one process")
    print(f"{'':20}{'agents':>9}{'announcements':>15}{'MB at most':>11}{'µs a prompt':>14}")
    for what in ("one template", "50 templates", "unrelated texts"):
        process = multiprocessing.get_context("spawn").Process(target=run_stream, args=(what,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"the stream ended with {process.exitcode}")


# --- cost -------------------------------------------------------------------------------------------------------------


def best_us(job: Callable[[str], object], texts: Iterator[str], times: int) -> float:
    """The least of several single runs, in microseconds: what the machine's other work adds is not the job's."""
    least = float("inf")
    for _ in range(times):
        text = next(texts)
        start = time.perf_counter_ns()
        job(text)
        least = min(least, time.perf_counter_ns() - start)
    return least / 1_000


def print_cost(prompts: Mapping[str, str]) -> None:
    corpus = "\n\n".join(prompts.values())
    found = (corpus + "\n").split(" ")
    while len(found) < 21_000:
        found += found
    long = " ".join(found)
    while len(long.split()) > 20_000:
        long = long[: len(long) * 20_000 // len(long.split())]
    short = (corpus + corpus)[:600]
    attribution = Attribution()

    def agent(text: str) -> object:
        seen = fingerprint.of((text,))
        return attribution.prompted(seen) if seen else None

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
        for job in (agent, whitespace_sha256):
            for text, times in ((short, 300), (long, 15)):
                if forget:
                    fingerprint.clear()
                job(text)
                row.append(best_us(job, texts_of(text), times))
        print(f"{what:32}{row[0]:>12.2f}{row[1]:>12.2f}{row[2]:>16.2f}{row[3]:>12.2f}")


def main() -> None:
    parts = ("cost", "quality", "processes", "streams")
    names = ("shared", "dev", "second", "heldout")
    parser = argparse.ArgumentParser(description="Cost and quality of the agents that prompts give.")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--half", nargs="+", choices=names, default=names)
    parser.add_argument("--failures", type=int, default=0, metavar="N", help="show N of them, but none of heldout")
    parser.add_argument("--prompts", type=Path, default=SHARED, help="folder of the shared prompts, where there is one")
    options = parser.parse_args()
    folders = {name: options.prompts if name == "shared" else PROMPTS / name for name in options.half}
    materials = [
        shared(folder) if name == "shared" else half(name) for name, folder in folders.items() if folder.is_dir()
    ]
    if "cost" in options.only:
        print_cost({name: text for material in materials for name, text in material.roles.items()})
    if "quality" in options.only:
        for material in materials:
            print_quality(material, options.failures if material.name != "heldout" else 0)
            _fingerprints.clear()
    if "processes" in options.only:
        print("\nacross two processes, all kinds")
        for material in materials:
            print_processes(material)
            _fingerprints.clear()
    if "streams" in options.only:
        print_streams()


if __name__ == "__main__":
    main()
