"""The dashboard's pure parts: wording, addresses, pictures and recorded messages."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from egisai_platform.dashboard import charts, wording
from egisai_platform.dashboard.access import local
from egisai_platform.dashboard.address import Address
from egisai_platform.dashboard.messages import messages
from egisai_platform.filters import BadParameterError
from egisai_platform.model import Call, Point

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def call(agent: str, start_s: float, duration_s: float) -> Call:
    return Call(
        trace_id="0" * 31 + "1",
        span_id=f"{int(start_s * 1000):016x}",
        parent_span_id="",
        name="chat",
        start_time=NOW + timedelta(seconds=start_s),
        duration_ms=duration_s * 1000,
        operation="chat",
        provider="openai",
        request_model="m",
        response_model="m",
        agent_id=agent,
        agent_name=agent,
        agent_source="name",
        user_id="",
        user_role="",
        session_id="",
        workflow_id="w",
        app="",
        env="",
        status="ok",
        error_type="",
        input_tokens=None,
        cached_input_tokens=None,
        output_tokens=None,
        reasoning_tokens=None,
        finish_reasons=(),
        time_to_first_chunk_ms=None,
        streamed=False,
        cost_usd=None,
        fingerprint="",
    )


# --- wording ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1.2k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (4_100_000, "4.1M"),
        (2_500_000_000, "2.5G"),
        (7 * 10**12, "7T"),
        (None, wording.DASH),
    ],
)
def test_counts(value: int | None, words: str) -> None:
    assert wording.count(value) == words


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (None, wording.DASH),
        (0, "$0"),
        (1e-9, "<$0.000001"),
        (0.0000042, "$0.0000042"),
        (0.0042, "$0.0042"),
        (0.00999, "$0.010"),
        (0.0421, "$0.042"),
        (0.5, "$0.500"),
        (12.345, "$12.35"),
        (1234.5, "$1,234.50"),
        (123456.7, "$123,457"),
    ],
)
def test_money(usd: float | None, words: str) -> None:
    assert wording.money(usd) == words


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, wording.DASH),
        (0, "0.0 ms"),
        (9.94, "9.9 ms"),
        (850, "850 ms"),
        (1240, "1.24 s"),
        (59_900, "59.9 s"),
        (59_970, "1 min"),
        (123_000, "2 min 3 s"),
        (18_600_000, "5 h 10 min"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations(ms: float | None, words: str) -> None:
    assert wording.duration(ms) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "now"),
        (0.9, "now"),
        (1, "1 s ago"),
        (61, "1 min ago"),
        (7300, "2 h ago"),
        (86_400, "1 d ago"),
        (40 * 86_400, "13 Oct 2026"),
    ],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert wording.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 0, "0%"),
        (1, 10_000, "<0.1%"),
        (1, 30, "3.3%"),
        (1, 2, "50%"),
        (995, 1000, "99.5%"),
        (99_999, 100_000, ">99.9%"),
        (2, 2, "100%"),
    ],
)
def test_shares(part: int, whole: int, words: str) -> None:
    assert wording.share(part, whole) == words


def test_nothing_hides_in_text() -> None:
    """Control, bidi and tag characters and lone surrogates are spelled out; what scripts need to join stays."""
    assert wording.visible("a\x00b\r\nc\td") == "a␀b\nc\td"
    assert wording.visible("\u202eexe\u202c") == "⟨U+202E⟩exe⟨U+202C⟩"
    assert wording.visible("\U000e0041\ud800\x9b") == "⟨U+E0041⟩⟨U+D800⟩⟨U+009B⟩"
    assert wording.visible("ad\u200dmin") == "ad⟨U+200D⟩min"
    joined = "👩\u200d👧 \u0645\u06cc\u200c\u062e\u0648"
    assert wording.visible(joined) == joined


def test_an_agent_keeps_its_colour() -> None:
    """The palette entry depends on the id alone; these values hold in every process and version."""
    ids = [f"agent-{index}" for index in range(200)]
    assert [wording.colour(agent_id) for agent_id in ids[:4]] == [3, 1, 11, 9]
    assert {wording.colour(agent_id) for agent_id in ids} == set(range(wording.COLOURS))


def test_ids_are_shortened_only_when_they_are_opaque() -> None:
    assert wording.short_id("5f0c9e6a-8e0a-4d5e-9e53-0c6ef1a5b111") == "5f0c9e6a…"
    assert wording.short_id("grace@example.com") == "grace@example.com"
    assert wording.shorten("a  b\nc", 10) == "a b c"
    assert wording.shorten("x" * 11, 10) == "x" * 9 + "…"


# --- addresses -------------------------------------------------------------------------------------------------
def test_an_address_keeps_what_it_should() -> None:
    """Links to other pages keep organisation and range; links that add a filter keep the filters too."""
    here = Address("/calls", {"organisation": "acme", "user_id": "a&b", "since": "1h", "cursor": "xyz", "junk": "1"})
    assert here.to("/agents") == "/agents?organisation=acme&since=1h"
    assert here.add(status="error") == "/calls?user_id=a%26b&status=error&organisation=acme&since=1h"
    assert here.without("user_id") == "/calls?organisation=acme&since=1h&junk=1"
    assert here.ranged("7d") == "/calls?organisation=acme&user_id=a%26b&junk=1&since=7d"
    assert here.everything() == "/calls?organisation=acme&since=all"
    assert here.where(NOW).since == NOW - timedelta(hours=1)
    assert here.where(NOW).user_id == "a&b"


def test_an_agent_filter_replaces_the_name_filter() -> None:
    assert Address("/calls", {"agent": "billing"}).add(agent_id="1") == "/calls?agent_id=1"


def test_a_page_has_its_own_range_until_the_url_says_otherwise() -> None:
    assert Address("/", {}, since="24h").where(NOW).since == NOW - timedelta(hours=24)
    assert Address("/", {"since": "all"}, since="24h").where(NOW).since is None
    with pytest.raises(BadParameterError, match="since='soon'"):
        Address("/", {"since": "soon"}).where(NOW)


@pytest.mark.parametrize("workflow", [".", ".."])
def test_ids_that_browsers_fold_away_lead_to_their_calls(workflow: str) -> None:
    assert Address("/", {}).workflow(workflow) == f"/calls?workflow_id={workflow}"


@pytest.mark.parametrize("target", ["//x", "/\\x", "https://x", "", "/a\nb", "javascript:x"])
def test_only_paths_here_are_local(target: str) -> None:
    assert local(target) == "/"
    assert local("/calls?user_id=a%20b") == "/calls?user_id=a%20b"


# --- pictures --------------------------------------------------------------------------------------------------
def test_bars_stand_at_their_times() -> None:
    """Bars are in place whether or not empty buckets are given, errors are inside calls, axes have round numbers."""
    points = [Point(NOW - timedelta(minutes=60 - index), index % 3, index % 2 and index % 3, 0) for index in range(60)]
    dense = charts.chart(points, 60, NOW - timedelta(hours=1), NOW)
    sparse = charts.chart([point for point in points if point.calls], 60, NOW - timedelta(hours=1), NOW)
    assert dense.bars == sparse.bars
    assert len(dense.bars) == 40
    assert dense.bars[0].x == pytest.approx(100 / 61, abs=0.01)
    assert all(bar.error_height <= bar.height <= charts.HEIGHT for bar in dense.bars)
    assert [row.label for row in dense.rows] == ["0", "1", "2"]
    assert [tick.label for tick in dense.columns] == ["11:00", "11:10", "11:20", "11:30", "11:40", "11:50", "12:00"]
    assert charts.chart([], 60, None, NOW).bars == ()


@pytest.mark.parametrize(("highest", "top"), [(1, 1), (3, 3), (5, 6), (47, 60), (400, 400), (12_345, 15_000)])
def test_the_count_axis_is_round(highest: int, top: int) -> None:
    rows = charts.chart([Point(NOW, highest, 0, 0)], 60, None, NOW).rows
    assert rows[-1].label == wording.count(top)
    assert len(rows) <= 5


def test_lanes_hold_agents_in_order_of_appearance() -> None:
    """One lane per agent, overlapping calls beneath each other, positions proportional to time."""
    picture = charts.lanes([call("a", 0, 2), call("b", 1, 3), call("b", 2, 1), call("a", 8, 2)])
    assert [lane.agent_id for lane in picture.lanes] == ["a", "b"]
    first, second = picture.lanes
    assert [(bout.number, bout.x, bout.width, bout.row) for bout in first.bouts] == [(1, 0, 20, 0), (4, 80, 20, 0)]
    assert [(bout.number, bout.x, bout.width, bout.row) for bout in second.bouts] == [(2, 10, 30, 0), (3, 20, 10, 1)]
    assert (second.rows, picture.elapsed_ms, picture.breaks) == (2, 10_000, [])


def test_a_night_between_two_calls_is_cut_out() -> None:
    """A long idle stretch is drawn short, marked, and labelled with its true length."""
    picture = charts.lanes([call("a", 0, 5), call("a", 36_005, 5)])
    (cut,) = picture.breaks
    assert cut.label == "10 h"
    assert cut.at == pytest.approx(50, abs=0.1)
    assert [bout.width for bout in picture.lanes[0].bouts] == pytest.approx([45.5, 45.5], abs=0.1)


def test_any_workflow_can_be_drawn() -> None:
    """Instant calls, thousands at once, and none at all."""
    assert charts.lanes([]).lanes == ()
    instant = charts.lanes([call("a", 0, 0)])
    assert instant.lanes[0].bouts[0].x + instant.lanes[0].bouts[0].width <= 100
    crowd = charts.lanes([call("a", index / 1000, 60) for index in range(2000)])
    assert crowd.lanes[0].rows == charts.MAX_ROWS


# --- messages --------------------------------------------------------------------------------------------------
def test_messages_of_the_conventions() -> None:
    attributes = {
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be kind."}]),
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]),
        "gen_ai.output.messages": [
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "name": "find", "arguments": {"a": 1}}],
                "finish_reason": "tool_call",
            }
        ],
    }
    found = messages(attributes, [])
    assert [(message.role, message.parts[0].text) for message in found] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", '{"a": 1}'),
    ]
    assert (found[2].parts[0].label, found[2].finish_reason) == ("calls find", "tool_call")


def test_messages_in_an_event() -> None:
    event = {
        "name": "gen_ai.client.inference.operation.details",
        "attributes": {"gen_ai.input.messages": '[{"role":"user","parts":[]}]'},
    }
    assert [message.role for message in messages({}, [event])] == ["user"]


@pytest.mark.parametrize(
    ("inputs", "outputs"), [("gen_ai.prompt", "gen_ai.completion"), ("llm.input_messages", "llm.output_messages")]
)
def test_messages_of_other_instrumentations(inputs: str, outputs: str) -> None:
    """OpenLLMetry's and OpenInference's numbered attributes, in order of their numbers."""
    middle = ".message" if inputs.startswith("llm") else ""
    attributes = {f"{outputs}.0{middle}.content": "end"}
    for index in range(12):
        attributes[f"{inputs}.{index}{middle}.content"] = str(index)
        attributes[f"{inputs}.{index}{middle}.role"] = "user"
    assert [message.parts[0].text for message in messages(attributes, [])] == [*map(str, range(12)), "end"]
    assert messages(attributes, [])[-1].role == "assistant"


@pytest.mark.parametrize(
    "recorded", ["not JSON {", "[" * 100_000, '"text"', "[1, null]", '[{"role": 7, "parts": {"type": 9}}]', "{}"]
)
def test_malformed_messages_are_shown_not_dropped(recorded: str) -> None:
    found = messages({"gen_ai.input.messages": recorded}, [])
    assert found
    assert found[0].parts
