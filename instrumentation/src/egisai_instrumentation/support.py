"""The support table, made from the integrations themselves: `docs/support.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from .integration import Endpoint, Integration
from .reading import no_prompt

UNSUPPORTED: Final[dict[str, str]] = {
    "google-cloud-aiplatform": "`vertexai.generative_models` is deprecated by Google: use `google-genai`, which is "
    "followed for Vertex AI too.",
}
"""Client library to why it has no integration, for those that people would look for."""

_HEAD: Final = """\
# Supported clients

Made by `python -m egisai_instrumentation support`; a test keeps it equal to the code. Both ends of each range of
versions run the contract suite (`tests/instrumentation/test_contract.py`), sync and async: whole, streamed, raw where
the client has it, refused, broken, left early, cancelled, nested in another call, unsampled.

Every span says who made the call, for whom, and in what ([instrumentation](../instrumentation/README.md)), with the
request's parameters, the response's id, model and finish reasons, and its usage: input and output tokens, cached and
reasoning tokens where the provider counts them. Streams also have the time to their first chunk.

"""


def table(integrations: Sequence[Integration]) -> str:
    """The whole page."""
    sections = (
        ("Clients", _clients(integrations)),
        ("Not supported", _unsupported()),
        ("Calls", _calls(integrations)),
        ("Where they are followed", _places(integrations)),
    )
    shown = [(title, list(rows)) for title, rows in sections]
    return _HEAD + "\n".join(f"## {title}\n\n" + "\n".join(rows) + "\n" for title, rows in shown if rows)


def _clients(integrations: Sequence[Integration]) -> Iterator[str]:
    yield "| client | versions | not covered, and notes |"
    yield "|---|---|---|"
    for each in integrations:
        yield f"| `{each.library}` | {each.versions} | {each.note} |"


def _calls(integrations: Sequence[Integration]) -> Iterator[str]:
    yield "| client | call | `gen_ai.operation.name` | streams | agent from its system prompt | message content |"
    yield "|---|---|---|---|---|---|"
    for each in integrations:
        for name, endpoint in each.endpoints.items():
            yield f"| `{each.library}` | `{name}` | `{endpoint.operation}` | {_facts(endpoint)} |"


def _facts(endpoint: Endpoint) -> str:
    streams = "-" if endpoint.fold is None else "yes, usage asked for" if endpoint.usage_on_request else "yes"
    prompt = "-" if endpoint.read_prompt is no_prompt else "yes"
    content = "-" if endpoint.content is None else "on request"
    return f"{streams} | {prompt} | {content}"


def _unsupported() -> Iterator[str]:
    if UNSUPPORTED:
        yield from ("| client | why |", "|---|---|")
        yield from (f"| `{library}` | {why} |" for library, why in UNSUPPORTED.items())


def _places(integrations: Sequence[Integration]) -> Iterator[str]:
    """Who patches the same functions finds here whom else to think of."""
    yield "| client | module | classes and functions |"
    yield "|---|---|---|"
    for each in integrations:
        by_module: dict[str, dict[str, list[str]]] = {}
        followed = (*each.targets, *[(place.module, place.path) for place in (*each.methods, *each.others)])
        for module, path in dict.fromkeys(followed):
            owner, _, name = path.rpartition(".")
            by_module.setdefault(module, {}).setdefault(owner, []).append(name)
        for module, by_owner in by_module.items():
            yield f"| `{each.library}` | `{module}` | {_names(by_owner)} |"


def _names(by_owner: Mapping[str, Sequence[str]]) -> str:
    """`Client`, `AsyncClient`: `chat`, `embed`; `function`"""
    owners: dict[tuple[str, ...], list[str]] = {}
    for owner, names in by_owner.items():
        owners.setdefault(tuple(names), []).append(owner)
    return "; ".join((f"{_listed(of)}: " if any(of) else "") + _listed(names) for names, of in owners.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
