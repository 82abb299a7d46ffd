"""Turns a system text into its normal form: the template's words, with what varies between calls masked.

The text is worked through in units of a few kilobytes, so that no step holds the interpreter for long, and every
pattern either stays inside a unit or looks at each character once: the cost is linear in the length of the text.
"""

# ruff: noqa: RUF001  (other scripts and typography are what this is about)
from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from egisai.fingerprint.cues import CUE_WORDS, CUES, DATE_LINKS, DATE_WORDS, MASK, mask_cue, spelled
from egisai.fingerprint.given_names import word_set

_UNIT: Final = 1_024
"""Characters of a unit: about 0.1 ms of work, well under the 5 ms after which Python lets another thread run."""

_BEGINNING: Final = 16_000
_ENDING: Final = 8_000
"""Characters read of a long text's two ends: what is between is data, or more of the same. It bounds the cost."""

_HEAD: Final = 4_096
"""Characters in which the role is looked for."""


@dataclass(frozen=True, slots=True)
class Form:
    """A normal form.

    Attributes:
        words: the folded words and masks, separated by single spaces: what is digested.
        text: the masked text as it was written, in paragraphs.
    """

    words: str
    text: str


def normal_form(text: str) -> Form:
    """The normal form of a text that has at least one visible character."""
    learned: set[str] = set()
    units = [_masked(unit, learned) for unit in _ends(list(_units(_mask_blocks(_keep_role_numbers(_clean(text))))))]
    people = spelled(learned)
    if people is not None:
        units = [_without(people, masked, words) for masked, words in units]
    words = " ".join([_joined(words) for _, words in units if words])
    if MASK in words:
        words = _NEIGHBOURS.sub(MASK, words)
    if not words or words == MASK:
        # Nothing but punctuation or inserted values: such a text is its own template.
        words = f"{words} {' '.join(text.split())}"
    return Form(words, "\n\n".join([masked for masked, _ in units]).translate(_SHOWN))


# --- characters ----------------------------------------------------------------------------------------------------
# All sets of characters are spelled out: those of `unicodedata` and `str.isalnum` grow from one Python version to the
# next, and a digest must not.

_UNSEEN: Final = re.compile(
    "[\x80-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
"""Zero-width, bidirectional and variation characters: copied along from web pages, invisible to everybody."""

_TYPOGRAPHY: Final = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´ʼ＇", "'"),
        **dict.fromkeys("“”„‟″«»＂", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        "İ": "I",  # the one letter whose lower case is longer than itself
        **{chr(zero + digit): str(digit) for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xE50) for digit in range(10)},
        **dict.fromkeys(map(chr, range(0xF0000, 0xF000A)), " "),
    }
)

_WORD: Final = re.compile(
    f"{MASK}|"
    "[a-z0-9"
    "\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u060b\u060e-\u061a\u061c-\u061e\u0620-\u0669\u066e-\u06d3"
    "\u06d5-\u0963\u0966-\u1fff\u2070-\u209f\u20d0-\u218f\u2460-\u24ff\u2600-\u27bf\u2c00-\u2dff\u2e80-\u2fff"
    "\u3004-\u3007\u3021-\u302f\u3031-\u30fa\u30fc-\ufdff\ufe20-\ufe2f\ufe70-\ufefe\U00010000-\U0010ffff"
    "]+[+#]*"
)
"""A word: letters and digits of any script with their combining marks, and pictures. Punctuation and markdown are
not part of the template, but C, C++ and C# are three jobs."""

_WORD_ASCII: Final = re.compile(f"{MASK}|[a-z0-9]+[+#]*")
_SPLIT: Final = "".join([char.lower() if char.isalnum() or char == MASK else " " for char in map(chr, range(128))])
"""The same two for the most usual text, which has neither plus nor hash: three times as fast as the pattern."""

_NEIGHBOURS: Final = re.compile(f"{MASK}(?: {MASK})+")


_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]{1,1024}")
"""Bounded, because putting a long run of combining marks in order takes time that grows with its square."""


def _clean(text: str) -> str:
    text = text.replace(MASK, " ")
    if text.isascii():
        return text
    pieces: list[str] = []
    at = 0
    for run in _BEYOND_ASCII.finditer(text):
        start = max(at, run.start() - 1)  # with the letter before it, on which an accent may stand
        pieces += (text[at:start], _compatible(text[start : run.end()]))
        at = run.end()
    pieces.append(text[at:])
    return "".join(pieces)


def _compatible(run: str) -> str:
    return unicodedata.normalize("NFKC", _UNSEEN.sub("", run)).translate(_TYPOGRAPHY)


