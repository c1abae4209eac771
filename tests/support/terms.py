"""Terms of TEP 0x20 for tests: what is shown, what is asked, and what was asked about."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from support.hosts import Host
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.psk import Psk
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.core.config import Config
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, IdentityChangedError, PeerReason

TA = 0x20


def identity(fill: int) -> Identity:
    return Identity.from_private(bytes([fill]) * 32)


def shared(fill: int, name: str = "office") -> Psk:
    return Psk(name, bytes([fill]) * 8, Secret(bytes([fill]) * 32))


@dataclass
class Conditions:
    """`Terms` that ask for nothing unless told to."""

    identity: Identity | None = None
    versions: tuple[int, ...] = (1,)
    psk: Psk | None = None
    psks: Iterable[Psk] = ()
    accept: Callable[[PeerProof], bool] = lambda _proof: True
    changed: bool = False
    """What is not accepted is another key than the one remembered."""
    asked: list[PeerProof] = field(default_factory=list)

    def find_psk(self, hint: bytes) -> Psk | None:
        return next((psk for psk in self.psks if psk.hint == hint), None)

    def judge(self, proof: PeerProof) -> None:
        self.asked.append(proof)
        if not self.accept(proof):
            if self.changed:
                raise IdentityChangedError(PeerReason.IDENTITY_CHANGED)
            raise AuthenticationError(PeerReason.AUTHENTICATION)


def only(key: bytes) -> Callable[[PeerProof], bool]:
    """Accept this key alone, as a pin does."""
    return lambda proof: proof.key == key


def needs_psk(name: str) -> Callable[[PeerProof], bool]:
    return lambda proof: proof.psk == name


def ta_host(terms: Conditions, teps: tuple[int, ...] = (TA,), peer: bytes = b"peer",
            **more) -> Host:  # fmt: skip
    config = Config(teps=teps, extensions={TA: AuthenticatedTep(terms)}, **more)
    return Host(config, peer)
