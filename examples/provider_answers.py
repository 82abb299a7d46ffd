"""What the local provider says: OpenAI request bodies in, OpenAI response bodies out, no network and no state.

The shapes are those of `POST /v1/chat/completions`, `/v1/responses` and `/v1/embeddings`
(https://platform.openai.com/docs/api-reference). The text is made up, yet plausible and the same for the same request;
token counts are about what a tokenizer would count (1.3 per word).
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import time
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TOKENS_PER_WORD = 1.3
TOKENS_PER_MESSAGE = 4
CACHE_BLOCK_TOKENS = 128
"""Prompts of 1,024 tokens or more count as cached, in whole blocks of 128, as if their prefix had been seen before."""
CACHE_FROM_TOKENS = 1024

SNAPSHOTS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
}
"""The dated model that answers for an alias; any other name answers as itself."""

DEFAULT_MODEL = "gpt-4.1-mini"
"""Answers for a stored prompt, which carries its model on the server."""

TOPICS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "billing",
        ("billing", "invoice", "refund", "charge", "payment", "subscription"),
        (
            "The second charge is a duplicate of the same invoice, so I have asked for a refund to the original card.",
            "The invoice shows one seat added mid-month, billed pro rata; next month returns to the usual amount.",
            "The payment was authorised but never captured, so nothing is owed and the hold lapses in three days.",
        ),
    ),
    (
        "triage",
        ("triage", "route", "routing", "department", "dispatch"),
        (
            "This is about money already paid, so it belongs with billing; priority normal.",
            "An invoice is in question and no feature is broken: hand over to billing.",
        ),
    ),
    (
        "plan",
        ("planner", "plan", "orchestrat", "roadmap"),
        (
            "Three questions need research first; two texts can then be drafted side by side; a review closes it.",
            "Gather the facts in parallel, draft from them, and let one reader check the whole before it leaves.",
        ),
    ),
    (
        "research",
        ("research", "analyst", "analyse", "analyze", "market", "search"),
        (
            "Two independent sources agree on the trend; the third measures something else and is left out.",
            "Demand grew by roughly a fifth in a year, most of it from teams that already run several agents.",
            "Buyers compare on three things: time to set up, price per seat, and whether their data stays at home.",
        ),
    ),
    (
        "translation",
        ("translat", "français", "french", "german", "language"),
        (
            "Voici la traduction demandée, fidèle au ton de l'original.",
            "La traduction est prête ; deux mots restent à choisir.",
        ),
    ),
    (
        "code",
        ("code", "python", "bug", "function", "pull request", "review"),
        (
            "The logic holds; the loop can leave early once the item is found, and the empty input deserves a test.",
            "One race remains: the counter is read outside the lock. Move the read inside and the change is ready.",
        ),
    ),
    (
        "writing",
        ("writ", "editor", "copy", "poet", "draft", "announce"),
        (
            "Quiet tools do the loudest work: today they learn to say who asked, and for whom.",
            "Here is a draft in two short paragraphs; the second one carries the news and the first earns it.",
        ),
    ),
    (
        "support",
        ("support", "help", "customer", "assist", "concierge", "onboard"),
        (
            "Open Settings, choose Workspace and press Invite; the new colleague gets a link that is valid for a day.",
            "That works from the second page of the wizard; if it does not, a fresh sign-in usually settles it.",
        ),
    ),
)

FALLBACK = (
    "In short: yes, with one condition that depends on how often it happens.",
    "The short answer is that both ways work; the simpler one is easier to undo later.",
)


class BadRequestError(ValueError):
    """The request is refused as OpenAI refuses it: a message, the parameter at fault and a code."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the request forces the model to call."""

    name: str
    parameters: Json
    is_named: bool
    """Forced by its name; OpenAI then finishes with `stop` instead of `tool_calls`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the model sees it."""

    model: str
    system: str
    user: str
    input_tokens: int
    schema: Json | None
    tool: Tool | None
    limit: int | None
    reasons: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion. `text` is the arguments' JSON when a tool is called."""

    text: str
    tool: Tool | None
    truncated: bool
    output_tokens: int
    reasoning_tokens: int


