"""The parts that need no server: filters, prices, live events, the registry's graph, the order of columns."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from egisai.identity import agent_id
from egisai_platform import filters, otlp, sql
from egisai_platform.events import Events
from egisai_platform.ingest import Writer
from egisai_platform.metadata import Metadata
from egisai_platform.metrics import Metrics
from egisai_platform.prices import cost_usd
from egisai_platform.registry import MergeRefusedError, Registry, Sighting, UnknownAgentError
from egisai_platform.store import StoreError

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def test_columns():
    """The store's columns and the decoder's rows are the same, in the same order."""
    assert list(sql.COLUMNS) == list(otlp.SpanRow._fields)


# --- filters -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("1h", NOW - timedelta(hours=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=timezone.utc)),
        ("2026-11-22T10:00:00", NOW - timedelta(hours=2)),
        ("2026-11-22T10:00:00Z", NOW - timedelta(hours=2)),
        ("2026-11-22T10:00:00.000Z", NOW - timedelta(hours=2)),
        ("2026-11-22T12:00:00+02:00", NOW - timedelta(hours=2)),
        ("2026-11-22T12:00:00 02:00", NOW - timedelta(hours=2)),
    ],
)
def test_times(text, time):
    """What `since` understands."""
    assert filters.parse([("since", text)], filters.TIMES, NOW).where.since == time


@pytest.mark.parametrize(
    "text", ["1", "h", "-1h", "1y", "1.5h", "999999w", "now", "0001-01-01", "9999-01-01", "\u0661h"]
)
def test_no_times(text):
    """What it does not."""
    with pytest.raises(filters.BadParameterError, match="is not a time"):
        filters.parse([("since", text)], filters.TIMES, NOW)


# --- prices ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("provider", "models", "usage", "dollars"),
    [
        ("openai", ("gpt-4o-mini",), (1_000_000, 0, 0, 0), 0.15),
        ("openai", ("gpt-4o-mini",), (1_000_000, 400_000, 0, 0), 0.6 * 0.15 + 0.4 * 0.075),
        ("openai", ("gpt-4o-mini",), (0, 0, 0, 1_000_000), 0.60),
        ("openai", ("gpt-4o-mini-2024-07-18", "x"), (1_000_000, 0, 0, 0), 0.15),
        ("openai", ("", "gpt-4o-mini"), (1_000_000, 0, 0, 0), 0.15),
        ("openai", ("text-embedding-3-small",), (1_000_000, 0, 0, None), 0.02),
        ("azure.ai.openai", ("gpt-4o",), (1_000_000, 0, 0, 0), 2.5),
        ("some-gateway", ("gpt-4o",), (1_000_000, 0, 0, 0), 2.5),
        (
            "anthropic",
            ("claude-sonnet-4-5",),
            (100_000, 50_000, 10_000, 1000),
            0.04 * 3 + 0.05 * 0.3 + 0.01 * 3.75 + 0.015,
        ),
        ("openai", ("acme-1",), (1_000_000, 0, 0, 0), None),
        ("openai", ("",), (1_000_000, 0, 0, 0), None),
        ("openai", ("gpt-4o-mini",), (None, None, None, None), None),
        ("openai", ("gpt-4o-mini",), (10, 11, 0, 0), None),
    ],
)
def test_prices(provider, models, usage, dollars):
    """Cached tokens at their own price; what nobody can know is None, never 0."""
    total, cached, written, output = usage
    cost = cost_usd(
        provider,
        models,
        NOW,
        input_tokens=total,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )
    assert cost == (None if dollars is None else pytest.approx(dollars))


def test_tiered_price():
    """A price that rises with the size of the prompt is not taken for a straight line."""
    small, large = (
        cost_usd("google", ("gemini-2.5-pro",), NOW, input_tokens=tokens, output_tokens=0)
        for tokens in (100_000, 1_000_000)
    )
    assert small == pytest.approx(0.125)
    assert large == pytest.approx(2.5)


# --- live events -------------------------------------------------------------------------------------------------
def test_events():
    """Each watcher hears of its organisation only, from any thread; a slow one hears the sum; a stop ends all."""
    events = Events()

    async def watch():
        heard = []
        with events.subscribe("acme") as counts:
            first = asyncio.ensure_future(anext(counts))
            await asyncio.sleep(0)
            threads = [
                threading.Thread(target=events.publish, args=(organisation, 5))
                for organisation in ["acme", "other"] * 10
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            heard.append(await first)
            while sum(heard) < 50:
                heard.append(await anext(counts))
            events.close()
            heard += [count async for count in counts]
        return heard

    heard = asyncio.run(watch())
    assert sum(heard) == 50
    assert len(heard) <= 2

    async def late():
        with events.subscribe("acme") as counts:
            return [count async for count in counts]

    assert asyncio.run(late()) == []


def test_events_are_heard_from_the_first_moment():
    """What is published between subscribing and the first turn is not lost: a page says "live" in between."""
    events = Events()

    async def watch():
        with events.subscribe("acme") as counts:
            events.publish("acme", 3)
            return await asyncio.wait_for(anext(counts), 10)

    assert asyncio.run(watch()) == 3
    assert (events.published("acme"), events.published("other")) == (3, 0)


def test_events_forget_who_left():
    """A watcher that goes leaves nothing behind."""
    events = Events()

    async def watch():
        with events.subscribe("acme") as counts:
            events_seen = asyncio.ensure_future(anext(counts))
            await asyncio.sleep(0)
            events.publish("acme", 1)
            await events_seen
        assert not events._subscribers

    asyncio.run(watch())
    events.publish("acme", 1)  # its loop is closed by now


# --- the writer ---------------------------------------------------------------------------------------------------
class Picky:
    """A store that takes no rows of one organisation; a real one cannot be made to."""

    def __init__(self):
        self.stored = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def insert(self, rows):
        self.entered.set()
        assert self.go_on.wait(10)
        if any(row.organisation == "bad" for row in rows):
            raise KeyError("a bug")
        self.stored.append([row.organisation for row in rows])


def test_one_request_does_not_fail_its_group(registry, recorder, caplog):
    """A group that cannot be stored is tried request by request; the writer goes on, and its last act is to finish."""
    store = Picky()
    writer = Writer(store, registry, Events(), Metrics())
    body = encode_spans([*(recorder.call() or recorder.spans())]).SerializeToString()
    batches = [
        otlp.decode(body, organisation, now_ns=time.time_ns(), retention_days=1) for organisation in ("a", "bad", "b")
    ]
    first = writer.submit(batches[0])
    assert store.entered.wait(10)
    futures = [writer.submit(batch) for batch in batches]
    store.go_on.set()
    assert first.result(10) is None
    assert [isinstance(future.exception(10), StoreError) for future in futures] == [False, True, False]
    last = writer.submit(batches[2])
    writer.close()
    assert last.done()
    assert store.stored == [["a"], ["a"], ["b"], ["b"]]
    assert "KeyError" in caplog.text


# --- the registry ------------------------------------------------------------------------------------------------
@pytest.fixture
def registry(dsn):
    """A registry that knows a, b, c, d of organisation o."""
    metadata = Metadata(dsn)
    made = Registry(metadata)
    made.saw(Sighting("o", agent_id("o", "name", name), name, "name") for name in "abcd")
    yield made
    metadata.close()


def ids(names):
    return [agent_id("o", "name", name) for name in names]


def test_merge_chains(registry):
    """Chains lead to their end, circles are refused wherever they would close, and any link can be undone."""
    a, b, c, d = ids("abcd")
    registry.merge("o", a, b)
    registry.merge("o", b, c)
    registry.merge("o", c, d)
    names = registry.names("o")
    assert [names.canonical(x) for x in (a, b, c, d)] == [d] * 4
    assert names.ids(b) == [d, *sorted([a, b, c])]
    for into in (a, b, c, d):
        with pytest.raises(MergeRefusedError):
            registry.merge("o", d, into)
    registry.unmerge("o", b)
    names = registry.names("o")
    assert [names.canonical(x) for x in (a, b, c, d)] == [b, b, d, d]
    registry.merge("o", a, d)  # a merge may be redirected
    assert registry.names("o").canonical(a) == d
    with pytest.raises(UnknownAgentError):
        registry.merge("other", a, b)


def test_traffic_and_operators_names(registry):
    """The first name heard stays, an id's name follows the program, and an operator's name beats both."""
    a, _, _, _ = ids("abcd")
    registry.saw([Sighting("o", a, "A", "name")])
    assert registry.names("o").name(a) == "a"
    by_id = "11111111-1111-5111-8111-111111111111"
    for heard in ("", "first", "second"):
        registry.saw([Sighting("o", by_id, heard, "id")])
    assert registry.names("o").name(by_id) == "second"
    registry.saw([Sighting("o", by_id, "", "id")])
    assert registry.names("o").name(by_id) == "second", "a call without a name takes none away"
    registry.describe("o", by_id, name="Operator's")
    registry.saw([Sighting("o", by_id, "third", "id")])
    assert registry.names("o").name(by_id) == "Operator's"
    registry.describe("o", by_id, name="")
    assert registry.names("o").name(by_id) == "third"
    with pytest.raises(ValueError, match="over 1000 characters"):
        registry.describe("o", by_id, description="x" * 1001)
