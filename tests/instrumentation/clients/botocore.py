"""botocore, and so boto3: Bedrock, sync."""

from __future__ import annotations

import functools
from typing import Any

from tests.instrumentation.clients import _bedrock_wire as bedrock
from tests.instrumentation.contract import Subject


@functools.cache
def _session() -> Any:
    import botocore.session

    return botocore.session.get_session()  # it remembers the services' models, which take long to load


def make(url: str, kind: str) -> Any:
    from botocore.config import Config

    options = {"endpoint_url": url, "config": Config(**bedrock.CONFIG), **bedrock.OPTIONS}
    return _session().create_client("bedrock-runtime", **options)


def _close(client: Any) -> None:
    client.close()
    bedrock.collect()


SUBJECT = Subject(
    library="botocore",
    provider="aws.bedrock",
    model=bedrock.MODEL,
    wire=bedrock.BedrockWire,
    make=make,
    close=_close,
    transport=None,
    forms=bedrock.forms("sync"),
)
