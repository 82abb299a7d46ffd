"""The registry of agents: known by traffic or by announcement, named, described and merged by operators.

An agent's id never changes on a stored span. What operators decide is applied when reading: a `Names` snapshot says
which id stands for which and how it is called, for past and future calls alike. A merge is a pointer from one agent to
another, so undoing it is removing the pointer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import insert, select, update

from egisai.identity import name_key
from egisai_platform import metadata as db
from egisai_platform.metadata import Metadata

MAX_TEXT: Final = 1000
"""Characters of a name or description; the SDK refuses names over 256."""

_NAMES_TTL_S: Final = 2.0
"""How long another node's decision may go unseen where several share a metadata database; our own are seen at once."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An agent as traffic or an announcement tells of it."""

    organisation: str
    id: str
    name: str
    """Empty when nobody gave one."""
    source: str
    fingerprint: str | None = None


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


class UnknownAgentError(LookupError):
    """No agent of the organisation has this id."""


class MergeRefusedError(ValueError):
    """The merge makes no sense; the text says why."""


class Names:
    """What an organisation's registry said at one moment: who stands for whom, and how they are called."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: Final[Mapping[str, Record]] = {record.id: record for record in records}
        self.aliases: Final[Mapping[str, str]] = {
            record.id: self._root(record.id) for record in self.records.values() if record.merged_into
        }
        """Every merged id and the id it now stands for."""
        self._members: dict[str, list[str]] = {}
        for alias, root in self.aliases.items():
            self._members.setdefault(root, []).append(alias)

    def canonical(self, agent_id: str) -> str:
        """The id that stands for this one; itself when it was not merged."""
        return self.aliases.get(agent_id, agent_id)

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

    def _root(self, agent_id: str) -> str:
        seen = {agent_id}
        while (record := self.records.get(agent_id)) and record.merged_into and record.merged_into not in seen:
            agent_id = record.merged_into
            seen.add(agent_id)
        return agent_id


class Registry:
    """The agents table. Every method may be called from any thread."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._lock = threading.Lock()
        self._names: dict[str, tuple[float, Names]] = {}

    def names(self, organisation: str) -> Names:
        """The organisation's registry as of now."""
        with self._lock:
            made, names = self._names.get(organisation, (0.0, None))
        if names is not None and time.monotonic() - made < _NAMES_TTL_S:
            return names
        started = time.monotonic()
        table = db.agents
        with self._metadata.reading() as connection:
            rows = connection.execute(select(table).where(table.c.organisation == organisation)).all()
        names = Names(
            Record(
                row.id,
                row.operator_name or row.name,
                row.name,
                row.source,
                row.description,
                row.fingerprint,
                row.merged_into,
            )
            for row in rows
        )
        with self._lock:
            self._names[organisation] = (started, names)
        return names

    def saw(self, sightings: Iterable[Sighting]) -> None:
        """Records agents that are new or that got a name; costs nothing for those already known."""
        news: dict[tuple[str, str], Sighting] = {}
        for sighting in sightings:
            known = self.names(sighting.organisation).records.get(sighting.id)
            if known is None or _tells_more(sighting, known.heard_name, known.fingerprint):
                news[sighting.organisation, sighting.id] = sighting
        if not news:
            return
        table = db.agents
        with self._metadata.writing() as connection:
            for sighting in news.values():
                mine = (table.c.organisation == sighting.organisation, table.c.id == sighting.id)
                known = connection.execute(select(table.c.name, table.c.fingerprint).where(*mine)).first()
                if known is None:
                    connection.execute(
                        insert(table).values(
                            organisation=sighting.organisation,
                            id=sighting.id,
                            name=sighting.name[:MAX_TEXT],
                            source=sighting.source,
                            description="",
                            fingerprint=sighting.fingerprint,
                            first_seen=int(time.time()),
                        )
                    )
                elif _tells_more(sighting, known.name, known.fingerprint):
                    connection.execute(
                        update(table)
                        .where(*mine)
                        .values(
                            name=sighting.name[:MAX_TEXT] or known.name,
                            fingerprint=sighting.fingerprint or known.fingerprint,
                        )
                    )
        self._forget({organisation for organisation, _ in news})

    def describe(
        self, organisation: str, agent_id: str, *, name: str | None = None, description: str | None = None
    ) -> None:
        """Renames and describes an agent; None keeps what is there, an empty name gives it back its own.

        Raises:
            UnknownAgentError: there is no such agent.
            ValueError: a text is too long.
        """
        values: dict[str, str | None] = {}
        for column, text in (("operator_name", name), ("description", description)):
            if text is None:
                continue
            if len(text) > MAX_TEXT:
                raise ValueError(f"{'name' if column == 'operator_name' else column} is over {MAX_TEXT} characters")
            values[column] = text.strip() or (None if column == "operator_name" else "")
        record = self._existing(organisation, agent_id)
        if values:
            self._update(organisation, record.id, values)

    def merge(self, organisation: str, agent_id: str, into: str) -> None:
        """Makes every call of one agent, past and future, a call of the other.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: an agent would, in the end, be merged into itself.
        """
        record, target = self._existing(organisation, agent_id), self._existing(organisation, into)
        if self.names(organisation).canonical(target.id) == record.id:
            raise MergeRefusedError(f"agent {into} is itself, or is merged into, agent {agent_id}")
        self._update(organisation, record.id, {"merged_into": target.id})

    def unmerge(self, organisation: str, agent_id: str) -> None:
        """Undoes `merge`.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: it is not merged.
        """
        if self._existing(organisation, agent_id).merged_into is None:
            raise MergeRefusedError(f"agent {agent_id} is not merged into another")
        self._update(organisation, agent_id, {"merged_into": None})

    def _existing(self, organisation: str, agent_id: str) -> Record:
        self._forget({organisation})
        record = self.names(organisation).records.get(agent_id)
        if record is None:
            raise UnknownAgentError(f"there is no agent {agent_id}")
        return record

    def _update(self, organisation: str, agent_id: str, values: Mapping[str, str | None]) -> None:
        table = db.agents
        with self._metadata.writing() as connection:
            connection.execute(
                update(table).where(table.c.organisation == organisation, table.c.id == agent_id).values(**values)
            )
        self._forget({organisation})

    def _forget(self, organisations: Iterable[str]) -> None:
        with self._lock:
            for organisation in organisations:
                self._names.pop(organisation, None)


def _tells_more(sighting: Sighting, name: str, fingerprint: str | None) -> bool:
    """Whether a sighting adds to what is known. An id given by the program is whoever the program last said it is."""
    renamed = sighting.source == "id" and sighting.name != name
    return bool((sighting.name and (not name or renamed)) or (sighting.fingerprint is not None and fingerprint is None))
