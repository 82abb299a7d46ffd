"""Every attribute, baggage and header name Egis reads or writes, and nowhere else.

The `gen_ai.*` names are those of the GenAI semantic conventions (open-telemetry/semantic-conventions-genai, which
is still in development and ships no usable Python constants): when one is renamed, it is renamed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SCOPE: Final = "egisai"
"""Name of the tracer that makes our call spans, which say themselves whose they are."""

# --- baggage ---------------------------------------------------------------------------------------------------
BAGGAGE_PREFIX: Final = "egisai."
"""Every baggage member of ours is this plus the name of a `set_context` parameter."""

FIELDS: Final = ("agent", "agent_id", "user_id", "user_role", "session_id", "workflow_id")
"""The facts of a context, in the order in which they are worth keeping when a header overflows."""

# --- who and for whom, on every span -------------------------------------------------------------------------------
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_ID: Final = "egisai.agent.id"
AGENT_SOURCE: Final = "egisai.agent.source"
PROMPT_FINGERPRINT: Final = "egisai.prompt.fingerprint"
USER_ID: Final = "user.id"
USER_ROLES: Final = "user.roles"
SESSION_ID: Final = "session.id"
WORKFLOW_ID: Final = "egisai.workflow.id"
CALL_COMPLETE: Final = "egisai.call.complete"
"""False on a call whose stream was left before its end; absent otherwise."""
CALL_NESTED: Final = "egisai.call.nested"
"""True on a call's span inside another span of the same call, which two instrumentors made: it does not count."""

# --- resource ------------------------------------------------------------------------------------------------------
SERVICE_NAME: Final = "service.name"
DEPLOYMENT_ENVIRONMENT: Final = "deployment.environment.name"

# --- where a client span goes, in the conventions of today and before ----------------------------------------------
URL_FULL: Final = "url.full"
HTTP_URL: Final = "http.url"
HTTP_HOST: Final = "http.host"
NET_PEER_NAME: Final = "net.peer.name"

# --- a call --------------------------------------------------------------------------------------------------------
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
OUTPUT_TYPE: Final = "gen_ai.output.type"
PROMPT_NAME: Final = "gen_ai.prompt.name"
PROMPT_VERSION: Final = "gen_ai.prompt.version"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
HTTP_STATUS: Final = "http.response.status_code"

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"

RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"

USAGE_PREFIX: Final = "gen_ai.usage."
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
USAGE_TEXT_INPUT_TOKENS: Final = "gen_ai.usage.text.input_tokens"
USAGE_IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
USAGE_AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
USAGE_TEXT_OUTPUT_TOKENS: Final = "gen_ai.usage.text.output_tokens"
USAGE_IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
USAGE_AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"

# --- tools ---------------------------------------------------------------------------------------------------------
EXECUTE_TOOL: Final = "execute_tool"
"""Value of `gen_ai.operation.name`."""
TOOL_NAME: Final = "gen_ai.tool.name"
MCP_METHOD: Final = "mcp.method.name"

# --- content, off unless OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says otherwise ---------------------------
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
CONTENT_OMITTED: Final = "egisai.content.omitted_messages"
"""How many of the oldest messages were left out because all together were too long."""
DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"

# --- metrics -------------------------------------------------------------------------------------------------------
METRIC_DURATION: Final = "gen_ai.client.operation.duration"
METRIC_TOKENS: Final = "gen_ai.client.token.usage"
METRIC_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
TOKENS_TYPE: Final = "gen_ai.token.type"

# --- other vendors' words ------------------------------------------------------------------------------------------
CALL_OPERATIONS: Final = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
"""Values of `gen_ai.operation.name` that make a span a call."""

_OPENINFERENCE_KIND: Final = "openinference.span.kind"
_OPENINFERENCE_CALLS: Final = frozenset({"LLM", "EMBEDDING"})
_OPENLLMETRY_TYPE: Final = "llm.request.type"
_OPENLLMETRY_LANGCHAIN: Final = "opentelemetry.instrumentation.langchain"
"""Makes client spans for models, and spans of other kinds for all else."""

_LANGFUSE_TYPE: Final = "langfuse.observation.type"
_LANGFUSE_CALLS: Final = frozenset({"generation", "embedding"})

LANGFUSE_SCOPE: Final = "langfuse-sdk"
LITELLM_SCOPE: Final = "litellm"
"""Of the callback by which LiteLLM tells of a call once it is over."""

_CLIENTS: Final = (
    "anthropic",
    "bedrock",
    "cohere",
    "google_genai",
    "google_generativeai",
    "groq",
    "litellm",
    "mistralai",
    "ollama",
    "openai",
    "together",
)
_CALL_SCOPES: Final = frozenset(
    f"{vendor}.instrumentation.{client}" for vendor in ("openinference", "opentelemetry") for client in _CLIENTS
)
"""Instrumentors of LLM clients: what they make are calls, unless it says that it is something else."""


def is_call(attributes: Mapping[str, Any]) -> bool:
    """Whether a span with these attributes stands for an LLM call, in whoever's words."""
    return (
        attributes.get(OPERATION) in CALL_OPERATIONS
        or attributes.get(_OPENINFERENCE_KIND) in _OPENINFERENCE_CALLS
        or _OPENLLMETRY_TYPE in attributes
        or attributes.get(_LANGFUSE_TYPE) in _LANGFUSE_CALLS
    )


def starts_call(attributes: Mapping[str, Any], scope: str, *, is_client: bool) -> bool:
    """The same of a span that has just started in this instrumentation scope: some say what they are only later."""
    if is_call(attributes):
        return True
    if OPERATION in attributes or _OPENINFERENCE_KIND in attributes:
        return False
    return scope in _CALL_SCOPES or (is_client and scope == _OPENLLMETRY_LANGCHAIN)
