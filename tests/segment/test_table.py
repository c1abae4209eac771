"""Which connection a packet belongs to, and what becomes of those that belong to none."""

import pytest
from segment.model import ACK, RST, SYN, TcpFlags
from segment.path import CLIENT, SERVER

from tcpcrypt.core.config import Config
from tcpcrypt.segment import table as module
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.packets import Header, make_packet
from tcpcrypt.segment.table import Key, Table
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import parse_options

THERE, BACK = (CLIENT, 4000, SERVER, 80), (SERVER, 80, CLIENT, 4000)
MSS = b"\x02\x04\x05\xb4"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def segment(
    flow: tuple[bytes, int, bytes, int],
    flags: TcpFlags,
    seq: int = 100,
    ack: int = 0,
    *,
    data: bytes = b"",
    options: bytes = b"",
) -> bytes:
    header = Header(seq=seq, ack=ack, flags=flags, window=1000, options=options)
    return make_packet(flow, header, data)


def table(config: Config | None = None, **more: object) -> Table:
    chosen = Config() if config is None else config
    return Table(lambda _key, _side, _forwarded: chosen, **more)  # type: ignore[arg-type]


def test_a_syn_begins_a_connection_and_carries_the_option() -> None:
    one = table()
    key, outcome = one.take(Side.INNER, segment(THERE, SYN, options=MSS))
    assert key == THERE
    assert list(one.flows) == [THERE]
    [(to, packet)] = outcome.packets
    assert to is Side.OUTER
    assert bytes(Segment.parse(packet).options)[4] == 69


def test_both_directions_are_one_connection() -> None:
    one = table()
    key, _ = one.take(Side.OUTER, segment(BACK, SYN, options=MSS))
    assert key == THERE


def test_what_is_not_known_fails_closed() -> None:
    one = table()
    key, outcome = one.take(Side.INNER, segment(THERE, ACK, ack=77, data=b"in the clear"))
    assert key is None
    assert not outcome.passed
    [(to, packet)] = outcome.packets
    reset = Segment.parse(packet)
    assert (to, reset.flags, reset.seq, reset.flow) == (Side.INNER, RST, 77, BACK)
    for side, packet in (
        (Side.OUTER, segment(BACK, ACK, data=b"x")),
        (Side.INNER, segment(THERE, TcpFlags(0), data=b"x")),
        (Side.INNER, b"no packet"),
    ):
        _, outcome = one.take(side, packet)
        assert not outcome.packets
        assert not outcome.passed
    _, outcome = one.take(Side.OUTER, segment(BACK, RST))
    assert outcome.passed
    assert not one.flows


def test_what_policy_leaves_alone_passes_untouched() -> None:
    one = Table(lambda _key, _side, _forwarded: None)
    for packet in (segment(THERE, SYN, options=MSS), segment(THERE, ACK, data=b"plain")):
        _, outcome = one.take(Side.INNER, packet)
        assert outcome.passed
        assert not outcome.packets


@pytest.mark.parametrize("kind", [19, 29])
def test_rfc2385_a_segment_that_is_signed_is_not_touched(kind: int) -> None:
    one = table()
    options = bytes((kind, 18)) + bytes(16) + b"\1\1"
    syn = segment(THERE, SYN, options=options)
    _, outcome = one.take(Side.INNER, syn)
    assert outcome.passed
    # But not in clear where encryption is required.
    strict = table(Config(require_encryption=True))
    _, outcome = strict.take(Side.INNER, syn)
    assert not outcome.passed
    [(to, packet)] = outcome.packets
    answer = Segment.parse(packet)
    assert (to, answer.flags, answer.ack) == (Side.INNER, RST | ACK, 101)


@pytest.mark.parametrize("kind", [30, 34])
def test_rfc8547_4_7_multipath_and_fast_open_are_not_asked_for(kind: int) -> None:
    one = table()
    options = MSS + bytes((kind, 4)) + b"ab"
    _, outcome = one.take(Side.INNER, segment(THERE, SYN, options=options, data=b"early"))
    sent = Segment.parse(outcome.packets[0][1])
    assert len(sent.payload) == 0
    assert kind not in {option.kind for option in parse_options(sent.options)}


def test_a_port_is_used_again_once_its_connection_is_over() -> None:
    clock = Clock()
    one = table(clock=clock)
    one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))
    first = one.flows[THERE]
    # The SYN is repeated: the same connection.
    one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))
    assert one.flows[THERE] is first
    first.abort()
    _, outcome = one.take(Side.INNER, segment(THERE, SYN, 9_999, options=MSS))
    assert one.flows[THERE] is not first
    assert Segment.parse(outcome.packets[0][1]).seq == 9_999


