"""OTLP requests as bytes: encoded, compressed, cut into pieces that receivers take."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("egisai_exporter")

MAX_REQUEST_BYTES: Final = 4 * 2**20
"""Bytes of one request before compression: gRPC's default limit, which proxies and receivers commonly share."""

_GZIP_LEVEL: Final = 1
"""Spans are repetitive: level 1 makes an eighth of 1 kB per span; level 6 a ninth, for twice the CPU (2.2, 4.9 µs)."""


def encode(spans: Sequence[ReadableSpan]) -> tuple[list[tuple[bytes, int]], int]:
    """Bodies as (gzipped request, number of spans), and the number of spans that cannot be encoded."""
    try:
        request, bad = encode_spans(spans), 0
    except Exception:
        log.exception("egisai: a batch of %d spans cannot be encoded whole; going through it one by one", len(spans))
        good = [span for span in spans if _encodable(span)]
        request, bad = encode_spans(good), len(spans) - len(good)
    return [pack(piece) for piece in split(request, MAX_REQUEST_BYTES)], bad


def halves(body: bytes) -> list[tuple[bytes, int]]:
    """A body that was too large, cut in about equal parts; one part when it cannot be cut.

    Raises:
        ValueError: the body is not a gzipped OTLP request.
    """
    try:
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body))
    except (OSError, EOFError, zlib.error, DecodeError) as error:  # gzip.BadGzipFile is an OSError
        raise ValueError(f"not a gzipped OTLP request: {error}") from error
    sizes = [span.ByteSize() for resource in request.resource_spans for s in resource.scope_spans for span in s.spans]
    return [pack(piece) for piece in split(request, sum(sizes) // 2)]


def pack(request: ExportTraceServiceRequest) -> tuple[bytes, int]:
    spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    return gzip.compress(request.SerializeToString(), _GZIP_LEVEL, mtime=0), spans


def split(request: ExportTraceServiceRequest, max_bytes: int) -> Iterator[ExportTraceServiceRequest]:
    """`request` as requests with at most `max_bytes` of spans each; a span that is larger goes alone."""
    if request.ByteSize() <= max_bytes:
        if request.resource_spans:
            yield request
        return
    piece, size = ExportTraceServiceRequest(), 0
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            target = None
            for span in scope.spans:
                if size and size + span.ByteSize() > max_bytes:
                    yield piece
                    piece, size, target = ExportTraceServiceRequest(), 0, None
                if target is None:
                    around = piece.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
                    target = around.scope_spans.add(scope=scope.scope, schema_url=scope.schema_url)
                target.spans.append(span)
                size += span.ByteSize()
    if size:
        yield piece


def _encodable(span: ReadableSpan) -> bool:
    try:
        encode_spans([span])
    except Exception:
        log.exception("egisai: the span %r cannot be encoded and is dropped", span.name)
        return False
    return True
