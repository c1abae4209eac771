"""Secrets of captured sessions, and how the keys of a connection come of them.

Whatever a file states (ss[i], a shared secret, a private key, mk[0]) becomes a
`Material`, found by what a capture shows of the session.  Sessions that resume a
known one need no secret of their own: ss[i+1] follows from ss[i].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from tcpcrypt.core.events import Role
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.aead import AeadParameters, aead
from tcpcrypt.crypto.groups import group
from tcpcrypt.crypto.kdf import extract
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.tools.decode.handshake import Agreed
from tcpcrypt.tools.decode.tcps import TcpsSecrets
from tcpcrypt.wire.messages import Init1, Init2
from tcpcrypt.wire.profile import ResumptionForm

__all__ = ["Exchange", "FromExchange", "FromLine", "FromMaster", "KeyStore", "Material",
           "SessionKeys", "UnusableError"]  # fmt: skip

_AHEAD: Final = 16
"""Resumptions that may be missing from capture and file between two that are there."""
_LOOKED_AHEAD_MAX: Final = 10_000
"""Secrets of which the following ones are computed."""


class UnusableError(LocalError):
    """A secret that is there for this connection, and why it does not fit."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Init1 and Init2 as captured."""

    init1_message: bytes
    init2_message: bytes
    nonce_a: bytes
    aead: int
    """What Init2 chose."""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of one connection."""

    session_id: bytes | None
    aead: AeadParameters
    client_sends_ab: bool
    """The client was A in the original session, so that k_ab is its key."""
    master: Callable[[], MasterKey] = field(repr=False)
    """Makes mk[0], anew for each direction."""


class Material(Protocol):
    """What is known of one session."""

    @property
    def source(self) -> str:
        """Where it stands, for messages."""
        ...

    def keys(self, agreed: Agreed, exchange: Exchange | None) -> tuple[SessionKeys, Chain | None]:
        """The keys of a connection, and the secret by which others may resume it.

        Raises `UnusableError`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Chain:
    """ss[i] of a session, from which the later ones follow."""

    secret: Secret = field(repr=False)
    aead: int


def _parameters(source: str, agreed: Agreed, aead_id: int) -> AeadParameters:
    """The algorithm, which has to be one of the dialect.  Raises `UnusableError`."""
    known = agreed.profile.aeads
    if known is not None and aead_id not in known:
        raise UnusableError(f"{source}: profile {agreed.profile.name} has no AEAD {aead_id:#06x}")
    try:
        return aead(aead_id)
    except LocalError as error:
        raise UnusableError(f"{source}: {error}") from error


def _from_ss(
    source: str,
    agreed: Agreed,
    ss: Secret,
    *,
    sn: bytes,
    aead_id: int,
    opener: Role,
    stated: bytes | None = None,
) -> tuple[SessionKeys, Chain]:
    """RFC 8548 sections 3.3 and 3.5: from ss[i] to what `Material.keys` returns.

    `stated` is a session ID that has to come of it.
    """

    def use() -> tuple[bytes, MasterKey, SessionSecret]:
        index = 1 if agreed.resuming else 0
        return SessionSecret(Secret(ss.view()), index).use(agreed.tep_byte, sn)

    parameters = _parameters(source, agreed, aead_id)
    try:
        session_id, _master, following = use()
    except LocalError as error:
        raise UnusableError(f"{source}: {error}") from error
    if stated is not None and stated != session_id:
        raise UnusableError(
            f"{source}: its session ID is {stated.hex()}, but the secret gives {session_id.hex()}"
            " with what the capture shows"
        )
    chain = Chain(following.take(), aead_id)
    client_sends_ab = (opener is Role.A) is agreed.client_is_a
    return SessionKeys(session_id, parameters, client_sends_ab, lambda: use()[1]), chain


@dataclass(frozen=True, slots=True)
class FromLine:
    """A line of a key log."""

    source: str
    line: KeyLine

    def keys(self, agreed: Agreed, exchange: Exchange | None) -> tuple[SessionKeys, Chain | None]:
        """See `Material.keys`."""
        line = self.line
        if exchange is not None and exchange.aead != line.aead:
            raise UnusableError(
                f"{self.source}: it names AEAD {line.aead:#06x}, and Init2 {exchange.aead:#06x}"
            )
        return _from_ss(
            self.source,
            agreed,
            line.ss,
            sn=line.sn,
            aead_id=line.aead,
            # Roles are original ones in a fresh exchange, whoever opened.
            opener=Role.A if exchange is not None else line.opener,
            stated=line.session_id,
        )


