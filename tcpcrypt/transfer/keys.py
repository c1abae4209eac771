"""Keys of clients: 32 random bytes that a sender and its receiver have, and nobody else.

    STX_KEY=<64 hexadecimal digits>       or STX_KEY_FILE=<file with such a line>
    client_keys/<client id>               the receiver's: such a file for each client

Client ids are looked up in the table that a directory was read into, and never
joined into a path.  No key is ever made up: without one nothing is sent.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcpcrypt.auth.secret_file import create_file, replace_file
from tcpcrypt.auth.terms import HINT_LEN, PSK_LEN
from tcpcrypt.crypto.kdf import cprf
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

__all__ = [
    "CLIENTS_MAX",
    "DEFAULT_ID",
    "ClientKey",
    "ClientTable",
    "NoKeyError",
    "check_client_id",
    "create_key",
    "own_key",
    "read_key",
]

CLIENTS_MAX: Final = 4096
"""Keys of one directory."""
DEFAULT_ID: Final = "default"
# Not a dot first: `..` is a client of nobody, and hidden files are not keys.
_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_FORM: Final = re.compile(rb"([0-9a-fA-F]{64})[ \t]*\r?\n?")
_TEXT_MAX: Final = 128
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_HINT: Final = b"stx client "


class NoKeyError(LocalError):
    """A key that is not there, or not one that may be used."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key of one client, as `tcpcrypt.auth.terms.SharedKey` asks for it."""

    name: str
    """The client id."""
    key: Secret
    """32 bytes."""
    hint: bytes
    """8 bytes that name the key on the wire, of key and id, by a one-way function:
    they say nothing about either, for the key is random."""

    @classmethod
    def of(cls, name: str, key: Secret) -> ClientKey:
        """Raises `NoKeyError` for an id or a key that cannot be."""
        check_client_id(name)
        if len(key) != PSK_LEN:
            raise NoKeyError(f"a key has {PSK_LEN} bytes")
        with cprf(key, _HINT + name.encode(), HINT_LEN) as hint:
            return cls(name, key, bytes(hint.view()))


def check_client_id(name: str) -> None:
    """Raise `NoKeyError` for what is no client id."""
    if not _ID.fullmatch(name):
        raise NoKeyError(
            f"{name!r} is no client id: use letters, digits, '.', '_' and '-', 64 at most, no"
            " dot first"
        )


def own_key(client_id: str, environment: Mapping[str, str]) -> ClientKey:
    """The key of a sender: of STX_KEY, or of the file that STX_KEY_FILE names.

    Raises `NoKeyError` if there is none, both are given, or it is none to be used.
    """
    text, file = environment.get("STX_KEY", ""), environment.get("STX_KEY_FILE", "")
    if text and file:
        raise NoKeyError("STX_KEY and STX_KEY_FILE are both set: unset the one not meant")
    if file:
        return ClientKey.of(client_id, read_key(Path(file)))
    if not text:
        raise NoKeyError(
            "no key: set STX_KEY_FILE (or STX_KEY) to the one that the receiver has for this"
            " client; `stx-keygen` makes one"
        )
    return ClientKey.of(client_id, _parsed("STX_KEY", text.encode("utf-8", "surrogateescape")))


