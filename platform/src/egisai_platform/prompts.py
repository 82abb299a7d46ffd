"""Which known prompt is nearest to a new one: each organisation's sketches, in memory and in step with the database."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, select

from egisai.fingerprint.sketch import Index, Sketch, compare
from egisai_platform import metadata as db
from egisai_platform.metadata import Metadata

log = logging.getLogger("egisai_platform")

MAX_PROMPTS: Final = 100_000
"""Prompts of an organisation to which new ones are compared: the first ones."""
MAX_CHARACTERS: Final = 40_000_000
"""Of the sketches in memory, where each takes about seven bytes: as many as 47,000 prompts of 125 words. Above it no
more are remembered, and those of the organisation longest quiet are read anew when they are needed."""


class Book:
    """One organisation's prompts by likeness. Used by one thread at a time."""

    def __init__(self, organisation: str) -> None:
        self._organisation = organisation
        self._index = Index()
        self._templates = Index()  # those that several prompts have taught: all they have is the template's own
        self._known: dict[str, int] = {}
        self._version = 0
        self.characters = 0

    def catch_up(self, connection: Connection) -> None:
        """Reads what other nodes, or this one before it was restarted, have added."""
        table = db.agents
        query = (
            select(table.c.id, table.c.sketch, table.c.prompts, table.c.changed_version)
            .where(
                table.c.organisation == self._organisation,
                table.c.changed_version > self._version,
                table.c.sketch.is_not(None),
            )
            .order_by(table.c.changed_version)
        )
        for agent_id, text, prompts, version in connection.execute(query).yield_per(1000):
            self._version = version
            if self._known.get(agent_id, 0) >= prompts:
                continue
            try:
                self.add(agent_id, Sketch.decode(text), len(text), prompts)
            except ValueError as error:  # a form that this program no longer reads
                log.warning("the sketch of agent %s of %s is not used: %s", agent_id, self._organisation, error)

    def nearest(self, sketch: Sketch) -> str | None:
        """The agent of the known prompt that is of the same template, as far as there is one."""
        best, nearest = 0.0, None
        for agent_id, template in self._templates.near(sketch):
            found = compare(template, sketch)
            if found.is_contained and found.alike > best:
                best, nearest = found.alike, agent_id
        for agent_id, prompt in self._index.near(sketch):
            found = compare(prompt, sketch)
            if found.is_one and found.alike > best:
                best, nearest = found.alike, agent_id
        return nearest

    def of_template(self, template: Sketch) -> Iterator[tuple[str, bool]]:
        """The agents of the known prompts that are of a template which several prompts have taught.

        With each, whether it is known by such a template itself.
        """
        for agent_id, other in self._templates.near(template):
            if compare(template, other).is_same:
                yield agent_id, True
        for agent_id, prompt in self._index.near(template):
            if compare(template, prompt).is_contained:
                yield agent_id, False

    def add(self, agent_id: str, sketch: Sketch, characters: int, prompts: int = 1) -> None:
        """One more to compare with, unless there are too many; `prompts` is how many have taught it."""
        if len(self._known) < MAX_PROMPTS and self.characters + characters <= MAX_CHARACTERS:
            self._known[agent_id] = prompts
            self.characters += characters
            (self._index if prompts == 1 else self._templates).add(agent_id, sketch)


class Prompts:
    """Every organisation's book, read when it is first needed."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._books: OrderedDict[str, Book] = OrderedDict()

    @contextmanager
    def of(self, organisation: str) -> Generator[Book, None, None]:
        """The organisation's book, for the calling thread alone. It is read anew after a failure inside the block."""
        with self._lock:
            turn = self._turns.setdefault(organisation, threading.Lock())
        with turn:
            with self._lock:
                book = self._books.pop(organisation, None) or Book(organisation)
            # What there is much of is read here, before anybody waits for the transaction that comes.
            with self._metadata.reading() as connection:
                book.catch_up(connection)
            yield book
            with self._lock:
                self._books[organisation] = book
                while len(self._books) > 1 and self._characters() > MAX_CHARACTERS:
                    self._books.popitem(last=False)

    def _characters(self) -> int:
        return sum(book.characters for book in self._books.values())
