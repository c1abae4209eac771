"""What the parent knows of keys, on its way to the worker: a file in memory without a name.

It goes over by inheritance or as a descriptor, so that private keys are in no
message, in no text, and nowhere once the worker has read them.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.psk import Psk, PskStore
from tcpcrypt.auth.terms import HINT_LEN, PSK_LEN
from tcpcrypt.auth.trust import Trust
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

__all__ = ["packed", "unpack"]

_HEAD: Final = struct.Struct("!QBBBBIQ")
"""What is applied; hybrid, enforce, whether secrets stay and whether there is an identity;
PSKs, bytes of known peers."""
_PSK: Final = struct.Struct(f"!B{HINT_LEN}s{PSK_LEN}s")
"""Bytes of the name, which follows; hint, key."""
_IDENTITY_LEN: Final = 32


def packed(trust: Trust, applied: int) -> int:
    """A descriptor with all of it, which the caller closes; the secrets of `trust` are wiped.

    `applied`: how much of what the worker has learnt is in it.
    """
    known, identity = trust.known.format(), trust.identity
    head = _HEAD.pack(
        *(applied, trust.hybrid, trust.enforce, trust.secrets_stay, identity is not None),
        *(len(trust.psks), len(known)),
    )
    octets = bytearray(head)
    try:
        if identity is not None:
            with identity.private_bytes() as private:
                octets += private.view()
        for psk in trust.psks:
            name = psk.name.encode()
            octets += struct.pack(f"!B{HINT_LEN}s", len(name), psk.hint)
            octets += psk.key.view()
            octets += name
        descriptor = os.memfd_create("tcpcrypt", os.MFD_CLOEXEC)
        try:
            for part in (octets, known):
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view) :]
        except BaseException:
            os.close(descriptor)
            raise
    finally:
        octets[:] = bytes(len(octets))
        if identity is not None:
            identity.wipe()
        for psk in trust.psks:
            psk.key.wipe()
    return descriptor


def unpack(descriptor: int) -> tuple[Trust, int]:
    """The inverse of `packed`.  Raises `LocalError`; the descriptor stays open."""
    octets = bytearray(os.fstat(descriptor).st_size)
    try:
        if os.preadv(descriptor, [octets], 0) != len(octets):
            raise LocalError("what is known of keys came in part only")
        return _read(memoryview(octets))
    except struct.error as error:
        raise LocalError("what is known of keys is damaged") from error
    finally:
        octets[:] = bytes(len(octets))


def _read(view: memoryview) -> tuple[Trust, int]:
    applied, hybrid, enforce, stay, has_identity, psks, known = _HEAD.unpack_from(view)
    view = view[_HEAD.size :]
    identity = None
    if has_identity:
        identity = Identity(Secret(view[:_IDENTITY_LEN]))
        view = view[_IDENTITY_LEN:]
    store = []
    for _ in range(psks):
        size, hint = struct.unpack_from(f"!B{HINT_LEN}s", view)
        key = Secret(view[1 + HINT_LEN : _PSK.size])
        view = view[_PSK.size :]
        store.append(Psk(bytes(view[:size]).decode(), hint, key))
        view = view[size:]
    if len(view) != known:
        raise LocalError("what is known of keys is damaged")
    peers = KnownPeers.parse(bytes(view), "known peers")
    trust = Trust(peers, PskStore(store), identity, bool(hybrid), bool(enforce))
    trust.secrets_stay = bool(stay)
    return trust, applied