def read_key(path: Path) -> Secret:
    """The key in a file that its owner alone may read.

    Raises `NoKeyError`, which names the file and says what to do.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    octets = bytearray(_TEXT_MAX)
    try:
        fd = os.open(path, flags)
        try:
            _check(path, os.fstat(fd))
            size = os.readv(fd, [octets])
        finally:
            os.close(fd)
        return _parsed(str(path), memoryview(octets)[:size])
    except OSError as error:
        raise NoKeyError(f"{path}: {error.strerror}") from error
    finally:
        octets[:] = bytes(_TEXT_MAX)


def create_key(path: Path, *, replace: bool = False) -> None:
    """A new random key in a file, mode 0600, whole or not at all.

    Raises `LocalError`, also if there is a file already and not `replace`.
    """
    with Secret(os.urandom(PSK_LEN)) as key:
        octets = bytearray(binascii.hexlify(key.view()) + b"\n")
    try:
        if replace and path.exists():
            replace_file(path, octets)
        else:
            create_file(path, octets)
    finally:
        octets[:] = bytes(len(octets))


class ClientTable:
    """The keys of a receiver's clients; read anew when the directory has changed.

    A key is put there, replaced and taken away by renaming and unlinking, as
    `stx-keygen`, `mv` and `rm` do; a file that is written in place is seen when
    the receiver is told to look (SIGHUP).
    """

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        """Reads nothing yet.  `tell` is given what is wrong with a file, as a line."""
        self.path = directory
        self._tell = tell
        self._by_name: dict[str, ClientKey] = {}
        self._by_hint: dict[bytes, ClientKey] = {}
        self._stamp: tuple[int, int] | None = None
        self.generation = 0
        """Counts how often the table has changed."""

    def refresh(self, *, force: bool = False) -> bool:
        """Read the directory if it has changed; whether it had.

        A file with a fault is no key, and is told of; the other clients are not
        to suffer.  Raises `NoKeyError` for a directory that cannot be read or that
        others could have written to: then nobody is a client.
        """
        try:
            found = os.stat(self.path)
            stamp = found.st_mtime_ns, found.st_ino
            if stamp == self._stamp and not force:
                return False
            _check_directory(self.path, found)
            names = sorted(name for name in os.listdir(self.path) if not name.startswith("."))
        except (OSError, NoKeyError) as error:
            self._nobody()
            if isinstance(error, OSError):
                detail = f"{self.path}: {error.strerror}; `stx-keygen` makes keys of clients"
                raise NoKeyError(detail) from error
            raise
        if len(names) > CLIENTS_MAX:
            self._nobody()
            raise NoKeyError(f"{self.path}: more than {CLIENTS_MAX} keys")
        self._stamp = stamp
        return self._replace(self._read(names))

    def by_hint(self, hint: bytes) -> ClientKey | None:
        """The key that a sender names on the wire."""
        return self._by_hint.get(bytes(hint))

    def has(self, name: str) -> bool:
        """Whether there is a client of that id."""
        return name in self._by_name

    def __len__(self) -> int:
        return len(self._by_name)

    def _nobody(self) -> None:
        self._replace(())
        self._stamp = None

    def _read(self, names: Iterable[str]) -> list[ClientKey]:
        keys: list[ClientKey] = []
        for name in names:
            try:
                check_client_id(name)
                keys.append(ClientKey.of(name, read_key(self.path / name)))
            except NoKeyError as error:
                self._tell(f"{self.path / name} is no key of a client: {error}")
        return keys

    def _replace(self, keys: Iterable[ClientKey]) -> bool:
        by_name = {key.name: key for key in keys}
        if _same(by_name, self._by_name):
            return False
        # New tables, for threads that look something up meanwhile.
        self._by_hint = {key.hint: key for key in by_name.values()}
        self._by_name = by_name
        self.generation += 1
        return True


def _same(new: Mapping[str, ClientKey], old: Mapping[str, ClientKey]) -> bool:
    return new.keys() == old.keys() and all(new[name].key == old[name].key for name in new)


def _parsed(where: str, text: bytes | memoryview) -> Secret:
    found = _FORM.fullmatch(text)
    if found is None:
        raise NoKeyError(f"{where} is no key: 64 hexadecimal digits in one line")
    octets = bytearray(binascii.unhexlify(found[1]))
    try:
        return Secret(octets)
    finally:
        octets[:] = bytes(len(octets))


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NoKeyError(f"{path}: not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise NoKeyError(f"{path}: belongs to user {found.st_uid}, who has read it")
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise NoKeyError(
            f"{path}: others could have read or written it (mode {mode:04o}); consider whether"
            f" they have, then `chmod 600 {path}`"
        )


def _check_directory(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise NoKeyError(f"{path}: not a directory")
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
        raise NoKeyError(
            f"{path}: others could have put keys there; look at it, then"
            f" `chown {os.geteuid()} {path}; chmod 700 {path}`"
        )
