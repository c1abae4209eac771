"""What is known to be wrong with TCP/S, tried against ours; the model shows that the attack works.

docs/tcps.md has the list.  What the wire format itself makes weak is shown to be
so, for both: nobody should take the profile for more than it is.
"""

import pytest
from tcps.hosts import Host, Ours, Wire
from tcps.model import Module, xor
from tcps.tcp import (
    ACK,
    CLIENT,
    CLIENT_ISN,
    FIN,
    LINUX_SYN,
    PSH,
    RST,
    SERVER,
    SERVER_ISN,
    SYN,
    packet,
    summed,
    syn,
    syn_ack,
)

from tcpcrypt.tcps.connection import Terms
from tcpcrypt.tcps.gate import (
    CONNECTIONS_MAX,
    ENDED_SECONDS,
    HALF_OPEN_MAX,
    IDLE_SECONDS,
    UNANSWERED_SECONDS,
)
from tcpcrypt.tcps.options import Shown, find_identity, find_key, find_tag
from tcpcrypt.tcps.schedule import X25519
from tcpcrypt.tcps.states import State
from tcpcrypt.tcps.weaknesses import LACKS
from tcpcrypt.wire.segment import Segment

WORDS = b"for the right host alone"
TI = b"\xfd\x28TI" + X25519.generate().public + b"aaaa"
ENFORCED = Terms(require=True, enforce=True)


def ours() -> Ours:
    return Ours(ENFORCED)


def clear(host: Host, octets: bytes) -> bool:
    """Whether the host sends the payload as it is."""
    made = host.local_out(octets)
    return made is not None and WORDS in made


SAID = packet(flags=PSH | ACK, data=WORDS)


@pytest.mark.parametrize("kind", [ours, Module])
def test_s1_a_blind_packet_with_an_identity(kind: type[Host]) -> None:
    one = kind()
    Wire(one, kind()).open()
    if isinstance(one, Module):
        one.tofu[SERVER] = X25519.generate().public  # known from an earlier connection
    else:
        one.hosts.judge(SERVER, Shown(X25519.generate().public, b""), 1, 2, is_client=False)
    for seq in (SERVER_ISN + 12345, SERVER_ISN + 2**31, 7):
        one.pre_routing(packet(from_client=False, options=TI, seq=seq))
    assert clear(one, SAID) is isinstance(one, Module)


def test_s2_a_blind_packet_pins_no_key() -> None:
    one, module = ours(), Module()
    for host in (one, module):
        host.local_out(syn())
        host.pre_routing(packet(from_client=False, flags=SYN | ACK,
                                options=b"\xfd\x24TC" + X25519.generate().public))  # fmt: skip
    for number in (SERVER_ISN, SERVER_ISN + 2, SERVER_ISN - 1, SERVER_ISN + 2**31):
        one.pre_routing(packet(from_client=False, options=TI, seq=number))
        module.pre_routing(packet(from_client=False, options=TI, seq=number))
    for acknowledged in (-1, 1, 2**31):
        one.pre_routing(packet(from_client=False, options=TI, acked=acknowledged))
    one.pre_routing(packet(from_client=False, flags=PSH, options=TI))
    assert len(one.hosts) == 0
    assert one.connection.judgement is None
    assert module.tofu == {SERVER: TI[4:36]}
    # Who is on the path, and knows the numbers, is believed at first contact by both.
    one.pre_routing(packet(from_client=False, options=TI))
    assert one.hosts.key(SERVER) == TI[4:36]


def test_s3_a_proof_once_seen_is_worth_nothing_here_either() -> None:
    """What the wire has: two hosts have one constant for ever."""
    one, other = ours(), ours()
    constants = set()
    for isn in (CLIENT_ISN, 5, 2**31):
        for host in (one, other):
            host.gate.close()
        wire = Wire(one, other)
        for octets in (
            packet(flags=SYN, options=LINUX_SYN, seq=isn),
            packet(False, SYN | ACK, options=LINUX_SYN, ack=isn + 1),
            packet(seq=isn + 1),
            packet(False, ack=isn + 1),
        ):
            wire.carry(octets)
        for segment in wire.seen:
            shown = find_identity(segment.options)
            if shown is not None and shown.tag != bytes(4):
                constants.add(xor(shown.tag, (isn % 2**32).to_bytes(4, "big")))
    assert len(constants) == 1


