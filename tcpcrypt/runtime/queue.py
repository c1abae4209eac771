"""A netfilter queue: packets wait in the kernel until user space has decided.

Never fail-open: there is no NFQA_CFG_F_FAIL_OPEN here and no `--queue-bypass`
in the rules.  What does not fit the queue, or comes while nobody listens, is
dropped, and TCP sends it again.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime import netlink
from tcpcrypt.runtime.netlink import Answer, QueuedPacket, Verdict

__all__ = ["PacketQueue", "Receiver"]

Receiver = Callable[[memoryview, int, bytearray], tuple[int, int]]
"""Takes datagrams, so many at most; says how many, and how long the last one is that
lies in the memory and waits for a decision: 0 if none does, -1 if there are no more.
Before it decides itself it takes the verdicts that it is given, and sends them with its own
or gives all back, in their order."""

_NETLINK_NETFILTER: Final = 12
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BUFFER: Final = 4 << 20
_DATAGRAM_MAX: Final = 1 << 17
_PACKETS_A_TURN: Final = 64
"""Packets taken before other descriptors get their turn."""
_BATCH_BYTES: Final = 1 << 15
"""Verdicts collected at most; one more, with a packet of 64 KiB, fits a send buffer."""


class PacketQueue:
    """Netfilter queues that share one nonblocking socket.

    `open` takes the queues.  A process without CAP_NET_ADMIN is given another
    socket, over which somebody forwards the same datagrams in both directions.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.overruns = 0
        """Times that the kernel had more packets than the socket could hold."""
        self._socket = sock
        self._buffer = bytearray(_DATAGRAM_MAX)
        self._verdicts = bytearray()
        self._receiving = False
        self._receiver: Receiver | None = None

    @classmethod
    def open(cls, lengths: Mapping[int, int], *, joined: bool = False) -> PacketQueue:
        """Take the queues with these numbers; as many packets may wait in each.

        All at once, for afterwards packets come between the kernel's answers.
        `joined`: a packet may be what the kernel cuts into segments only later.
        Raises `LocalError` if a queue is taken, the kernel lacks
        nfnetlink_queue, or CAP_NET_ADMIN is missing.
        """
        try:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        except OSError as error:
            raise LocalError(f"no netfilter netlink socket: {error.strerror}") from error
        queue = cls(sock)
        try:
            sock.bind((0, 0))
            sock.settimeout(5)
            queue._enlarge()
            for number, length in lengths.items():
                queue._bind(number, length, joined=joined)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return queue

    def _bind(self, number: int, length: int, *, joined: bool) -> None:
        requests = [
            netlink.bind_request(number, 1),
            netlink.copy_request(number, 2),
            netlink.length_request(number, 3, length),
        ]
        if joined:
            requests.append(netlink.joined_request(number, 4))
        for sequence, request in enumerate(requests, start=1):
            self._request(number, request, sequence)

    def _enlarge(self) -> None:
        # The forced form needs CAP_NET_ADMIN over the machine; in a user
        # namespace the ordinary one, up to net.core.rmem_max, has to do.
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def _request(self, number: int, request: bytes, sequence: int) -> None:
        self._socket.send(request)
        with memoryview(self._buffer) as view:
            while True:
                size = self._socket.recv_into(view)
                for message in netlink.parse_messages(view[:size]):
                    if isinstance(message, Answer) and message.sequence == sequence:
                        if message.error:
                            raise LocalError(
                                f"netfilter queue {number}: {os.strerror(message.error)}"
                            )
                        return

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive_by(self, receiver: Receiver) -> None:
        """Let another take packets from the socket first, and decide on what it can."""
        self._receiver = receiver

    def receive(self, decide: Callable[[QueuedPacket], None]) -> None:
        """Call `decide` for the packets that wait now; it has to call `verdict`.

        The verdicts of one turn leave together: each lets the kernel deliver a
        packet on the spot, and that would wake whoever waits for it at once.
        """
        self._receiving = True
        try:
            self._receive(decide)
        finally:
            self._receiving = False
            self.flush()

    def _receive(self, decide: Callable[[QueuedPacket], None]) -> None:
        with memoryview(self._buffer) as view:
            left = _PACKETS_A_TURN
            while left > 0:
                try:
                    taken, size = self._next(view, left)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self.overruns += 1  # those packets are gone; TCP repeats them
                    left -= 1
                    continue
                left -= taken
                if size < 0:
                    return
                for message in netlink.parse_messages(view[:size]):
                    if isinstance(message, QueuedPacket):
                        decide(message)

    def _next(self, view: memoryview, most: int) -> tuple[int, int]:
        """Datagrams received, and the length of the last one if nobody has decided on it yet."""
        if self._receiver is None:
            return 1, self._socket.recv_into(view)
        return self._receiver(view, most, self._verdicts)

    def verdict(
        self,
        packet: QueuedPacket,
        what: Verdict,
        payload: bytes | None = None,
        mark: int | None = None,
    ) -> None:
        """Let `packet` go, with another content and mark if they are given, or drop it."""
        message = netlink.verdict(packet, what, payload, mark)
        if len(message) > _BATCH_BYTES:
            self.flush()
            self._send(message)  # it would only be copied once more
            return
        self._verdicts += message
        if not self._receiving or len(self._verdicts) > _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send the verdicts that were kept."""
        if self._verdicts:
            verdicts, self._verdicts = self._verdicts, bytearray()
            self._send(verdicts)

    def _send(self, verdicts: bytes | bytearray) -> None:
        # Netlink hands verdicts over within the call; ENOBUFS there reports a
        # lost packet of the other direction, and is counted when receiving.
        try:
            self._socket.send(verdicts)
        except OSError as error:
            if error.errno not in {errno.ENOBUFS, errno.EAGAIN}:
                raise

    def close(self) -> None:
        self._socket.close()
