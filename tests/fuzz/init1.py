"""RFC 8548 section 4.1: Init1, and host B that has to do something about it."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.harness import Decisions, outcome, pieces
from support.hosts import Host, connect, drain, events

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Established
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.session import Session
from tcpcrypt.errors import PeerError
from tcpcrypt.registry import INIT1_MAGIC
from tcpcrypt.wire.messages import Init1, message_length
from tcpcrypt.wire.profile import PROFILES

MAX_LEN = 600
TEPS = (0x21, 0x22, 0x23, 0x24)
HOSTS = {tep: Host(Config(teps=(tep,), max_init_len=512)) for tep in TEPS}


def seeds() -> Iterator[bytes]:
    for index, tep in enumerate(TEPS):
        client, _server = connect(HOSTS[tep], HOSTS[tep])
        yield bytes((index, 0)) + drain(client)
    yield bytes((2, 7)) + INIT1_MAGIC + bytes((0, 0, 0, 255, 255))


def settled(session: Session) -> None:
    """It is waiting, has keys, or is over: never between, and never in the clear."""
    found = events(session)
    if session.state is SessionState.ABORTED:
        assert isinstance(session.error, PeerError)
        assert isinstance(found[-1], Aborted)
        assert drain(session) == b"", "an aborted session sends nothing"
    elif session.established:
        assert isinstance(found[0], Established)
        assert len(session.session_id) == 33
    else:
        assert found == []
        assert session.state is SessionState.EXCHANGING


def check(data: bytes) -> None:
    decisions = Decisions(data)
    tep, step = TEPS[decisions.number() % len(TEPS)], decisions.number()
    message = decisions.rest()
    outcome(lambda: message_length(message, INIT1_MAGIC, 512))
    for profile in PROFILES.values():
        try:
            parsed = Init1.parse(message, 32, profile)
        except PeerError:
            continue
        if 0 not in parsed.ciphers:  # not ours to write
            assert parsed.build(profile) == message
    _client, server = connect(HOSTS[tep], HOSTS[tep])
    server.send_data(b"secret")
    for piece in pieces(message, step):
        server.receive_data(piece)
    if not server.established:
        assert b"secret" not in drain(server)
    settled(server)
