"""Google Gen AI: Gemini's generate content, embeddings and interactions, also in Vertex mode.

https://ai.google.dev/api/generate-content and https://ai.google.dev/api/interactions-api
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from egisai import semconv

from . import google_live, usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt, Wrapped
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .methods import carry
from .openai import tool_definitions
from .reading import an_array, an_object, member, no_prompt, put

_CONFIG: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}
_ROLES: Final = {"model": "assistant", "function": "tool"}
_OUTPUTS: Final = {"application/json": "json", "text/plain": "text"}
_MODALITIES: Final = {"image": "image", "audio": "speech"}


def _items(value: object) -> tuple[Any, ...]:
    """One thing or a list of them, as several."""
    if value is None or isinstance(value, (list, tuple)):
        return tuple(an_array(cast("object", value)))
    return (value,)


def _word(value: Any) -> str | None:
    """An enumeration's member, or its name, in small letters."""
    said = getattr(value, "value", value)
    return said.lower() if isinstance(said, str) else None


def _option(config: Any, name: str) -> Any:
    """A member of a config: an object, or a mapping that may spell it `likeThis`."""
    found = member(config, name)
    if found is None and (spelled := an_object(config)):
        first, *rest = name.split("_")
        return spelled.get(first + "".join(map(str.title, rest)))
    return found


def _model(name: str) -> str:
    """The model in `models/gemini-...`, and in Vertex's path of one."""
    before, found, model = name.rpartition("models/")
    return model if found and (not before or before.endswith("/")) else name


def _parameters(attributes: Attributes, config: Any) -> None:
    for option, name in _CONFIG.items():
        put(attributes, name, _option(config, option))
    if stop := an_array(_option(config, "stop_sequences")):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(stop)


def _output_type(attributes: Attributes, options: Any) -> None:
    modalities = [_word(each) for each in an_array(_option(options, "response_modalities"))]
    made = [_MODALITIES[each] for each in modalities if each in _MODALITIES]
    put(
        attributes, semconv.OUTPUT_TYPE, made[0] if made else _OUTPUTS.get(_option(options, "response_mime_type") or "")
    )


# --- generate content ------------------------------------------------------------------------------------------------


def _request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: _model(arguments["model"])}
    config = arguments.get("config")
    if config is not None:
        _parameters(attributes, config)
        _output_type(attributes, config)
        count = _option(config, "candidate_count")
        if count is not None and count != 1:
            attributes[semconv.REQUEST_CHOICE_COUNT] = count
        thinking = _option(config, "thinking_config")
        put(attributes, semconv.REQUEST_REASONING_LEVEL, _word(_option(thinking, "thinking_level")))
    return attributes


def _stream_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_request(arguments), semconv.REQUEST_STREAM: True}


def _system(said: object) -> Iterator[str]:
    """The texts of a system instruction: a string, a part, a content with its parts, or a list of such."""
    for each in _items(said):
        if isinstance(each, str):
            yield each
        elif (parts := member(each, "parts")) is not None:
            yield from _system(parts)
        elif isinstance(text := member(each, "text"), str):
            yield text


def _prompt(arguments: Mapping[str, Any]) -> Prompt:
    return tuple(_system(_option(arguments.get("config"), "system_instruction"))) or None


def _parts(candidate: Any) -> tuple[Any, ...]:
    return tuple(getattr(candidate.content, "parts", None) or ())


def _reason(candidate: Any, called: bool) -> str | None:
    reason = _word(candidate.finish_reason)
    return "tool_calls" if called and reason == "stop" else reason


class _Fold:
    """Each chunk has more of the candidates, and the usage up to then; some repeat the reason."""

    __slots__ = ("_blocked", "_called", "_first", "_reasons", "_usage", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._first: Any = None
        self._usage: Any = None
        self._blocked: str | None = None
        self._called: set[int] = set()
        self._reasons: dict[int, Any] = {}

    def feed(self, chunk: Any) -> None:
        if self._first is None:
            self._first = chunk
        self._usage = chunk.usage_metadata or self._usage
        self._blocked = _word(getattr(chunk.prompt_feedback, "block_reason", None)) or self._blocked
        for candidate in chunk.candidates or ():
            index = candidate.index or 0
            if any(part.function_call for part in _parts(candidate)):
                self._called.add(index)
            if candidate.finish_reason is not None:
                self._reasons[index] = _reason(candidate, index in self._called)

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        put(attributes, semconv.RESPONSE_ID, getattr(self._first, "response_id", None))
        put(attributes, semconv.RESPONSE_MODEL, getattr(self._first, "model_version", None))
        reasons = [self._reasons[index] for index in sorted(self._reasons)] or [self._blocked]
        if any(reasons):
            attributes[semconv.RESPONSE_FINISH_REASONS] = [reason or "error" for reason in reasons]
        usage.GEMINI.read(attributes, self._usage)
        return attributes


def _response(response: Any) -> Attributes:
    fold = _Fold()
    fold.feed(response)
    return fold.attributes()


# --- embeddings ------------------------------------------------------------------------------------------------------


def _embed_request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: _model(arguments["model"])}
    put(attributes, semconv.EMBEDDINGS_DIMENSION_COUNT, _option(arguments.get("config"), "output_dimensionality"))
    return attributes


