"""What the dashboard's tests share: hostile text, and a browser's view of a page without a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from egisai import semconv

HOSTILE = (
    "<script>window.broken = 1; alert(1)</script>",
    '"><img src=x onerror="window.broken = 1">',
    "javascript:alert(1)",
    "' onmouseover='window.broken = 1",
    "</title></pre></textarea><svg onload=window.broken=1>",
    "{{ 7 * 7 }}{% raw %}",
    "nul \x00 and bell \x07",
    "right \u202eto left\u202c, isolate \u2066x\u2069, hidden \U000e0041\U000e0042, joined a\u200db",
    "../../etc/passwd",
    "עברית العربية 日本語 👩\u200d👩\u200d👧",
    "x" * 900,
)
"""Names, ids and prompts of somebody who wants the page to break."""


def messages(text: str) -> dict[str, Any]:
    """Attributes of a call whose content was recorded, with `text` wherever text can be."""
    part = {"type": "text", "content": text}
    tool = {"type": "tool_call", "id": text, "name": text, "arguments": {text: [text]}}
    answer = {"type": "tool_call_response", "id": text, "response": text}
    return {
        semconv.SYSTEM_INSTRUCTIONS: json.dumps([part]),
        semconv.INPUT_MESSAGES: json.dumps([{"role": "user", "parts": [part]}, {"role": text, "parts": [answer]}]),
        semconv.OUTPUT_MESSAGES: json.dumps([{"role": "assistant", "parts": [tool, part], "finish_reason": text}]),
        semconv.ERROR_TYPE: text,
        semconv.RESPONSE_MODEL: text,
        text: text,
    }


@dataclass
class Page(HTMLParser):
    """The elements and the text of an HTML page."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)
    """Text inside `script` and `style` elements, which a strict policy would refuse."""
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._within = ""
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def links(self, start: str = "") -> list[str]:
        return [
            attributes["href"]
            for tag, attributes in self.elements
            if tag == "a" and attributes["href"].startswith(start)
        ]

    def rows(self) -> list[str]:
        """What the rows of the page's tables are, in order."""
        return [attributes["data-key"] for tag, attributes in self.elements if tag == "tr" and "data-key" in attributes]

    def value(self, name: str) -> str:
        """The value of a form field."""
        return next(attributes["value"] for tag, attributes in self.elements if attributes.get("name") == name)
