"""Attacks, ends, windows and what else is not bulk; the flows stand between model hosts."""

import gc
import struct
import weakref

import pytest
from segment.model import ACK, FIN, MODULUS, RST, SYN, Faults, TcpFlags
from segment.path import CLIENT, SERVER, Path, Setup

from tcpcrypt.core.config import Config
from tcpcrypt.errors import PeerReason
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.packets import (
    ECN_CE,
    Header,
    ecn,
    make_packet,
    read_options,
    timestamps_and_blocks,
)
from tcpcrypt.segment.stream import Stream
from tcpcrypt.wire.segment import Segment

THERE, BACK = (CLIENT, 4000, SERVER, 80), (SERVER, 80, CLIENT, 4000)


def opened(setup: Setup | None = None, **of_hosts: object) -> Path:
    """A connection with a word said each way."""
    path = Path(setup, **of_hosts)
    path.open()
    path.client.write(b"hello")
    path.server.write(b"welcome")
    path.world.run(2)
    assert (bytes(path.server.received), bytes(path.client.received)) == (b"hello", b"welcome")
    return path


def last_of_server(path: Path) -> Segment:
    """The server's last segment on the wire, as somebody who listens there has it."""
    return Segment.parse([packet for from_client, packet in path.wire if not from_client][-1])


def forged(
    path: Path, flags: TcpFlags, *, off: int = 0, data: bytes = b"", options: bytes = b""
) -> bytes:
    """A segment of the server's, by somebody who has seen all others; `off` the mark."""
    seen = last_of_server(path)
    header = Header(
        seq=(seen.seq + len(seen.payload) + off) % MODULUS,
        ack=seen.ack,
        flags=flags,
        window=1000,
        options=options or bytes(seen.options)[:12],
    )
    return make_packet(BACK, header, data)


@pytest.mark.parametrize("off", [-1, 1, 5000])
def test_rfc5961_a_forged_reset_that_is_not_at_the_edge_is_dropped(off: int) -> None:
    path = opened()
    for flags in (RST, RST | ACK):
        path.arrive(from_client=False, packet=forged(path, flags, off=off))
    path.world.run(1)
    path.server.write(b" back")
    path.world.run(2)
    assert path.client.state == "open"
    assert bytes(path.client.received) == b"welcome back"


def test_a_genuine_reset_reaches_the_application_and_both_flows_forget_their_keys() -> None:
    path = opened()
    path.server.reset()
    path.world.run(1)
    assert path.client.state == "reset"
    assert "reset" in path.names(True)
    assert path.flow(True).over
    assert path.flow(False).dead
    # Who has not heard of it is told again (RFC 9293 section 3.10.7.1).
    path.client.state = "open"
    path.client.write(b"still there?")
    path.world.run(1)
    assert path.client.state == "reset"
    path.world.now += 61
    assert path.flow(True).forgotten(path.world.now)


@pytest.mark.parametrize("off", [-1, 1, 0])
def test_rfc8548_3_7_a_forged_fin_is_no_end(off: int) -> None:
    path = opened()
    path.arrive(from_client=False, packet=forged(path, FIN | ACK, off=off))
    path.world.run(1)
    assert not path.client.peer_closed
    path.server.write(b" back")
    path.world.run(2)
    assert bytes(path.client.received) == b"welcome back"
    assert path.client.state == "open"


def test_rfc8548_3_7_fin_without_finp_that_stays_is_a_truncation_and_never_an_end() -> None:
    path = opened()
    for _ in range(3):
        path.arrive(from_client=False, packet=forged(path, FIN | ACK))
    path.world.run(1)
    assert path.client.state == "reset"
    assert not path.client.peer_closed
    assert ("aborted", {"reason": PeerReason.TRUNCATED.value}) in path.events[True]


