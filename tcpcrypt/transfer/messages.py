"""The messages of a transfer.

Each is `type (1) | length of the body (4) | body`, numbers big-endian.

```
HELLO    "STX" | version 1 | window 4 | block 4 | files 2 | algorithms 1
PUT      file 4 | transfer id 16 | kind 1 | algorithm 1 | mode 2 | size 8 | mtime 8 | block 4 | path
HAVE     file 4 | count 1 | (offset 8 | digest 32) ...
REFUSE   file 4 | code 1
DATA     file 4 | offset 8 | bytes
ACK      file 4 | offset 8
END      file 4 | code 1 | size 8 | algorithm 1 | digest 32
RECEIPT  file 4 | code 1 | algorithm 1 | digest 32 | path
ALIVE
BYE
path     count 1 | (length 1 | name) ...
```

A sends PUT, DATA, END, BYE; B sends HAVE, REFUSE, ACK, RECEIPT; both HELLO and ALIVE.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tcpcrypt.transfer.codes import Code, MessageError
from tcpcrypt.transfer.digest import DIGEST_LEN, Algorithm, Digest
from tcpcrypt.transfer.names import COMPONENTS_MAX, PATH_MAX, Path

__all__ = [
    "AT",
    "BLOCK_MAX",
    "DATA",
    "DATA_HEADER",
    "FILES_MAX",
    "HEADER",
    "KINDS",
    "LENGTHS_MAX",
    "PREFIXES_MAX",
    "SIZE_MAX",
    "UNKNOWN_SIZE",
    "VERSION",
    "WINDOW_MAX",
    "Ack",
    "Alive",
    "Bye",
    "Data",
    "End",
    "Have",
    "Hello",
    "Kind",
    "Message",
    "Put",
    "Receipt",
    "Refuse",
    "data_header",
]

VERSION: Final = 1
BLOCK_MAX: Final = 1 << 20
"""Bytes of file in one DATA, whatever a HELLO or a PUT says."""
WINDOW_MAX: Final = 16 << 20
FILES_MAX: Final = 1024
PREFIXES_MAX: Final = 20
UNKNOWN_SIZE: Final = (1 << 64) - 1
"""Size in PUT of what has none before it ends, such as a pipe."""
TRANSFER_ID_LEN: Final = 16
SIZE_MAX: Final = (1 << 63) - 1
"""Offsets of files are signed in every kernel."""
_MAGIC: Final = b"STX"

HEADER: Final = struct.Struct(">BI")
_HELLO: Final = struct.Struct(">3sBIIHB")
_PUT: Final = struct.Struct(f">I{TRANSFER_ID_LEN}sBBHQqI")
_HAVE: Final = struct.Struct(">IB")
_PREFIX: Final = struct.Struct(f">Q{DIGEST_LEN}s")
_REFUSE: Final = struct.Struct(">IB")
AT: Final = struct.Struct(">IQ")
_END: Final = struct.Struct(f">IBQB{DIGEST_LEN}s")
_RECEIPT: Final = struct.Struct(f">IBB{DIGEST_LEN}s")
DATA_HEADER: Final = struct.Struct(">BIIQ")
_PATH_WIRE_MAX: Final = 1 + COMPONENTS_MAX + PATH_MAX


class Kind(enum.Enum):
    """What a PUT announces."""

    FILE = 0
    DIRECTORY = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """What one end takes: the first message of each."""

    window: int
    """Bytes of files that may be under way without being durable."""
    block: int
    """Bytes of file in one DATA."""
    files: int
    """Files that may be announced without a RECEIPT."""
    algorithms: frozenset[Algorithm]
    version: int = VERSION

    def build(self) -> bytes:
        """The message as sent."""
        bits = sum(1 << algorithm.value for algorithm in self.algorithms)
        return _message(
            0x01, _HELLO.pack(_MAGIC, self.version, self.window, self.block, self.files, bits)
        )

    @classmethod
    def parse(cls, body: bytes) -> Hello:
        """Raises `MessageError`: VERSION for another version, whatever follows it."""
        if body[:3] != _MAGIC or len(body) < 4:
            raise MessageError(detail="the other end speaks no STX")
        if body[3] != VERSION:
            raise MessageError(Code.VERSION, f"{body[3]}, not {VERSION}")
        _, version, window, block, files, bits = _unpack(_HELLO, body)
        if not window or not block or not files:
            raise MessageError(detail="a HELLO that takes nothing")
        known = frozenset(a for a in Algorithm if bits >> a.value & 1)
        return cls(window, block, files, known, version)


@dataclass(frozen=True, slots=True)
class Put:
    """A announces a file or a folder."""

    file: int
    """Its number, which rises by one from PUT to PUT."""
    transfer_id: bytes
    """16 bytes: the same for the same source, so that a later connection goes on."""
    kind: Kind
    algorithm: Algorithm
    mode: int
    """Permission bits."""
    size: int
    """Bytes, or `UNKNOWN_SIZE`."""
    mtime: int
    """Nanoseconds since 1970."""
    block: int
    """The longest DATA that will come."""
    path: Path
    """As on the wire: `names.check_path` is the receiver's."""

    def build(self) -> bytes:
        """The message as sent."""
        return _message(
            0x02,
            _PUT.pack(
                self.file,
                self.transfer_id,
                self.kind.value,
                self.algorithm.value,
                self.mode,
                self.size,
                self.mtime,
                self.block,
            )
            + _build_path(self.path),
        )

    @classmethod
    def parse(cls, body: bytes) -> Put:
        """Raises `MessageError`."""
        head = _unpack(_PUT, body[: _PUT.size])
        file, transfer_id, kind, algorithm, mode, size, mtime, block = head
        if SIZE_MAX < size < UNKNOWN_SIZE:
            raise MessageError(Code.SIZE, f"{size} bytes")
        return cls(
            file,
            transfer_id,
            _member(Kind, kind, Code.PROTOCOL),
            _member(Algorithm, algorithm, Code.ALGORITHM),
            mode,
            size,
            mtime,
            block,
            _parse_path(body[_PUT.size :]),
        )


