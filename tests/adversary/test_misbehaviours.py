"""Each misbehaviour of `peer`, played against the public core: how this side has to end.

The names are those of the tables; `-A` and `-B` tell the role of who misbehaves.
"""

import pytest
from adversary.subject import ROOM, TestedHost
from peer.authenticating import HINT, PSK, SUBJECT_STATIC, AuthenticatingHost
from peer.faulty_authentication import AUTHENTICATION
from peer.faulty_endings import ENDINGS
from peer.faulty_frames import FRAMES
from peer.faulty_handshakes import HANDSHAKES
from peer.faulty_init import INIT
from peer.faulty_keys import KEYS
from peer.faulty_options import OPTIONS
from peer.faulty_resumption import RESUMPTION
from peer.frames import Refused
from peer.host import Host
from peer.misbehaviour import Misbehaviour
from peer.scripts import REPLY, connect, converse
from support.terms import Conditions, needs_psk, only

from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.psk import Psk
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.core.config import Config
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.negotiation import Fallback
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    HandshakeTimeoutError,
    IdentityChangedError,
    IntegrityError,
    PeerError,
    PeerReason,
    ResetError,
    TruncationError,
)

TABLES = (OPTIONS, HANDSHAKES, INIT, KEYS, RESUMPTION, FRAMES, ENDINGS, AUTHENTICATION)
MISBEHAVIOURS = [entry for table in TABLES for entry in table]
RUNS = [
    pytest.param(entry, role, ends, id=f"{entry.name}-{role}")
    for entry in MISBEHAVIOURS
    for role, ends in (("A", entry.a), ("B", entry.b))
    if ends is not None
]
CLASS = {
    PeerReason.FRAME_TAG: IntegrityError,
    PeerReason.TRUNCATED: TruncationError,
    PeerReason.FIN_DURING_EXCHANGE: TruncationError,
    PeerReason.RESET: ResetError,
    PeerReason.TIMEOUT: HandshakeTimeoutError,
    PeerReason.AUTHENTICATION: AuthenticationError,
    PeerReason.IDENTITY_CHANGED: IdentityChangedError,
}
"""The class of the error, where it is not `PeerError` itself."""
SECRET = b"never to be seen in clear: " + bytes(range(64))


def subject_config(entry: Misbehaviour) -> Config:
    settings = {"teps": entry.teps, "aeads": entry.aeads, **entry.subject}
    if entry.version:
        settings["extensions"] = {0x20: AuthenticatedTep(subject_terms(entry))}
    return Config(**settings)


def subject_terms(entry: Misbehaviour) -> Conditions:
    """The subject always shows its key; the rest is as the entry has it."""
    psk, accept = None, lambda _proof: True
    if "psk" in entry.terms:
        psk = Psk("office", HINT, Secret(PSK))
    if "only" in entry.terms:
        accept = only(entry.terms["only"])
    if "needs_psk" in entry.terms:
        accept = needs_psk("office")
    identity = Identity.from_private(SUBJECT_STATIC)
    changed = bool(entry.terms.get("changed"))
    return Conditions(identity, (entry.version,), psk, [psk] if psk else [], accept, changed)


def make_host(entry: Misbehaviour, role: str, **more) -> Host:
    if entry.version:
        more |= {"version": entry.version}
        return AuthenticatingHost(role, aeads=entry.aeads, **entry.host, **more)
    return Host(role, teps=entry.teps, aeads=entry.aeads, **more)


def earlier_sessions(
    entry: Misbehaviour, role: str, config: Config, cache: ResumptionCache
) -> Host | None:
    """Honest sessions, each resuming the last; the host of the last, if there was one."""
    if entry.swapped:
        role = "B" if role == "A" else "A"
    host: Host | None = None
    for number in range(entry.resumes):
        remembered = host.remembered if host is not None else None
        host = make_host(entry, role, remembered=remembered, seed=str(number))
        subject = TestedHost(config, opens=role == "B", cache=cache)
        assert connect(host, subject)
        assert host.resuming is (number > 0)
        converse(host, subject)
    return host


