"""Who the other end of a transfer is: proved by the secure connection, and by it alone.

With the key of a client (`tcpcrypt.transfer.keys`) each end shows that it has
it, within the key exchange (docs/authenticated-tep.md): the sender before it
says a word, the receiver before it hears one.  The static keys that the
exchange has as well are made anew by each process, so that nothing on the wire
tells clients or receivers apart but the hint of a client's key.

A sender whose key is not known gets an exchange without one, which its own
terms refuse: it is to read that it is not known, and not that a connection
broke.  A client that goes on all the same is refused before one byte of its is
delivered.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof, SharedKey
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.crypto import hybrid
from tcpcrypt.errors import AuthenticationError, PeerReason
from tcpcrypt.sockets.arrangement import (
    HANDSHAKE_TIMEOUT,
    Arrangement,
    authenticated,
    service_scope,
)
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.inband import InBandSocket
from tcpcrypt.sockets.listener import SecureListener
from tcpcrypt.sockets.secure import OnState, SecureSocket, reset
from tcpcrypt.sockets.sessions import SharedResumption
from tcpcrypt.transfer.keys import ClientKey, ClientTable, NoKeyError

__all__ = ["Admission", "KeyedClient", "KeyedServer"]

_SENDER_FIRST: Final = 1.0
"""Seconds that a receiver waits longer: a sender to whom encryption is not offered is to
find that out (exit status 2) before it is reset (1)."""
_VERSIONS: Final = (VERSION_X25519,)
"""Of a sender: the pre-shared key is what no quantum computer finds."""
_ACCEPTED: Final = (VERSION_HYBRID, VERSION_X25519) if hybrid.available() else (VERSION_X25519,)


class _Terms:
    """What `tcpcrypt.auth.terms.Terms` has for both ends."""

    def __init__(self, identity: Identity, versions: tuple[int, ...]) -> None:
        self.identity = identity
        self.versions = versions

    def _check(self, proof: PeerProof) -> None:
        if proof.version not in self.versions or proof.key is None:
            raise _refusal("it uses another version of the exchange")


class _SenderTerms(_Terms):
    """The receiver has to have the own key."""

    def __init__(self, identity: Identity, key: ClientKey) -> None:
        super().__init__(identity, _VERSIONS)
        self.psk: SharedKey | None = key

    def find_psk(self, hint: bytes) -> SharedKey | None:
        """Nobody asks a sender."""
        del hint
        return None

    def judge(self, proof: PeerProof) -> None:
        """As of `Terms`."""
        self._check(proof)
        own = self.psk.name if self.psk is not None else ""
        if proof.psk != own:
            raise _refusal(
                f"the receiver does not have this key for the client {own!r}: check --id and"
                " STX_KEY, and its folder of keys"
            )


class _ReceiverTerms(_Terms):
    """The sender has to have one of the keys in the table; see the module."""

    psk: SharedKey | None = None

    def __init__(self, identity: Identity, table: ClientTable) -> None:
        super().__init__(identity, _ACCEPTED)
        self._table = table

    def find_psk(self, hint: bytes) -> SharedKey | None:
        """As of `Terms`."""
        return self._table.by_hint(hint)

    def judge(self, proof: PeerProof) -> None:
        """As of `Terms`, but for a sender without a known key."""
        self._check(proof)
        if proof.psk:
            self.admit(proof)

    def admit(self, proof: PeerProof) -> None:
        """Raise `AuthenticationError` unless it has proved a key that is in the table."""
        if not proof.psk or not self._table.has(proof.psk):
            raise _refusal("a client without a key that is known here")


class KeyedClient:
    """Connects as a client that has a key; one for all connections to a receiver."""

    def __init__(self, key: ClientKey) -> None:
        self._key = key
        self._identity = Identity.generate()
        self._resumption = SharedResumption()

    def connect(
        self, host: str, port: int, timeout: float | None, on_state: OnState | None = None
    ) -> SecureSocket:
        """A connection in AES_MODE.  Raises as `tcpcrypt.sockets.connect` does."""
        terms = _SenderTerms(self._identity, self._key)
        arrangement = Arrangement(
            _config(terms),
            self._resumption,
            service_scope(host, port).encode(),
            lambda _proof: None,  # the terms have judged it, and remember nothing
        )
        sock = socket.create_connection((host, port), timeout)
        try:
            secured = InBandSocket(sock, Conversation(Role.A, arrangement), on_state)
            secured.do_handshake()
        except BaseException:
            reset(sock)
            raise
        return secured


class Admission(InBandSocket):
    """An accepted connection that knows whose it is."""

    client = ""
    """The client id, in AES_MODE."""


class KeyedServer:
    """Makes connections with any client of a table; for `SecureListener`."""

    def __init__(self, table: ClientTable) -> None:
        self._table = table
        self._identity = Identity.generate()
        self._resumption = SharedResumption()
        self._generation = table.generation

    def listen(self, sock: socket.socket) -> SecureListener:
        """Over a listening socket, which is used no more afterwards."""
        return SecureListener(sock, self._secure)

    def _secure(self, sock: socket.socket, address: Any) -> SecureSocket:
        with contextlib.suppress(NoKeyError):
            self._table.refresh()  # otherwise nobody is a client
        if self._table.generation != self._generation:
            # Whoever had a key that is gone has nothing to go on with.
            self._generation = self._table.generation
            self._resumption.flush()
        terms = _ReceiverTerms(self._identity, self._table)
        admitted: list[Admission] = []

        def learn(packed: bytes) -> None:
            proof = PeerProof.unpack(packed)
            terms.admit(proof)
            admitted[0].client = proof.psk

        name = str(address[0]).encode()
        arrangement = Arrangement(_config(terms), self._resumption, name, learn)
        admitted.append(Admission(sock, Conversation(Role.B, arrangement)))
        return admitted[0]


def _config(terms: _SenderTerms | _ReceiverTerms) -> Config:
    """As the connections of `tcpcrypt.sockets` have it, on other terms."""
    patience = HANDSHAKE_TIMEOUT
    if isinstance(terms, _ReceiverTerms):
        patience += _SENDER_FIRST
    return authenticated(terms, timeout=patience)


def _refusal(detail: str) -> AuthenticationError:
    return AuthenticationError(PeerReason.AUTHENTICATION, detail)
