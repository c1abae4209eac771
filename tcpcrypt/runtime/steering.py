"""The seam by which connections of applications reach the daemon, and its first filling.

Opening side, TPROXY.  Packets of an application to a port that policy names
get MARK_STEERED in mangle OUTPUT, which routes them to `lo`, where TPROXY
hands them to our listener.  No address is translated, so that the application
sees the real server, and no connection tracking is involved, so that no stale
entry of it can send a packet past us.  Connections older than the rules are
listed at the start and left alone one by one.  Whatever carries the mark and
would leave by another device is dropped, and so is a SYN that has no mark.

Accepting side, DNAT.  A SYN with option 69 goes to a listener of ours under
another port of the same address; SYNs without it reach the service untouched.
TPROXY will not do here.  The service has to see the client's address and
port, hence our connection to it has the very 4-tuple of the peer's connection
to us, in one namespace.  Linux looks established sockets up by 4-tuple, the
newest first, and a socket that is not bound to a device, as the service's is
not, matches packets of any device.  Tried with our two sockets bound to their
devices or not, in all four ways: the connection to the service did not come
about, or the peer's next segment no longer reached us.  DNAT gives the peer's
connection another local port and keeps its address.  The connection to the
service is bound to the client's address (IP_TRANSPARENT), carries MARK_INNER
so that it and the answers stay on `lo`, and is not tracked, because its tuple
is that of the tracked connection.

Known limits.  Link-local IPv6 is left alone (refused where encryption is
required).  An application's connect() succeeds before the peer has answered;
a peer that refuses shows as a reset.  A host firewall sees the peer's
connections under the listener's port (`-m conntrack --ctstate DNAT
--ctorigdstport` tells the real one).  A service that sets SO_MARK on its
listener is not reached.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tcpcrypt.core.policy import Mode
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import TCP_OPTION_ENO
from tcpcrypt.runtime.eno_backend import PortRange, SocketAddress
from tcpcrypt.runtime.rules import (
    MARK_ACCEPTED,
    MARK_DONE,
    MARK_HANDSHAKE,
    MARK_INNER,
    MARK_MASK,
    MARK_STEERED,
    Rule,
    marked,
    set_mark,
)

__all__ = [
    "NotSteeredError",
    "OlderConnection",
    "Steering",
    "TransparentSteering",
    "older_connections",
]

_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_SO_ORIGINAL_DST: Final = 80
_BACKLOG: Final = 4096
_LISTENER_PORTS: Final = range(16384, 32768)
"""Below the ports that Linux gives to clients: the listener's own port must not
be one from which a client comes, whose port the connection to the service uses."""


class NotSteeredError(LocalError):
    """A connection came to a listener of ours by itself, not by our rules."""


@dataclass(frozen=True, slots=True)
class OlderConnection:
    """A connection of this host to a port of policy that is older than the rules."""

    local: ipaddress.IPv4Address | ipaddress.IPv6Address
    local_port: int
    remote: ipaddress.IPv4Address | ipaddress.IPv6Address
    remote_port: int


class Steering(Protocol):
    """Brings connections to the daemon and knows where they were meant to go."""

    @property
    def name(self) -> str: ...

    @property
    def application_listeners(self) -> Sequence[socket.socket]:
        """Listening: connections that applications of this host open."""

    @property
    def peer_listeners(self) -> Sequence[socket.socket]:
        """Bound, not yet listening: connections that peers open with ENO."""

    def rules(
        self, ports: Sequence[PortRange], mode: Mode, older: Iterable[OlderConnection]
    ) -> list[Rule]: ...

    def listen(self) -> None:
        """Begin to accept on all listeners."""

    def meant_by_application(self, sock: socket.socket) -> SocketAddress:
        """Where the application that was accepted as `sock` wants to.

        Raises `NotSteeredError`, `OSError`.
        """

    def meant_by_peer(self, sock: socket.socket) -> SocketAddress:
        """Which service the peer that was accepted as `sock` wants.

        Raises `NotSteeredError`, `OSError`.
        """

    def service_socket(self, client: SocketAddress, service: SocketAddress) -> socket.socket:
        """A nonblocking socket that connects to `service` in the name of `client`.

        Raises `OSError`.
        """

    def close(self) -> None: ...


class TransparentSteering:
    """TPROXY and DNAT; see the essay above."""

    name: Final = "tproxy"

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._sockets: list[socket.socket] = []
        self._application: dict[int, socket.socket] = {}
        self._peer: dict[int, socket.socket] = {}
        try:
            for family in families:
                self._application[family] = self._application_listener(family)
                self._peer[family] = self._peer_listener(family)
        except BaseException:
            self.close()
            raise

    @property
    def application_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._application.values())

    @property
    def peer_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._peer.values())

    def _socket(self, family: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        sock.setblocking(False)
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    def _application_listener(self, family: int) -> socket.socket:
        sock = self._socket(family)
        self._sockets.append(sock)
        _be_transparent(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_ACCEPTED)
        # Nobody but TPROXY reaches an address of the loopback from outside.
        sock.bind((_loopback(family), 0))
        return sock

    def _peer_listener(self, family: int) -> socket.socket:
        sock = self._socket(family)
        self._sockets.append(sock)
        for port in random.sample(_LISTENER_PORTS, 100):
            try:
                sock.bind(("", port))
            except OSError:
                continue
            return sock
        raise LocalError(f"no free port for the IPv{family} listener")

    def listen(self) -> None:
        for sock in self._sockets:
            sock.listen(_BACKLOG)

    def rules(
        self, ports: Sequence[PortRange], mode: Mode, older: Iterable[OlderConnection]
    ) -> list[Rule]:
        return [
            *_opening_rules(ports, mode, tuple(older)),
            *self._listener_rules(ports),
            *_accepting_rules(ports, mode),
        ]

    def _listener_rules(self, ports: Sequence[PortRange]) -> list[Rule]:
        rules = []
        for family, sock in self._application.items():
            tproxy = (
                *("-i", "lo", "-p", "tcp", *marked(MARK_STEERED), "-j", "TPROXY"),
                *("--on-ip", _loopback(family), "--on-port", str(sock.getsockname()[1])),
                *("--tproxy-mark", f"{MARK_STEERED:#x}/{MARK_MASK:#x}"),
            )
            rules.append(Rule("mangle", "PREROUTING", tproxy, (family,)))
        for family, sock in self._peer.items():
            listener = sock.getsockname()[1]
            # Before DNAT: whoever names the listener's port was not steered.
            direct = ("!", "-i", "lo", "-p", "tcp", "--dport", str(listener), "-j", "DROP")
            rules.append(Rule("mangle", "PREROUTING", direct, (family,)))
            for port in ports:
                # From a link-local address the service could be reached over its
                # own link alone, not over `lo`.
                zoned = ("!", "-s", "fe80::/10") if family == 6 else ()
                words = (
                    *("!", "-i", "lo", *zoned, "-p", "tcp", "--syn", "--dport", str(port)),
                    *("--tcp-option", str(TCP_OPTION_ENO)),
                    *("-m", "addrtype", "--dst-type", "LOCAL"),
                    *("-j", "DNAT", "--to-destination", f":{listener}"),
                )
                rules.append(Rule("nat", "PREROUTING", words, (family,)))
        return rules

    def meant_by_application(self, sock: socket.socket) -> SocketAddress:
        address: SocketAddress = sock.getsockname()
        if address[1] == self._application[_family(sock)].getsockname()[1]:
            raise NotSteeredError("connection to the listener itself")
        return address

    def meant_by_peer(self, sock: socket.socket) -> SocketAddress:
        address: SocketAddress
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, 16)
            address = (socket.inet_ntoa(raw[4:8]), struct.unpack_from("!H", raw, 2)[0])
        else:
            raw = sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, 28)
            port, flow = struct.unpack_from("!HI", raw, 2)
            scope = struct.unpack_from("=I", raw, 24)[0]
            address = (socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope)
        if address[1] == self._peer[_family(sock)].getsockname()[1]:
            raise NotSteeredError("connection to the listener itself")
        return address

    def service_socket(self, client: SocketAddress, service: SocketAddress) -> socket.socket:
        try:
            return self._service_socket(client, service)
        except OSError:
            # The client's port is taken here: an earlier connection of the same
            # tuple is in TIME_WAIT, or a service listens there.  Its address counts more.
            return self._service_socket((client[0], 0, *client[2:]), service)

    def _service_socket(self, client: SocketAddress, service: SocketAddress) -> socket.socket:
        sock = self._socket(6 if ":" in client[0] else 4)
        try:
            _be_transparent(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_INNER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(client)
            with contextlib.suppress(BlockingIOError):
                sock.connect(service)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()


def _opening_rules(
    ports: Sequence[PortRange], mode: Mode, older: Sequence[OlderConnection]
) -> list[Rule]:
    rules = [Rule("mangle", "OUTPUT", ("-o", "lo", "-j", "RETURN"))]
    # Our own sockets.  MARK_ACCEPTED is not among them: they talk over `lo`, and
    # what leaves with their mark is a reset of the application's kernel that
    # reflects it (`fwmark_reflect`), which has to come to us.
    for own in (MARK_HANDSHAKE, MARK_DONE, MARK_INNER):
        rules.append(Rule("mangle", "OUTPUT", (*marked(own), "-j", "RETURN")))
    zoned = ("-d", "fe80::/10", "-j", "RETURN")
    if mode is not Mode.REQUIRE:
        # A link-local address without its zone, which is lost on `lo`, means nothing.
        rules.append(Rule("mangle", "OUTPUT", zoned, (6,)))
        rules.append(Rule("filter", "OUTPUT", zoned, (6,)))
    steered = f"{MARK_STEERED:#x}/{MARK_MASK:#x}"
    if older:
        # The connection mark tells an old connection from a new one of the same
        # tuple; without old ones there is no need to track connections.
        for port in ports:
            words = ("-p", "tcp", "--syn", "--dport", str(port))
            rules.append(
                Rule("mangle", "OUTPUT", (*words, "-j", "CONNMARK", "--set-xmark", steered))
            )
    for old in older:
        of_old = (
            *("-p", "tcp", "!", "--syn", "-s", str(old.local), "--sport", str(old.local_port)),
            *("-d", str(old.remote), "--dport", str(old.remote_port)),
            *("-m", "connmark", "!", "--mark", steered, "-j", "RETURN"),
        )
        rules.append(Rule("mangle", "OUTPUT", of_old, (old.local.version,)))
    for port in ports:
        to = ("-p", "tcp", "--dport", str(port))
        rules.append(Rule("mangle", "OUTPUT", (*to, *set_mark(MARK_STEERED))))
        unmarked = ("!", "-o", "lo", *to, "--syn", *marked(0), "-j", "DROP")
        rules.append(Rule("filter", "OUTPUT", unmarked))
    stray = ("!", "-o", "lo", *marked(MARK_STEERED), "-j", "DROP")
    rules.append(Rule("mangle", "POSTROUTING", stray))
    return rules


def _accepting_rules(ports: Sequence[PortRange], mode: Mode) -> list[Rule]:
    untracked = ("-o", "lo", "-p", "tcp", *marked(MARK_INNER), "-j", "CT", "--notrack")
    rules = [Rule("raw", "OUTPUT", untracked)]
    if mode is Mode.REQUIRE:
        # What DNAT took has another port by now.
        for port in ports:
            words = (
                *("!", "-i", "lo", "-p", "tcp", "--syn", "--dport", str(port)),
                *("-j", "REJECT", "--reject-with", "tcp-reset"),
            )
            rules.append(Rule("filter", "INPUT", words))
    return rules


def older_connections(
    ports: Sequence[PortRange], directory: Path = Path("/proc/net")
) -> list[OlderConnection]:
    """The connections of this host to `ports` elsewhere, from /proc/net/tcp and tcp6."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (directory / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6 in this kernel
        for line in lines:
            _number, local, remote, state = line.split()[:4]
            if state == "0A":  # listening
                continue
            local_address, local_port = _parse_endpoint(local)
            remote_address, remote_port = _parse_endpoint(remote)
            if remote_address.is_loopback or not any(remote_port in port for port in ports):
                continue
            found.append(OlderConnection(local_address, local_port, remote_address, remote_port))
    return found


def _parse_endpoint(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """`0100007F:0050`: words in host byte order, then the port."""
    words, port = text.split(":")
    packed = b"".join(
        struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8)
    )
    if len(packed) == 4:
        return ipaddress.IPv4Address(packed), int(port, 16)
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address, int(port, 16)


def _family(sock: socket.socket) -> int:
    return 4 if sock.family == socket.AF_INET else 6


def _loopback(family: int) -> str:
    return "127.0.0.1" if family == 4 else "::1"


def _be_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(_SOL_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(_SOL_IPV6, _IPV6_TRANSPARENT, 1)