def test_handshakes_that_lead_to_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEGINNING_MAX", 10)
    clock = Clock()
    one = table(clock=clock)
    for port in range(30):
        flow = (SERVER, 1000 + port, CLIENT, 4000)
        one.take(Side.OUTER, segment(flow, SYN, options=MSS + b"\x45\x03\x23\0"))
    assert len(one.flows) == 10
    assert one.sweep() == 0
    clock.now += 131
    assert one.sweep() == 10
    assert not one.flows


def test_a_flood_of_plain_syns_is_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEGINNING_MAX", 10)
    one = table()
    for port in range(30):
        one.take(Side.OUTER, segment((SERVER, 1000 + port, CLIENT, 4000), SYN, options=MSS))
    assert len(one.flows) == 10


@pytest.mark.parametrize("ends", [RST, TcpFlags.FIN | ACK])
def test_a_connection_in_the_clear_that_is_over_is_forgotten(ends: TcpFlags) -> None:
    clock = Clock()
    one = table(clock=clock)
    one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 201))
    one.take(Side.OUTER, segment(BACK, ACK, 201, 101))
    assert one.take(Side.INNER, segment(THERE, ends, 101, 201))[1].passed
    assert one.take(Side.OUTER, segment(BACK, ends, 201, 102))[1].passed
    assert one.take(Side.INNER, segment(THERE, ACK, 102, 202))[1].passed
    assert one.sweep() == 0
    clock.now += 61
    assert one.sweep() == 1


def test_a_connection_in_the_clear_is_forgotten_after_a_day() -> None:
    clock = Clock()
    one = table(clock=clock)
    one.take(Side.OUTER, segment(BACK, SYN, options=MSS))  # without ENO
    assert one.flows[THERE].plain
    one.take(Side.INNER, segment(THERE, SYN | ACK))
    one.take(Side.INNER, segment(THERE, ACK))
    clock.now += 86_000
    assert one.sweep() == 0
    clock.now += 500
    assert one.sweep() == 1


def test_events_name_their_connection() -> None:
    heard: list[tuple[Key, str]] = []
    one = table(report=lambda key, event, _fields: heard.append((key, event)))
    one.take(Side.OUTER, segment(BACK, SYN, options=MSS))
    assert heard == [(THERE, "fallback")]
    assert one.close() == []
    # It ends: nobody begins any more, and what is plain goes on meanwhile.
    assert one.take(Side.INNER, segment((CLIENT, 1, SERVER, 80), SYN, options=MSS))[1].packets == []
    one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 101))
    assert one.take(Side.INNER, segment(THERE, ACK, data=b"plain"))[1].passed


@pytest.mark.parametrize("insists", [False, True])
def test_rfc8547_4_6_a_path_that_swallows_the_option_is_left_plain_unless_policy_insists(
    insists: bool,
) -> None:
    one = table(Config(require_encryption=insists))
    carried = []
    for _ in range(5):
        _, outcome = one.take(Side.INNER, segment(THERE, SYN, options=MSS))
        leaving = [packet for _, packet in outcome.packets] or [segment(THERE, SYN, options=MSS)]
        carried.append(69 in [o.kind for o in parse_options(Segment.parse(leaving[0]).options)])
    assert carried == [True] * 3 + [insists] * 2
    assert one.flows[THERE].plain is not insists


ENO = b"\x45\x03\x23\0"


def opened_from_outside(one: Table, seq: int = 200) -> None:
    """A connection without ENO."""
    one.take(Side.OUTER, segment(BACK, SYN, seq, options=MSS))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 100, seq + 1))
    one.take(Side.OUTER, segment(BACK, ACK, seq + 1, 101))


def test_a_plain_peer_may_be_silent_at_first_for_longer_than_a_handshake_takes() -> None:
    clock = Clock()
    one = table(clock=clock)
    opened_from_outside(one)
    clock.now += 131
    assert one.sweep() == 0
    assert one.take(Side.OUTER, segment(BACK, ACK, 201, 101, data=b"at last"))[1].passed


def test_so_may_one_whose_option_got_lost_in_the_last_segment_of_the_handshake() -> None:
    clock = Clock()
    one = table(clock=clock)
    one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS + ENO))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 201, options=MSS))
    assert one.take(Side.OUTER, segment(BACK, ACK, 201, 101))[1].passed
    assert one.flows[THERE].plain
    clock.now += 131
    assert one.sweep() == 0


def test_who_guesses_the_answer_to_his_syn_is_forgotten_with_it() -> None:
    clock = Clock()
    one = table(clock=clock)
    one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 201))
    one.take(Side.OUTER, segment(BACK, ACK, 201, 777))
    clock.now += 131
    assert one.sweep() == 1


