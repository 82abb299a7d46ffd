"""A program with another vendor's instrumentor and our processor, and nothing else of ours: prints its call spans.

python tests/otel/vendor.py MODULE    the module with their `OpenAIInstrumentor`
"""

from __future__ import annotations

import importlib
import json
import sys

import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import egisai
from egisai.outgoing import Outgoing
from provider import Provider

SYSTEM = "You answer questions about invoices, and about nothing else."
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "why?"}]
PARTS = [{"role": "developer", "content": [{"type": "text", "text": SYSTEM}]}, {"role": "user", "content": "why?"}]


def main() -> None:
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(egisai.EgisSpanProcessor())
    provider.add_span_processor(BatchSpanProcessor(Outgoing(exported)))
    importlib.import_module(sys.argv[1]).OpenAIInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    with Provider() as server, openai.OpenAI(base_url=server.base_url, api_key="sk-local") as client:
        with egisai.context(agent="billing", user_id="u-1", user_role="admin", session_id="s-1", workflow_id="w-1"):
            client.chat.completions.create(model="named", messages=MESSAGES)
        with egisai.context(user_id="u-2"):
            client.chat.completions.create(model="prompted", messages=MESSAGES)
            list(client.chat.completions.create(model="streamed", messages=PARTS, stream=True))
            client.responses.create(model="instructed", instructions=SYSTEM, input="why?")
            client.chat.completions.create(model="plain", messages=MESSAGES[1:])
    provider.force_flush()
    loaded = [name for name in sys.modules if name.startswith("egisai_instrumentation")]
    spans = [dict(span.attributes or {}) for span in exported.get_finished_spans()]
    print(json.dumps({"spans": spans, "loaded": loaded}))


main()
