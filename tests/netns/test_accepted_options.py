"""What the daemon accepts is ready as it is: it has its options of the listener."""

import socket
import struct

from netns.network import Network

from tcpcrypt.runtime.steering import TransparentSteering

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def option(sock: socket.socket, level: int, name: int) -> bool:
    return bool(sock.getsockopt(level, name))


def test_what_is_accepted_has_the_options_of_its_listener(pair: Network) -> None:
    """From its first moment it ends in a reset, should the daemon be killed."""
    with pair.server.entered():
        steering = TransparentSteering()
    try:
        steering.listen()
        for listeners, asks in ((steering.application_listeners, False),
                                (steering.peer_listeners, True)):  # fmt: skip
            assert {listener.family for listener in listeners} == {
                socket.AF_INET,
                socket.AF_INET6,
            }
            for listener in listeners:
                with pair.server.socket(listener.family, socket.SOCK_STREAM) as one:
                    one.connect(listener.getsockname())
                    listener.settimeout(10)
                    other, _address = listener.accept()
                    with other:
                        linger = other.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
                        assert linger == RESET_ON_CLOSE
                        assert option(other, socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        assert option(other, socket.SOL_SOCKET, socket.SO_OOBINLINE)
                        assert option(other, socket.SOL_SOCKET, socket.SO_KEEPALIVE) is asks
    finally:
        steering.close()