# --- chat completions --------------------------------------------------------------------------------------------


def chat_completion(body: Json, *, azure: bool = False) -> Json:
    """The whole answer to `POST /chat/completions`. Raises `BadRequestError`."""
    ask = _chat_ask(body)
    answers = _answers(ask, int(body.get("n") or 1))
    choices: list[Json] = []
    for index, answer in enumerate(answers):
        message: Json = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        if answer.tool is not None:
            message["content"] = None
            message["tool_calls"] = [
                {
                    "id": _id("call_"),
                    "type": "function",
                    "function": {"name": answer.tool.name, "arguments": answer.text},
                }
            ]
        choice: Json = {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
        if azure:
            choice["content_filter_results"] = _SAFE
        choices.append(choice)
    completion = {**_chat_frame(ask, "chat.completion"), "choices": choices, "usage": _chat_usage(ask, answers)}
    if azure:
        completion["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _SAFE}]
    return completion


def chat_chunks(body: Json, *, azure: bool = False) -> Iterator[Json]:
    """The same answer as chunks: role, content, finish, and usage when `stream_options.include_usage` asks for it."""
    ask = _chat_ask(body)
    answers = _answers(ask, int(body.get("n") or 1))
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    frame = _chat_frame(ask, "chat.completion.chunk")
    if wants_usage:
        frame["usage"] = None

    def chunk(index: int, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**frame, "choices": [choice]}

    if azure:  # Azure opens with its verdict on the prompt: no choice, no model
        verdict = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        yield {**frame, "id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": verdict}
    for index, answer in enumerate(answers):
        if answer.tool is None:
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
        else:
            call = {"id": _id("call_"), "type": "function", "function": {"name": answer.tool.name, "arguments": ""}}
            yield chunk(index, {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]})
    pieces = [_pieces(answer.text) for answer in answers]
    for step in range(max(map(len, pieces))):
        for index, answer in enumerate(answers):
            if step < len(pieces[index]):
                piece = pieces[index][step]
                arguments = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
                yield chunk(index, {"content": piece} if answer.tool is None else arguments)
    for index, answer in enumerate(answers):
        yield chunk(index, {}, _finish_reason(answer))
    if wants_usage:
        yield {**frame, "choices": [], "usage": _chat_usage(ask, answers)}


def _chat_ask(body: Json) -> Ask:
    messages = body.get("messages")
    if messages is None:
        raise BadRequestError("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise BadRequestError("Invalid 'messages': expected a non-empty array of messages.", "messages", "invalid_type")
    response_format = body.get("response_format") or {}
    schema: Json | None = None
    if response_format.get("type") == "json_schema":
        schema = response_format.get("json_schema", {}).get("schema", {})
    elif response_format.get("type") == "json_object":
        schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    tools = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    return Ask(
        model=_model(body),
        system="\n".join(_text(m.get("content")) for m in messages if m.get("role") in ("system", "developer")),
        user=next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), ""),
        input_tokens=sum(_tokens(_text(m.get("content"))) + TOKENS_PER_MESSAGE for m in messages),
        schema=schema,
        tool=_forced_tool(tools, choice, named),
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        reasons=_reasons(_model(body), body.get("reasoning_effort")),
    )


def _chat_frame(ask: Ask, kind: str) -> Json:
    return {
        "id": _id("chatcmpl-"),
        "object": kind,
        "created": int(time.time()),
        "model": SNAPSHOTS.get(ask.model, ask.model),
        "service_tier": "default",
        "system_fingerprint": "fp_" + hashlib.sha256(ask.model.encode()).hexdigest()[:10],
    }


