"""The registry of agents: known by traffic or by announcement, named, described and merged by operators.

An agent's id never changes on a stored span. What operators decide is applied when reading: a `Names` snapshot says
which id stands for which and how it is called, for past and future calls alike. A merge is a pointer from one agent to
another, so undoing it is removing the pointer. Near-identical prompts are merged by their sketches when they are
announced, once, and never against an operator's word.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Row, select

from egisai.fingerprint.sketch import Sketch
from egisai_platform import metadata as db
from egisai_platform.metadata import Metadata
from egisai_platform.names import Names, Record
from egisai_platform.prompts import Book, Prompts
from egisai_platform.rulings import Change, MergeRefusedError, UnknownAgentError

__all__ = [
    "MAX_TEXT",
    "Answer",
    "MergeRefusedError",
    "Names",
    "Record",
    "Registry",
    "Rulings",
    "Sighting",
    "UnknownAgentError",
]

MAX_TEXT: Final = 1000
"""Characters of a name or description; the SDK refuses names over 256."""

MAX_RULINGS: Final = 1000
"""Rulings of a page."""

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
    sketch: str | None = None
    """Of its prompt, as `egisai.fingerprint.sketch.Sketch.encode` writes it; hostile until it is decoded."""
    counted_under: str | None = None
    """The agent under which the announcing process counts it until it is told otherwise."""
    prompts: int = 1
    """From how many prompts of its template the process has learnt the sketch."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an announcing process has to know: `rulings` since the version it first heard tell the rest."""

    version: int
    canonical: Mapping[str, Record]
    """For ids that are not simply themselves: the agent that each of them is."""
    refused: Mapping[str, str]
    """For ids whose sketch cannot be used: why. They are registered all the same."""


@dataclass(frozen=True, slots=True)
class Rulings:
    """What was ruled since a version, oldest first, as of `version`."""

    version: int
    canonical: Mapping[str, Record]
    more: bool


@dataclass(slots=True)
class _Snapshot:
    names: Names
    checked_at: float


