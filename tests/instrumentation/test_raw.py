"""Raw responses, lazily read responses, parsing and the stream helpers: recorded with usage, and the SDK's own."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any, ClassVar

import openai
import pytest
from opentelemetry.trace import StatusCode
from pydantic import BaseModel, ValidationError, field_validator
from tests.instrumentation.forms import VERSION, Caller, request, resource, said, told

from conftest import Spans
from provider import Provider, replay

HAS_PARSE = VERSION >= (1, 92)  # before: under `beta`


class Answer(BaseModel):
    answer: str


class Unhappy(BaseModel):
    answer: str
    runs: ClassVar[list[str]] = []

    @field_validator("answer")
    @classmethod
    def never(cls, value: str) -> str:
        cls.runs.append(value)
        raise ValueError("not this one")


def test_call_raw(spans: Spans, caller: Caller, api: str, server: Provider) -> None:
    """`with_raw_response`: usage is known, and the raw response and what it parses to are the SDK's."""
    raw = caller.wait(resource(caller.client, api).with_raw_response.create(**request(api)))
    [span] = spans.calls()  # whether or not the caller parses it
    assert type(raw).__name__ == "LegacyAPIResponse"
    assert raw.headers["x-request-id"]
    parsed = raw.parse()
    assert parsed is raw.parse()
    assert told(span) == said(parsed)
    assert json.loads(raw.content)["id"] == parsed.id
    assert len(spans.calls()) == 1


def test_call_raw_stream(spans: Spans, caller: Caller, api: str, server: Provider) -> None:
    """Raw and streamed: nothing is asked of the provider that the caller would find in its bytes."""
    raw = caller.wait(resource(caller.client, api).with_raw_response.create(**request(api, stream=True)))
    stream = raw.parse()
    assert stream is raw.parse()
    assert isinstance(stream, openai.AsyncStream if caller.is_async else openai.Stream)
    chunks = list(caller.each(stream))
    assert "stream_options" not in server.requests[-1].body
    facts = told(spans.calls()[0])
    assert facts["reasons"] == ("stop",)
    if api == "responses":
        assert facts == said(chunks[-1].response)


def test_call_raw_stream_left(spans: Spans, caller: Caller, api: str) -> None:
    raw = caller.wait(resource(caller.client, api).with_raw_response.create(**request(api, stream=True)))
    stream = raw.parse()
    next(caller.each(stream))
    caller.wait(stream.close())
    assert spans.only()["egisai.call.complete"] is False


def test_call_raw_embeddings(spans: Spans, caller: Caller) -> None:
    raw = caller.wait(caller.client.embeddings.with_raw_response.create(**request("embeddings")))
    assert spans.only()["gen_ai.usage.input_tokens"] == raw.parse().usage.prompt_tokens


def test_call_raw_not_json(spans: Spans, caller: Caller, server: Provider) -> None:
    """A body that is no answer at all: the caller meets it when it parses, as without us."""
    server.hooks.append(replay(b"<html>", content_type="text/html", times=1))
    raw = caller.wait(caller.client.chat.completions.with_raw_response.create(**request("chat")))
    assert raw.parse() == "<html>"
    server.hooks.append(replay(b"{", times=1))
    with pytest.raises(ValueError, match="Expecting property name"):
        caller.wait(caller.client.chat.completions.with_raw_response.create(**request("chat"))).parse()
    assert [told(span) for span in spans.calls()] == [{}, {}]


# --- with_streaming_response -----------------------------------------------------------------------------------------


def _parse(caller: Caller, lazy: Any) -> Any:
    parsed = caller.wait(lazy.parse())
    assert parsed is caller.wait(lazy.parse())
    return parsed.id


def _json(caller: Caller, lazy: Any) -> Any:
    return caller.wait(lazy.json())["id"]


def _text(caller: Caller, lazy: Any) -> Any:
    return json.loads(caller.wait(lazy.text()))["id"]


def _read(caller: Caller, lazy: Any) -> Any:
    return json.loads(caller.wait(lazy.read()))["id"]