def test_a_frame_that_somebody_has_changed_resets_both_hosts() -> None:
    path = opened()

    def flip(from_client: bool, packet: bytes) -> list[bytes]:
        segment = Segment.parse(packet)
        if from_client or len(segment.payload) < 100:
            return [packet]
        changed = bytearray(packet)
        changed[-20] ^= 1
        again = Segment.parse(changed)
        return [again.with_options(again.options)]  # with a checksum that is right

    path.meddle = flip
    path.server.write(b"a line of some length" * 10)
    path.world.run(2)
    assert path.client.state == path.server.state == "reset"
    assert bytes(path.client.received) == b"welcome"
    assert ("aborted", {"reason": PeerReason.FRAME_TAG.value}) in path.events[True]


def test_an_acknowledgement_of_what_was_never_sent_goes_no_further() -> None:
    path = opened()
    seen = last_of_server(path)
    header = Header(seq=seen.seq, ack=seen.ack + 50_000, flags=ACK, window=1)
    path.arrive(from_client=False, packet=make_packet(BACK, header))
    path.world.run(1)  # the model raises if it hears of it
    path.client.write(b"!")
    path.world.run(1)
    assert bytes(path.server.received) == b"hello!"


def test_rfc5961_a_syn_on_an_open_connection_is_answered_by_an_acknowledgement() -> None:
    path = opened()
    before = len(path.wire)
    header = Header(seq=12345, ack=0, flags=SYN, window=1000, options=b"\x02\x04\x05\xb4")
    path.arrive(from_client=False, packet=make_packet(BACK, header))
    path.world.run(1)
    answers = [Segment.parse(packet) for mine, packet in path.wire[before:] if mine]
    assert [answer.flags for answer in answers] == [ACK]
    assert path.client.state == "open"


def test_a_window_that_closes_and_opens() -> None:
    path = opened(buffer=8000)
    path.server.reads = False
    content = bytes(range(256)) * 200
    path.client.write(content)
    path.world.run(20)
    assert len(path.server.received) <= 8005
    for _ in range(40):
        path.server.consume()
        path.server.reads = False
        path.world.run(2)
    assert bytes(path.server.received) == b"hello" + content


@pytest.mark.parametrize("garbage", [b"", b"\0"])
def test_rfc9293_3_8_4_keep_alive_reaches_the_other_host_and_its_answer_comes_back(
    garbage: bytes,
) -> None:
    path = opened()
    before = path.server.segments
    path.client.keep_alive(garbage)
    path.world.run(1)
    assert path.server.segments == before + 1
    assert bytes(path.server.received) == b"hello"
    assert path.client.state == path.server.state == "open"


def test_rfc8548_3_7_urgent_data_is_marked_at_the_other_end_alone() -> None:
    path = opened()
    before = len(path.wire)
    path.client.say_urgently(b"abc!def", 3)
    path.world.run(1)
    assert bytes(path.server.received) == b"helloabc!def"
    assert path.server.urgent == 8
    assert not any(Segment.parse(p).flags & TcpFlags.URG for _, p in path.wire[before:])


@pytest.mark.parametrize("family", [4, 6])
def test_rfc3168_a_mark_on_what_was_held_back_is_not_lost(family: int) -> None:
    path = opened(Setup(family=family))
    marked: list[bytes] = []

    def congested(from_client: bool, packet: bytes) -> list[bytes]:
        if not from_client or not len(Segment.parse(packet).payload) or marked:
            return [packet]
        # The first goes missing, the second comes marked.
        marked.append(packet)
        return []

    found: list[int] = []
    engine = path.engines[False]
    assert engine is not None
    inner = engine.outputs[Side.INNER]

    def watched(packet: bytes) -> None:
        if len(Segment.parse(packet).payload):
            found.append(ecn(packet))
        inner(packet)

    engine.outputs[Side.INNER] = watched
    path.meddle = congested
    path.client.write(bytes(1000))
    path.world.run(0.05)
    path.meddle = lambda from_client, packet: [_marked(packet) if from_client else packet]
    path.client.write(bytes(1000))
    path.world.run(0.05)
    path.meddle = lambda _from_client, packet: [packet]
    path.world.run(5)
    assert len(path.server.received) == 2005
    assert found[0] == ECN_CE


def _marked(packet: bytes) -> bytes:
    segment = Segment.parse(packet)
    header = Header(
        seq=segment.seq,
        ack=segment.ack,
        flags=segment.flags,
        window=segment.window,
        options=bytes(segment.options),
        congestion=True,
    )
    return make_packet(segment.flow, header, segment.payload)


@pytest.mark.parametrize("without", [True, False], ids=["client", "server"])
def test_rfc8547_4_6_a_host_without_it_is_spoken_to_in_the_clear(without: bool) -> None:
    config = (None, Config()) if without else (Config(), None)
    path = Path(Setup(config=config))
    path.exchange(b"plain words", b"plain answers")
    assert b"plain words" in path.in_clear()
    assert path.names(not without) == ["fallback"]


@pytest.mark.parametrize("without", [True, False], ids=["client", "server"])
def test_or_refused_where_encryption_is_required(without: bool) -> None:
    config = Config(require_encryption=True)
    path = Path(Setup(config=(None, config) if without else (config, None)))
    path.server.listen()
    path.client.connect()
    path.client.write(b"not in the clear")
    path.world.run(3)
    assert path.client.state == "reset"
    assert path.in_clear() == b""
    assert path.names(not without) == ["refused"]


def test_a_peer_that_falls_silent_in_the_key_exchange() -> None:
    path = Path()
    path.meddle = lambda from_client, packet: (
        [packet] if from_client or Segment.parse(packet).flags.syn else []
    )
    path.server.listen()
    path.client.connect()
    path.client.write(b"not before there are keys")
    path.world.run(200)
    assert path.client.state == "reset"
    assert ("aborted", {"reason": PeerReason.TIMEOUT.value}) in path.events[True]
    assert b"not before" not in path.in_clear()


def test_rfc8548_3_8_new_keys_on_the_way() -> None:
    config = Config(rekey_after_bytes=5000)
    path = Path(Setup(seed=2, wire=Faults(lose=0.03, swap=0.03), config=(config, config)))
    path.exchange(bytes(range(256)) * 300, bytes(range(255, -1, -1)) * 200)


def test_the_close_of_both_at_once() -> None:
    path = opened(Setup(wire=Faults(delay=0.1)))
    path.client.close()
    path.server.close()
    path.world.run(10)
    assert path.client.peer_closed
    assert path.server.peer_closed
    assert path.names(True)[-1] == path.names(False)[-1] == "closed"


@pytest.mark.parametrize("seed", range(6))
def test_joined_segments_are_cut_by_the_interface_and_lost_one_by_one(seed: int) -> None:
    content = bytes(i * i >> 4 & 0xFF for i in range(150_000))
    wire = Faults(lose=0.02, swap=0.05)
    path = Path(Setup(seed=seed, wire=wire), joined=20, flight=60_000, sack=seed % 2 == 0)
    path.exchange(content, b"an answer")


def test_an_option_that_does_not_parse_goes_no_further() -> None:
    path = opened()
    before = path.client.segments
    path.arrive(from_client=False, packet=forged(path, ACK, options=b"\x08\x01\0\0"))
    path.world.run(1)
    assert path.client.segments == before


def test_a_segment_of_long_ago_is_not_looked_at() -> None:
    path = opened()
    seen = last_of_server(path)
    header = Header(seq=seen.seq, ack=seen.ack - (1 << 30), flags=ACK, window=1)
    before = path.client.segments
    path.arrive(from_client=False, packet=make_packet(BACK, header))
    path.world.run(1)
    assert path.client.segments == before


def test_rfc2018_blocks_stay_where_there_is_room() -> None:
    assert len(timestamps_and_blocks(struct.pack("!II", 1, 2), [(1, 2)] * 9)) == 12 + 4 + 24
    assert len(timestamps_and_blocks(b"", [(1, 2)] * 9)) == 4 + 32


