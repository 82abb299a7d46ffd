"""The URL as a page's whole state: what it filters by, since when, whose organisation; and links that change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final
from urllib.parse import quote, urlencode

from egisai_platform import filters
from egisai_platform.model import Filter

RANGES: Final = (("1h", "1 h"), ("24h", "24 h"), ("7d", "7 d"), ("30d", "30 d"), ("all", "All"))
"""The ranges one click away: what `since` says, and the label."""


@dataclass(frozen=True, slots=True)
class Address:
    """A path with its query parameters, and how to walk from there."""

    path: str
    params: Mapping[str, str]
    since: str = "all"
    """The range when the URL names none: one of `RANGES`."""

    def get(self, name: str) -> str:
        return self.params.get(name, "")

    def where(self, now: datetime) -> Filter:
        """Return the filter the URL asks for.

        Raises BadParameterError for what cannot be obeyed; it is not ignored, because a page that silently
        shows more than was asked for is read as if it did not.
        """
        asked = {**self.facts, "since": self.get("since") or self.since, "until": self.get("until")}
        given = ((name, value) for name, value in asked.items() if value and value != "all")
        return filters.parse(given, (*filters.FACTS, *filters.TIMES), now).where

    @property
    def range(self) -> str:
        """What `since` says, or the page's own default; empty when the range also has an end."""
        return "" if self.get("until") else self.get("since") or self.since

    @property
    def facts(self) -> dict[str, str]:
        """The facts filtered by, in a fixed order, without the range."""
        return {name: self.params[name] for name in filters.FACTS if self.params.get(name)}

    def chips(self) -> Iterator[tuple[str, str, str]]:
        """Yield (name, value, address without it) for every fact, and for a range that has an end."""
        for name, value in self.facts.items():
            yield name, value, self.without(name)
        if self.get("until"):
            yield "time", f"{self.get('since') or 'start'} to {self.get('until')}", self.without("since", "until")

    # --- links -------------------------------------------------------------------------------------------------
    def to(self, path: str, **facts: str) -> str:
        """Return the address of `path` with `facts`, keeping the organisation and an explicit range."""
        kept = {name: self.get(name) for name in ("organisation", "since", "until")}
        return _join(path, {**facts, **kept})

    def add(self, **facts: str) -> str:
        """Return the calls that meet what is filtered by here and `facts` as well."""
        both = {**self.facts, **facts}
        if "agent_id" in facts:
            both.pop("agent", None)
        return self.to("/calls", **both)

    def without(self, *names: str) -> str:
        """Return this page without some of its parameters, from its first page of results."""
        return _join(self.path, {name: value for name, value in self.params.items() if name not in (*names, "cursor")})

    def having(self, **params: str) -> str:
        """Return this page with some parameters replaced."""
        return _join(self.path, {**self.params, **params})

    def ranged(self, since: str) -> str:
        """Return this page over another range, from its first page of results."""
        kept = {name: value for name, value in self.params.items() if name not in ("since", "until", "cursor")}
        return _join(self.path, {**kept, "since": since})

    def everything(self) -> str:
        """Return this page without any filter and over all time."""
        return _join(self.path, {"organisation": self.get("organisation"), "since": "all"})

    def between(self, start: datetime, end: datetime) -> str:
        """Return the calls of this filter between two times."""
        times = {"since": _stamp(start), "until": _stamp(end)}
        return _join("/calls", {**self.facts, **times, "organisation": self.get("organisation")})

    def agent(self, agent_id: str) -> str:
        return self._item("/agents/", agent_id, "agent_id")

    def workflow(self, workflow_id: str) -> str:
        return self._item("/workflows/", workflow_id, "workflow_id")

    def call(self, trace_id: str, span_id: str) -> str:
        return self.to(f"/calls/{quote(trace_id, safe='')}/{quote(span_id, safe='')}")

    def _item(self, base: str, item_id: str, fact: str) -> str:
        if item_id in (".", ".."):  # a browser folds these path segments away, however they are quoted
            return self.to("/calls", **{fact: item_id})
        return self.to(base + quote(item_id, safe="", errors="replace"))


def _join(path: str, params: Mapping[str, str]) -> str:
    query = urlencode({name: value for name, value in params.items() if value}, errors="replace")
    return f"{path}?{query}" if query else path


def _stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="auto").replace("+00:00", "Z")
