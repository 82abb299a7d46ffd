"""Says which prompt template a system text was rendered from, as a short stable digest and a name to show.

`of` normalises the text, masks what varies between calls (`masks.py`), digests the words that remain and names the
agent from them (`naming.py`). It costs about 0.1 ms for a usual prompt and grows linearly with its length, so callers
on an event loop ask `seen` first and compute texts over `LONG` characters in a thread.

Two texts of one template have one digest when all that differs between them is masked. Inserted text that nothing
marks as inserted (a passage, a memory, a profile in free prose) makes another digest; whether that is another agent is
for `prompts.py` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from egisai.fingerprint.memo import MISSING, PROBED, Memo, Missing

if TYPE_CHECKING:
    from egisai.fingerprint.sketch import Sketch

__all__ = [
    "LONG",
    "MISSING",
    "SYSTEM_ROLES",
    "Fingerprint",
    "Missing",
    "clear",
    "of",
    "of_stored",
    "seen",
    "system_texts",
]

LONG: Final = 4_000
"""Total characters above which a first sight is worth a thread: it takes about 0.8 ms
where a hop to an executor and back takes 0.03 ms."""

_NAMED: Final = 4_096  # characters of masked text in which a name is looked for

SYSTEM_ROLES: Final = frozenset({"system", "developer"})

_READ: Final = 1_000_000
"""Characters read of one text, which bounds its cost: a longer text is data, and its template was at its head."""

_DOMAIN: Final = b"egisai fingerprint 1\n"
"""First bytes of every digest: raise the number whenever a normal form changes, since every agent's id changes too."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A prompt template.

    Attributes:
        digest: 32 hex digits, the same in every process, on every platform and Python version.
        name: what to call the agent, at most 60 characters of the template's own wording.
        sketch: what tells whether another text is of the same template; None for a prompt known by its id alone.
    """

    digest: str
    name: str
    sketch: Sketch | None = field(default=None, compare=False, repr=False)


_memo: Final[Memo[Fingerprint | None]] = Memo()


def of(system: tuple[str, ...]) -> Fingerprint | None:
    """The fingerprint of a system text given as its parts in order; None when there is no text in it.

    How the text is divided into parts does not matter. Never raises, whatever the text.
    """
    system = _bounded(system)
    key = _memo.key(system)
    found = _memo.get(key, system)
    if found is MISSING:
        found = _compute(system)
        _memo.put(key, system, found)
    return found


def seen(system: tuple[str, ...]) -> Fingerprint | Missing | None:
    """What `of` has to say about this text without computing it, or `MISSING`."""
    if len(system) == 1 and len(system[0]) < PROBED:  # what most prompts are
        return _memo.get(None, system)
    system = _bounded(system)
    return _memo.get(_memo.key(system), system)


def of_stored(prompt_id: str, version: str | None = None) -> Fingerprint:  # noqa: ARG001  (see the docstring)
    """The fingerprint of a prompt that the provider stores, known by its id alone.

    The version is part of the reference but not of the identity: publishing a new one does not make a new agent.
    """
    digest = _digest(f"stored {prompt_id.strip()}")
    shown = prompt_id.strip()
    return Fingerprint(digest, f"Prompt {shown if len(shown) <= 16 else shown[:15] + '…'}")


def system_texts(messages: Iterable[tuple[object, Iterable[str]]]) -> Iterator[str]:
    """The system text of a conversation, given as roles and texts: that of its first run of system messages.

    Later ones are remarks on the conversation, not who the agent is.
    """
    found = False
    for role, texts in messages:
        if role in SYSTEM_ROLES:
            found = True
            yield from texts
        elif found:
            return


def clear() -> None:
    """Forget every text seen (for tests)."""
    _memo.clear()


def _compute(system: tuple[str, ...]) -> Fingerprint | None:
    text = "\n\n".join(system)
    if not text or text.isspace():
        return None
    # Their patterns take 25 ms to compile, which a program that never meets an unnamed agent need not spend.
    from egisai.fingerprint.masks import normal_form
    from egisai.fingerprint.naming import name_of
    from egisai.fingerprint.sketch import Sketch

    form = normal_form(text)
    digest = _digest(form.words)
    return Fingerprint(digest, name_of(form.text[:_NAMED]) or f"Agent {digest[:8]}", Sketch.of(form.text))


def _digest(words: str) -> str:
    # `surrogatepass`: half of a surrogate pair can stand in a str, and must neither raise nor vanish.
    return hashlib.blake2b(_DOMAIN + words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _bounded(system: tuple[str, ...]) -> tuple[str, ...]:
    if sum(map(len, system)) <= _READ:
        return system
    left = _READ
    parts: list[str] = []
    for part in system:
        parts.append(part[:left])
        left -= len(parts[-1])
        if not left:
            break
    return tuple(parts)
