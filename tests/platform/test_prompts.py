"""Prompts of one template are one agent, whoever announces which first; what an operator rules is final.

`tests/platform/postgres.sh` runs these on PostgreSQL too.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import update

from egisai import fingerprint, semconv
from egisai.fingerprint.sketch import compare
from egisai.identity import agent_id
from egisai_platform import metadata as db
from egisai_platform import prompts as prompts_module
from egisai_platform import registry as registry_module
from egisai_platform.metadata import Metadata
from egisai_platform.registry import MergeRefusedError, Registry, Sighting, UnknownAgentError

PASSAGES = (
    "The museum opens at nine. It is free on Sundays.",
    "Prices include tax. Delivery takes three working days.",
    "The river rises in the hills. Its water is cold all year.",
    "Our shop was founded by two brothers. They sold boots.",
    "Rain is expected. The wind comes from the west.",
    "The library holds old maps. Some of them are torn.",
    "Tomatoes like the sun. Frost kills them.",
    "The bridge was closed. It has been open again since May.",
    "This engine has four cylinders. It runs on petrol.",
    "The choir sings on Fridays. Everybody is welcome.",
)
JOBS = (
    "You are a billing clerk. You handle refunds for customers.",
    "You are a parcel tracker. You find lost parcels.",
    "You are a translator. You turn French texts into English ones.",
    "You are a lawyer. You review rental contracts.",
)


def prompt(job, passage):
    found = fingerprint.of((f"{JOBS[job]} Be brief and polite.\n\nContext: {PASSAGES[passage]}",))
    assert found is not None
    return found


def sighting(found, *, organisation="o", under=None, sketch=True):
    return Sighting(
        organisation,
        agent_id(organisation, "fingerprint", found.digest),
        found.name,
        "fingerprint",
        found.digest,
        found.sketch.encode() if sketch is True else sketch or None,
        under,
    )


def variants(job, n=4):
    return [sighting(prompt(job, passage)) for passage in range(n)]


def told(answer):
    return {old: agent.id for old, agent in answer.canonical.items()}


@pytest.fixture
def metadata(dsn):
    made = Metadata(dsn)
    yield made
    made.close()


@pytest.fixture
def registry(metadata):
    return Registry(metadata)


# --- the nearest prompt's agent -----------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes_converge(registry, order):
    """Two processes met two variants in different orders, each counting the second under the first: both end as one."""
    one, two = variants(0, 2)
    first = [one, sighting(prompt(0, 1), under=one.id)]
    second = [two, sighting(prompt(0, 0), under=two.id)]
    answers = [registry.announce("o", (first, second)[process]) for process in order]
    leader, other = (one, two) if order == (0, 1) else (two, one)
    assert told(answers[0]) == {other.id: leader.id}
    assert told(answers[1]) == {leader.id: leader.id, other.id: leader.id}
    assert told(registry.rulings("o", 0)) == {other.id: leader.id}
    assert registry.names("o").aliases == {other.id: leader.id}


def test_different_jobs_stay_apart(registry):
    """However much of the text is shared, other roles are other agents, and a process that mixed them is told."""
    billing, parcels = variants(0, 1)[0], variants(1, 1)[0]
    assert told(registry.announce("o", [billing, parcels])) == {}
    assert registry.names("o").aliases == {}
    mixed = sighting(prompt(2, 0), under="11111111-1111-5111-8111-111111111111")
    assert told(registry.announce("o", [mixed])) == {mixed.id: mixed.id}


def test_concurrent_announcements(dsn, metadata):
    """Twelve threads on two nodes announce forty variants of four jobs in any order: four agents, and no circle."""
    second = Metadata(dsn)
    nodes = [Registry(metadata), Registry(second)]
    every = [(job, passage) for job in range(len(JOBS)) for passage in range(len(PASSAGES))]
    together = threading.Barrier(12)

    def process(number):
        chance = random.Random(number)
        order = every.copy()
        chance.shuffle(order)
        firsts = {}
        together.wait(20)
        for start in range(0, len(order), 7):
            batch = []
            for job, passage in order[start : start + 7]:
                found = sighting(prompt(job, passage), under=firsts.get(job))
                firsts.setdefault(job, found.id)
                batch.append(found)
            nodes[number % 2].announce("o", batch)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(process, range(12)))
    names = [node.names("o", now=True) for node in nodes]
    second.close()
    for seen in names:
        agents = {job: {seen.canonical(s.id) for s in variants(job, len(PASSAGES))} for job in range(len(JOBS))}
        assert [len(found) for found in agents.values()] == [1] * len(JOBS), agents
        assert len(set.union(*agents.values())) == len(JOBS)
        assert all(seen.records[root].merged_into is None for root in set.union(*agents.values()))
    assert names[0].aliases == names[1].aliases


def test_what_traffic_told_first_is_judged_when_announced(registry):
    """A span that arrives before its announcement registers the agent; the sketch still finds its like, once."""
    one, two, three, _ = variants(0)
    registry.saw([Sighting("o", two.id, "Billing clerk", "fingerprint")])
    registry.announce("o", [one])
    assert told(registry.announce("o", [two])) == {two.id: one.id}
    assert registry.names("o").records[two.id].fingerprint == two.fingerprint
    registry.announce("o", [three])
    assert set(registry.names("o").aliases.values()) == {one.id}


def test_a_hint_counts_where_no_sketch_does(registry):
    """`with` puts a prompt under a known agent when nothing is like it, also when both come in one request."""
    one = variants(0, 1)[0]
    alike = sighting(prompt(1, 0), under=one.id)
    assert told(registry.announce("o", [alike, one])) == {alike.id: one.id}
    bare = sighting(prompt(2, 0), under=one.id, sketch=None)
    assert told(registry.announce("o", [bare])) == {bare.id: one.id}
    law = variants(3, 1)[0]
    near = sighting(prompt(0, 1), under=law.id)
    assert told(registry.announce("o", [law, near])) == {near.id: one.id}, "its like comes before the hint"
    around = sighting(prompt(0, 0), under=alike.id)
    assert told(registry.announce("o", [around])) == {one.id: one.id}, "what was told first stays"
    registry.unmerge("o", alike.id)
    assert told(registry.announce("o", [alike])) == {alike.id: alike.id}, "an operator split it off"


def test_a_later_hint_is_obeyed_unless_an_operator_spoke(registry):
    """A process finds out later that two prompts are of one template: one moves, with what it led."""
    one, two = variants(0, 2)
    parcels, law = variants(1, 1)[0], variants(3, 1)[0]
    registry.announce("o", [one, two, parcels, law])
    found_out = sighting(prompt(0, 0), under=parcels.id)
    assert told(registry.announce("o", [found_out])) == {one.id: parcels.id}
    assert registry.names("o").canonical(two.id) == parcels.id
    assert told(registry.announce("o", [sighting(prompt(0, 0), under=law.id)])) == {one.id: parcels.id}, "once"
    registry.describe("o", law.id, name="Legal")
    assert told(registry.announce("o", [sighting(prompt(3, 0), under=parcels.id)])) == {law.id: law.id}


def test_only_prompts_are_judged(registry):
    """An agent that has a name is nobody's variant, whatever an announcement claims."""
    one, two = variants(0, 2)
    named = agent_id("o", "name", "billing")
    registry.saw([Sighting("o", named, "billing", "name")])
    registry.announce("o", [one, Sighting("o", named, "billing", "fingerprint", "f", two.sketch, one.id)])
    assert registry.names("o").aliases == {}


