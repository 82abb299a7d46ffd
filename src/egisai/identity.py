"""Which agent this is: a pure local function from what is known to `(id, name, source)`.

Every process computes the same id with no network and no lock: the id is a UUIDv5 (RFC 9562, section 5.5) over the
organisation, the kind of key and the key.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from uuid import UUID, uuid5

Kind = Literal["name", "fingerprint"]
Source = Literal["id", "name", "framework", "fingerprint", "app"]

_NAMESPACE: Final = UUID("2a9844ce-f64a-51e6-9733-d2faa27d9411")
"""uuid5(NAMESPACE_DNS, "egis.agents"). Changing it changes every agent's id, everywhere: never do."""

_MEMO: Final = 16_384  # names and fingerprints remembered, about 300 bytes each


class Identity(NamedTuple):
    """Who made a call, and how we know.

    Attributes:
        id: the agent's UUID.
        name: None only where nobody ever gave one (source `id`).
        source: how we know.
        fingerprint: digest of the prompt by which the agent is known (source `fingerprint`).
    """

    id: str
    name: str | None
    source: Source
    fingerprint: str | None = None


def name_key(name: str) -> str:
    """The form in which names are compared: NFC, trimmed, case-folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


@lru_cache(_MEMO)
def agent_id(organisation: str, kind: Kind, key: str) -> str:
    """The UUID of the agent that `key` names in `organisation`.

    A `name` may be given in any form; a `fingerprint` is the digest. An agent named by the program, by a framework or
    by `app` is the same agent: all three are names.
    """
    if kind == "name":
        key = name_key(key)
    # NUL can be in neither an organisation nor a kind, so no two triples share an encoding.
    return str(uuid5(_NAMESPACE, f"{organisation}\0{kind}\0{key}"))


@lru_cache(_MEMO)
def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its canonical form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