def _iter_bytes(caller: Caller, lazy: Any) -> Any:
    return json.loads(b"".join(caller.each(lazy.iter_bytes(100))))["id"]


def _iter_lines(caller: Caller, lazy: Any) -> Any:
    return json.loads("".join(caller.each(lazy.iter_lines())))["id"]


@pytest.mark.parametrize("read", [_parse, _json, _text, _read, _iter_bytes, _iter_lines])
def test_call_raw_lazy(spans: Spans, caller: Caller, api: str, read: Callable[..., Any]) -> None:
    """`with_streaming_response`, read in every way: one span with usage, whatever the caller made of the bytes."""
    with caller.within(resource(caller.client, api).with_streaming_response.create(**request(api))) as lazy:
        assert type(lazy).__name__ == ("AsyncAPIResponse" if caller.is_async else "APIResponse")
        answer = read(caller, lazy)
    [span] = spans.calls()
    facts = told(span)
    assert (facts["id"], facts["reasons"]) == (answer, ("stop",))
    assert min(facts["input"], facts["output"]) > 0
    assert "egisai.call.complete" not in span.attributes
    assert caller.busy_connections() == 0
    assert not {"close", "aclose", "iter_bytes", "aiter_bytes"} & vars(lazy.http_response).keys()


def test_call_raw_lazy_never_read(spans: Spans, caller: Caller, api: str) -> None:
    """Nothing was read but the headers: nobody knows how the answer ends, so the call is incomplete."""
    with caller.within(resource(caller.client, api).with_streaming_response.create(**request(api))) as lazy:
        assert lazy.headers["x-request-id"]
    assert spans.only()["egisai.call.complete"] is False
    assert caller.busy_connections() == 0


def test_call_raw_lazy_error_of_the_caller(spans: Spans, caller: Caller, api: str) -> None:
    mine = ValueError("mine")
    manager = resource(caller.client, api).with_streaming_response.create(**request(api))
    with pytest.raises(ValueError, match="mine") as caught, caller.within(manager):
        raise mine
    assert caught.value is mine
    assert spans.only()["egisai.call.complete"] is False


@pytest.mark.parametrize("how", ["parse", "lines"])
def test_call_raw_lazy_stream(spans: Spans, caller: Caller, api: str, server: Provider, how: str) -> None:
    """A stream inside `with_streaming_response`, parsed or read as lines, is folded like any other."""
    manager = resource(caller.client, api).with_streaming_response.create(**request(api, stream=True))
    with caller.within(manager) as lazy:
        count = len(list(caller.each(caller.wait(lazy.parse()) if how == "parse" else lazy.iter_lines())))
    assert count > 3
    assert "stream_options" not in server.requests[-1].body
    [span] = spans.calls()
    assert told(span)["reasons"] == ("stop",)
    assert told(span)["id"]
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    if api == "responses":
        assert told(span)["output"] > 0


@pytest.mark.parametrize("how", ["parse", "lines"])
def test_call_raw_lazy_stream_left(spans: Spans, caller: Caller, api: str, how: str) -> None:
    manager = resource(caller.client, api).with_streaming_response.create(**request(api, stream=True))
    with caller.within(manager) as lazy:
        chunks = caller.each(caller.wait(lazy.parse()) if how == "parse" else lazy.iter_lines())
        next(chunks)
        next(chunks)
    chunks.close()
    del chunks
    gc.collect()
    [span] = spans.calls()
    assert span.attributes["egisai.call.complete"] is False
    assert "reasons" not in told(span)
    assert caller.busy_connections() == 0


# --- parse -----------------------------------------------------------------------------------------------------------


def _structured(api: str, model: type[BaseModel], **more: Any) -> dict[str, Any]:
    return request(api, **{"response_format" if api == "chat" else "text_format": model}, **more)


needs_parse = pytest.mark.skipif(not HAS_PARSE, reason=f"openai {openai.__version__} has no parse() outside beta")


@needs_parse
def test_call_raw_parse(spans: Spans, caller: Caller, api: str) -> None:
    """`parse()` gives the caller's own type, and one span."""
    result = caller.wait(resource(caller.client, api).parse(**_structured(api, Answer)))
    parsed = result.choices[0].message.parsed if api == "chat" else result.output_parsed
    assert type(parsed) is Answer
    assert told(spans.calls()[0]) == said(result)
    assert spans.only()["gen_ai.output.type"] == "json"


