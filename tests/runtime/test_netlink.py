"""nfnetlink_queue messages, against bytes written out by hand from the kernel's headers."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.netlink import (
    Answer,
    Hook,
    QueuedPacket,
    Verdict,
    bind_request,
    copy_request,
    joined_request,
    length_request,
    parse_messages,
    verdict,
)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = 0) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body
    return whole + bytes(-len(whole) % 4)


def packet(identifier: int, hook: int, payload: bytes, mark: int | None = None) -> bytes:
    body = struct.pack("!BBH", 2, 0, 7)
    body += attribute(1, struct.pack("!IHB", identifier, 0x0800, hook))
    if mark is not None:
        body += attribute(3, struct.pack("!I", mark))
    body += attribute(99, b"something newer")
    return message(3 << 8, body + attribute(10, payload))


def request(length: int, kind: int, flags: int, sequence: int, body: str) -> bytes:
    """A header in host byte order, then what is given in hex."""
    return struct.pack("=IHHII", length, kind, flags, sequence, 0) + bytes.fromhex(body)


def head(length: int, kind: int) -> str:
    return struct.pack("=HH", length, kind).hex()


def test_requests_byte_for_byte() -> None:
    assert bind_request(0x1234, 9) == request(
        28, 0x0302, 5, 9, "00001234" + head(8, 1) + "01000000"
    )
    assert copy_request(1, 2, 0xFFFF) == request(
        32, 0x0302, 5, 2, "00000001" + head(9, 2) + "0000ffff" + "02000000"
    )
    assert length_request(1, 3, 4096) == request(
        28, 0x0302, 5, 3, "00000001" + head(8, 3) + "00001000"
    )
    assert joined_request(1, 4) == request(
        36, 0x0302, 5, 4, "00000001" + head(8, 4) + "00000004" + head(8, 5) + "00000004"
    )


def test_verdicts_byte_for_byte() -> None:
    one = QueuedPacket(1, 0xABCD, Hook.INPUT, 0, memoryview(b""))
    drop, accept = "00000000" + "0000abcd", "00000001" + "0000abcd"
    assert verdict(one, Verdict.DROP) == request(32, 0x0301, 1, 0, "00000001" + head(12, 2) + drop)
    assert verdict(one, Verdict.ACCEPT, b"\x45\x00\x01") == request(
        40, 0x0301, 1, 0, "00000001" + head(12, 2) + accept + head(7, 10) + "45000100"
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.sampled_from(list(Hook)),
            st.binary(max_size=70),
            st.none() | st.integers(0, 2**32 - 1),
        ),
        max_size=4,
    )
)
def test_packets_are_read_back(packets: list[tuple[int, Hook, bytes, int | None]]) -> None:
    datagram = b"".join(packet(i, h, p, m) for i, h, p, m in packets)
    found = list(parse_messages(memoryview(datagram)))
    assert found == [QueuedPacket(7, i, h, m or 0, memoryview(p)) for i, h, p, m in packets]


def test_answers_and_strangers() -> None:
    datagram = (
        message(2, struct.pack("=i", -16) + bytes(16), sequence=5)
        + message(3, b"")  # NLMSG_DONE
        + message(2, struct.pack("=i", 0) + bytes(16), sequence=6)
    )
    assert list(parse_messages(memoryview(datagram))) == [Answer(5, 16), Answer(6, 0)]


@given(st.binary(max_size=80), st.integers(0, 80))
def test_nothing_but_local_errors(noise: bytes, cut: int) -> None:
    for datagram in (noise, packet(1, 1, noise)[:cut], message(3 << 8, noise), message(2, noise)):
        with contextlib.suppress(LocalError):
            list(parse_messages(memoryview(datagram)))
