"""RFC 8548 section 3.5: the cache of one-use secrets, on both twins."""

import pytest
from support.hosts import Host, connect, exchange, negotiate

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.negotiation import Opener
from tcpcrypt.core.resumption import ResumptionCache, Ticket
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret


def secret(fill: int, index: int = 1) -> SessionSecret:
    return SessionSecret(Secret(bytes([fill]) * 32), index)


def stored(cache: ResumptionCache, fill: int = 7, role: Role = Role.A, peer: bytes = b"p") -> int:
    return cache.store(peer, tep=0x23, aead=2, original_role=role, secret=secret(fill))


def test_identifiers_are_the_halves_of_resume() -> None:
    for role in Role:
        cache = ResumptionCache(Config())
        stored(cache, role=role)
        ticket = cache.offer(b"p", (0x23,))
        assert ticket is not None
        halves = secret(7).resume_ids()
        assert ticket.own_identifier == halves[role]
        assert ticket.peer_identifier == halves[role.peer]
        assert (ticket.tep, ticket.aead, ticket.original_role) == (0x23, 2, role)
        assert ticket.secret.index == 1
        assert ticket.successor_kept


def test_opening_takes_the_lowest_unused_index_and_never_again() -> None:
    cache = ResumptionCache(Config())
    stored(cache)
    indices = []
    for _ in range(5):
        ticket = cache.offer(b"p", (0x23,))
        assert ticket is not None
        indices.append(ticket.secret.index)
        assert cache.offer(b"p", (0x23,)) is None, "one handshake at a time"
        cache.release(ticket)
        cache.release(ticket)
    assert indices == [1, 2, 3, 4, 5]
    assert len(cache) == 1


def test_parallel_handshakes_spend_different_chains() -> None:
    cache = ResumptionCache(Config())
    for fill in range(3):
        stored(cache, fill)
    tickets = [cache.offer(b"p", (0x23,)) for _ in range(4)]
    assert tickets.pop() is None
    assert [ticket and ticket.secret.index for ticket in tickets] == [1, 1, 1]
    assert len({ticket and ticket.chain for ticket in tickets}) == 3
    # The peer's SYN may not take what an own one is about to move either.
    following = secret(0).peek_next().resume_ids()[Role.B]
    assert cache.recognise(0x23, following) is None
    second = tickets[1]
    assert second is not None
    cache.release(second)
    again = cache.offer(b"p", (0x23,))
    assert again is not None
    assert (again.chain, again.secret.index) == (second.chain, 2)


def test_a_listener_keeps_the_next_secret_as_soon_as_one_is_spent() -> None:
    cache = ResumptionCache(Config(resumption_window=1))
    stored(cache, role=Role.B)
    first, second = secret(7), secret(7).peek_next()
    found = cache.recognise(0x23, first.resume_ids()[Role.A])
    assert found is not None
    assert cache.recognise(0x23, second.resume_ids()[Role.A]) is None, "not yet"
    ticket = cache.commit(found)
    assert ticket is not None
    assert ticket.successor_kept
    found = cache.recognise(0x23, second.resume_ids()[Role.A])
    assert found is not None
    last = cache.commit(found, keep=False)
    assert last is not None
    assert (last.chain, last.secret.index, last.successor_kept) == (ticket.chain, 2, False)
    assert len(cache) == 0


def test_what_a_syn_ack_promised_is_kept_while_newer_secrets_fill_the_table() -> None:
    cache = ResumptionCache(Config(cache_per_peer=2))
    stored(cache, 7, role=Role.B)
    found = cache.recognise(0x23, secret(7).resume_ids()[Role.A])
    assert found is not None
    for fill in range(3):
        stored(cache, fill)
    ticket = cache.commit(found)
    assert ticket is not None
    assert ticket.secret.take() == secret(7).take()
    assert cache.commit(found) is None, "spent"


