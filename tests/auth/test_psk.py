"""Pre-shared keys: values, files, the store."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tcpcrypt.auth import psk as module
from tcpcrypt.auth.identity import ensure_identity
from tcpcrypt.auth.psk import Psk, PskStore, changed_psks, create_psk, load_psk, load_psks
from tcpcrypt.auth.secret_file import MissingFileError
from tcpcrypt.auth.terms import SharedKey
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError


def test_a_key_is_random() -> None:
    one: SharedKey = Psk.generate("a")
    other = Psk.generate("a")
    assert (one.name, len(one.hint), len(one.key)) == ("a", 8, 32)
    assert one.hint != other.hint
    assert one.key != other.key
    assert "hint" in repr(one)
    assert one.key.view().hex() not in repr(one)


@pytest.mark.parametrize("name", ["a", "site-a", "A.b_c-1", "0", "x" * 64])
def test_names(name: str) -> None:
    assert Psk.generate(name).name == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a/b", "a b", "ä", "a\n", "x" * 65, ".."])
def test_what_is_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="is no name of a PSK"):
        Psk.generate(name)
    with pytest.raises(LocalError, match="is no name of a PSK"):
        create_psk(tmp_path, name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("hint", "key"), [(7, 32), (9, 32), (8, 31), (8, 33), (8, 0)])
def test_lengths(hint: int, key: int) -> None:
    with pytest.raises(LocalError, match="a PSK has 32 bytes, its hint 8"):
        Psk("a", bytes(hint), Secret(bytes(key)))


def test_the_file(tmp_path: Path) -> None:
    psk, path = create_psk(tmp_path / "psk", "site-a")
    assert path == tmp_path / "psk" / "site-a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text() == (
        f"tcpcrypt-psk-1\nhint {psk.hint.hex()}\nkey {psk.key.view().hex()}\n"
    )
    assert load_psk(path) == psk
    copied = path.with_name("other-name")
    path.rename(copied)
    assert load_psk(copied) == Psk("other-name", psk.hint, psk.key), "each host has its own name"


def test_it_is_never_overwritten(tmp_path: Path) -> None:
    psk, path = create_psk(tmp_path, "a")
    with pytest.raises(LocalError, match="File exists"):
        create_psk(tmp_path, "a")
    assert load_psk(path) == psk


def test_files_that_are_refused(tmp_path: Path) -> None:
    _psk, path = create_psk(tmp_path, "a")
    whole = path.read_bytes()
    for text in (whole[:-1], whole.replace(b"psk-1", b"psk-2"), whole.upper(), b""):
        path.write_bytes(text)
        with pytest.raises(LocalError, match=f"{path}: not the file of a PSK"):
            load_psk(path)
    path.write_bytes(whole * 2)
    with pytest.raises(LocalError, match="longer than"):
        load_psk(path)
    path.write_bytes(whole)
    path.chmod(0o640)
    with pytest.raises(LocalError, match=f"chmod 600 {path}"):
        load_psk(path)
    path.unlink()
    with pytest.raises(MissingFileError):
        load_psk(path)
    with pytest.raises(LocalError, match="is no name of a PSK"):
        load_psk(tmp_path / "a~")


def test_the_store(tmp_path: Path) -> None:
    one, path = create_psk(tmp_path / "one", "a")
    other, _path = create_psk(tmp_path / "other", "b")
    (tmp_path / "one" / ".a.0123").write_text("being written")
    store = load_psks(tmp_path / "one", tmp_path / "other", tmp_path / "none")
    assert len(store) == 2
    assert list(store) == [one, other]
    assert store.by_name("a") == store.by_hint(one.hint) == one
    assert store.by_hint(memoryview(other.hint)) == other  # type: ignore[arg-type]
    assert store.by_name("c") is store.by_hint(bytes(8)) is None
    (tmp_path / "other" / "a~").write_bytes(path.read_bytes())
    with pytest.raises(LocalError, match="'a~' is no name of a PSK"):
        load_psks(tmp_path / "other")


def test_names_and_hints_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, path = create_psk(tmp_path / "one", "a")
    create_psk(tmp_path / "two", "a")
    with pytest.raises(LocalError, match="two PSKs of the name a"):
        load_psks(tmp_path / "one", tmp_path / "two")
    (tmp_path / "one" / "b").write_bytes(path.read_bytes())
    (tmp_path / "one" / "b").chmod(0o600)
    with pytest.raises(LocalError, match="the PSKs a and b have the same hint"):
        load_psks(tmp_path / "one")
    monkeypatch.setattr(module, "_PSKS_MAX", 1)
    with pytest.raises(LocalError, match="more than 1 PSKs"):
        PskStore([one, Psk.generate("c")])


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="Not a directory"):
        load_psks(tmp_path / "file")


def test_a_key_may_come_before_the_identity(tmp_path: Path) -> None:
    """What was made for the one is safe enough for the other."""
    state = tmp_path / "state"
    create_psk(state / "psk", "site")
    _identity, made = ensure_identity(state / "identity")
    assert made
    assert state.stat().st_mode & 0o777 == 0o700


def test_which_keys_are_others_now() -> None:
    kept, changed, gone = (Psk.generate(name) for name in ("kept", "changed", "gone"))
    before = PskStore((kept, changed, gone))
    after = PskStore((kept, Psk.generate("changed"), Psk.generate("new")))
    assert changed_psks(before, after) == {"changed", "gone"}
    assert changed_psks(after, after) == frozenset()
