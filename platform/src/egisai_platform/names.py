"""What an organisation's registry said at one moment: who stands for whom, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from egisai.identity import name_key

Ruler = Literal["sketch", "operator"]
"""Who decided that an agent is merged or stands alone: the prompts' likeness, or a person, who has the last word."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the registry."""

    id: str
    name: str
    """What people see: the operator's name, else the first one heard."""
    heard_name: str
    source: str
    description: str
    fingerprint: str | None
    merged_into: str | None
    first_seen: int
    """Seconds since the epoch, here and below."""
    sketched: bool = False
    """Whether its likeness to other prompts has been looked at."""
    prompts: int = 1
    """From how many prompts of its template the sketch was learnt."""
    ruled_by: Ruler | None = None
    ruled_on: int | None = None
    split_from: str | None = None
    """The agent that an operator took it out of."""


class Names:
    """A snapshot of all of it, as of `version`. What takes all of it to answer is worked out when first asked."""

    def __init__(self, version: int, records: Mapping[str, Record]) -> None:
        self.version: Final = version
        self.records: Final = records

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Every merged id and the id it now stands for."""
        return {record.id: self.canonical(record.id) for record in self.records.values() if record.merged_into}

    def canonical(self, agent_id: str) -> str:
        """The id that stands for this one; itself when it was not merged."""
        seen = {agent_id}
        while (record := self.records.get(agent_id)) and record.merged_into and record.merged_into not in seen:
            agent_id = record.merged_into
            seen.add(agent_id)
        return agent_id

    def name(self, agent_id: str, heard: str = "") -> str:
        """What the agent is called, else what the span says, else the start of its id."""
        record = self.records.get(self.canonical(agent_id))
        return (record.name if record else "") or heard or agent_id[:8]

    def merged_ids(self, agent_id: str) -> Sequence[str]:
        """The ids that stand for this canonical one, sorted."""
        return sorted(self._members.get(agent_id, ()))

    def ids(self, agent_id: str) -> list[str]:
        """Every id under which spans of this agent are stored."""
        root = self.canonical(agent_id)
        return [root, *self.merged_ids(root)]

    def members(self, agent_id: str) -> Iterator[Record]:
        """The agent itself, where it is known, and everything merged into it."""
        for member in self.ids(agent_id):
            record = self.records.get(member)
            if record is not None:
                yield record

    def followers(self, agent_id: str) -> list[str]:
        """The ids that leave with this one when it is taken out of its agent: what was merged into it."""
        found = [agent_id]
        for member in found:
            found += self._children.get(member, ())
        return found[1:]

    def ids_named(self, name: str) -> list[str]:
        """Every id under which spans of the agents with this name (any case; today's or the first one) are stored."""
        key = name_key(name)
        found = {
            member
            for record in self.records.values()
            if key in (name_key(record.name), name_key(record.heard_name))
            for member in self.ids(record.id)
        }
        return sorted(found)

    @cached_property
    def _members(self) -> Mapping[str, Sequence[str]]:
        return _grouped((root, alias) for alias, root in self.aliases.items())

    @cached_property
    def _children(self) -> Mapping[str, Sequence[str]]:
        return _grouped((record.merged_into, record.id) for record in self.records.values() if record.merged_into)


def _grouped(pairs: Iterable[tuple[str, str]]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
