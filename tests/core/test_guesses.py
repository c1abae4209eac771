"""A million guessed resumption identifiers, and clocks that jump: nothing comes of either.

RFC 8548 section 3.5: an identifier is half of a 18-byte hash; who has not seen it
has to guess 72 bits.
"""

from __future__ import annotations

import random
import tracemalloc

from support.hosts import Host, connect, events, exchange, open_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import HandshakeTimeoutError
from tcpcrypt.registry import RESUME_ID_LEN, SUBOPTION_V, Tep

GUESSES = 1_000_000
BY_NAME = 10_000
"""Of them as a SYN brings them."""
SECRETS = 32
GROWTH_MAX = 64 << 10
"""Bytes; a guess that were remembered would cost some hundred of them."""


def test_a_million_guesses_find_nothing_and_leave_nothing() -> None:
    tep = Tep.ECDHE_CURVE25519
    server = Host(Config(teps=(tep,)))
    clients = [Host(server.config) for _ in range(SECRETS)]
    for number, client in enumerate(clients):
        server.peer = b"client %d" % number
        open_pair(client, server)
    cache = server.cache
    assert len(cache) == SECRETS
    octets = random.Random(11).randbytes(GUESSES + RESUME_ID_LEN)
    found = 0
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        for at in range(BY_NAME):
            found += cache.recognise(tep, octets[at : at + RESUME_ID_LEN]) is not None
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # The rest in the table itself, which is what answers; a name is a TEP and an identifier.
    lookup = cache._table.lookup
    name = bytes((tep | SUBOPTION_V,))
    found += sum(
        lookup(name + octets[at : at + RESUME_ID_LEN]) is not None for at in range(BY_NAME, GUESSES)
    )
    assert found == 0
    assert grown < GROWTH_MAX
    assert not cache._holds
    assert len(cache) == SECRETS
    # Whoever has the right one is known as before.
    one, other = connect(clients[7], server)
    exchange(one, other)
    assert one.resumed
    assert one.session_id == other.session_id


class Clock:
    """Seconds that go where they are sent."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_jumps_ends_exchanges_and_nothing_else() -> None:
    clock = Clock()
    client, server = Host(), Host()
    one, other = connect(client, server, strip=())
    one._clock = other._clock = clock
    one.deadline = other.deadline = clock() + 10
    clock.now -= 1e9
    one.handle_timeout()
    assert events(one) == []
    clock.now += 2e9
    one.handle_timeout()
    (aborted,) = events(one)
    assert isinstance(aborted, Aborted)
    assert isinstance(aborted.error, HandshakeTimeoutError)
    one, other = open_pair(client, server)
    for jump in (-3e9, 6e9):
        clock.now += jump
        one.handle_timeout()
        one.send_data(b"still here")
        exchange(one, other)
        assert events(other)
        assert one.error is None


def test_a_clock_that_jumps_frees_what_is_held_and_keeps_what_has_no_end() -> None:
    """A hold that the clock has left behind or ahead is no lock for ever."""
    clock = Clock()
    client, server = Host(), Host()
    server.cache = ResumptionCache(server.config, clock=clock)
    open_pair(client, server)
    for jump in (-1e6, 2e6, 1e6):
        clock.now += jump
        one, other = connect(client, server)
        exchange(one, other)
        assert one.session_id == other.session_id
        assert len(server.cache) == 1
