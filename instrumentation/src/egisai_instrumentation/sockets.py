"""Calls over a connection that stays: each answer is one call, asked for by a message and told by many.

    asked ──────> begun ──────> finished
      └─ refused    └─ the connection is lost, closed or left: marked incomplete

A provider may also begin to answer unasked, such as when it hears that somebody has stopped speaking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from egisai.guard import Guard

from .calls import Call, Destination, Tracing, begin
from .integration import Endpoint

_LEAVING: Final = Guard("leaving a connection")

_MAX_ASKED: Final = 100  # and never answered; the oldest are given up


class Turn:
    """One answer: asked for, being given, or given."""

    __slots__ = ("_call", "_feed", "_is_begun", "is_over", "name")

    def __init__(self, call: Call | None, name: str | None) -> None:
        self._call = call  # None: not ours to follow
        self._feed = None if call is None else call.feed()
        self._is_begun = False
        self.is_over = False  # never asked, after all
        self.name = name

    def enter(self) -> None:
        """The message that asks goes out."""
        if self._call is not None:
            self._call.enter()

    def leave(self) -> None:
        """It has."""
        if self._call is not None:
            self._call.leave()

    def fail(self, exc: BaseException) -> None:
        """It could not be sent."""
        self.is_over = True
        if self._call is not None:
            self._call.fail(exc)

    def hear(self, event: Any, *, is_output: bool) -> None:
        """The provider tells more of it."""
        if self._call is not None and self._feed is not None:
            if is_output and not self._is_begun:
                self._is_begun = True
                self._call.first_chunk()
            self._feed(event)

    def finish(self) -> None:
        """That was all of it."""
        if self._call is not None:
            self._call.finish()

    def abandon(self, exc: BaseException | None) -> None:
        """There will be no more of it."""
        if self._call is not None:
            self._call.abandon(exc)


class Talk:
    """What is asked and answered over one connection. Answers are told apart by a key, and come in the order asked."""

    def __init__(self, endpoint: Endpoint, destination: Destination, tracing: Tracing) -> None:
        self._endpoint = endpoint
        self._destination = destination
        self._tracing = tracing
        self._asked: deque[Turn] = deque()
        self._open: dict[str, Turn] = {}

    def ask(self, body: Mapping[str, Any], name: str | None = None) -> Turn:
        """The turn that a message asks for; `name`: the message's, by which it may be refused."""
        turn = self._turn(body, name)
        self._asked.append(turn)
        while len(self._asked) > _MAX_ASKED:
            self._asked.popleft().abandon(None)
        return turn

    def begun(self, key: str, unasked: Callable[[], Mapping[str, Any]]) -> None:
        """The provider begins to answer: what was asked first, or, where nothing was, on its own, as `unasked` says."""
        while self._asked and self._asked[0].is_over:
            self._asked.popleft()
        if not self._asked:
            self.ask(unasked()).leave()
        self._open[key] = self._asked.popleft()

    def _turn(self, body: Mapping[str, Any], name: str | None) -> Turn:
        tracer = self._tracing.tracer or self._tracing.resolve()
        call = None if tracer is None else begin(tracer, self._endpoint, body, self._destination, covered=False)
        return Turn(call, name)

    def hear(self, key: str | None, event: Any, *, is_output: bool) -> None:
        """More of an answer; None: of the newest."""
        turn = self._open.get(key or self.newest)
        if turn is not None:
            turn.hear(event, is_output=is_output)

    def finish(self, key: str, event: Any) -> None:
        """The end of an answer."""
        turn = self._open.pop(key, None)
        if turn is not None:
            turn.hear(event, is_output=False)
            turn.finish()

    def refuse(self, name: str | None, event: Any) -> None:
        """What was asked by the message of this name is refused; None: what was asked first."""
        for turn in tuple(self._asked):
            if name in (None, turn.name) and not turn.is_over:
                self._asked.remove(turn)
                turn.hear(event, is_output=False)
                turn.finish()
                return

    @property
    def is_asked(self) -> bool:
        """Whether something is asked that is not being answered yet."""
        return any(not turn.is_over for turn in self._asked)

    @property
    def newest(self) -> str:
        """The key of the answer that began last and has not ended; "" where there is none."""
        return next(reversed(self._open), "")

    def lose(self, exc: BaseException | None = None) -> None:
        """The connection is gone, and with it the rest of every answer; `exc` says why, if by no wish."""
        while self._asked:
            self._asked.popleft().abandon(exc)
        while self._open:
            self._open.popitem()[1].abandon(exc)

    def __del__(self) -> None:
        with _LEAVING:
            self.lose()


def destination(websocket: Any, provider: Callable[[str], str]) -> Destination:
    """Where a connection of the `websockets` library goes, by its handshake; `provider` by host."""
    server = urlsplit("//" + str(websocket.request.headers["Host"]))
    host = server.hostname or ""
    return Destination(provider(host), host, server.port or 443)


def sent(turn: Turn | None, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send a message, which asks for `turn` where it is one."""
    if turn is None:
        return send(*args, **kwargs)
    turn.enter()
    try:
        return send(*args, **kwargs)
    except BaseException as exc:
        turn.fail(exc)
        raise
    finally:
        turn.leave()


async def sent_async(turn: Turn | None, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same of an async `send`."""
    if turn is None:
        return await send(*args, **kwargs)
    turn.enter()
    try:
        return await send(*args, **kwargs)
    except BaseException as exc:
        turn.fail(exc)
        raise
    finally:
        turn.leave()
