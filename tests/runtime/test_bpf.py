"""What stands in the way of a BPF program is told, and no handle is lost."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime import bpf, cgroup, nft, sockops


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(LocalError, match="BPF object cannot be read"):
        bpf.BpfObject(b"no object")


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bpf.library.cache_clear()
    monkeypatch.setattr(bpf, "_LIBRARY", "libno-such-bpf.so.1")
    try:
        with pytest.raises(LocalError, match="libno-such-bpf"):
            bpf.library()
    finally:
        monkeypatch.undo()
        bpf.library.cache_clear()


def test_a_program_that_was_not_built_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sockops, "OBJECT", tmp_path / "none")
    with pytest.raises(LocalError, match="was not built"):
        sockops.Attachment()


def test_a_descriptor_that_is_no_map_is_an_error() -> None:
    with pytest.raises(OSError):
        bpf.update(-1, b"\0\0\0\0", b"")
    with pytest.raises(OSError):
        bpf.lookup(-1, b"\0\0\0\0", 4)
    with pytest.raises(OSError):
        bpf.delete(-1, b"\0\0\0\0")


def members(directory: int) -> list[str]:
    found = os.open("cgroup.procs", os.O_RDONLY, dir_fd=directory)
    with open(found) as file:
        return file.read().split()


def test_the_own_control_group_is_found_or_the_reason_told() -> None:
    try:
        directory = cgroup.open_own_cgroup()
    except LocalError as error:
        pytest.skip(f"this system has none: {error}")
    try:
        assert str(os.getpid()) in members(directory)
    finally:
        os.close(directory)


def test_where_none_is_mounted_one_is_for_us_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_mounts", lambda: iter(()))
    before = Path("/proc/self/mounts").read_text()
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        directory = cgroup.open_own_cgroup()
    except LocalError as error:
        pytest.skip(f"this process may not mount one: {error}")
    assert str(os.getpid()) in members(directory)
    os.close(directory)
    assert Path("/proc/self/mounts").read_text() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("module", [cgroup, nft])
def test_what_users_call_their_mounts_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: ModuleType
) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(module, "_MOUNTS", mounts)
    odd = b"a\x0b /home/u/\xff\x0cb\xc2\x85x\x0b/home/u/evil\x0bcgroup2 fuse rw 0 0\n"
    mounts.write_bytes(odd + b"\n" + b"cgroup /sys/fs/cgroup cgroup2 rw 0 0\n")
    find = nft._cgroups if module is nft else lambda: next(cgroup._mounts())
    assert find() == "/sys/fs/cgroup"


def test_another_tree_is_not_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A part of the tree that is mounted elsewhere, in which our name means another group."""
    (tmp_path / "cgroup.procs").write_text("1\n")
    monkeypatch.setattr(cgroup, "_mounts", lambda: iter([str(tmp_path)]))
    monkeypatch.setattr(cgroup, "_own_path", lambda: "/")

    def refused() -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cgroup, "_private_mount", refused)
    with pytest.raises(LocalError, match="cannot be for us"):
        cgroup.open_own_cgroup()
