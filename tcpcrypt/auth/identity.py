"""Who this host is: a static X25519 key (RFC 7748), and the file that it lies in.

    tcpcrypt-identity-1
    fingerprint tcpcrypt1:...
    private ...                     64 hexadecimal digits

The fingerprint is there for people, and so that a key that a disk has changed
is noticed: it would be another identity.
"""

from __future__ import annotations

import binascii
import os
import re
import time
from pathlib import Path
from typing import Final, NoReturn, SupportsIndex

from tcpcrypt.auth.fingerprint import FINGERPRINT_LEN, fingerprint
from tcpcrypt.auth.secret_file import (
    MissingFileError,
    create_file,
    read_secret,
    replace_file,
)
from tcpcrypt.crypto.groups import group
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep

__all__ = [
    "Identity",
    "create_identity",
    "ensure_identity",
    "load_identity",
    "rotate_identity",
]

_HEADER: Final = b"tcpcrypt-identity-1\nfingerprint "
_PRIVATE: Final = b"\nprivate "
_FORM: Final = re.compile(
    re.escape(_HEADER) + b"(tcpcrypt1:[a-z2-7]{52})" + re.escape(_PRIVATE) + b"([0-9a-f]{64})\n"
)
_SIZE: Final = len(_HEADER) + FINGERPRINT_LEN + len(_PRIVATE) + 65


class Identity:
    """A static key pair.  Kept as long as the daemon runs; `wipe` forgets it."""

    __slots__ = ("_key", "_private", "fingerprint", "public")

    def __init__(self, private: Secret) -> None:
        """Takes ownership of 32 bytes.  Raises `LocalError` for another length."""
        self._private = private
        self._key = group(Tep.ECDHE_CURVE25519).from_private(bytes(private.view()))
        self.public = self._key.public
        """32 bytes."""
        self.fingerprint = fingerprint(self.public)

    @classmethod
    def generate(cls) -> Identity:
        """A new random key."""
        return cls(Secret(os.urandom(32)))

    @classmethod
    def from_private(cls, raw: bytes) -> Identity:
        """The identity of a known key, 32 bytes.  Raises `LocalError` for another length."""
        return cls(Secret(raw))

    def agree(self, peer_public: bytes) -> Secret:
        """The shared secret with a peer's key, 32 bytes.

        Raises `PeerError` with INIT_PUBLIC_KEY_LENGTH or ZERO_SHARED_SECRET;
        `RuntimeError` once wiped.
        """
        return self._key.agree(peer_public)

    def private_bytes(self) -> Secret:
        """A copy of the private key, for the caller to wipe.  `RuntimeError` once wiped."""
        return Secret(self._private.view())

    def wipe(self) -> None:
        """Forget the private key.  Idempotent."""
        self._key.wipe()
        self._private.wipe()

    def __repr__(self) -> str:
        return f"<Identity {self.fingerprint}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("an Identity is neither copied nor pickled")


def load_identity(path: Path) -> Identity:
    """The identity in a file.

    Raises `MissingFileError` if there is none, `LocalError` for a file that
    others may read or that belongs to others, or is not one of an identity.
    """
    with read_secret(path, _SIZE) as text:
        view = text.view()
        found = _FORM.fullmatch(view)
        if found is None:
            raise LocalError(f"{path}: not the file of an identity")
        private = Secret(binascii.unhexlify(view[slice(*found.span(2))]))
        identity = Identity(private)
        if identity.fingerprint != found[1].decode():
            raise LocalError(
                f"{path}: the private key is not that of the fingerprint: the file is damaged"
            )
        return identity


def create_identity(path: Path) -> Identity:
    """A new identity in a new file.  Raises `LocalError`, also if there is one already."""
    identity = Identity.generate()
    with _text(identity) as text:
        create_file(path, text.view())
    return identity


def ensure_identity(path: Path) -> tuple[Identity, bool]:
    """The identity in a file, made now if there is none, and whether it was.

    Raises `LocalError` as `load_identity` and `create_identity` do.
    """
    try:
        return load_identity(path), False
    except MissingFileError:
        pass
    try:
        return create_identity(path), True
    except LocalError:
        # Another process may have made it since.
        return load_identity(path), False


def rotate_identity(path: Path, *, now: float | None = None) -> tuple[Identity, Identity, Path]:
    """A new identity in the place of the one in a file: old, new, where the old one lies.

    That one is kept beside it, with the date.  Raises `LocalError` as
    `load_identity` does, or if the file cannot be written; then nothing changed.
    """
    old, new = load_identity(path), Identity.generate()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    kept = path.with_name(f"{path.name}.{stamp}")
    with _text(old) as text:
        create_file(kept, text.view())
    with _text(new) as text:
        replace_file(path, text.view())
    return old, new, kept


def _text(identity: Identity) -> Secret:
    octets = bytearray(_HEADER + identity.fingerprint.encode() + _PRIVATE)
    with identity.private_bytes() as private:
        octets += binascii.hexlify(private.view()) + b"\n"
    try:
        return Secret(octets)
    finally:
        octets[:] = bytes(len(octets))
