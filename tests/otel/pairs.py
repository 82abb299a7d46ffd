"""Who is tested with whom: clients and frameworks beside another vendor's instrumentor and ours, in both orders.

python tests/otel/pairs.py            the table of `docs/opentelemetry.md`
python tests/otel/pairs.py VENDOR     the packages of that vendor's environment, for `vendors.sh`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple


class Pair(NamedTuple):
    """A row: what `pair.py` runs."""

    vendor: str
    client: str
    """In `tests/instrumentation/clients` or in `frameworks.py`."""
    package: str
    instrumentor: str
    """Module and class; "" where there is nothing to switch on."""
    tolerated: str = ""
    """What may be logged that is not without ours."""


CLIENTS = (
    "anthropic",
    "boto3",
    "cohere",
    "google-genai",
    "groq",
    "langchain-openai",
    "litellm>=1.106",
    "mistralai",
    "ollama",
    "openai",
    "openai-agents>=0.20",
    "pydantic-ai-slim[openai]",
    "smolagents[openai]",
    "together",
)
"""Of every vendor's environment: versions that go together."""

NAMES = {
    "openinference": "OpenInference",
    "openllmetry": "OpenLLMetry",
    "genai": "OpenTelemetry GenAI",
    "langfuse": "Langfuse",
    "native": "the library's own tracing",
}
_SUBJECTS = {"botocore": "boto3 (Bedrock)", "google_genai": "google-genai", "langchain": "langchain-openai"}


_OWN_EXPORT = "openai.agents: OPENAI_API_KEY is not set, skipping trace export"  # every few seconds


def _openinference(client: str, name: str, module: str = "", package: str = "") -> Pair:
    module, package = module or client, package or client
    path = f"openinference.instrumentation.{module}:{name}Instrumentor"
    return Pair("openinference", client, f"openinference-instrumentation-{package}", path)


def _opentelemetry(vendor: str, client: str, module: str, name: str) -> Pair:
    package = f"opentelemetry-instrumentation-{module.replace('.', '-').replace('_', '-')}"
    return Pair(vendor, client, package, f"opentelemetry.instrumentation.{module}:{name}Instrumentor")


PAIRS = (
    _openinference("openai", "OpenAI"),
    _openinference("anthropic", "Anthropic"),
    _openinference("botocore", "Bedrock", "bedrock", "bedrock"),
    _openinference("cohere", "Cohere"),
    _openinference("google_genai", "GoogleGenAI", package="google-genai"),
    _openinference("groq", "Groq"),
    _openinference("litellm", "LiteLLM"),
    _openinference("mistralai", "MistralAI"),
    _openinference("ollama", "Ollama"),
    _openinference("together", "Together"),
    _openinference("langchain", "LangChain"),
    _openinference("openai-agents", "OpenAIAgents", "openai_agents")._replace(tolerated=_OWN_EXPORT),
    _openinference("smolagents", "Smolagents"),
    _opentelemetry("openllmetry", "openai", "openai", "OpenAI"),
    _opentelemetry("openllmetry", "anthropic", "anthropic", "Anthropic"),
    _opentelemetry("openllmetry", "botocore", "bedrock", "Bedrock"),
    _opentelemetry("openllmetry", "cohere", "cohere", "Cohere"),
    _opentelemetry("openllmetry", "google_genai", "google_generativeai", "GoogleGenerativeAi"),
    _opentelemetry("openllmetry", "groq", "groq", "Groq"),
    _opentelemetry("openllmetry", "litellm", "litellm", "LiteLLM"),
    _opentelemetry("openllmetry", "ollama", "ollama", "Ollama"),
    _opentelemetry("openllmetry", "langchain", "langchain", "Langchain"),
    _opentelemetry("openllmetry", "openai-agents", "openai_agents", "OpenAIAgents")._replace(tolerated=_OWN_EXPORT),
    _opentelemetry("genai", "openai", "genai.openai", "OpenAI"),
    _opentelemetry("genai", "anthropic", "genai.anthropic", "Anthropic"),
    _opentelemetry("genai", "botocore", "genai.bedrock", "Bedrock"),
    _opentelemetry("genai", "botocore", "botocore", "Botocore"),
    _opentelemetry("genai", "google_genai", "google_genai", "GoogleGenAiSdk"),
    _opentelemetry("genai", "langchain", "genai.langchain", "LangChain"),
    _opentelemetry("genai", "openai-agents", "genai.openai_agents", "OpenAIAgents")._replace(tolerated=_OWN_EXPORT),
    Pair("langfuse", "langfuse.openai", "langfuse", "tests.otel.natives:Langfuse"),
    Pair("langfuse", "langfuse.observe", "langfuse", "tests.otel.natives:Langfuse"),
    Pair("native", "anthropic", "anthropic", ""),
    Pair("native", "pydantic-ai", "pydantic-ai-slim", "tests.otel.natives:PydanticAI"),
    Pair("native", "litellm", "litellm", "tests.otel.natives:LiteLLM", tolerated="opentelemetry.sdk.trace: "),
)


def packages(vendor: str) -> list[str]:
    """What to install in the vendor's environment."""
    return sorted(
        {*CLIENTS, *(pair.package for pair in PAIRS if pair.vendor == vendor and pair.package not in CLIENTS)}
    )


def table() -> Iterator[str]:
    """The table in Markdown."""
    yield "| beside | tested with |"
    yield "|---|---|"
    for vendor, name in NAMES.items():
        clients = dict.fromkeys(_SUBJECTS.get(pair.client, pair.client) for pair in PAIRS if pair.vendor == vendor)
        yield f"| {name} | {', '.join(clients)} |"


if __name__ == "__main__":
    print("\n".join(packages(sys.argv[1]) if len(sys.argv) > 1 else table()))