def test_s4_both_sides_show_who_they_are_and_a_second_connection_works() -> None:
    one, other = ours(), ours()
    for _ in range(3):
        wire = Wire(one, other).open()
        wire.carry(packet(from_client=False))
        assert one.connection.state is other.connection.state is State.AUTHENTICATED
        assert wire.say(WORDS) == WORDS
        one.gate.close()
        other.gate.close()


@pytest.mark.parametrize("kind", [ours, Module])
def test_s5_a_lost_answer_is_repeated_with_its_key(kind: type[Host]) -> None:
    one, other = ours(), kind()
    wire = Wire(one, other)
    wire.carry(syn())
    lost = wire.sealed(syn_ack())
    again = wire.sealed(syn_ack())
    assert (again == lost) is isinstance(other, Ours)
    assert find_key(lost[40:]) is not None
    # A server that repeats it without is refused, and gets nothing in the clear.
    given = one.pre_routing(again)
    assert given is not None
    assert bool(given[33] & RST) is isinstance(other, Module)
    assert not clear(one, SAID)


@pytest.mark.parametrize("kind", [ours, Module])
def test_s5_a_lost_acknowledgement_of_it_is_repeated(kind: type[Host]) -> None:
    """Where the server speaks first nothing else would ever follow."""
    one, other = ours(), kind()
    wire = Wire(one, other)
    assert wire.carry(syn()) is not None
    assert wire.carry(syn_ack()) is not None
    wire.sealed(packet())
    again = wire.carry(syn_ack())
    assert again is not None
    assert bool(find_key(again.options)) is isinstance(other, Ours)
    assert wire.carry(packet()) is not None
    assert wire.say(WORDS, from_client=False) == WORDS
    assert not clear(one, SAID)


@pytest.mark.parametrize("kind", [ours, Module])
def test_s6_what_is_sent_again_after_both_ends(kind: type[Host]) -> None:
    wire = Wire(kind(), kind()).open()
    assert wire.say(WORDS) == WORDS
    assert wire.end(len(WORDS))
    assert wire.end(0, from_client=False, acked=len(WORDS) + 1)
    assert clear(wire.client, SAID) is isinstance(wire.client, Module)
    if isinstance(wire.client, Ours):
        assert wire.client.connection.ended
        assert wire.say(WORDS) == WORDS


def test_s6_nor_after_a_reset() -> None:
    wire = Wire(ours(), ours()).open()
    assert wire.client.local_out(packet(flags=RST)) is not None
    assert not clear(wire.client, SAID)
    assert wire.client.local_out(packet()) is None
    assert wire.client.pre_routing(packet(from_client=False)) is None


def test_s7_silence_ends_no_encryption() -> None:
    wire = Wire(ours(), ours()).open()
    for host in (wire.client, wire.server):
        host.now = 10 * IDLE_SECONDS
        assert host.gate.expire() == 0
    assert wire.say(WORDS) == WORDS
    # And what is not known any more does not go on at all.
    wire.client.gate.close()
    assert wire.client.local_out(SAID) is None
    assert wire.client.pre_routing(packet(from_client=False, flags=PSH | ACK, data=WORDS)) is None
    assert wire.client.gate.unknown == 2


@pytest.mark.parametrize("kind", [ours, Module])
def test_s8_a_forged_segment_moves_no_position(kind: type[Host]) -> None:
    wire = Wire(kind(), kind()).open()
    forged = packet(flags=PSH | ACK, data=b"x", at=2**31 + 1, options=b"\xfd\x14TM" + bytes(16))
    for _ in range(2):
        assert wire.server.pre_routing(forged) is None
    assert (wire.say(WORDS) == WORDS) is isinstance(wire.server, Ours)


