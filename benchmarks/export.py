"""CPU per span of export and delivery: EgisExporter beside OpenTelemetry's OTLPSpanExporter, interleaved, to one sink.

The sink is another process, so that its work is not counted. `wall` includes waiting for the disk (Egis) or for the
answer (OTLP), which happens on the batch thread. Run: python benchmarks/export.py [rounds]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from egisai_exporter import EgisExporter

BATCH, BATCHES = 512, 6

SINK = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def log_message(self, *args): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Keep(SpanExporter):
    """Keeps what the SDK hands over, as any exporter gets it."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


def make_spans(count: int, content: int) -> list[ReadableSpan]:
    """Call spans with 25 attributes, like those of an instrumented LLM client."""
    keep = Keep()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(keep))
    tracer = provider.get_tracer("benchmark")
    words = "the invoice of customer %d was paid twice and has to be refunded before Friday " * (content // 80 + 1)
    for i in range(count):
        attributes: dict[str, str | int] = {f"gen_ai.request.attribute_{k}": f"value-{i}-{k}" for k in range(15)}
        attributes |= {f"gen_ai.usage.number_{k}": i * k for k in range(9 if content else 10)}
        if content:
            attributes["gen_ai.input.messages"] = (words % ((i,) * words.count("%d")))[:content]
        tracer.start_span(f"chat model-{i % 3}", attributes=attributes).end()
    return keep.spans


def measure(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> tuple[float, float]:
    """Microseconds of CPU (all threads) and wall per span, until all is delivered."""
    cpu, wall = time.process_time(), time.perf_counter()
    for start in range(0, len(spans), BATCH):
        if exporter.export(spans[start : start + BATCH]) is not SpanExportResult.SUCCESS:
            raise SystemExit("export failed")
    if not exporter.force_flush(30_000):
        raise SystemExit("not all was delivered")
    scale = 1e6 / len(spans)
    return (time.process_time() - cpu) * scale, (time.perf_counter() - wall) * scale


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as spool, subprocess.Popen([sys.executable, "-c", SINK], stdout=-1) as sink:
        try:
            assert sink.stdout is not None
            url = f"http://127.0.0.1:{int(sink.stdout.readline())}"
            makers: dict[str, Callable[[], SpanExporter]] = {
                "OTLPSpanExporter": lambda: OTLPSpanExporter(url + "/v1/traces"),
                "OTLPSpanExporter, gzip": lambda: OTLPSpanExporter(url + "/v1/traces", compression=Compression.Gzip),
                "EgisExporter (gzip, durable)": lambda: EgisExporter(url, api_key="benchmark", spool_dir=spool),
            }
            exporters = {name: make() for name, make in makers.items()}
            for content in (0, 1500):
                spans = make_spans(BATCH * BATCHES, content)
                results: dict[str, list[tuple[float, float]]] = {name: [] for name in exporters}
                for exporter in exporters.values():
                    measure(exporter, spans[:BATCH])  # connections, imports, caches
                for _ in range(rounds):
                    for name, exporter in exporters.items():
                        results[name].append(measure(exporter, spans))
                report(f"25 attributes, {content} bytes of content", results)
            for exporter in exporters.values():
                exporter.shutdown()
        finally:
            sink.kill()


def report(title: str, results: dict[str, list[tuple[float, float]]]) -> None:
    base = statistics.median(cpu for cpu, _ in results["OTLPSpanExporter"])
    print(f"\n{title}; {BATCH * BATCHES} spans in batches of {BATCH}, median of {len(results['OTLPSpanExporter'])}")
    print(f"{'':32}{'CPU µs/span':>12}{'ratio':>8}{'wall µs/span':>14}")
    for name, figures in results.items():
        cpu, wall = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{name:32}{cpu:12.1f}{cpu / base:8.2f}{wall:14.1f}")


if __name__ == "__main__":
    main()