# --- templates that several prompts have taught ---------------------------------------------------------------------
OBSCURE = (
    "Ask for the ticket when it is missing.",
    "Do not promise anything by letter.",
    "Mention the fair in June.",
    "Send lists as plain text.",
)
"""Orders, as far as one text tells: only who has seen several of them knows that they are inserted."""


def obscure(number, job=0):
    found = fingerprint.of((f"{JOBS[job]} Be brief and polite. {OBSCURE[number]}",))
    assert found is not None
    return found


def learnt(found, others):
    """The prompt's sketch, less what the others do not have."""
    sketch = found.sketch
    for other in others:
        sketch = sketch.without(compare(sketch, other.sketch).missing)
    return replace(sighting(found), sketch=sketch.encode(), prompts=1 + len(others))


@pytest.mark.parametrize("older", [0, 1])
def test_templates_meet_where_their_first_prompts_did_not(registry, metadata, older):
    """Two processes whose first prompts nobody can tell apart from two jobs: what each learnt is one agent."""
    ones, twos = [obscure(n) for n in (0, 1, 2)], [obscure(n) for n in (3, 2, 1)]
    first, second = sighting(ones[0]), sighting(twos[0])
    assert told(registry.announce("o", [first])) == told(registry.announce("o", [second])) == {}
    with metadata.writing() as connection:  # both are of the same second
        earlier = update(db.agents).values(first_seen=db.agents.c.first_seen - 10)
        connection.execute(earlier.where(db.agents.c.id == (first, second)[older].id))
    version = registry.rulings("o", None).version
    leader, other = (first, second) if older == 0 else (second, first)
    registry.announce("o", [learnt(ones[0], ones[1:])])
    assert told(registry.rulings("o", version)) == {other.id: leader.id}
    registry.announce("o", [learnt(twos[0], twos[1:])])
    assert registry.names("o").aliases == {other.id: leader.id}
    assert told(registry.announce("o", [sighting(obscure(1))])) == {sighting(obscure(1)).id: leader.id}
    parcels = sighting(obscure(1, job=1))
    assert told(registry.announce("o", [parcels])) == {}