def test_s8_what_is_sent_again_across_4_gib_keeps_its_position() -> None:
    one, other = ours(), ours()
    wire = Wire(one, other).open()
    for at in range(0, 2**32, 2**30):
        assert wire.say(b"x", at=at) == b"x"
    before = wire.sealed(packet(flags=ACK, data=WORDS, at=2**32 - 20))
    assert wire.say(WORDS, at=2**32 + 10) == WORDS
    again = wire.sealed(packet(flags=ACK, data=WORDS, at=2**32 - 20))
    assert again == before
    given = other.pre_routing(again)
    assert given is not None
    assert WORDS in given


def test_s10_a_position_is_sealed_once() -> None:
    """See also test_no_position_is_ever_sealed_twice_over_other_bytes."""
    tags = {}
    for kind in (ours, Module):
        wire = Wire(kind(), kind()).open()
        for octets in (SAID, packet(flags=ACK, data=WORDS), packet(flags=ACK, data=WORDS[:5]),
                       packet(flags=FIN | ACK, data=WORDS + b"more")):  # fmt: skip
            wire.carry(octets)
        tags[kind] = {find_tag(segment.options) for segment in wire.seen} - {None}
    assert len(tags[ours]) == 1
    assert len(tags[Module]) == 4


@pytest.mark.parametrize("number", [2**30, 1, -1])
def test_s10_an_acknowledgement_that_tcp_ignores_unseals_nothing(number: int) -> None:
    """Who is on the path could have other bytes sealed at a position."""
    wire = Wire(ours(), ours()).open()
    first = Segment.parse(wire.sealed(SAID))
    one = wire.client
    forged = packet(from_client=False, seq=SERVER_ISN + 1 + number, acked=len(WORDS))
    one.pre_routing(forged)
    # TCP repeats what it has, and more with it.
    again = Segment.parse(wire.sealed(packet(flags=PSH | ACK, data=WORDS + b"more")))
    assert find_tag(again.options) == find_tag(first.options)
    one.pre_routing(packet(from_client=False, acked=len(WORDS)))
    assert isinstance(one, Ours)
    assert not one.connection._frozen


def test_s10_keys_of_near_positions_overlap() -> None:
    """What the wire has, and what one byte at a time is worth."""
    wire = Wire(ours(), ours()).open()
    keys = wire.client.connection._keys
    assert keys is not None
    assert keys.c2s.tags.slice(2**62, 32)[1:] == keys.c2s.tags.slice(2**62 + 1, 31)


def test_s11_acknowledgement_window_and_urgent_pointer_are_not_covered() -> None:
    wire = Wire(ours(), ours()).open()
    made = bytearray(wire.sealed(SAID))
    made[28:32], made[34:36], made[38:40] = bytes(4), b"\0\1", b"\0\5"
    given = wire.server.pre_routing(summed(bytes(made)))
    assert given is not None
    assert WORDS in given
    # But what the path has damaged gets no right checksum here.
    assert wire.server.pre_routing(bytes(made)) is None


