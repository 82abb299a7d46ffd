"""A program that makes a call with each system prompt it is given on a line, and answers whose call it was."""

from __future__ import annotations

import json
import sys

import openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import egisai
from egisai import announce

announce._POLL_S = announce._SAVE_S = 0.2
spans = InMemorySpanExporter()
provider = TracerProvider()
trace.set_tracer_provider(provider)
egisai.init(quiet=True)  # first, so that its processor has stamped the span when it is kept
provider.add_span_processor(SimpleSpanProcessor(spans))
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-local", max_retries=0)
print(json.dumps(None), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    answer: object = None
    if "prompt" in asked:
        system = {"role": "system", "content": asked["prompt"]}
        client.chat.completions.create(model="m", messages=[system, {"role": "user", "content": "Hello"}])
        call = next(span for span in spans.get_finished_spans() if "gen_ai.operation.name" in span.attributes)
        spans.clear()
        answer = [call.attributes["egisai.agent.id"], call.attributes["gen_ai.agent.name"]]
    elif "flush" in asked:
        answer = egisai.flush(asked["flush"])
    else:
        answer = egisai.diagnostics()
    print(json.dumps(answer), flush=True)
egisai.shutdown()
