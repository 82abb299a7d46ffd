"""Drawn programs of interleaved tasks, threads and generators, compared call by call with a model: never a mixture.

`make test` runs a short, repeatable selection. As many as one likes, each time others:

    STRESS_EXAMPLES=5000 .venv/bin/pytest tests/stress --hypothesis-seed=1

A failure prints the smallest program that shows it. Hypothesis remembers it in `.hypothesis` and tries it first the
next time; to keep it, paste it into an `@example(...)`. Where a program fails only at times, it is a race: each is run
`STRESS_REPEATS` times (1).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from tests.stress.model import Model
from tests.stress.program import Call, Clear, Generate, Pause, Program, Scope, Span, Try, Use, Yield, programs
from tests.stress.run import World

from provider import Provider

EXAMPLES = int(os.environ.get("STRESS_EXAMPLES", "0"))
REPEATS = int(os.environ.get("STRESS_REPEATS", "1"))


def profile(quick: int, weight: int = 1) -> settings:
    """So many programs, always the same; or `STRESS_EXAMPLES`, fewer where one has a weight, each time others."""
    if EXAMPLES:
        return settings(max_examples=max(1, EXAMPLES // weight), deadline=None, print_blob=False)
    return settings(max_examples=quick, deadline=None, derandomize=True, database=None, print_blob=False)


@pytest.fixture
def world(server: Provider) -> Iterator[World]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # a thread may lose the interpreter after any bytecode
    made = World(server)
    yield made
    made.close()
    sys.setswitchinterval(interval)


def compare(world: World, program: Program) -> int:
    """Run it; the number of actors that took part."""
    model = Model(program)
    for _ in range(REPEATS):
        seen = world.run(program)
        for at in sorted(model.expected.keys() | seen.keys()):
            if seen.get(at) != model.expected.get(at):
                note(f"at {at}")
                assert seen.get(at) == model.expected.get(at)
    return model.actors


_CLOSED = Try([Yield()], [Pause(), Call()])  # which awaits while its generator is being closed


def test_ctx_stress(world: World) -> None:
    """Whatever a program does and however it is interleaved, each span says what the model says."""

    @profile(60)
    @example(Program([Scope(("agent",), [Span([Clear(), Call()])])]))  # cleared below a span: seldom drawn by chance
    @example(Program([Generate("async", ("agent",), [Scope(("user_id",), [_CLOSED])], (Use("inline", []),), "close")]))
    @given(programs(st.sampled_from([1, 1, 1, 2, 8])))
    def check(program: Program) -> None:
        compare(world, program)

    check()


def test_ctx_stress_crowd(world: World) -> None:
    """Nor do hundreds of actors at once, which is thirty copies of a program side by side."""

    @profile(2, weight=30)
    @given(programs(st.just(30), spawns=8))
    def check(program: Program) -> None:
        assert compare(world, program) >= 270

    check()
