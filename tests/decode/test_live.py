"""Live captures without rights: what the socket says, and what becomes of it.

With real interfaces: tests/netns/test_decode.py.
"""

import json
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from support.captures import record
from support.decoding import talk
from support.hosts import Host

from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.tools.decode import live
from tcpcrypt.tools.decode.capture import CaptureError
from tcpcrypt.tools.decode.live import LiveCapture

IP, ARP, LOOPBACK, ETHERNET = 0x0800, 0x0806, 772, 1
Answer = tuple[bytes, tuple[object, ...]] | Callable[[], None] | OSError


def seen(packet: bytes, protocol: int = IP, way: int = 0, kind: int = ETHERNET) -> Answer:
    return packet, ("eth0", protocol, way, kind, b"")


class Wire:
    """In the place of a packet socket: answers in order, then nothing."""

    def __init__(self, answers: list[Answer], dropped: int = 0) -> None:
        self.answers, self.dropped = answers, dropped
        self.blocking = True
        self.forced: list[int] = []

    def __call__(self, *_: object) -> "Wire":
        return self

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[object, ...]]:
        while self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            if isinstance(answer, tuple):
                return answer
            answer()
            if self.blocking:
                raise TimeoutError
        if self.blocking:
            raise TimeoutError
        raise BlockingIOError

    def setblocking(self, blocking: bool) -> None:
        self.blocking = blocking

    def setsockopt(self, _level: int, number: int, _value: int) -> None:
        self.forced.append(number)
        if number != socket.SO_RCVBUF:
            raise PermissionError

    def getsockopt(self, *_: int) -> bytes:
        return struct.pack("=II", 99, self.dropped)

    def settimeout(self, _seconds: float) -> None:
        """Whatever is waited for is there, or is not."""

    def bind(self, address: tuple[str, int]) -> None:
        if address[0] == "nothing0":
            raise OSError(19, "No such device")

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Wire]:
    def put(answers: list[Answer], dropped: int = 0) -> Wire:
        wire = Wire(answers, dropped)
        monkeypatch.setattr(live.socket, "socket", wire)
        return wire

    return put


def test_without_rights_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(live.socket, "socket", refused)
    assert main(["decode", "--interface", "eth0", "--keylog", str(tmp_path / "keys")]) == 2
    assert "eth0: capturing needs CAP_NET_RAW: run it as root" in capsys.readouterr().err


def test_an_interface_that_is_none(put: Callable[..., Wire]) -> None:
    put([])
    with pytest.raises(CaptureError, match="nothing0: No such device"):
        LiveCapture("nothing0")


def test_ip_alone_and_each_packet_of_loopback_once(put: Callable[..., Wire]) -> None:
    out = socket.PACKET_OUTGOING
    wire = put([
        seen(b"1"), seen(b"arp", ARP), seen(b"2", way=out), seen(b"3", kind=LOOPBACK, way=out),
        seen(b"3", kind=LOOPBACK), seen(b"4", 0x86DD), seen(b"5"),
    ])  # fmt: skip
    with LiveCapture("eth0", packets=4) as capture:
        found = [bytes(packet.data) for packet in capture if packet is not None]
    assert found == [b"1", b"2", b"3", b"4"]
    assert wire.forced[-1] == socket.SO_RCVBUF, "as much as this user may have"


def test_ctrl_c_reads_what_has_come(
    put: Callable[..., Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was being done is done, and what the kernel holds is decoded, too."""
    recorded = talk(record(Host(), Host()))
    keys = tmp_path / "keys.log"
    keys.write_text("".join(f"{line}\n" for line in recorded.lines))
    packets: list[Answer] = [seen(packet) for packet in recorded.packets]
    before = signal.getsignal(signal.SIGINT)
    put([*packets[:6], lambda: signal.raise_signal(signal.SIGINT), *packets[6:]])
    assert main(["decode", "--interface", "eth0", "--keylog", str(keys), "--json"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    (connection,) = json.loads(capsys.readouterr().out)["connections"]
    assert connection["errors"] == []
    assert connection["server_to_client"]["ended"] == "finp"


def test_a_second_ctrl_c_ends_it_at_once(put: Callable[..., Wire]) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    put([twice])
    with pytest.raises(KeyboardInterrupt), LiveCapture("eth0") as capture:
        list(capture)


def test_what_the_kernel_dropped_is_told(
    put: Callable[..., Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put([seen(b"")], dropped=7)
    arguments = ["--keylog", str(tmp_path / "keys"), "--packets", "1"]
    assert main(["decode", "--interface", "eth0", *arguments]) == 1
    assert "eth0: the kernel dropped 7 packets: connections may have gaps" in (
        capsys.readouterr().err
    )


def test_an_interface_that_goes(
    put: Callable[..., Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was read until then is told."""
    recorded = talk(record(Host(), Host()))
    put([*(seen(packet) for packet in recorded.packets), OSError(100, "Network is down")])
    keys = tmp_path / "keys.log"
    keys.write_text("".join(f"{line}\n" for line in recorded.lines))
    assert main(["decode", "--interface", "eth0", "--keylog", str(keys)]) == 1
    out, err = capsys.readouterr()
    assert "> question" in out
    assert "eth0: Network is down" in err


def test_keys_far_behind_in_a_long_log_are_found(
    put: Callable[..., Wire],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon has written it for months, and the capture is over at once."""
    monkeypatch.setattr("tcpcrypt.tools.decode.files._GROWTH_MAX", 1000)
    recorded = talk(record(Host(), Host()))
    others = [talk(record(Host(), Host())).lines[0] for _ in range(5)]
    keys = tmp_path / "keys.log"
    keys.write_text("".join(f"{line}\n" for line in [*others, *recorded.lines]))
    put([seen(packet) for packet in recorded.packets])
    bound = ["--packets", str(len(recorded.packets))]
    assert main(["decode", "--interface", "eth0", "--keylog", str(keys), *bound]) == 0
    assert "> question" in capsys.readouterr().out
