"""IBM watsonx.ai: chat, text generation and embeddings. https://ibm.github.io/watsonx-ai-python-sdk"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from egisai import semconv

from . import openai, usage
from .integration import Asked, Attributes, Content, Endpoint, Integration, Method
from .messages import Conversation, Gathered, Message, Text
from .openai import chat_messages, tool_definitions
from .reading import an_array, an_object, member, no_prompt, put, texts

_GENERATED: Final = usage.Dialect(input="input_token_count", output="generated_token_count")
_TEXT_PARAMETERS: Final = {
    "max_new_tokens": semconv.REQUEST_MAX_TOKENS,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "random_seed": semconv.REQUEST_SEED,
}
_REASONS: Final = {"eos_token": "stop", "stop_sequence": "stop", "max_tokens": "length", "token_limit": "length"}
_MORE: Final = "not_finished"


def _parameters(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the call, else those that the model was made with: a mapping, or a schema of the client's."""
    given = arguments.get("params")
    if given is None:
        given = arguments["self"].params
    return an_object(given.to_dict() if hasattr(given, "to_dict") else given)


# --- chat ------------------------------------------------------------------------------------------------------------


def _chat_request(arguments: Mapping[str, Any]) -> Attributes:
    attributes = openai.CHAT.read_request(_parameters(arguments))
    put(attributes, semconv.REQUEST_MODEL, arguments["self"].model_id)  # none where it is a deployment
    return attributes


def _chat_stream_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_chat_request(arguments), semconv.REQUEST_STREAM: True}


def _chat_response(response: Any) -> Attributes:
    fold = _ChatFold()
    fold.feed(response)
    return fold.attributes()


class _ChatFold:
    """A response, or chunks, which look the same but for the answers in them: usage is at the end."""

    __slots__ = ("_first", "_reasons", "_used", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._first: Any = None
        self._used: Any = None
        self._reasons: dict[int, str] = {}

    def feed(self, chunk: Any) -> None:
        self._first = self._first or chunk
        self._used = chunk.get("usage") or self._used
        for choice in an_array(chunk.get("choices")):
            if reason := choice.get("finish_reason"):
                self._reasons[choice.get("index", 0)] = reason

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        if self._first is not None:
            put(attributes, semconv.RESPONSE_ID, self._first.get("id"))
            put(attributes, semconv.RESPONSE_MODEL, self._first.get("model_id") or self._first.get("model"))
        if self._reasons:
            attributes[semconv.RESPONSE_FINISH_REASONS] = [self._reasons[index] for index in sorted(self._reasons)]
        usage.OPENAI_CHAT.read(attributes, self._used)
        return attributes


def _chat_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation(chat_messages(arguments.get("messages")), tools=tool_definitions(arguments.get("tools")))


def _chat_answers(response: Any) -> list[Message]:
    return [
        replace(said, finish_reason=choice.get("finish_reason"))
        for choice in an_array(response.get("choices"))
        for said in chat_messages([choice.get("message")])
    ]


def _chat_chunk(gathered: Gathered, chunk: Any) -> None:
    for choice in an_array(chunk.get("choices")):
        delta, index = an_object(choice.get("delta")), choice.get("index", 0)
        gathered.reasoning(delta.get("reasoning_content"), index)
        gathered.text(delta.get("content"), index)
        for call in an_array(delta.get("tool_calls")):
            name, arguments = member(call.get("function"), "name"), member(call.get("function"), "arguments")
            gathered.tool(call.get("index"), index, id=call.get("id"), name=name, arguments=arguments)
        gathered.finish(choice.get("finish_reason"), index)


# --- text ------------------------------------------------------------------------------------------------------------


def _text_request(arguments: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.REQUEST_MODEL, arguments["self"].model_id)
    parameters = _parameters(arguments)
    for parameter, name in _TEXT_PARAMETERS.items():
        put(attributes, name, parameters.get(parameter))
    if stop := an_array(parameters.get("stop_sequences")):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(stop)
    return attributes


def _text_stream_request(arguments: Mapping[str, Any]) -> Attributes:
    return {**_text_request(arguments), semconv.REQUEST_STREAM: True}


def _each(response: Any) -> Sequence[Any]:
    return an_array(response) or (response,)


def _text_response(response: Any) -> Attributes:
    """Of one response, or of those to several prompts: `generate` asks for each by itself, which is one call here."""
    fold = _TextsFold()
    for each in _each(response):
        fold.feed(each)
    return fold.attributes()


class _TextsFold:
    """Responses to several prompts, one after another."""

    __slots__ = ("_input", "_model", "_output", "_reasons", "usage_asked")

    def __init__(self) -> None:
        self.usage_asked = False
        self._model: Any = None
        self._reasons: list[str] = []
        self._input: int | None = None
        self._output: int | None = None

    def feed(self, chunk: Any) -> None:
        if isinstance(chunk, str):  # a stream of nothing but text
            return
        self._model = chunk.get("model_id")
        for result in an_array(chunk.get("results")):
            self._count(result.get("input_token_count"), result.get("generated_token_count"))
            reason = result.get("stop_reason")
            if reason is not None and reason.lower() != _MORE:
                self._reasons.append(_reason(reason))

    def _count(self, given: int | None, generated: int | None) -> None:
        if given is not None:
            self._input = (self._input or 0) + given
        if generated is not None:
            self._output = (self._output or 0) + generated

    def attributes(self) -> Attributes:
        attributes: Attributes = {}
        put(attributes, semconv.RESPONSE_MODEL, self._model)
        if self._reasons:
            attributes[semconv.RESPONSE_FINISH_REASONS] = self._reasons
        _GENERATED.read(attributes, {"input_token_count": self._input, "generated_token_count": self._output})
        return attributes


class _TextFold(_TextsFold):
    """Chunks of one response: the first counts the input, each the output so far."""

    __slots__ = ()

    def _count(self, given: int | None, generated: int | None) -> None:
        if given is not None:
            self._input = max(self._input or 0, given)
        if generated is not None:
            self._output = max(self._output or 0, generated)


def _reason(reason: Any) -> str:
    said = str(reason).lower()
    return _REASONS.get(said, said)


def _text_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(arguments.get("prompt"))])


