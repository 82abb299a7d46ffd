"""The page docs/recipes/web.md, run: its programs, on the servers that it names, under load, to the last span."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import websockets.sync.client
from tests.otel.programs import Backend, Received

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs/recipes/web.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]

PATHS = {
    "fastapi_app": ["/async", "/sync", "/stream", "/later"],
    "starlette_app": ["/async"],
    "flask_app": ["/sync", "/stream"],
    "support": ["/sync", "/async", "/sync-stream", "/async-stream"],
}

WORKER = re.compile(r"(?:Booting worker with pid: |Started server process \[)(\d+)")

PIDS = """
import inspect, os
from {module} import {name} as documented

async def awaited(scope, receive, send):
    async def sending(message):
        if message["type"] == "http.response.start":
            message = {{**message, "headers": [*message["headers"], (b"x-pid", str(os.getpid()).encode())]}}
        await send(message)
    await documented(scope, receive, sending)

def called(environ, start_response):
    def starting(status, headers, *error):
        return start_response(status, [*headers, ("x-pid", str(os.getpid()))], *error)
    return documented(environ, starting)

app = {kind}
"""

DJANGO = {
    "support/__init__.py": "",
    "support/settings.py": """
from pathlib import Path
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "support.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "support.attribution.attribution",
]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
""",
    "support/urls.py": """
from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from openai import AsyncOpenAI, OpenAI

client = OpenAI()

def ask(request):
    messages = [{"role": "user", "content": request.GET["q"]}]
    return client.chat.completions.create(model=request.GET["model"], messages=messages).choices[0].message.content

async def ask_async(request):
    messages = [{"role": "user", "content": request.GET["q"]}]
    async with AsyncOpenAI() as client:
        await client.chat.completions.create(model=request.GET["model"], messages=messages)
    return "asked"

def sync(request):
    return HttpResponse(ask(request))

async def asynchronous(request):
    return HttpResponse(await ask_async(request))

def sync_stream(request):
    def body():
        yield ask(request)
    return StreamingHttpResponse(body())

async def async_stream(request):
    async def body():
        yield await sync_to_async(ask)(request)
    return StreamingHttpResponse(body())

urlpatterns = [
    path("sync", sync),
    path("async", asynchronous),
    path("sync-stream", sync_stream),
    path("async-stream", async_stream),
]
""",
    "prepare.py": """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "support.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
cookies = {}
for name in ("acme", "globex"):
    user, client = User.objects.create(username=name), Client()
    client.force_login(user)
    cookies[str(user.pk)] = "sessionid=" + client.cookies["sessionid"].value
print(json.dumps(cookies))
""",
}


class Site:
    """A documented program in a directory of its own, and how its users say who they are: by a header each."""

    def __init__(self, backend: Backend, directory: Path, command: str) -> None:
        program, *options, target = shlex.split(command)
        module, name = target.split(":")
        self.project = module.partition(".")[0]
        for path, text in {**PROGRAMS, **(DJANGO if self.project == "support" else {})}.items():
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_text(text)
        kind = "called" if module in ("flask_app", "support.wsgi") else "awaited"
        (directory / "served.py").write_text(PIDS.format(module=module, name=name, kind=kind))
        port = ["--port", "0"] if program == "uvicorn" else ["--bind", "127.0.0.1:0"]
        self.command = [sys.executable, "-m", program, *options, *port, "served:app"]
        self.environment = {**backend.environment(OTEL_BSP_SCHEDULE_DELAY="200"), "PYTHONUNBUFFERED": "1"}
        del self.environment["OTEL_TRACES_EXPORTER"]  # init() says where spans go
        if self.project == "support":
            prepared = subprocess.run(
                [sys.executable, "prepare.py"], cwd=directory, env=self.environment, capture_output=True, check=True
            )
            self.users = {user: {"cookie": cookie} for user, cookie in json.loads(prepared.stdout).items()}
        elif self.project == "starlette_app":
            self.users = {"acme": {"authorization": "Bearer token-1"}, "globex": {"authorization": "Bearer token-2"}}
        else:
            self.users = {user: {"x-user-id": user} for user in ("acme", "globex")}
        self.directory = directory
        self.said = ""

    @contextmanager
    def running(self) -> Iterator[str]:
        started = subprocess.Popen(
            self.command,
            cwd=self.directory,
            env=self.environment,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert started.stdout is not None
            for line in started.stdout:
                self.said += line
                if len(set(WORKER.findall(self.said))) == 2:
                    break
            else:
                pytest.fail(self.said)
            yield re.findall(r"http://127\.0\.0\.1:\d+", self.said)[0]
        finally:
            started.send_signal(signal.SIGTERM)
            rest, _ = started.communicate(timeout=20)
            self.said += rest


def fetched(url: str, headers: dict[str, str]) -> str:
    """Who answered, once a worker listens: a server says its address before."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
                assert answer.read()
                return str(answer.headers["x-pid"])
        except urllib.error.URLError as error:  # noqa: PERF203 - retried, not repeated
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("command", COMMANDS)
def test_recipe(tmp_path: Path, command: str) -> None:
    """Every request's call arrives once, with that request's user and conversation, from every worker."""
    expected: Counter[tuple[str | None, str, str]] = Counter()

    def target(user: str | None, path: str, chat: str) -> tuple[str, dict[str, str]]:
        """What is asked for, and with which headers; its model says whose call it is."""
        expected[user, chat, f"model-{chat}"] += 1
        headers = site.users[user] if user is not None else {}
        return f"{path}?{urlencode({'q': 'hello', 'model': f'model-{chat}', 'chat': chat})}", headers

    workers: set[str] = set()
    with Backend(tmp_path) as backend:
        site = Site(backend, tmp_path, command)
        with site.running() as url, ThreadPoolExecutor(6) as pool:
            for batch in range(100):
                targets = [
                    target(user, path, f"{user}-{batch}{path}")
                    for user in [*site.users, None]
                    for path in PATHS[site.project]
                ]
                workers |= set(pool.map(lambda target: fetched(url + target[0], target[1]), targets))
                if len(workers) == 2 and batch >= 2:
                    break
            if site.project == "fastapi_app":
                path, headers = target("acme", "/talk", "talk")
                with websockets.sync.client.connect(f"ws{url[4:]}{path}", additional_headers=headers) as socket:
                    socket.send("hello")
                    assert socket.recv(20)
            backend.receiver.wait(lambda: len(backend.calls) >= expected.total(), 20)
    assert Counter(map(facts, backend.calls)) == expected
    assert len(workers) == 2
    assert "Traceback" not in site.said


def facts(call: Received) -> tuple[str | None, str | None, str]:
    said = call.attributes
    return said.get("user.id"), said.get("session.id"), said["gen_ai.request.model"]


def test_programs_are_typed(tmp_path: Path) -> None:
    """Pyright finds nothing in them. (Django comes without types, so its files are left out.)"""
    names = [name for name in PROGRAMS if "/" not in name]
    for name in names:
        (tmp_path / name).write_text(PROGRAMS[name])
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("0 errors"), done.stdout


def test_every_program_is_run() -> None:
    """No program of the page, and no server, is without a command that the test above runs."""
    served = {re.split(r"[.:]", command.split()[-1])[0] for command in COMMANDS}
    assert served == set(PATHS) == {re.split(r"[./]", path)[0] for path in PROGRAMS}
    assert len(re.findall("```python", PAGE)) == len(PROGRAMS)
