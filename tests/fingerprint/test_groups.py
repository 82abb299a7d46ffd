"""One agent for what one template was rendered to, and another for another job, whatever else they share."""

from __future__ import annotations

import itertools
import random
import threading
import tracemalloc

import pytest

from egisai import fingerprint, guard
from egisai.attribution import Attribution, Sighting
from egisai.fingerprint.kinds import Kind, kind_of
from egisai.fingerprint.masks import normal_form, words_of
from egisai.fingerprint.sketch import MAX_ENCODED, Index, Sketch, compare
from egisai.prompts import MAX_AGENTS, Prompts, Template

TEMPLATE = """# Front desk

You are the front desk assistant of a hotel. Answer questions of guests in one or two sentences.

- Never promise a room.
- If a guest is angry, hand over to the manager.
- Reply in the guest's language.

Sign with the name of the hotel."""

PASSAGES = [
    (
        "The museum opens at nine. Tickets are sold at the gate, and children enter free of charge. On the first "
        "Sunday of a month the upper floor is closed, because schools visit it."
    ),
    (
        "Acme Corp was founded in Ohio. Its pumps are sold in over forty countries. In 2021 it acquired Borealis GmbH "
        "for forty million. Critics have pointed out that the price was high."
    ),
    (
        "[1] Refunds are possible within 30 days of purchase. To request one, open the page of the order and choose "
        "Return. [2] Money arrives within five business days. Gift cards are final."
    ),
    (
        "Der Vertrag läuft zwölf Monate und verlängert sich um ein Jahr. Die Kündigung ist schriftlich einzureichen. "
        "Es gilt das Datum des Poststempels. Im Übrigen gelten die Bedingungen des Verbands."
    ),
    (
        "La société a été fondée à Lyon. Le chiffre d'affaires a augmenté en 2023. La direction a annoncé la fermeture "
        "de deux sites et la construction d'un troisième près de la frontière."
    ),
    "该公司成立于1998年。产品销往四十多个国家。去年的营业额增长了百分之十二。总部位于上海。",
]
SHORT_PASSAGES = ["The pool is heated.", "A taxi waits at nine.", "Trams run until one.", "La plage est fermée."]
EXAMPLES = [
    "Examples:\n\nUser: Is breakfast included?\nAssistant: Yes, from seven to ten.",
    "Examples:\n\nUser: Act as a pirate.\nAssistant: Arr.\n\nUser: Summarise this: two are ill.\nAssistant: Two ill.",
    "Examples:\n\nUser: Do you have a pool?\nAssistant: Yes, on the roof.",
]
PROFILES = [
    "The guest is a nurse who works nights. The guest prefers short answers.",
    "The guest is a retired teacher. The guest likes trains and speaks Dutch.",
    "Name: Maria Lopez\nPlan: gold\nCity: Valencia\nInterests: hiking, jazz",
    "What we know about the user:\n- likes tea\n- is allergic to peanuts\n- moved to Lisbon",
]


def put(text: str, place: int) -> str:
    """The text as a paragraph of the template's, after as many others."""
    parts = TEMPLATE.split("\n\n")
    return "\n\n".join([*parts[:place], text, *parts[place:]])


PASSAGES_IN_PLACE = [put(text, 2) for text in PASSAGES]


def agents(texts: list[str], who: Attribution | None = None) -> list[str]:
    who = who or Attribution()
    found = [fingerprint.of((text,)) for text in texts]
    return [who.prompted(prompt).id for prompt in found if prompt is not None]


VARIANTS = {
    "retrieved text": [TEMPLATE, *(put(text, 2) for text in PASSAGES)],
    "retrieved text, at the end": [TEMPLATE, *(put(text, 4) for text in PASSAGES)],
    "retrieved text, headed": [put(f"Context:\n{text}", 2) for text in PASSAGES],
    "examples": [put(text, 3) for text in EXAMPLES],
    "profiles": [put(text, 2) for text in PROFILES],
    "a memory that grows": [f"{TEMPLATE}\n\nKnown facts about the user:\n" + "- likes tea\n" * n for n in range(1, 5)],
    "cut off": [TEMPLATE, TEMPLATE[:-9], TEMPLATE[:-14], TEMPLATE[:-22]],
}


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fp_rag(kind: str, seed: int) -> None:
    """The same role with other retrieved text, examples, profile or memory is one agent from the first sight on."""
    texts = list(VARIANTS[kind])
    first, *others = texts
    assert len({fingerprint.of((text,)) for text in texts}) == len(texts), "masks alone do not make them one"
    random.Random(seed).shuffle(others)
    assert len(set(agents([first, *others]))) == 1


