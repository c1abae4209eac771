"""The seam for other TEPs: suboption data, Init tails, key material, identities."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.hosts import Host, connect, data_of, drain, events, exchange

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Established, Role
from tcpcrypt.core.tep import Exchanged, KeyAgreement, Offer, PlainAgreement, tep_spec
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, LocalError, PeerReason
from tcpcrypt.wire.messages import Init1, Init2
from tcpcrypt.wire.profile import RFC8548

MAGIC = b"\x54\x01"
PROOF_LEN = 16


class SharedKeyAgreement:
    """X25519 with a shared key in PRK and a proof of it behind Pub_B.

    Not a protocol to use: it exercises what other TEPs need, a name behind
    Pub_A, a tail of Init2 made from the keys, own secrets in PRK, an identity.
    """

    def __init__(self, key: bytes, name: bytes) -> None:
        self._plain = PlainAgreement(0x23, RFC8548)
        self._key = key
        self._name = name
        self.public_key = self._plain.public_key
        self.peer_public_key_len = 32
        self.peer_identity: bytes | None = None

    def init1_tail(self) -> bytes:
        return self._name

    def _prk(self, exchanged: Exchanged, init2_head: bytes, peer_public: bytes) -> Secret:
        es = self._plain._key.agree(peer_public)
        return extract(exchanged.init1.nonce, exchanged.eno_transcript, exchanged.init1_message,
                       init2_head, es, self._key)  # fmt: skip

    def respond(
        self, exchanged: Exchanged, assemble: Callable[[bytes], bytes]
    ) -> tuple[bytes, Secret]:
        self.peer_identity = exchanged.init1.tail
        head = assemble(bytes(PROOF_LEN))[:-PROOF_LEN]
        prk = self._prk(exchanged, head, exchanged.init1.public_key)
        with cprf(prk, b"\x21", PROOF_LEN) as proof:
            return assemble(bytes(proof.view())), prk

    def complete(self, exchanged: Exchanged, init2: Init2, init2_message: bytes) -> Secret:
        prk = self._prk(exchanged, init2_message[:-PROOF_LEN], init2.public_key)
        if cprf(prk, b"\x21", PROOF_LEN) != Secret(init2.tail):
            raise AuthenticationError(PeerReason.AUTHENTICATION)
        self.peer_identity = b"server"
        return prk

    def wipe(self) -> None:
        self._plain.wipe()


@dataclass(frozen=True)
class SharedKeyTep:
    key: bytes
    name: bytes = b"client"
    identifier: int = 0x20
    first_frame_proves: bool = False
    resumption_lifetime: float | None = None

    def fresh_data(self, answering: Offer | None = None) -> bytes | None:
        return MAGIC

    def resumption_data(self, own: Offer, answering: Offer | None = None) -> bytes:
        return MAGIC + own.identifier + own.nonce

    def resumption_nonce_len(self, config: Config, *, passive: bool) -> int:
        return 4 if passive else 5

    def may_resume(self, peer_identity: bytes | None, answering: Offer | None = None) -> bool:
        return True

    def judge(self, peer_identity: bytes | None) -> None:
        raise AuthenticationError(PeerReason.AUTHENTICATION)

    def sn(self, nonce_a: bytes, nonce_b: bytes, eno_transcript: bytes) -> bytes:
        return nonce_a + nonce_b

    def read_offer(self, data: bytes | None) -> Offer | None:
        if data is None or data[:2] != MAGIC:
            return None
        return Offer(data[2:11], data[11:])

    read_answer = read_offer

    def agreement(self, config: Config, role: Role, variant: bytes) -> KeyAgreement:
        return SharedKeyAgreement(self.key, self.name)


def host(key: bytes, name: bytes = b"client", teps: tuple[int, ...] = (0x20,)) -> Host:
    return Host(Config(teps=teps, extensions={0x20: SharedKeyTep(key, name)}))


def test_a_tep_brings_its_own_tails_secrets_and_identity() -> None:
    client, server = host(b"k" * 32), host(b"k" * 32)
    for resumed in (False, True):
        one, other = connect(client, server)
        one.send_data(b"hello")
        exchange(one, other)
        first, second = events(one), events(other)
        assert isinstance(first[0], Established)
        assert isinstance(second[0], Established)
        assert first[0].session_id == second[0].session_id
        assert first[0].session_id[0] == 0xA0
        assert first[0].resumed is resumed
        assert first[0].peer_identity == b"server", "kept with the secret for resumption"
        assert second[0].peer_identity == b"client"
        assert data_of(second) == b"hello"


def test_plain_teps_ask_nobody() -> None:
    spec = tep_spec(Config(), 0x23)
    spec.judge(None)
    assert spec.may_resume(None)
    assert not spec.first_frame_proves


def test_a_tep_that_refuses_the_peer_aborts() -> None:
    one, other = connect(host(b"k" * 32), host(b"K" * 32))
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    (event,) = events(one)
    assert isinstance(event, Aborted)
    assert isinstance(event.error, AuthenticationError)
    assert not one.established


def test_a_tep_beside_plain_ones_and_peers_that_do_not_know_it() -> None:
    both = host(b"k" * 32, teps=(0x20, 0x23))
    one, other = connect(both, Host())
    exchange(one, other)
    assert one.tep == other.tep == 0x23
    one, other = connect(host(b"k" * 32, teps=(0x20, 0x23)), host(b"k" * 32, teps=(0x20, 0x23)))
    exchange(one, other)
    assert one.tep == other.tep == 0x20


@pytest.mark.parametrize("suboption", ["20", "a0", "a05402"])
def test_suboption_data_that_the_tep_refuses_are_not_valid(suboption: str) -> None:
    """RFC 8547 section 4.5: validity is the TEP's business."""
    from support.hosts import fallback, region

    from tcpcrypt.core.negotiation import Negotiation, Opener

    contents = bytes.fromhex(suboption)
    option = bytes((69, 2 + len(contents))) + contents
    config = host(b"k" * 32).config
    n = Negotiation(config, Opener.PASSIVE)
    n.segment_received(syn=True, ack=False, options=region(option))
    fallback(n)
    n = Negotiation(config, Opener.ACTIVE)
    n.option_to_send(syn=True, ack=False, room=40)
    answer = bytes((69, 3 + len(contents), 1)) + contents
    n.segment_received(syn=True, ack=True, options=region(answer))
    fallback(n)


