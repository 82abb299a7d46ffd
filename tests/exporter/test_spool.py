"""The spool and its stores: one contract, then what only a disk shared by processes has."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egisai_exporter.spool import Spool, SpoolFull
from egisai_exporter.store import Batch, Disk, Memory, Store, _open_writer, open_store
from exporter.conftest import SLOW, Pipeline
from exporter.receiver import Receiver

Make = Callable[..., Pipeline]
Program = Callable[..., "subprocess.Popen[str]"]
BLOCK = 4096


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Disk(tmp_path / "spool") if request.param == "disk" else Memory()


def take_all(spool: Spool) -> list[bytes]:
    bodies: list[bytes] = []
    while (batch := spool.take()) is not None:
        bodies.append(spool.read(batch))
        spool.done(batch)
    return bodies


class TestContract:
    """What holds for every store."""

    def test_first_in_first_out(self, store: Store) -> None:
        spool = Spool(store, 100 * BLOCK)
        for i in range(20):
            spool.put(b"%d" % i, 1)
        assert take_all(spool) == [b"%d" % i for i in range(20)]
        assert spool.waiting() == (0, 0, 0)

    def test_a_released_batch_is_next_again(self, store: Store) -> None:
        spool = Spool(store, 100 * BLOCK)
        spool.put(b"a", 2)
        spool.put(b"b", 3)
        batch = spool.take()
        assert batch is not None
        assert spool.waiting() == (2, 5, 2 * BLOCK)
        assert not spool.settled(spool.newest_ns())
        spool.release(batch)
        spool.release(batch)  # twice is once
        assert take_all(spool) == [b"a", b"b"]

    def test_drops_the_oldest_when_full_but_not_what_is_being_sent(self, store: Store) -> None:
        spool = Spool(store, 3 * BLOCK)
        dropped = [spool.put(b"%d" % i, 10 + i) for i in range(3)]
        sending = spool.take()
        assert sending is not None
        dropped += [spool.put(b"%d" % i, 10 + i) for i in range(3, 6)]
        assert dropped == [0, 0, 0, 11, 12, 13]
        assert spool.read(sending) == b"0"
        spool.done(sending)
        assert take_all(spool) == [b"4", b"5"]

    def test_refuses_what_cannot_fit_and_drops_nothing_for_it(self, store: Store) -> None:
        spool = Spool(store, 2 * BLOCK)
        spool.put(b"a", 1)
        with pytest.raises(SpoolFull):
            spool.put(b"x" * (2 * BLOCK + 1), 1)
        sending = spool.take()
        assert sending is not None
        spool.put(b"b", 1)
        with pytest.raises(SpoolFull):
            spool.put(b"y" * (BLOCK + 1), 1)
        assert spool.waiting() == (2, 2, 2 * BLOCK)

    def test_replace_keeps_the_place(self, store: Store) -> None:
        spool = Spool(store, 100 * BLOCK)
        spool.put(b"ab", 2)
        spool.put(b"c", 1)
        batch = spool.take()
        assert batch is not None
        spool.replace(batch, [(b"a", 1), (b"b", 1)])
        assert spool.waiting() == (3, 3, 3 * BLOCK)
        bodies = take_all(spool)
        assert (sorted(bodies[:2]), bodies[2]) == ([b"a", b"b"], b"c")

    def test_settled_counts_what_was_there_then(self, store: Store) -> None:
        spool = Spool(store, 100 * BLOCK)
        spool.put(b"a", 1)
        until_ns = spool.newest_ns()
        spool.put(b"b", 1)
        batch = spool.take()
        assert batch is not None
        assert not spool.settled(until_ns)
        spool.done(batch)
        assert spool.settled(until_ns)
        assert not spool.settled(spool.newest_ns())

    def test_what_is_gone_is_an_error_of_its_own(self, store: Store) -> None:
        store.write(Batch(1, "00000000", 1, 1), b"a")
        with pytest.raises(FileNotFoundError):
            store.read(Batch(2, "00000000", 1, 1))

    def test_many_threads_put_and_take(self, store: Store) -> None:
        spool = Spool(store, 1000 * BLOCK)
        got: list[bytes] = []
        producing = threading.Event()

        def put(thread: int) -> None:
            for i in range(20):
                spool.put(b"%d-%d" % (thread, i), 1)

        def take() -> None:
            while not producing.is_set() or spool.waiting().batches:
                got.extend(take_all(spool))

        takers = [threading.Thread(target=take) for _ in range(3)]
        putters = [threading.Thread(target=put, args=(t,)) for t in range(6)]
        for thread in takers + putters:
            thread.start()
        for thread in putters:
            thread.join()
        producing.set()
        for thread in takers:
            thread.join()
        assert sorted(got) == sorted(b"%d-%d" % (t, i) for t in range(6) for i in range(20))
        assert spool.waiting() == (0, 0, 0)


def test_names_tell_all_without_opening() -> None:
    """A file's name carries order, spans and size, and survives a round trip."""
    batch = Batch(1_700_000_000_000_000_000, "0a1b2c3d", 512, 65_536)
    assert batch.name == "01700000000000000000-0a1b2c3d-512-65536.otlp.gz"
    assert Batch.parse(batch.name) == batch
    for name in ("lock", batch.name + ".partial", "x" + batch.name, ""):
        assert Batch.parse(name) is None