def test_rfc8548_4_1_what_is_no_init_resets_the_connection() -> None:
    path = Path(Setup(config=(Config(), Config())))

    def garbled(from_client: bool, packet: bytes) -> list[bytes]:
        segment = Segment.parse(packet)
        if not from_client or not len(segment.payload):
            return [packet]
        changed = bytearray(packet)
        changed[segment.header_at + segment.data_offset] ^= 1
        again = Segment.parse(changed)
        return [again.with_options(again.options)]

    path.meddle = garbled
    path.server.listen()
    path.client.connect()
    path.world.run(5)
    assert path.server.state == "reset"
    assert path.names(False) == ["aborted"]


def test_urgent_data_that_comes_with_what_is_still_to_be_sent_is_marked_then() -> None:
    path = opened()
    path.client.say_urgently(b"abc", 5)  # the last urgent byte is three ahead
    path.world.run(1)
    path.client.write(b"def")
    path.world.run(1)
    assert bytes(path.server.received) == b"helloabcdef"
    assert path.server.urgent == 10


def test_a_segment_without_ack_is_nothing() -> None:
    path = opened()
    before = path.client.segments
    path.arrive(from_client=False, packet=forged(path, TcpFlags(0), data=b"x"))
    path.world.run(1)
    assert path.client.segments == before


def test_a_reset_before_there_is_encryption_passes() -> None:
    path = Path()
    path.server.state = "closed"
    path.client.connect()
    path.world.run(0.1)
    header = Header(seq=0, ack=path.client.isn + 1, flags=RST | ACK, window=0)
    path.arrive(from_client=False, packet=make_packet(BACK, header))
    path.world.run(0.1)
    assert path.client.state == "reset"


def test_a_client_that_resets_is_believed_by_the_server() -> None:
    path = opened()
    path.client.reset()
    path.world.run(1)
    assert path.server.state == "reset"
    # Nobody has anything to say to a reset of what is over, nor to no ACK.
    before = len(path.wire)
    path.arrive(from_client=False, packet=forged(path, RST))
    path.arrive(from_client=False, packet=forged(path, TcpFlags(0)))
    path.world.run(1)
    assert len(path.wire) == before


def test_a_synack_for_another_syn_is_for_the_host_to_judge() -> None:
    path = Path()
    path.client.connect()
    path.world.run(0.01)
    header = Header(seq=5, ack=path.client.isn + 77, flags=SYN | ACK, window=0)
    outcome = path.flow(True).take(
        Side.OUTER, Segment.parse(packet := make_packet(BACK, header)), packet
    )
    assert outcome.passed
    assert path.flow(True).session_id is None


def test_a_flow_that_is_ended_by_its_owner_resets_both_hosts_once() -> None:
    path = opened()
    flow = path.flow(True)
    assert flow.session_id == bytes.fromhex(str(path.events[True][0][1]["session"]))
    assert [to for to, _ in flow.abort().packets] == [Side.INNER, Side.OUTER]
    assert flow.abort().packets == []
    assert flow.handle_timeout().packets == []


def test_whom_nobody_answers_is_given_up_in_the_end() -> None:
    """An Init2 that never arrives, from a host that has its keys."""
    path = Path()
    path.server.listen()
    path.client.connect()
    dropped = 0

    def silent(from_client: bool, packet: bytes) -> list[bytes]:
        nonlocal dropped
        if from_client or Segment.parse(packet).flags.syn:
            return [packet] if not dropped else []
        dropped += 1
        return []

    path.meddle = silent
    path.world.run(1000)
    assert path.server.state == "reset"
    assert ("aborted", {"reason": PeerReason.TIMEOUT.value}) in path.events[False]


@pytest.mark.parametrize("require", [False, True])
def test_rfc8547_4_6_a_first_ack_without_eno_disables_it_at_the_passive_end(require: bool) -> None:
    path = Path(Setup(config=(Config(), Config(require_encryption=require))))

    def stripped(from_client: bool, packet: bytes) -> list[bytes]:
        segment = Segment.parse(packet)
        if not from_client or segment.flags.syn:
            return [packet]
        return [segment.with_options(bytes(segment.options)[:12])]

    path.meddle = stripped
    path.server.listen()
    path.client.connect()
    path.client.write(b"not in the clear")
    path.world.run(5)
    assert path.names(False) == ["refused" if require else "fallback"]
    assert b"not in the clear" not in path.in_clear()