def _chat_usage(ask: Ask, answers: Sequence[Answer]) -> Json:
    output = sum(answer.output_tokens for answer in answers)
    reasoning = sum(answer.reasoning_tokens for answer in answers)
    return {
        "prompt_tokens": ask.input_tokens,
        "completion_tokens": output,
        "total_tokens": ask.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": _cached(ask.input_tokens), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish_reason(answer: Answer) -> str:
    if answer.truncated:
        return "length"
    return "tool_calls" if answer.tool is not None and not answer.tool.is_named else "stop"


_SAFE = {kind: {"filtered": False, "severity": "safe"} for kind in ("hate", "self_harm", "sexual", "violence")}


# --- responses ---------------------------------------------------------------------------------------------------


def response(body: Json) -> Json:
    """The whole answer to `POST /responses`. Raises `BadRequestError`."""
    *_, last = response_events(body)
    return last["response"]


def response_events(body: Json) -> Iterator[Json]:
    """The same answer as typed events, `response.created` to `response.completed` (or `.incomplete`)."""
    ask = _response_ask(body)
    answer = _answers(ask, 1)[0]
    frame = _response_frame(body, ask)
    numbers = iter(range(1_000_000))

    def event(kind: str, **fields: Any) -> Json:
        return {"type": kind, "sequence_number": next(numbers), **fields}

    yield event("response.created", response=frame)
    yield event("response.in_progress", response=frame)
    output: list[Json] = []
    if answer.reasoning_tokens:
        thought: Json = {"id": _id("rs_"), "type": "reasoning", "summary": []}
        yield event("response.output_item.added", output_index=0, item=thought)
        yield event("response.output_item.done", output_index=0, item=thought)
        output.append(thought)
    index = len(output)
    status = "incomplete" if answer.truncated else "completed"
    if answer.tool is not None:
        item: Json = {"id": _id("fc_"), "type": "function_call", "call_id": _id("call_"), "name": answer.tool.name}
        yield event(
            "response.output_item.added", output_index=index, item={**item, "arguments": "", "status": "in_progress"}
        )
        at: Json = {"item_id": item["id"], "output_index": index}
        for piece in _pieces(answer.text):
            yield event("response.function_call_arguments.delta", **at, delta=piece)
        yield event("response.function_call_arguments.done", **at, arguments=answer.text)
        item = {**item, "arguments": answer.text, "status": status}
    else:
        item = {"id": _id("msg_"), "type": "message", "role": "assistant"}
        yield event(
            "response.output_item.added", output_index=index, item={**item, "content": [], "status": "in_progress"}
        )
        at = {"item_id": item["id"], "output_index": index, "content_index": 0}
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield event("response.content_part.added", **at, part=part)
        for piece in _pieces(answer.text):
            yield event("response.output_text.delta", **at, delta=piece, logprobs=[])
        yield event("response.output_text.done", **at, text=answer.text, logprobs=[])
        part = {**part, "text": answer.text}
        yield event("response.content_part.done", **at, part=part)
        item = {**item, "content": [part], "status": status}
    yield event("response.output_item.done", output_index=index, item=item)
    output.append(item)
    done = {
        **frame,
        "status": status,
        "completed_at": None if answer.truncated else int(time.time()),
        "incomplete_details": {"reason": "max_output_tokens"} if answer.truncated else None,
        "output": output,
        "usage": {
            "input_tokens": ask.input_tokens,
            "input_tokens_details": {"cached_tokens": _cached(ask.input_tokens), "cache_write_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": ask.input_tokens + answer.output_tokens,
        },
    }
    yield event(f"response.{status}", response=done)


def _response_ask(body: Json) -> Ask:
    given = body.get("input")
    prompt = body.get("prompt") or {}
    if given is None and not prompt:
        raise BadRequestError("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if given is not None and not isinstance(given, (str, list)):
        raise BadRequestError("Invalid type for 'input': expected a string or an array.", "input", "invalid_type")
    items: list[Json] = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
    system = [str(body.get("instructions") or ""), str(prompt.get("id") or "")]
    system += [_text(item.get("content")) for item in items if item.get("role") in ("system", "developer")]
    text_format = (body.get("text") or {}).get("format") or {}
    choice = body.get("tool_choice")
    tools = [tool for tool in body.get("tools") or [] if tool.get("type") == "function"]
    model = _model(body, default=DEFAULT_MODEL if prompt else None)
    tokens = sum(_tokens(_text(i.get("content") or i.get("output"))) + TOKENS_PER_MESSAGE for i in items)
    return Ask(
        model=model,
        system="\n".join(filter(None, system)),
        user=next((_text(item.get("content")) for item in reversed(items) if item.get("role") == "user"), ""),
        input_tokens=tokens + _tokens(str(body.get("instructions") or "")),
        schema=text_format.get("schema") if text_format.get("type") == "json_schema" else None,
        tool=_forced_tool(tools, choice, choice.get("name") if isinstance(choice, dict) else None),
        limit=body.get("max_output_tokens"),
        reasons=_reasons(model, (body.get("reasoning") or {}).get("effort")),
    )


def _response_frame(body: Json, ask: Ask) -> Json:
    reasoning = body.get("reasoning") or {}
    return {
        "id": _id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "model": SNAPSHOTS.get(ask.model, ask.model),
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt": body.get("prompt"),
        "prompt_cache_key": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": None,
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"verbosity": "medium", "format": {"type": "text"}, **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": None,
    }


# --- embeddings and models ---------------------------------------------------------------------------------------


def embeddings(body: Json) -> Json:
    """The answer to `POST /embeddings`: unit vectors that depend on the input only. Raises `BadRequestError`."""
    given = body.get("input")
    if not given:
        raise BadRequestError("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    is_one = isinstance(given, str) or isinstance(given[0], int)
    inputs: list[Any] = [given] if is_one else list(given)
    model = _model(body)
    size = int(body.get("dimensions") or (3072 if model.endswith("-large") else 1536))
    data: list[Json] = []
    for index, item in enumerate(inputs):
        vector = _vector(json.dumps(item), size)
        as_base64 = body.get("encoding_format") == "base64"
        embedding = base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(_tokens(item) if isinstance(item, str) else len(item) for item in inputs)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def models() -> Json:
    """The answer to `GET /models`."""
    names = (*SNAPSHOTS, "text-embedding-3-small", "text-embedding-3-large")
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> Json:
    """The answer to `GET /models/{name}`."""
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}


def _vector(seed: str, size: int) -> array[float]:
    rng = random.Random(seed)
    raw = [rng.random() - 0.5 for _ in range(size)]
    norm = sum(value * value for value in raw) ** 0.5
    return array("f", (value / norm for value in raw))


# --- the model ---------------------------------------------------------------------------------------------------


def _answers(ask: Ask, count: int) -> list[Answer]:
    return [_answer(ask, variant) for variant in range(count)]


def _answer(ask: Ask, variant: int) -> Answer:
    if ask.tool is not None:
        text = json.dumps(_instance(ask.tool.parameters, ask))
    elif ask.schema is not None:
        text = json.dumps(_instance(ask.schema, ask))
    else:
        text = _say(ask, variant)
    reasoning = 64 * (1 + _tokens(ask.user) // 64) if ask.reasons else 0
    tokens = _tokens(text)
    truncated = ask.limit is not None and reasoning + tokens > ask.limit
    if truncated:
        assert ask.limit is not None
        reasoning = min(reasoning, ask.limit)
        text = "".join(_pieces(text)[: int((ask.limit - reasoning) / TOKENS_PER_WORD)])
        tokens = ask.limit - reasoning
    return Answer(text, ask.tool, truncated, reasoning + tokens, reasoning)


def _say(ask: Ask, variant: int = 0) -> str:
    _, _, sentences = _topic(ask)
    digest = hashlib.sha256(f"{ask.system}\0{ask.user}".encode()).digest()
    sentence = sentences[(digest[0] + variant) % len(sentences)]
    words = ask.user.split()
    if not words:
        return sentence
    subject = " ".join(words[:8]).rstrip(".,;:?!") + (" ..." if len(words) > 8 else "")
    return f"On “{subject}”: {sentence}"


def _topic(ask: Ask) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What the system prompt speaks of, else what the user speaks of."""
    return _topic_of(ask.system, ask.user)


def _topic_of(*texts: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The topic with most cues in the first text that has any; cues in its opening count double."""
    for text in texts:
        lowered = text.lower()
        scored = [(sum(lowered.count(cue) + lowered[:60].count(cue) for cue in topic[1]), topic) for topic in TOPICS]
        score, topic = max(scored, key=lambda pair: pair[0])
        if score:
            return topic
    return ("general", (), FALLBACK)


def _forced_tool(tools: Sequence[Json], choice: Any, named: str | None) -> Tool | None:
    if named is not None:
        tool = next((tool for tool in tools if tool["name"] == named), None)
        if tool is None:
            raise BadRequestError(f"Tool choice '{named}' not found in 'tools' parameter.", "tool_choice")
        return Tool(named, tool.get("parameters") or {}, is_named=True)
    if choice == "required" and tools:
        return Tool(tools[0]["name"], tools[0].get("parameters") or {}, is_named=False)
    return None


def _instance(schema: Mapping[str, Any], ask: Ask) -> Any:
    """A value valid under the JSON schema subset of structured outputs, on the subject of the request."""
    definitions = {**schema.get("$defs", {}), **schema.get("definitions", {})}
    said = _say(ask)

    def build(node: Mapping[str, Any], name: str, depth: int) -> Any:
        if "$ref" in node:
            target = str(node["$ref"]).rsplit("/", 1)[-1]
            return build(schema if node["$ref"] == "#" else definitions[target], name, depth + 1)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return _choose(node["enum"])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node:
                options: list[Mapping[str, Any]] = node[key]
                nulls = [option for option in options if option.get("type") == "null"]
                return build(nulls[0] if nulls and depth > 6 else options[0], name, depth + 1)
        kind = node.get("type", "object" if "properties" in node else "string")
        if isinstance(kind, list):
            kind = "null" if depth > 6 and "null" in kind else kind[0]
        if kind == "object":
            return {key: build(value, key, depth + 1) for key, value in node.get("properties", {}).items()}
        if kind == "array":
            count = max(int(node.get("minItems", 0)), 0 if depth > 6 else min(2, int(node.get("maxItems", 2))))
            return [build(node.get("items", {"type": "string"}), name, depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            low = node.get("minimum", node.get("exclusiveMinimum", -1) + 1)
            return int(low) if kind == "integer" else float(low)
        return {"boolean": True, "null": None}.get(kind, _FORMATS.get(node.get("format", ""), said))

    def _choose(values: Sequence[Any]) -> Any:
        haystack = f"{ask.user} {_topic_of(ask.user, ask.system)[0]}".lower()
        return max(values, key=lambda value: haystack.count(str(value).lower()))

    return build(schema, "", 0)


_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "uuid": "3f2b8c1e-5a64-4d0b-9f57-0c6f2a1d7e88",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}


def _model(body: Json, default: str | None = None) -> str:
    name = body.get("model") or default
    if not name or not isinstance(name, str):
        raise BadRequestError("you must provide a model parameter")
    return name


def _reasons(model: str, effort: str | None) -> bool:
    if effort is not None:
        return effort != "none"
    return re.match(r"o\d|gpt-5(-mini|-nano|-pro)?(-\d{4}|$)", model) is not None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _tokens(text: str) -> int:
    return int(len(text.split()) * TOKENS_PER_WORD + 0.5)


def _cached(tokens: int) -> int:
    return tokens // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if tokens >= CACHE_FROM_TOKENS else 0


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text) or [""]


def _id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex
