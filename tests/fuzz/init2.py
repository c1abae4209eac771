"""RFC 8548 section 4.1: Init2, and host A whose Init1 it answers."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.harness import Decisions, outcome, pieces
from fuzz.init1 import HOSTS, TEPS, settled
from support.hosts import connect, drain

from tcpcrypt.errors import PeerError
from tcpcrypt.registry import INIT2_MAGIC
from tcpcrypt.wire.messages import Init2, message_length
from tcpcrypt.wire.profile import PROFILES

MAX_LEN = 600


def seeds() -> Iterator[bytes]:
    for index, tep in enumerate(TEPS):
        client, server = connect(HOSTS[tep], HOSTS[tep])
        server.receive_data(drain(client))
        yield bytes((index, 0)) + drain(server)
    yield bytes((3, 1)) + INIT2_MAGIC + bytes((0, 0, 0, 8))


def check(data: bytes) -> None:
    decisions = Decisions(data)
    tep, step = TEPS[decisions.number() % len(TEPS)], decisions.number()
    message = decisions.rest()
    outcome(lambda: message_length(message, INIT2_MAGIC, 512))
    for profile in PROFILES.values():
        try:
            parsed = Init2.parse(message, 32, profile)
        except PeerError:
            continue
        if parsed.cipher:  # 0 is not ours to write
            assert parsed.build(profile) == message
    client, _server = connect(HOSTS[tep], HOSTS[tep])
    client.send_data(b"secret")
    assert b"secret" not in drain(client)
    for piece in pieces(message, step):
        client.receive_data(piece)
    if not client.established:
        assert b"secret" not in drain(client)
    settled(client)
