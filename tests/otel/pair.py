"""A client with another vendor's instrumentor and ours, in one order: prints what arrived, as OTLP and JSON.

python tests/otel/pair.py CLIENT [INSTRUMENTOR]    orders `alone`, `before` (theirs first), `after`, each in a fork
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from typing import Any

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.instrumentation.contract import Ask, Form, Subject
from tests.otel.frameworks import FRAMEWORKS

import egisai
from egisai import guard
from egisai.outgoing import Outgoing

Json = dict[str, Any]


class Logged(logging.Handler):
    """What is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.msg}")


class Run:
    """One order, in a process of its own."""

    def __init__(self, subject: Subject, theirs: list[Any]) -> None:
        self.subject, self.theirs = subject, theirs
        self.exported, self.provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(Outgoing(self.exported)))
        trace.set_tracer_provider(self.provider)
        forms = [form for form in subject.forms if form.prompted and "sync" in form.kinds]
        self.chat = next(form for form in forms if not form.stream)
        self.stream = next(form for form in forms if form.stream)
        self.answer: Json = {}
        self.wire = subject.wire()

    def instrument(self, whose: str) -> None:
        if whose == "ours":
            egisai.init(app="app", tracer_provider=self.provider, quiet=True)
        else:
            for each in self.theirs:
                each.instrument(tracer_provider=self.provider, skip_dep_check=True)

    def uninstrument(self, whose: str) -> None:
        if whose == "ours":
            egisai.shutdown()
        else:
            for each in self.theirs:
                each.uninstrument()

    def say(self, phase: str, form: Form, **facts: str) -> None:
        """Make a call, and note what came of it."""
        self.exported.clear()
        before = get_current()
        error = None
        try:
            with egisai.context(**facts):
                result = form.read(form.call(self.client, Ask(self.subject.model)))
                if form.stream:
                    result = list(result)
            said = form.said(result)
            del result
        except Exception:
            error, said = traceback.format_exc(), {}
        delivered: list[Json] = []
        for each in self.theirs:
            getattr(each, "settle", lambda: None)()
            if hasattr(each, "delivered"):
                delivered += [dict(span.attributes or {}) for span in each.delivered.get_finished_spans()]
                each.delivered.clear()
        gc.collect()
        spans = self.exported.get_finished_spans()
        self.answer[phase] = {
            "spans": [
                {"scope": span.instrumentation_scope.name, "name": span.name, **json.loads(span.to_json())}
                for span in spans
            ],
            "otlp": base64.b64encode(encode_spans(spans).SerializeToString()).decode(),
            "said": {name: said[name] for name in ("input", "output") if name in said},
            "delivered": delivered,
            "error": error,
            "restored": get_current() == before,
        }

    def run(self, order: list[str]) -> None:
        with self.wire:
            for whose in order:
                self.instrument(whose)
            self.client = self.subject.make(self.wire.url, "sync")
            self.say("chat", self.chat, agent="billing", user_id="u-1", session_id="s-1", workflow_id="w-1")
            self.say("stream", self.stream, user_id="u-2")
            while order:
                self.uninstrument(order.pop())
                self.say("with " + " ".join(order), self.chat, user_id="u-3")
            self.subject.close(self.client)


def found(client: str) -> Subject:
    if client in FRAMEWORKS:
        return FRAMEWORKS[client]
    return importlib.import_module(f"tests.instrumentation.clients.{client}").SUBJECT


def theirs(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)()


def matters(warned: warnings.WarningMessage) -> bool:
    """Whether we, or the program, should know of it: what clients find old in one another is theirs."""
    return not issubclass(warned.category, DeprecationWarning) or "/egisai" in warned.filename


def main(client: str, *instrumentors: str) -> None:
    guard.strict = True
    subject = found(client)
    if client != "botocore":
        importlib.import_module(subject.imports or subject.library)
    for path in instrumentors:
        importlib.import_module(path.split(":")[0])
    for name, order in {"alone": ["theirs"], "before": ["theirs", "ours"], "after": ["ours", "theirs"]}.items():
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            logged = Logged()
            logging.getLogger().addHandler(logged)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                run = Run(subject, [theirs(path) for path in instrumentors])
                try:
                    run.run(order)
                except BaseException:
                    run.answer["error"] = traceback.format_exc()
            said = [f"{each.filename}: {each.message}" for each in warned if matters(each)] + logged.said
            print(json.dumps({"order": name, "answer": run.answer, "warned": sorted(set(said))}), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)


main(*sys.argv[1:])
