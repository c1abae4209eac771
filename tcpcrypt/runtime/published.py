"""The cache of session secrets, with what the kernel may answer for it.

The sockops program has to answer a SYN that asks for a resumption at once.  For
each identifier that the cache would recognise it finds the answer in a map:
our half of resume[i], which is no secret, and a nonce.

The nonce is random, but made when the answer is published.  RFC 8548 section
3.5 wants one that is new even if this machine is copied while it runs, so the
program adds (XOR) the time at which it answers.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import struct
from collections import OrderedDict
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.registry import SUBOPTION_V
from tcpcrypt.runtime import bpf

__all__ = ["PublishedCache"]

_ANSWER: Final = struct.Struct("9sB8s")
_ADDRESS_LENGTHS: Final = frozenset({4, 16})
"""Of the names of peers that open connections; those that they open to have a port."""


class PublishedCache(ResumptionCache):
    """See `tcpcrypt.core.resumption.ResumptionCache`; `table` is the program's map."""

    def __init__(self, config: Config, table: int) -> None:
        super().__init__(config)
        self._answers = table
        self._nonce_len = config.resume_nonce_len
        self._published: OrderedDict[int, tuple[bytes, tuple[bytes, ...]]] = OrderedDict()
        """By record: the peer, and what is in the map.  Oldest first."""
        self._of_peer: dict[bytes, OrderedDict[int, None]] = {}

    def store(
        self,
        peer: bytes,
        *,
        tep: int,
        aead: int,
        original_role: Role,
        secret: SessionSecret,
        peer_identity: bytes | None = None,
        chain: int | None = None,
        expires: float = math.inf,
    ) -> int:
        """See `ResumptionCache.store`."""
        asked: tuple[bytes, ...] = ()
        answers: tuple[bytes, ...] = ()
        if len(peer) in _ADDRESS_LENGTHS:
            prefix = bytes((tep | SUBOPTION_V,))
            asked = secret.identifiers(self._window, original_role.peer, prefix)
            answers = secret.identifiers(self._window, original_role, b"")
        number = super().store(
            peer,
            tep=tep,
            aead=aead,
            original_role=original_role,
            secret=secret,
            peer_identity=peer_identity,
            chain=chain,
            expires=expires,
        )
        self._withdraw_what_went(peer)
        if asked:
            self._publish(self._chains[number], peer, asked, answers)
        return number

    def flush(self, peer: bytes | None = None) -> int:
        """See `ResumptionCache.flush`."""
        for handle in list(self._published if peer is None else self._of_peer.get(peer, ())):
            self._withdraw(handle)
        return super().flush(peer)

    def _publish(
        self, handle: int, peer: bytes, asked: tuple[bytes, ...], answers: tuple[bytes, ...]
    ) -> None:
        self._published[handle] = (peer, asked)
        self._of_peer.setdefault(peer, OrderedDict())[handle] = None
        # Without room in the map the answer will be a fresh exchange.
        with contextlib.suppress(OSError):
            for identifier, own in zip(asked, answers, strict=True):
                nonce = os.urandom(self._nonce_len)
                answer = _ANSWER.pack(own, self._nonce_len, nonce)
                bpf.update(self._answers, identifier, answer)

    def _withdraw_what_went(self, peer: bytes) -> None:
        """For a new record, of whatever peer, the table has pushed out the oldest of
        that peer or the oldest of all.
        """
        of_peer = self._of_peer.get(peer, ())
        for oldest in {*itertools.islice(of_peer, 1), *itertools.islice(self._published, 1)}:
            if self._is_gone(oldest):
                self._withdraw(oldest)

    def _is_gone(self, handle: int) -> bool:
        _peer, asked = self._published[handle]
        found = self._table.lookup(asked[0])
        return found is None or found[0] != handle

    def _withdraw(self, handle: int) -> None:
        known = self._published.pop(handle, None)
        if known is None:
            return
        peer, asked = known
        of_peer = self._of_peer[peer]
        del of_peer[handle]
        if not of_peer:
            del self._of_peer[peer]
        for identifier in asked:
            with contextlib.suppress(OSError):
                bpf.delete(self._answers, identifier)

    def _spend(self, handle: int) -> bool:
        self._withdraw(handle)
        return super()._spend(handle)