def test_flushing_reaches_what_was_promised() -> None:
    cache = ResumptionCache(Config())
    ids = {}
    for fill, peer in ((7, b"one"), (8, b"two"), (9, b"three")):
        chain = stored(cache, fill, role=Role.B, peer=peer)
        ids[peer] = cache.recognise(0x23, secret(fill).resume_ids()[Role.A])
    assert all(ids.values())
    assert cache.drop(chain)
    assert cache.flush(b"one") == 1
    assert [cache.commit(ids[peer]) is None for peer in ids] == [True, False, True]  # type: ignore[arg-type]
    stored(cache, 7, role=Role.B)
    found = cache.recognise(0x23, secret(7).resume_ids()[Role.A])
    assert found is not None
    assert cache.flush() == 2
    assert cache.commit(found) is None


def test_a_listener_recognises_a_window_of_indices() -> None:
    cache = ResumptionCache(Config(resumption_window=3))
    stored(cache, role=Role.B)
    chain = [secret(7)]
    for _ in range(3):
        chain.append(chain[-1].peek_next())
    identifiers = [step.resume_ids()[Role.A] for step in chain]
    assert cache.recognise(0x23, identifiers[3]) is None
    assert cache.recognise(0x24, identifiers[0]) is None, "of another TEP"
    for position in (0, 2, 1):
        found = cache.recognise(0x23, identifiers[position])
        assert found is not None
        assert found.position == position
        assert found.own_identifier == chain[position].resume_ids()[Role.B]
        assert cache.recognise(0x23, identifiers[0]) is None, "one handshake at a time"
        cache.release(found)
    found = cache.recognise(0x23, identifiers[1])
    assert found is not None
    ticket = cache.commit(found, keep=False)
    assert isinstance(ticket, Ticket)
    assert ticket.secret.index == 2
    assert cache.commit(found) is None, "spent"
    assert all(cache.recognise(0x23, i) is None for i in identifiers), "earlier ones are void"


def test_to_know_a_session_holds_nothing() -> None:
    cache = ResumptionCache(Config())
    stored(cache, role=Role.B)
    identifier = secret(7).resume_ids()[Role.A]
    for _ in range(2):
        assert cache.knows(0x23, identifier)
    assert not cache.knows(0x24, identifier)
    assert not cache.knows(0x23, bytes(9))
    assert cache.recognise(0x23, identifier) is not None


def test_a_window_of_one_recognises_the_next_index_alone() -> None:
    cache = ResumptionCache(Config(resumption_window=1))
    stored(cache, role=Role.B)
    assert cache.recognise(0x23, secret(7).resume_ids()[Role.A]) is not None
    assert cache.recognise(0x23, secret(7).peek_next().resume_ids()[Role.A]) is None


def test_bounded_in_all_and_for_each_peer() -> None:
    cache = ResumptionCache(Config(cache_capacity=4, cache_per_peer=2))
    for fill in range(10):
        stored(cache, fill, peer=b"one")
    assert len(cache) == 2
    for fill in range(10, 14):
        stored(cache, fill, peer=bytes([fill]))
    assert len(cache) == 4


def test_flush_one_peer_all_and_one_record() -> None:
    cache = ResumptionCache(Config())
    stored(cache, 1, peer=b"one")
    handle = stored(cache, 2, peer=b"two")
    stored(cache, 3, peer=b"two")
    assert cache.drop(handle)
    assert not cache.drop(handle)
    assert cache.flush(b"one") == 1
    assert cache.flush() == 1
    assert cache.offer(b"two", (0x23,)) is None


def test_a_hold_ends_with_time_and_holds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    cache = ResumptionCache(Config(cache_per_peer=8), clock=lambda: now[0])
    stored(cache, 7, role=Role.B)
    chain = [secret(7)]
    for _ in range(2):
        chain.append(chain[-1].peek_next())
    identifiers = [step.resume_ids()[Role.A] for step in chain]
    slow = cache.recognise(0x23, identifiers[0])
    assert slow is not None
    assert cache.offer(b"p", (0x23,)) is None
    now[0] = 31.0
    quick = cache.recognise(0x23, identifiers[1])
    assert quick is not None
    # The slow one comes first after all, and has its own secret, not the other's.
    ticket = cache.commit(slow)
    assert ticket is not None
    assert ticket.secret.index == 1
    assert cache.commit(quick) is None
    for fill in range(2):
        stored(cache, fill)
    monkeypatch.setattr("tcpcrypt.core.resumption._HOLDS_MAX", 1)
    for fill in range(2):
        assert cache.recognise(0x23, secret(fill).resume_ids()[Role.B]) is not None
    assert len(cache._holds) == 1
    now[0] = 62.0
    assert cache.offer(b"p", (0x23,)) is not None


