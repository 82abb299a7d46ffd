"""Every change of an organisation's agents: one transaction at a time, each change with a version of its own.

    agent ──merged_into──> agent ──merged_into──> the one that counts      (never a circle)

A near-identical prompt is put under its *leader*, the first prompt of its template, which itself stands alone or went
where an operator put it. So undoing one merge gives back what it took, and what resembles a prompt goes where it goes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, insert, select, text, update

from egisai_platform import metadata as db

_TABLE: Final = db.agents

_LOCK: Final = text(
    "INSERT INTO organisations (organisation, version) VALUES (:organisation, 0) "
    "ON CONFLICT (organisation) DO UPDATE SET version = organisations.version"
)
"""Locks the organisation's row until the transaction ends, and makes it where there is none."""


class UnknownAgentError(LookupError):
    """No agent of the organisation has this id."""


class MergeRefusedError(ValueError):
    """The merge makes no sense; the text says why."""


class Change:
    """A transaction on one organisation's agents, and nobody else's at the same time.

    Args:
        connection: In a transaction of its own, which the caller ends after `finish`.
    """

    def __init__(self, connection: Connection, organisation: str) -> None:
        self.connection: Final = connection
        self._organisation = organisation
        connection.execute(_LOCK, {"organisation": organisation})
        table = db.organisations
        self._mine = table.c.organisation == organisation
        self._found: int = connection.execute(select(table.c.version).where(self._mine)).scalar_one()
        self._version = self._found

    def finish(self) -> None:
        """Notes the organisation's new version."""
        if self._version != self._found:
            values = {"version": self._version}
            self.connection.execute(update(db.organisations).where(self._mine).values(values))

    # --- rows --------------------------------------------------------------------------------------------------------
    def rows(self, ids: Collection[str]) -> dict[str, Row[Any]]:
        """The agents with these ids, as far as there are any; without their sketches, which are long."""
        columns = [column for column in _TABLE.c if column is not _TABLE.c.sketch]
        query = select(*columns, _TABLE.c.sketch.is_not(None).label("sketched")).where(
            _TABLE.c.organisation == self._organisation, _TABLE.c.id.in_(ids)
        )
        return {row.id: row for row in self.connection.execute(query)}

    def row(self, agent_id: str) -> Row[Any]:
        """One of them. Raises UnknownAgentError."""
        found = self.rows([agent_id])
        if not found:
            raise UnknownAgentError(f"there is no agent {agent_id}")
        return found[agent_id]

    def add(self, agent_id: str, **values: object) -> None:
        """A new agent."""
        known = {"organisation": self._organisation, "id": agent_id, "description": "", "first_seen": int(time.time())}
        self.connection.execute(insert(_TABLE).values(**known, **values, changed_version=self._next()))

    def set(self, agent_id: str, **values: object) -> None:
        """What no other process has to know."""
        self._update(agent_id, {**values, "changed_version": self._next()})

    def rule(self, agent_id: str, **values: object) -> None:
        """What every process has to know, of this agent and of all that are merged into it."""
        members = self._members(agent_id)  # of before: a moved row takes them along
        version = self._next()
        self._update(agent_id, {**values, "changed_version": version, "ruled_version": version})
        if members:
            one = (_TABLE.c.organisation == self._organisation, _TABLE.c.id == bindparam("member"))
            versions = [{"member": member, "at": self._next()} for member in members]
            self.connection.execute(update(_TABLE).where(*one).values(ruled_version=bindparam("at")), versions)

    # --- who stands for whom -----------------------------------------------------------------------------------------
    def leader(self, agent_id: str) -> str | None:
        """The prompt that stands for this one's template, wherever operators put that; None for an unknown id."""
        row = self._up(agent_id)
        while row is not None and row.merged_into and row.ruled_by == "sketch":
            row = self._up(row.merged_into)
        return None if row is None else row.id

    def root(self, agent_id: str) -> str:
        """The agent whose calls this one's are."""
        row = self._up(agent_id)
        while row is not None and row.merged_into:
            agent_id = row.merged_into
            row = self._up(agent_id)
        return agent_id

    def merge(self, agent_id: str, into: str) -> None:
        """What `Registry.merge` does: makes every call of one agent, past and future, a call of the other.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: an agent would, in the end, be merged into itself.
        """
        self.row(agent_id)
        self.row(into)
        if self.root(into) == agent_id:
            raise MergeRefusedError(f"agent {into} is itself, or is merged into, agent {agent_id}")
        self.rule(agent_id, merged_into=into, ruled_by="operator", ruled_on=int(time.time()), split_from=None)

    def split(self, agent_id: str) -> None:
        """Takes an agent out of the one it is merged into, or a prompt out of those that are merged into it.

        In the second case the oldest of the others stands for them from now on, and the name and description that the
        operator gave go with it.

        Raises:
            UnknownAgentError: there is no such agent.
            MergeRefusedError: it stands alone already.
        """
        row = self.row(agent_id)
        alone = {"merged_into": None, "ruled_by": "operator", "ruled_on": int(time.time())}
        if row.merged_into is not None:
            self.rule(agent_id, **alone, split_from=self.root(agent_id))
            return
        heir, *others = (self._children(agent_id) if row.fingerprint else ()) or (None,)
        if heir is None:
            raise MergeRefusedError(f"agent {agent_id} is not merged into another")
        for other in others:
            self._update(other.id, {"merged_into": heir.id, "changed_version": self._next()})
        self.rule(
            heir.id,
            merged_into=None,
            ruled_by=None if heir.ruled_by == "sketch" else heir.ruled_by,
            operator_name=row.operator_name or heir.operator_name,
            description=row.description or heir.description,
        )
        self.rule(agent_id, **alone, split_from=heir.id, operator_name=None, description="")

    # ---------------------------------------------------------------------------------------------------------------
    def _next(self) -> int:
        self._version += 1
        return self._version

    def _up(self, agent_id: str) -> Row[Any, Any, Any] | None:
        columns = (_TABLE.c.id, _TABLE.c.merged_into, _TABLE.c.ruled_by)
        mine = (_TABLE.c.organisation == self._organisation, _TABLE.c.id == agent_id)
        return self.connection.execute(select(*columns).where(*mine)).first()

    def _update(self, agent_id: str, values: Mapping[str, object]) -> None:
        mine = (_TABLE.c.organisation == self._organisation, _TABLE.c.id == agent_id)
        self.connection.execute(update(_TABLE).where(*mine).values(**values))

    def _children(self, agent_id: str) -> list[Row[Any]]:
        """What is merged right into it, the oldest first, prompts of its own template before all others."""
        mine = (_TABLE.c.organisation == self._organisation, _TABLE.c.merged_into == agent_id)
        columns = [column for column in _TABLE.c if column is not _TABLE.c.sketch]
        rows = self.connection.execute(select(*columns).where(*mine)).all()
        return sorted(rows, key=lambda row: (row.ruled_by != "sketch", row.first_seen, row.id))

    def _members(self, agent_id: str) -> list[str]:
        """Everything merged into it, over however many steps."""
        mine = _TABLE.c.organisation == self._organisation
        near = select(_TABLE.c.id).where(mine, _TABLE.c.merged_into == agent_id).cte("members", recursive=True)
        members = near.union(select(_TABLE.c.id).where(mine, _TABLE.c.merged_into == near.c.id))
        return list(self.connection.execute(select(members.c.id)).scalars())