def _embed_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    embeddings = response.embeddings or ()
    if embeddings and embeddings[0].values:
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(embeddings[0].values)
    usage.GEMINI.read(attributes, getattr(response, "usage_metadata", None))
    if semconv.USAGE_INPUT_TOKENS not in attributes:
        counts: list[Any] = [getattr(each.statistics, "token_count", None) for each in embeddings]  # as Vertex counts
        if counts and None not in counts:
            attributes[semconv.USAGE_INPUT_TOKENS] = int(sum(counts))
    return attributes


# --- interactions ----------------------------------------------------------------------------------------------------

_STATUSES: Final = {
    "completed": "stop",
    "requires_action": "tool_calls",
    "incomplete": "length",
    "requires_continuation": "length",
    "budget_exceeded": "length",
    "failed": "error",
    "cancelled": "cancelled",
}


def _interaction_request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    if isinstance(model := body.get("model"), str):
        attributes[semconv.REQUEST_MODEL] = _model(model)
    if body.get("stream"):
        attributes[semconv.REQUEST_STREAM] = True
    put(attributes, semconv.REQUEST_PREVIOUS_RESPONSE_ID, body.get("previous_interaction_id"))
    config = body.get("generation_config")
    _parameters(attributes, config)
    put(attributes, semconv.REQUEST_REASONING_LEVEL, _word(member(config, "thinking_level")))
    _output_type(attributes, body)
    return attributes


def _interaction_prompt(body: Mapping[str, Any]) -> Prompt:
    return tuple(_system(body.get("system_instruction"))) or None


def _interaction(interaction: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, member(interaction, "id") or None)
    put(attributes, semconv.RESPONSE_MODEL, member(interaction, "model"))
    reason = _STATUSES.get(member(interaction, "status") or "")
    if reason:
        attributes[semconv.RESPONSE_FINISH_REASONS] = [reason]
    usage.GEMINI_INTERACTIONS.read(attributes, member(interaction, "usage"))
    return attributes