def test_a_hold_is_over_at_its_very_moment() -> None:
    now = [0.0]
    cache = ResumptionCache(Config(), clock=lambda: now[0])
    stored(cache, 7, role=Role.B)
    assert cache.recognise(0x23, secret(7).resume_ids()[Role.A]) is not None
    now[0] = 30.0 - 0.001
    assert cache.offer(b"p", (0x23,)) is None
    now[0] = 30.0
    assert cache.offer(b"p", (0x23,)) is not None


def test_chains_are_bounded_with_the_cache() -> None:
    cache = ResumptionCache(Config(cache_capacity=2))
    chains = [stored(cache, fill, peer=bytes([fill])) for fill in range(4)]
    assert len(cache._chains) == 2
    assert [cache.drop(chain) for chain in chains] == [False, False, True, True]


@pytest.mark.parametrize("moment", ["newest", "lookup"])
def test_a_record_that_goes_meanwhile_is_not_used(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding and reading, a fork or an eviction may take the record."""
    cache = ResumptionCache(Config())
    stored(cache)

    class Gone:
        def newest(self, peer: bytes) -> int | None:
            return 99

        def older(self, handle: int) -> int | None:
            return None

        def lookup(self, identifier: bytes) -> tuple[int, int] | None:
            return (99, 0)

        def read(self, handle: int, buffer: bytearray) -> None:
            return None

    monkeypatch.setattr(cache, "_table", Gone())
    if moment == "newest":
        assert cache.offer(b"p", (0x23,)) is None
    else:
        assert cache.recognise(0x23, bytes(9)) is None


def test_of_several_chains_the_newest_that_will_do_is_offered() -> None:
    cache = ResumptionCache(Config())
    for fill, tep in ((1, 0x20), (2, 0x20), (3, 0x23)):
        cache.store(b"p", tep=tep, aead=1, original_role=Role.A, secret=secret(fill),
                    peer_identity=bytes([fill]))  # fmt: skip
    asked = []

    def first_only(ticket: Ticket) -> bool:
        asked.append(ticket)
        return ticket.peer_identity == b"\x01"

    assert cache.offer(b"p", ()) is None
    ticket = cache.offer(b"p", (0x20,), may_resume=first_only)
    assert ticket is not None
    assert [t.peer_identity for t in asked] == [b"\x02", b"\x01"]
    assert asked[0].secret._ss.wiped, "what was not taken leaves no copy"
    assert ticket.secret.take() == secret(1).take()
    assert cache.offer(b"p", (0x20,), may_resume=first_only) is None, "held"
    assert len(cache) == 3


def test_chains_end_with_their_lifetime() -> None:
    now = [50.0]
    cache = ResumptionCache(Config(), clock=lambda: now[0])
    assert cache.expiry(None) == float("inf")
    end = cache.expiry(100)
    assert end == 150
    for fill in (1, 2):
        cache.store(b"p", tep=0x23, aead=1, original_role=Role.B, secret=secret(fill), expires=end)
    stored(cache, 3, peer=b"other")
    found = cache.recognise(0x23, secret(2).resume_ids()[Role.A])
    assert found is not None
    now[0] = 149.9
    ticket = cache.commit(found)
    assert ticket is not None
    assert ticket.expires == end, "what comes of it ends with it"
    now[0] = 150.0
    assert cache.recognise(0x23, secret(1).resume_ids()[Role.A]) is None
    assert len(cache) == 2, "what is past its end goes when it is met"
    assert cache.offer(b"p", (0x23,)) is None
    assert len(cache) == 1
    assert cache.offer(b"other", (0x23,)) is not None


@pytest.mark.parametrize("expires", [10.0, 600.0])
def test_what_nobody_asks_for_goes_too_after_its_lifetime(expires: float) -> None:
    now = [0.0]
    cache = ResumptionCache(Config(), clock=lambda: now[0])
    cache.store(b"p", tep=0x23, aead=1, original_role=Role.B, secret=secret(1), expires=expires)
    stored(cache, 2)
    now[0] = 599.0
    assert cache.offer(b"x", (0x23,)) is None
    assert len(cache) == 2
    now[0] = 600.0
    assert cache.offer(b"x", (0x23,)) is None
    assert len(cache) == 1


def test_what_is_past_its_lifetime_is_forgotten_by_who_proved_it_as_well() -> None:
    now = [0.0]
    cache = ResumptionCache(Config(), clock=lambda: now[0])
    cache.store(
        b"p",
        tep=0x23,
        aead=1,
        original_role=Role.B,
        secret=secret(1),
        peer_identity=b"who",
        expires=10.0,
    )
    now[0] = 11.0
    assert cache.flush_identity(lambda identity: identity == b"who") == 1
    assert len(cache) == 0


def test_flushing_by_what_was_proved() -> None:
    cache = ResumptionCache(Config(cache_per_peer=2))
    for fill, proved in ((1, b"good"), (2, b"bad"), (3, b"bad"), (4, None)):
        cache.store(bytes([fill]), tep=0x20, aead=1, original_role=Role.B, secret=secret(fill),
                    peer_identity=proved)  # fmt: skip
    promised = cache.recognise(0x20, secret(2).resume_ids()[Role.A])
    assert promised is not None
    for fill in (7, 8):  # they push out the record of what was promised
        cache.store(b"\x02", tep=0x20, aead=1, original_role=Role.B, secret=secret(fill),
                    peer_identity=b"good")  # fmt: skip
    assert cache.flush_identity(lambda proved: proved == b"bad") == 2
    assert cache.commit(promised) is None
    assert cache.recognise(0x20, secret(3).resume_ids()[Role.A]) is None
    assert cache.recognise(0x20, secret(1).resume_ids()[Role.A]) is not None
    assert len(cache) == 4
    kept = cache.offer(b"\x02", (0x20,))
    assert kept is not None
    assert cache.flush_identity(lambda proved: proved == b"never") == 0
    assert cache.flush_identity(lambda _: True) == 3, "not what proved nothing"
    for fill in (1, 2):
        cache.store(b"p", tep=0x20, aead=1, original_role=Role.B, secret=secret(fill),
                    peer_identity=b"good")  # fmt: skip
    assert cache.flush_identity(lambda _: cache.flush() == 0) == 0, "whatever it does itself"


def test_a_secret_that_negotiation_did_not_keep_is_kept_with_its_end() -> None:
    """Where the two are configured apart; the chain's end stays what it was."""
    now = [0.0]
    client, server = Host(), Host()
    client.cache._clock = lambda: now[0]
    client.cache.store(client.peer, tep=0x23, aead=1, original_role=Role.A, secret=secret(7),
                       expires=100.0)  # fmt: skip
    server.cache.store(server.peer, tep=0x23, aead=1, original_role=Role.B, secret=secret(7))
    keeping, client.config = client.config, Config(cache=False)
    active = client.negotiation(Opener.ACTIVE)
    negotiate(active, server.negotiation(Opener.PASSIVE))
    assert len(client.cache) == 0
    client.config = keeping
    client.session(active)
    now[0] = 99.0
    ticket = client.cache.offer(client.peer, (0x23,))
    assert ticket is not None
    assert (ticket.secret.index, ticket.expires) == (2, 100.0)


def test_a_session_works_on_whichever_twin_is_in_use(twin, monkeypatch) -> None:
    for name in ("FrameSealer", "FrameOpener", "SessionCache", "parse_eno", "walk_options"):
        monkeypatch.setattr(_fast, name, getattr(twin, name))
    client, server = Host(), Host()
    for resumed in (False, True, True):
        one, other = connect(client, server)
        one.send_data(b"x" * 100_000)
        other.send_data(b"y" * 100_000)
        exchange(one, other, step=7919)
        assert one.session_id == other.session_id
        assert one.resumed is resumed
