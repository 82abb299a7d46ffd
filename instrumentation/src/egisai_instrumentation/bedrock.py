"""Amazon Bedrock by botocore and aiobotocore: Converse, InvokeModel of every family, agents.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html

InvokeModel's bodies are each model family's own. They are read by what they hold, not by whose they are: a model may
hide behind the ARN of an application's inference profile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any, Final, cast

from egisai import semconv

from . import bodies, usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method, Prompt, StoredPrompt
from .messages import Conversation, Gathered, Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .openai import chat_messages, tool_definitions
from .reading import an_array, an_object, member, no_prompt, put, system_text, texts

_PROMPT_ARN: Final = re.compile(r"arn:[^:]*:bedrock:[^:]*:[^:]*:prompt/([^:]+)(?::(.+))?")


def _model(model_id: str) -> str:
    """A model's id, also where an ARN names it: without the region and the account that it belongs to."""
    return model_id.rpartition("/")[2] if model_id.startswith("arn:") else model_id


def _streamed(read: Callable[[Mapping[str, Any]], Attributes]) -> Callable[[Mapping[str, Any]], Attributes]:
    return lambda body: {**read(body), semconv.REQUEST_STREAM: True}


def _put_parameters(attributes: Attributes, holder: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for name, attribute in names.items():
        value = holder.get(name)
        if isinstance(value, (int, float)):
            attributes[attribute] = value
        elif attribute == semconv.REQUEST_STOP_SEQUENCES and value:
            attributes[attribute] = [value] if isinstance(value, str) else list(value)


# --- Converse --------------------------------------------------------------------------------------------------------

_CONVERSE_PARAMETERS: Final = {
    "maxTokens": semconv.REQUEST_MAX_TOKENS,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "topP": semconv.REQUEST_TOP_P,
    "stopSequences": semconv.REQUEST_STOP_SEQUENCES,
}


def _converse_request(body: Mapping[str, Any]) -> Attributes:
    stored = _stored_prompt(body)
    if stored is not None:
        attributes: Attributes = {semconv.PROMPT_NAME: stored.id}
        put(attributes, semconv.PROMPT_VERSION, stored.version)
    else:
        attributes = {semconv.REQUEST_MODEL: _model(body["modelId"])}
    _put_parameters(attributes, an_object(body.get("inferenceConfig")), _CONVERSE_PARAMETERS)
    return attributes


def _stored_prompt(body: Mapping[str, Any]) -> StoredPrompt | None:
    """A managed prompt, which stands in the place of a model."""
    found = _PROMPT_ARN.match(body["modelId"])
    return None if found is None else StoredPrompt(found[1], found[2])


def _converse_prompt(body: Mapping[str, Any]) -> Prompt:
    return _stored_prompt(body) or tuple(texts(body.get("system"))) or None


def _converse_response(response: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    if reason := response.get("stopReason"):
        attributes[semconv.RESPONSE_FINISH_REASONS] = [reason]
    usage.BEDROCK_CONVERSE.read(attributes, response.get("usage"))
    return attributes


class _ConverseFold:
    """Events: the last two have the reason and the usage."""

    __slots__ = ("_said", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._said: dict[str, Any] = {}

    def feed(self, chunk: Any) -> None:
        stop = chunk.get("messageStop")
        if stop is not None:
            self._said.update(stop)
        metadata = chunk.get("metadata")
        if metadata is not None:
            self._said.update(metadata)

    def attributes(self) -> Attributes:
        return _converse_response(self._said)


# --- InvokeModel -----------------------------------------------------------------------------------------------------

_INVOKE_PARAMETERS: Final = {
    **_CONVERSE_PARAMETERS,  # Nova (within `inferenceConfig`), AI21's Jurassic
    "max_tokens": semconv.REQUEST_MAX_TOKENS,  # Anthropic, Mistral, Cohere, AI21's Jamba, OpenAI
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_new_tokens": semconv.REQUEST_MAX_TOKENS,  # Nova
    "max_tokens_to_sample": semconv.REQUEST_MAX_TOKENS,  # Anthropic's completions
    "maxTokenCount": semconv.REQUEST_MAX_TOKENS,  # Titan
    "max_gen_len": semconv.REQUEST_MAX_TOKENS,  # Meta
    "top_p": semconv.REQUEST_TOP_P,
    "p": semconv.REQUEST_TOP_P,  # Cohere
    "stop_sequences": semconv.REQUEST_STOP_SEQUENCES,
    "stop": semconv.REQUEST_STOP_SEQUENCES,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "n": semconv.REQUEST_CHOICE_COUNT,
    "num_generations": semconv.REQUEST_CHOICE_COUNT,  # Cohere
    "dimensions": semconv.EMBEDDINGS_DIMENSION_COUNT,  # Titan
    "output_dimension": semconv.EMBEDDINGS_DIMENSION_COUNT,  # Cohere
}


def _invoke_request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_MODEL: _model(body["modelId"])}
    for holder in (body, body.get("inferenceConfig"), body.get("textGenerationConfig")):
        _put_parameters(attributes, an_object(holder), _INVOKE_PARAMETERS)
    return attributes


def _invoke_prompt(body: Mapping[str, Any]) -> Prompt:
    """Anthropic's and Nova's `system`, Cohere's `preamble`, and system messages."""
    apart = (*texts(body.get("system")), *texts(body.get("preamble")))
    return (*apart, *(system_text(body.get("messages")) or ())) or None


_METRICS: Final = "amazon-bedrock-invocationMetrics"
_HEADERS: Final = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
_TELLING: Final = re.compile(rb"[uU]sage|[mM]etrics|[rR]eason|message_start|message-start").search
"""Of a streamed piece: whether it says more than text."""


class _Invoked:
    """What a model said, in one piece or in many, in its own family's words."""

    __slots__ = ("_counts", "_found", "_used", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._found: Attributes = {}
        self._used: dict[str, Any] = {}
        self._counts: dict[str, Any] = {}

    def feed(self, chunk: Any) -> None:
        piece = an_object(chunk.get("chunk")).get("bytes")
        if piece and _TELLING(piece):
            self.add(json.loads(piece))

    def add(self, said: Mapping[str, Any]) -> None:
        for holder in (said, an_object(said.get("message")), an_object(said.get("response"))):
            identity = holder.get("id") or holder.get("response_id")
            if identity is not None:
                self._found[semconv.RESPONSE_ID] = str(identity)
            put(self._found, semconv.RESPONSE_MODEL, holder.get("model"))
            self._used.update(an_object(holder.get("usage")))
        self._used.update(an_object(an_object(said.get("metadata")).get("usage")))
        if reasons := list(_reasons(said)):
            self._found[semconv.RESPONSE_FINISH_REASONS] = reasons
        self._counts.update(an_object(said.get(_METRICS)))

    def count(self, headers: Mapping[str, Any]) -> None:
        """What Bedrock itself counted."""
        for header, name in _HEADERS.items():
            if header in headers:
                self._counts[name] = headers[header]

    def attributes(self) -> Attributes:
        attributes = dict(self._found)
        _dialect(self._used).read(attributes, self._used)
        usage.BEDROCK_INVOKE.read(attributes, self._counts)
        return attributes


def _dialect(used: Mapping[str, Any]) -> usage.Dialect:
    if "prompt_tokens" in used:
        return usage.OPENAI_CHAT
    return usage.BEDROCK_CONVERSE if "inputTokens" in used else usage.ANTHROPIC


_ANSWERS: Final = ("choices", "results", "outputs", "generations", "completions")
"""Where the families keep several answers: OpenAI, AI21's Jamba and newer Mistral; Titan; Mistral; Cohere; Jurassic."""
_REASON: Final = ("stop_reason", "stopReason", "finish_reason", "completionReason", "finishReason")


def _reasons(said: Mapping[str, Any]) -> Iterator[str]:
    nested = (said.get(name) for name in ("delta", "messageStop"))
    answers = (answer for name in _ANSWERS for answer in an_array(said.get(name)))
    for holder in (said, *nested, *answers):
        if (reason := _reason(holder)) is not None:
            yield reason


def _reason(holder: object) -> str | None:
    for name in _REASON:
        reason = an_object(holder).get(name)
        reason = member(reason, "reason") if isinstance(reason, dict) else reason
        if isinstance(reason, str):
            return reason
    return None


def _invoke_response(response: Mapping[str, Any]) -> Attributes:
    invoked = _Invoked()
    invoked.count(an_object(an_object(response.get("ResponseMetadata")).get("HTTPHeaders")))
    if response["body"]:
        invoked.add(json.loads(response["body"]))
    return invoked.attributes()


def _embeddings_response(response: Mapping[str, Any]) -> Attributes:
    attributes = _invoke_response(response)
    attributes.pop(semconv.RESPONSE_ID, None)
    said = an_object(json.loads(response["body"] or "{}"))
    vectors = said.get("embeddings") or [said.get("embedding")]
    if isinstance(vectors, dict):  # by type
        vectors = next(iter(cast("dict[str, Any]", vectors).values()))
    vector = an_array(an_array(vectors)[0])
    if vector and not isinstance(vector[0], str):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(vector)
    return attributes


# --- agents ----------------------------------------------------------------------------------------------------------


def _agent_request(body: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {semconv.REQUEST_STREAM: True}
    put(attributes, semconv.CONVERSATION_ID, body.get("sessionId"))
    return attributes


class _AgentFold:
    """Events of an agent: where traces are asked for, they have what each model that it called used."""

    __slots__ = ("_used", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._used: dict[str, int] = {}

    def feed(self, chunk: Any) -> None:
        trace = an_object(chunk.get("trace")).get("trace")
        for step in an_object(trace).values():
            output = an_object(an_object(step).get("modelInvocationOutput"))
            for name, count in an_object(an_object(output.get("metadata")).get("usage")).items():
                self._used[name] = self._used.get(name, 0) + int(count)

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        usage.BEDROCK_CONVERSE.read(attributes, self._used)
        return attributes


# --- content ---------------------------------------------------------------------------------------------------------


def _messages(messages: object) -> list[Message]:
    """Messages of Converse, Nova, Anthropic or OpenAI."""
    said: list[Message] = []
    for message in an_array(messages):
        content = an_array(member(message, "content"))
        parts = [part for each in content if (part := _part(an_object(each))) is not None]
        said += [Message(message["role"], parts)] if parts else chat_messages([message])
    return said


def _part(block: Mapping[str, Any]) -> Part | None:
    if isinstance(text := block.get("text") or member(an_object(block.get("guardContent")).get("text"), "text"), str):
        return Text(text)
    kind = block.get("type")
    if called := block if kind == "tool_use" else block.get("toolUse"):
        return ToolCall(called.get("id") or called.get("toolUseId"), called["name"], called.get("input"))
    if result := block if kind == "tool_result" else block.get("toolResult"):
        return ToolResult(result.get("tool_use_id") or result.get("toolUseId"), result.get("content"))
    if thought := block.get("thinking") or member(
        an_object(block.get("reasoningContent")).get("reasoningText"), "text"
    ):
        return Reasoning(thought)
    for modality in ("image", "document", "video"):
        if modality == kind or modality in block:
            source = an_object(block.get("source") or an_object(block.get(modality)).get("source"))
            uri = source.get("url") or member(source.get("s3Location"), "uri")
            return Media(modality, source.get("media_type"), source.get("data"), uri)
    return None


def _converse_tools(config: object) -> list[dict[str, Any]]:
    specs = (an_object(tool.get("toolSpec")) for tool in an_array(an_object(config).get("tools")))
    return [
        {
            "type": "function",
            "name": spec["name"],
            "description": spec.get("description"),
            "parameters": member(spec.get("inputSchema"), "json"),
        }
        for spec in specs
        if spec
    ]


def _converse_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation(
        _messages(body.get("messages")), texts(body.get("system")), _converse_tools(body.get("toolConfig"))
    )


def _converse_answers(response: Mapping[str, Any]) -> list[Message]:
    [message] = _messages([response["output"]["message"]]) or [Message("assistant", [])]
    return [replace(message, finish_reason=response.get("stopReason"))]


def _converse_chunk(gathered: Gathered, chunk: Mapping[str, Any]) -> None:
    for name in ("contentBlockStart", "contentBlockDelta"):
        event = an_object(chunk.get(name))
        delta, slot = an_object(event.get("delta") or event.get("start")), event.get("contentBlockIndex", 0)
        gathered.text(delta.get("text"))
        gathered.reasoning(member(delta.get("reasoningContent"), "text"))
        if tool := delta.get("toolUse"):
            gathered.tool(slot, id=tool.get("toolUseId"), name=tool.get("name"), arguments=tool.get("input"))
    gathered.finish(an_object(chunk.get("messageStop")).get("stopReason"))


def _invoke_conversation(body: Mapping[str, Any]) -> Conversation:
    messages = _messages(body.get("messages"))
    for said in an_array(body.get("chat_history")):  # Cohere
        messages.append(Message("assistant" if said.get("role") == "CHATBOT" else "user", [Text(said.get("message"))]))
    for name in ("message", "prompt", "inputText", "texts"):
        messages += [Message("user", [Text(text)]) for text in texts(body.get(name))]
    system = (*texts(body.get("system")), *texts(body.get("preamble")))
    tools = _converse_tools(body.get("toolConfig")) or [
        {**tool, **({"parameters": schema} if (schema := an_object(given).get("input_schema")) else {})}
        for tool, given in zip(tool_definitions(body.get("tools")), an_array(body.get("tools")), strict=True)
    ]
    return Conversation(messages, system, tools)


def _invoke_answers(response: Mapping[str, Any]) -> list[Message]:
    if not response["body"]:
        return []
    said = an_object(json.loads(response["body"]))
    answers = [answer for name in _ANSWERS for answer in an_array(said.get(name))]
    return [_answer(an_object(answer)) for answer in answers or [said]]


def _answer(said: Mapping[str, Any]) -> Message:
    whole = said.get("message") or member(said.get("output"), "message")
    if whole is None and isinstance(said.get("content"), (list, str)):
        whole = {"role": "assistant", "content": said["content"]}
    if whole is not None:
        [message] = _messages([whole])
        return replace(message, finish_reason=_reason(said))
    return Message("assistant", [Text(text) for text in _said_texts(said)], _reason(said))


def _said_texts(said: Mapping[str, Any]) -> Iterator[str]:
    """Titan, Meta, Cohere and Mistral, Anthropic's completions, Jurassic."""
    for text in (said.get("outputText"), said.get("generation"), said.get("text"), said.get("completion")):
        if isinstance(text, str):
            yield text
    if isinstance(text := an_object(said.get("data")).get("text"), str):
        yield text


def _invoke_chunk(gathered: Gathered, chunk: Mapping[str, Any]) -> None:
    said = an_object(json.loads(an_object(chunk.get("chunk")).get("bytes") or "null"))
    _converse_chunk(gathered, said)  # Nova
    delta, slot = an_object(said.get("delta")), said.get("index", 0)  # Anthropic
    gathered.text(delta.get("text"))
    gathered.reasoning(delta.get("thinking"))
    block = an_object(said.get("content_block"))
    if block.get("type") == "tool_use":
        gathered.tool(slot, id=block.get("id"), name=block.get("name"))
    if isinstance(arguments := delta.get("partial_json"), str):
        gathered.tool(slot, arguments=arguments)
    answers = [an_object(answer) for name in _ANSWERS for answer in an_array(said.get(name))]
    for index, answer in enumerate(answers or [said]):
        for text in _said_texts(answer):
            gathered.text(text, index)
        gathered.text(member(answer.get("delta") or answer.get("message"), "content"), index)
    for index, reason in enumerate(_reasons(said)):
        gathered.finish(reason, index)


def _agent_conversation(body: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(body.get("inputText"))])


def _agent_chunk(gathered: Gathered, chunk: Mapping[str, Any]) -> None:
    piece = an_object(chunk.get("chunk")).get("bytes")
    if piece:
        gathered.text(piece.decode())


# --- the integrations ------------------------------------------------------------------------------------------------

_CONVERSE: Final = Endpoint(
    "chat",
    _converse_request,
    _converse_prompt,
    _converse_response,
    content=Content(_converse_conversation, _converse_answers, _converse_chunk),
)
_CHAT: Final = Endpoint(
    "chat",
    _invoke_request,
    _invoke_prompt,
    _invoke_response,
    content=Content(_invoke_conversation, _invoke_answers, _invoke_chunk),
)
_COMPLETION: Final = replace(_CHAT, operation="text_completion")
_EMBEDDINGS: Final = Endpoint(
    "embeddings",
    _invoke_request,
    no_prompt,
    _embeddings_response,
    content=Content(_invoke_conversation, lambda _: ()),
)
_AGENT: Final = Endpoint(
    "invoke_agent",
    _agent_request,
    no_prompt,
    lambda _: {},
    _AgentFold,
    content=Content(_agent_conversation, lambda _: (), _agent_chunk),
)

_ENDPOINTS: Final = {
    "Converse": _CONVERSE,
    "ConverseStream": replace(_CONVERSE, read_request=_streamed(_converse_request), fold=_ConverseFold),
    "InvokeModel": _CHAT,
    "InvokeModel (prompt)": _COMPLETION,
    "InvokeModel (embeddings)": _EMBEDDINGS,
    "InvokeModelWithResponseStream": replace(_CHAT, read_request=_streamed(_invoke_request), fold=_Invoked),
    "InvokeModelWithResponseStream (prompt)": replace(
        _COMPLETION, read_request=_streamed(_invoke_request), fold=_Invoked
    ),
    "InvokeAgent": _AGENT,
}

_SERVICES: Final = frozenset({"bedrock-runtime", "bedrock-agent-runtime"})


def _is_bedrock(client: Any) -> bool:
    return client._service_model.service_name in _SERVICES


def _asked(arguments: Mapping[str, Any]) -> Asked | None:
    """Of `_make_api_call(self, operation_name, api_params)`, through which every operation of every service passes."""
    operation, body = arguments["operation_name"], arguments["api_params"]
    if operation.startswith("InvokeModel"):
        model = body["modelId"]
        body = {**_json(body.get("body")), "modelId": model}
        if "embed" in model:
            operation = "InvokeModel (embeddings)"
        elif "prompt" in body or "inputText" in body:
            operation += " (prompt)"
    endpoint = _ENDPOINTS.get(operation)
    return endpoint and Asked(endpoint, body, arguments["self"].meta.endpoint_url)


def _json(body: object) -> Mapping[str, Any]:
    """The body of a request to a model, where it can be read without being used up, and is not very big."""
    content = body.getvalue() if isinstance(body, BytesIO) else body
    if not isinstance(content, (bytes, bytearray, str)) or len(content) > bodies.MAX_BYTES:
        return {}
    return an_object(json.loads(content))


def _integration(library: str, versions: str, path: str, **more: Any) -> Integration:
    module, method = path.split(":")
    return Integration(
        library=library,
        versions=versions,
        methods=(Method(module, method, _asked, member=("stream", "body", "completion"), concerns=_is_bedrock),),
        endpoints=_ENDPOINTS,
        provider=lambda _client, _host: "aws.bedrock",
        note="RetrieveAndGenerate, flows, batch and asynchronous inference make no span.",
        **more,
    )


INTEGRATION: Final = _integration("botocore", ">=1.34.116,<2", "botocore.client:BaseClient._make_api_call")
ASYNC_INTEGRATION: Final = _integration("aiobotocore", ">=2.13.1,<4", "aiobotocore.client:AioBaseClient._make_api_call")