def test_an_acknowledgement_before_the_first_of_the_opener_goes_nowhere() -> None:
    path = Path()
    path.meddle = lambda from_client, packet: (
        [] if from_client and not Segment.parse(packet).flags.syn else [packet]
    )
    path.server.listen()
    path.client.connect()
    path.world.run(0.05)
    assert path.server.state == "syn-received"
    before = len(path.wire)
    header = Header(seq=path.server.isn + 1, ack=path.client.isn + 1, flags=ACK, window=100)
    engine = path.engines[False]
    assert engine is not None
    engine.input(Side.INNER, make_packet(BACK, header, b"early"))
    assert len(path.wire) == before


def _in_part() -> Path:
    """Of a frame of many segments the first have come, and were acknowledged."""
    path = opened(joined=20)
    passed = 0

    def first_three(from_client: bool, packet: bytes) -> list[bytes]:
        nonlocal passed
        if not from_client or not len(Segment.parse(packet).payload):
            return [packet]
        passed += 1
        return [packet] if passed <= 3 else []

    path.meddle = first_three
    path.client.write(bytes(range(200)) * 100)
    path.world.run(0.05)
    path.meddle = lambda _from_client, packet: [packet]
    assert path.client.una > 5 + 3000  # or its TCP could not send any more
    assert len(path.server.received) == 5  # for nothing of it is authentic yet
    return path


def test_rfc9293_3_8_4_a_probe_is_answered_where_a_frame_is_there_in_part() -> None:
    path = _in_part()
    before = path.server.segments
    path.client.keep_alive()
    path.world.run(0.05)
    assert path.server.segments == before + 1


def test_what_was_acknowledged_in_part_is_the_engines_to_repeat() -> None:
    path = _in_part()
    engine = path.engines[False]
    assert engine is not None
    inner = engine.outputs[Side.INNER]
    lost = 0

    def losing(packet: bytes) -> None:
        nonlocal lost
        if len(Segment.parse(packet).payload) and lost < 2:
            lost += 1
        else:
            inner(packet)

    engine.outputs[Side.INNER] = losing
    path.world.run(60)
    assert lost == 2
    assert bytes(path.server.received) == b"hello" + bytes(range(200)) * 100


def test_a_window_reaches_to_the_end_of_the_frame_that_is_under_way() -> None:
    """A peer may make frames that are longer than the window of the application."""
    stream = Stream(seals=False)
    stream.acknowledged(0, 1000, [])
    stream.take(0, bytes(500))
    assert stream.window(0) == 500
    stream.under_way = 60_000
    assert stream.window(0) == 59_500
    stream.acknowledged(0, 0, [])
    assert stream.window(0) == 0  # but not where there is no room at all


def test_rfc2018_blocks_are_translated_to_the_byte() -> None:
    path = opened()
    size, hole = path.client._size(), []

    def without_one(from_client: bool, packet: bytes) -> list[bytes]:
        segment = Segment.parse(packet)
        if not from_client or not len(segment.payload):
            return [packet]
        if not hole:
            hole.append(segment.seq)
        return [] if segment.seq == hole[0] else [packet]

    path.meddle = without_one
    path.client.write(bytes(5 * size))
    path.world.run(0.1)
    # Its peer's engine has told of what waits there, in numbers of the wire.
    told = [
        read_options(Segment.parse(packet).options).blocks
        for from_client, packet in path.wire
        if not from_client
    ][-1]
    frame = size + 20
    assert told == (((hole[0] + frame) % MODULUS, (hole[0] + 5 * frame) % MODULUS),)
    assert path.client.una == 5
    assert path.client.sacked == set(range(5 + size, 5 + 5 * size))
    path.meddle = lambda _from_client, packet: [packet]
    path.world.run(5)
    assert len(path.server.received) == 5 + 5 * size


