"""A program that knows nothing of Egis, attributed from outside by OpenTelemetry's own launcher:

export OTEL_TRACES_EXPORTER=egisai EGISAI_APP="Zero code" EGISAI_BASE_URL=... EGISAI_API_KEY=...
opentelemetry-instrument python examples/zero_code.py
"""

from __future__ import annotations

from openai import OpenAI

from _setup import MODEL

client = OpenAI()

response = client.responses.create(model=MODEL, input="Is it worth learning to juggle?")
print("response:", response.output_text)

stream = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "How long does it take?"}],
    stream=True,
    stream_options={"include_usage": True},
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
print("stream:  ", text)