def test_a_template_is_kept_by_who_knows_more(dsn, metadata, registry):
    """One learnt from fewer prompts replaces none; another node, and one that starts later, know the same."""
    second = Metadata(dsn)
    there = Registry(second)
    found = [obscure(n) for n in range(4)]
    assert told(there.announce("o", [sighting(prompt(3, 0))])) == {}
    registry.announce("o", [sighting(found[0])])
    registry.announce("o", [learnt(found[0], found[1:3])])
    assert registry.names("o").records[sighting(found[0]).id].prompts == 3
    registry.announce("o", [replace(learnt(found[0], found[1:2]), sketch=sighting(prompt(3, 0)).sketch)])
    three = sighting(found[3])
    assert told(there.announce("o", [three])) == {three.id: sighting(found[0]).id}
    assert told(Registry(metadata).announce("o", [sighting(found[2])])) == {
        sighting(found[2]).id: sighting(found[0]).id
    }
    second.close()


def test_a_template_obeys_operators(registry):
    """What was split off stays apart, what has a name is joined and never moved."""
    found = [obscure(n) for n in range(4)]
    first, split, named = (sighting(one) for one in (found[0], found[1], found[3]))
    registry.announce("o", [first, replace(split, counted_under=first.id), named])
    registry.unmerge("o", split.id)
    registry.describe("o", named.id, name="Desk")
    registry.announce("o", [learnt(found[0], found[1:3])])
    assert registry.names("o").aliases == {first.id: named.id}


def test_one_misplaced_prompt_does_not_merge_two_agents(registry):
    """A process counted a prompt under the wrong agent: that its template is known elsewhere moves no agent."""
    found = [obscure(n) for n in range(3)]
    parcels, first = variants(1, 1)[0], sighting(found[0])
    misplaced = sighting(found[1], under=parcels.id)
    registry.announce("o", [parcels, misplaced, first])
    registry.announce("o", [learnt(found[0], found[1:])])
    assert registry.names("o").aliases == {misplaced.id: parcels.id}


