"""Reads OTLP whose strings are not UTF-8, which protobuf's own parser refuses whole.

A `string` field and a `bytes` field look the same on the wire. So the request is parsed a second time by a copy of its
schema in which every string is bytes; what cannot be decoded is replaced, and the result is good protobuf again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2


def repaired(body: bytes) -> bytes:
    """An `ExportTraceServiceRequest` with U+FFFD in place of what is not UTF-8.

    Raises:
        google.protobuf.message.DecodeError: it is no such message in any encoding.
    """
    lenient, strings = _lenient()
    message = lenient.FromString(body)
    _repair(message, strings)
    return message.SerializeToString()


@cache
def _lenient() -> tuple[type[Message], frozenset[str]]:
    """The message class without strings, and the full names of the fields that were strings."""
    pool = DescriptorPool()
    strings: set[str] = set()
    for module in (common_pb2, resource_pb2, trace_pb2, trace_service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            strings.update(_without_strings(message, f"{file.package}.{message.name}"))
        pool.Add(file)  # pyright: ignore[reportUnknownMemberType]
    name = trace_service_pb2.ExportTraceServiceRequest.DESCRIPTOR.full_name
    return GetMessageClass(pool.FindMessageTypeByName(name)), frozenset(strings)


def _without_strings(message: DescriptorProto, name: str) -> Iterable[str]:
    for field in message.field:
        if field.type == FieldDescriptorProto.TYPE_STRING:
            field.type = FieldDescriptorProto.TYPE_BYTES
            yield f"{name}.{field.name}"
    for nested in message.nested_type:
        yield from _without_strings(nested, f"{name}.{nested.name}")


def _repair(message: Message, strings: frozenset[str]) -> None:
    fields = cast("list[tuple[Any, Any]]", message.ListFields())
    for field, value in fields:
        if field.full_name in strings:
            if isinstance(value, bytes):
                setattr(message, field.name, _readable(value))
            else:
                value[:] = [_readable(text) for text in value]
        elif isinstance(value, Message):
            _repair(value, strings)
        elif field.message_type is not None:
            for inner in value:
                _repair(inner, strings)


def _readable(text: bytes) -> bytes:
    return text.decode(errors="replace").encode()
