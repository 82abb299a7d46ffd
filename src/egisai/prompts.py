"""Which prompts are one agent's: grouped by template in this process, until the platform says otherwise.

A *group* is what is known of one agent: the sketch of its template, which loses what turns out to vary, and how well
it is known. A new prompt

    is laid beside the groups that are most like it            (`fingerprint.sketch`)
    -> and is of one template with one of them                 joins it; what it lacks is not the template's
    -> or has all of a template known by several prompts       joins it
    -> else                                                    is a group of its own, up to a limit

A group of one prompt that was seen once says little. When it turns out that all it has beside a well-known template is
text that never came again, it is put under that template's agent: what it was counted under until then is an alias.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from .fingerprint import Fingerprint
from .guard import count, log_once
from .identity import Identity

if TYPE_CHECKING:
    from .fingerprint.sketch import Comparison, Index, Sentence, Sketch

MAX_AGENTS: Final = 1_000
"""Agents that a process tells apart by their prompts alone. More is a text that varies as no template does, or a
program that should name its agents."""

_MAX_TOLD: Final = 64
"""Prompts of one agent that the platform is told of, so that an operator can look at them and split them."""

_WELL_KNOWN: Final = (3, 16)
"""Prompts from which an agent's template was learnt, at which the platform is told of it: two processes whose first
prompts differ in what nobody can tell apart then still meet there."""

_ONE_OFFS: Final = 8
"""Prompts that differ in whole sentences and were each seen once: so many are not roles, which come again."""

_AGAIN: Final = 6
"""Prompts of an agent in which one more sentence comes word for word before it is taken for another job: what people
are, what was retrieved and what is remembered seldom stays while all around it varies."""

_SHARE: Final = 6
"""The sentence comes in at least one of so many prompts: a passage that is in demand does not."""

_MAX_EXTRA: Final = 128
"""Sentences of an agent's newest prompts that are remembered, by a hash, to see whether they come again."""


class Place(NamedTuple):
    """Where a prompt belongs.

    Attributes:
        leader: id of the agent, before any ruling; None where there are too many.
        name: what that agent is called.
        digest: of the prompt itself where the platform is told of it, else of the one by which the agent is known.
        is_news: whether the platform should hear of this prompt.
        joined: agents, by id and first prompt, that turned out to be this one.
        learnt: the agent's template, when the platform should hear of it.
    """

    leader: str | None
    name: str
    digest: str
    is_news: bool
    joined: tuple[tuple[str, Fingerprint], ...] = ()
    learnt: Template | None = None


class Template(NamedTuple):
    """What is known of an agent, for other processes.

    Attributes:
        id: the agent's.
        first: the prompt by which it is known, with the sketch of what was learnt since.
        prompts: from how many it was learnt.
        comes_again: whether the first was met more than once.
        encoded: the sketch, where it was not decoded yet.
    """

    id: str
    first: Fingerprint
    prompts: int
    comes_again: bool
    encoded: str | None = None


class _Group:
    """What is known of one agent."""

    __slots__ = ("comes_again", "extra", "first", "is_met", "prompts", "sketch", "told", "told_at")

    def __init__(self, first: Fingerprint, prompts: int = 1, *, comes_again: bool = False) -> None:
        self.first = first
        self.sketch = first.sketch
        self.prompts = prompts
        self.comes_again = comes_again
        self.is_met = False  # by this process, and not only by one before it
        self.told: set[str] = set()
        self.told_at = 1
        self.extra: dict[int, tuple[int, int, str]] = {}  # times, prompts at the first, own id of the last

    def template(self, own_id: str) -> Template:
        first = Fingerprint(self.first.digest, self.first.name, self.sketch)
        return Template(own_id, first, self.prompts, self.comes_again)

    def repeated(self, extra: Iterable[Sentence], own_id: str) -> set[int]:
        """Which of the sentences that a prompt has beside the template have come so often that they are a job."""
        found: set[int] = set()
        for hashed, *_ in extra:
            times, since, last = self.extra.pop(hashed, (0, self.prompts, ""))
            times += last != own_id
            self.extra[hashed] = times, since, own_id
            if times >= _AGAIN and times * _SHARE >= self.prompts - since:
                found.add(hashed)
        while len(self.extra) > _MAX_EXTRA:
            del self.extra[next(iter(self.extra))]
        return found

    @property
    def is_one_off(self) -> bool:
        return self.prompts == 1 and not self.comes_again