# --- operators have the last word -----------------------------------------------------------------------------------
def test_a_split_is_final(registry):
    """Neither sketch nor hint brings back what an operator split off."""
    one, two, three, _ = variants(0)
    registry.announce("o", [one, two])
    registry.unmerge("o", two.id)
    record = registry.names("o").records[two.id]
    assert (record.merged_into, record.ruled_by, record.split_from) == (None, "operator", one.id)
    again = sighting(prompt(0, 1), under=one.id)
    assert told(registry.announce("o", [again])) == {two.id: two.id}
    assert told(registry.announce("o", [two])) == {two.id: two.id}
    registry.announce("o", [three])
    assert registry.names("o").canonical(two.id) == two.id
    with pytest.raises(MergeRefusedError):
        registry.unmerge("o", two.id)
    registry.merge("o", two.id, one.id)
    assert registry.names("o").canonical(two.id) == one.id, "an operator may change his mind"


def test_variants_follow_what_was_split_off(registry):
    """A process took two jobs for one; once an operator has split them, new variants go each to its own."""
    billing, parcels = variants(0), variants(1)
    registry.announce("o", [billing[0], sighting(prompt(1, 0), under=billing[0].id)])
    assert registry.names("o").aliases == {parcels[0].id: billing[0].id}
    registry.announce("o", [billing[1], parcels[1]])
    registry.unmerge("o", parcels[0].id)
    registry.announce("o", [billing[2], parcels[2]])
    canonical = registry.names("o").canonical
    assert {canonical(s.id) for s in billing[:3]} == {billing[0].id}
    assert canonical(parcels[2].id) == parcels[0].id


def test_a_merge_is_final_and_variants_follow(registry):
    """A near variant goes where an operator put its like, and back with it when that is undone."""
    one, two, three, _ = variants(0)
    other = variants(1, 1)[0]
    registry.announce("o", [one, two, other])
    registry.merge("o", one.id, other.id)
    assert told(registry.announce("o", [three])) == {three.id: other.id}
    names = registry.names("o")
    assert {names.canonical(s.id) for s in (one, two, three)} == {other.id}
    with pytest.raises(MergeRefusedError):
        registry.merge("o", other.id, three.id)
    registry.unmerge("o", one.id)
    names = registry.names("o")
    assert {names.canonical(s.id) for s in (one, two, three)} == {one.id}
    assert names.canonical(other.id) == other.id


def test_a_merge_before_the_announcement_is_final_too(registry):
    """What an operator ruled on an agent known by traffic is not undone by the sketch that comes later."""
    one, two = variants(0, 2)
    other = variants(1, 1)[0]
    registry.announce("o", [one, other])
    registry.saw([Sighting("o", two.id, "Billing clerk", "fingerprint")])
    registry.merge("o", two.id, other.id)
    assert told(registry.announce("o", [two])) == {two.id: other.id}
    three = variants(0, 3)[2]
    registry.saw([Sighting("o", three.id, "Billing clerk", "fingerprint")])
    registry.merge("o", three.id, other.id)
    registry.unmerge("o", three.id)
    assert told(registry.announce("o", [three])) == {three.id: three.id}


