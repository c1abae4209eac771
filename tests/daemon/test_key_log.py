"""The key log as a file: who may read it, what is in it, and that it harms nobody."""

import os
from pathlib import Path

import pytest

from tcpcrypt.core.events import Role
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.daemon.key_log import WARNING, KeyLogFile
from tcpcrypt.errors import LocalError

LINE = KeyLine(bytes(32), b"\x23" * 33, Secret(b"\x07" * 32), b"", 1, Role.A)


class Reports:
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, fields: dict[str, object]) -> None:
        self.told.append((event, fields))


@pytest.fixture
def reports() -> Reports:
    return Reports()


def test_it_is_its_owners_alone_and_said_loudly(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "keys"
    before = os.umask(0)
    try:
        log = KeyLogFile(path, reports)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert reports.told == [("keylog", {"file": str(path), "warning": WARNING})]
    assert "07" * 32 not in repr(log)
    log.write(LINE)
    log.close()
    again = KeyLogFile(path, reports)
    again.write(LINE)
    again.close()
    assert path.read_text() == f"{LINE.build()}\n" * 2


def test_what_others_may_read_is_refused(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "keys"
    path.touch(0o644)
    path.chmod(0o644)
    with pytest.raises(LocalError, match=r"others may read or write it \(mode 0644\); `chmod 600"):
        KeyLogFile(path, reports)
    assert path.read_bytes() == b""
    assert reports.told == []


def test_what_others_may_have_put_there_is_refused(tmp_path: Path, reports: Reports) -> None:
    target = tmp_path / "target"
    target.touch(0o600)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "second-name").hardlink_to(target)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, why in (
        ("link", "symbolic links"),
        ("second-name", "not a regular file with one name"),
        ("pipe", "No such device"),
        ("missing/keys", "No such file"),
        (".", "directory"),
    ):
        with pytest.raises(LocalError, match=rf"key log .*{why}"):
            KeyLogFile(tmp_path / name, reports)
    if os.geteuid() == 0:
        os.chown(tmp_path / "second-name", 1, -1)
        (tmp_path / "second-name").unlink()
        with pytest.raises(LocalError, match="belongs to user 1"):
            KeyLogFile(target, reports)
    assert reports.told == []


def test_a_disk_that_is_full_is_reported_once(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    log = KeyLogFile(path, reports)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        log.write(LINE)

        def none(fd: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        full.setattr(os, "write", none)
        log.write(LINE)
    log.write(LINE)
    log.close()
    assert [event for event, _fields in reports.told] == ["keylog", "keylog_failed"]
    assert reports.told[1][1] == {"file": str(path), "lost": bytes(32).hex()}
    *torn, last = path.read_text().splitlines()
    assert last == LINE.build(), "what comes after it is whole"
    assert torn == [LINE.build()[:20]]