@needs_parse
def test_call_raw_parse_raises(spans: Spans, caller: Caller, api: str) -> None:
    """The caller's validation fails after the answer was paid for: its error unchanged, and the usage on the span."""
    with pytest.raises(ValidationError, match="not this one"):
        caller.wait(resource(caller.client, api).parse(**_structured(api, Unhappy)))
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"].endswith("ValidationError")
    facts = told(span)
    assert min(facts["input"], facts["output"]) > 0
    assert facts["reasons"] == ("stop",)


@needs_parse
def test_call_raw_parse_truncated(spans: Spans, caller: Caller) -> None:
    """An answer cut at its limit: the SDK's LengthFinishReasonError, and the usage on the span."""
    with pytest.raises(openai.LengthFinishReasonError):
        caller.wait(caller.client.chat.completions.parse(**_structured("chat", Answer, max_tokens=1)))
    [span] = spans.calls()
    assert span.attributes["error.type"] == "openai.LengthFinishReasonError"
    assert (told(span)["reasons"], told(span)["output"]) == (("length",), 1)


@needs_parse
def test_call_raw_parse_of_raw(spans: Spans, caller: Caller, api: str) -> None:
    """Raw and parsed: the caller's validator runs when the caller parses, not before."""
    Unhappy.runs.clear()
    where = resource(caller.client, api).with_raw_response
    if not hasattr(where, "parse"):
        pytest.skip("no parse() there in this version")
    raw = caller.wait(where.parse(**_structured(api, Unhappy)))
    [span] = spans.calls()
    assert span.status.status_code is StatusCode.UNSET
    assert told(span)["output"] > 0
    assert not Unhappy.runs
    with pytest.raises(ValidationError, match="not this one"):
        raw.parse()


@needs_parse
def test_call_raw_parse_of_lazy(spans: Spans, caller: Caller, api: str) -> None:
    where = resource(caller.client, api).with_streaming_response
    if not hasattr(where, "parse"):
        pytest.skip("no parse() there in this version")
    lazy_parse = where.parse(**_structured(api, Unhappy))
    with caller.within(lazy_parse) as lazy, pytest.raises(ValidationError, match="not this one"):
        caller.wait(lazy.parse())
    [span] = spans.calls()
    assert span.attributes["error.type"].endswith("ValidationError")
    assert told(span)["output"] > 0


# --- stream helpers --------------------------------------------------------------------------------------------------


@needs_parse
def test_call_raw_helper(spans: Spans, caller: Caller, api: str) -> None:
    """`stream()`: events and the final answer are the helper's, over one call."""
    with caller.within(resource(caller.client, api).stream(**_structured(api, Answer))) as stream:
        events = list(caller.each(stream))
        final = caller.wait(stream.get_final_completion() if api == "chat" else stream.get_final_response())
    assert events
    [span] = spans.calls()
    facts = told(span)
    assert (facts["id"], facts["reasons"]) == (final.id, ("stop",))
    assert facts["output"] > 0
    if api == "chat":
        assert final.usage is None  # as without us: the caller did not ask
        assert type(final.choices[0].message.parsed) is Answer
    else:
        assert facts == said(final)
        assert type(final.output_parsed) is Answer


@needs_parse
def test_call_raw_helper_left(spans: Spans, caller: Caller, api: str) -> None:
    with caller.within(resource(caller.client, api).stream(**request(api))) as stream:
        next(caller.each(stream))
    assert spans.only()["egisai.call.complete"] is False
    assert caller.busy_connections() == 0


@needs_parse
def test_call_nested_helper(spans: Spans, caller: Caller, server: Provider, api: str) -> None:
    """The helper goes through `create`: one request, one call, one span."""
    with caller.within(resource(caller.client, api).stream(**request(api))) as stream:
        caller.wait(stream.until_done())
    assert len(server.requests) == len(spans.calls()) == 1