def test_splitting_off_the_first_prompt(registry, metadata):
    """The oldest of the others stands for the rest, which keeps its name; every old id still leads somewhere."""
    one, two, three, _ = variants(0)
    registry.announce("o", [one])
    registry.announce("o", [two])
    registry.announce("o", [three])
    other = agent_id("o", "name", "billing")
    registry.saw([Sighting("o", other, "billing", "name")])
    registry.merge("o", other, one.id)
    registry.describe("o", one.id, name="Billing desk", description="Refunds.")
    version = registry.names("o").version
    heir = max(two.id, three.id)
    with metadata.writing() as connection:  # all of them are of the same second
        older = update(db.agents).values(first_seen=db.agents.c.first_seen - 10)
        connection.execute(older.where(db.agents.c.id.in_([heir, other])))
    registry.unmerge("o", one.id)
    names = registry.names("o")
    assert {id_: names.canonical(id_) for id_ in (one.id, two.id, three.id, other)} == {
        one.id: one.id,
        two.id: heir,
        three.id: heir,
        other: heir,
    }
    assert (names.name(two.id), names.records[heir].description) == ("Billing desk", "Refunds.")
    assert names.name(one.id) == "Billing clerk"
    assert names.records[one.id].split_from == heir
    assert told(registry.rulings("o", version)) == dict(names.aliases) | {one.id: one.id, heir: heir}
    with pytest.raises(MergeRefusedError):
        registry.unmerge("o", one.id)
    with pytest.raises(MergeRefusedError):
        registry.unmerge("o", variants(0)[0].id)
    with pytest.raises(UnknownAgentError):
        registry.unmerge("o", variants(3)[0].id)


def test_what_another_node_adds_meanwhile_counts(dsn, metadata, monkeypatch):
    """A prompt that another node registers just before our transaction is compared with what we were sent."""
    second = Metadata(dsn)
    here, there = Registry(metadata), Registry(second)
    one, two = variants(0, 2)
    real = here._changing

    def late(organisation):
        there.announce(organisation, [one])
        return real(organisation)

    monkeypatch.setattr(here, "_changing", late)
    assert told(here.announce("o", [two])) == {two.id: one.id}
    second.close()


def test_circles_are_refused_under_concurrency(dsn, metadata):
    """Two nodes merge a and b into each other at the same moment, many times over: never a circle."""
    second = Metadata(dsn)
    nodes = [Registry(metadata), Registry(second)]
    nodes[0].announce("o", [sighting(prompt(0, 0)), sighting(prompt(1, 0))])
    a, b = sighting(prompt(0, 0)).id, sighting(prompt(1, 0)).id

    def merge(node, agent, into):
        try:
            nodes[node].merge("o", agent, into)
        except MergeRefusedError:
            return 0
        return 1

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            done = [pool.submit(merge, 0, a, b), pool.submit(merge, 1, b, a)]
            assert sum(future.result() for future in done) == 1
            names = nodes[0].names("o", now=True)
            assert len(names.aliases) == 1
            nodes[0].unmerge("o", next(iter(names.aliases)))
    second.close()


# --- rulings ----------------------------------------------------------------------------------------------------------
def test_rulings_tell_what_changed_and_of_whom(registry):
    """Merge, rename and split are each told once, of the agent and of all that it stands for."""
    one, two, three, _ = variants(0)
    other = variants(1, 1)[0]
    registry.announce("o", [one, two, other])
    version = registry.rulings("o", None).version
    assert registry.rulings("o", None).canonical == {}
    assert registry.rulings("o", version) == registry.rulings("o", None)

    def news():
        nonlocal version
        found = registry.rulings("o", version)
        assert (found.more, found.version > version) == (False, bool(found.canonical))
        version = found.version
        return {old: (agent.id, agent.name) for old, agent in found.canonical.items()}

    registry.describe("o", one.id, description="No process needs this.")
    assert registry.rulings("o", version).canonical == {}
    version = registry.rulings("o", None).version
    registry.describe("o", one.id, name="Desk")
    assert news() == {one.id: (one.id, "Desk"), two.id: (one.id, "Desk")}
    registry.describe("o", one.id, name="Desk")
    assert news() == {}, "it had that name already"
    registry.describe("o", one.id, name="")
    assert news() == {one.id: (one.id, one.name), two.id: (one.id, one.name)}
    registry.merge("o", one.id, other.id)
    assert news() == dict.fromkeys([one.id, two.id], (other.id, other.name))
    registry.announce("o", [three])
    assert news() == {three.id: (other.id, other.name)}
    registry.unmerge("o", two.id)
    assert news() == {two.id: (two.id, two.name)}
    registry.unmerge("o", one.id)
    assert news() == dict.fromkeys([one.id, three.id], (one.id, one.name))
    assert registry.rulings("o", version + 1_000).canonical.keys() == {one.id, two.id, three.id}, "restored from older"


