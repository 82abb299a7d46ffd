"""The command: keys while the server runs, and one clear message for everything that is in the way."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time

import httpx
import pytest

from egisai_platform.auth import Auth
from egisai_platform.cli import main
from egisai_platform.metadata import Metadata


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    """Nothing of this machine's own."""
    for name in ("HOST", "PORT", "STORE", "METADATA", "DATA_DIR", "RETENTION_DAYS"):
        monkeypatch.delenv(f"EGISAI_PLATFORM_{name}", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def fault(capsys, *arguments, code=1):
    """What the command says on stderr when it fails."""
    assert main(arguments) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) == 1
    return said.err


# --- in the way --------------------------------------------------------------------------------------------------
def test_port_in_use(capsys):
    """The message names the port and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fault(capsys, "serve", "--port", str(port))
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert "--port" in said


def test_store_locked(capsys, server):
    """The message names the directory and the process that holds it, and the server is unharmed."""
    said = fault(capsys, "serve", "--port", "0", "--data-dir", str(server.data_dir))
    assert str(server.data_dir / "store") in said
    assert f"in use by process {server.process.pid}" in said
    assert "--data-dir" in said
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_data_dir_is_a_file(capsys, tmp_path):
    """A data directory that cannot be one is named."""
    (tmp_path / "file").touch()
    said = fault(capsys, "serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "below"))
    assert f"cannot write to the data directory {tmp_path / 'file' / 'below'}: Not a directory" in said
    assert "--data-dir" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "http"], "--port: 'http' is not a whole number from 0 to 65535"),
        (["--port", "70000"], "--port: '70000' is not a whole number from 0 to 65535"),
        (["--host", "no.such.host.invalid"], "--host 'no.such.host.invalid'"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--retention-days", "-1"], "--retention-days: '-1'"),
        (["--store", "mysql://x"], "--store: 'mysql://x' is not a DSN of a store: use chdb:///"),
        (["--store", "chdb://relative"], "with three slashes, chdb:///absolute/path"),
        (["--store", "clickhouse://"], "names no server"),
        (["--store", "clickhouse://h:99999/db"], "is not a DSN"),
        (
            ["--store", "clickhouse://u:secret@127.0.0.1:1/db"],
            "cannot open the store 'clickhouse://u:***@127.0.0.1:1/db'",
        ),
        (["--metadata", "nonsense"], "is not a DSN of a metadata database"),
        (["--metadata", "sqlite://"], "keys must outlive the process"),
        (["--metadata", "postgresql+nodriver://h/db"], "postgresql+nodriver"),
        (["--metadata", "sqlite:////proc/nothing/here.db"], "cannot write the metadata database /proc/nothing/here.db"),
    ],
)
def test_bad_options(capsys, arguments, words):
    """Each message gives the option, the value and what is allowed; never a password."""
    said = fault(capsys, "serve", *([] if "--port" in arguments else ["--port", "0"]), *arguments)
    assert words in said
    assert "secret" not in said


def test_bad_environment(capsys, monkeypatch):
    """A variable's bad value and an unknown variable are named."""
    monkeypatch.setenv("EGISAI_PLATFORM_PORT", "4318x")
    assert "EGISAI_PLATFORM_PORT: '4318x' is not a whole number" in fault(capsys, "serve")
    monkeypatch.delenv("EGISAI_PLATFORM_PORT")
    monkeypatch.setenv("EGISAI_PLATFORM_PROT", "1")
    said = fault(capsys, "serve")
    assert "unknown environment variable EGISAI_PLATFORM_PROT" in said
    assert "EGISAI_PLATFORM_PORT" in said


