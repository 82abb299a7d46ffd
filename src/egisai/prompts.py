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
from typing import TYPE_CHECKING, Final, NamedTuple

from .fingerprint import Fingerprint
from .guard import count, log_once

if TYPE_CHECKING:
    from .fingerprint.sketch import Comparison, Index, Sketch

MAX_AGENTS: Final = 1_000
"""Agents that a process tells apart by their prompts alone. More is a text that varies as no template does, or a
program that should name its agents."""

_MAX_TOLD: Final = 64
"""Prompts of one agent that the platform is told of, so that an operator can look at them and split them."""

_ONE_OFFS: Final = 8
"""Prompts that differ in whole sentences and were each seen once: so many are not roles, which come again."""


class Place(NamedTuple):
    """Where a prompt belongs.

    Attributes:
        leader: id of the agent, before any ruling; None where there are too many.
        name: what that agent is called.
        digest: of the prompt itself where the platform is told of it, else of the one by which the agent is known.
        is_news: whether the platform should hear of this prompt.
        joined: agents, by id and first prompt, that turned out to be this one.
    """

    leader: str | None
    name: str
    digest: str
    is_news: bool
    joined: tuple[tuple[str, Fingerprint], ...] = ()


class _Group:
    """What is known of one agent."""

    __slots__ = ("comes_again", "first", "prompts", "sketch", "told")

    def __init__(self, first: Fingerprint) -> None:
        self.first = first
        self.sketch = first.sketch
        self.prompts = 1
        self.comes_again = False
        self.told: set[str] = set()

    @property
    def is_one_off(self) -> bool:
        return self.prompts == 1 and not self.comes_again


class Prompts:
    """The prompts that this process met. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._joined: dict[str, str] = {}
        self._index: Index | None = None

    def place(self, own_id: str, prompt: Fingerprint, *, apart: bool = False) -> Place:
        """Where the prompt, whose agent would have `own_id`, belongs; with `apart`, under nobody else."""
        with self._lock:
            leader = self._joined.get(own_id, own_id)
            joined: list[tuple[str, Fingerprint]] = []
            if leader in self._groups:
                self._groups[leader].comes_again = True
            elif apart or prompt.sketch is None:
                if not self._lead(own_id, prompt):
                    return Place(None, prompt.name, prompt.digest, False)
            else:
                near = self._near(prompt.sketch)
                leader = self._member(near) or own_id
                if leader == own_id and not self._lead(own_id, prompt):
                    return Place(None, prompt.name, prompt.digest, False)
                joined = self._settle(leader, near)
                leader = self._joined.get(leader, leader)
            group = self._groups[leader]
            is_news = own_id not in group.told and len(group.told) < _MAX_TOLD
            if is_news:
                group.told.add(own_id)
            digest = prompt.digest if own_id in group.told else group.first.digest
            return Place(leader, group.first.name, digest, is_news, tuple(joined))

    def _near(self, sketch: Sketch) -> list[tuple[str, Comparison]]:
        """The groups most like a prompt, best first."""
        from .fingerprint.sketch import compare

        near = [(key, compare(core, sketch)) for key, core in (self._index.near(sketch) if self._index else ())]
        near.sort(key=lambda pair: -pair[1].alike)
        return near

    def _member(self, near: list[tuple[str, Comparison]]) -> str | None:
        """The group that a prompt joins."""
        for key, found in near:
            group = self._groups[key]
            if found.is_contained if group.prompts > 1 else found.is_one:
                self._learn(key, group, found)
                return key
        return None

    def _learn(self, key: str, group: _Group, found: Comparison) -> None:
        group.prompts += 1
        if found.missing and group.sketch is not None and self._index is not None:
            group.sketch = group.sketch.without(found.missing)
            self._index.add(key, group.sketch)

    def _lead(self, own_id: str, prompt: Fingerprint) -> bool:
        if len(self._groups) >= MAX_AGENTS:
            count("prompt over the limit of agents")
            log_once(
                "over %s different system prompts in this process: further ones are attributed to the app. "
                "Name the agent where it is called: egisai.set_context(agent=...)",
                MAX_AGENTS,
            )
            return False
        self._groups[own_id] = _Group(prompt)
        if prompt.sketch is not None:
            if self._index is None:
                from .fingerprint.sketch import Index

                self._index = Index()
            self._index.add(own_id, prompt.sketch)
        return True

    def _settle(self, leader: str, near: list[tuple[str, Comparison]]) -> list[tuple[str, Fingerprint]]:
        """Put one-offs under the template that they turn out to be of."""
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
                    if found.is_contained if one.is_one_off else found.is_same:
                        joined.append(key)
        elif group.is_one_off and len(ones) >= _ONE_OFFS - 1:
            joined = [key for key, found in near if key in ones and found.is_same_job]
            if len(joined) < _ONE_OFFS - 1:
                return []
        else:
            return []
        return [(key, self._join(key, leader)) for key in joined]

    def _join(self, key: str, leader: str) -> Fingerprint:
        """Put one group under another."""
        from .fingerprint.sketch import compare

        group, one = self._groups[leader], self._groups.pop(key)
        self._joined[key] = leader
        for alias, old in self._joined.items():
            if old == key:
                self._joined[alias] = leader
        if self._index is not None and group.sketch is not None and one.sketch is not None:
            self._index.discard(key)
            self._learn(leader, group, compare(group.sketch, one.sketch))
        return one.first