def test_rulings_come_in_pages(registry, monkeypatch):
    """However many an agent stands for, each page continues where the one before ended, and nothing is left out."""
    monkeypatch.setattr(registry_module, "MAX_RULINGS", 3)
    ids = [agent_id("o", "name", str(number)) for number in range(11)]
    registry.saw(Sighting("o", id_, str(number), "name") for number, id_ in enumerate(ids))
    for id_ in ids[2:]:
        registry.merge("o", id_, ids[1])
    version = registry.rulings("o", None).version
    registry.merge("o", ids[1], ids[0])
    pages = []
    while True:
        found = registry.rulings("o", version)
        pages.append(list(found.canonical))
        assert set(told(found).values()) == {ids[0]}
        version = found.version
        if not found.more:
            break
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert pages[0][0] == ids[1]
    assert sorted(id_ for page in pages for id_ in page) == sorted(ids[1:])
    assert version == registry.rulings("o", None).version


def test_another_nodes_rulings_are_told_at_once(dsn, metadata):
    """A process that asks another node than the operator's hears of it with its next question."""
    second = Metadata(dsn)
    here, there = Registry(metadata), Registry(second)
    one, two = variants(0, 2)
    here.announce("o", [one, two])
    version = there.rulings("o", None).version
    here.unmerge("o", two.id)
    assert told(there.rulings("o", version)) == {two.id: two.id}
    three = variants(0, 3)[2]
    assert set(told(there.announce("o", [three]))) == {three.id}, "it knows the other node's prompts"
    second.close()


# --- what holds whatever happens ------------------------------------------------------------------------------------
def test_restart_keeps_everything(dsn, metadata):
    """A new process on the same database knows the prompts, what was ruled, and the version."""
    before = Registry(metadata)
    one, two, three, four = variants(0)
    before.announce("o", [one, two, three])
    before.unmerge("o", three.id)
    again = Metadata(dsn)
    after = Registry(again)
    assert after.names("o").aliases == before.names("o").aliases == {two.id: one.id}
    assert after.rulings("o", 0) == before.rulings("o", 0)
    assert told(after.announce("o", [four, three])).keys() == {four.id, three.id}
    assert len(after.names("o").records) == 4
    again.close()


def test_organisations_do_not_meet(registry):
    """The same prompt in two organisations: neither's sketch, hint nor version shows in the other."""
    mine = [sighting(prompt(0, passage), organisation="mine") for passage in range(2)]
    theirs = [sighting(prompt(0, 2), organisation="theirs"), sighting(prompt(1, 0), organisation="theirs")]
    registry.announce("mine", mine)
    assert told(registry.announce("theirs", theirs)) == {}
    hint = sighting(prompt(2, 0), organisation="theirs", under=mine[0].id)
    assert told(registry.announce("theirs", [hint])) == {hint.id: hint.id}
    assert registry.names("theirs").aliases == {}
    assert registry.rulings("theirs", 0).canonical == {}
    with pytest.raises(UnknownAgentError):
        registry.merge("theirs", hint.id, mine[0].id)
    same = ["11111111-1111-5111-8111-11111111111" + digit for digit in "12"]  # ids that programs gave may be the same
    for organisation in ("mine", "theirs"):
        registry.saw(Sighting(organisation, id_, id_[-1], "id") for id_ in same)
    for number in range(20):  # so that no version of ours is above theirs
        registry.describe("theirs", hint.id, description=str(number))
    version = registry.rulings("theirs", None).version
    registry.merge("mine", same[0], same[1])
    registry.describe("mine", same[1], name="One")
    assert registry.rulings("theirs", version).canonical == registry.rulings("theirs", 0).canonical == {}