@dataclass(frozen=True, slots=True)
class FromExchange:
    """Secrets of a key exchange: any one of them is enough."""

    source: str
    nonce_a: bytes
    session_id: bytes | None = None
    prk: Secret | None = field(default=None, repr=False)
    es: Secret | None = field(default=None, repr=False)
    private: bytes | None = field(default=None, repr=False)
    of_a: bool = True
    """Whose private key it is."""

    def keys(self, agreed: Agreed, exchange: Exchange | None) -> tuple[SessionKeys, Chain | None]:
        """See `Material.keys`."""
        if exchange is None:
            raise UnusableError(f"{self.source}: it is about a fresh exchange")
        try:
            ss = self._prk(agreed, exchange)
        except (PeerError, LocalError) as error:
            raise UnusableError(f"{self.source}: {error}") from error
        return _from_ss(
            self.source,
            agreed,
            ss,
            sn=b"",
            aead_id=exchange.aead,
            opener=Role.A,
            stated=self.session_id,
        )

    def _prk(self, agreed: Agreed, exchange: Exchange) -> Secret:
        """RFC 8548 section 3.3."""
        if self.prk is not None:
            return self.prk
        return extract(
            exchange.nonce_a,
            agreed.eno_transcript,
            exchange.init1_message,
            exchange.init2_message,
            self.es if self.es is not None else self._shared(agreed, exchange),
        )

    def _shared(self, agreed: Agreed, exchange: Exchange) -> Secret:
        if self.private is None:
            raise UnusableError("neither a PRK, a shared secret nor a private key")
        curve = group(agreed.tep, agreed.profile)
        own = curve.from_private(self.private)
        init: Init1 | Init2
        if self.of_a:
            init = Init2.parse(exchange.init2_message, curve.public_key_len, agreed.profile)
        else:
            init = Init1.parse(exchange.init1_message, curve.public_key_len, agreed.profile)
        return own.agree(init.public_key)


@dataclass(frozen=True, slots=True)
class FromMaster:
    """mk[0] of a resumed session that is named by its ID."""

    source: str
    session_id: bytes
    aead: int
    mk: Secret = field(repr=False)
    following: Secret | None = field(default=None, repr=False)
    """ss[i+1]"""

    def keys(self, agreed: Agreed, exchange: Exchange | None) -> tuple[SessionKeys, Chain | None]:
        """See `Material.keys`."""
        if agreed.tep_byte != self.session_id[0]:
            raise UnusableError(
                f"{self.source}: session ID {self.session_id.hex()} is of another TEP"
            )
        chain = None if self.following is None else Chain(self.following, self.aead)

        def master() -> MasterKey:
            return MasterKey(Secret(self.mk.view()))

        parameters = _parameters(self.source, agreed, self.aead)
        return SessionKeys(self.session_id, parameters, True, master), chain


@dataclass(frozen=True, slots=True)
class _Following:
    """ss[i+k], computed from the secret of an earlier session."""

    source: str
    ss: Secret = field(repr=False)
    aead: int
    opener: Role

    def keys(self, agreed: Agreed, exchange: Exchange | None) -> tuple[SessionKeys, Chain | None]:
        """See `Material.keys`."""
        nonces = agreed.nonces if self.opener is Role.A else agreed.nonces[::-1]
        sn = agreed.spec.sn(*nonces, agreed.eno_transcript)
        return _from_ss(self.source, agreed, self.ss, sn=sn, aead_id=self.aead, opener=self.opener)


class KeyStore:
    """The material of all files, by what a capture shows of a session."""

    def __init__(self) -> None:
        self.tcps = TcpsSecrets()
        """Private keys of TCP/S."""
        self._fresh: dict[bytes, list[Material]] = defaultdict(list)
        self._resumed: dict[bytes, list[Material]] = defaultdict(list)
        self._following: dict[tuple[ResumptionForm, bytes], _Following] = {}
        self._chains: list[tuple[str, Chain]] = []
        self._expanded: dict[ResumptionForm, int] = dict.fromkeys(ResumptionForm, 0)
        self.entries = 0
        self.growing = False
        """More may come, for connections that are under way."""

    def add_fresh(self, nonce_a: bytes, material: Material) -> None:
        """Material of a fresh exchange."""
        self._fresh[nonce_a].append(material)
        self.entries += 1

    def add_resumed(self, identifier: bytes, material: Material) -> None:
        """Material of a resumed session."""
        self._resumed[identifier].append(material)
        self.entries += 1

    def add_chain(self, source: str, chain: Chain) -> None:
        """A secret of which later sessions may come."""
        if len(self._chains) < _LOOKED_AHEAD_MAX:
            self._chains.append((source, chain))

    def find(self, agreed: Agreed, exchange: Exchange | None) -> Iterator[Material]:
        """What there is for a connection, what is stated before what follows from it."""
        if exchange is not None:
            yield from self._fresh.get(exchange.nonce_a, ())
            return
        yield from self._resumed.get(agreed.identifier, ())
        form = agreed.profile.resumption
        self._look_ahead(form)
        following = self._following.get((form, agreed.identifier))
        if following is not None:
            yield following

    def _look_ahead(self, form: ResumptionForm) -> None:
        done = self._expanded[form]
        self._expanded[form] = len(self._chains)
        for source, chain in self._chains[done:]:
            secret = SessionSecret(Secret(chain.secret.view()), 1, form)
            for _ in range(_AHEAD):
                halves, following = secret.resume_ids(), secret.peek_next()
                ss = secret.take()
                for role, identifier in zip(Role, halves, strict=True):
                    # Where both halves are the same, it is the original A that opens.
                    self._following.setdefault(
                        (form, identifier), _Following(source, ss, chain.aead, role)
                    )
                secret = following
