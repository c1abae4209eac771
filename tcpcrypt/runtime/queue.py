"""A netfilter queue: packets wait in the kernel until user space has decided.

Never fail-open: there is no NFQA_CFG_F_FAIL_OPEN here and no `--queue-bypass`
in the rules.  What does not fit the queue, or comes while nobody listens, is
dropped, and TCP sends it again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime import netlink
from tcpcrypt.runtime.netlink import Answer, QueuedPacket, Verdict

__all__ = ["PacketQueue"]

_NETLINK_NETFILTER: Final = 12
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BUFFER: Final = 4 << 20
_DATAGRAM_MAX: Final = 1 << 17
_PACKETS_A_TURN: Final = 64
"""Packets taken before other descriptors get their turn."""


class PacketQueue:
    """One queue, bound to this process; nonblocking.

    Raises `LocalError` if the queue is taken, the kernel lacks
    nfnetlink_queue, or CAP_NET_ADMIN is missing.
    """

    def __init__(self, number: int, length: int) -> None:
        self.number = number
        self.overruns = 0
        """Times that the kernel had more packets than the socket could hold."""
        self._buffer = bytearray(_DATAGRAM_MAX)
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        except OSError as error:
            raise LocalError(f"no netfilter netlink socket: {error.strerror}") from error
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(5)
            self._enlarge()
            for sequence, request in enumerate(
                (
                    netlink.bind_request(number, 1),
                    netlink.copy_request(number, 2),
                    netlink.length_request(number, 3, length),
                ),
                start=1,
            ):
                self._request(request, sequence)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def _enlarge(self) -> None:
        # The forced form needs CAP_NET_ADMIN over the machine; in a user
        # namespace the ordinary one, up to net.core.rmem_max, has to do.
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def _request(self, request: bytes, sequence: int) -> None:
        self._socket.send(request)
        with memoryview(self._buffer) as view:
            while True:
                size = self._socket.recv_into(view)
                for message in netlink.parse_messages(view[:size]):
                    if isinstance(message, Answer) and message.sequence == sequence:
                        if message.error:
                            raise LocalError(
                                f"netfilter queue {self.number}: {os.strerror(message.error)}"
                            )
                        return

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, decide: Callable[[QueuedPacket], None]) -> None:
        """Call `decide` for the packets that wait now; it has to call `verdict`."""
        with memoryview(self._buffer) as view:
            for _ in range(_PACKETS_A_TURN):
                try:
                    size = self._socket.recv_into(view)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self.overruns += 1  # those packets are gone; TCP repeats them
                    continue
                for message in netlink.parse_messages(view[:size]):
                    if isinstance(message, QueuedPacket):
                        decide(message)

    def verdict(self, packet: QueuedPacket, what: Verdict, payload: bytes | None = None) -> None:
        """Let `packet` go, changed to `payload` if that is given, or drop it."""
        # Netlink hands a verdict over within the call; ENOBUFS there reports a
        # lost packet of the other direction, and is counted when receiving.
        with contextlib.suppress(BlockingIOError):
            self._socket.send(netlink.verdict(packet, what, payload))

    def close(self) -> None:
        self._socket.close()