# --- blocks --------------------------------------------------------------------------------------------------------

DATA_WORDS: Final = word_set(
    """
    account article articles attachment chat chunk chunks content contents context conversation customer data date
    datetime doc docs document documents email emails entries entry env environment example examples excerpt
    excerpts fact facts file files history id input item items knowledge locale memories memory message messages
    metadata name passage passages profile query question record records reference references result results
    retrieval retrieved search session shot shots snippet snippets source sources summary text ticket time timezone
    transcript turn turns user
    """
)
"""A tag made of these words alone encloses what was inserted: `<user_profile>`, `<retrieved-documents>`."""

_TAG: Final = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9_.:-]{0,60})(?:\s[^<>]{0,300})?>")
_DEPTH: Final = 32
"""Kinds of data tags followed at once: more are not a prompt."""

_TAG_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_FENCE: Final = re.compile(r'```|~~~|"""')
_FENCE_LABEL: Final = re.compile(
    r"\b(?:context|documents?|passages?|excerpts?|snippets?|results?|sources?|transcript|history|conversation|memory"
    r"|memories|profile|examples?|data|article|email|ticket|input|records?|kontext|contexte|contexto)\b"
    r"[^.!?\n]{0,40}:\s*$",
    re.IGNORECASE,
)
_ROLE_OPENING: Final = re.compile(
    r"\W*(?:you are|you're|you will|your (?:role|task|job|goal|purpose)|act as|i want you|du bist|tu es"
    r"|vous êtes|eres"
    r"|sie sind|你是|您是|あなたは)",
    re.IGNORECASE,
)
"""What opens like this is instructions, whatever encloses it."""


def _mask_blocks(text: str) -> str:
    spans = [*_tagged(text), *_fenced(text)]
    if not spans:
        return text
    pieces: list[str] = []
    at = 0
    for start, end in sorted(spans):
        if start >= at and not _ROLE_OPENING.match(text, start, min(end, start + 80)):
            pieces += (text[at:start], f" {MASK} ")
            at = end
    pieces.append(text[at:])
    return "".join(pieces)


def _tagged(text: str) -> Iterator[tuple[int, int]]:
    """The insides of data tags. Each tag is looked at once: an end takes the oldest open start of its name, and what is
    open inside of that is closed with it."""
    if "</" not in text:
        return
    opened: dict[str, int] = {}
    for tag in _TAG.finditer(text):
        name = tag[2]
        if tag[1]:
            start = opened.get(name)
            if start is not None:
                yield start, tag.start()
                opened = {other: at for other, at in opened.items() if at < start}
        elif (
            len(opened) < _DEPTH
            and name not in opened
            and DATA_WORDS.issuperset(map(str.lower, _TAG_WORD.findall(name)))
        ):
            opened[name] = tag.end()


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    """The insides of fenced blocks that a line like "Context:" announces."""
    opened: dict[str, int] = {}
    for fence in _FENCE.finditer(text):
        mark = fence[0]
        start = opened.pop(mark, None)
        if start is None:
            opened[mark] = fence.end()
        elif _FENCE_LABEL.search(text[max(0, start - 120) : start - len(mark)]):
            yield start, fence.start()


# --- units ---------------------------------------------------------------------------------------------------------

_SENTENCE: Final = re.compile(r"[.!?;]['\")\]]* |[。！？；।۔] ?")


def _units(text: str) -> Iterator[str]:
    """Paragraphs, their whitespace folded; a long one is divided after a sentence, where no value is divided."""
    lines: list[str] = []
    size = 0
    for raw in text.splitlines():
        line = " ".join(raw.split())
        if lines and (not line or (size > _UNIT and (lines[-1][-1] in ".!?:;。" or size > 4 * _UNIT))):
            yield "\n".join(lines)
            lines, size = [], 0
        if len(line) > _UNIT:
            *whole, line = _cut(line)
            for part in whole:
                yield "\n".join([*lines, part])
                lines = []
            size = 0
        if line:
            lines.append(line)
            size += len(line) + 1
    if lines:
        yield "\n".join(lines)


def _ends(units: list[str]) -> list[str]:
    """The units at the beginning and at the end of a long text. Counting whole units from either end, an inserted
    value of another length leaves nearly always the same ones."""
    if sum(map(len, units)) <= _BEGINNING + _ENDING:
        return units
    first, read = 0, 0
    while read < _BEGINNING:
        read += len(units[first])
        first += 1
    last, read = len(units), 0
    while read < _ENDING and last > first:
        last -= 1
        read += len(units[last])
    return units[:first] + units[last:]


