"""aiobotocore, and so aioboto3: Bedrock, async."""

from __future__ import annotations

import functools
from typing import Any

from tests.instrumentation.clients import _bedrock_wire as bedrock
from tests.instrumentation.contract import Subject


@functools.cache
def _session() -> Any:
    from aiobotocore.session import get_session

    return get_session()  # it remembers the services' models, which take long to load


def make(url: str, kind: str) -> Any:
    from aiobotocore.config import AioConfig

    options = {"endpoint_url": url, "config": AioConfig(**bedrock.CONFIG), **bedrock.OPTIONS}
    return _session().create_client("bedrock-runtime", **options).__aenter__()


async def _close(client: Any) -> None:
    await client.close()
    bedrock.collect()


SUBJECT = Subject(
    library="aiobotocore",
    provider="aws.bedrock",
    model=bedrock.MODEL,
    wire=bedrock.BedrockWire,
    make=make,
    close=_close,
    transport=None,
    forms=bedrock.forms("async"),
)