def play(entry: Misbehaviour, role: str) -> tuple[Host, TestedHost]:
    config = subject_config(entry)
    cache = ResumptionCache(config)
    earlier = earlier_sessions(entry, role, config, cache)
    host = make_host(entry, role, quirk=entry.name)
    if earlier is not None:
        host.remembered, host.previous = earlier.remembered, earlier.previous
    subject = TestedHost(config, opens=role == "B", cache=cache)
    entry.play(host, subject)
    return host, subject


@pytest.mark.parametrize(("entry", "role", "ends"), RUNS)
def test_a_misbehaving_peer_is_taken_as_the_rfc_says(entry, role, ends) -> None:
    host, subject = play(entry, role)
    assert REPLY not in subject.wire, "nothing of the application is ever sent in clear"
    if entry.name.startswith(("resumed-", "ta-resumed-")):
        assert host.resuming
    kind, _, reason = ends.partition(" ")
    if kind == "plain":
        assert_plain(subject, FallbackReason[reason])
    elif kind == "abort":
        assert_aborted(subject, PeerReason[reason])
    elif kind == "ended":
        assert subject.error is None
        assert subject.ended
    else:
        assert subject.negotiation.outcome is not None, "the handshake did not end"
        assert not subject.over, (subject.negotiation.outcome, subject.error)
        if kind in {"fresh", "resumed"}:
            assert host.resuming is (kind == "resumed")
        else:
            assert kind == "works"
        assert subject.established is not None
        assert subject.established.session_id == host.session_id
        assert subject.urgent == host.writer.urgent
        converse(host, subject)


def assert_plain(subject: TestedHost, reason: FallbackReason) -> None:
    """RFC 8547 section 4.6: plain TCP, and no ENO option any more."""
    assert subject.negotiation.outcome == Fallback(reason)
    assert subject.session is None
    assert subject.negotiation.finished
    for syn, ack in ((True, False), (True, True), (False, True)):
        assert subject.option(syn, ack) == b""
        subject.segment(syn, ack, b"\x45\x03\x23\x01")
    assert subject.negotiation.outcome == Fallback(reason), "nothing enables encryption later"


def assert_aborted(subject: TestedHost, reason: PeerReason) -> None:
    """Encryption was on: an error, never an end of file, and never plain TCP."""
    error, session = subject.error, subject.session
    assert error is not None, f"no error; {subject.negotiation.outcome}, {subject.events}"
    assert error.reason is reason
    assert type(error) is CLASS.get(reason, PeerError)
    if reason in {PeerReason.AUTHENTICATION, PeerReason.IDENTITY_CHANGED}:
        assert subject.established is None
        assert subject.received == b""
    assert session is not None
    assert session.state is SessionState.ABORTED
    assert [event.error for event in subject.aborts] == [error]
    assert subject.events[-1] is subject.aborts[0]
    with pytest.raises(type(error)) as raised:
        subject.send(SECRET)
    assert raised.value is error
    assert subject.sent() == b"", "a session that was aborted says nothing more"
    assert not session.fin_queued
    heard = len(subject.events)
    subject.receive(b"\x00" * 100)
    subject.eof()
    subject.reset()
    subject.too_late()
    assert len(subject.events) == heard, "nothing is reported behind the abort"


def test_every_name_is_one_and_there_are_enough() -> None:
    names = [entry.name for entry in MISBEHAVIOURS]
    assert len(set(names)) == len(names)
    assert all(entry.a is not None or entry.b is not None for entry in MISBEHAVIOURS)
    assert len(names) >= 150


def test_a_wire_that_is_refused_is_refused_by_the_second_implementation_too() -> None:
    """The judge is not blind: a tested host that lies is found out."""
    config = Config(teps=(0x23,))
    host = Host("A")
    subject = TestedHost(config, opens=False, cache=ResumptionCache(config))
    assert connect(host, subject)
    subject.send(SECRET)
    wire = bytearray(subject.sent())
    wire[-1] ^= 1
    with pytest.raises(Refused, match="tag"):
        host.read(bytes(wire))
    assert SECRET not in subject.wire
    assert ROOM == 40
