"""One program, one agent: `init(app=...)` is the only line about Egis.

Every call of the process belongs to the agent that `app` names: Responses and chat completions, whole and streamed,
and embeddings. (A system prompt would make its own agent: see `by_prompt.py`.)
"""

from __future__ import annotations

from openai import OpenAI

import egisai
from _setup import EMBEDDING_MODEL, MODEL

egisai.init(app="Newsroom")

client = OpenAI()

response = client.responses.create(model=MODEL, input="Suggest a headline about copper prices.")
print("response: ", response.output_text)

print("stream:   ", end=" ")
for event in client.responses.create(model=MODEL, input="Now one about tin.", stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
print()

completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "And one about zinc?"}])
print("chat:     ", completion.choices[0].message.content)

vectors = client.embeddings.create(model=EMBEDDING_MODEL, input=["copper", "tin", "zinc"])
print("embedded: ", len(vectors.data), "words")
