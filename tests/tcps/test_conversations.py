"""Whole connections: ours with ours, and with the model of the module in either part."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcps.hosts import Host, Ours, Wire
from tcps.model import Module
from tcps.tcp import ACK, FIN, LINUX_SYN, PSH, RST, SYN, packet, syn, syn_ack

from tcpcrypt.tcps.connection import Terms
from tcpcrypt.tcps.known_hosts import Judgement
from tcpcrypt.tcps.options import find_identity, find_key, find_tag
from tcpcrypt.tcps.states import State

WORDS = b"GET /secret HTTP/1.0\r\n\r\n"
PAIRS = [(Ours, Ours), (Ours, Module), (Module, Ours), (Module, Module)]


def host(kind: type[Host]) -> Host:
    return kind()


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_conversation_and_its_end(one: type[Host], other: type[Host]) -> None:
    wire = Wire(host(one), host(other)).open()
    assert wire.say(WORDS) == WORDS
    assert wire.say(b"answer", from_client=False, acked=len(WORDS)) == b"answer"
    assert wire.end(len(WORDS), acked=6)
    assert wire.end(6, from_client=False, acked=len(WORDS) + 1)
    assert not list(wire.clear(WORDS, b"answer"))
    data = [s for s in wire.seen if s.payload or s.flags.fin]
    assert len(data) == 4
    assert all(find_tag(segment.options) for segment in data)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_is_on_the_wire(one: type[Host], other: type[Host]) -> None:
    wire = Wire(host(one), host(other)).open()
    wire.say(WORDS)
    first, second, third, fourth = wire.seen
    for segment in (first, second):
        assert segment.data_offset == 60
        assert segment.options[:4] == b"\x02\x04\x05\xa0"
        assert find_key(segment.options) is not None
    assert bytes(third.options).startswith(b"\xfd\x28TI")
    assert bytes(third.options).endswith(bytes(4))
    assert fourth.data_offset == 40
    assert len(fourth.payload) == len(WORDS)


@pytest.mark.parametrize(("one", "other"), [(Ours, Module), (Module, Ours)])
def test_segments_lost_repeated_and_out_of_order(one: type[Host], other: type[Host]) -> None:
    wire = Wire(host(one), host(other)).open()
    pieces = [bytes((i,)) * 100 for i in range(8)]
    sealed = [
        wire.sealed(packet(flags=PSH | ACK, data=p, at=100 * i)) for i, p in enumerate(pieces)
    ]
    for index in (0, 2, 1, 1, 5, 7, 4):
        given = wire.server.pre_routing(sealed[index])
        assert given is not None
        assert pieces[index] in given
    again = wire.say(pieces[3], at=300)
    assert again == pieces[3]


@pytest.mark.parametrize(("one", "other"), [(Module, Ours), (Ours, Ours)])
@pytest.mark.parametrize("which", ["key option", "tag", "data", "flags", "position"])
def test_a_changed_segment_does_not_arrive(one: type[Host], other: type[Host], which: str) -> None:
    wire = Wire(host(one), host(other)).open()
    made = bytearray(wire.sealed(packet(flags=PSH | ACK, data=WORDS)))
    place, value = {
        "key option": (43, 0),
        "tag": (48, made[48] ^ 1),
        "data": (65, made[65] ^ 1),
        "flags": (33, ACK),
        "position": (27, made[27] ^ 1),
    }[which]
    made[place] = value
    assert wire.server.pre_routing(bytes(made)) is None
    assert wire.say(WORDS) == WORDS


def test_a_second_connection_to_a_server_that_knows_us() -> None:
    """The module's server ends it, in the clear (S4); ours shows its key and goes on."""
    hosts = Ours()
    for one, other in ((Module(), hosts), (hosts, Module())):
        for round_number in range(3):
            wire = Wire(one, other)
            ports = 40000 + round_number
            opened = [
                octets[:20] + ports.to_bytes(2, "big") + octets[22:]
                for octets in (syn(), packet(), packet(flags=PSH | ACK, data=WORDS))
            ]
            answer = syn_ack()
            answer = answer[:22] + ports.to_bytes(2, "big") + answer[24:]
            assert wire.carry(opened[0]) is not None
            assert wire.carry(answer) is not None
            assert wire.carry(opened[1]) is not None
            given = wire.carry(opened[2])
            assert given is not None
            assert bytes(given.payload) == WORDS
            assert not list(wire.clear(WORDS))


