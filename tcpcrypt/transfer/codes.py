"""How a transfer can end, by one name on the wire, in errors and as exit status."""

from __future__ import annotations

import enum
import errno
from typing import Final

from tcpcrypt.errors import TcpcryptError

__all__ = ["Code", "MessageError", "TransferError"]


class Code(enum.Enum):
    """What became of a file; the value is its byte on the wire."""

    OK = 0
    NAME = 1
    EXISTS = 2
    BUSY = 3
    TOO_LARGE = 4
    QUOTA = 5
    NO_SPACE = 6
    DENIED = 7
    STORAGE = 8
    DIGEST = 9
    CHANGED = 10
    SIZE = 11
    BLOCK_SIZE = 12
    ALGORITHM = 13
    VERSION = 14
    PROTOCOL = 15
    TIMEOUT = 16
    TOO_MANY = 17
    UNREADABLE = 18
    SUPERSEDED = 19
    SHUTDOWN = 20

    @property
    def text(self) -> str:
        """In words, for a person."""
        return _TEXTS[self]

    @property
    def exit_status(self) -> int:
        """0 ok, 1 network, 3 file I/O, 4 cryptographic failure, 5 protocol."""
        if self is Code.OK:
            return 0
        if self in _NETWORK:
            return 1
        if self is Code.DIGEST:
            return 4
        return 5 if self in _PROTOCOL else 3

    @property
    def transient(self) -> bool:
        """Whether the same transfer may well succeed a moment later."""
        return self in _NETWORK or self is Code.BUSY

    @classmethod
    def of(cls, error: OSError) -> Code:
        """The name of what the operating system says of a file."""
        return _ERRNOS.get(error.errno or 0, cls.STORAGE)


_TEXTS: Final = {
    Code.OK: "delivered",
    Code.NAME: "the receiver allows no such name",
    Code.EXISTS: "a file of that name is there already",
    Code.BUSY: "another transfer is writing a file of that name",
    Code.TOO_LARGE: "the file is larger than the receiver takes",
    Code.QUOTA: "the quota of this client is used up",
    Code.NO_SPACE: "no space is left at the receiver",
    Code.DENIED: "the receiver may not write there",
    Code.STORAGE: "the receiver cannot store the file",
    Code.DIGEST: "what arrived is not what was sent",
    Code.CHANGED: "the file changed while it was sent",
    Code.SIZE: "the file is not as long as it was announced to be",
    Code.BLOCK_SIZE: "block size out of bounds",
    Code.ALGORITHM: "no digest algorithm in common",
    Code.VERSION: "no protocol version in common",
    Code.PROTOCOL: "the other end breaks the protocol",
    Code.TIMEOUT: "the other end is silent",
    Code.TOO_MANY: "more files at once than the receiver takes",
    Code.UNREADABLE: "the file cannot be read",
    Code.SUPERSEDED: "a newer connection goes on with the same transfer",
    Code.SHUTDOWN: "the receiver is stopping, or has others to serve",
}
_NETWORK: Final = {Code.TIMEOUT, Code.SUPERSEDED, Code.SHUTDOWN}
_PROTOCOL: Final = {
    Code.SIZE,
    Code.BLOCK_SIZE,
    Code.ALGORITHM,
    Code.VERSION,
    Code.PROTOCOL,
    Code.TOO_MANY,
}
_ERRNOS: Final = {
    errno.ENOSPC: Code.NO_SPACE,
    errno.EFBIG: Code.NO_SPACE,
    errno.EDQUOT: Code.QUOTA,
    errno.EACCES: Code.DENIED,
    errno.EPERM: Code.DENIED,
    errno.EROFS: Code.DENIED,
    errno.EEXIST: Code.EXISTS,
    errno.EISDIR: Code.EXISTS,
    errno.ENOTDIR: Code.EXISTS,
    errno.ELOOP: Code.EXISTS,
    errno.ENAMETOOLONG: Code.NAME,
}


class TransferError(TcpcryptError):
    """A file was not transferred, or none can be; `code` says why."""

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(f"{code.text}: {detail}" if detail else code.text)
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[TransferError], tuple[Code, str]]:
        return type(self), (self.code, self.detail)


class MessageError(TransferError):
    """The other end breaks the protocol: nothing more is taken from it."""

    def __init__(self, code: Code = Code.PROTOCOL, detail: str = "") -> None:
        super().__init__(code, detail)