@pytest.mark.parametrize("terms", [ENFORCED, Terms()], ids=["require", "opportunistic"])
def test_s12_a_flood_of_syns_makes_nothing_plain(
    terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr("tcpcrypt.tcps.connection.X25519", _Counting(made))
    other = Ours(terms)
    offered = b"\xfd\x24TC" + X25519.generate().public
    for number in range(HALF_OPEN_MAX + 10):
        octets = packet(flags=SYN, seq=number, options=offered)
        octets = summed(octets[:12] + number.to_bytes(4, "big") + octets[16:])
        assert other.pre_routing(octets) is not None
    assert not made
    assert other.gate.refused == 10
    wire = Wire(ours(), other).open()
    assert wire.say(WORDS) == WORDS


def test_s12_nor_does_one_that_comes_between_the_segments_of_a_handshake() -> None:
    """A former connection of the same ports was in the clear, as policy has it."""
    one, other = Ours(Terms()), Ours(Terms())
    for octets in (syn(), packet()):
        assert other.pre_routing(octets) is not None
        other.local_out(syn_ack())
    assert other.connection.state is State.PLAIN
    given = other.pre_routing(one.local_out(packet(flags=SYN, options=LINUX_SYN, seq=1)) or b"")
    assert given is not None
    answer = packet(from_client=False, flags=SYN | ACK, options=LINUX_SYN, seq=9, ack=2)
    assert other.local_out(answer) is not None
    for number in range(HALF_OPEN_MAX):
        octets = packet(flags=SYN, seq=number)
        other.pre_routing(summed(octets[:12] + number.to_bytes(4, "big") + octets[16:]))
    assert other.pre_routing(packet(seq=2, ack=10)) is None
    assert not clear(other, packet(from_client=False, flags=PSH | ACK, seq=10, data=WORDS))
    # Nor is the answer repeated as another's.
    assert other.local_out(answer) is None


class _Counting:
    def __init__(self, made: list[int]) -> None:
        self._made = made

    def generate(self) -> object:
        self._made.append(1)
        return X25519.generate()


def test_s12_nor_does_a_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.tcps.gate.CONNECTIONS_MAX", 3)
    assert CONNECTIONS_MAX > 4096
    host = Ours(Terms())

    def of(port: int, octets: bytes, at: int = 20) -> bytes:
        return summed(octets[:at] + port.to_bytes(2, "big") + octets[at + 2 :])

    def opens(port: int) -> bytes | None:
        made = host.local_out(of(port, syn()))
        host.pre_routing(of(port, packet(False, SYN | ACK, options=answer), 22))
        return made

    answer = b"\xfd\x24TC" + X25519.generate().public
    assert all(opens(port) for port in (1, 2, 3))
    assert opens(4) is None
    assert host.gate.refused == 1
    # One that has ended makes room, and then one that has been silent for an hour.
    host.local_out(of(2, syn()))
    for _flow, connection in host.gate:
        connection._fins = [True, True]
        break
    assert opens(4) is None
    host.now = ENDED_SECONDS + 1
    assert opens(4) is not None
    assert opens(5) is None
    host.now = 2 * IDLE_SECONDS
    assert opens(5) is not None
    assert len(host.gate) == 3


def test_s12_nor_is_it_full_of_connections_that_nobody_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tcpcrypt.tcps.gate.CONNECTIONS_MAX", 2)
    host = Ours()
    opened = []
    for port in range(1, 5):
        octets = syn()
        opened.append(host.local_out(summed(octets[:20] + bytes((0, port)) + octets[22:])))
        host.now += UNANSWERED_SECONDS / 2 + 1
    assert all(opened)
    assert len(host.gate) == 2


def test_s12_what_is_kept_for_peers_that_have_gone_is_let_go() -> None:
    """TCP gives them up without a word; one that is only idle goes on."""
    wire = Wire(ours(), ours()).open()
    one = wire.client
    assert isinstance(one, Ours)
    assert wire.say(WORDS) == WORDS
    one.now = UNANSWERED_SECONDS
    assert one.gate.expire() == 0
    assert len(one.connection._frozen) == 1
    one.now += 1
    assert one.gate.expire() == 0
    assert not one.connection._frozen
    assert wire.say(b"more", at=len(WORDS)) == b"more"


def test_s12_a_full_table_takes_up_no_connection_of_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.tcps.gate.CONNECTIONS_MAX", 1)
    other = Ours(Terms())
    other.local_out(packet(from_client=False, flags=SYN, seq=3)[:20] + b"\0\1" +
                    packet(from_client=False, flags=SYN, seq=3)[22:])  # fmt: skip
    wire = Wire(ours(), other)
    assert wire.carry(syn()) is not None
    assert wire.carry(syn_ack()) is not None
    assert wire.carry(packet()) is None
    assert other.gate.refused == 1
    assert not clear(other, packet(from_client=False, flags=PSH | ACK, data=WORDS))


def test_a1_fragments_reach_no_connection() -> None:
    """The kernel puts them together first (tests/netns/test_tcps.py); what is one stays outside."""
    wire = Wire(ours(), ours()).open()
    fragment = bytearray(packet(flags=PSH | ACK, data=WORDS))
    fragment[6:8] = b"\x20\x00"
    assert wire.server.pre_routing(bytes(fragment)) is None
    assert wire.server.local_out(bytes(fragment)) is None


@pytest.mark.parametrize("flags", [PSH | ACK, FIN | ACK, FIN | PSH | ACK, PSH])
@pytest.mark.parametrize(
    "options", [b"", b"\xfd\x14TM" + bytes(16), TI, LINUX_SYN], ids=["none", "TM", "TI", "SYN"]
)
def test_a2_nothing_without_its_tag_is_taken(flags: int, options: bytes) -> None:
    wire = Wire(ours(), ours()).open()
    data = b"" if not flags & PSH else WORDS
    for from_client, host in ((True, wire.server), (False, wire.client)):
        for at in (0, -5, 70000):
            octets = packet(from_client, flags, data=data, at=at, options=options)
            assert host.pre_routing(octets) is None
        assert host.pre_routing(packet(from_client, RST | ACK)) is None
        assert host.connection.rejected == 4
        assert host.connection.state in {State.ENCRYPTED, State.AUTHENTICATED}
    assert wire.say(WORDS) == WORDS


def test_a2_other_answers_and_other_syns_change_nothing() -> None:
    wire = Wire(ours(), ours())
    wire.carry(syn())
    other = b"\xfd\x24TC" + X25519.generate().public
    # An answer to another SYN; one that only begins to be one.
    assert wire.client.pre_routing(packet(False, SYN | ACK, ack=77, options=other)) is None
    assert wire.client.pre_routing(packet(False, ACK, ack=77)) is not None
    wire.carry(syn())
    wire.carry(syn_ack())
    wire.carry(packet())
    assert wire.client.pre_routing(packet(False, SYN | ACK, options=other)) is None
    for options in (b"", LINUX_SYN):
        # TCP acknowledges it again, which the model may have missed (S5).
        given = wire.client.pre_routing(packet(False, SYN | ACK, options=options, data=b"x"))
        assert given == packet(False, SYN | ACK)
        assert wire.client.pre_routing(packet(False, SYN | ACK, options=options, seq=7)) is None
        assert wire.client.pre_routing(packet(False, SYN | ACK, seq=3, options=options)) is None
        assert wire.server.pre_routing(packet(flags=SYN, options=options)) is None
    assert wire.say(WORDS) == WORDS
    # A SYN with another number waits beside the connection until its kernel answers.
    assert wire.server.pre_routing(packet(flags=SYN, seq=3, options=other)) is not None
    assert wire.server.pre_routing(packet(flags=SYN, seq=4, options=other)) is not None
    assert wire.server.pre_routing(packet(flags=ACK, data=b"x", at=-90)) is None
    assert wire.say(b"more", at=len(WORDS)) == b"more"


def test_a2_packets_of_other_kinds_do_not_pass() -> None:
    host = ours()
    for octets in (b"", b"\x45", packet(version=6)[:30]):
        assert host.local_out(octets) is None
        assert host.pre_routing(octets) is None
    assert host.local_out(packet(flags=RST)) is not None
    assert host.pre_routing(packet(flags=RST)) is None


def test_ports_that_are_used_again_make_a_new_connection() -> None:
    one, other = ours(), ours()
    wire = Wire(one, other).open()
    first = one.connection
    for isn in (7, 8):
        for octets in (
            packet(flags=SYN, options=LINUX_SYN, seq=isn),
            packet(False, SYN | ACK, options=LINUX_SYN, ack=isn + 1),
            packet(seq=isn + 1),
        ):
            assert wire.carry(octets) is not None
        given = wire.carry(packet(flags=PSH | ACK, data=WORDS, seq=isn + 1))
        assert given is not None
        assert bytes(given.payload) == WORDS
    assert one.connection is not first
    with pytest.raises(RuntimeError):
        first._keys.c2s.data.slice(0, 1)  # type: ignore[union-attr]


def test_what_leaves_no_room_for_a_tag_does_not_leave() -> None:
    wire = Wire(ours(), ours()).open()
    assert wire.client.local_out(packet(flags=PSH | ACK, data=WORDS, options=b"\x01" * 24)) is None
    assert wire.client.local_out(packet(flags=PSH | ACK, data=WORDS, at=-3)) is None
    assert wire.say(WORDS) == WORDS


def test_what_was_sealed_is_kept_until_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.tcps.connection._FROZEN_MAX", 2)
    wire = Wire(ours(), ours()).open()
    assert wire.say(b"a", at=0) == b"a"
    assert wire.say(b"b", at=1) == b"b"
    assert wire.say(b"c", at=2) == b""
    wire.carry(packet(from_client=False, acked=3))  # of what was never sent: not believed
    assert wire.say(b"c", at=2) == b""
    wire.carry(packet(from_client=False, acked=1))
    assert wire.say(b"c", at=2) == b"c"
    assert wire.client.connection.sent == 3
    assert wire.server.connection.received == 3


def test_static_keys_are_bounded_and_never_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.tcps.known_hosts.HOSTS_MAX", 0)
    wire = Wire(ours(), ours()).open()
    assert wire.server.connection.state is State.AUTHENTICATED
    assert len(wire.server.hosts) == 0
    assert not wire.client.hosts.has_seen_us(SERVER)
    assert wire.server.hosts.key(CLIENT) is None


def test_a_wrong_tag_of_a_known_host_and_a_static_key_of_small_order() -> None:
    one, other = ours(), ours()
    Wire(one, other).open()
    wire = Wire(one, other)
    wire.carry(packet(from_client=False))
    one.gate.close()
    one.local_out(syn())
    other.gate.close()
    other.pre_routing(Wire(one, other).sealed(syn()))
    made = other.local_out(syn_ack())
    assert made is not None
    assert one.pre_routing(made) is not None
    forged = b"\xfd\x28TI" + other.hosts.own.public + b"\1\2\3\4"
    given = one.pre_routing(packet(from_client=False, options=forged))
    assert given is not None
    assert given[33] & RST
    fresh = Wire(ours(), ours()).open()
    given = fresh.client.pre_routing(packet(from_client=False, options=b"\xfd\x28TI" + bytes(36)))
    assert given is not None
    assert given[33] & RST


def test_an_identity_that_does_not_fit_is_dropped_once_there_was_one() -> None:
    wire = Wire(ours(), ours()).open()
    assert wire.server.pre_routing(packet(options=TI)) is None
    assert wire.server.connection.state is State.AUTHENTICATED
    assert wire.say(WORDS) == WORDS


def test_what_remains_is_said_in_the_words_of_the_list() -> None:
    """S3, S10, S11: what a policy, a log and a list of connections warn of."""
    said = " ".join(LACKS)
    for words in ("in the middle", "TI option", "keys of near positions overlap", "window", "SACK"):
        assert words in said
    assert len(set(LACKS)) == len(LACKS) == 3


def test_a2_syns_of_others_disturb_no_handshake() -> None:
    """Whoever knows the ports, and no number."""
    wire = Wire(ours(), ours())
    other = b"\xfd\x24TC" + X25519.generate().public
    for octets in (syn(), syn_ack(), packet()):
        assert wire.carry(octets) is not None
        for number in (3, 4):
            wire.server.pre_routing(packet(flags=SYN, seq=number, options=other))
            wire.server.pre_routing(packet(flags=SYN, seq=number))
    assert wire.say(WORDS) == WORDS