@pytest.mark.parametrize("arguments", [[], ["serve", "--prot", "1"], ["keys", "create"], ["fly"]])
def test_bad_usage(capsys, arguments):
    """An unknown option or verb exits with 2 and the usage."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: egisai-platform" in capsys.readouterr().err


def test_newer_schema(capsys, tmp_path):
    """Data of a newer version is left alone."""
    dsn = f"sqlite:///{tmp_path / 'm.db'}"
    metadata = Metadata(dsn)
    metadata.set_setting("schema_version", "99")
    metadata.close()
    assert "schema version 99" in fault(capsys, "keys", "list", "--metadata", dsn)


def test_no_traceback_from_a_real_process(tmp_path):
    """The installed command itself, not only its function."""
    done = subprocess.run(
        [sys.executable, "-m", "egisai_platform.cli", "serve", "--port", "x", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "egisai-platform: --port: 'x' is not a whole number from 0 to 65535\n"


# --- keys --------------------------------------------------------------------------------------------------------
def test_keys(capsys, server):
    """Made, listed and revoked beside the running server, which obeys at once; the secret is shown once."""
    data_dir = ["--data-dir", str(server.data_dir)]
    assert main(["keys", "create", "--organisation", "cli-org", "--scope", "admin", "--name", "ops", *data_dir]) == 0
    key = capsys.readouterr().out.strip()
    prefix, _, secret = key.rpartition("_")
    assert prefix == "egis_live_cli-org"
    assert len(bytes.fromhex(secret)) == 32

    def status():
        return httpx.get(f"{server.url}/api/v1/stats", headers={"Authorization": f"Bearer {key}"}).status_code

    assert status() == 200
    assert main(["keys", "list", *data_dir]) == 0
    listed = capsys.readouterr().out
    (line,) = [line.split() for line in listed.splitlines() if "cli-org" in line]
    assert line[1:4] == [f"egis_live_cli-org_...{secret[-4:]}", "admin", "ops"]
    assert line[-2:] == ["in", "force"]
    assert "never" not in line, "it was used"
    assert secret not in listed
    assert main(["keys", "revoke", line[0], *data_dir]) == 0
    assert status() == 401
    assert "there is no key" in fault(capsys, "keys", "revoke", line[0], *data_dir)
    for organisation in ("Acme", "a_b", "-a", "a" * 64, ""):
        said = fault(capsys, "keys", "create", f"--organisation={organisation}", *data_dir)
        assert f"organisation {organisation!r} is not allowed" in said


def test_keys_are_hashed_at_rest(tmp_path):
    """Nothing in the data directory opens anything, and only its owner may read it."""
    metadata = Metadata(f"sqlite:///{tmp_path / 'metadata.db'}")
    auth = Auth(metadata)
    secrets = [auth.create_key("acme", "read"), auth.create_login()]
    session = auth.open_session(secrets[0])
    metadata.close()
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        for secret in (*secrets, session):
            assert secret.rpartition("_")[2].encode() not in content


def test_key_lookup_is_cheap(tmp_path):
    """Every request asks the database, so that a revoked key is refused at once: that must cost next to nothing."""
    metadata = Metadata(f"sqlite:///{tmp_path / 'metadata.db'}")
    auth = Auth(metadata)
    key = auth.create_key("acme", "ingest")
    auth.key(key)
    started = time.process_time()
    for _ in range(200):
        assert auth.key(key) is not None
    assert (time.process_time() - started) / 200 < 0.002
    metadata.close()


def test_login(capsys, server):
    """A second link for the running server, and both open a session."""
    assert main(["login", "--data-dir", str(server.data_dir)]) == 0
    link = capsys.readouterr().out.strip()
    assert link.startswith(f"{server.url}/login?token=")
    with server.auth() as auth:
        session = auth.redeem_login(link.partition("token=")[2])
        viewer = auth.viewer(session)
        assert viewer.role == "operator"
        assert list(viewer.organisations) == auth.organisations()
        auth.close_session(session)
        assert auth.viewer(session) is None


def test_login_without_server(capsys, tmp_path):
    """There is nothing to log in to."""
    assert "no platform has been started" in fault(capsys, "login", "--data-dir", str(tmp_path))
