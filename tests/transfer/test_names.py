"""Names of files: nothing that arrives leaves the directory it arrives in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.disk import Disk
from tcpcrypt.transfer.folders import Folders
from tcpcrypt.transfer.names import (
    COMPONENTS_MAX,
    check_component,
    check_path,
    numbered,
    path_of,
    shown,
)

CASES = 100_000 if os.environ.get("TCPCRYPT_TEST_PROFILE") == "long" else 500
EVIL = [
    b"", b".", b"..", b"...", b"/", b"\\", b"~", b"a/b", b"/etc", b"..\0", b"\0", b"\n", b"\x1b[2J",
    b"\x7f", b".stx", b".STX", b".StX", b"link", b"out", b"..%2f", b"%2e%2e", "..".encode("utf-16"),
    "\u2024\u2024".encode(), b"\xff\xfe", b"con", b"a" * 255, b"a" * 256, b"-rf", b" ", b".part",
]  # fmt: skip
NAMES = (
    st.sampled_from(EVIL)
    | st.binary(max_size=12)
    | st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
PATHS = st.lists(NAMES, max_size=6).map(tuple)


def refused(path: tuple[bytes, ...]) -> bool:
    try:
        check_path(path)
    except TransferError:
        return True
    return False


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"a\nb", b"\x1f", b"\x7f", b"x" * 256]
)
def test_names_that_are_refused(name: bytes) -> None:
    with pytest.raises(TransferError) as caught:
        check_component(name)
    assert caught.value.code is Code.NAME
    assert refused((name,))
    assert refused((b"folder", name))
    assert refused((name, b"file"))


@pytest.mark.parametrize(
    "name",
    [b"a", b"...", b".hidden", b"a b", b"-rf", b"x" * 255, "é…".encode(), b"\xff", b"x.part"],
)
def test_names_that_are_taken(name: bytes) -> None:
    check_path((name,))
    check_path((b"folder", name))


def test_paths_are_bounded() -> None:
    assert refused(())
    check_path((b"a",) * COMPONENTS_MAX)
    assert refused((b"a",) * (COMPONENTS_MAX + 1))
    assert refused((b"a" * 250,) * 16)
    assert not refused((b"a" * 249,) * 16)


@pytest.mark.parametrize("name", [b".stx", b".STX", b".Stx"])
def test_the_receiver_s_own_directory_is_nobody_else_s(name: bytes) -> None:
    assert refused((name,))
    assert refused((name, b"x"))
    assert not refused((b"x", name))


def test_paths_of_texts() -> None:
    assert path_of("a/b.txt") == (b"a", b"b.txt")
    assert path_of("\udcff") == (b"\xff",)
    for text in ("/etc/passwd", "a//b", "a/", "../x", ""):
        with pytest.raises(TransferError):
            path_of(text)


@given(PATHS)
def test_what_is_shown_controls_no_terminal(path: tuple[bytes, ...]) -> None:
    assert shown(path).isprintable()


def test_numbers_go_before_the_suffix() -> None:
    assert numbered(b"notes.txt", 2) == b"notes.2.txt"
    assert numbered(b"notes", 2) == b"notes.2"
    assert numbered(b".hidden", 2) == b".hidden.2"
    assert numbered(b"a." + b"x" * 30, 2) == b"a." + b"x" * 30 + b".2"
    assert len(numbered(b"x" * 255, 9999)) == 255
    assert numbered(b"x" * 251 + b".txt", 10).endswith(b".10.txt")


@pytest.fixture(scope="module")
def prison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ways out, and beside it what nobody may touch."""
    top = tmp_path_factory.mktemp("prison")
    out = top / "out"
    out.mkdir()
    (top / "outside").mkdir()
    (top / "outside" / "secret").write_text("untouched")
    (out / "link").symlink_to(top / "outside")
    (out / "file").write_text("a file")
    (out / "loop").symlink_to("loop")
    (out / "absolute").symlink_to("/")
    return top


@settings(max_examples=CASES)
@given(PATHS | st.tuples(st.sampled_from([b"link", b"loop", b"absolute", b"file"]), NAMES))
def test_nothing_is_opened_or_made_outside(prison: Path, path: tuple[bytes, ...]) -> None:
    """10^5 cases in the long profile."""
    out = prison / "out"
    if refused(path):
        return
    disk = Disk()
    base = disk.open_root(os.fsencode(out))
    folders = Folders(disk, base)
    try:
        fd = folders.make(path[:-1])
        inside = os.readlink(f"/proc/self/fd/{fd}")
        assert (inside + "/").startswith(f"{out}/")
        disk.close(disk.create(fd, path[-1], 0o600))
        disk.remove(fd, path[-1])
    except (TransferError, FileExistsError):
        pass  # a link or a file in the way
    finally:
        folders.forget()
        disk.close(base)
    assert set(os.listdir(prison)) == {"out", "outside"}
    assert os.listdir(prison / "outside") == ["secret"]


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "a").mkdir(parents=True)
    outside.mkdir()
    disk = Disk()
    base = disk.open_root(os.fsencode(out))
    folders = Folders(disk, base)
    assert folders.find((b"a",)) is not None
    folders.forget()
    (out / "a").rename(tmp_path / "b")
    (out / "a").symlink_to(outside)
    for use in (folders.find, folders.make):
        with pytest.raises(TransferError) as caught:
            use((b"a", b"b"))
        assert caught.value.code is Code.EXISTS
    assert list(outside.iterdir()) == []
    assert folders.find((b"nothing", b"here")) is None
    folders.forget()
    disk.close(base)
