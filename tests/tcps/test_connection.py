"""What the gate never asks of a connection, and what is left of it in the end."""

from tcps.hosts import Ours
from tcps.tcp import ACK, CLIENT, CLIENT_ISN, SERVER, SYN, packet, syn, syn_ack

from tcpcrypt.tcps.connection import Connection, Fate, Terms
from tcpcrypt.tcps.known_hosts import KnownHosts
from tcpcrypt.tcps.schedule import X25519
from tcpcrypt.tcps.states import State
from tcpcrypt.wire.segment import Segment

KEY = b"\xfd\x24TC" + X25519.generate().public


def connection(*, active: bool) -> Connection:
    address = SERVER if active else CLIENT
    return Connection(KnownHosts(), address, CLIENT_ISN, Terms(), active=active)


def test_a_syn_with_another_number_is_of_another_connection() -> None:
    one = connection(active=False)
    assert one.receive(Segment.parse(packet(flags=SYN, seq=7, options=KEY))) is Fate.DROP
    assert one.state is State.START


def test_an_answer_to_ones_own_syn_does_not_leave() -> None:
    host = Ours()
    host.local_out(syn())
    crossed = packet(flags=SYN | ACK, options=KEY)
    assert host.local_out(crossed) is None
    assert host.connection.send(Segment.parse(crossed)) is Fate.DROP


def test_a_wiped_connection_agrees_on_nothing() -> None:
    one = connection(active=True)
    one.send(Segment.parse(syn()))
    one.wipe()
    one.receive(Segment.parse(packet(from_client=False, flags=SYN | ACK, options=KEY)))
    assert one.state is State.REFUSED


def test_what_is_half_open_is_forgotten_too() -> None:
    host = Ours()
    host.pre_routing(packet(flags=SYN, options=KEY))
    host.gate.close()
    assert host.local_out(syn_ack()) is None


def test_for_what_policy_has_neither_this_nor_the_clear_nothing_passes() -> None:
    host = Ours(Fate.DROP)
    assert host.local_out(syn()) is None
    assert host.pre_routing(syn()) is None
    assert (len(host.gate), host.gate.refused) == (0, 2)
