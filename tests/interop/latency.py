"""A path that takes its time: holds the packets of a netfilter queue for some milliseconds.

    python latency.py QUEUE MILLISECONDS

They leave in the order in which they came.  Kernels without netem need it where an
implementation has a race that only paths of no length at all win.
"""

from __future__ import annotations

import select
import sys
import time
from collections import deque

from tcpcrypt.runtime.netlink import QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue


def main(number: int, seconds: float) -> None:
    """Never returns."""
    queue = PacketQueue.open({number: 4096})
    waiting: deque[tuple[float, QueuedPacket]] = deque()

    def came(packet: QueuedPacket) -> None:
        # Its content is that of a buffer which is used again, and stays as it is.
        kept = packet._replace(payload=memoryview(b""))
        waiting.append((time.monotonic() + seconds, kept))

    print("holding", flush=True)
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([queue], [], [], left)[0]:
            queue.receive(came)
        while waiting and waiting[0][0] <= time.monotonic():
            queue.verdict(waiting.popleft()[1], Verdict.ACCEPT)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) / 1000)
