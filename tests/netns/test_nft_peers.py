"""Rules in the words of nft, in a real kernel: what peers open, and what outlives the daemon.

The queue statements are replaced, for this kernel may lack them (`unqueued.py`).
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from netns.network import PORT, Network
from netns.observed import segments
from netns.unqueued import STRICT, WEB, Unqueued, installed, ruleset, steering

from tcpcrypt.runtime.installation import remove_everything, rules_for
from tcpcrypt.runtime.ruleset import guard_rules
from tcpcrypt.tools.netns import Capture
from tcpcrypt.tools.syn import Answer, Knock, SynSocket
from tcpcrypt.wire.segment import TcpFlags

ENO = bytes((69, 4, 0x01, 0x21))
CLIENT_PORT = 40001


class Peer:
    """Opens a connection from CLIENT_PORT by segments made by hand."""

    def __init__(self, network: Network, family: int) -> None:
        self._kind = socket.AF_INET if family == 4 else socket.AF_INET6
        ends = (network.client_end, network.server_end)
        self._local, self._remote = (end.v4 if family == 4 else end.v6 for end in ends)
        # Its own TCP knows of no such connection and keeps silent.
        command = "iptables" if family == 4 else "ip6tables"
        silent = ("-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")
        network.client.run(command, "-A", "OUTPUT", *silent)
        self._socket = network.client.socket(self._kind, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._socket.settimeout(5)

    def _send(self, flags: int, seq: int, ack: int, options: bytes = b"") -> None:
        offset = (20 + len(options)) // 4 << 4
        numbers = struct.pack("!HHIIBB", CLIENT_PORT, PORT, seq, ack, offset, flags)
        addresses = (socket.inet_pton(self._kind, at) for at in (self._local, self._remote))
        pseudo = b"".join(addresses) + struct.pack("!II", 20 + len(options), 6)
        data = pseudo + numbers + struct.pack("!HHH", 65535, 0, 0) + options
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        segment = numbers + struct.pack("!HHH", 65535, ~total & 0xFFFF, 0) + options
        self._socket.sendto(segment, (self._remote, 0))

    def open(self, options: bytes) -> None:
        """SYN, SYN-ACK, ACK.  Raises `TimeoutError` if nobody answers."""
        self._send(TcpFlags.SYN, 1000, 0, options)
        while True:
            packet = self._socket.recv(2048)
            start = 4 * (packet[0] & 15) if self._kind == socket.AF_INET else 0
            _from, to, seq, _ack, _offset, flags = struct.unpack_from("!HHIIBB", packet, start)
            if to == CLIENT_PORT and flags & TcpFlags.SYN:
                break
        self._send(TcpFlags.ACK, 1001, seq + 1 & 0xFFFFFFFF, options)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def peer(network: Network, family: int) -> Iterator[Peer]:
    with contextlib.closing(Peer(network, family)) as made:
        yield made


def answer(network: Network, eno: bytes, port: int = PORT, timeout: float = 3) -> Answer:
    """What a SYN of the client leads to."""
    knock = Knock(eno)
    with network.client.entered(), SynSocket((network.server_end.v4, port)) as syn:
        syn.knock([knock], timeout)
    return knock.answer


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_with_eno_comes_to_the_daemon(pair: Network, family: int) -> None:
    """With the service's address and port, which nobody has translated."""
    translate = ("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9")
    pair.server.run("iptables" if family == 4 else "ip6tables", *translate)
    with (
        pair.listen(family) as service,
        installed(pair.server, WEB) as listeners,
        peer(pair, family) as one,
    ):
        one.open(ENO)
        other, address = listeners.peer_listeners[family == 6].accept()
        with other:
            server = pair.server_end.v4 if family == 4 else pair.server_end.v6
            assert listeners.meant_by_peer(other)[:2] == (server, PORT)
            assert address[1] == CLIENT_PORT
        service.settimeout(0.2)
        with pytest.raises(TimeoutError):
            service.accept()


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_without_eno_comes_to_the_service(pair: Network, family: int) -> None:
    with (
        pair.listen(family) as service,
        installed(pair.server, WEB) as listeners,
        peer(pair, family) as one,
    ):
        one.open(b"")
        other, _address = service.accept()
        other.close()
        listeners.peer_listeners[family == 6].settimeout(0.2)
        with pytest.raises(TimeoutError):
            listeners.peer_listeners[family == 6].accept()


def test_where_nobody_listens_the_kernel_refuses_as_ever(pair: Network) -> None:
    with installed(pair.server, WEB):
        assert answer(pair, ENO) is Answer.REFUSED
        assert answer(pair, b"") is Answer.REFUSED
        with pair.listen():
            assert answer(pair, ENO) is Answer.ACCEPTED


def test_without_the_daemons_listener_nothing_gets_in(pair: Network) -> None:
    """TPROXY drops then, and `tproxy` would let pass: the service must not answer."""
    with installed(pair.server, WEB) as listeners, pair.listen():
        for listener in listeners.peer_listeners:
            listener.shutdown(socket.SHUT_RDWR)
        assert answer(pair, ENO, timeout=0.5) is Answer.NOTHING
        assert answer(pair, b"") is Answer.ACCEPTED


def test_the_listeners_cannot_be_reached_by_programs_of_this_host(pair: Network) -> None:
    with installed(pair.server, WEB) as listeners:
        for listener in listeners.peer_listeners[0], listeners.application_listeners[0]:
            with pair.server.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    sock.connect(listener.getsockname())


@pytest.mark.parametrize("family", [4, 6])
def test_require_refuses_plain_peers_with_a_reset(pair: Network, family: int) -> None:
    with pair.listen(family), pair.listen(family, PORT + 1), installed(pair.server, STRICT):
        with pytest.raises(ConnectionRefusedError):
            pair.connect(family)
        pair.connect(family, PORT + 1).close()


def test_what_outlives_the_daemon(pair: Network) -> None:
    """The guard refuses on both sides, and nothing else is left; then it goes too."""
    firewall = Unqueued()
    with pair.listen(6), steering(pair.client) as listeners:
        firewall.install(rules_for(STRICT, 0, listeners))
        assert firewall.remove(guard_rules(STRICT, serving=False)) > 0
        left = ruleset(pair.client)
        assert "chain filter_output" in left
        assert "chain mangle" not in left
        with Capture(pair.client_end) as capture:
            for family in (4, 6):
                with pytest.raises(ConnectionRefusedError):
                    pair.connect(family)
        assert segments(capture.packets) == []
        # Somebody else, as `tcpcrypt down`, does not keep it.
        assert Unqueued().remove(guard_rules(STRICT, serving=False)) > 0
        assert ruleset(pair.client) == ""
        pair.connect().close()


def test_down_removes_what_a_dead_daemon_left(pair: Network) -> None:
    with steering(pair.client) as listeners:
        Unqueued().install(rules_for(STRICT, 0, listeners))
        assert "tcpcrypt" in ruleset(pair.client)
        assert remove_everything() > 0
        assert ruleset(pair.client) == ""
        assert remove_everything() == 0
