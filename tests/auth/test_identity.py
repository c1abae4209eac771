"""The identity of this host: its key and its file."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tcpcrypt.auth import identity as module
from tcpcrypt.auth import secret_file
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import (
    Identity,
    create_identity,
    ensure_identity,
    load_identity,
    rotate_identity,
)
from tcpcrypt.auth.secret_file import MissingFileError
from tcpcrypt.auth.terms import StaticKey
from tcpcrypt.errors import LocalError, PeerError, PeerReason

RAW = bytes(range(1, 33))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "identity"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the key ------------------------------------------------------------------------------


def test_it_is_an_x25519_key() -> None:
    """As another library entry computes it."""
    own, peer = X25519PrivateKey.from_private_bytes(RAW), X25519PrivateKey.generate()
    made = Identity.from_private(RAW)
    identity: StaticKey = made
    assert identity.public == own.public_key().public_bytes_raw()
    assert made.fingerprint == fingerprint(identity.public)
    public = peer.public_key().public_bytes_raw()
    expected = peer.exchange(X25519PublicKey.from_public_bytes(identity.public))
    assert bytes(identity.agree(public).view()) == expected
    assert bytes(identity.agree(public).view()) == expected, "once for each connection"
    with made.private_bytes() as private:
        assert bytes(private.view()) == RAW
    assert made.private_bytes().view(), "a copy was wiped"


def test_each_is_another() -> None:
    assert Identity.generate().public != Identity.generate().public


@pytest.mark.parametrize("length", [0, 31, 33])
def test_length_of_a_private_key(length: int) -> None:
    with pytest.raises(LocalError, match="a private key of X25519 has 32 bytes"):
        Identity.from_private(bytes(length))


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (bytes(31), PeerReason.INIT_PUBLIC_KEY_LENGTH),
        (bytes(32), PeerReason.ZERO_SHARED_SECRET),
        (b"\x01" + bytes(31), PeerReason.ZERO_SHARED_SECRET),
    ],
)
def test_public_keys_that_are_none(public: bytes, reason: PeerReason) -> None:
    with pytest.raises(PeerError) as caught:
        Identity.generate().agree(public)
    assert caught.value.reason is reason


def test_a_wiped_one_is_of_no_use() -> None:
    identity = Identity.generate()
    public = Identity.generate().public
    identity.wipe()
    identity.wipe()
    for use in (lambda: identity.agree(public), identity.private_bytes):
        with pytest.raises(RuntimeError, match="wiped"):
            use()


def test_it_is_neither_shown_nor_copied() -> None:
    identity = Identity.from_private(RAW)
    assert repr(identity) == f"<Identity {identity.fingerprint}>"
    for spread in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            spread(identity)


# --- the file -------------------------------------------------------------------------------


def test_the_file(path: Path) -> None:
    identity = create_identity(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert os.listdir(path.parent) == ["identity"], "nothing else is left there"
    header, shown, private = path.read_text().splitlines()
    assert header == "tcpcrypt-identity-1"
    assert shown == f"fingerprint {identity.fingerprint}"
    assert Identity.from_private(bytes.fromhex(private.removeprefix("private "))).public
    loaded = load_identity(path)
    assert loaded.public == identity.public
    assert loaded.private_bytes() == identity.private_bytes()


def test_modes_do_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        create_identity(path)
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_it_is_never_overwritten(path: Path) -> None:
    create_identity(path)
    text = path.read_text()
    with pytest.raises(LocalError, match="File exists"):
        create_identity(path)
    assert path.read_text() == text
    assert os.listdir(path.parent) == ["identity"]


def test_ensure(path: Path) -> None:
    identity, new = ensure_identity(path)
    assert new
    again, new = ensure_identity(path)
    assert (again.public, new) == (identity.public, False)


def test_ensure_by_many_at_once(path: Path) -> None:
    """All come to have the one that was there first."""
    barrier, found = threading.Barrier(8), []

    def work() -> None:
        barrier.wait()
        found.append(ensure_identity(path))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({identity.public for identity, _new in found}) == 1
    assert [new for _identity, new in found].count(True) == 1
    assert os.listdir(path.parent) == ["identity"]


def test_another_one_gets_there_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(to: Path) -> Identity:
        create_identity(to)
        return create_identity(to)

    monkeypatch.setattr(module, "create_identity", overtaken)
    identity, new = ensure_identity(path)
    assert not new
    assert identity.public == load_identity(path).public


def test_rotate(path: Path) -> None:
    first = create_identity(path)
    old, new, kept = rotate_identity(path, now=1_800_000_000)
    assert kept == path.parent / "identity.20270115T080000Z"
    assert old.public == first.public == load_identity(kept).public
    assert new.public == load_identity(path).public != first.public
    assert (mode(path), mode(kept)) == (0o600, 0o600)
    assert sorted(os.listdir(path.parent)) == [path.name, kept.name]


def test_rotate_never_loses_an_old_one(path: Path) -> None:
    create_identity(path)
    rotate_identity(path, now=1_800_000_000)
    text = path.read_text()
    with pytest.raises(LocalError, match="File exists"):
        rotate_identity(path, now=1_800_000_000)
    assert path.read_text() == text


def test_rotate_without_one(path: Path) -> None:
    path.parent.mkdir(0o700)
    with pytest.raises(MissingFileError):
        rotate_identity(path)
    assert os.listdir(path.parent) == []


# --- files that are refused -------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o004, 0o002, 0o001])
def test_modes_that_are_too_loose(path: Path, bits: int) -> None:
    create_identity(path)
    path.chmod(0o600 | bits)
    message = f"others could have read or written it .* then `chmod 600 {path}`"
    with pytest.raises(LocalError, match=message):
        load_identity(path)
    path.chmod(0o600)
    path.parent.chmod(0o700 | bits)
    with pytest.raises(LocalError, match=f"then `chmod 700 {path.parent}`"):
        load_identity(path)
    path.parent.chmod(0o700)
    path.chmod(0o400)
    load_identity(path)


def test_nothing_is_written_where_others_can(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(LocalError, match="chmod 700"):
        create_identity(path)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("which", ["file", "directory"])
def test_a_foreign_owner(path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_identity(path)
    odd = path if which == "file" else path.parent
    inode, own = odd.stat().st_ino, os.geteuid()
    real = os.fstat

    def foreign(fd: int) -> os.stat_result:
        found = real(fd)
        if found.st_ino != inode:
            return found
        values = list(found)
        values[stat.ST_UID] = 4321
        return os.stat_result(values)

    monkeypatch.setattr(secret_file.os, "fstat", foreign)
    with pytest.raises(LocalError, match=f"belongs to user 4321.* then `chown {own} {odd}`"):
        load_identity(path)


def test_what_is_no_regular_file(path: Path) -> None:
    create_identity(path)
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)
    with pytest.raises(LocalError, match="symbolic links"):
        load_identity(path)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises(LocalError, match="not a regular file"):
        load_identity(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(LocalError, match="not a regular file"):
        load_identity(path)


def test_no_file(path: Path) -> None:
    with pytest.raises(MissingFileError, match="No such file"):
        load_identity(path)
    path.parent.mkdir(0o700)
    with pytest.raises(MissingFileError, match="No such file"):
        load_identity(path)


def test_the_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for use in (load_identity, create_identity):
        with pytest.raises(LocalError, match=r"Not a directory|File exists"):
            use(tmp_path / "file" / "identity")


def test_every_shortened_file_is_refused(path: Path) -> None:
    create_identity(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(LocalError, match="not the file of an identity"):
            load_identity(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(LocalError, match="longer than"):
        load_identity(path)


def test_every_changed_digit_is_noticed(path: Path) -> None:
    """All but those bits that X25519 ignores (RFC 7748 section 5): they change no key."""
    create_identity(path)
    whole = path.read_text()
    start = whole.index("private ") + len("private ")
    for at in range(start + 2, start + 62):
        digit = "0" if whole[at] != "0" else "1"
        path.write_text(whole[:at] + digit + whole[at + 1 :])
        with pytest.raises(LocalError, match="the file is damaged"):
            load_identity(path)
    path.write_text(whole.replace("tcpcrypt1:", "tcpcrypt2:"))
    with pytest.raises(LocalError, match="not the file of an identity"):
        load_identity(path)


# --- when the disk does not do its part ---------------------------------------------------------


def failing(number: int) -> Callable[..., None]:
    def fail(*_words: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_file_that_cannot_be_written_is_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(secret_file.os, call, failing(28))
    with pytest.raises(LocalError, match=f"{path}: No space left on device"):
        create_identity(path)
    assert os.listdir(path.parent) == []


def test_a_rotation_that_fails_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create_identity(path)
    monkeypatch.setattr(secret_file.os, "replace", failing(5))
    with pytest.raises(LocalError, match="Input/output error"):
        rotate_identity(path)
    assert load_identity(path).public == first.public


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(fd: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_sync(fd)

    def link(*words: object, **more: object) -> None:
        done.append("name")
        real_link(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(secret_file.os, "fsync", sync)
    monkeypatch.setattr(secret_file.os, "link", link)
    create_identity(path)
    assert done == ["file", "name", "directory"]
