"""OpenAI: chat and legacy completions, responses, embeddings, images, audio, moderations. https://platform.openai.com/docs/api-reference"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from egisai import semconv

from . import openai_sockets, usage
from .integration import Attributes, Content, Endpoint, Integration, Prompt, StoredPrompt
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .reading import an_array, an_object, member, no_prompt, put, system_text, texts

_PARAMETERS: Final = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
    "previous_response_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID,
    "dimensions": semconv.EMBEDDINGS_DIMENSION_COUNT,
}
"""Parameters that are attributes as they stand."""

_SCALARS: Final = (str, int, float)


# --- requests --------------------------------------------------------------------------------------------------------


def _request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    for parameter, value in body.items():
        name = _PARAMETERS.get(parameter)
        if name is not None and isinstance(value, _SCALARS):
            attributes[name] = value
    if body.get("stream") is True:
        attributes[semconv.REQUEST_STREAM] = True
    return attributes


def _chat_request(body: Mapping[str, Any]) -> Attributes:
    attributes = _request(body)
    stop = body.get("stop")
    if stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [stop] if isinstance(stop, str) else list(stop)
    n = body.get("n")
    if isinstance(n, int) and n != 1:
        attributes[semconv.REQUEST_CHOICE_COUNT] = n
    _output_type(attributes, body.get("response_format"))
    return attributes


def _responses_request(body: Mapping[str, Any]) -> Attributes:
    attributes = _request(body)
    put(attributes, semconv.RESPONSE_ID, body.get("response_id"))  # of one that is taken up again
    effort = an_object(body.get("reasoning")).get("effort")
    if isinstance(effort, str):
        attributes[semconv.REQUEST_REASONING_LEVEL] = effort
    _output_type(attributes, an_object(body.get("text")).get("format"))
    conversation = body.get("conversation")
    if not isinstance(conversation, str):
        conversation = an_object(conversation).get("id")
    if isinstance(conversation, str):
        attributes[semconv.CONVERSATION_ID] = conversation
    stored = _stored_prompt(body)
    if stored is not None:
        attributes[semconv.PROMPT_NAME] = stored.id
        if stored.version is not None:
            attributes[semconv.PROMPT_VERSION] = stored.version
    return attributes


def _embeddings_request(body: Mapping[str, Any]) -> Attributes:
    attributes = _request(body)
    encoding = body.get("encoding_format")
    if isinstance(encoding, str):
        attributes[semconv.REQUEST_ENCODING_FORMATS] = [encoding]
    return attributes


def _images_request(body: Mapping[str, Any]) -> Attributes:
    return {**_chat_request(body), semconv.OUTPUT_TYPE: "image"}


def _speech_request(body: Mapping[str, Any]) -> Attributes:
    return {**_request(body), semconv.OUTPUT_TYPE: "speech"}


def _transcription_request(body: Mapping[str, Any]) -> Attributes:
    return {**_request(body), semconv.OUTPUT_TYPE: "text"}


def _output_type(attributes: Attributes, format: object) -> None:  # noqa: A002 - the API's word
    kind = an_object(format).get("type")
    if isinstance(kind, str):
        attributes[semconv.OUTPUT_TYPE] = "json" if kind.startswith("json") else kind


# --- system prompts --------------------------------------------------------------------------------------------------


def _chat_prompt(body: Mapping[str, Any]) -> Prompt:
    return system_text(body.get("messages"))


def _responses_prompt(body: Mapping[str, Any]) -> Prompt:
    stored = _stored_prompt(body)
    if stored is not None:
        return stored
    instructions = body.get("instructions")
    parts = (instructions,) if isinstance(instructions, str) and instructions else ()
    return (*parts, *(system_text(body.get("input")) or ())) or None


def _stored_prompt(body: Mapping[str, Any]) -> StoredPrompt | None:
    prompt = an_object(body.get("prompt"))
    stored, version = prompt.get("id"), prompt.get("version")
    return StoredPrompt(stored, version if isinstance(version, str) else None) if isinstance(stored, str) else None


# --- responses -------------------------------------------------------------------------------------------------------


def _chat_response(completion: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, completion.id)
    put(attributes, semconv.RESPONSE_MODEL, completion.model)
    if completion.choices:
        attributes[semconv.RESPONSE_FINISH_REASONS] = [choice.finish_reason or "error" for choice in completion.choices]
    usage.OPENAI_CHAT.read(attributes, completion.usage)
    return attributes


class ChatFold:
    """Chat completion chunks: id and model in each, a finish reason per choice, usage at the end.

    Other clients of this wire format fold with it too; one that has its usage elsewhere sets `used` from there.
    """

    __slots__ = ("_first", "_id", "_reasons", "usage_asked", "used")

    def __init__(self) -> None:
        self.usage_asked = False
        self._id: Any = None
        self._first: Any = None
        self._reasons: dict[int, str] = {}
        self.used: Any = None

    def feed(self, chunk: Any) -> bool:
        if not self._id:  # Azure opens with its verdict on the prompt, which has neither id nor model
            self._id = chunk.id
            self._first = chunk
        used = getattr(chunk, "usage", None)
        if used is not None:
            self.used = used
        choices = chunk.choices
        for choice in choices or ():
            if choice.finish_reason is not None:
                self._reasons[choice.index] = choice.finish_reason
        return self.usage_asked and self.is_ours(chunk, used)

    def is_ours(self, chunk: Any, used: Any) -> bool:
        """Whether a chunk is there only because we asked for usage, and not the caller's to see."""
        if used is None:
            chunk.__pydantic_fields_set__.discard("usage")
            return False
        return not chunk.choices  # usage beside choices is what some servers send unasked

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        if self._first is not None:
            put(attributes, semconv.RESPONSE_ID, self._id)
            put(attributes, semconv.RESPONSE_MODEL, self._first.model)
        if self._reasons:
            attributes[semconv.RESPONSE_FINISH_REASONS] = [self._reasons[index] for index in sorted(self._reasons)]
        usage.OPENAI_CHAT.read(attributes, self.used)
        return attributes