class Prompts:
    """The prompts that this process met. Safe to use from many threads."""

    def __init__(self, remembered: Iterable[Template] = ()) -> None:
        self._lock = threading.Lock()
        self._remembered = tuple(remembered)  # until the first prompt comes: decoding takes time
        self._groups: dict[str, _Group] = {}
        self._joined: dict[str, str] = {}
        self._index: Index | None = None
        self.revision = 0
        """Moves when there is more to remember."""

    def place(self, own_id: str, prompt: Fingerprint, rulings: Mapping[str, Identity]) -> Place:
        """Where the prompt, whose agent would have `own_id`, belongs, given what was ruled of which id."""
        with self._lock:
            if self._remembered:
                self._restore()
            leader = self._leader(own_id)
            template: Sketch | None = None
            joined: list[tuple[str, Fingerprint]] = []
            if leader != own_id and _contradicts(rulings, own_id, leader):
                del self._joined[own_id]
                leader = own_id
            if leader in self._groups:
                self._groups[leader].comes_again = True
            elif prompt.sketch is None:
                if not self._lead(own_id, prompt):
                    return Place(None, prompt.name, prompt.digest, False)
            else:
                near = [pair for pair in self._near(prompt.sketch) if not _contradicts(rulings, own_id, pair[0])]
                leader, template = self._member(near, own_id, prompt.sketch)
                if leader == own_id and not self._lead(own_id, prompt, template):
                    return Place(None, prompt.name, prompt.digest, False)
                allowed = [pair for pair in near if not _contradicts(rulings, pair[0], leader)]
                joined = self._settle(leader, allowed, rulings)
                leader = self._leader(leader)
            group = self._groups[leader]
            group.is_met = True
            group.told.update(key for key, _ in joined)
            is_news = own_id not in group.told and len(group.told) < _MAX_TOLD
            if is_news:
                group.told.add(own_id)
                if own_id != leader:
                    self._joined[own_id] = leader
                elif template is not None:
                    is_news = False  # told as a template, lest it be put under the one that it has more than
            digest = prompt.digest if own_id in group.told else group.first.digest
            learnt = None
            if any(group.told_at < n <= group.prompts for n in _WELL_KNOWN):
                group.told_at = group.prompts
                learnt = group.template(leader)
            return Place(leader, group.first.name, digest, is_news, tuple(joined), learnt)

    def remembered(self) -> list[Template]:
        """All that is worth keeping for the next process, those met by this one first, the best known before others."""
        with self._lock:
            return self._templates()

    def anew(self) -> Prompts:
        """The same knowledge in a forked child, where nobody will ever release a lock that another thread held."""
        return Prompts(self._templates())

    def _templates(self) -> list[Template]:
        known = sorted(self._groups.items(), key=lambda item: (not item[1].is_met, -item[1].prompts))
        templates = [group.template(own_id) for own_id, group in known if group.sketch is not None]
        return [*templates, *self._remembered]

    def _restore(self) -> None:
        from .fingerprint.sketch import Sketch

        remembered, self._remembered = self._remembered, ()
        for template in remembered:
            first = template.first
            if template.encoded is not None:
                try:
                    first = Fingerprint(first.digest, first.name, Sketch.decode(template.encoded))
                except ValueError:  # of another version of ours
                    count("remembered prompt not readable")
            if first.sketch is not None and template.id not in self._groups:
                self._groups[template.id] = _Group(first, template.prompts, comes_again=template.comes_again)
                self._put(template.id, first.sketch)

    def _leader(self, own_id: str) -> str:
        while own_id in self._joined:
            own_id = self._joined[own_id]
        return own_id

    def _near(self, sketch: Sketch) -> list[tuple[str, Comparison]]:
        """The groups most like a prompt, best first."""
        from .fingerprint.sketch import compare

        near = [(key, compare(core, sketch)) for key, core in (self._index.near(sketch) if self._index else ())]
        near.sort(key=lambda pair: -pair[1].alike)
        return near

    def _member(self, near: list[tuple[str, Comparison]], own_id: str, sketch: Sketch) -> tuple[str, Sketch | None]:
        """The group that a prompt joins; or its own, with the template that it has, where that is known already."""
        template: Sketch | None = None
        for key, found in near:
            group = self._groups[key]
            if found.is_contained if group.prompts > 1 else found.is_one:
                extra = sketch.beside(found.extra)
                jobs = group.repeated(extra, own_id)
                if not jobs:
                    self._learn(key, group, found)
                    return key, None
                if template is None:
                    kept = {at for one in extra if one.hashed in jobs for at in range(one.start, one.end)}
                    template = sketch.without(found.extra, kept)
        return own_id, template

    def _learn(self, key: str, group: _Group, found: Comparison) -> None:
        group.prompts += 1
        if found.missing or group.prompts == 2 or group.prompts in _WELL_KNOWN:
            self.revision += 1
        if found.missing and group.sketch is not None:
            group.sketch = group.sketch.without(found.missing)
            self._put(key, group.sketch)

    def _lead(self, own_id: str, prompt: Fingerprint, template: Sketch | None = None) -> bool:
        if len(self._groups) >= MAX_AGENTS:
            count("prompt over the limit of agents")
            log_once(
                "over %s different system prompts in this process: further ones are attributed to the app. "
                "Name the agent where it is called: egisai.set_context(agent=...)",
                MAX_AGENTS,
            )
            return False
        group = self._groups[own_id] = _Group(prompt)
        if template is not None:
            group.sketch, group.prompts, group.comes_again = template, _AGAIN, True  # of so many prompts it was seen
        self.revision += 1
        if group.sketch is not None:
            self._put(own_id, group.sketch)
        return True

    def _put(self, own_id: str, sketch: Sketch) -> None:
        """Let the group be found by its sketch, or by its new one."""
        if self._index is None:
            from .fingerprint.sketch import Index

            self._index = Index()
        self._index.add(own_id, sketch)

    def _settle(
        self, leader: str, near: list[tuple[str, Comparison]], rulings: Mapping[str, Identity]
    ) -> list[tuple[str, Fingerprint]]:
        """Put together what turns out to be of one template, under what is best known."""
        from .fingerprint.sketch import compare

        group = self._groups[leader]
        if group.sketch is None:
            return []
        others = [key for key, _ in near if key != leader and key in self._groups]
        ones = [key for key in others if self._groups[key].is_one_off]
        if group.prompts > 1:
            joined: list[str] = []
            for key in others:
                one = self._groups[key]
                if one.sketch is not None:
                    found = compare(group.sketch, one.sketch)
                    if found.is_contained and (
                        one.is_one_off
                        or found.is_same
                        or (one.prompts * _SHARE < group.prompts and not one.comes_again)  # of a passage in demand
                    ):
                        joined.append(key)
        else:
            joined = self._slot(near, ones) if group.is_one_off else []
        best = max((leader, *joined), key=lambda key: self._groups[key].prompts)
        if best != leader and not any(_contradicts(rulings, key, best) for key in (leader, *joined)):
            joined = [leader, *(key for key in joined if key != best)]
            leader = best
        return [(key, self._join(key, leader)) for key in joined]

    def _slot(self, near: list[tuple[str, Comparison]], ones: list[str]) -> list[str]:
        """Where a prompt and many that were seen once differ in one and the same place, what stands there varies."""
        by_gap: dict[frozenset[int], list[str]] = {}
        none: list[str] = []
        for key, found in near:
            if key in ones and found.is_same_job and len(found.gaps) == 1:
                by_gap.setdefault(found.gaps, []).append(key)
        return next((keys for keys in by_gap.values() if len(keys) >= _ONE_OFFS - 1), none)

    def _join(self, key: str, leader: str) -> Fingerprint:
        """Put one group under another."""
        from .fingerprint.sketch import compare

        group, one = self._groups[leader], self._groups.pop(key)
        self._joined[key] = leader
        if self._index is not None and group.sketch is not None and one.sketch is not None:
            self._index.discard(key)
            self._learn(leader, group, compare(group.sketch, one.sketch))
        return one.first


def _contradicts(rulings: Mapping[str, Identity], own_id: str, leader: str) -> bool:
    """Whether somebody ruled that a prompt is not of this agent."""
    ruling, other = rulings.get(own_id), rulings.get(leader)
    return ruling is not None and ruling.id != (leader if other is None else other.id)
