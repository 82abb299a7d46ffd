"""Decides whether two system texts were rendered from one template although more differs than masks can hide.

A sketch keeps, word by word, a hash of each three words that follow one another and what kind of sentence the word is
in (`kinds`). Laid side by side, two sketches show the runs of words that only one of them has:

    You are a clerk. | The museum opens at nine. It is free. | Be brief.
    You are a clerk. | Prices include tax.                   | Be brief.
                       ^ data on both sides: one template

    You are a clerk. | You handle refunds.                   | Be brief.
    You are a clerk. | You handle parcels.                   | Be brief.
                                  ^ a job on either side: two agents

A sketch holds hashes alone, no text, and is small enough to be announced.
"""

# ruff: noqa: RUF001  (other scripts are what this is about)
from __future__ import annotations

import base64
import heapq
import re
import struct
import threading
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from egisai.fingerprint.kinds import TASKS, Kind, carries, kind_of, lines, names_job
from egisai.fingerprint.masks import words_of

_HEAD: Final = 9_000
_TAIL: Final = 4_000
"""Characters kept of a long text's beginning and end: a template's own are seldom as many."""

_WORDS: Final = 2_048  # kept of them, which is all where words have six letters

_VERSION: Final = 1
_STARTS: Final = 0x10  # the word begins a sentence
_CUT: Final = 0x20  # the text ends in the middle of a sentence
_HEAD_WORD: Final = 0x40  # of the sentence that is taken for the job, where none says what it is
_KIND: Final = 0x0F
_MARKS: Final = {kind: (bytes((kind | _STARTS,)), bytes((kind,))) for kind in Kind}
"""The marks of a sentence's first word, and of each other, as bytes."""
_ENDS: Final = (".", "!", "?", ":", ";", "…", "。", "！", "？", "।", "؟")
_EDGE: Final = (1, 2)  # stand for the two words before the first and after the last

MAX_ENCODED: Final = 13_700
"""Characters of the longest encoded sketch: five bytes a word, and two hashes more, in base64."""

_LEAST: Final = 4
"""Words of the template that two texts must share to be compared at all."""

_ALIKE: Final = 0.6
"""Share of their own words that texts of one template have in common at the least."""

_MISSING: Final = 0.5
"""Share of the longer text that a text may lack when it ends in the middle of a sentence."""

_ORDERS: Final = 6
_JOBS: Final = 3
"""Smallest hashes of a text's orders, and of its jobs alone, by which like texts are found. Of two texts that share
85 % of their orders, one pair in 10,000 has none of six in common."""

_BESIDE: Final = 4
"""Sentences at either end of a run that are remembered: a job is said in few, next to the rest of the template."""

_BUCKET: Final = 64  # texts with one such hash in common that are remembered: the newest
_CANDIDATES: Final = 12  # texts that are laid side by side with a new one: those with most in common