def test_both_of_ours_show_who_they_are() -> None:
    one, other = Ours(Terms(enforce=True)), Ours(Terms(enforce=True))
    wire = Wire(one, other).open()
    wire.say(WORDS)
    assert other.connection.state is State.AUTHENTICATED
    assert one.connection.state is State.ENCRYPTED
    # TCP/S would show nothing any more, and the client never know the server.
    wire.carry(packet(from_client=False, acked=len(WORDS)))
    assert one.connection.state is State.AUTHENTICATED
    assert one.hosts.key(bytes((198, 51, 100, 2))) == other.hosts.own.public
    assert {one.connection.judgement, other.connection.judgement} == {Judgement.FIRST}
    # And that has an end.
    shown = 0
    for _ in range(20):
        wire.carry(packet(at=len(WORDS)))
        wire.carry(packet(from_client=False, acked=len(WORDS)))
    shown = sum(find_identity(s.options) is not None for s in wire.seen)
    assert shown <= 10
    assert one.seen == ["syn-sent", "encrypted", "authenticated"]
    assert other.seen == ["encrypted", "authenticated"]


def test_a_connection_anew_is_judged_by_what_is_known() -> None:
    one, other = Ours(Terms(enforce=True)), Ours(Terms(enforce=True))
    wire = Wire(one, other).open()
    wire.carry(packet(from_client=False))
    for side in (one, other):
        side.gate.close()
    wire = Wire(one, other).open()
    assert other.connection.judgement is Judgement.KNOWN
    wire.carry(packet(from_client=False))
    assert one.connection.judgement is Judgement.KNOWN


@pytest.mark.parametrize("enforce", [False, True])
def test_another_host_at_a_known_address(enforce: bool) -> None:
    terms = Terms(require=True, enforce=enforce)
    other = Ours(terms)
    Wire(Ours(terms), other).open()
    other.gate.close()
    wire = Wire(Ours(terms), other)
    for octets in (syn(), syn_ack()):
        assert wire.carry(octets) is not None
    given = wire.carry(packet())
    assert given is not None
    assert given.flags.rst is enforce
    assert other.connection.judgement is Judgement.FOREIGN
    assert bool(wire.say(WORDS)) is not enforce
    if enforce:
        assert other.connection.state is State.REFUSED
        # Nothing of the application leaves, and it is told by a reset.
        assert other.local_out(packet(False, PSH | ACK, data=WORDS, acked=5)) is None
        given = wire.carry(packet(flags=PSH | ACK, data=WORDS))
        assert given is not None
        assert given.flags.rst
        assert given.seq == (packet_ack() + 5) % 2**32


def packet_ack() -> int:
    from tcps.tcp import CLIENT_ISN

    return CLIENT_ISN + 1


@pytest.mark.parametrize("require", [False, True])
def test_a_client_meets_a_server_without_tcps(require: bool) -> None:
    one = Ours(Terms(require=require))
    left = one.local_out(syn())
    assert left is not None
    assert b"\xfd\x24TC" in left
    given = one.pre_routing(syn_ack())
    assert given is not None
    assert (given == syn_ack()) is not require
    sent = one.local_out(packet(flags=PSH | ACK, data=WORDS))
    assert (sent is None) is require
    if require:
        assert given[33] == RST | ACK
        assert one.seen == ["syn-sent", "refused"]
        assert one.local_out(packet(flags=RST)) is not None
        assert one.local_out(packet()) is None
    else:
        assert one.pre_routing(packet(from_client=False, flags=PSH | ACK, data=WORDS)) is not None
        assert not one.connection.ended
        assert one.local_out(packet(flags=FIN | ACK)) is not None
        assert one.pre_routing(packet(from_client=False, flags=FIN | ACK)) is not None
        assert one.connection.ended


@pytest.mark.parametrize("require", [False, True])
def test_a_client_without_tcps(require: bool) -> None:
    other = Ours(Terms(require=require))
    assert (other.pre_routing(syn()) is None) is require
    left = other.local_out(syn_ack())
    assert left == (None if require else syn_ack())
    if not require:
        data = packet(flags=PSH | ACK, data=WORDS)
        assert other.pre_routing(data) == data
        assert other.connection.state is State.PLAIN
        assert other.local_out(packet(from_client=False, flags=RST)) is not None
        assert other.connection.ended