def test_fp_rag_mixed() -> None:
    """What is known of a template decides of texts that alone say too little: manuals, remarks, at any place."""
    manuals = [
        "To reset the printer, hold the power button. Never unplug it while the lamp is orange.",
        "Always send the page token you got. Use a limit of at most 200. Do not rely on the order of items.",
        "Check the tension of the chain weekly. Keep brake pads free of oil.",
    ]
    known = [TEMPLATE, *VARIANTS["retrieved text"], *VARIANTS["profiles"]]
    manuals += SHORT_PASSAGES
    ids = agents([*known, *(put(text, place) for text in manuals for place in (1, 2, 3, 4))])
    assert len(set(ids)) == 1


ROLES_APART = [
    TEMPLATE,
    TEMPLATE.replace("front desk assistant of a hotel", "front desk assistant of a clinic"),
    TEMPLATE.replace("questions of guests", "complaints of guests"),
    TEMPLATE.replace("Never promise a room.", "Never promise a table."),
    put("You handle refunds.", 3),
    put("You handle lost property.", 3),
    put("Your task now: write the newsletter.", 4),
    put("Your task now: plan the wedding of the week.", 4),
    put("The spa is your domain: book treatments, and know what they cost.", 2),
    "You are the front desk assistant of a hotel.",
    "Sort the mail of a hotel.",
]
BOILERPLATE = "\n".join(
    f"- Rule {word}: follow every one of the {word} steps." for word in "abcdefghijklmnopqrstuvwxyz"
)


def test_fp_roles_with_like_texts() -> None:
    """Another job is another agent, even where nine tenths of the text and what is inserted are shared."""
    for texts in ROLES_APART, [f"{text}\n\n{BOILERPLATE}" for text in ROLES_APART]:
        found = agents(texts)
        assert [
            pair for pair in itertools.combinations(range(len(texts)), 2) if len({found[at] for at in pair}) == 1
        ] == []
    for passage in PASSAGES:
        with_it = [f"{text}\n\nContext:\n{passage}" for text in ROLES_APART]
        assert len(set(agents([*ROLES_APART, *with_it]))) == len(ROLES_APART)


SPECIALISATION = "Its subject is weddings. It knows the halls, and what they cost."


def some(rng: random.Random, place: int) -> str:
    """The template with something inserted that nobody has seen."""
    return put(f"The guest in {rng.random()} {' '.join(rng.choices(WORDS, k=9))}.", place)


WORDS = "asked heard saw likes brings wants trains jazz tea soup boats late early twice alone calmly".split()  # noqa: SIM905


def test_a_specialisation_is_told_by_coming_again() -> None:
    """What one prompt has beside another's template is a job, however it is worded, where it stays while all varies."""
    rng = random.Random(1)
    who = Attribution()
    base = agents([TEMPLATE, *PASSAGES_IN_PLACE, *(some(rng, 2) for _ in range(6))], who)
    assert len(set(base)) == 1
    special = [f"{some(rng, 2)} {SPECIALISATION}" for _ in range(12)]
    found = agents(special, who)
    assert set(found[:5]) == set(base), "nobody could tell yet"
    assert len(set(found[5:])) == 1
    assert set(found[5:]) != set(base)
    assert set(agents([some(rng, 2) for _ in range(9)], who)) == set(base)
    assert len(set(agents([f"{put(text, 2)} {SPECIALISATION}" for text in PASSAGES], who)) - set(found[5:])) == 0


def test_what_is_in_demand_is_no_specialisation() -> None:
    """A remark that comes again and again, in few of an agent's prompts, stays data."""
    rng = random.Random(1)
    texts = [TEMPLATE, *PASSAGES_IN_PLACE]
    texts += [some(rng, 2) if n % 12 else f"{some(rng, 2)} {SPECIALISATION}" for n in range(120)]
    assert len(set(agents(texts))) == 1


JOBLESS = "Wander designs trips for people who dislike haste. {} Two routes are shown, with three places each."
OTHER_JOBLESS = (
    "Juno looks at figures of a grocer. {} Answers have a number, a period and the stores that were counted."
)


def test_a_passage_is_no_agent() -> None:
    """Where no sentence says a job, two prompts with one passage are two agents, and what they share is none."""
    tail = "Every stay is chosen with care, and the way there is part of it. " * 3
    other_tail = "Money is rounded. Stores that were closed are left out, and the board reads it on a phone. " * 3
    for passage in PASSAGES:
        texts = [
            f"{passage}\n\n{JOBLESS.format(tail)}",
            f"{passage}\n\n{OTHER_JOBLESS.format(other_tail)}",
        ]
        assert len(set(agents(texts))) == 2


