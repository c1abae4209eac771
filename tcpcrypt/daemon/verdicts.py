"""Verdicts of the worker on queued packets, handed to the kernel by the parent.

The kernel asks for CAP_NET_ADMIN when something is *sent* to nfnetlink, not
when packets are read.  So the worker reads the queue's socket itself, which it
inherited, and only its verdicts take the way through the parent, those of one
turn of the loop in one datagram.  The parent lets pass verdicts on packets of
our queues, built as we build them, and drops a worker that sends anything
else.  (What a worker that somebody took over can do with a verdict is put
another packet in the place of one that it holds.)

On the channel of the segment plane a worker may also have packets added: a message
is one, behind four bytes of zero, with which no verdict begins.
`tcpcrypt.daemon.added` says which.

When the worker does not read, the kernel's queue fills and packets are
dropped; they never pass unseen.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Collection
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.daemon.words import ENDED, NonsenseError, Patience, enlarge
from tcpcrypt.runtime import netlink
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.netlink import QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue

__all__ = ["ADDED", "DelegatedQueue", "VerdictRelay", "check_verdicts", "verdict_pair"]

_DATAGRAM_MAX: Final = 1 << 17
_BATCH_BYTES: Final = 1 << 15
"""Verdicts collected at most; one more, with a packet of 64 KiB, fits the datagram."""
_DATAGRAMS_A_TURN: Final = 64
_SEND_BUFFER: Final = 4 << 20
ADDED: Final = bytes(4)
"""What stands before a packet that is to be added."""
_PATIENCE: Final = 10.0
"""Seconds for which the worker waits for the parent, who may be changing rules."""


def verdict_pair() -> tuple[socket.socket, socket.socket]:
    """The parent's and the worker's end of a channel for verdicts."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        enlarge(end, _SEND_BUFFER)
    return ends


class VerdictRelay:
    """The parent's end.  `queue` is the socket that is bound to the queues `numbers`.

    `add` sends a packet, and raises `NonsenseError` for one that nobody may ask for;
    None: nothing is to be added.  `lost` is called once, with the reason, when the
    worker is gone or has sent something that is neither.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        queue: int,
        numbers: Collection[int],
        lost: Callable[[str], None],
        *,
        add: Callable[[memoryview], None] | None = None,
    ) -> None:
        self._loop = loop
        self._add = add
        self._socket = sock
        self._queue = socket.socket(fileno=os.dup(queue))
        self._numbers = frozenset(numbers)
        self._lost = lost
        self._buffer = bytearray(_DATAGRAM_MAX)
        loop.watch(sock.fileno(), READ, self._on_ready)

    def _on_ready(self, _events: int) -> None:
        try:
            with memoryview(self._buffer) as view:
                for _ in range(_DATAGRAMS_A_TURN):
                    size = self._socket.recv_into(view)
                    if size == 0:
                        raise NonsenseError(ENDED)
                    with view[:size] as datagram:
                        if self._add is not None and datagram[: len(ADDED)] == ADDED:
                            self._add(datagram[len(ADDED) :])
                        else:
                            check_verdicts(datagram, self._numbers)
                            self._pass(datagram)
                            # The worker has put a turn's verdicts into it, and seldom has
                            # made more meanwhile: to ask would cost what the next turn does.
                            return
        except BlockingIOError:
            return
        except (NonsenseError, OSError) as error:
            self.close()
            self._lost(str(error))

    def _pass(self, datagram: memoryview) -> None:
        try:
            self._queue.send(datagram)
        except OSError as error:
            # Netlink hands a datagram over within the call.  These report packets
            # of the other direction, which are counted where they are read.
            if error.errno not in {errno.ENOBUFS, errno.EAGAIN}:
                raise

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._queue.close()


class DelegatedQueue(PacketQueue):
    """The worker's end: packets of the queue that `queue` is bound to, verdicts by `sock`.

    For the segment plane it is what adds packets, too (`Adding`).
    """

    def __init__(self, queue: int, sock: socket.socket) -> None:
        super().__init__(socket.socket(fileno=os.dup(queue)))
        self._loop: Loop | None = None
        self._relay = sock
        self._verdicts = bytearray()

    def attach(self, loop: Loop) -> None:
        """Collect the verdicts of each turn of `loop`; before, each goes by itself."""
        self._loop = loop
        loop.before_waiting(self.flush)

    def verdict(
        self,
        packet: QueuedPacket,
        what: Verdict,
        payload: bytes | None = None,
        mark: int | None = None,
    ) -> None:
        self._verdicts += netlink.verdict(packet, what, payload, mark)
        if self._loop is None or len(self._verdicts) > _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what there is.  No verdict may be lost: its packet would wait for ever.

        Ends the process by `SystemExit` if the parent is gone or does not read.
        """
        if self._verdicts:
            self._say(self._verdicts)
            self._verdicts.clear()

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """See `tcpcrypt.runtime.segment_queue.Adding`."""
        return self._relay.fileno(), -1, -1

    def send(self, packet: bytes) -> None:
        """Have the parent add a packet; to come after `flush`."""
        self._say(ADDED + packet)

    def _say(self, message: bytes | bytearray) -> None:
        patience = Patience(_PATIENCE)
        while True:
            try:
                self._relay.send(message)
            except BlockingIOError:
                if not patience.ready(self._relay.fileno(), select.POLLOUT):
                    raise SystemExit("tcpcryptd: the parent process does not read") from None
            except ConnectionError as error:
                raise SystemExit(1) from error
            else:
                return

    def close(self) -> None:
        """Idempotent."""
        if self._relay.fileno() >= 0:
            self.flush()
            self._relay.close()
        super().close()


def check_verdicts(datagram: memoryview, numbers: Collection[int]) -> None:
    """Raise `NonsenseError` unless `datagram` is verdicts on packets of the queues `numbers`.

    That is: DROP, ACCEPT or REPEAT, perhaps with a mark and a packet, each once and in
    this order; and every byte belongs to one of them.
    """
    reason = _fast.check_verdicts(datagram, numbers)
    if reason:
        raise NonsenseError(reason)
