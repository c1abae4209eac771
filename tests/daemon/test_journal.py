"""The journal's native protocol, against a socket that reads it as the journal does."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.daemon.journal import Journal, is_journal
from tcpcrypt.daemon.log import JournalSink, Log
from tcpcrypt.errors import LocalError


class Reader:
    """The other end."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        data = self.socket.recv(1 << 20)
        fields = {}
        while data:
            name, _, data = data.partition(b"\n")
            if b"=" in name:
                name, _, value = name.partition(b"=")
            else:
                (length,) = struct.unpack_from("<Q", data)
                value, end = data[8 : 8 + length], data[8 + length : 9 + length]
                assert end == b"\n"
                data = data[9 + length :]
            assert name.decode().replace("_", "").isalnum()
            assert name.isupper()
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    made = Reader(path)
    yield made
    made.socket.close()


def test_an_event_is_an_entry_with_fields(path: Path, reader: Reader) -> None:
    log = Log(JournalSink(Journal(path)))
    log.write("aborted", {"id": 7, "session": "23ab", "reason": "frame failed\nauthentication"})
    assert reader.entry() == {
        "MESSAGE": 'event=aborted id=7 session=23ab reason="frame failed\\\\nauthentication"',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tcpcryptd",
        "TCPCRYPT_EVENT": "aborted",
        "TCPCRYPT_ID": "7",
        "TCPCRYPT_SESSION": "23ab",
        "TCPCRYPT_REASON": "frame failed\\nauthentication",
    }
    log.close()


def test_values_with_newlines_forge_no_field(path: Path, reader: Reader) -> None:
    journal = Journal(path)
    assert journal.send({"MESSAGE": "one\nPRIORITY=0\n", "OTHER": "\udc80ü"})
    assert reader.entry() == {"MESSAGE": "one\nPRIORITY=0\n", "OTHER": "\\udc80ü"}
    journal.close()


def test_a_journal_that_starts_again_is_found_again(path: Path, reader: Reader) -> None:
    journal = Journal(path)
    reader.socket.close()
    assert not journal.send({"MESSAGE": "nobody hears this"})
    path.unlink()
    assert not journal.send({"MESSAGE": "nor this"})
    second = Reader(path)
    assert journal.send({"MESSAGE": "but this"})
    assert second.entry() == {"MESSAGE": "but this"}
    second.socket.close()
    journal.close()


def test_a_journal_that_does_not_read_holds_nobody_up(path: Path, reader: Reader) -> None:
    journal = Journal(path)
    sent = 0
    while journal.send({"MESSAGE": "x" * 1000}):
        sent += 1
        assert sent < 100_000
    assert sent > 0
    journal.close()


def test_no_journal(path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        Journal(path)


def test_stderr_is_the_journal_where_systemd_says_so(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        device, inode = found.st_dev, found.st_ino
        assert is_journal(stream.fileno(), f"{device}:{inode}")
        assert not is_journal(stream.fileno(), f"{device}:{inode + 1}")
        assert not is_journal(stream.fileno(), f"{device + 1}:{inode}")
        assert not is_journal(stream.fileno(), "")
        assert not is_journal(stream.fileno(), None)
        assert not is_journal(stream.fileno(), "nonsense")
        number = stream.fileno()
    assert not is_journal(number, f"{device}:{inode}")


def test_a_log_chooses_by_journal_stream(tmp_path: Path, reader: Reader, path: Path) -> None:
    """In a process of its own, whose stderr is what JOURNAL_STREAM names, or is not."""
    program = (
        "import sys, pathlib\n"
        "from tcpcrypt.daemon import journal, log\n"
        "class Here(journal.Journal):\n"
        "    def __init__(self): super().__init__(pathlib.Path(sys.argv[1]))\n"
        "log.Journal = Here\n"
        "made = log.open_log()\n"
        "made.write('started', {'by': 'test'})\n"
        "made.close()\n"
    )
    stream = tmp_path / "stderr"
    for named in (True, False):
        with stream.open("w") as stderr:
            found = os.fstat(stderr.fileno())
            variable = f"{found.st_dev}:{found.st_ino + (not named)}"
            subprocess.run(
                (sys.executable, "-c", program, path),
                stderr=stderr,
                env={**os.environ, "JOURNAL_STREAM": variable},
                check=True,
                timeout=30,
            )
        if named:
            assert stream.read_text() == ""
            assert reader.entry()["TCPCRYPT_EVENT"] == "started"
        else:
            assert stream.read_text().endswith(" event=started by=test\n")
