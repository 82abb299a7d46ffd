"""Runs the platform: binds, opens what it keeps data in, serves until a signal, and closes in order."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn

from egisai_platform.app import Platform, create_app
from egisai_platform.auth import Auth
from egisai_platform.metadata import Metadata
from egisai_platform.settings import Settings, StartError, make_data_dir
from egisai_platform.store import Store

_GRACE_S = 3
"""How long a stop waits for requests under way."""


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        StartError: something is in the way; nothing was left running.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port))
        make_data_dir(settings.data_dir)
        metadata = Metadata(settings.metadata)
        stack.callback(metadata.close)
        say("starting the store...")
        store = Store(settings.store, settings.retention_days)
        platform = Platform(store, metadata, settings.retention_days)
        url = base_url(settings.host, listener.getsockname()[1])
        server = _Server(
            uvicorn.Config(
                create_app(platform),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            ),
            # Open pages wait for news for ever: a stop must not wait for them.
            before_stop=platform.events.close,
            when_ready=lambda: _greet(url, platform.auth, say),
        )
        with server.stopped_by_signals():
            server.run([listener])
    say("stopped")


def base_url(host: str, port: int) -> str:
    """The address to open in a browser of this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def login_link(url: str, auth: Auth) -> str:
    """A link that logs one browser in, once, within 15 minutes."""
    return f"{url}/login?token={auth.create_login()}"


def _greet(url: str, auth: Auth, say: Callable[[str], None]) -> None:
    auth.remember_url(url)
    say(f"listening on {url}")
    say(f"dashboard: {login_link(url, auth)}")
    say("           (works once, within 15 minutes; `egisai-platform login` prints another)")
    if not any(key.revoked_at is None for key in auth.list_keys()):
        say("no keys yet: make one with `egisai-platform keys create --organisation NAME`")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StartError(
            f"--host {host!r}: {error.strerror}. Use an address of this machine, such as 127.0.0.1"
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} of {host} is in use by another program. Stop it, or choose another port with --port."
            ) from error
        raise StartError(
            f"cannot listen on {host} port {port}: {error.strerror}. Choose others with --host and --port."
        ) from error
    return listener


class _Server(uvicorn.Server):
    """Uvicorn, told when it listens, and stopped by our handlers instead of its own (which end in a traceback)."""

    def __init__(
        self, config: uvicorn.Config, *, before_stop: Callable[[], None], when_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._before_stop = before_stop
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM stop; a second one does not wait for requests under way."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def say(text: str) -> None:
    """A line for the operator, at once even where output is a file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