def test_permissions(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = open_store(tmp_path / "spool", "host-1")
        Spool(store, 100 * BLOCK).put(b"private", 1)
    finally:
        os.umask(before)
    paths = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
    assert len(paths) == 5  # spool, destination, writer, lock, batch
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nobody_adopts_from_the_living(tmp_path: Path) -> None:
    """Another writer, of this process or another, leaves a living writer's batches alone, and takes a closed one's."""
    first, second = (Spool(Disk(tmp_path), 100 * BLOCK) for _ in range(2))
    first.put(b"a", 3)
    assert second.adopt() == 0
    assert second.store.others() == (BLOCK, 1)
    first.close()
    assert second.adopt() == 3
    assert take_all(second) == [b"a"]
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_partial_files_are_swept_and_foreign_ones_left(tmp_path: Path) -> None:
    """Adoption removes what was never accepted, keeps what is not ours, and brings over the rest."""
    first = Spool(Disk(tmp_path), 100 * BLOCK)
    first.put(b"a", 1)
    (directory,) = tmp_path.iterdir()
    (directory / "00000000000000000001-00000000-1-5.otlp.gz.partial").write_bytes(b"ha")
    (directory / "notes.txt").write_text("mine")
    first.close()
    second = Spool(Disk(tmp_path), 100 * BLOCK)
    assert second.adopt() == 1
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    assert second.adopt() == 0
    assert take_all(second) == [b"a"]


def test_a_writer_without_its_lock_file_is_adopted(tmp_path: Path) -> None:
    """A crash between the two steps of letting go leaves batches without a lock file; they are not stranded."""
    first = Spool(Disk(tmp_path), 100 * BLOCK)
    first.put(b"a", 1)
    first.close()
    next(tmp_path.glob("*/lock")).unlink()
    second = Spool(Disk(tmp_path), 100 * BLOCK)
    assert second.adopt() == 1


def test_a_removed_spool_directory_is_made_anew(tmp_path: Path) -> None:
    """An operator's `rm -r` under a running process costs what was there, and nothing that comes later."""
    spool = Spool(Disk(tmp_path / "spool"), 100 * BLOCK)
    spool.put(b"a", 1)
    subprocess.run(["rm", "-r", str(tmp_path / "spool")], check=True)
    spool.put(b"b", 1)
    first = spool.take()
    assert first is not None
    with pytest.raises(FileNotFoundError):
        spool.read(first)
    spool.done(first)
    assert take_all(spool) == [b"b"]


def test_the_limit_is_one_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer gets its fair share at once, and the first gives back what it holds beyond its own."""
    first, second = (Spool(Disk(tmp_path), 10 * BLOCK) for _ in range(2))
    for i in range(10):
        assert first.put(b"%d" % i, 1) == 0
    for i in range(5):
        assert second.put(b"%d" % i, 1) == 0
    monkeypatch.setattr("egisai_exporter.spool._LOOK_S", 0.0)
    first._look_at = 0.0
    assert first.trim() == 5
    assert [spool.waiting().batches for spool in (first, second)] == [5, 5]
    first.close()
    assert second.adopt() == 5  # adopting moves bytes, it drops none
    assert second.trim() == 0
    assert take_all(second) == [b"%d" % i for i in (5, 6, 7, 8, 9, 0, 1, 2, 3, 4)]  # by age, over both


def test_a_new_writer_survives_an_adopter_between_open_and_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adopter that takes the still unlocked directory for a dead one's makes the new writer start over."""
    flock, adopter, first = fcntl.flock, Disk(tmp_path), [True]

    def interleaved(fd: int, operation: int) -> None:
        if first:
            first.clear()
            assert adopter.adopt() == []  # removes the new directory, whose lock file our writer has just opened
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", interleaved)
    directory, fd = _open_writer(tmp_path)
    assert directory.exists()
    assert os.path.samestat(os.fstat(fd), (directory / "lock").stat())
    os.close(fd)


RACER = """
import sys
from pathlib import Path
from egisai_exporter.spool import Spool
from egisai_exporter.store import Disk
spool = Spool(Disk(Path(sys.argv[1])), 2**30)
print("ready", flush=True)
sys.stdin.readline()
spool.adopt()
while (batch := spool.take()) is not None:
    print(spool.read(batch).decode())
    spool.done(batch)
spool.close()
"""


def test_adoption_race(tmp_path: Path) -> None:
    """Many processes that adopt from many dead ones at the same moment: each batch is taken exactly once."""
    for writer in range(8):
        spool = Spool(Disk(tmp_path), 2**30)
        for i in range(12):
            spool.put(b"%d-%d" % (writer, i), 1)
        spool.close()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [line for racer in racers for line in racer.communicate(timeout=20)[0].split()]
    assert sorted(taken) == sorted(f"{w}-{i}" for w in range(8) for i in range(12))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once(receiver: Receiver, program: Program, tmp_path: Path) -> None:
    """Two programs share a spool directory, one is killed, the other delivers for both: each span once."""
    source = (
        "for i in range(30): pipe.spans(f'{sys.argv[0]}{os.getpid()}-{i}')\n"
        "print(os.getpid(), pipe.exporter.force_flush(10000), flush=True)\nsys.stdin.readline()"
    )
    processes = [program(receiver.url, source) for _ in range(2)]
    pids: list[str] = []
    for process in processes:
        assert process.stdout is not None
        pid, flushed = process.stdout.readline().split()
        assert flushed == "True"
        pids.append(pid)
    for process in processes:
        process.communicate(timeout=10)
    assert sorted(receiver.names) == sorted(f"-c{pid}-{i}" for pid in pids for i in range(30))


def test_a_living_process_adopts_from_one_killed_later(
    down: Receiver, pipeline: Make, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sibling leaves when it is killed is found by those who already run, without a restart."""
    monkeypatch.setattr("egisai_exporter.delivery._SWEEP_S", 0.05)
    pipe = pipeline(down.url)
    pipe.spans("mine")
    process = program(down.url, "pipe.spans('theirs')\nos.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    down.open()
    assert sorted(down.wait_names(2)) == ["mine", "theirs"]


def test_disk_error_is_counted_under_its_own_name(down: Receiver, program: Program) -> None:
    """A file that cannot grow (RLIMIT_FSIZE) is FAILURE, `disk_EFBIG`; the application and later batches go on."""
    source = (
        "import resource\n"
        "pipe.spans('before')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))\n"
        "pipe.spans('large', noise=os.urandom(5000).hex())\n"
        "pipe.spans('after')\n"
        "stats = pipe.stats()\n"
        "print(stats['accepted'], stats['dropped'], stats['waiting_batches'])\n"
    )
    out, err = program(down.url, source).communicate(timeout=20)
    assert out == "2 {'disk_EFBIG': 1} 2\n", err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk(small_disk: Path, down: Receiver, pipeline: Make) -> None:
    """A full disk is `disk_ENOSPC`; what was accepted stays whole, no partial file is left, space freed is used."""
    pipe = pipeline(down.url, spool_dir=small_disk, _backoff=SLOW)
    for i in range(30):
        pipe.spans(f"s{i}", noise=os.urandom(2000).hex())
    dropped = pipe.stats()["dropped"]
    assert set(dropped) == {"disk_ENOSPC"}
    assert list(small_disk.rglob("*.partial")) == []
    down.open()
    assert pipe.exporter.force_flush(10_000)
    pipe.spans("later")
    assert pipe.exporter.force_flush(10_000)
    assert len(down.names) == 30 - dropped["disk_ENOSPC"] + 1


def blocked(path: Path) -> Path:
    """A path under which no directory can be made, even by root."""
    path.write_text("a file")
    return path / "spool"


def test_falls_back_to_the_temporary_directory(
    receiver: Receiver,
    pipeline: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unusable spool directory is one warning, and batches wait in a private temporary directory."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    pipe = pipeline(receiver.url, spool_dir=blocked(tmp_path / "file"))
    assert str(pipe.stats()["spool_dir"]).startswith(str(tmp_path / "temp" / f"egisai-spool-{os.getuid()}"))
    pipe.spans("s")
    assert pipe.exporter.force_flush(5_000)
    assert len(caplog.records) == 1
    assert "EGISAI_SPOOL_DIR" in caplog.text


def test_a_temporary_directory_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A link planted under the predictable name is not followed: memory is used instead."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"egisai-spool-{os.getuid()}").symlink_to(tmp_path / "theirs")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert isinstance(open_store(None, "host-1"), Memory)
    assert "not a directory of this user" in caplog.text


def test_falls_back_to_bounded_memory(
    down: Receiver, pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With no directory at all, batches wait in bounded memory, and what the process takes with it is counted."""
    monkeypatch.setattr(tempfile, "tempdir", str(blocked(tmp_path / "temp")))
    monkeypatch.setattr("egisai_exporter.exporter.MEMORY_MAX_BYTES", 4 * BLOCK)
    pipe = pipeline(down.url, spool_dir=blocked(tmp_path / "file"), _backoff=SLOW)
    assert pipe.stats()["spool_dir"] is None
    assert len(caplog.records) == 1
    pipe.spans("s0")
    assert not pipe.exporter.force_flush(1_000)  # in backoff: nothing is being sent, and so kept, from here on
    for i in range(1, 6):
        pipe.spans(f"s{i}")
    assert pipe.stats()["dropped"] == {"spool_full": 2}
    down.open()
    assert pipe.exporter.force_flush(5_000)
    assert down.names == ["s2", "s3", "s4", "s5"]
    down.answer = lambda _: (503, {}, b"")
    pipe.spans("last")
    pipe.exporter.shutdown()
    assert pipe.stats()["dropped"] == {"spool_full": 2, "memory_lost": 1}