class Registry:
    """The agents table. Every method may be called from any thread."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._prompts = Prompts(metadata)
        self._lock = threading.Lock()
        self._snapshots: dict[str, _Snapshot] = {}
        self._changes: dict[str, int] = {}
        """How many changes of ours each organisation has seen: a snapshot read across one is out of date."""

    # --- reading ---------------------------------------------------------------------------------------------------
    def names(self, organisation: str, *, now: bool = False) -> Names:
        """The organisation's registry, with every decision made here, and others' of two seconds ago (`now`: all)."""
        with self._lock:
            known = self._snapshots.get(organisation)
            changes = self._changes.get(organisation, 0)
        started = time.monotonic()
        if known is not None and not now and started - known.checked_at < _NAMES_TTL_S:
            return known.names
        names = self._read(organisation, known.names if known else None)
        with self._lock:
            newest = self._snapshots.get(organisation)
            if newest is None or newest.names.version <= names.version:
                in_time = self._changes.get(organisation, 0) == changes
                self._snapshots[organisation] = _Snapshot(names, started if in_time else -_NAMES_TTL_S)
        return names

    def rulings(self, organisation: str, since: int | None) -> Rulings:
        """What was merged, split or renamed after version `since`; nothing when that is None.

        A version that is not reached yet, as after a database was restored, is taken for 0: everything ever ruled.
        """
        names = self.names(organisation, now=True)
        if since is None or since == names.version:
            return Rulings(names.version, {}, more=False)
        table = db.agents
        query = (
            select(table.c.id, table.c.ruled_version)
            .where(
                table.c.organisation == organisation,
                table.c.ruled_version > (since if since < names.version else 0),
                table.c.ruled_version <= names.version,
            )
            .order_by(table.c.ruled_version)
            .limit(MAX_RULINGS + 1)
        )
        with self._metadata.reading() as connection:
            rows = connection.execute(query).all()
        page = rows[:MAX_RULINGS]
        more = len(rows) > len(page)
        return Rulings(
            version=page[-1].ruled_version if more else names.version,
            canonical={row.id: names.records[names.canonical(row.id)] for row in page},
            more=more,
        )

    # --- what is told ------------------------------------------------------------------------------------------------
    def saw(self, sightings: Iterable[Sighting]) -> None:
        """Records agents that are new or that got a name; costs nothing for those already known."""
        news: dict[str, dict[str, Sighting]] = {}
        for sighting in sightings:
            known = self.names(sighting.organisation).records.get(sighting.id)
            if known is None or _tells_more(sighting, known.heard_name, known.fingerprint):
                news.setdefault(sighting.organisation, {})[sighting.id] = sighting
        for organisation, latest in news.items():
            with self._changing(organisation) as change:
                _note(change, latest.values())

    def announce(self, organisation: str, sightings: Sequence[Sighting]) -> Answer:
        """Records agents that a process met, and puts prompts that resemble a known one under its agent."""
        refused: dict[str, str] = {}
        sketches: dict[str, Sketch] = {}
        names = self.names(organisation)
        news: dict[str, Sighting] = {}
        for sighting in sightings:
            known = names.records.get(sighting.id)
            if known is None or _tells_more(sighting, known.heard_name, known.fingerprint):
                news[sighting.id] = sighting
            if sighting.source != "fingerprint":
                continue
            learnt = known.prompts if known is not None and known.sketched else 0
            if sighting.sketch is not None and sighting.prompts > learnt:
                try:
                    sketches[sighting.id] = Sketch.decode(sighting.sketch)
                except ValueError as error:
                    refused[sighting.id] = f"sketch: {error}"
            if sighting.id in sketches or (sighting.counted_under and (known is None or known.ruled_by is None)):
                news[sighting.id] = sighting
        if news:
            with self._prompts.of(organisation) as book, self._changing(organisation) as change:
                book.catch_up(change.connection)
                _note(change, news.values())
                _judge(change, book, news.values(), sketches)
        names = self.names(organisation)
        canonical = {
            sighting.id: names.records[names.canonical(sighting.id)]
            for sighting in sightings
            if _is_news(sighting, names)
        }
        return Answer(names.version, canonical, refused)

    # --- operators' decisions ----------------------------------------------------------------------------------------
    def describe(
        self, organisation: str, agent_id: str, *, name: str | None = None, description: str | None = None
    ) -> None:
        """Renames and describes an agent; None keeps what is there, an empty name gives it back its own.

        Raises:
            UnknownAgentError: there is no such agent.
            ValueError: a text is too long.
        """
        for what, given in (("name", name), ("description", description)):
            if given is not None and len(given) > MAX_TEXT:
                raise ValueError(f"{what} is over {MAX_TEXT} characters")
        with self._changing(organisation) as change:
            row = change.row(agent_id)
            if description is not None and description.strip() != row.description:
                change.set(agent_id, description=description.strip())
            if name is not None and (name.strip() or None) != row.operator_name:
                change.rule(agent_id, operator_name=name.strip() or None)

    def merge(self, organisation: str, agent_id: str, into: str) -> None:
        """Makes every call of one agent, past and future, a call of the other.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: an agent would, in the end, be merged into itself.
        """
        with self._changing(organisation) as change:
            change.merge(agent_id, into)

    def unmerge(self, organisation: str, agent_id: str) -> None:
        """Takes an agent out of the one it is merged into, or a prompt out of those merged into it, for good.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: it stands alone already.
        """
        with self._changing(organisation) as change:
            change.split(agent_id)

    # ---------------------------------------------------------------------------------------------------------------
    @contextmanager
    def _changing(self, organisation: str) -> Generator[Change, None, None]:
        try:
            with self._metadata.writing() as connection:
                change = Change(connection, organisation)
                yield change
                change.finish()
        finally:
            with self._lock:
                self._changes[organisation] = self._changes.get(organisation, 0) + 1
                if organisation in self._snapshots:
                    self._snapshots[organisation] = replace(self._snapshots[organisation], checked_at=-_NAMES_TTL_S)

    def _read(self, organisation: str, known: Names | None) -> Names:
        """The registry as the database has it, by reading what is new."""
        table, versions = db.agents, db.organisations
        columns = [column for column in table.c if column is not table.c.sketch]
        query = select(*columns, table.c.sketch.is_not(None).label("sketched")).where(
            table.c.organisation == organisation
        )
        with self._metadata.reading() as connection:
            # The version first: rows that change in between are newer than it says, and are read once more next time.
            version = connection.execute(
                select(versions.c.version).where(versions.c.organisation == organisation)
            ).scalar()
            version = version or 0
            if known is not None and known.version == version:
                return known
            if known is not None:
                query = query.where(table.c.changed_version > known.version)
            rows = connection.execute(query).all()
        records = dict(known.records) if known is not None else {}
        for row in rows:
            records[row.id] = Record(
                id=row.id,
                name=row.operator_name or row.name,
                heard_name=row.name,
                source=row.source,
                description=row.description,
                fingerprint=row.fingerprint,
                merged_into=row.merged_into,
                first_seen=row.first_seen,
                sketched=row.sketched,
                prompts=row.prompts,
                ruled_by=row.ruled_by,
                ruled_on=row.ruled_on,
                split_from=row.split_from,
            )
        return Names(version, records)


# --- noting and judging ----------------------------------------------------------------------------------------------
def _note(change: Change, sightings: Iterable[Sighting]) -> None:
    """Writes down who is new, and what is new of the others."""
    latest = {sighting.id: sighting for sighting in sightings}
    rows = change.rows(latest.keys())
    for sighting in latest.values():
        row, name = rows.get(sighting.id), sighting.name[:MAX_TEXT]
        if row is None:
            change.add(sighting.id, name=name, source=sighting.source, fingerprint=sighting.fingerprint)
        elif _tells_more(sighting, row.name, row.fingerprint):
            change.set(sighting.id, name=name or row.name, fingerprint=sighting.fingerprint or row.fingerprint)


def _judge(change: Change, book: Book, sightings: Iterable[Sighting], sketches: Mapping[str, Sketch]) -> None:
    """Puts each prompt under the agent of the nearest known one, else of the one its process counts it under."""
    latest = {sighting.id: sighting for sighting in sightings}
    rows = change.rows(latest.keys())
    for agent_id, sighting in latest.items():
        row, sketch = rows[agent_id], sketches.get(agent_id)
        if row.source != "fingerprint":
            continue
        if sketch is not None and sighting.prompts > 1 and sighting.sketch is not None:
            if sighting.prompts > row.prompts:
                change.set(agent_id, sketch=sighting.sketch, prompts=sighting.prompts)
                book.add(agent_id, sketch, len(sighting.sketch), sighting.prompts)
                _gather(change, book, agent_id, sketch)
            continue
        near = book.nearest(sketch) if sketch is not None and not row.sketched else None
        leader = change.leader(near or sighting.counted_under or agent_id)
        noted: dict[str, object] = {} if sketch is None or row.sketched else {"sketch": sighting.sketch}
        if leader is not None and _is_free(row) and change.root(leader) != agent_id:
            change.rule(agent_id, merged_into=leader, ruled_by="sketch", ruled_on=int(time.time()), **noted)
        elif noted:
            change.set(agent_id, **noted)
        if noted and sketch is not None and sighting.sketch is not None:
            book.add(agent_id, sketch, len(sighting.sketch))


def _gather(change: Change, book: Book, agent_id: str, template: Sketch) -> None:
    """Puts together what a template shows to be one agent: the newer goes under the older, the free under any other.

    What an operator has made to stand alone is left alone. One prompt moves itself alone: were an agent moved because
    of one of its prompts, each prompt that is where it should not be would make one agent of two.
    """
    for found, is_taught in book.of_template(template):
        mine, other = change.leader(agent_id), change.leader(found)
        if other != found and not is_taught:
            continue
        if mine is None or other is None or mine == other or change.root(mine) == change.root(other):
            continue
        rows = change.rows([mine, other])
        older, newer = sorted((rows[mine], rows[other]), key=lambda row: (_is_free(row), row.first_seen, row.id))
        if _is_free(newer) and (older.ruled_by is None or older.merged_into is not None):
            change.rule(newer.id, merged_into=older.id, ruled_by="sketch", ruled_on=int(time.time()))


def _is_free(row: Row[Any]) -> bool:
    """Whether an agent may be put under another by itself: nobody ruled on it, or gave it a name or a description."""
    return not (row.ruled_by or row.merged_into or row.operator_name or row.description)


def _is_news(sighting: Sighting, names: Names) -> bool:
    """Whether a process has to be told what this id stands for: not where it is just itself, as it would assume."""
    known, agent = names.records[sighting.id], names.records[names.canonical(sighting.id)]
    return (
        agent.id != sighting.id
        or agent.name != agent.heard_name
        or known.ruled_by == "operator"
        or sighting.counted_under not in (None, sighting.id)
    )


def _tells_more(sighting: Sighting, name: str, fingerprint: str | None) -> bool:
    """Whether a sighting adds to what is known. An id given by the program is whoever the program last said it is."""
    renamed = sighting.source == "id" and sighting.name != name
    return bool((sighting.name and (not name or renamed)) or (sighting.fingerprint is not None and fingerprint is None))