@dataclass(frozen=True, slots=True)
class Have:
    """B has something of the file already, perhaps.

    Each pair is a length and the digest of as many bytes from the beginning of
    what is there, in rising order.  A goes on behind the longest that it has the
    like of, or from 0.
    """

    file: int
    prefixes: tuple[tuple[int, bytes], ...]

    def build(self) -> bytes:
        """The message as sent."""
        pairs = b"".join(_PREFIX.pack(*pair) for pair in self.prefixes)
        return _message(0x03, _HAVE.pack(self.file, len(self.prefixes)) + pairs)

    @classmethod
    def parse(cls, body: bytes) -> Have:
        """Raises `MessageError`."""
        file, count = _unpack(_HAVE, body[: _HAVE.size])
        rest = body[_HAVE.size :]
        if count > PREFIXES_MAX or len(rest) != count * _PREFIX.size:
            raise MessageError(detail="a HAVE of the wrong length")
        prefixes = tuple(_PREFIX.iter_unpack(rest))
        offsets = [offset for offset, _ in prefixes]
        if offsets != sorted(set(offsets)) or 0 in offsets:
            raise MessageError(detail="a HAVE whose lengths do not rise from 0")
        return cls(file, prefixes)


@dataclass(frozen=True, slots=True)
class Refuse:
    """B does not take the file."""

    file: int
    code: Code

    def build(self) -> bytes:
        """The message as sent."""
        return _message(0x04, _REFUSE.pack(self.file, self.code.value))

    @classmethod
    def parse(cls, body: bytes) -> Refuse:
        """Raises `MessageError`."""
        file, code = _unpack(_REFUSE, body)
        return cls(file, _failure(code))


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a file; one DATA of the wire may come as several of these."""

    file: int
    offset: int
    data: memoryview
    """Valid until the parser is fed again, unless its owner says otherwise."""


@dataclass(frozen=True, slots=True)
class Ack:
    """B has all bytes of the file before `offset`, and keeps them whatever happens."""

    file: int
    offset: int

    def build(self) -> bytes:
        """The message as sent."""
        return _message(0x06, AT.pack(self.file, self.offset))

    @classmethod
    def parse(cls, body: bytes) -> Ack:
        """Raises `MessageError`."""
        return cls(*_unpack(AT, body))


@dataclass(frozen=True, slots=True)
class End:
    """A has sent the file; or, with a code other than OK, gives it up."""

    file: int
    code: Code
    size: int
    digest: Digest
    """Of the whole file; of nothing in particular if A gives it up."""

    def build(self) -> bytes:
        """The message as sent."""
        digest = self.digest
        packed = _END.pack(
            self.file, self.code.value, self.size, digest.algorithm.value, digest.value
        )
        return _message(0x07, packed)

    @classmethod
    def parse(cls, body: bytes) -> End:
        """Raises `MessageError`."""
        file, code, size, algorithm, value = _unpack(_END, body)
        digest = Digest(_member(Algorithm, algorithm, Code.ALGORITHM), value)
        return cls(file, _member(Code, code, Code.PROTOCOL), size, digest)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of the file.  With OK: it is there, durable, under `path`."""

    file: int
    code: Code
    digest: Digest
    """Of what B has written."""
    path: Path
    """Where it is; empty with a code other than OK."""

    def build(self) -> bytes:
        """The message as sent."""
        digest = self.digest
        packed = _RECEIPT.pack(self.file, self.code.value, digest.algorithm.value, digest.value)
        return _message(0x08, packed + _build_path(self.path))

    @classmethod
    def parse(cls, body: bytes) -> Receipt:
        """Raises `MessageError`."""
        file, code, algorithm, value = _unpack(_RECEIPT, body[: _RECEIPT.size])
        digest = Digest(_member(Algorithm, algorithm, Code.ALGORITHM), value)
        path = _parse_path(body[_RECEIPT.size :])
        return cls(file, _member(Code, code, Code.PROTOCOL), digest, path)