def test_a_failure_inside_leaves_no_trace(registry, monkeypatch):
    """Where the transaction fails, the prompts in memory are those of the database again."""
    one, two = variants(0, 2)
    other = variants(1, 1)[0]
    registry.announce("o", [other])
    real = registry_module.Change.finish
    monkeypatch.setattr(registry_module.Change, "finish", lambda _change: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        registry.announce("o", [one])
    monkeypatch.setattr(registry_module.Change, "finish", real)
    assert told(registry.announce("o", [two])) == {}
    assert registry.names("o").records.keys() == {two.id, other.id}
    assert told(registry.announce("o", [one])) == {one.id: two.id}


def test_prompts_beyond_the_bound_stand_alone(registry, monkeypatch):
    """Past the bound a new prompt is still compared with the first ones, but nothing is compared with it."""
    monkeypatch.setattr(prompts_module, "MAX_PROMPTS", 1)
    billing, parcels = variants(0, 2), variants(1, 2)
    registry.announce("o", [billing[0]])
    assert told(registry.announce("o", [billing[1], *parcels])) == {billing[1].id: billing[0].id}


def test_organisations_take_turns_in_memory(registry, monkeypatch):
    """Above the bound of all, the one that was longest quiet leaves memory, and finds its prompts again."""
    monkeypatch.setattr(prompts_module, "MAX_CHARACTERS", 1.5 * len(variants(0, 1)[0].sketch))
    for organisation in ("a", "b"):
        registry.announce(organisation, [sighting(prompt(0, 0), organisation=organisation)])
    assert list(registry._prompts._books) == ["b"]
    two = sighting(prompt(0, 1), organisation="a")
    assert told(registry.announce("a", [two])) == {two.id: sighting(prompt(0, 0), organisation="a").id}


@pytest.mark.parametrize(
    "sketch", ["", "x", "\0", "AAAA", "é" * 8, "A" * 13_701, "A" * 13_700, "AQ" * 40, "../..", "\ud800"]
)
def test_hostile_sketches(registry, sketch):
    """What is no sketch is refused with its reason; its agent and the others are registered and judged."""
    one, two = variants(0, 2)
    bad = Sighting("o", agent_id("o", "fingerprint", "f"), "\0 <b>", "fingerprint", "f\0", sketch)
    answer = registry.announce("o", [one, bad, two])
    assert answer.refused.keys() == {bad.id}
    assert answer.refused[bad.id].startswith("sketch: ")
    assert told(answer) == {two.id: one.id}
    assert registry.names("o").records[bad.id].sketched is False


# --- over HTTP --------------------------------------------------------------------------------------------------------
def announced(found, org, *, under=None):
    body = {
        "id": agent_id(org.name, "fingerprint", found.digest),
        "name": found.name,
        "source": "fingerprint",
        "key": found.digest,
        "fingerprint": found.digest,
        "sketch": found.sketch.encode(),
    }
    return body | ({"with": under} if under else {})


def call(recorder, found, agent):
    recorder.call(
        attributes={
            semconv.AGENT_ID: agent,
            semconv.AGENT_NAME: found.name,
            semconv.AGENT_SOURCE: "fingerprint",
            semconv.PROMPT_FINGERPRINT: found.digest,
        }
    )


def test_calls_follow_their_prompt(org, recorder):
    """Whatever a process counted a call under, a split moves that prompt's calls, past and future, and no other."""
    one, two = prompt(0, 0), prompt(0, 1)
    sent = [announced(one, org), announced(two, org)]
    first, second = (agent["id"] for agent in sent)
    answer = org.announce(sent).json()
    assert answer == {"canonical": {second: {"id": first, "name": "Billing clerk"}}, "version": answer["version"]}
    for found in (one, two, two):
        call(recorder, found, first)
    call(recorder, prompt(0, 3), first)  # one that was never announced
    org.store(recorder.spans())
    assert {call_["agent_id"] for call_ in org.items("calls")} == {first}
    assert len(org.items("agents")) == 1
    detail = org.get(f"agents/{second}")
    assert detail["id"] == first
    assert [
        (p["agent_id"], p["fingerprint"], p["name"], p["calls"], p["ruled_by"], p["own"]) for p in detail["prompts"]
    ] == [
        (first, one.digest, "Billing clerk", 1, None, True),
        (second, two.digest, "Billing clerk", 2, "sketch", False),
    ]
    assert all(p["first_seen"] and p["last_seen"] for p in detail["prompts"])
    assert len(org.items("calls", agent_id=second, fingerprint=two.digest)) == 2
    assert [agent["totals"]["calls"] for agent in org.items("agents", fingerprint=two.digest)] == [2]
    assert org.items("agents", fingerprint="unknown") == []

    alone = org.request("DELETE", f"agents/{second}/merge").json()
    assert (alone["id"], alone["totals"]["calls"], alone["prompts"][0]["ruled_by"]) == (second, 2, "operator")
    call(recorder, two, first)  # the process has not heard of it yet
    org.store(recorder.spans())
    totals = {agent["id"]: agent["totals"]["calls"] for agent in org.items("agents")}
    assert totals == {first: 2, second: 3}

    back = org.request("POST", f"agents/{second}/merge", json={"into": first}).json()
    assert (back["totals"]["calls"], [p["ruled_by"] for p in back["prompts"]]) == (5, [None, "operator"])
    org.request("DELETE", f"agents/{first}/merge")
    totals = {agent["id"]: agent["totals"]["calls"] for agent in org.items("agents")}
    assert totals == {first: 2, second: 3}


def test_rulings_over_http(org, make_organisation):
    """Processes ask with the ingest key, from a version on; bad versions and other keys are refused."""
    url = f"{org.server.url}/v1/agents/rulings"

    def ask(key=org.ingest_key, **params):
        return org.client.get(url, params=params, headers={"Authorization": f"Bearer {key}"})

    assert ask().json() == {"version": 0, "canonical": {}, "more": False}
    one, two = announced(prompt(0, 0), org), announced(prompt(0, 1), org)
    version = org.announce([one, two]).json()["version"]
    merged = {two["id"]: {"id": one["id"], "name": "Billing clerk"}}
    assert ask(since=0).json() == {"version": version, "canonical": merged, "more": False}
    assert ask(since=version).json() == {"version": version, "canonical": {}, "more": False}
    org.request("PATCH", f"agents/{one['id']}", json={"name": "Desk"})
    assert {agent["name"] for agent in ask(since=version).json()["canonical"].values()} == {"Desk"}
    for bad in ("-1", "x", "", "1.5", "9" * 30, "\u0661"):
        refused = ask(since=bad)
        assert (refused.status_code, "since=" in refused.json()["detail"]) == (400, True), bad
    assert ask(org.read_key).status_code == 403
    assert ask("nothing").status_code == 401
    other = make_organisation()
    assert ask(other.ingest_key, since=0).json() == {"version": 0, "canonical": {}, "more": False}


def test_bad_announcements_over_http(org):
    """A sketch that cannot be used is named in the answer; a `with` that is no id is refused; 500 long ones fit."""
    one, two = announced(prompt(0, 0), org), announced(prompt(0, 1), org)
    answer = org.announce([one, two | {"sketch": "A" * 13_701}])
    assert answer.status_code == 200
    assert answer.json()["refused"] == {two["id"]: "sketch: a sketch has at most 13700 characters, not 13701"}
    assert len(org.items("agents")) == 2
    assert org.announce([one], key=org.read_key).status_code == 403
    refused = org.announce([one | {"with": "nobody"}])
    assert (refused.status_code, "agents.0.with" in refused.json()["detail"]) == (400, True)
    many = [
        {**one, "id": agent_id(org.name, "fingerprint", str(n)), "fingerprint": str(n), "sketch": "A" * 13_700}
        for n in range(500)
    ]
    assert len(org.announce(many).json()["refused"]) == 500