def _usage_on_request(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    options: Mapping[str, Any] = body.get("stream_options") or {}
    if "include_usage" in options:  # the caller's own choice, either way
        return None
    return {**body, "stream_options": {**options, "include_usage": True}}


_CALLS_TO_CLIENT: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_approval_request",
    }
)
"""Output items that wait for the client. Other calls, such as a web search, the provider has made itself."""


def _responses_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_ID, response.id)
    put(attributes, semconv.RESPONSE_MODEL, response.model)
    usage.OPENAI_RESPONSES.read(attributes, response.usage)
    status = response.status
    if status == "completed":
        called = any(item.type in _CALLS_TO_CLIENT for item in response.output or ())
        attributes[semconv.RESPONSE_FINISH_REASONS] = ["tool_calls" if called else "stop"]
    elif status == "incomplete":
        reason = getattr(response.incomplete_details, "reason", None)
        attributes[semconv.RESPONSE_FINISH_REASONS] = ["length" if reason == "max_output_tokens" else reason or "error"]
    elif status == "failed":
        attributes[semconv.RESPONSE_FINISH_REASONS] = ["error"]
        attributes[semconv.ERROR_TYPE] = getattr(response.error, "code", None) or "_OTHER"
    elif status == "cancelled":
        attributes[semconv.CALL_COMPLETE] = False
    return attributes


def _compacted_response(response: Any) -> Attributes:
    attributes: Attributes = {semconv.RESPONSE_ID: response.id}
    usage.OPENAI_RESPONSES.read(attributes, response.usage)
    return attributes


_RESPONSE_EVENTS: Final = frozenset(
    {"response.created", "response.completed", "response.incomplete", "response.failed"}
)


class _ResponsesFold:
    """Response events: the newest event that carries the response has everything known of it."""

    __slots__ = ("_error", "_response", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._response: Any = None
        self._error: Any = None

    def feed(self, chunk: Any) -> None:
        kind = chunk.type
        if kind in _RESPONSE_EVENTS:
            self._response = chunk.response
        elif kind == "error":
            self._error = getattr(chunk, "error", None) or chunk  # over a websocket, it is inside

    def attributes(self) -> Attributes:
        attributes = {} if self._response is None else _responses_response(self._response)
        if self._error is not None:
            attributes[semconv.ERROR_TYPE] = getattr(self._error, "code", None) or "_OTHER"
        return attributes


def _embeddings_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_MODEL, response.model)
    usage.OPENAI_EMBEDDINGS.read(attributes, response.usage)
    embedding: Any = response.data[0].embedding if response.data else None
    if isinstance(embedding, list):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(cast("list[object]", embedding))
    return attributes


def _images_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    usage.OPENAI_IMAGES.read(attributes, getattr(response, "usage", None))
    return attributes


