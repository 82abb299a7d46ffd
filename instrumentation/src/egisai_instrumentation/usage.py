"""What providers call tokens, said once in the conventions' words: one table entry a dialect.

`gen_ai.usage.input_tokens` includes what was read from and written to a cache, and `output_tokens` includes reasoning
(https://github.com/open-telemetry/semantic-conventions-genai, client-inference.md). Where a provider counts those
apart, they are added; where it reports what it bills beside what it processed, what it bills counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from egisai import semconv

from .integration import Attributes

_MODALITIES: Final = {
    ("text", "input"): semconv.USAGE_TEXT_INPUT_TOKENS,
    ("image", "input"): semconv.USAGE_IMAGE_INPUT_TOKENS,
    ("audio", "input"): semconv.USAGE_AUDIO_INPUT_TOKENS,
    ("text", "output"): semconv.USAGE_TEXT_OUTPUT_TOKENS,
    ("image", "output"): semconv.USAGE_IMAGE_OUTPUT_TOKENS,
    ("audio", "output"): semconv.USAGE_AUDIO_OUTPUT_TOKENS,
}
_OF_A_MODALITY: Final = frozenset(_MODALITIES.values())
"""None of these says nothing: providers count no audio in every call of text, and an attribute costs a microsecond."""


class Dialect:
    """How one provider reports usage. Each argument names members of its usage object, which may be a mapping.

    A name is a member, or `holder.member`. Of several, those that are there are added up. A mapping or an object that
    lacks a member lacks the attribute: nothing is made up. Nor is there one of a modality that was not used.
    """

    __slots__ = ("_by_modality", "_nested", "_singles", "_sums", "_total")

    def __init__(
        self,
        *,
        by_modality: Iterable[tuple[str, str, str, str]] = (),
        total: str = "",
        **table: str | tuple[str, ...],
    ) -> None:
        """`table`: keys of `_ATTRIBUTES`. `by_modality`: lists of counts, as (list, input or output, the member with
        the modality, the member with the count). `total`: of input and output, where some count reasoning within the
        output and some beside it: it tells which."""
        self._singles: list[tuple[str, str]] = []
        self._sums: list[tuple[str, tuple[str, ...]]] = []
        nested: dict[str, list[tuple[str, str]]] = {}
        for key, names in table.items():
            attribute = _ATTRIBUTES[key]
            if isinstance(names, tuple):
                self._sums.append((attribute, names))
                continue
            holder, _, inside = names.rpartition(".")
            if holder:
                nested.setdefault(holder, []).append((attribute, inside))
            else:
                self._singles.append((attribute, names))
        self._nested = [(holder, tuple(members)) for holder, members in nested.items()]
        self._by_modality = tuple(by_modality)
        self._total = total

    def read(self, attributes: Attributes, usage: Any) -> None:
        """Put what `usage` says, where there is one, on `attributes`."""
        if usage is None:
            return
        get = _getters.get(usage.__class__) or _getter(usage)
        for name, member in self._singles:
            count = get(usage, member, None)
            if count or (count is not None and name not in _OF_A_MODALITY):
                attributes[name] = count if count.__class__ is int else int(count)
        for holder, details in self._nested:
            held = get(usage, holder, None)
            if held is not None:
                get_inside = _getters.get(held.__class__) or _getter(held)
                for name, member in details:
                    count = get_inside(held, member, None)
                    if count or (count is not None and name not in _OF_A_MODALITY):
                        attributes[name] = count if count.__class__ is int else int(count)
        for name, members in self._sums:
            counts = [int(count) for count in (get(usage, member, None) for member in members) if count is not None]
            if counts:
                attributes[name] = sum(counts)
        for each in self._by_modality:
            _read_modalities(attributes, get(usage, each[0], None) or (), *each[1:])
        if self._total and (reasoning := attributes.get(semconv.USAGE_REASONING_TOKENS)):
            apart = attributes.get(semconv.USAGE_OUTPUT_TOKENS, 0) + reasoning
            if get(usage, self._total, None) == attributes.get(semconv.USAGE_INPUT_TOKENS, 0) + apart:
                attributes[semconv.USAGE_OUTPUT_TOKENS] = apart


def _read_modalities(attributes: Attributes, counts: Any, direction: str, modality: str, tokens: str) -> None:
    for each in counts:
        get = _getter(each)
        what, count = get(each, modality, None), get(each, tokens, None)
        name = _MODALITIES.get((str(getattr(what, "value", what)).lower(), direction))
        if name is not None and count:
            attributes[name] = int(count)


_getters: dict[type[Any], Callable[[Any, str, None], Any]] = {}


def _getter(holder: Any) -> Callable[[Any, str, None], Any]:
    """How to get a member of `holder`, remembered by its class: asking an abstract one costs as much as the rest."""
    kind = cast("type[Any]", type(holder))
    get = _getters.get(kind)
    if get is None:
        if isinstance(holder, Mapping):
            get = _get_item
        else:
            get = _get_field if hasattr(kind, "__pydantic_extra__") else getattr
        if len(_getters) < 1000:
            _getters[kind] = get
    return get


def _get_field(model: Any, name: str, default: None) -> Any:
    """A field of a pydantic model, declared or not: to say that it has none takes a model 4 µs."""
    fields = model.__dict__
    if name in fields:
        return fields[name]
    undeclared = getattr(model, "__pydantic_extra__", None)
    return undeclared.get(name) if undeclared else default


def _get_item(holder: Mapping[str, Any], name: str, default: None) -> Any:
    return holder.get(name, default)


_ATTRIBUTES: Final = {
    "input": semconv.USAGE_INPUT_TOKENS,
    "output": semconv.USAGE_OUTPUT_TOKENS,
    "cache_read": semconv.USAGE_CACHE_READ_TOKENS,
    "cache_write": semconv.USAGE_CACHE_WRITE_TOKENS,
    "reasoning": semconv.USAGE_REASONING_TOKENS,
    "text_input": semconv.USAGE_TEXT_INPUT_TOKENS,
    "image_input": semconv.USAGE_IMAGE_INPUT_TOKENS,
    "audio_input": semconv.USAGE_AUDIO_INPUT_TOKENS,
    "text_output": semconv.USAGE_TEXT_OUTPUT_TOKENS,
    "image_output": semconv.USAGE_IMAGE_OUTPUT_TOKENS,
    "audio_output": semconv.USAGE_AUDIO_OUTPUT_TOKENS,
}

# --- the table -------------------------------------------------------------------------------------------------------

OPENAI_CHAT: Final = Dialect(
    input="prompt_tokens",
    output="completion_tokens",
    cache_read="prompt_tokens_details.cached_tokens",
    reasoning="completion_tokens_details.reasoning_tokens",
    audio_input="prompt_tokens_details.audio_tokens",
    audio_output="completion_tokens_details.audio_tokens",
    total="total_tokens",
)
"""OpenAI's chat completions, and everybody who speaks them: Azure, Groq, Together, Mistral, Cerebras, ...