def test_an_announced_passage_is_data() -> None:
    """Where no sentence says a job, but a heading what follows it, the prompts with other passages are one agent."""
    template = JOBLESS.format("Never quote a price.")
    assert len(set(agents([f"{template}\n\nContext:\n{passage}" for passage in PASSAGES[:4]]))) == 1


def test_orders_before_data_are_not_data() -> None:
    """Two lists of orders make two agents, however much data comes after them."""
    leases = """- Check lease agreements for warehouses
- List break options and repair duties

User: Where is my order?
Assistant: It left our warehouse this morning and should reach you tomorrow.
User: And the other one?"""
    customs = """- Check declarations and tariff codes
- List licences that are missing

The user is a civil engineer in her forties who has used the product for six years and writes late in the evening."""
    assert len(set(agents([put(leases, 2), put(customs, 2)]))) == 2


def test_the_end_of_a_sentence_is_no_cut() -> None:
    """A prompt that ends without a full stop, at the end of a sentence, lacks nothing: what another has is inserted."""
    template = f"<rules>\n{TEMPLATE}\n</rules>"
    who = Attribution()
    texts = [f"{template}\n\nWash both hands. Fold every third napkin, then the fourth.", template]
    texts += [f"{template}\n\n{text}" for text in PASSAGES]
    found = agents(texts, who)
    assert len(set(found[1:])) == 1
    assert found[0] not in found[1:]


def test_the_best_known_keeps_its_id() -> None:
    """When two agents turn out to be one, it is the one that most prompts were of."""
    little, well, new = (fingerprint.of((text,)) for text in (TEMPLATE, *PASSAGES_IN_PLACE[:2]))
    assert little is not None
    assert well is not None
    assert new is not None
    remembered = [Template("little", little, 2, True), Template("well", well, 9, True)]
    place = Prompts(remembered).place("new", new, {})
    assert (place.leader, place.joined) == ("well", (("little", little),))


LINES = [
    "Take the red road.",
    "Mind the old bridge and the geese.",
    "Wash both hands.",
    "Fold every third napkin, then the fourth.",
    "Water roses at noon.",
    "Count spoons twice, forks once.",
    "Open windows facing the lake.",
    "Polish brass, leave copper.",
]


def test_one_offs_turn_out_to_be_one_agent() -> None:
    """Texts that differ in what nobody can tell apart are agents of their own until so many came only once each."""
    told: list[Sighting] = []
    who = Attribution(on_sighting=told.append)
    texts = [put(text, 2) for text in LINES]
    found = [fingerprint.of((text,)) for text in texts]
    first = [who.prompted(prompt).id for prompt in found if prompt]
    assert len(set(first[:7])) == 7
    last = {who.prompted(prompt).id for prompt in found if prompt}
    assert len(last) == 1
    assert {sighting.identity.id for sighting in told if sighting.under in last} == set(first) - last


def test_roles_that_come_again_are_no_one_offs() -> None:
    """The same texts, each seen again: roles, however many there are."""
    texts = [put(text, 2) for text in LINES]
    who = Attribution()
    ids: list[str] = []
    for text in texts:
        ids += agents([text, text], who)
    assert len(set(ids)) == len(texts)
    assert set(agents(texts, who)) == set(ids)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("You are a poet.", Kind.JOB),
        ("Your task now:", Kind.JOB),
        ("You handle refunds.", Kind.JOB),
        ("Du bist ein Steuerberater.", Kind.JOB),
        ("你是一名客服助手。", Kind.JOB),
        ("Never guess.", Kind.ORDER),
        ("Answer in Markdown.", Kind.ORDER),
        ("If the user asks for a price, look it up.", Kind.ORDER),
        ("请用简洁的语言回答。", Kind.ORDER),
        ("The museum opens at nine.", Kind.DATA),
        ("What does it cost?", Kind.DATA),
        ("The user lives in Lisbon.", Kind.CERTAIN),
        ("You are talking to Maria.", Kind.CERTAIN),
        ("- likes tea", Kind.CERTAIN),
        ("User:", Kind.CERTAIN),
        ("| North | 12 |", Kind.CERTAIN),
        ("Known facts about the user:", Kind.LABEL),
        ("Context", Kind.LABEL),
        ("SECTIONS OF THE PAGE", Kind.FRAGMENT),
        ("Goal:", Kind.JOB),
        ("You charged me twice.", Kind.DATA),
        ('<field name="mail">', Kind.CERTAIN),
        ("<chunk>", Kind.CERTAIN),
        ("Ticket 17, order ORD-4711, 8 May.", Kind.CERTAIN),
    ],
)
def test_kinds_of_sentences(text: str, kind: Kind) -> None:
    """What speaks to the agent, and what about the world."""
    masked = normal_form(text).text.lstrip("- ")
    assert kind_of(words_of(masked), masked) is kind


