"""What the kernel says to verdicts."""

from __future__ import annotations

import errno
import os

import pytest

from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue


class Kernel:
    """A netlink socket that answers each verdict with an error."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        raise OSError(self.number, os.strerror(self.number))


PACKET = QueuedPacket(1, 2, Hook.INPUT, 0, memoryview(b"packet"))


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EAGAIN])
def test_what_was_lost_in_the_other_direction_is_no_fault_of_a_verdict(number: int) -> None:
    kernel = Kernel(number)
    PacketQueue(kernel).verdict(PACKET, Verdict.DROP)  # type: ignore[arg-type]
    assert len(kernel.sent) == 1


def test_a_verdict_that_the_kernel_does_not_take_is_told() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        PacketQueue(Kernel(errno.EINVAL)).verdict(PACKET, Verdict.DROP)  # type: ignore[arg-type]
