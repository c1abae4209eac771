"""Files that this program has written and reads again, after whatever happened to them.

The journal of deliveries, lines of the key log, the identity, pre-shared keys and
keys of file transfer; and what parent and worker of the daemon say to each other.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.harness import Decisions

from tcpcrypt.auth.identity import create_identity, load_identity
from tcpcrypt.auth.psk import create_psk, load_psk
from tcpcrypt.core.events import Role
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.daemon.words import NonsenseError, _parse
from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.journal import Delivery
from tcpcrypt.transfer.keys import create_key, read_key

MAX_LEN = 600
KEY_LINE = KeyLine(bytes(32), bytes(33), Secret(b"\xab" * 32), b"", 1, Role.A)


@functools.cache
def directory() -> Path:
    """Kept for as long as the process lives."""
    made = tempfile.TemporaryDirectory(prefix="tcpcrypt-fuzz-")
    directory.kept = made  # type: ignore[attr-defined]
    return Path(made.name)


def seeds() -> Iterator[bytes]:
    delivery = Delivery(bytes(16), 5, 6, 7, (b"folder", b"name"))
    yield b"\0" + delivery.line().rstrip(b"\n")
    yield b"\1" + KEY_LINE.build().encode()
    with tempfile.TemporaryDirectory() as made:
        at = Path(made)
        create_identity(at / "identity")
        yield b"\2" + (at / "identity").read_bytes()
        create_psk(at / "psk", "psk")
        yield b"\3" + (at / "psk/psk").read_bytes()
        create_key(at / "key")
        yield b"\4" + (at / "key").read_bytes()
    yield b'\5{"learnt":[1,"two",null]}'


def check(data: bytes) -> None:
    decisions = Decisions(data)
    kind, text = decisions.number() % 6, decisions.rest()
    if kind == 0:
        delivery = Delivery.read(text)
        if delivery is not None:
            again = Delivery.read(delivery.line().rstrip(b"\n"))
            assert again == delivery
    elif kind == 1:
        _key_line(text.decode("utf-8", "replace"))
    elif kind == 5:
        try:
            _parse(text)
        except NonsenseError:
            return
    else:
        path = directory() / "psk"
        path.touch(0o600)
        path.write_bytes(text)
        try:
            (load_identity, load_psk, read_key)[kind - 2](path)
        except LocalError as error:
            _shows_nothing(str(error), text)


def _key_line(line: str) -> None:
    try:
        parsed = KeyLine.parse(line)
    except LocalError as error:
        _shows_nothing(str(error), line.encode())
        return
    assert KeyLine.parse(parsed.build()).build() == parsed.build()


def _shows_nothing(message: str, text: bytes) -> None:
    """No message tells digits of a file that may hold a key."""
    for at in range(0, len(text) - 15, 8):
        assert text[at : at + 16].decode("utf-8", "replace") not in message
