"""A client in each of its kinds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.instrumentation.forms import APIS, Caller

from provider import Provider


def pytest_collection_finish() -> None:
    """Tests of abandoned streams collect garbage many times: what is loaded by now need not be walked each time."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_caller(kind: str, server: Provider) -> Iterator[Callable[..., Caller]]:
    """Makes callers of this kind, with client options, and closes them."""
    made: list[Caller] = []

    def make(**options: Any) -> Caller:
        made.append(Caller(kind, server, **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.fixture
def caller(make_caller: Callable[..., Caller]) -> Caller:
    return make_caller()