def test_configuration_is_checked() -> None:
    for bad in (
        {"teps": (0x20,)},
        {"teps": (0x23, 0x23)},
        {"teps": ()},
        {"teps": (0x99,)},
        {"aeads": ()},
        {"aeads": (0x99,)},
        {"resume_nonce_len": 9},
        {"require_application_aware": True},
        {"resumption_window": 0},
        {"rekey_after_bytes": 0},
        {"frame_data": 0},
        {"first_frame_data": 65_519},
    ):
        with pytest.raises(LocalError):
            Config(**bad)
    Config(teps=(), enabled=False)


def test_plain_tep_keeps_the_ignored_tail_out_of_the_message() -> None:
    """RFC 8548 section 4.1: send no bytes behind the key."""
    one, _ = connect(Host(Config(teps=(0x23,))), Host())
    message = drain(one)
    assert Init1.parse(message, 32, RFC8548).tail == b""


def test_a_longer_resumption_that_does_not_fit_becomes_a_fresh_offer() -> None:
    from tcpcrypt.core.negotiation import Opener
    from tcpcrypt.crypto.schedule import SessionSecret

    client = host(b"k" * 32, teps=(0x23, 0x20))
    client.cache.store(
        client.peer,
        tep=0x20,
        aead=1,
        original_role=Role.A,
        secret=SessionSecret(Secret(bytes(32)), 1),
    )
    n = client.negotiation(Opener.ACTIVE)
    # Enough for a resumption of TEP 0x23, not for the two magic bytes of 0x20.
    option = n.option_to_send(syn=True, ack=False, room=16)
    assert option.hex() == "45078" + "1a0540123"
