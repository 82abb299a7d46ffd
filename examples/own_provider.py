"""A program with its own OpenTelemetry set-up: `EgisInstrumentor` joins it and brings nothing else along.

The program's tracer provider, its spans and its exporters stay what they are. The calls become children of its spans,
and every span, its own included, says which agent was at work, in every backend attached: here a console of one line a
span, and the platform.
"""

from __future__ import annotations

import os

from openai import OpenAI
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

import egisai
from _setup import MODEL
from egisai_exporter import EgisExporter
from egisai_instrumentation import EgisInstrumentor

provider = TracerProvider(resource=Resource.create({"service.name": "Library"}))
one_line = ConsoleSpanExporter(
    formatter=lambda span: f"span: {span.name}, by {(span.attributes or {}).get('gen_ai.agent.name')}\n"
)
provider.add_span_processor(SimpleSpanProcessor(one_line))
if os.environ.get("EGISAI_BASE_URL"):
    provider.add_span_processor(BatchSpanProcessor(EgisExporter()))

EgisInstrumentor().instrument(tracer_provider=provider)

tracer = provider.get_tracer("library")
client = OpenAI()

with egisai.context(agent="Librarian", user_id="reader-7"), tracer.start_as_current_span("lend a book"):
    found = client.responses.create(model=MODEL, input="Recommend a short book about the sea.")
    print("found: ", found.output_text)
    note = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Write the reader a note of one sentence."}]
    )
    print("note:  ", note.choices[0].message.content)

provider.shutdown()
