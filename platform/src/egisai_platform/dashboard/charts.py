"""The geometry of the two pictures: calls over time, and a workflow's calls in the lanes of their agents.

Positions along the time axis are percentages, so that the SVG stretches with the page and its text does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Final

from egisai_platform.dashboard import wording
from egisai_platform.model import Call, Point

# --- calls over time -------------------------------------------------------------------------------------------
MAX_BARS: Final = 400
HEIGHT: Final = 128
"""Of the plot, in pixels; also in the template's viewport."""


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    width: float
    height: float
    error_height: float
    start: datetime
    end: datetime
    point: Point


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    bars: Sequence[Bar]
    columns: Sequence[Tick]
    """Ticks of the time axis, in percent from the left."""
    rows: Sequence[Tick]
    """Ticks of the count axis, in pixels from the bottom."""


def chart(series: Sequence[Point], bucket_s: int, since: datetime | None, until: datetime) -> Chart:
    """Return the bar chart of a time series whose empty buckets may be missing, from `since` until `until`."""
    if not series or bucket_s <= 0:
        return Chart((), (), ())
    bucket = timedelta(seconds=bucket_s)
    first = series[0].time
    if since is not None and since < first:
        first -= bucket * math.floor((first - since) / bucket)
    last = max(series[-1].time, first + bucket * ((until - first) // bucket))
    if (last - first) / bucket >= MAX_BARS:
        last = max(first + bucket * (MAX_BARS - 1), series[-1].time)
        first = max(first, last - bucket * (MAX_BARS - 1))
    number = max(int((last - first) / bucket) + 1, 12)  # few buckets are not drawn as a wall
    top, step = _scale(max(point.calls for point in series))
    width = 100 / number
    bars = [
        Bar(
            x=round((point.time - first) / bucket * width, 3),
            width=round(width, 3),
            height=_pixels(point.calls, top),
            error_height=_pixels(point.errors, top),
            start=point.time,
            end=point.time + bucket,
            point=point,
        )
        for point in series
        if point.calls and point.time >= first
    ]
    rows = [Tick(round(value / top * HEIGHT, 1), wording.count(value)) for value in range(0, top + 1, step)]
    return Chart(bars, _time_ticks(first, number * bucket_s), rows)


def _pixels(value: int, top: int) -> float:
    return max(round(value / top * HEIGHT, 1), 1.5) if value else 0.0


def _scale(highest: int) -> tuple[int, int]:
    """Return a round top of the axis at or above `highest`, and the step between its ticks."""
    for magnitude in (10**power for power in range(18)):
        for step in (magnitude, magnitude * 2, magnitude * 5):
            if step * 4 >= highest:
                return math.ceil(max(highest, 1) / step) * step, step
    raise OverflowError(highest)


_STEPS: Final = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    1_209_600, 2_592_000, 7_776_000, 31_536_000,
)  # fmt: skip


def _time_ticks(first: datetime, span_s: float) -> list[Tick]:
    step = next((step for step in _STEPS if span_s / step <= 7), _STEPS[-1])
    start_s = first.timestamp()
    ticks: list[Tick] = []
    at = math.ceil(start_s / step) * step
    while at < start_s + span_s and len(ticks) < 60:
        moment = datetime.fromtimestamp(at, timezone.utc)
        form = "%d %b" if step >= 86_400 or at % 86_400 == 0 else "%H:%M" if step >= 60 else "%H:%M:%S"
        ticks.append(Tick(round((at - start_s) / span_s * 100, 3), moment.strftime(form), wording.exact(moment)))
        at += step
    return ticks


# --- a workflow's lanes ----------------------------------------------------------------------------------------
MAX_ROWS: Final = 12
"""Calls of one agent drawn beneath each other when they overlap; further ones share the last row."""


@dataclass(frozen=True, slots=True)
class Bout:
    """One call in its lane."""

    number: int
    """Its place in the workflow, from 1."""
    call: Call
    x: float
    width: float
    row: int


@dataclass(slots=True)
class Lane:
    """An agent's part of a workflow."""

    agent_id: str
    agent_name: str
    bouts: list[Bout] = field(default_factory=list[Bout])
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Lanes:
    lanes: Sequence[Lane]
    ticks: Sequence[Tick]
    """Offsets from the workflow's first moment."""
    breaks: Sequence[Tick]
    """Idle stretches that were cut out of the axis, with their length as label."""
    elapsed_ms: float


def lanes(calls: Sequence[Call]) -> Lanes:
    """Return the lanes of a workflow's calls (in time order), one per agent in order of appearance.

    An idle stretch longer than all the busy time together, such as a night between two halves, is cut
    to a tenth of it and marked, because without that every bar would be a hair.
    """
    if not calls:
        return Lanes((), (), (), 0.0)
    axis = _Axis(calls)
    by_agent: dict[str, Lane] = {}
    ends: dict[str, list[float]] = {}
    for number, call in enumerate(calls, 1):
        lane = by_agent.setdefault(call.agent_id, Lane(call.agent_id, call.agent_name))
        x, end = axis.percent(axis.start_ms(call)), axis.percent(axis.start_ms(call) + call.duration_ms)
        end = max(end, x + 0.5)  # a bar one can see and hit
        rows = ends.setdefault(call.agent_id, [])
        row = next((row for row, taken in enumerate(rows) if taken <= x), len(rows))
        if row == len(rows) and row < MAX_ROWS:
            rows.append(end)
        row = min(row, MAX_ROWS - 1)
        rows[row] = max(rows[row], end)
        lane.rows = len(rows)
        lane.bouts.append(Bout(number, call, round(min(x, 99.5), 3), round(end - x, 3), row))
    return Lanes(list(by_agent.values()), axis.ticks(), axis.breaks(), axis.elapsed_ms)


class _Axis:
    """Time in milliseconds from the first call's start, to percent, with long idle stretches cut."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._origin = min(call.start_time for call in calls)
        busy: list[list[float]] = []
        for start, end in sorted((self.start_ms(call), self.start_ms(call) + call.duration_ms) for call in calls):
            if busy and start <= busy[-1][1]:
                busy[-1][1] = max(busy[-1][1], end)
            else:
                busy.append([start, end])
        self.elapsed_ms = busy[-1][1]
        working = sum(end - start for start, end in busy) or 1.0
        self._cuts: list[tuple[float, float, float]] = []
        """(start, length, length drawn), in milliseconds."""
        for (_, end), (start, _) in pairwise(busy):
            if start - end > working:
                self._cuts.append((end, start - end, working / 10))
        self._drawn = max(self._squeeze(self.elapsed_ms), 1e-6)

    def start_ms(self, call: Call) -> float:
        return (call.start_time - self._origin) / timedelta(milliseconds=1)

    def percent(self, at_ms: float) -> float:
        return self._squeeze(at_ms) / self._drawn * 100

    def breaks(self) -> list[Tick]:
        return [Tick(round(self.percent(at + length / 2), 3), wording.duration(length)) for at, length, _ in self._cuts]

    def ticks(self) -> list[Tick]:
        """Return ticks at round offsets, none of them inside a cut."""
        step = _round_up(self._drawn / 6)
        ticks: list[Tick] = []
        edges = [0.0, *(at + length for at, length, _ in self._cuts)]
        ends = [*(at for at, _, _ in self._cuts), self.elapsed_ms]
        for edge, end in zip(edges, ends, strict=True):
            at = math.ceil(edge / step) * step
            while at <= end and len(ticks) < 40:
                place = self.percent(at)
                if place < 97 and (not ticks or place - ticks[-1].at > 6):
                    ticks.append(Tick(round(place, 3), "+" + wording.duration(at) if at else "0"))
                at += step
        return ticks

    def _squeeze(self, at_ms: float) -> float:
        saved = 0.0
        for start, length, drawn in self._cuts:
            if at_ms > start:
                saved += min(at_ms - start, length) * (1 - drawn / length)
        return at_ms - saved


def _round_up(value_ms: float) -> float:
    if value_ms > 1000:
        return 1000.0 * next((step for step in _STEPS if step * 1000 >= value_ms), _STEPS[-1])
    power = 10.0 ** math.floor(math.log10(max(value_ms, 0.01)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value_ms * 0.999)