class Sketch(NamedTuple):
    """A text's words as hashes, in order.

    Attributes:
        hashes: of each three words that follow one another, beginning with the two that stand before the first.
        marks: for each word, the `Kind` of its sentence and whether it begins one.
    """

    hashes: array[int]
    marks: bytes

    @classmethod
    def of(cls, text: str) -> Sketch | None:
        """The sketch of a masked text; None where there is no word in it."""
        words: list[str] = []
        marks = bytearray()
        tasks: list[int] = []
        kinds: set[Kind] = set()
        last = ""
        if len(text) > _HEAD + _TAIL:
            text = f"{text[:_HEAD]}\n\n{text[-_TAIL:]}"
        carried: Kind | None = None
        for line in lines(text):
            announces = False
            for piece in line:
                said = words_of(piece)
                if not said:
                    continue
                kind = kind_of(said, piece) if carried is None or names_job(said, piece) else carried
                announces = carries(kind, said, piece)
                if not piece.isascii():
                    said = _divided(said)
                kinds.add(kind)
                marks += _MARKS[kind][0] + _MARKS[kind][1] * (len(said) - 1)
                if announces:
                    carried = kind
                if kind is Kind.ORDER and said[0] in TASKS:
                    tasks.append(len(words))
                words += said
                last = piece
            if not announces:
                carried = None
        if not words:
            return None
        if Kind.JOB not in kinds:
            _head(marks, tasks)
        del words[_WORDS:], marks[_WORDS:]
        if not last.rstrip("\"')]*_` ").endswith(_ENDS):
            marks[-1] |= _CUT
        hashed = {word: zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
        one = (*_EDGE, *map(hashed.__getitem__, words), *_EDGE)
        return cls(
            array(
                "I",
                [
                    (a * 0x9E3779B1 + b * 0x85EBCA77 + c * 0xC2B2AE3D) >> 8 & 0xFFFFFFFF
                    for a, b, c in zip(one, one[1:], one[2:], strict=False)
                ],
            ),
            bytes(marks),
        )

    def encode(self) -> str:
        """As text, for `decode`."""
        packed = struct.pack(f"<B{len(self.hashes)}I", _VERSION, *self.hashes) + self.marks
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Sketch:
        """The sketch that `encode` wrote.

        Raises:
            ValueError: It is none, or too long, or of another version.
        """
        if len(text) > MAX_ENCODED:
            raise ValueError(f"a sketch has at most {MAX_ENCODED} characters, not {len(text)}")
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except ValueError as exc:  # of base64, or text beyond ASCII
            raise ValueError(f"not a sketch: {exc}") from exc
        words, rest = divmod(len(packed) - 1 - 2 * 4, 5)
        if words < 1 or rest or packed[0] != _VERSION:
            raise ValueError("not a sketch of this version")
        hashes = array("I", struct.unpack_from(f"<{words + 2}I", packed, 1))
        marks = packed[-words:]
        if any(mark & _KIND > max(Kind) or mark > 0x7F for mark in marks):
            raise ValueError("not a sketch: a mark says nothing")
        return cls(hashes, marks)

    def bands(self) -> set[int]:
        """Hashes by which texts of one template are likely to be found, whatever data they hold."""
        by_kind: dict[int, list[int]] = {kind: [] for kind in Kind}
        for at, mark in enumerate(self.marks):
            by_kind[mark & _KIND].append(self.hashes[at + 1])  # the one with the word in its middle
        jobs, orders = by_kind[Kind.JOB], by_kind[Kind.ORDER]
        if not jobs or any(mark & _HEAD_WORD for mark in self.marks):
            orders = orders + by_kind[Kind.FRAGMENT] + by_kind[Kind.DATA]
        return {*heapq.nsmallest(_JOBS, jobs), *heapq.nsmallest(_ORDERS, jobs + orders)}

    def beside(self, runs: Iterable[Run]) -> list[Sentence]:
        """The sentences of these runs that may be the template's: next to what the other text has, not announced.

        Fragments are none of them: most lead to what comes after them.
        """
        found: list[Sentence] = []
        for run in runs:
            inside: list[Sentence] = []
            at = run.end if _announced(self.marks, run.start) else run.start
            while at < run.end and self.marks[at] & _KIND != Kind.LABEL:
                end = min(_sentence(self.marks, at)[1], run.end)
                if end - at > _SHORT and self.marks[at] & _KIND in (Kind.DATA, Kind.ORDER):
                    inside.append(Sentence(hash(tuple(self.hashes[at + 2 : end])), at, end))
                at = end
            found += inside[:_BESIDE] + inside[_BESIDE:][-_BESIDE:]
        return found

    def without(self, runs: Iterable[Run], but: Iterable[int] = ()) -> Sketch:
        """What is left when these runs of words are taken out, but for some of the words."""
        n = len(self.marks)
        kept = bytearray(b"\1" * n)
        for run in runs:
            kept[run.start : run.end] = bytes(run.end - run.start)
        for at in but:
            kept[at] = 1
        # A word counts as the template's while one of the threes that it is in is whole.
        whole = [0] * (n + 2)
        for at, (a, b, c) in enumerate(zip((1, 1, *kept), (1, *kept, 1), (*kept, 1, 1), strict=True)):
            whole[at] = a and b and c
        places = [at for at in range(n) if kept[at] and (whole[at] or whole[at + 1] or whole[at + 2])]
        ends = (-2, -1, *places, n, n + 1)
        hashes = [self.hashes[c] if c - a == 2 else 0 for a, c in zip(ends, ends[2:], strict=False)]
        marks = bytearray(self.marks[at] for at in places)
        for at in range(1, len(places)):
            if places[at] - places[at - 1] > 1:
                marks[at] |= _STARTS
        return Sketch(array("I", hashes), bytes(marks))


def _head(marks: bytearray, tasks: Sequence[int]) -> None:
    """Where no sentence says what the agent is for, take the first that can, and those that order a task, for it."""
    can = (*_OWN, Kind.DATA)
    first = next((at for at, mark in enumerate(marks) if mark & _STARTS and mark & _KIND in can), None)
    for start in {*tasks, *(() if first is None else (first,))}:
        for at in range(*_sentence(marks, start)):
            marks[at] = Kind.JOB | _HEAD_WORD | marks[at] & _STARTS


_UNSPACED: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def _divided(words: Sequence[str]) -> list[str]:
    """The words with those of scripts that do not divide words cut into their characters."""
    return [part for word in words for part in (_UNSPACED.findall(word) if word > "\u3040" else (word,))]


# --- two texts side by side ------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Words that follow one another and that the other text does not have."""

    start: int
    end: int
    verdict: Kind
    """CERTAIN: data. DATA: likely data. JOB: another agent. LABEL: what is taken for the job. ORDER: the template's,
    or nobody knows. FRAGMENT: a changed wording."""


class Sentence(NamedTuple):
    """Words that only one of two texts has, from one sentence, and a hash of them."""

    hashed: int
    start: int
    end: int


class Comparison(NamedTuple):
    """Two texts side by side.

    Attributes:
        common: words that both have.
        shared: those of them that are the template's beyond doubt.
        is_replaced: where one has a sentence that may be the template's, the other has such a sentence too.
        gaps: after which words they differ, as hashes.
        is_guessed: in one of them no sentence says what the agent is for, and both have a passage that may be that.
        missing: what only the first has.
        extra: what only the second has.
        alike: 1 where all of the template's words are shared, towards 0 for texts with little in common.
    """

    common: int
    shared: int
    missing: list[Run]
    extra: list[Run]
    alike: float
    is_replaced: bool
    gaps: frozenset[int]
    is_guessed: bool

    @property
    def is_one(self) -> bool:
        """Whether two texts, about which nothing else is known, are of one template.

        Where no sentence says a job, the passage may be what both have, and the job what neither shares.
        """
        return self.alike >= _ALIKE and _verdicts(self.missing, self.extra) <= _CERTAIN and not self.is_guessed

    @property
    def is_same_job(self) -> bool:
        """Whether nothing speaks against one template: no other job, no sentence worded otherwise, enough in common."""
        return self.alike >= _ALIKE and _verdicts(self.missing, self.extra) <= _WHOLE_SENTENCES

    @property
    def is_contained(self) -> bool:
        """Whether the second text has all of the first one, a template that is known by several texts."""
        return (
            self.common >= _LEAST
            and _verdicts(self.missing) <= _CERTAIN
            and Kind.JOB not in _verdicts(self.extra)
            and not self.is_replaced
        )

    @property
    def is_same(self) -> bool:
        """Whether two templates, each known by several texts, are one."""
        return self.is_contained and _verdicts(self.extra) <= _CERTAIN


_WHOLE_SENTENCES: Final = frozenset({Kind.CERTAIN, Kind.DATA, Kind.ORDER})
_CERTAIN: Final = frozenset({Kind.CERTAIN})
_DOUBTFUL: Final = frozenset({Kind.DATA, Kind.ORDER, Kind.FRAGMENT, Kind.LABEL})


def _has_passage(text: Sketch, runs: Iterable[Run]) -> bool:
    """Whether there is a long run that nothing but its length tells from a template.

    A heading tells, where it is the first: after others, the template may follow what they announce.
    """
    marks = text.marks
    for run in runs:
        if run.end - run.start >= _PASSAGE:
            label, _ = _sentence(marks, max(0, run.start - 1))
            before = run.start if marks[run.start] & _KIND == Kind.LABEL else label
            if not _announced(marks, run.start) or any(mark & _KIND == Kind.LABEL for mark in marks[:before]):
                return True
    return False


def _verdicts(*sides: list[Run]) -> set[Kind]:
    return {run.verdict for runs in sides for run in runs}


_GONE: Final = frozenset((0,))  # three words that `without` has put side by side


def compare(one: Sketch, other: Sketch) -> Comparison:
    """Lay two texts side by side."""
    common, shared, missing = _runs(one, frozenset(other.hashes) - _GONE)
    common_too, shared_too, extra = _runs(other, frozenset(one.hashes) - _GONE)
    _forgive_cut(one, missing, other, extra)
    _forgive_cut(other, extra, one, missing)
    common, shared = min(common, common_too), min(shared, shared_too)
    doubtful = _gaps(one, [run for run in missing if run.verdict in _DOUBTFUL])
    replaced = not doubtful.isdisjoint(_gaps(other, [run for run in extra if run.verdict in _DOUBTFUL]))
    differ = _own(missing) + _own(extra)
    alike = 0.0 if common < _LEAST else 2 * shared / (2 * shared + differ) if differ else 1.0
    gaps = _gaps(one, missing) | _gaps(other, extra)
    is_guessed = (_is_guessed(one) or _is_guessed(other)) and _has_passage(one, missing) and _has_passage(other, extra)
    return Comparison(common, shared, missing, extra, alike, replaced, gaps, is_guessed)


def _is_guessed(text: Sketch) -> bool:
    return max(text.marks, default=0) >= _HEAD_WORD  # which is the highest bit of a mark


def _gaps(text: Sketch, runs: list[Run]) -> frozenset[int]:
    """What stands before runs of words, those that follow one another counted as one."""
    ends = {run.end for run in runs}
    return frozenset(text.hashes[run.start - 1] if run.start else 0 for run in runs if run.start not in ends)


def _own(runs: Iterable[Run]) -> int:
    return sum([run.end - run.start for run in runs if run.verdict not in (Kind.DATA, Kind.CERTAIN)])


_OWN: Final = frozenset({Kind.FRAGMENT, Kind.ORDER, Kind.JOB})


def _runs(text: Sketch, others: frozenset[int]) -> tuple[int, int, list[Run]]:
    """How many words, and how many of the template's, the other text has too; and the runs of words that it has not."""
    marks = text.marks
    n = len(marks)
    both = bytearray(n + 4)
    for at, hashed in enumerate(text.hashes):
        if hashed in others:
            both[at] = both[at + 1] = both[at + 2] = 1  # the edges are two words on either side
    both = both[2:-2]
    kinds = [mark & _KIND for mark, is_shared in zip(marks, both, strict=True) if is_shared]
    shared = sum([kind in _OWN for kind in kinds])
    common = shared + kinds.count(Kind.DATA)
    runs: list[Run] = []
    is_guessed = _is_guessed(text)
    start = both.find(0)
    while start >= 0:
        end = both.find(1, start)
        end = n if end < 0 else end
        runs += _judged(marks, start, end, is_guessed)
        start = both.find(0, end)
    return common, shared, runs


def _judged(marks: bytes, start: int, end: int, is_guessed: bool) -> Iterator[Run]:
    """A run with what it says, apart from a sentence at either of its ends of which it is the smaller part."""
    first, whole = _sentence(marks, start)
    if whole < end and (whole - start) * 2 < whole - first:
        yield Run(start, whole, _verdict(marks, start, whole, is_guessed))
        start = whole
    last, whole = _sentence(marks, end - 1)
    if start < last and (end - last) * 2 < whole - last:
        yield Run(last, end, _verdict(marks, last, end, is_guessed))
        end = last
    label = next((at for at in range(start + 1, end) if marks[at] == Kind.LABEL | _STARTS), None)
    if label is not None:  # what comes before it is not what it announces
        yield Run(start, label, _verdict(marks, start, label, is_guessed))
        start = label
    # Orders that stand before data are not of it.
    certain = next((at for at in range(start + 1, end) if marks[at] == Kind.CERTAIN | _STARTS), None)
    if certain is not None and _verdict(marks, start, certain, is_guessed) is Kind.ORDER:
        yield Run(start, certain, Kind.ORDER)
        start = certain
    yield Run(start, end, _verdict(marks, start, end, is_guessed))


def _sentence(marks: bytes | bytearray, at: int) -> tuple[int, int]:
    """Where the sentence of a word begins and ends."""
    first, end = at, at + 1
    while first > 0 and not marks[first] & _STARTS:
        first -= 1
    while end < len(marks) and not marks[end] & _STARTS:
        end += 1
    return first, end


_MOST: Final = 40  # words of a run, for each word of it that may be of a job: a sentence in a page of data is data
_PASSAGE: Final = 24  # words of statements that are more than anybody writes to say what an agent is for
_FEW: Final = 8  # words for each word of an order: a template that says no job has more orders than passages have
_SHORT: Final = 2  # words of a line that may lose its neighbours on both sides, and with them what it is known by


def _verdict(marks: bytes, start: int, end: int, is_guessed: bool) -> Kind:
    if any(mark & _HEAD_WORD for mark in marks[start:end]):
        return Kind.LABEL
    kinds = Counter([mark & _KIND for mark in marks[start:end]])
    n = end - start
    announced = Kind.LABEL in kinds or _announced(marks, start)
    if kinds[Kind.JOB] * (4 if announced else _MOST) > n:
        return Kind.JOB
    if kinds[Kind.CERTAIN] * 2 >= n:
        return Kind.CERTAIN
    first, whole = _sentence(marks, start)
    if n <= _SHORT and (start, end) == (first, whole):
        return Kind.CERTAIN
    if end <= whole and (end - start) * 2 < whole - first:
        return Kind.FRAGMENT
    if kinds[Kind.ORDER] * (2 if announced else _FEW if is_guessed else 3) > n:
        return Kind.ORDER
    if announced:
        return Kind.CERTAIN
    if (kinds[Kind.DATA] + kinds[Kind.CERTAIN]) * 2 < n:
        return Kind.ORDER
    return Kind.CERTAIN if n >= _PASSAGE else Kind.DATA


def _announced(marks: bytes, start: int) -> bool:
    """Whether the sentence before the run announces data."""
    first, _ = _sentence(marks, start)
    return (first > 0 and marks[first - 1] & _KIND == Kind.LABEL) or marks[first] & _KIND == Kind.LABEL


def _forgive_cut(short: Sketch, lacks: list[Run], long: Sketch, has: list[Run]) -> None:
    """Where `short` ends in the middle of a sentence that `long` goes on with, leave the rest of `long` out."""
    last, end = len(short.marks) - 1, len(long.marks)
    if not short.marks[last] & _CUT:
        return
    halved = bool(lacks) and lacks[-1].end == last + 1  # the last word itself was cut
    if halved and lacks[-1].start < last:
        return
    edge = short.hashes[last - halved]
    cut = next((at for at in range(end - 1, int(end * _MISSING), -1) if long.hashes[at] == edge), end)
    if cut + 1 < end and not halved and long.marks[cut + 1] & _STARTS:
        return  # what ends where a sentence does has lost nothing
    has[:] = [run for run in has if run.end <= cut + 1]
    if cut < end and halved:
        lacks.pop()


# --- many texts ------------------------------------------------------------------------------------------------------


class Index:
    """Texts by what is in them. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sketches: dict[str, Sketch] = {}
        self._buckets: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._sketches)

    def add(self, key: str, sketch: Sketch) -> None:
        """Remember a text under a key of the caller's, in the place of what was there."""
        bands = sketch.bands()
        self.discard(key)
        with self._lock:
            self._sketches[key] = sketch
            for band in bands:
                bucket = self._buckets.setdefault(band, [])
                if len(bucket) >= _BUCKET:
                    bucket.pop(0)
                bucket.append(key)

    def discard(self, key: str) -> None:
        """Forget a text."""
        with self._lock:
            sketch = self._sketches.pop(key, None)
            if sketch is None:
                return
            for band in sketch.bands():
                bucket = self._buckets.get(band, [])
                if key in bucket:
                    bucket.remove(key)
                if not bucket:
                    self._buckets.pop(band, None)

    def near(self, sketch: Sketch) -> list[tuple[str, Sketch]]:
        """The texts that have most in common with this one, and their keys: a few, in no order."""
        with self._lock:
            met = Counter([key for band in sketch.bands() for key in self._buckets.get(band, ())])
            return [(key, self._sketches[key]) for key, _ in met.most_common(_CANDIDATES)]

    def nearest(self, sketch: Sketch) -> str | None:
        """The key of the text that is most like this one and of the same template; None where there is none."""
        best, nearest = 0.0, None
        for key, candidate in self.near(sketch):
            found = compare(candidate, sketch)
            if found.is_one and found.alike > best:
                best, nearest = found.alike, key
        return nearest
