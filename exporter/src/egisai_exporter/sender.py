"""One OTLP/HTTP request; what to do after a failure is said by the type of the error."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from egisai_exporter.settings import Settings

_RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""OTLP specification 1.x, "Retryable Response Codes"; every other refusal is for good."""

_MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer Retry-After is a mistake more often than a wish, and would stop delivery for ever."""

_MAX_REPLY_BYTES: Final = 64 * 2**10
_MAX_EXCERPT: Final = 200


class Permanent(Exception):  # noqa: N818 # named for the decision it carries
    """The receiver will refuse this batch always. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Temporary(Exception):  # noqa: N818 # likewise
    """Worth another try, not sooner than in `retry_after_s` seconds. `problem` is the kind, for logging it once."""

    def __init__(self, problem: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.problem = problem
        self.retry_after_s = retry_after_s


class Unauthorized(Temporary):
    """The key is missing, wrong or revoked: no batch will pass until somebody changes that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the receiver said to a batch it took: how many spans it left out, and why."""

    rejected: int = 0
    message: str = ""


class Sender(Protocol):
    def send(self, body: bytes, timeout_s: float) -> Reply:
        """Deliver a gzipped OTLP request. Raises Permanent or Temporary."""
        ...

    def close(self) -> None: ...


class HttpSender:
    """Sends to `settings.endpoint` over one kept-alive connection; for one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint = settings.endpoint
        self._authorization = settings.authorization
        self._session = requests.Session()
        self._session.headers.update(
            {
                "User-Agent": "egisai-exporter",
                "Accept": "application/x-protobuf",
                **settings.headers,
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "gzip",
            }
        )
        # Set as `auth`, because requests replaces an Authorization *header* by what ~/.netrc has for the host.
        self._session.auth = self._authorize

    def send(self, body: bytes, timeout_s: float) -> Reply:
        try:
            reply = self._session.post(self._endpoint, data=body, timeout=timeout_s, allow_redirects=False, stream=True)
        except requests.Timeout:
            raise Temporary("unreachable", f"no answer within {timeout_s:g} s") from None
        except requests.RequestException as error:
            raise Temporary("unreachable", _cause(error)) from None
        with reply:
            content = _content(reply)
        return self._judge(reply, content)

    def close(self) -> None:
        self._session.close()

    def _judge(self, reply: requests.Response, content: bytes) -> Reply:
        status = reply.status_code
        if 200 <= status < 300:
            return _partial_success(content)
        message = self._describe(reply, content)
        if status in (401, 403):
            raise Unauthorized("unauthorized", message)
        if status in _RETRYABLE:
            raise Temporary(f"status_{status}", message, _retry_after_s(reply.headers.get("Retry-After", "")))
        raise Permanent(status, message)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization
        return request

    def _describe(self, reply: requests.Response, content: bytes) -> str:
        where = reply.headers.get("Location", "") if 300 <= reply.status_code < 400 else ""
        if reply.headers.get("Content-Type", "").startswith("application/x-protobuf"):
            said = _status_message(content)
        else:
            said = content.decode("utf-8", "replace")
        excerpt = _plain(where or said)
        if self._authorization is not None:
            excerpt = excerpt.replace(self._authorization.removeprefix("Bearer "), "***")
        text = f"{reply.status_code} {_plain(reply.reason or '')}".strip()
        return f"{text}: {excerpt[:_MAX_EXCERPT]}" if excerpt else text


def _content(reply: requests.Response) -> bytes:
    """The reply's body, as far as it is worth reading."""
    content = b""
    try:
        for chunk in reply.iter_content(_MAX_REPLY_BYTES):
            content += chunk
            if len(content) >= _MAX_REPLY_BYTES:
                break
    except requests.RequestException:
        return b""  # the status line is the answer; the body only explains it
    return content


def _status_message(content: bytes) -> str:
    """The message of a `google.rpc.Status`, in which OTLP receivers say why they refuse.

    Its definition comes with no dependency of ours, but field 2 of a partial success is a string as well.
    """
    try:
        return ExportTracePartialSuccess.FromString(content).error_message
    except DecodeError:
        return ""


def _partial_success(content: bytes) -> Reply:
    try:
        partial = ExportTraceServiceResponse.FromString(content).partial_success
    except DecodeError:
        return Reply()  # some receivers answer 200 with text of their own
    return Reply(max(0, partial.rejected_spans), _plain(partial.error_message)[:_MAX_EXCERPT])


def _retry_after_s(value: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or an HTTP date); 0 when there is none to obey."""
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    seconds = (date - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _cause(error: BaseException) -> str:
    """The system's own words at the bottom of a chain of wrappers ("Connection refused")."""
    words = type(error).__name__
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror and not isinstance(seen, requests.RequestException):
            words = seen.strerror
        seen = seen.__cause__ or seen.__context__
    return _plain(words)[:_MAX_EXCERPT]


def _plain(text: str) -> str:
    """Text of a stranger, safe for one log line."""
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
