"""The file of known peers: many writers, readers, and what is refused."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from support.peer_writers import write_endlessly, write_many

from tcpcrypt.auth import known_peers_file as module
from tcpcrypt.auth import secret_file
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, KnownPeersError, TrustLevel
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.auth.learned import Learned, News
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.errors import LocalError

NOW = 1_800_000_000
A, B = fingerprint(b"a" * 32), fingerprint(b"b" * 32)
S = "10.0.0.2:5432"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "known_peers"


def peer(key: str = A, scope: str = S) -> KnownPeer:
    return KnownPeer(key, scope, NOW, NOW, TrustLevel.TOFU)


def put(file: KnownPeersFile, one: KnownPeer) -> None:
    file.update(lambda known: known.put(one))


def test_a_file_comes_to_be(path: Path) -> None:
    file = KnownPeersFile(path)
    assert not file.refresh(), "no file knows nobody"
    assert len(file.current) == 0
    put(file, peer())
    assert KnownPeers.parse(path.read_bytes(), "x") == file.current
    assert file.current.get(A, S) == peer()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(path.parent)) == ["known_peers", "known_peers.lock"]


def test_what_changes_nothing_writes_nothing(path: Path) -> None:
    file = KnownPeersFile(path)
    assert file.update(len) == 0
    assert not path.exists()
    put(file, peer())
    before = path.stat().st_ino, path.stat().st_mtime_ns
    put(file, peer())
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_a_change_that_fails_is_none(path: Path) -> None:
    file = KnownPeersFile(path)
    put(file, peer())

    def fail(known: KnownPeers) -> None:
        known.put(peer(B))
        raise LocalError("no")

    with pytest.raises(LocalError, match="no"):
        file.update(fail)
    assert file.current.get(B, S) is None
    file.update(lambda known: known.put(peer(B, "h:1")))
    assert file.current.get(B, S) is None


def test_readers_see_what_others_write(path: Path) -> None:
    one, other = KnownPeersFile(path), KnownPeersFile(path)
    put(one, peer())
    assert other.refresh()
    assert other.current == one.current
    put(other, peer(B))
    assert one.refresh()
    assert set(one.current.of_scope(S)) == {A, B}
    path.unlink()
    assert one.refresh()
    assert len(one.current) == 0


def test_a_file_is_not_read_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, reads = KnownPeersFile(path), []
    real = module.read_file
    monkeypatch.setattr(module, "read_file", lambda *words: reads.append(words) or real(*words))
    put(file, peer())
    known = file.current
    monkeypatch.setattr(module, "_RACY", 0)
    os.utime(path)
    assert not file.refresh(), "touched, and the same"
    assert len(reads) == 1
    assert not file.refresh()
    assert len(reads) == 1
    assert file.current is known, "nor understood twice"


def test_a_change_within_a_tick_of_the_clock_is_seen(path: Path) -> None:
    """Same length, same time, and an inode may come back."""
    one, other = KnownPeersFile(path), KnownPeersFile(path)
    put(one, peer())
    other.refresh()
    moment = path.stat().st_mtime_ns
    text = path.read_bytes().replace(A.encode(), B.encode())
    with path.open("r+b") as file:
        file.write(text)
    os.utime(path, ns=(moment, moment))
    other.refresh()
    assert set(other.current.of_scope(S)) == {B}


def test_a_faulty_file_leaves_the_last_good_state(path: Path) -> None:
    file = KnownPeersFile(path)
    put(file, peer())
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    for use in (file.refresh, lambda: put(file, peer(B))):
        with pytest.raises(KnownPeersError, match=f"{path}:2: .*a part of the file is missing"):
            use()
        assert file.current.get(A, S) == peer()
    assert path.read_bytes() == before, "and is not written over"


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_file_that_others_can_write_decides_nothing(path: Path, bits: int) -> None:
    file = KnownPeersFile(path)
    put(file, peer())
    path.chmod(0o600 | bits)
    with pytest.raises(LocalError, match=f"others could have written it .*`chmod 600 {path}`"):
        KnownPeersFile(path).refresh()
    path.chmod(0o644)
    assert KnownPeersFile(path).refresh(), "it is no secret"


def test_a_file_that_is_too_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(KnownPeersFile(path), peer())
    monkeypatch.setattr(module, "SIZE_MAX", 50)
    with pytest.raises(LocalError, match="longer than 50 bytes"):
        KnownPeersFile(path).refresh()


def test_what_the_system_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.touch()
    with pytest.raises(LocalError, match="Not a directory"):
        KnownPeersFile(path).refresh()
    path.parent.unlink()
    path.parent.mkdir(0o700)
    (path.parent / "known_peers.lock").symlink_to("/etc/passwd")
    with pytest.raises(LocalError, match=r"known_peers\.lock: Too many levels of symbolic links"):
        put(KnownPeersFile(path), peer())


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KnownPeersFile(path)
    put(file, peer())

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(secret_file.os, "fsync", full)
    with pytest.raises(LocalError, match="No space left on device"):
        put(file, peer(B))
    assert file.current.get(B, S) is None
    assert KnownPeers.parse(path.read_bytes(), "x") == file.current
    assert sorted(os.listdir(path.parent)) == ["known_peers", "known_peers.lock"]


# --- writers at once -------------------------------------------------------------------------


def test_a_writer_that_does_not_end(path: Path) -> None:
    put(KnownPeersFile(path), peer())
    with (path.parent / "known_peers.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        with pytest.raises(LocalError, match=r"another process holds it for more than 0\.2 s"):
            put(KnownPeersFile(path, patience=0.2), peer(B))
        assert time.monotonic() - start < 5
        # It ends meanwhile.
        threading.Timer(0.2, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        put(KnownPeersFile(path), peer(B))
    assert KnownPeersFile(path).refresh()


def test_writers_at_once_lose_nothing_of_each_other(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, n, 25)) for n in range(4)]
    for writer in writers:
        writer.start()
    # Whoever reads meanwhile sees whole files alone.
    reader, seen = KnownPeersFile(path), 0
    while any(writer.is_alive() for writer in writers):
        reader.refresh()
        assert len(reader.current) >= seen
        seen = len(reader.current)
        time.sleep(0.001)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    reader.refresh()
    assert len(reader.current) == 4 * 25


def _written(path: Path) -> tuple[int, int]:
    """Changes with each file of that name; its number alone may come again."""
    found = path.stat()
    return found.st_ino, found.st_ctime_ns


def test_a_writer_that_is_killed_leaves_a_whole_file_and_no_lock(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    put(KnownPeersFile(path), peer())
    for delay in (0.0, 0.003, 0.007):
        writer = context.Process(target=write_endlessly, args=(path,))
        writer.start()
        before = _written(path)
        deadline = time.monotonic() + 30
        while _written(path) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert _written(path) != before, "it never wrote"
        time.sleep(delay)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        put(KnownPeersFile(path, patience=1.0), peer(B, f"h:{int(delay * 1000) + 1}"))
    file = KnownPeersFile(path)
    file.refresh()
    assert len(file.current.of_key(B)) == 3
    assert file.current.get(A, S) == peer()


# --- what the daemon has learnt -----------------------------------------------------------------


def test_learning(path: Path) -> None:
    file = KnownPeersFile(path)
    first = Learned(News.FIRST, A, S, TrustLevel.TOFU)
    other = Learned(News.FIRST, B, S, TrustLevel.TOFU)
    incoming = Learned(News.FIRST, B, INCOMING, TrustLevel.PSK)
    before = int(time.time())
    assert file.learn([first, other, incoming]) == [first, incoming]
    known = KnownPeersFile(path)
    known.refresh()
    assert [(one.key, one.scope, one.trust) for one in known.current] == [
        (B, INCOMING, "psk"),
        (A, S, "tofu"),
    ]
    for one in known.current:
        assert one.last is not None
        assert before <= one.first == one.last <= time.time()