def test_what_policy_does_not_name_is_left_alone() -> None:
    """By either side, from its SYN to its end: nothing of it is unknown."""
    one, other = Ours(None), Ours(None)
    wire = Wire(one, other)
    for octets in (
        syn(),
        syn_ack(),
        packet(),
        packet(flags=PSH | ACK, data=WORDS),
        packet(False, PSH | ACK, data=WORDS, acked=len(WORDS)),
        packet(False, FIN | ACK),
        packet(flags=FIN | ACK),
        packet(flags=RST),
    ):
        given = wire.carry(octets)
        assert given is not None
        assert bytes(given._packet) == octets
    assert one.connection.state is other.connection.state is State.PLAIN
    assert one.connection.ended
    assert one.gate.unknown == other.gate.unknown == 0
    assert one.hosts.own.public != other.hosts.own.public


@pytest.mark.parametrize("as_client", [True, False])
@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_a_key_of_small_order_is_refused(as_client: bool, key: bytes) -> None:
    host = Ours(Terms())
    options = b"\xfd\x24TC" + key
    if as_client:
        host.local_out(syn())
        given = host.pre_routing(packet(from_client=False, flags=SYN | ACK, options=options))
        assert given is not None
        assert given[33] == RST | ACK
        assert host.connection.state is State.REFUSED
        assert host.local_out(packet(flags=PSH | ACK, data=WORDS)) is None
        return
    assert host.pre_routing(packet(flags=SYN, options=options)) is not None
    assert host.local_out(syn_ack()) is not None
    given = host.pre_routing(packet())
    assert given is not None
    assert given[33] == RST | ACK
    assert host.local_out(packet(from_client=False, flags=PSH | ACK, data=WORDS)) is None


def test_data_of_a_syn_do_not_leave() -> None:
    """TCP/S lets it go in the clear, and over its option."""
    one, other = Ours(), Ours()
    wire = Wire(one, other)
    assert wire.carry(syn(data=WORDS)) is not None
    assert wire.carry(syn_ack(data=WORDS)) is not None
    assert not any(segment.payload for segment in wire.seen)
    # And nobody takes what came with one.
    given = Ours().pre_routing(
        packet(flags=SYN, options=b"\xfd\x24TC" + bytes(31) + b"\x09", data=b"x")
    )
    assert given is not None
    assert len(given) == 40 + 36


def test_a_refused_connection() -> None:
    one, other = Ours(), Ours()
    wire = Wire(one, other)
    wire.carry(syn())
    given = wire.carry(packet(from_client=False, flags=RST | ACK, seq=0))
    assert given is not None
    assert given.flags.rst
    assert not list(other.gate)


def test_a_simultaneous_open_comes_to_nothing() -> None:
    host = Ours()
    host.local_out(syn())
    crossed = packet(from_client=False, flags=SYN, options=b"\xfd\x24TC" + bytes(31) + b"\x09")
    assert host.pre_routing(crossed) is None
    assert host.local_out(packet(flags=SYN | ACK, options=LINUX_SYN)) is None
    assert host.connection.active
    assert host.local_out(packet(flags=PSH | ACK, data=WORDS)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.booleans()), max_size=12),
    st.sampled_from([(Ours, Module), (Ours, Ours)]),
)
def test_no_position_is_ever_sealed_twice_over_other_bytes(
    cuts: list[tuple[int, int, bool]], kinds: tuple[type[Host], type[Host]]
) -> None:
    """S10: TCP cuts anew what it sends again; a one-time key is used once."""
    stream = bytes(range(128))
    wire = Wire(host(kinds[0]), host(kinds[1])).open()
    sealed: dict[int, tuple[int, bytes]] = {}
    for start, length, push in cuts:
        data = stream[start : start + length]
        given = wire.carry(packet(flags=ACK | PSH * push, data=data, at=start))
        assert given is not None
        assert stream[start:].startswith(bytes(given.payload))
        left = wire.seen[-1]
        whole = int(left.flags), bytes(left.options) + bytes(left.payload)
        assert sealed.setdefault(left.seq, whole) == whole