def sketch(text: str) -> Sketch:
    found = fingerprint.of((text,))
    assert found is not None
    assert found.sketch is not None
    return found.sketch


def test_a_sketch_survives_its_way() -> None:
    """Encoded and decoded it is the same; it has no text in it, and a bound."""
    long = "\n".join(f"Rule {n}{n}: do as {'x' * (n % 9)} says {n}." for n in range(20_000))
    for text in (TEMPLATE, "Poet", "你是一名客服助手。请用简洁的语言回答客户的问题。", long, "a b " * 5_000):
        encoded = sketch(text).encode()
        assert Sketch.decode(encoded) == sketch(text)
        assert len(encoded) <= MAX_ENCODED
        assert encoded.isascii()


@pytest.mark.parametrize(
    "hostile", ["", "A", "AQ", "not base64!", "é", "A" * (MAX_ENCODED + 1), "AQ" + "A" * 18, "/w" * 40, "AQ" + "_" * 22]
)
def test_what_is_no_sketch_is_refused(hostile: str) -> None:
    """Somebody else's bytes are refused by a ValueError that says so, and by nothing else."""
    with pytest.raises(ValueError, match="sketch"):
        Sketch.decode(hostile)


def test_without_takes_runs_out() -> None:
    """What is left of a text without what another lacks is contained in both."""
    one, other = sketch(put(PASSAGES[0], 2)), sketch(put(PASSAGES[1], 3))
    core = one.without(compare(one, other).missing)
    assert len(core.marks) < len(one.marks)
    for text in (one, other, sketch(TEMPLATE)):
        assert not compare(core, text).missing
    assert compare(core, core).alike == 1


def test_index_forgets() -> None:
    """A text that was discarded, or put in another's place, is not found any more."""
    index = Index()
    index.add("a", sketch(TEMPLATE))
    assert index.nearest(sketch(put(PASSAGES[0], 2))) == "a"
    index.add("a", sketch("You are a poet. Write odes, never elegies."))
    assert index.nearest(sketch(TEMPLATE)) is None
    index.discard("a")
    index.discard("a")
    assert len(index) == 0
    assert index.nearest(sketch("You are a poet. Write odes, never elegies.")) is None


def test_fp_bounded_agents() -> None:
    """Ever new prompts leave memory bounded and agents few; past the limit they are the app's, and that is counted."""
    rng = random.Random(1)
    who = Attribution(app="orchestrator")

    def text() -> str:
        words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(12)]
        return f"You are a {words[0]} {words[1]}. Always {' '.join(words[2:])}."

    ids = {who.prompted(found).id for found in (fingerprint.of((text(),)) for _ in range(MAX_AGENTS + 500)) if found}
    assert len(ids) == MAX_AGENTS + 1
    assert who.app().id in ids
    assert guard.counts()["prompt over the limit of agents"] == 500
    tracemalloc.start()
    for _ in range(1_000):
        found = fingerprint.of((text(),))
        assert found is not None
        assert who.prompted(found).source == "app"
    fingerprint.clear()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 600_000  # the ids of the newest 16,384 are remembered


def test_fp_bounded_announcements() -> None:
    """However many texts one template is rendered to, the platform is told of a few."""
    told: list[Sighting] = []
    who = Attribution(on_sighting=told.append)
    texts = [
        put(f"The {n}th guest said: {' '.join(random.Random(n).choices('abcdefgh', k=9))}.", 2) for n in range(400)
    ]
    assert len(set(agents([TEMPLATE, *PASSAGES_IN_PLACE, *texts], who))) == 1
    assert len(told) <= 70


def test_threads_agree_on_an_agent() -> None:
    """Many threads that meet variants of one template at once count them under one agent."""
    who = Attribution()
    variants = [TEMPLATE, *itertools.chain(*VARIANTS.values())]
    start = threading.Barrier(8)
    found: list[str] = []

    def meet(seed: int) -> None:
        mine = list(variants)
        random.Random(seed).shuffle(mine)
        start.wait()
        agents([TEMPLATE, *mine], who)
        found.extend(agents(mine, who))

    threads = [threading.Thread(target=meet, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(agents(variants, who))) == 1
    assert len(found) == 8 * len(variants)


def test_a_prompt_without_a_sketch_stands_alone() -> None:
    """A prompt that the provider stores is known by its id, and is like no other."""
    prompts = Prompts()
    one, two = fingerprint.of_stored("pmpt_1"), fingerprint.of_stored("pmpt_2")
    assert prompts.place("1", one, {}).leader == "1"
    assert prompts.place("2", two, {}).leader == "2"
    assert prompts.place("1", one, {}).leader == "1"
