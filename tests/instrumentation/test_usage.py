"""Usage: what each provider reports, said in the conventions' words. The objects are recorded ones, but where noted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egisai_instrumentation import usage
from egisai_instrumentation.reading import loose

CASES = {
    # anthropic/openllmetry, test_prompt_caching: first the prompt is written to the cache, then read from it
    "anthropic-written": (
        usage.ANTHROPIC,
        {"input_tokens": 4, "cache_creation_input_tokens": 18131, "cache_read_input_tokens": 0, "output_tokens": 50},
        {"input": 18135, "cache_write.input": 18131, "cache_read.input": 0, "output": 50},
    ),
    "anthropic-read": (
        usage.ANTHROPIC,
        {"input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 18131, "output_tokens": 50},
        {"input": 18135, "cache_write.input": 0, "cache_read.input": 18131, "output": 50},
    ),
    "anthropic-older": (
        usage.ANTHROPIC,
        {"input_tokens": 17, "output_tokens": 3},
        {"input": 17, "output": 3},
    ),
    "openai-chat": (  # audio: https://platform.openai.com/docs/api-reference/chat/object
        usage.OPENAI_CHAT,
        {
            "prompt_tokens": 19,
            "completion_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
        },
        {"input": 19, "output": 10, "cache_read.input": 8, "reasoning.output": 4, "audio.input": 2},
    ),
    "xai-chat": (  # docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning
        usage.OPENAI_CHAT,
        {
            "prompt_tokens": 663,
            "completion_tokens": 50,
            "total_tokens": 837,
            "prompt_tokens_details": {"text_tokens": 663, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 654},
            "completion_tokens_details": {"reasoning_tokens": 124, "audio_tokens": 0},
        },
        {"input": 663, "output": 174, "cache_read.input": 654, "reasoning.output": 124},
    ),
    "openai-responses": (
        usage.OPENAI_RESPONSES,
        {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 123,
        },
        {"input": 36, "output": 87, "cache_read.input": 0, "reasoning.output": 5},
    ),
    "openai-embeddings": (usage.OPENAI_EMBEDDINGS, {"prompt_tokens": 8, "total_tokens": 8}, {"input": 8}),
    "mistral": (
        usage.OPENAI_CHAT,
        {
            "prompt_tokens": 20,
            "completion_tokens": 18,
            "total_tokens": 38,
            "prompt_tokens_details": {"cached_tokens": 10},
        },
        {"input": 20, "output": 18, "cache_read.input": 10},
    ),
    "gemini": (  # the SDK's spelling of google-genai/openinference, test_validate_token_counts
        usage.GEMINI,
        {
            "prompt_token_count": 266,
            "candidates_token_count": 42,
            "thoughts_token_count": 126,
            "cached_content_token_count": None,
            "prompt_tokens_details": [
                {"modality": "TEXT", "token_count": 8},
                {"modality": "IMAGE", "token_count": 258},
                {"modality": "VIDEO", "token_count": 0},
            ],
        },
        {"input": 266, "output": 168, "reasoning.output": 126, "text.input": 8, "image.input": 258},
    ),
    "gemini-interactions": (
        usage.GEMINI_INTERACTIONS,
        {
            "total_tokens": 179,
            "total_input_tokens": 11,
            "input_tokens_by_modality": [{"modality": "text", "tokens": 11}],
            "total_cached_tokens": 0,
            "total_output_tokens": 42,
            "total_tool_use_tokens": 0,
            "total_thought_tokens": 126,
        },
        {"input": 11, "output": 168, "cache_read.input": 0, "reasoning.output": 126, "text.input": 11},
    ),
    "bedrock-converse": (
        usage.BEDROCK_CONVERSE,
        {
            "cacheReadInputTokenCount": 5,
            "cacheReadInputTokens": 5,
            "cacheWriteInputTokens": 2,
            "inputTokens": 20,
            "outputTokens": 72,
            "totalTokens": 99,
        },
        {"input": 27, "output": 72, "cache_read.input": 5, "cache_write.input": 2},
    ),
    "cohere": (
        usage.COHERE,
        {
            "billed_units": {"input_tokens": 62.0, "output_tokens": 28.0},
            "tokens": {"input_tokens": 968, "output_tokens": 83},
        },
        {"input": 62, "output": 28},
    ),
    "ollama": (
        usage.OLLAMA,
        {"prompt_eval_count": 44, "eval_count": 113, "eval_duration": 5},
        {"input": 44, "output": 113},
    ),
}


@pytest.mark.parametrize("form", ["mapping", "object"])
@pytest.mark.parametrize("case", CASES)
def test_usage(case: str, form: str) -> None:
    dialect, reported, expected = CASES[case]
    attributes: dict[str, Any] = {}
    dialect.read(attributes, reported if form == "mapping" else loose(json.dumps(reported)))
    assert attributes == {f"gen_ai.usage.{name}_tokens": count for name, count in expected.items()}
    assert all(type(count) is int for count in attributes.values())


def test_usage_of_sdk_types() -> None:
    """The SDKs' own objects are read, enumerations included."""
    anthropic = pytest.importorskip("anthropic")
    attributes: dict[str, Any] = {}
    usage.ANTHROPIC.read(attributes, anthropic.types.Usage(input_tokens=4, output_tokens=5, cache_read_input_tokens=6))
    assert attributes["gen_ai.usage.input_tokens"] == 10
    assert "gen_ai.usage.cache_write.input_tokens" not in attributes


def test_usage_undeclared() -> None:
    """A count that an SDK's model does not declare yet is read all the same."""
    from openai.types import CompletionUsage

    said = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "input_tokens": 9}
    for model in (CompletionUsage.model_validate(said), CompletionUsage.construct(**said)):
        attributes: dict[str, Any] = {}
        usage.Dialect(input="input_tokens", output="completion_tokens", reasoning="nowhere").read(attributes, model)
        assert attributes == {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 2}


def test_usage_absent() -> None:
    """Without usage, or with none of it known, nothing is said."""
    for reported in (None, {}, {"other": 3}):
        attributes: dict[str, Any] = {}
        usage.OPENAI_CHAT.read(attributes, reported)
        assert attributes == {}