def _transcription_response(response: Any) -> Attributes:
    attributes: Attributes = {}
    usage.OPENAI_TRANSCRIPTIONS.read(attributes, getattr(response, "usage", None))
    return attributes


def _moderation_response(response: Any) -> Attributes:
    return {semconv.RESPONSE_ID: response.id, semconv.RESPONSE_MODEL: response.model}


class _LastFold:
    """Events of an image or a transcription in the making: the last one has the usage."""

    __slots__ = ("_last", "_read", "usage_asked")

    def __init__(self, read: Callable[[Any], Attributes]) -> None:
        self.usage_asked = False
        self._read = read
        self._last: Any = None

    def feed(self, chunk: Any) -> None:
        self._last = chunk

    def attributes(self) -> Attributes:
        return self._read(self._last)


# --- content ---------------------------------------------------------------------------------------------------------


def chat_messages(messages: object) -> list[Message]:
    """Messages of a chat, mappings or objects, in and out."""
    return [_chat_message(message) for message in an_array(messages)]


def _chat_message(message: Any, finish_reason: str | None = None) -> Message:
    role = member(message, "role") or "assistant"
    content = member(message, "content")
    if role == "tool":
        said = content if isinstance(content, str) else "".join(texts(content))
        return Message("tool", [ToolResult(member(message, "tool_call_id"), said)])
    parts: list[Part] = []
    reasoning = member(message, "reasoning_content") or member(message, "reasoning")
    if isinstance(reasoning, str):
        parts.append(Reasoning(reasoning))
    if isinstance(content, str):
        parts.append(Text(content))
    parts.extend(part for each in an_array(content) if (part := _chat_part(each)) is not None)
    refusal = member(message, "refusal")
    if isinstance(refusal, str):
        parts.append(Text(refusal))
    for call in an_array(member(message, "tool_calls")):
        function = member(call, "function") or member(call, "custom")
        arguments = member(function, "arguments")
        parts.append(ToolCall(member(call, "id"), member(function, "name") or "", arguments))
    return Message("system" if role == "developer" else role, parts, finish_reason, member(message, "name"))


def _chat_part(part: Any) -> Part | None:
    for kind in ("text", "refusal", "transcript"):
        if isinstance(member(part, kind), str):
            return Text(member(part, kind))
    image = member(part, "image_url")
    if image is not None:
        return _image(image if isinstance(image, str) else member(image, "url"))
    audio = member(part, "input_audio")
    if audio is not None:
        return Media("audio", f"audio/{member(audio, 'format')}", content=member(audio, "data"))
    file = member(part, "file")
    held = file if file is not None else part
    if isinstance(file_id := member(held, "file_id"), str):
        return Media("document", file_id=file_id)
    if isinstance(data := member(held, "file_data"), str):
        return Media("document", content=data)
    return None


def _image(url: Any) -> Media | None:
    if not isinstance(url, str):
        return None
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        return Media("image", head[5:].partition(";")[0], content=data)
    return Media("image", uri=url)


def tool_definitions(tools: object) -> list[dict[str, Any]]:
    """Of functions: their definitions. Of what the provider runs itself: its type."""
    defined: list[dict[str, Any]] = []
    for tool in an_array(tools):
        function = member(tool, "function") or tool
        said = {name: member(function, name) for name in ("name", "description", "parameters")}
        kind = member(tool, "type") or "function"
        defined.append({"type": kind, **{name: value for name, value in said.items() if value is not None}})
    return defined


def _chat_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation(chat_messages(body.get("messages")), tools=tool_definitions(body.get("tools")))


def _chat_answers(completion: Any) -> list[Message]:
    return [_chat_message(choice.message, choice.finish_reason) for choice in completion.choices or ()]


def _chat_chunk(gathered: Gathered, chunk: Any) -> None:
    for choice in chunk.choices or ():
        delta = choice.delta
        gathered.reasoning(member(delta, "reasoning_content") or member(delta, "reasoning"), choice.index)
        gathered.text(member(delta, "content") or member(delta, "refusal"), choice.index)
        for call in member(delta, "tool_calls") or ():
            function = call.function
            name, arguments = member(function, "name"), member(function, "arguments")
            gathered.tool(call.index, choice.index, id=call.id, name=name, arguments=arguments)
        gathered.finish(choice.finish_reason, choice.index)


