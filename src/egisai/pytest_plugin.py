"""The pytest fixture `egisai_calls`; pytest finds it by entry point, and nothing else imports this module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from opentelemetry.context import Context, attach, get_current

if TYPE_CHECKING:
    from .testing import Recording


@pytest.fixture
def egisai_calls() -> Iterator[Recording]:
    """The LLM calls that the test makes, from an empty context: see `egisai.testing.capture`."""
    from .testing import capture  # only for tests that ask for it

    before = get_current()
    attach(Context())
    try:
        with capture() as calls:
            yield calls
    finally:
        attach(before)
