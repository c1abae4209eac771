"""Whoever sits in the middle, and whatever he does to which byte: nothing gets through.

Each position of each direction is altered, cut out, or is the last one, in the
preface, the Init messages and the first frames, of a fresh and of a resumed
connection.  Both ends have something to say and say it as soon as they may.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.conversations import UNAUTHENTICATED, End, Seen, carry, connected, finished, told

from tcpcrypt import sockets
from tcpcrypt.core.events import Role
from tcpcrypt.sockets.state import Failure, State

FRAME_OVERHEAD = 3 + 1 + 16
NAMED = {failure.value for failure in Failure} - {"LocalError"}
SECRET = {Role.A: b"what A has to say", Role.B: b"what B has to say"}

Tamper = Callable[[bytes, int], bytes]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]


def flip_high(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]


def strip(data: bytes, at: int) -> bytes:
    return data[:at] + data[at + 1 :]


def insert(data: bytes, at: int) -> bytes:
    # Another byte than the one it stands before, or the stream would be altered behind that.
    return data[:at] + bytes([data[at] ^ 0x01]) + data[at:]


class Middle:
    """Passes both streams on but for one byte of one of them."""

    def __init__(self, role: Role, at: int, tamper: Tamper | None) -> None:
        self.role, self.at, self.tamper = role, at, tamper
        self.passed = {Role.A: 0, Role.B: 0}
        self.wire = {Role.A: bytearray(), Role.B: bytearray()}
        self.arrived = bytearray()

    @property
    def altered(self) -> int:
        """Where what arrives first differs: behind `at` if the byte cut out is like the next."""
        both = zip(self.wire[self.role], self.arrived, strict=False)
        return next((i for i, (sent, came) in enumerate(both) if sent != came), len(self.arrived))

    def __call__(self, role: Role, data: bytes) -> list[bytes]:
        passed_on = self._tampered(role, data)
        if role is self.role:
            self.arrived += b"".join(passed_on)
        return passed_on

    def _tampered(self, role: Role, data: bytes) -> list[bytes]:
        before, self.passed[role] = self.passed[role], self.passed[role] + len(data)
        self.wire[role] += data
        if role is not self.role or not before <= self.at < before + len(data):
            if self.tamper is None and role is self.role and before > self.at:
                return []  # cut off
            return [data]
        if self.tamper is None:
            return [data[: self.at - before]]
        return [self.tamper(data, self.at - before)]


def talk(client: End, server: End, path: Middle) -> dict[Role, Seen]:
    """A connection through `path`, at whose end TCP ends; what both ends were told."""
    ends = {Role.A: client.converse(Role.A), Role.B: server.converse(Role.B)}
    seen = {role: Seen() for role in Role}
    spoken: set[Role] = set()

    def speak() -> None:
        for role, end in ends.items():
            told(end, seen[role])
            if end.state is State.AES_MODE and role not in spoken:
                spoken.add(role)
                end.send(SECRET[role])

    carry(ends[Role.A], ends[Role.B], path=path, after=speak)
    for _ in range(3):  # what speaking brought about
        speak()
        carry(ends[Role.A], ends[Role.B], path=path, after=speak)
    for end in ends.values():
        if end.state is not State.FAIL:
            end.receive_eof()
    speak()
    return seen


@pytest.fixture
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[End, End]:
    return End.at(tmp_path / "a", request.param), End.at(tmp_path / "b", request.param)


def lengths(ends: tuple[End, End]) -> dict[Role, int]:
    """Bytes of each direction up to the end of the first frame with data."""
    path = Middle(Role.A, 1 << 30, flip)
    seen = talk(*ends, path)
    assert seen[Role.A].data == SECRET[Role.B]
    assert seen[Role.B].data == SECRET[Role.A]
    return {role: len(wire) for role, wire in path.wire.items()}


def forget(ends: tuple[End, End]) -> None:
    for end in ends:
        for cache in (end.keys.outgoing, end.keys.incoming):
            cache.flush()


@pytest.mark.parametrize(
    ("ends", "resumed"),
    [(UNAUTHENTICATED, False), ("tofu", False), ("tofu", True)],
    ids=["unauthenticated", "fresh", "resumed"],
    indirect=["ends"],
)
@pytest.mark.parametrize(
    "tamper", [flip, flip_high, strip, insert, None], ids=["flip", "high", "strip", "insert", "cut"]
)
def test_no_byte_of_a_program_gets_past_an_altered_one(
    ends: tuple[End, End], tamper: Tamper | None, resumed: bool
) -> None:
    if resumed:
        finished(*connected(*ends))
    total = lengths(ends)
    assert not resumed or max(total.values()) < 120  # no Init message has passed
    for role in Role:
        said_at = total[role] - len(SECRET[role]) - FRAME_OVERHEAD
        for at in range(total[role]):
            if not resumed:
                forget(ends)
            else:
                finished(*connected(*ends))  # what was tampered with may have used the session up
            path = Middle(role, at, tamper)
            seen = talk(*ends, path)
            # Nothing arrives of what came by the altered byte; and if that was one of
            # the preface, of the exchange or of a proof, nothing at all is said.
            assert seen[role.peer].data == b"", (role, at)
            assert path.altered >= said_at or seen[role].data == b"", (role, at)
            assert all(type(seen[one].error).__name__ in NAMED for one in Role), (role, at)


def test_the_option_decides_what_is_spoken_and_both_ends_have_to_have_seen_the_same(
    tmp_path: Path,
) -> None:
    """RFC 8547 section 4.8: a TEP that was taken out of the offer is noticed."""
    ends = End.at(tmp_path / "a", UNAUTHENTICATED), End.at(tmp_path / "b", UNAUTHENTICATED)

    def weaken(role: Role, data: bytes) -> list[bytes]:
        # The most preferred one, 0x23, in A's list and before it.
        return [data.replace(b"\x23", b"\x7f", 1) if role is Role.A else data]

    a, b = ends[0].converse(Role.A), ends[1].converse(Role.B)
    carry(a, b, path=weaken)
    assert b.state is State.FAIL
    assert b.session_id is None
    assert b.next_event() is not None
    assert not told(b).data


def test_one_who_answers_in_clear_gets_nothing(tmp_path: Path) -> None:
    """An end that has lost its preface is refused before a byte of the program."""
    for role in Role:
        end = End.at(tmp_path / role.name).converse(role)
        end.receive_data(b"220 welcome\r\n" * 10)
        assert end.state is State.FAIL
        assert not told(end).data


# --- over sockets ------------------------------------------------------------------------


class Proxy(threading.Thread):
    """A TCP relay that alters one byte of one direction, or strips the whole preface."""

    def __init__(self, service: tuple[str, int], role: Role, at: int, tamper: Tamper) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.service, self.middle = service, Middle(role, at, tamper)

    def run(self) -> None:
        client, _address = self.listening.accept()
        server = socket.create_connection(self.service, 10)
        ways = {client: (Role.A, server), server: (Role.B, client)}
        try:
            while ways:
                for sock in select.select(list(ways), [], [], 10)[0]:
                    role, other = ways[sock]
                    data = sock.recv(65_536)
                    if not data:
                        return
                    other.sendall(b"".join(self.middle(role, data)))
        except OSError:
            pass  # either end has had enough
        finally:
            for sock in (client, server, self.listening):
                sock.close()


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
@pytest.mark.parametrize("at", [0, 4, 5, 6, 7, 8, 11, 13, 16, 60, 100])
def test_no_byte_gets_past_an_altered_one_over_sockets(
    listen, client_keys: Path, pool: ThreadPoolExecutor, role: Role, at: int
) -> None:
    listener = listen()
    proxy = Proxy(listener.getsockname(), role, at, flip)
    proxy.start()
    got: list[bytes] = []

    def serve() -> None:
        connection, _address = listener.accept()
        connection.settimeout(10)
        with connection, pytest.raises(OSError):  # noqa: PT012
            connection.sendall(SECRET[Role.B])
            got.append(connection.recv(100))
            raise ConnectionError

    serving = pool.submit(serve)

    def use() -> None:
        with sockets.connect(
            proxy.address, peer="tofu", keys=client_keys, transport="inband"
        ) as client:
            client.settimeout(10)
            client.sendall(SECRET[Role.A])
            got.append(client.recv(100))

    with pytest.raises(OSError) as raised:
        use()
    assert Failure.of(raised.value) in set(Failure) - {Failure.LOCAL}
    serving.result(10)
    assert got == []
    proxy.join(10)
    assert not proxy.is_alive()
    for wire in proxy.middle.wire.values():
        assert not any(secret in wire for secret in SECRET.values())
