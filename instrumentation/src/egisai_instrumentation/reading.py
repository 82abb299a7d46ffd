"""What readers of requests and responses share: members that may be absent, of mappings and of objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

from egisai import fingerprint

from .integration import Attributes, Prompt

_EMPTY: Final[Mapping[str, Any]] = {}


def put(attributes: Attributes, name: str, value: object) -> None:
    """Set an attribute to a value that is there."""
    if value is not None:
        attributes[name] = value


def member(holder: Any, name: str) -> Any:
    """A member of a mapping or of an object; None where it is absent."""
    if isinstance(holder, (dict, Mapping)):  # what it nearly always is first: an abstract class takes long to ask
        return cast("Mapping[str, Any]", holder).get(name)
    return getattr(holder, name, None)


def an_object(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one where there is none."""
    # As above: asking an abstract class costs a third of a microsecond.
    return cast("Mapping[str, Any]", value) if value and isinstance(value, (dict, Mapping)) else _EMPTY


def an_array(value: object) -> Sequence[Any]:
    """A JSON array, or an empty one where there is none."""
    if not value or isinstance(value, str) or not isinstance(value, (list, Sequence)):
        return ()
    return cast("Sequence[Any]", value)


def texts(content: object) -> Sequence[str]:
    """The texts of a message's content: one, or parts with theirs under `text`."""
    if isinstance(content, str):
        return (content,)
    found = (part if isinstance(part, str) else member(part, "text") for part in an_array(content))
    return [text for text in found if isinstance(text, str)]


def system_text(messages: object) -> tuple[str, ...] | None:
    """The system text of a list of messages with `role` and `content`, mappings or objects."""
    # `fingerprint.system_texts`, written out: as a generator of generators it takes a microsecond of every call.
    system: list[str] = []
    found = False
    for message in an_array(messages):
        if member(message, "role") in fingerprint.SYSTEM_ROLES:
            found = True
            system += texts(member(message, "content"))
        elif found:
            break
    return tuple(system) or None


def no_prompt(_: Mapping[str, Any]) -> Prompt:
    """For endpoints that carry no system text, such as embeddings."""
    return None


class Loose(SimpleNamespace):
    """A JSON object read like an SDK model: what it lacks is None."""

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__(**members)

    def __getattr__(self, name: str) -> None:
        return None


def loose(content: bytes | str) -> Any:
    """JSON as it came over the wire, read like an SDK model. Raises ValueError where it is none."""
    return json.loads(content, object_hook=Loose)