def _text_answers(response: Any) -> list[Message]:
    results = [result for each in _each(response) for result in an_array(each.get("results"))]
    return [Message("assistant", [Text(each["generated_text"])], _reason(each.get("stop_reason"))) for each in results]


def _text_chunk(gathered: Gathered, chunk: Any) -> None:
    if isinstance(chunk, str):
        gathered.text(chunk)
        return
    for result in an_array(chunk.get("results")):
        gathered.text(result.get("generated_text"))
        if (reason := _reason(result.get("stop_reason"))) != _MORE:
            gathered.finish(reason)


# --- embeddings ------------------------------------------------------------------------------------------------------


def _embed_request(arguments: Mapping[str, Any]) -> Attributes:
    return {semconv.REQUEST_MODEL: arguments["self"].model_id}


def _embeddings(response: Any) -> Attributes:
    attributes: Attributes = {}
    put(attributes, semconv.RESPONSE_MODEL, response.get("model_id"))
    _GENERATED.read(attributes, response)
    if results := an_array(response.get("results")):
        attributes[semconv.EMBEDDINGS_DIMENSION_COUNT] = len(an_array(results[0].get("embedding")))
    return attributes


def _embed_conversation(arguments: Mapping[str, Any]) -> Conversation:
    return Conversation([Message("user", [Text(text)]) for text in texts(arguments.get("inputs"))])


# --- where the calls pass --------------------------------------------------------------------------------------------

_CHAT: Final = Endpoint(
    "chat",
    _chat_request,
    openai.CHAT.read_prompt,
    _chat_response,
    content=Content(_chat_conversation, _chat_answers, _chat_chunk),
)
_CHAT_STREAM: Final = replace(_CHAT, read_request=_chat_stream_request, fold=_ChatFold)
_TEXT: Final = Endpoint(
    "text_completion",
    _text_request,
    no_prompt,
    _text_response,
    _TextsFold,
    content=Content(_text_conversation, _text_answers, _text_chunk),
)
_TEXT_STREAM: Final = replace(_TEXT, read_request=_text_stream_request, fold=_TextFold)
_EMBED: Final = Endpoint(
    "embeddings", _embed_request, no_prompt, _embeddings, content=Content(_embed_conversation, lambda _: ())
)


def _method(path: str, endpoint: Endpoint, *, of: str = "inference.model_inference") -> Method:
    def asked(arguments: Mapping[str, Any]) -> Asked:
        return Asked(endpoint, arguments, arguments["self"]._client.credentials.url)

    return Method(f"ibm_watsonx_ai.foundation_models.{of}", path, asked, lazy=True)


INTEGRATION: Final = Integration(
    library="ibm-watsonx-ai",
    versions=">=1.4,<2",
    methods=(
        _method("ModelInference.chat", _CHAT),
        _method("ModelInference.achat", _CHAT),
        _method("ModelInference.chat_stream", _CHAT_STREAM),
        _method("ModelInference.achat_stream", _CHAT_STREAM),
        _method("ModelInference.generate", _TEXT),  # of `generate_text` too
        _method("ModelInference.agenerate", _TEXT),
        _method("ModelInference.generate_text_stream", _TEXT_STREAM),
        _method("ModelInference.agenerate_stream", _TEXT_STREAM),
        _method("Embeddings.generate", _EMBED, of="embeddings.embeddings"),  # of `embed_documents` and `embed_query`
        _method("Embeddings.agenerate", _EMBED, of="embeddings.embeddings"),
    ),
    endpoints={"chat": _CHAT, "chat_stream": _CHAT_STREAM, "generate": _TEXT, "generate_text_stream": _TEXT_STREAM}
    | {"embeddings": _EMBED},
    provider=lambda _client, _host: "ibm.watsonx.ai",
    note="Several prompts given to one `generate` are one call. Usage of `generate_text_stream` needs its "
    "`raw_response`: without, there is nothing but text. A stream that is refused tells no status. The model gateway, "
    "time series and tokenization make no span.",
)
