"""A bounded memo from texts to what was computed of them, whose hit costs the same for a line and for a book."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Final, Generic, Literal, TypeAlias, TypeVar

V = TypeVar("V")
Texts: TypeAlias = "tuple[str, ...]"
Key: TypeAlias = "tuple[object, ...] | None"


class Missing(Enum):
    """The type of `MISSING`, which says that nothing is known (None is a thing that can be known)."""

    MISSING = "missing"


MISSING: Final[Literal[Missing.MISSING]] = Missing.MISSING

PROBED: Final = 2_000
"""Characters from which a text is looked up by a sample of itself instead of by its hash.

Python keeps the hash of a str with the object, but a prompt rendered anew is a new object. Measured on 120,000
characters: hashing 19 µs, sampling and comparing 2.1 µs (comparing alone is 1.3 µs). Below this length
hashing (0.16 ns a character) costs no more than taking the sample."""


class Memo(Generic[V]):
    """Two generations of entries: when the young one is full it becomes the old one, and the old one is forgotten.

    An entry found in the old generation moves to the young one, so that what is in use survives without any
    bookkeeping on the way of a hit. Reading takes no lock: it is one `dict.get`, or two. At most
    `2 * max_entries` entries and `2 * max_bytes` of text are held; a text over `max_bytes` is not kept.
    """

    def __init__(self, max_entries: int = 2_048, max_bytes: int = 16_000_000) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._young: _Generation[V] = _Generation()
        self._old: _Generation[V] = _Generation()

    def key(self, texts: Texts) -> Key:
        """The sample by which long texts are found, made once per call and given to `get` and `put`; None if short."""
        if sum(map(len, texts)) < PROBED:
            return None
        key: list[object] = []
        for text in texts:
            middle = len(text) >> 1
            key += (len(text), text[:32], text[middle : middle + 32], text[-32:])
        return tuple(key)

    def get(self, key: Key, texts: Texts) -> V | Missing:
        """What is known of these texts."""
        found = self._young.find(key, texts)
        if found is MISSING:
            found = self._old.find(key, texts)
            if found is not MISSING:
                self.put(key, texts, found)
        return found

    def put(self, key: Key, texts: Texts, value: V) -> None:
        """Keep a value."""
        size = 0
        for text in texts:
            size += text.__sizeof__()
        if size > self._max_bytes:
            return
        with self._lock:
            young = self._young
            if len(young.entries) >= self._max_entries or young.size + size > self._max_bytes:
                self._old, self._young = young, _Generation()
                young = self._young
            young.add(key, texts, value, size)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._young, self._old = _Generation(), _Generation()


class _Generation(Generic[V]):
    """Entries by their texts, and the newest of them with each sample."""

    __slots__ = ("entries", "sampled", "size")

    def __init__(self) -> None:
        self.entries: dict[Texts, V] = {}
        self.sampled: dict[Key, tuple[Texts, V]] = {}
        self.size = 0

    def find(self, key: Key, texts: Texts) -> V | Missing:
        if key is not None:
            sampled = self.sampled.get(key)
            # Texts that agree in their sample can still differ in between: then their hash decides.
            if sampled is None:
                return MISSING
            if sampled[0] == texts:
                return sampled[1]
        return self.entries.get(texts, MISSING)

    def add(self, key: Key, texts: Texts, value: V, size: int) -> None:
        if texts not in self.entries:
            self.size += size
        self.entries[texts] = value
        if key is not None:
            self.sampled[key] = (texts, value)