@dataclass(frozen=True, slots=True)
class Alive:
    """Its sender is busy, and well."""

    def build(self) -> bytes:
        """The message as sent."""
        return _message(0x09, b"")

    @classmethod
    def parse(cls, body: bytes) -> Alive:
        """Never raises: `parser.Parser` lets no body through."""
        return cls()


@dataclass(frozen=True, slots=True)
class Bye:
    """A has read a RECEIPT or a REFUSE of every file, and its stream ends."""

    def build(self) -> bytes:
        """The message as sent."""
        return _message(0x0A, b"")

    @classmethod
    def parse(cls, body: bytes) -> Bye:
        """Never raises: `parser.Parser` lets no body through."""
        return cls()


Message = Hello | Put | Have | Refuse | Data | Ack | End | Receipt | Alive | Bye

DATA: Final = 0x05
KINDS: Final[dict[int, type[Hello | Put | Have | Refuse | Ack | End | Receipt | Alive | Bye]]] = {
    0x01: Hello,
    0x02: Put,
    0x03: Have,
    0x04: Refuse,
    0x06: Ack,
    0x07: End,
    0x08: Receipt,
    0x09: Alive,
    0x0A: Bye,
}
LENGTHS_MAX: Final = {
    0x01: _HELLO.size,
    0x02: _PUT.size + _PATH_WIRE_MAX,
    0x03: _HAVE.size + PREFIXES_MAX * _PREFIX.size,
    0x04: _REFUSE.size,
    DATA: AT.size + BLOCK_MAX,
    0x06: AT.size,
    0x07: _END.size,
    0x08: _RECEIPT.size + _PATH_WIRE_MAX,
    0x09: 0,
    0x0A: 0,
}
"""Bytes of body: more is refused before one of them is kept."""


def data_header(file: int, offset: int, length: int) -> bytes:
    """What stands before `length` bytes of a file in a DATA."""
    return DATA_HEADER.pack(DATA, AT.size + length, file, offset)


_E = TypeVar("_E", bound=enum.Enum)


def _member(kind: type[_E], value: int, code: Code) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise MessageError(code, f"{value} is no {kind.__name__}") from None


def _failure(value: int) -> Code:
    code = _member(Code, value, Code.PROTOCOL)
    if code is Code.OK:
        raise MessageError(detail="a REFUSE without a reason")
    return code


def _message(kind: int, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


def _unpack(form: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != form.size:
        raise MessageError(detail=f"a message with {len(body)} bytes in the place of {form.size}")
    return form.unpack(body)


def _build_path(path: Path) -> bytes:
    return bytes((len(path),)) + b"".join(bytes((len(name),)) + name for name in path)


def _parse_path(data: bytes) -> Path:
    """All of `data`, lengths only: what the names are is for `names.check_path`."""
    count, at, names = (data[0] if data else -1), 1, []
    while at < len(data):
        end = at + 1 + data[at]
        names.append(data[at + 1 : end])
        at = end
    if len(names) != count or at != len(data) or count > COMPONENTS_MAX:
        raise MessageError(detail="a path of the wrong length")
    return tuple(names)