@pytest.mark.parametrize("option", [b"", ENO])
def test_a_strangers_syn_keeps_no_inner_host_from_the_same_ports(option: bytes) -> None:
    one = table()
    one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS + option))
    _, outcome = one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))
    [(to, packet)] = outcome.packets
    assert to is Side.OUTER
    assert 69 in [option.kind for option in parse_options(Segment.parse(packet).options)]


@pytest.mark.parametrize("option", [b"", ENO])
def test_rfc9293_3_10_7_4_who_still_has_an_older_connection_is_reset(option: bytes) -> None:
    one = table()
    one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS + option))
    _, outcome = one.take(Side.INNER, segment(THERE, ACK, 5000, 7777, data=b"older"))
    assert not outcome.passed
    [(to, packet)] = outcome.packets
    reset = Segment.parse(packet)
    assert (to, reset.flags, reset.seq) == (Side.INNER, RST, 7777)


@pytest.mark.parametrize("opener", list(Side))
def test_a_later_connection_is_negotiated_though_nobody_heard_the_end_of_a_plain_one(
    opener: Side,
) -> None:
    """Policy requires encryption meanwhile."""
    config = Config()
    one = Table(lambda _key, _side, _forwarded: config)
    if opener is Side.OUTER:
        opened_from_outside(one)
        ask, answer = BACK, THERE
    else:
        one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))
        one.take(Side.OUTER, segment(BACK, SYN | ACK, 200, 101, options=MSS))
        one.take(Side.INNER, segment(THERE, ACK, 101, 201))
        ask, answer = THERE, BACK
    assert one.flows[THERE].plain
    config = Config(require_encryption=True)
    early = segment(ask, SYN, 90_000, options=MSS, data=b"early")
    [(to, packet)] = one.take(opener, early)[1].packets
    assert (to, len(Segment.parse(packet).payload)) == (opener.other, 0)
    again = segment(ask, SYN, 90_000, options=MSS)
    # Who is still connected would say so: the SYN decides nothing.
    assert one.take(opener, again)[1].passed
    _, outcome = one.take(opener.other, segment(answer, SYN | ACK, 70_000, 90_001, options=MSS))
    assert not outcome.passed
    [(to, packet)] = outcome.packets
    assert (to, Segment.parse(packet).flags, Segment.parse(packet).seq) == (
        opener.other,
        RST,
        90_001,
    )
    _, outcome = one.take(opener, again)
    assert not outcome.passed
    if opener is Side.OUTER:  # refused, for there is no option
        assert one.flows[THERE].dead
    else:
        assert one.flows[THERE].state == "connecting"


def test_who_is_left_alone_may_ask_again_from_the_same_port_and_both_may_ask_at_once() -> None:
    one = Table(lambda _key, _side, _forwarded: None)
    for seq in (100, 7000):  # nobody answers the first
        assert one.take(Side.INNER, segment(THERE, SYN, seq, options=MSS))[1].passed
    assert one.take(Side.OUTER, segment(BACK, SYN | ACK, 200, 7001, options=MSS))[1].passed
    assert one.take(Side.INNER, segment(THERE, ACK, 7001, 201, data=b"on"))[1].passed
    # RFC 9293 section 3.5: two SYNs that cross.
    one = Table(lambda _key, _side, _forwarded: None)
    assert one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))[1].passed
    assert one.take(Side.OUTER, segment(BACK, SYN, 200, options=MSS))[1].passed
    assert one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 201))[1].passed
    assert one.take(Side.OUTER, segment(BACK, SYN | ACK, 200, 101))[1].passed


def test_rfc5961_4_a_strangers_syn_does_not_end_a_plain_connection() -> None:
    one = table()
    opened_from_outside(one)
    for seq in (90_000, 200):
        assert one.take(Side.OUTER, segment(BACK, SYN, seq, options=MSS))[1].passed
        assert one.take(Side.INNER, segment(THERE, ACK, 101, 201))[1].passed
    # What is repeated of its own handshake is no other one.
    assert one.take(Side.INNER, segment(THERE, SYN | ACK, 100, 201))[1].passed
    assert one.take(Side.OUTER, segment(BACK, ACK, 201, 101, data=b"on"))[1].passed


def test_a_plain_connection_that_is_half_closed_stays_for_an_hour() -> None:
    clock = Clock()
    one = table(clock=clock)
    opened_from_outside(one)
    one.take(Side.INNER, segment(THERE, TcpFlags.FIN | ACK, 101, 201))
    clock.now += 3500
    assert one.sweep() == 0
    clock.now += 200
    assert one.sweep() == 1
