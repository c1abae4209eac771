"""Those who sit on the path: one who answers for each side, one who rewrites, one who forges.

client ---- veth1 ---- server
  \\                      /
veth2                  veth3        `near` is the server to the client, `far` the
   \\                    /          client to the server; between the two is the test.
   near   <-- test -->  far
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from netns.network import PORT, Network
from netns.trusting import Trusting

from tcpcrypt.auth.identity import load_identity
from tcpcrypt.runtime.netlink import Verdict
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.tools.netns import Host
from tcpcrypt.wire.segment import Segment

_QUEUE = 7
_MODULUS = 1 << 32


class Mallory:
    """A man in the middle with two tcpcrypt stacks and an identity of his own."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        lab = network.lab
        near, far = lab.host("near"), lab.host("far")
        self._client_end, self._near_end = lab.join(network.client, near)
        self._server_end, self._far_end = lab.join(network.server, far)
        self.near = Trusting(network, near, directory / "near")
        self.far = Trusting(network, far, directory / "far")
        self.heard = b""
        """What the client's application said to whom it took for the server."""
        self._stop = threading.Event()

    def identity(self) -> str:
        """His fingerprint; the one that he shows to both."""
        path = self.near.state / "identity"
        if not path.exists():
            self.near.new_identity()
            self.far.state.mkdir(mode=0o700)
            other = self.far.state / "identity"
            other.write_bytes(path.read_bytes())
            other.chmod(0o600)
        return load_identity(path).fingerprint

    def step_in(self, text: str) -> None:
        """From now on packets for the one host come to him instead."""
        self.identity()
        client, server = self.network.client_end.v4, self.network.server_end.v4
        for host in (self.network.client, self.network.server, self.near.host, self.far.host):
            host.sysctl("net.ipv4.conf.all.rp_filter", "0")
        for host, address in ((self.near.host, server), (self.far.host, client)):
            host.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        for host, to, via, source in (
            (self.network.client, server, self._near_end.v4, client),
            (self.near.host, client, self._client_end.v4, server),
            (self.network.server, client, self._far_end.v4, server),
            (self.far.host, server, self._server_end.v4, client),
        ):
            host.run("ip", "route", "replace", f"{to}/32", "via", via, "src", source)
        for side in (self.near, self.far):
            side.start(text)

    @contextlib.contextmanager
    def relaying(self) -> Iterator[None]:
        """Carry what comes to the one stack on by the other, and listen."""
        with self.near.host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.settimeout(0.1)
            listener.bind(("", PORT))
            listener.listen()
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join(20)

    def _serve(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                one, _address = listener.accept()
                with one, self.far.host.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
                    for sock in (one, other):
                        sock.settimeout(15)
                    other.bind((self.network.client_end.v4, 0))
                    other.connect((self.network.server_end.v4, PORT))
                    while data := one.recv(4096):
                        self.heard += data
                        other.sendall(data)
                        one.sendall(other.recv(4096))


class Rewriter:
    """Changes handshakes that pass a router.  `change` has a SYN's options, and gives others."""

    def __init__(self, host: Host, change: Callable[[Segment], bytes | None]) -> None:
        self.changed = 0
        self._change = change
        self._host = host
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        with self._host.entered():
            self._queue = PacketQueue.open({_QUEUE: 1024})
        self._rule("-A")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._rule("-D")
        self._queue.close()

    def _rule(self, what: str) -> None:
        self._host.run(
            *("iptables", "-t", "mangle", what, "FORWARD", "-p", "tcp"),
            *("--tcp-flags", "SYN", "SYN", "-j", "NFQUEUE", "--queue-num", str(_QUEUE)),
        )

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._queue.receive(self._decide)

    def _decide(self, packet: object) -> None:
        segment = Segment.parse(packet.payload)  # type: ignore[attr-defined]
        options = self._change(segment)
        changed = None
        if options is not None:
            self.changed += 1
            changed = segment.with_options(options)
        self._queue.verdict(packet, Verdict.ACCEPT, changed)  # type: ignore[arg-type]


def forge(
    host: Host,
    last: Segment,
    *,
    flags: int,
    ahead: int = 0,
    data: bytes = b"",
    options: bytes = b"",
    fragment: int = 0,
) -> None:
    """Send what continues the stream of `last`, from the same addresses.

    `ahead`: so many bytes further.  `fragment`: cut the IP packet behind so many bytes.
    """
    seq = (last.seq + len(last.payload) + ahead) % _MODULUS
    words = (last.source_port, last.destination_port, seq, last.ack, 0x50, flags, 500, 0, 0)
    tcp = struct.pack("!HHIIBBHHH", *words) + data
    ends = (last.source.packed, last.destination.packed)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 77, 0, 64, 6, 0, *ends)
    packet = Segment.parse(head + tcp).with_options(options)
    pieces = [packet]
    if fragment:
        first, rest = packet[20 : 20 + fragment], packet[20 + fragment :]
        pieces = [
            struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), 77, place, 64, 6, 0, *ends) + part
            for part, place in ((first, 0x2000), (rest, fragment // 8))
        ]
    with host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for piece in pieces:
            raw.sendto(piece, (str(last.destination), 0))
