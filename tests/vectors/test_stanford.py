"""The core against captures of the real Stanford daemon, byte for byte.

Given the captures' secrets, either side of each connection says exactly what
the daemon said: options, Init messages, frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scapy.layers.inet import IP, TCP
from scapy.utils import rdpcap
from support.hosts import drain

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived, Role, StreamEnded
from tcpcrypt.core.negotiation import Negotiated, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.wire.profile import STANFORD

PEERS = Path(__file__).parents[2] / "vectors/peers/stanford"
RESUMED = "c_resumed_after_a_classic"
FRESH = ("a_get_p256_aes128_classic", "f1_get_redirect")
CONFIG = Config(teps=(0x21, 0x22), aeads=(1, 2)).in_profile(STANFORD)
DATES = {FRESH[0]: "02:01:27", RESUMED: "02:01:30", FRESH[1]: "02:03:40"}


class Segment(NamedTuple):
    sender: Role
    syn: bool
    ack: bool
    options: bytes
    data: bytes


def segments(name: str) -> list[Segment]:
    found = []
    for packet in rdpcap(str(PEERS / f"{name}.pcap")):
        header = bytes(packet[TCP])
        end = (header[12] >> 4) * 4
        sender = Role.A if packet[IP].src == "10.77.0.1" else Role.B
        flags = header[13]
        length = packet[IP].len - packet[IP].ihl * 4 - end
        data = header[end : end + length]
        found.append(Segment(sender, bool(flags & 2), bool(flags & 16), header[20:end], data))
    return found


def secrets(name: str, role: Role) -> dict[str, Any]:
    events = json.loads((PEERS / f"{name}.secrets.json").read_text())[role.name]
    merged: dict[str, Any] = {}
    for event in events:
        merged |= event
    return merged


def stream(found: list[Segment], sender: Role) -> bytes:
    """No segment of these captures is lost or sent twice."""
    return b"".join(s.data for s in found if s.sender is sender)


class KnownKey:
    """A group that makes one pair of keys only."""

    def __init__(self, private: str) -> None:
        self._private = bytes.fromhex(private)

    def generate(self) -> EphemeralKey:
        return group(0x21, STANFORD).from_private(self._private)


class Side:
    """One host of a capture, played by this package."""

    def __init__(self, role: Role, config: Config = CONFIG) -> None:
        self.role = role
        self.config = config
        self.cache = ResumptionCache(config)

    def negotiate(self, found: list[Segment]) -> Negotiated:
        """Say what the daemon said, hear what it heard."""
        opener = Opener.ACTIVE if self.role is Role.A else Opener.PASSIVE
        negotiation = Negotiation(self.config, opener, resumption=self.cache, peer=b"peer")
        for segment in found[:3]:
            if segment.sender is not self.role:
                negotiation.segment_received(segment.syn, segment.ack, segment.options)
                continue
            option = negotiation.option_to_send(segment.syn, segment.ack, 40 - 20)
            at = segment.options.find(b"\xfd")
            recorded = segment.options[at:].rstrip(b"\0") if at >= 0 else b""
            assert option == recorded
        assert isinstance(negotiation.outcome, Negotiated)
        return negotiation.outcome

    def session(self, negotiated: Negotiated, nonce: bytes = b"") -> Session:
        return Session(
            self.config,
            negotiated,
            resumption=self.cache,
            peer=b"peer",
            random=lambda _length: nonce,
        )


def settled(found: list[Segment]) -> list[Segment]:
    """Without the repetitions of the SYN that the redirect mode needs."""
    return [s for i, s in enumerate(found) if not (i and s.syn and not s.ack)]


def play(side: Side, name: str, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A whole fresh connection; every byte that leaves is compared."""
    found = settled(segments(name))
    known = secrets(name, side.role)
    negotiated = side.negotiate(found)
    assert negotiated.eno_transcript.hex() == known["eno_transcript"]
    key = KnownKey(known["ephemeral_private"])
    monkeypatch.setattr("tcpcrypt.core.tep.group", lambda _tep, _profile: key)
    own_init = bytes.fromhex(known["init1" if side.role is Role.A else "init2"])
    nonce_at = 11 if side.role is Role.A else 9
    session = side.session(negotiated, own_init[nonce_at : nonce_at + 32])
    hear_and_say(session, name, side.role)
    assert session.session_id.hex() == known["session_id"]
    assert session.aead == known["sym"]
    return session


def hear_and_say(session: Session, name: str, role: Role) -> None:
    """Give `session` the peer's stream; say what the daemon said, frame by frame."""
    found = settled(segments(name))
    said = drain(session)
    session.receive_data(stream(found, role.peer))
    said += drain(session)
    heard = b""
    while (event := session.next_event()) is not None:
        if isinstance(event, DataReceived):
            heard += bytes(event.data)
    assert heard == b"".join(plaintexts(name)[role.peer])
    for plaintext in plaintexts(name)[role]:
        session.send_data(plaintext)
        said += drain(session)
    session.finish()
    said += drain(session)
    assert said == stream(found, role)
    session.receive_eof()
    assert session.next_event() == StreamEnded(authenticated=False)
    assert session.error is None


def plaintexts(name: str) -> dict[Role, tuple[bytes, ...]]:
    """What a connection carries: the same request and answer each time, but for the date."""
    request = (
        "GET /hello.txt HTTP/1.1\r\nHost: 10.77.0.2\r\n"
        "User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
    )
    head = (
        "HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.7\r\n"
        f"Date: Sat, 21 Nov 2026 {DATES[name]} GMT\r\n"
        "Content-type: text/plain\r\nContent-Length: 21\r\n"
        "Last-Modified: Sat, 21 Nov 2026 01:31:53 GMT\r\n\r\n"
    )
    body = "hello tcpcrypt world\n"
    return {Role.A: (request.encode(),), Role.B: (head.encode(), body.encode())}


each_role = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)


@each_role
@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_connection(name: str, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    play(Side(role), name, monkeypatch)


@each_role
def test_the_connection_that_resumes_it(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(role)
    play(side, FRESH[0], monkeypatch)
    negotiated = side.negotiate(settled(segments(RESUMED)))
    assert negotiated.resuming
    session = side.session(negotiated)
    assert session.session_id.hex() == secrets(RESUMED, role)["session_id"]
    hear_and_say(session, RESUMED, role)
    assert session.resumed


@each_role
def test_the_secrets_that_follow(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(role)
    play(side, FRESH[0], monkeypatch)
    (handle,) = side.cache._table.handles()
    kept = bytearray(32)
    side.cache._table.read(handle, kept)
    assert kept.hex() == secrets(FRESH[0], role)["next_ss"]
