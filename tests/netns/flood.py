"""A flood of SYNs that nobody has sent, and the honest clients beside it.

client ---- veth1 ---- middle ---- veth2 ---- server         the flood comes from `middle`
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from middlebox.packet import ENO, MSS, SYN, Packet
from netns.network import PORT, Network

SECRET = b"not a byte of this in clear"
MEASURED = 15
FACTOR = 3.0
SPARE = 0.15
"""Seconds that a busy machine may take besides, whoever floods it."""
SYNS_A_SECOND = 1500
OFFER = b"\x21\x22\x23"
_NOBODY = {4: "10.96.0.0/16", 6: "fd96::/64"}
"""Where the forged SYNs come from."""


def nobody_there(network: Network) -> None:
    """What the server answers to forged SYNs gets nowhere, and nobody says so."""
    assert network.middle is not None
    for family, where in _NOBODY.items():
        network.middle.run("ip", f"-{family}", "route", "add", "blackhole", where)


@contextlib.contextmanager
def service(network: Network, family: int = 4) -> Iterator[None]:
    """Says every connection's first words back."""
    with network.listen(family) as listener:
        listener.listen(1024)
        listener.settimeout(None)
        open_: list[socket.socket] = []

        def serve(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                sock.settimeout(60)
                while data := sock.recv(100):
                    sock.sendall(data)

        def accept() -> None:
            while True:
                try:
                    sock, _address = listener.accept()
                except OSError:
                    return
                open_.append(sock)
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for sock in open_:
                sock.close()


def honest(network: Network, family: int = 4) -> float:
    """Seconds from connect() to the answer."""
    began = time.monotonic()
    with network.connect(family) as sock:
        sock.sendall(SECRET)
        assert sock.recv(100) == SECRET
    return time.monotonic() - began


def latency(network: Network, family: int = 4, count: int = MEASURED) -> float:
    return statistics.median(honest(network, family) for _ in range(count))


class SynFlood:
    """Sends forged SYNs from the middle, `rate` a second, until all are sent or it is left.

    Each has an offer, and an address and a port of its own.  `again`: begins anew
    when all are sent.
    """

    def __init__(
        self,
        network: Network,
        count: int,
        *,
        family: int = 4,
        again: bool = False,
        rate: int = SYNS_A_SECOND,
        flags: int = SYN,
    ) -> None:
        assert network.middle is not None
        self.sent = 0
        self._rate = rate
        self._flags = flags
        end = network.server_end
        self._kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self._to = (end.v4 if family == 4 else end.v6, 0)
        forged = [packet.build() for packet in self._forged(family, count)]
        self._packets = itertools.cycle(forged) if again else iter(forged)
        self._raw = network.middle.socket(self._kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._stop = threading.Event()

    def _forged(self, family: int, count: int) -> Iterator[Packet]:
        chance = random.Random(5)
        host = 2 if family == 4 else 8
        network = socket.inet_pton(self._kind, _NOBODY[family].partition("/")[0])[:-host]
        one = Packet(
            *(network + bytes(host), socket.inet_pton(self._kind, self._to[0]), 1, PORT, 0, 0),
            *(self._flags, 64_000, 0, ((MSS, (1460).to_bytes(2)), (ENO, OFFER)), b""),
        )
        for _ in range(count):
            yield replace(
                one,
                source=network + chance.randbytes(host),
                sport=chance.randrange(1024, 65_536),
                seq=chance.randrange(1 << 32),
            )

    def __enter__(self) -> SynFlood:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._raw.close()

    def _run(self) -> None:
        began = time.monotonic()
        for packet in self._packets:
            if self._stop.wait(max(0.0, began + self.sent / self._rate - time.monotonic())):
                return
            self._raw.sendto(packet, self._to)
            self.sent += 1
