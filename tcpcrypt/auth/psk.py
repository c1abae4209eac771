"""Pre-shared keys: 32 random bytes that two hosts have, each in a file of its own.

    tcpcrypt-psk-1
    hint ...                        16 hexadecimal digits
    key ...                         64

The name of the file is the key's name on this host; the hint names it on the
wire.  It is random and says nothing about the key.  Never a passphrase: whoever
takes part in one handshake could guess at leisure.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcpcrypt.auth.secret_file import create_file, read_secret
from tcpcrypt.auth.terms import HINT_LEN, PSK_LEN, PSK_NAME_MAX
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

__all__ = ["Psk", "PskStore", "changed_psks", "check_name", "create_psk", "load_psk", "load_psks"]

_PSKS_MAX: Final = 4096
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{PSK_NAME_MAX - 1}}}")
_HEADER: Final = b"tcpcrypt-psk-1\nhint "
_FORM: Final = re.compile(re.escape(_HEADER) + b"([0-9a-f]{16})\nkey ([0-9a-f]{64})\n")
_SIZE: Final = len(_HEADER) + 16 + 5 + 65


@dataclass(frozen=True, slots=True)
class Psk:
    """One pre-shared key.  Raises `LocalError` for values that cannot be."""

    name: str
    """On this host: letters, digits, `.`, `_` and `-`, at most 64."""
    hint: bytes
    """8 bytes, the same on both hosts."""
    key: Secret
    """32 bytes."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.hint) != HINT_LEN or len(self.key) != PSK_LEN:
            raise LocalError(f"a PSK has {PSK_LEN} bytes, its hint {HINT_LEN}")

    @classmethod
    def generate(cls, name: str) -> Psk:
        """A new random key."""
        return cls(name, os.urandom(HINT_LEN), Secret(os.urandom(PSK_LEN)))


class PskStore:
    """The keys of this host, by name and by hint."""

    def __init__(self, psks: Iterable[Psk] = ()) -> None:
        """Raises `LocalError` if two have the same name or the same hint, or for too many."""
        self._by_name: dict[str, Psk] = {}
        self._by_hint: dict[bytes, Psk] = {}
        for psk in psks:
            if psk.name in self._by_name:
                raise LocalError(f"there are two PSKs of the name {psk.name}")
            if psk.hint in self._by_hint:
                other = self._by_hint[psk.hint].name
                raise LocalError(f"the PSKs {other} and {psk.name} have the same hint")
            if len(self._by_name) == _PSKS_MAX:
                raise LocalError(f"there are more than {_PSKS_MAX} PSKs")
            self._by_name[psk.name] = self._by_hint[psk.hint] = psk

    def by_name(self, name: str) -> Psk | None:
        """The key of that name."""
        return self._by_name.get(name)

    def by_hint(self, hint: bytes) -> Psk | None:
        """The key that a peer names by its hint."""
        return self._by_hint.get(bytes(hint))

    def __iter__(self) -> Iterator[Psk]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def changed_psks(before: PskStore, after: PskStore) -> frozenset[str]:
    """Names of keys that there are no more, or that are others: nothing they proved counts."""

    def same(psk: Psk, other: Psk | None) -> bool:
        return other is not None and other.key == psk.key

    return frozenset(psk.name for psk in before if not same(psk, after.by_name(psk.name)))


def check_name(name: str) -> None:
    """Raise `LocalError` for what cannot be the name of a key."""
    if not _NAME.fullmatch(name):
        raise LocalError(
            f"{name!r} is no name of a PSK: use letters, digits, '.', '_' and '-',"
            f" {PSK_NAME_MAX} at most, a letter or digit first"
        )


def load_psk(path: Path) -> Psk:
    """The key in a file, by whose name it goes.

    Raises `MissingFileError` if there is none, `LocalError` for a file that
    others may read or that belongs to others, or is not one of a key.
    """
    check_name(path.name)
    with read_secret(path, _SIZE) as text:
        view = text.view()
        found = _FORM.fullmatch(view)
        if found is None:
            raise LocalError(f"{path}: not the file of a PSK")
        hint, key = (binascii.unhexlify(view[slice(*found.span(n))]) for n in (1, 2))
        return Psk(path.name, hint, Secret(key))


def load_psks(*directories: Path) -> PskStore:
    """All keys in these directories; one that does not exist holds none.

    Files whose names begin with a dot are left alone.  Raises `LocalError` if
    any other is not the file of a key that is safe to use.
    """
    paths: list[Path] = []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LocalError(f"{directory}: {error.strerror}") from error
        paths += [directory / name for name in names if not name.startswith(".")]
    return PskStore(load_psk(path) for path in paths)


def create_psk(directory: Path, name: str) -> tuple[Psk, Path]:
    """A new key in a new file of that name, and the file.

    Raises `LocalError`, also if there is one already.
    """
    psk, path = Psk.generate(name), directory / name
    octets = bytearray(_HEADER + binascii.hexlify(psk.hint) + b"\nkey ")
    octets += binascii.hexlify(psk.key.view()) + b"\n"
    try:
        create_file(path, octets)
    finally:
        octets[:] = bytes(len(octets))
    return psk, path