def _items(items: object) -> Iterator[Message]:
    """Input and output items of the Responses API."""
    if isinstance(items, str):
        yield Message("user", [Text(items)])
    for item in an_array(items):
        kind = member(item, "type") or "message"
        if kind == "message":
            yield _chat_message(item)
        elif kind == "reasoning":
            yield Message("assistant", [Reasoning(text) for text in texts(member(item, "summary"))])
        elif kind in ("function_call", "custom_tool_call"):
            arguments = member(item, "arguments") or member(item, "input")
            yield Message("assistant", [ToolCall(member(item, "call_id"), member(item, "name") or "", arguments)])
        elif kind in ("function_call_output", "custom_tool_call_output"):
            yield Message("tool", [ToolResult(member(item, "call_id"), member(item, "output"))])


def _responses_conversation(body: Mapping[str, Any]) -> Conversation:
    instructions = body.get("instructions")
    system = (instructions,) if isinstance(instructions, str) else ()
    return Conversation(list(_items(body.get("input"))), system, tool_definitions(body.get("tools")))


def _responses_answers(response: Any) -> list[Message]:
    return list(_items(response.output))


def _responses_chunk(gathered: Gathered, chunk: Any) -> None:
    kind = chunk.type
    if kind == "response.output_text.delta":
        gathered.text(chunk.delta, chunk.output_index)
    elif kind in ("response.completed", "response.incomplete", "response.failed"):
        gathered.whole(_responses_answers(chunk.response))


def _realtime_chunk(gathered: Gathered, chunk: Any) -> None:
    kind = chunk.type
    if kind in _REALTIME_TEXTS:
        gathered.text(chunk.delta, chunk.output_index)
    elif kind == "response.done" and chunk.response.output:
        gathered.whole(_responses_answers(chunk.response))


_REALTIME_TEXTS: Final = frozenset(
    {
        "response.output_text.delta",
        "response.output_audio_transcript.delta",
        "response.text.delta",  # in the beta
        "response.audio_transcript.delta",
    }
)


def _embeddings_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(body.get("input"))])


def _completions_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(body.get("prompt"))])


def _completions_answers(completion: Any) -> list[Message]:
    return [Message("assistant", [Text(choice.text)], choice.finish_reason) for choice in completion.choices or ()]


def _completions_chunk(gathered: Gathered, chunk: Any) -> None:
    for choice in chunk.choices or ():
        gathered.text(choice.text, choice.index)
        gathered.finish(choice.finish_reason, choice.index)


def _images_answers(response: Any) -> list[Message]:
    images = [Media("image", content=image.b64_json, uri=image.url) for image in response.data or ()]
    return [Message("assistant", images)]


def _transcription_answers(response: Any) -> list[Message]:
    return [Message("assistant", [Text(response.text)])]


def _transcription_chunk(gathered: Gathered, chunk: Any) -> None:
    if chunk.type == "transcript.text.delta":
        gathered.text(chunk.delta)


# --- the integration -------------------------------------------------------------------------------------------------