class _InteractionFold:
    """Events: the first and the last have the interaction, others the usage up to then."""

    __slots__ = ("_interactions", "_usage", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._interactions: list[Any] = []
        self._usage: Any = None

    def feed(self, chunk: Any) -> None:
        if interaction := member(chunk, "interaction"):
            self._interactions.append(interaction)
        self._usage = member(member(chunk, "metadata"), "total_usage") or self._usage

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        usage.GEMINI_INTERACTIONS.read(attributes, self._usage)
        for interaction in self._interactions:
            attributes.update(_interaction(interaction))
        return attributes


# --- content ---------------------------------------------------------------------------------------------------------


def _part(part: Any) -> Part | None:
    """A part of a content; None of what the conventions have no shape for, such as code that Google ran."""
    if isinstance(part, str):
        return Text(part)
    text = _option(part, "text")
    if isinstance(text, str):
        return Reasoning(text) if _option(part, "thought") else Text(text)
    if call := _option(part, "function_call"):
        return ToolCall(member(call, "id"), member(call, "name"), member(call, "args"))
    if result := _option(part, "function_response"):
        return ToolResult(member(result, "id"), member(result, "response"))
    if blob := _option(part, "inline_data"):
        data, mime = member(blob, "data"), _option(blob, "mime_type")
        content = base64.b64encode(data).decode() if isinstance(data, bytes) else data
        return Media(_modality(mime), mime, content=content)
    if file := _option(part, "file_data") or (part if _option(part, "mime_type") else None):
        mime = _option(file, "mime_type")
        return Media(_modality(mime), mime, uri=_option(file, "file_uri") or member(file, "uri"))
    return None


def _modality(mime: object) -> str:
    kind = mime.partition("/")[0] if isinstance(mime, str) else ""
    return kind if kind in ("image", "audio", "video") else "document"


def _messages(contents: object) -> list[Message]:
    """Contents, and what stands beside them without a role: that is the user's, and one message."""
    messages: list[Message] = []
    loose: list[Part] = []
    for each in _items(contents):
        if (parts := member(each, "parts")) is None:
            loose += _shaped(_items(each))
            continue
        if loose:
            messages.append(Message("user", loose))
            loose = []
        shaped = _shaped(an_array(parts))
        role = member(each, "role") or "user"
        if shaped and all(isinstance(part, ToolResult) for part in shaped):
            role = "tool"
        messages.append(Message(_ROLES.get(role, role), shaped))
    return [*messages, Message("user", loose)] if loose else messages


def _shaped(parts: Any) -> list[Part]:
    return [shaped for part in parts if (shaped := _part(part)) is not None]


def _tools(config: Any) -> list[dict[str, Any]]:
    defined: list[dict[str, Any]] = []
    for tool in _items(_option(config, "tools")):
        declared = _option(tool, "function_declarations")
        if callable(tool):
            said = {"name": getattr(tool, "__name__", None), "description": getattr(tool, "__doc__", None)}
            defined.append({"type": "function", **{name: value for name, value in said.items() if value}})
        for function in declared or ():
            said = {name: member(function, name) for name in ("name", "description")}
            schema = _option(function, "parameters") or _option(function, "parameters_json_schema")
            said["parameters"] = schema.model_dump(exclude_none=True) if hasattr(schema, "model_dump") else schema
            defined.append({"type": "function", **{name: value for name, value in said.items() if value}})
    return defined


def _conversation(arguments: Mapping[str, Any]) -> Conversation:
    config = arguments.get("config")
    system = tuple(_system(_option(config, "system_instruction")))
    return Conversation(_messages(arguments.get("contents")), system, _tools(config))


def _answers(response: Any) -> list[Message]:
    messages: list[Message] = []
    for candidate in response.candidates or ():
        parts = _shaped(_parts(candidate))
        called = any(isinstance(part, ToolCall) for part in parts)
        messages.append(Message("assistant", parts, _reason(candidate, called)))
    return messages


def _chunk(gathered: Gathered, chunk: Any) -> None:
    for candidate in chunk.candidates or ():
        index = candidate.index or 0
        for part in _shaped(_parts(candidate)):
            if isinstance(part, Text):
                gathered.text(part.content, index)
            elif isinstance(part, Reasoning):
                gathered.reasoning(part.content, index)
            elif isinstance(part, ToolCall):  # each comes whole
                gathered.tool(object(), index, id=part.id, name=part.name, arguments=part.arguments)
        gathered.finish(_word(candidate.finish_reason), index)


def _embed_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation(_messages(arguments.get("contents")))


def _piece(content: Any) -> Part | None:
    """A content block of an interaction."""
    if isinstance(content, str):
        return Text(content)
    kind = member(content, "type")
    if kind == "text":
        return Text(member(content, "text") or "")
    if kind in ("image", "audio", "video", "document"):
        data = member(content, "data")
        return Media(kind, member(content, "mime_type"), content=data, uri=None if data else member(content, "uri"))
    return None


def _step(step: Any) -> Message | None:
    """A step of an interaction, which is a message or, in what the caller gives, may be a content block of one."""
    kind = member(step, "type")
    if kind == "function_call":
        return Message("assistant", [ToolCall(member(step, "id"), member(step, "name"), member(step, "arguments"))])
    if kind == "function_result":
        return Message("tool", [ToolResult(member(step, "call_id"), member(step, "result"))])
    if kind == "thought":
        said = [_piece(each) for each in an_array(member(step, "summary"))]
        return Message("assistant", [Reasoning(part.content) for part in said if isinstance(part, Text)])
    if kind in ("user_input", "model_output"):
        pieces = [_piece(each) for each in _items(member(step, "content"))]
        return Message("user" if kind == "user_input" else "assistant", [part for part in pieces if part is not None])
    piece = _piece(step)
    return None if piece is None else Message("user", [piece])


def _interaction_conversation(body: Mapping[str, Any]) -> Conversation:
    steps = (_step(step) for step in _items(body.get("input")))
    said = [step for step in steps if step is not None]
    return Conversation(said, tuple(_system(body.get("system_instruction"))), tool_definitions(body.get("tools")))


def _interaction_answers(interaction: Any) -> list[Message]:
    steps = (_step(step) for step in an_array(member(interaction, "steps")))
    parts = [part for step in steps if step is not None and step.role == "assistant" for part in step.parts]
    return [Message("assistant", parts, _STATUSES.get(member(interaction, "status") or ""))] if parts else []


def _interaction_chunk(gathered: Gathered, event: Any) -> None:
    slot, delta, step = member(event, "index"), member(event, "delta"), member(event, "step")
    kind = member(delta, "type")
    if member(step, "type") == "function_call":
        gathered.tool(
            slot, id=member(step, "id"), name=member(step, "name"), arguments=member(step, "arguments") or None
        )
    elif kind == "text":
        gathered.text(member(delta, "text"))
    elif kind == "thought_summary":
        gathered.reasoning(member(member(delta, "content"), "text"))
    elif kind == "arguments_delta":
        gathered.tool(slot, arguments=member(delta, "arguments"))
    if member(event, "event_type") == "interaction.completed":
        gathered.finish(_STATUSES.get(member(member(event, "interaction"), "status") or ""))


# --- where the calls pass --------------------------------------------------------------------------------------------

_CONTENT: Final = Content(_conversation, _answers, _chunk)
_GENERATE: Final = Endpoint("generate_content", _request, _prompt, _response, content=_CONTENT)
_STREAM: Final = Endpoint("generate_content", _stream_request, _prompt, _response, _Fold, content=_CONTENT)
_LIVE: Final = Endpoint(
    "generate_content",
    _stream_request,
    _prompt,
    lambda _: {},
    google_live.Fold,
    content=Content(_conversation, _answers, google_live.gather),
)
_EMBED: Final = Endpoint(
    "embeddings", _embed_request, no_prompt, _embed_response, content=Content(_embed_conversation, lambda _: ())
)
_INTERACTION: Final = Endpoint(
    "generate_content",
    _interaction_request,
    _interaction_prompt,
    _interaction,
    _InteractionFold,
    content=Content(_interaction_conversation, _interaction_answers, _interaction_chunk),
)


def _provider(client: str, _host: str) -> str:
    return "gcp.vertex_ai" if client == "vertex" else "gcp.gemini"


def _by_models(endpoint: Endpoint, arguments: Mapping[str, Any]) -> Asked:
    client = arguments["self"]._api_client
    url = member(client._http_options, "base_url") or ""
    return Asked(endpoint, arguments, url, "vertex" if client.vertexai else "")


def _generate(arguments: Mapping[str, Any]) -> Asked:
    return _by_models(_GENERATE, arguments)


def _generate_stream(arguments: Mapping[str, Any]) -> Asked:
    return _by_models(_STREAM, arguments)


def _embed(arguments: Mapping[str, Any]) -> Asked:
    return _by_models(_EMBED, arguments)


def _interact(arguments: Mapping[str, Any]) -> Asked:
    """Of `create(model=..., input=...)`, or `create(request=...)` with the same in its `body`."""
    body = arguments
    if (given := arguments.get("request")) is not None:
        held: Any = member(given, "body") or given
        body = an_object(held) or cast("dict[str, Any]", vars(held))
    configuration = arguments["self"].sdk_configuration
    is_vertex = "/projects/" in str(configuration.globals.api_version)
    return Asked(_INTERACTION, body, configuration.server_url, "vertex" if is_vertex else "")


INTEGRATION: Final = Integration(
    library="google_genai",
    versions=">=2.9,<4",
    methods=(
        Method("google.genai.models", "Models._generate_content", _generate),
        Method("google.genai.models", "AsyncModels._generate_content", _generate),
        Method("google.genai.models", "Models._generate_content_stream", _generate_stream, lazy=True),
        Method("google.genai.models", "AsyncModels._generate_content_stream", _generate_stream),
        Method("google.genai.models", "Models.embed_content", _embed),
        Method("google.genai.models", "AsyncModels.embed_content", _embed),
        Method("google.genai._gaos.google_genai", "GeminiNextGenInteractions.create", _interact, inner="generator"),
        Method(
            "google.genai._gaos.google_genai", "AsyncGeminiNextGenInteractions.create", _interact, inner="generator"
        ),
    ),
    others=(
        Wrapped("google.genai.models", "Models.generate_content_stream", carry),
        Wrapped("google.genai.models", "AsyncModels.generate_content_stream", carry),
        Wrapped("google.genai.chats", "Chat.send_message_stream", carry),
        Wrapped("google.genai.chats", "AsyncChat.send_message_stream", carry),
        *google_live.wrapped(_LIVE, _provider),
    ),
    endpoints={
        "generateContent": _GENERATE,
        "streamGenerateContent": _STREAM,
        "embedContent": _EMBED,
        "interactions": _INTERACTION,
        "live": _LIVE,
    },
    provider=_provider,
    note="Each request of automatic function calling is a call. Before 3.1 the client does not tell the usage of "
    "embeddings, but for Vertex AI's. In a live session each turn is a call, with the last usage that "
    "the server told in it; live music, images, videos, token counts and batches make no span.",
)
