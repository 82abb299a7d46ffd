"""The support table, made from the integrations themselves: `docs/support.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .integration import Endpoint, Integration
from .reading import no_prompt

UNSUPPORTED: Final[dict[str, str]] = {}
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
    return _HEAD + "\n".join([*_clients(integrations), "", *_calls(integrations), *_unsupported()]) + "\n"


def _clients(integrations: Sequence[Integration]) -> Iterator[str]:
    yield "| client | versions | followed at | not covered, and notes |"
    yield "|---|---|---|---|"
    for each in integrations:
        places = [f"{module}.{path}" for module, path in each.targets]
        places += [f"{followed.module}.{followed.path}" for followed in (*each.methods, *each.others)]
        shown = ", ".join(f"`{place}`" for place in dict.fromkeys(places))
        yield f"| `{each.library}` | {each.versions} | {shown} | {each.note} |"


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
        yield from ("", "Not supported:", "", "| client | why |", "|---|---|")
        yield from (f"| `{library}` | {why} |" for library, why in UNSUPPORTED.items())