_PROVIDERS: Final = (
    ("openai.azure.com", "azure.ai.openai"),
    ("cognitiveservices.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.openai"),
    ("models.inference.ai.azure.com", "azure.ai.inference"),
    ("anthropic.com", "anthropic"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("cohere.ai", "cohere"),
    ("cohere.com", "cohere"),
    ("deepseek.com", "deepseek"),
    ("groq.com", "groq"),
    ("ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ("mistral.ai", "mistral_ai"),
    ("moonshot.ai", "moonshot_ai"),
    ("moonshot.cn", "moonshot_ai"),
    ("perplexity.ai", "perplexity"),
    ("x.ai", "x_ai"),
    # The conventions have no name for these.
    ("ai21.com", "ai21"),
    ("baseten.co", "baseten"),
    ("cerebras.ai", "cerebras"),
    ("deepinfra.com", "deepinfra"),
    ("fireworks.ai", "fireworks_ai"),
    ("huggingface.co", "huggingface"),
    ("integrate.api.nvidia.com", "nvidia"),
    ("llama.com", "meta"),
    ("models.github.ai", "github"),
    ("nebius.com", "nebius"),
    ("openrouter.ai", "openrouter"),
    ("sambanova.ai", "sambanova"),
    ("together.ai", "together_ai"),
    ("together.xyz", "together_ai"),
)
"""Providers that speak this wire format, by the domain that serves it, and the well-known values of
`gen_ai.provider.name` (docs/registry/attributes/gen-ai.md of open-telemetry/semantic-conventions-genai). Any other
host is "openai", for what it speaks: behind an address of one's own may be vLLM, Ollama, or a gateway to OpenAI itself,
and a guess by its port would be wrong where it matters. The conventions mean it so: the attribute tells apart flavours
of telemetry, to the best of the instrumentation's knowledge; `server.address` and the model say the rest."""


def _provider(client: str, host: str) -> str:
    if "Azure" in client:
        return "azure.ai.openai"
    if "Bedrock" in client or (host.startswith("bedrock") and host.endswith((".amazonaws.com", ".api.aws"))):
        return "aws.bedrock"
    if host.endswith("-aiplatform.googleapis.com"):  # of a region
        return "gcp.vertex_ai"
    return next((name for domain, name in _PROVIDERS if host == domain or host.endswith("." + domain)), "openai")


CHAT: Final = Endpoint(
    "chat",
    _chat_request,
    _chat_prompt,
    _chat_response,
    ChatFold,
    usage_on_request=_usage_on_request,
    content=Content(_chat_conversation, _chat_answers, _chat_chunk),
)
RESPONSES: Final = Endpoint(
    "chat",
    _responses_request,
    _responses_prompt,
    _responses_response,
    _ResponsesFold,
    content=Content(_responses_conversation, _responses_answers, _responses_chunk),
)
_REALTIME: Final = Endpoint(
    "chat",
    openai_sockets.realtime_request,
    _responses_prompt,
    lambda _: {},
    openai_sockets.RealtimeFold,
    content=Content(_responses_conversation, _responses_answers, _realtime_chunk),
)
_COMPACTION: Final = replace(RESPONSES, read_response=_compacted_response, fold=None)
EMBEDDINGS: Final = Endpoint(
    "embeddings",
    _embeddings_request,
    no_prompt,
    _embeddings_response,
    content=Content(_embeddings_conversation, lambda _: ()),
)

COMPLETIONS: Final = Endpoint(
    "text_completion",
    _chat_request,
    no_prompt,
    _chat_response,
    ChatFold,
    usage_on_request=_usage_on_request,
    content=Content(_completions_conversation, _completions_answers, _completions_chunk),
)
# Images and audio are what the conventions call generating content, told apart by `gen_ai.output.type`.
_IMAGES: Final = Endpoint(
    "generate_content",
    _images_request,
    no_prompt,
    _images_response,
    functools.partial(_LastFold, _images_response),
    content=Content(_completions_conversation, _images_answers),
)
_SPEECH: Final = Endpoint(
    "generate_content",
    _speech_request,
    no_prompt,
    lambda _: {},
    content=Content(_embeddings_conversation, lambda _: ()),
)
_TRANSCRIPTION: Final = Endpoint(
    "generate_content",
    _transcription_request,
    no_prompt,
    _transcription_response,
    functools.partial(_LastFold, _transcription_response),
    content=Content(lambda _: Conversation(), _transcription_answers, _transcription_chunk),
)
_MODERATIONS: Final = Endpoint(
    "moderation",  # nothing is generated: no call in the sense of `semconv.is_call`
    _request,
    no_prompt,
    _moderation_response,
    content=Content(_embeddings_conversation, lambda _: ()),
)

INTEGRATION: Final = Integration(
    library="openai",
    versions=">=1.26,<4",
    targets=(("openai", "OpenAI.request"), ("openai", "AsyncOpenAI.request")),
    endpoints={
        "/chat/completions": CHAT,
        "/responses": RESPONSES,
        "/responses/compact": _COMPACTION,
        "/embeddings": EMBEDDINGS,
        "/completions": COMPLETIONS,
        "/images/generations": _IMAGES,
        "/images/edits": _IMAGES,
        "/images/variations": _IMAGES,
        "/audio/speech": _SPEECH,
        "/audio/transcriptions": _TRANSCRIPTION,
        "/audio/translations": _TRANSCRIPTION,
        "/moderations": _MODERATIONS,
        "realtime": _REALTIME,
    },
    others=openai_sockets.wrapped(_REALTIME, RESPONSES, _provider),
    provider=_provider,
    note="Every provider that speaks this format, known by the host of its base URL; any other host, such as a server "
    "of one's own, is `openai`, and `server.address` says which. A response in the background is one call when it is "
    "asked for and one when its end is seen; fetching it otherwise is none. Over a websocket (Realtime, its beta, and "
    "responses) each response is a call; what is only transcribed is none. Videos, assistants and batches make no "
    "span. Variables of a stored prompt are not recorded. A raw stream read past the SDK has no usage. A moderation "
    "has a span and is no call.",
    oldest=("httpx==0.27.2",),  # openai before 1.55 passes arguments that 0.28 removed
)