def _cut(line: str) -> Iterator[str]:
    """A long line in parts: at the last sentence's end, or else the last space, or else anywhere, within a unit."""
    at = 0
    while len(line) - at > _UNIT:
        end = at
        for sentence in _SENTENCE.finditer(line, at + _UNIT // 2, at + _UNIT):
            end = sentence.end()
        if end == at:
            end = line.rfind(" ", at + 1, at + _UNIT) + 1 or at + _UNIT
        yield line[at:end]
        at = end
    yield line[at:]


# --- values --------------------------------------------------------------------------------------------------------

_SIGN: Final = re.compile(r"[\d@_/\\]")
"""A word without one of these is no value."""

_LOOKS: Final = (
    # URL. The dot at its end is the sentence's.
    r"(?P<url>(?:[A-Za-z][A-Za-z0-9+.-]{1,15}://|(?<![\w.])www\.)[^\s<>\"'|]*[^\s<>\"'|.,;:!?)\]}])",
    # E-mail address, in any script.
    r"(?P<email>(?:mailto:)?[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+)",
    # File path: absolute, relative, home or Windows, two names deep at least ("/help" and "and/or" are words).
    r"(?P<path>(?<![\w/.~])(?:~|\.{1,2})?/[\w.@+-]{1,128}/[\w.@+/-]*|(?<!\w)[A-Za-z]:\\[^\s\"'<>|]*)",
    # Time zone of the tz database.
    r"(?P<zone>(?<!\w)(?:Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)/\w+(?:/\w+)?)",
    # UUID, hexadecimal digest, MAC, IPv6: letters a to f and digits, in groups.
    (
        r"(?P<hex>(?<![A-Za-z0-9])(?:0x)?(?=[A-Fa-f:-]{0,40}\d)"
        r"(?:[0-9A-Fa-f]{1,12}(?:[:-]{1,2}[0-9A-Fa-f]{1,12}){3,8}|[0-9A-Fa-f]{8,128})(?![A-Za-z0-9]))"
    ),
    # A model's id with its version ("gpt-4o"): the provider's, not the agent's. Without a digit it is a word.
    (
        r"(?P<model>(?<![A-Za-z0-9])(?i:gpt|o(?=\d)|chatgpt|claude|gemini|gemma|llama|mistral|mixtral|qwen|deepseek|grok"
        r"|command|sonar|kimi|glm|phi|nova)-?(?=[A-Za-z.-]{0,40}\d)[A-Za-z0-9][A-Za-z0-9.:-]*)"
    ),
    # Everything else that runs on without a space; `_run` decides.
    r"(?P<run>[A-Za-z0-9](?:[A-Za-z0-9_=+/.:,%#&~-]*[A-Za-z0-9=])?|\d+)",
)
_VALUE: Final = re.compile("|".join(_LOOKS))
_PLAIN_VALUE: Final = re.compile("|".join(_LOOKS[4:]))
"""The same for words without any of @, slash and backslash, which cannot be the first kinds."""

_PREFIX: Final = re.compile(r"(?:[A-Za-z]{1,10}_(?=\w)|[A-Z]{2,6}-(?=\d))+")
"""What kind of id it is ("cust_", "ORD-"), which is the template's."""

_PART: Final = re.compile(r"[A-Za-z]+|\d+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9]+")
_HUMP: Final = re.compile(r"[A-Z][a-z]|[a-z][A-Z]")


def _mask_tokens(unit: str) -> str:
    tokens = unit.split(" ")
    for place, token in enumerate(tokens):
        if not token.isalpha() and _SIGN.search(token):
            bare = token.strip(".,:;()[]%$€")
            if bare.isdigit():
                tokens[place] = token.replace(bare, MASK)
            elif len(token) > 512 and token.isascii() and "\n" not in token:
                tokens[place] = MASK  # nobody writes such a word: encoded data
            else:
                linked = "/" in token or "@" in token or "\\" in token or "www." in token
                tokens[place] = (_VALUE if linked else _PLAIN_VALUE).sub(_mask_value, token)
    return " ".join(tokens)


def _mask_value(value: re.Match[str]) -> str:
    return _run(value[0]) if value.lastgroup == "run" else MASK


def _run(run: str) -> str:
    """What stays of a run of letters, digits and joints: its words, with numbers and random ids masked."""
    prefixes = _PREFIX.match(run)
    if prefixes is not None:
        return prefixes[0] + _without_ids(run[prefixes.end() :])
    return _without_ids(run)


def _without_ids(run: str) -> str:
    digits = sum(map(run.count, "0123456789"))
    if (digits >= 4 and len(run) >= 16) or (digits and len(run) >= 24 and not run.islower() and not run.isupper()):
        return MASK  # a time stamp, a dated version, base64, ULID, a token
    return _SEGMENT.sub(_mask_segment, run)


def _mask_segment(segment: re.Match[str]) -> str:
    text = segment[0]
    if text.isalpha():
        # "HbQkTrWz" after "cust_": the case changes too often for words joined as "CustomerName" is.
        scrambled = len(text) >= 6 and len(_HUMP.findall(text)) * 2 >= len(text) - 1
        return MASK if scrambled else text
    if text.isdigit():
        return f" {MASK} "
    parts = _PART.findall(text)
    if len(parts) == 2 and parts[0].isdigit():
        # 22nd, 10am, 5km, 20k: a number with its unit. But 2D, 3D, 4G, 5G are words.
        return text if len(text) == 2 and text[1] in "dDgG" else f" {MASK} "
    if len(parts) > 3 or len(max(parts, key=lambda part: len(part) * part.isdigit())) > 2:
        return f" {MASK} "  # 8Fh2kLq, AB1234
    return " ".join([f"{MASK}" if part.isdigit() else part for part in parts])  # user42, B2B, log4j, k8s


_CJK_DATE: Final = re.compile(
    r"(?:公元|西暦|令和|平成|民国)?\s?\d{1,4}\s?[年년](?:\s?\d{1,2}\s?[月월])?(?:\s?\d{1,2}\s?[日号號일])?"
    r"|\d{1,2}\s?[月월]\s?\d{1,2}\s?[日号號일]|(?:上午|下午|午前|午後|오전|오후)?\s?\d{1,2}\s?[時时点點시](?:\s?\d{1,2}\s?[分분])?"
)
_CJK_WEEKDAY: Final = re.compile(
    rf"(?<={MASK})\s?[（(,，、]?\s?(?:星期|周|週|礼拜)?[一二三四五六日天月火水木金土](?:曜日|[)）])"
    rf"|(?<={MASK})\s?[,，、]?\s?(?:星期|周|週|礼拜)[一二三四五六日天]"
)


# --- one unit ------------------------------------------------------------------------------------------------------

_BESIDE_A_NUMBER: Final = DATE_WORDS | word_set(
    """
    usd eur gbp jpy chf cad aud inr cny brl mxn krw sek nok dkk pln dollars euros
    """
)


@dataclass(frozen=True, slots=True)
class Mask:
    """A kind of value that is known by its looks.

    Attributes:
        reason: what it catches.
        needs: the pattern is tried only on text in which this finds something.
        apply: masks it.
        beyond_ascii: not tried on ASCII text.
    """

    reason: str
    needs: re.Pattern[str]
    apply: Callable[[str], str]
    beyond_ascii: bool = False


_JSON: Final = re.compile(r'"([\w .-]{1,60})"\s?:\s?(?:"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*|true\b|false\b|null\b)')
_JSON_TEMPLATE_KEYS: Final = word_set(
    """
    agent behavior behaviour content description format goal identity instruction instructions objective persona
    prompt purpose role rules style system task tasks tone type
    """
)


def _mask_json(unit: str) -> str:
    return _JSON.sub(_mask_member, unit)


def _mask_member(member: re.Match[str]) -> str:
    return member[0] if member[1].lower() in _JSON_TEMPLATE_KEYS else f'"{member[1]}": {MASK}'


def _mask_cjk_date(unit: str) -> str:
    return _CJK_DATE.sub(MASK, unit)


def _mask_cjk_weekday(unit: str) -> str:
    return _CJK_WEEKDAY.sub(MASK, unit)


MASKS: Final = (
    Mask(
        "JSON members: the keys are the template, but those that hold instructions are so whole",
        re.compile(r'"\s?:'),
        _mask_json,
    ),
    Mask(
        "dates written with 年, 月 and 日, which join the words around them",
        re.compile("[年년月월時时点點시]"),
        _mask_cjk_date,
        beyond_ascii=True,
    ),
    Mask("URLs, e-mail addresses, paths, ids, numbers, times, amounts, encoded data", _SIGN, _mask_tokens),
    Mask(
        "weekdays after a date, in the same scripts",
        re.compile("[周週曜礼星]|[(（][一二三四五六日天月火水木金土]"),
        _mask_cjk_weekday,
        beyond_ascii=True,
    ),
)
"""What is masked by its looks, in order: a JSON string is one value whatever is in it, and a date in a script without
spaces must go before the run of letters that it would be part of. Then come the cues, which look at what is left."""


def _masked(unit: str, learned: set[str]) -> tuple[str, list[str]]:
    """A unit with its values masked, and its words."""
    if unit.isupper():
        unit = unit.lower()  # capitals are evidence of a name only where not everything is in capitals
    ascii_only = unit.isascii()
    for mask in MASKS:
        if not (ascii_only and mask.beyond_ascii) and mask.needs.search(unit):
            unit = mask.apply(unit)
    words = words_of(unit)
    told = CUE_WORDS.intersection(words)
    if told or not ascii_only:
        before = unit
        lower = unit.lower()
        for cue in CUES:
            if not ascii_only if cue.needs is None else not cue.needs.isdisjoint(told):
                masked = mask_cue(cue, unit, lower, learned)
                if masked is not unit:
                    unit, lower = masked, masked.lower()
        if unit is not before:
            words = words_of(unit)
    return unit, words


def _without(people: re.Pattern[str], unit: str, words: list[str]) -> tuple[str, list[str]]:
    masked = people.sub(MASK, unit)
    return (unit, words) if masked == unit else (masked, words_of(masked))


def words_of(unit: str) -> list[str]:
    """The folded words and masks of a masked text."""
    if not unit.isascii():
        return _WORD.findall(unit.casefold())
    if "+" in unit or "#" in unit:
        return _WORD_ASCII.findall(unit.lower())
    return unit.replace(MASK, f" {MASK} ").translate(_SPLIT).split()


def _joined(words: list[str]) -> str:
    if MASK in words:
        _absorb(words)
    return " ".join(words)


def _absorb(words: list[str]) -> None:
    """Masks the words of a date and the names of currencies that stand beside a masked value."""
    for i in range(len(words)):
        if words[i] == MASK:
            _spread(words, range(i - 1, -1, -1))
            _spread(words, range(i + 1, len(words)))


def _is_at(words: list[str], links: list[int]) -> bool:
    """Whether what stands between two values is the "at" between a date and a time."""
    return len(links) == 1 and words[links[0]] in ("at", "um", "à")


def _spread(words: list[str], places: range) -> None:
    links: list[int] = []
    dated = False
    for place in places:
        word = words[place]
        if word in _BESIDE_A_NUMBER:
            dated = True
            words[place] = MASK
        elif word in DATE_LINKS and len(links) < 2:  # the "of" of "22 of November", once the month is reached
            links.append(place)
            continue
        elif word != MASK or not (dated or _is_at(words, links)):
            return
        for link in links:
            words[link] = MASK
        links.clear()
        if word == MASK:
            return


# --- numbers that are part of a role -------------------------------------------------------------------------------

_ROLE: Final = re.compile(
    r"\b(?:you are|you're|you will be|act as|your role is|as an?)\s(?:now )?([^.,;:!?()@]{1,120})", re.IGNORECASE
)
_ROLE_ENDS: Final = re.compile(
    r"\b(?:for|with|who|that|whose|of|to|named|called|helping|assisting|serving|talking|speaking|running"
    r"|powered|based"
    r"|today|it is)\b",
    re.IGNORECASE,
)
_ROLE_NUMBER: Final = re.compile(
    r"(?<![\w#./:-])(?:[A-Za-z]{1,8}(?P<joint>[ -]?))?(?P<number>\d{1,5})(?:[A-Za-z]{1,2})?(?![\w/:-])"
)
_RECORD: Final = re.compile(
    r"(?:user|customer|client|account|order|ticket|session|request|tenant|case|call|chat|no|nr|number|id"
    r"|version|v)[ -]?\d"
    r"|(?:^|[a-z ])(?:19|20)\d\d$|^\d{4,}$",
    re.IGNORECASE,
)
_KEPT: Final = {ord("0") + digit: 0xF0000 + digit for digit in range(10)}
_SHOWN: Final = {kept: digit for digit, kept in _KEPT.items()}


def _keep_role_numbers(text: str) -> str:
    """Hides from the masks the numbers of the first role phrase, as private-use digits, since they are the role's:
    "Level 2 support engineer" is not "Level 1 support engineer". Years and the numbers of records are left to them."""
    role = _ROLE.search(text, 0, _HEAD)
    if role is None:
        return text
    ends = _ROLE_ENDS.search(role[1])
    start, end = role.start(1), role.end(1) if ends is None else role.start(1) + ends.start()
    phrase = _ROLE_NUMBER.sub(
        lambda number: number[0] if _RECORD.search(number[0]) else number[0].translate(_KEPT), text[start:end]
    )
    return f"{text[:start]}{phrase}{text[end:]}"