xAI counts reasoning beside the output, gateways to it within:
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning"""

OPENAI_RESPONSES: Final = Dialect(
    input="input_tokens",
    output="output_tokens",
    cache_read="input_tokens_details.cached_tokens",
    reasoning="output_tokens_details.reasoning_tokens",
)

OPENAI_EMBEDDINGS: Final = Dialect(input="prompt_tokens")

OPENAI_IMAGES: Final = Dialect(
    input="input_tokens",
    output="output_tokens",
    text_input="input_tokens_details.text_tokens",
    image_input="input_tokens_details.image_tokens",
    text_output="output_tokens_details.text_tokens",
    image_output="output_tokens_details.image_tokens",
)

OPENAI_TRANSCRIPTIONS: Final = Dialect(
    input="input_tokens",
    output="output_tokens",
    text_input="input_token_details.text_tokens",
    audio_input="input_token_details.audio_tokens",
)
"""Older models count seconds instead, which is no usage in tokens."""

ANTHROPIC: Final = Dialect(
    input=("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    output="output_tokens",  # thinking included
    cache_read="cache_read_input_tokens",
    cache_write="cache_creation_input_tokens",
    reasoning="output_tokens_details.thinking_tokens",
)
"""https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching: the three counts of input do not overlap."""

GEMINI: Final = Dialect(
    input=("prompt_token_count", "tool_use_prompt_token_count"),  # the prompt's count includes what was cached
    output=("candidates_token_count", "thoughts_token_count"),
    cache_read="cached_content_token_count",
    reasoning="thoughts_token_count",
    by_modality=(
        ("prompt_tokens_details", "input", "modality", "token_count"),
        ("candidates_tokens_details", "output", "modality", "token_count"),
    ),
)
"""`usage_metadata` of google-genai: https://ai.google.dev/api/generate-content#UsageMetadata"""

GEMINI_INTERACTIONS: Final = Dialect(
    input=("total_input_tokens", "total_tool_use_tokens"),
    output=("total_output_tokens", "total_thought_tokens"),
    cache_read="total_cached_tokens",
    reasoning="total_thought_tokens",
    by_modality=(("input_tokens_by_modality", "input", "modality", "tokens"),),
)

BEDROCK_CONVERSE: Final = Dialect(
    input=("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
    output="outputTokens",
    cache_read="cacheReadInputTokens",
    cache_write="cacheWriteInputTokens",
)
"""https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html: `inputTokens` is what was not cached."""

BEDROCK_INVOKE: Final = Dialect(
    input=("inputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount"),
    output="outputTokenCount",
    cache_read="cacheReadInputTokenCount",
    cache_write="cacheWriteInputTokenCount",
)
"""What Bedrock counts of any model that is invoked: headers of an answer, `invocationMetrics` of a stream's end."""

COHERE: Final = Dialect(
    input="billed_units.input_tokens",
    output="billed_units.output_tokens",
    cache_read="cached_tokens",
)
"""Version 2's `usage`, and version 1's `meta`."""

OLLAMA: Final = Dialect(input="prompt_eval_count", output="eval_count")
"""On the response itself."""
