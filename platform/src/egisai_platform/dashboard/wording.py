"""How the dashboard writes numbers, times, money and hostile text for people."""

from __future__ import annotations

import re
import zlib
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup

DASH = "\N{EN DASH}"
"""What stands where there is nothing to show."""

COLOURS = 12
"""Entries of the agent palette in `static/style.css`."""

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 (but tab and newline), DEL and C1
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible and bidi controls
    "\U000e0000-\U000e007f]"  # tag characters, which hide text from readers but not from models
    "|[\ud800-\udfff]"  # lone surrogates, which JSON can carry and UTF-8 cannot
    "|(?<=[\x20-\x7e])[\u200c\u200d]|[\u200c\u200d](?=[\x20-\x7e])"  # joiners, unless they join what needs joining
)


def visible(text: str) -> str:
    """Return `text` with every control and invisible formatting character spelled out, so that nothing hides.

    A zero byte becomes its control picture, a right-to-left override becomes ``⟨U+202E⟩``.
    """
    return _CONTROLS.sub(_spell, text.replace("\r\n", "\n"))


def _spell(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def finalize(value: object) -> object:
    """What Jinja does with every expression before it escapes it: markup of ours passes, all else is made visible."""
    return value if isinstance(value, Markup) else visible(str(value))


def shorten(text: str, limit: int) -> str:
    """Return `text` on one line and in at most `limit` characters, an ellipsis included."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit and len(text) <= limit * 4 else line[: limit - 1].rstrip() + "…"


def short_id(value: str) -> str:
    """Return the head of an opaque id (a UUID, a hex id); ids that people chose stay whole up to 28 characters."""
    if re.fullmatch(r"[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return value[:8] + "…"
    return shorten(value, 28)


def count(value: int | None) -> str:
    """Write a count in at most five characters: 950, 1.2k, 38k, 4.1M."""
    if value is None:
        return DASH
    size = float(value)
    if size < 1000:
        return str(value)
    for unit in ("k", "M", "G", "T"):
        size /= 1000
        if size < 99.95:
            return f"{size:.1f}".removesuffix(".0") + unit
        if size < 999.5:
            return f"{size:.0f}{unit}"
    return f"{size:.0f}T"


def money(usd: float | None) -> str:
    """Write US dollars with two significant digits below a cent and two decimals above."""
    if usd is None:
        return DASH
    if usd == 0:
        return "$0"
    if usd < 0.000001:
        return "<$0.000001"
    if usd < 0.01:
        digits = 2
        while round(usd, digits) < 10 ** (1 - digits):  # two significant digits
            digits += 1
        return f"${usd:.{digits}f}"
    return f"${usd:.3f}" if usd < 1 else f"${usd:,.2f}" if usd < 10_000 else f"${usd:,.0f}"


def duration(ms: float | None) -> str:
    """Write a duration given in milliseconds: 0.4 ms, 850 ms, 1.24 s, 2 min 3 s, 5 h 10 min, 3 d 4 h."""
    if ms is None:
        return DASH
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.2f} s" if ms < 9_995 else f"{ms / 1000:.1f} s"
    seconds = round(ms / 1000)
    for size, unit, below, lower in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // below
            return f"{seconds // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{seconds} s"  # pragma: no cover - 59.95 s rounds up to a minute


def ago(when: datetime, now: datetime) -> str:
    """Write how long ago `when` was; beyond 30 days, its date. `live.js` writes the same words."""
    seconds = int((now - when).total_seconds())
    if seconds < 1:
        return "now"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago" if seconds < 30 * 86_400 else f"{when:%d %b %Y}"
    return "now"  # pragma: no cover


def exact(when: datetime) -> str:
    """Write a time to the millisecond, in UTC and saying so."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"


def share(part: int, whole: int) -> str:
    """Write `part` of `whole` as a percentage that is never rounded to a nought or a hundred it is not."""
    if not whole or not part:
        return "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.0f}%" if 10 <= percent <= 99 else f"{percent:.1f}".removesuffix(".0") + "%"


def colour(agent_id: str) -> int:
    """Return the palette entry of an agent: the same on every page, in every process, for ever."""
    return zlib.crc32(agent_id.encode("utf-8", "replace")) % COLOURS


def plural(number: int, noun: str) -> str:
    """Write a number with its noun: 1 call, 2 calls, 1.2k calls."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


FILTERS: dict[str, Any] = {
    "ago": ago,
    "count": count,
    "money": money,
    "duration": duration,
    "exact": exact,
    "share": share,
    "colour": colour,
    "plural": plural,
    "shorten": shorten,
    "short_id": short_id,
}