def test_the_application_gets_a_window_that_its_frames_fit() -> None:
    stream = Stream(seals=True)
    stream.largest = 1400
    stream.acknowledged(0, 3000, [])
    assert stream.window(0) == 1400 + 1400 + 3000 - 2 * 1420 - 20
    assert stream.window(2) == 2940 >> 2


def test_rfc9293_3_10_7_4_after_the_end_nobody_is_asked_again() -> None:
    """Who was in LAST-ACK would reset it for an acknowledgement too many."""
    path = Path()
    path.exchange(b"all of it", b"and that", seconds=60)
    path.world.run(5)
    flow = path.flow(True)
    assert flow.over
    client, server = path.client, path.server
    numbers = {
        Side.INNER: (client.isn + 1 + client.nxt, client.peer_isn + 1 + client._rcv()),
        Side.OUTER: (server.isn + 1 + flow._streams[Side.OUTER].input.end, 0),
    }
    for side, one in ((Side.INNER, client), (Side.OUTER, server)):
        seq, ack = numbers[side]
        for flags in (RST, RST | ACK, ACK):
            header = Header(seq=seq, ack=ack, flags=flags, window=500)
            packet = make_packet(one.flow, header)
            outcome = flow.take(side, Segment.parse(packet), packet)
            assert (outcome.packets, outcome.passed) == ([], False)
        header = Header(seq=seq - 1, ack=ack, flags=FIN | ACK, window=500)
        packet = make_packet(one.flow, header)
        [(to, made)] = flow.take(side, Segment.parse(packet), packet).packets
        answer = Segment.parse(made)
        assert (to, answer.flags, answer.ack) == (side, ACK, seq % MODULUS)
    assert path.names(True) == ["encrypted", "closed"]


def test_of_a_connection_that_is_over_no_session_is_kept() -> None:
    """It stays for a minute: those of a busy server must not cost what open ones do."""
    path = opened()
    flow = path.flow(True)
    crypt, known = flow._crypt, flow.established
    assert crypt is not None
    kept = [weakref.ref(crypt), weakref.ref(crypt.session)]
    del crypt
    path.client.close()
    path.server.close()
    path.world.run(5)
    assert flow.over
    gc.collect()
    assert [what() for what in kept] == [None, None]
    # What is told of it is the same.
    assert flow.established is known is not None
    assert flow.session_id == known.session_id
    assert (flow.ready, flow.agreed, flow.state) == (True, True, "closed")
    assert (flow.rekeys, flow.proved) == (0, False)


def test_what_both_hosts_have_ended_is_not_reset_by_its_owner() -> None:
    """The engine stops, or has new rules: there is nothing left for anybody to read or say."""
    path = Path()
    path.exchange(b"all of it", b"and that", seconds=60)
    path.world.run(5)
    flow = path.flow(True)
    assert flow.over
    assert flow.abort().packets == []
    assert not flow.dead
    flow.forget()
    assert flow.dead


def test_a_stranger_has_nothing_answered_of_what_is_over_and_cannot_make_it_stay() -> None:
    path = Path()
    path.exchange(b"all of it", b"and that", seconds=60)
    path.world.run(5)
    flow, ended = path.flow(True), path.world.now
    last = last_of_server(path)
    # What came last of the peer, repeated, is answered: it has not heard that it arrived.
    for off, answers in ((0, 1), (-(1 << 20), 0), (1 << 20, 0), (1 << 31, 0)):
        header = Header(seq=(last.seq + off) % MODULUS, ack=last.ack, flags=FIN | ACK, window=9)
        packet = make_packet(BACK, header, bytes(4))
        outcome = flow.take(Side.OUTER, Segment.parse(packet), packet)
        assert [to for to, _ in outcome.packets] == [Side.OUTER] * answers
    while path.world.now < ended + 60:
        assert not flow.forgotten(path.world.now - 6)
        path.world.now += 20
        flow.take(Side.OUTER, Segment.parse(packet), packet)
    assert flow.forgotten(path.world.now + 1)
