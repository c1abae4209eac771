"""What the program keeps of a handshake is replayed, and the state machine has the last word."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.errors import FallbackReason, LocalError
from tcpcrypt.runtime import bpf
from tcpcrypt.runtime.eno_backend import (
    SYNS_TO_THE_KNOWN,
    SYNS_WITH_OPTION,
    Requested,
    Tuple4,
)
from tcpcrypt.runtime.privileges import tcp_socket
from tcpcrypt.runtime.sockops import Maps, SockopsBackend

SYN_LEFT, GAVE_UP, CROSSED, UP, ACKED = 1, 2, 4, 8, 16
ANSWER = b"\x45\x04\x01\x23"
ACK = b"\x45\x02"
LAYOUT = struct.Struct("8B10s6x40s40s40s")

Kernel = dict[str, bytes]


class Sockets:
    """Makes sockets as nobody has to."""

    def opener(self, family: int, _mark: int = 0, *, diverted: bool = True) -> object:
        assert not diverted
        return tcp_socket(family)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """What was stored last, and `said`: what a look at a socket's storage finds."""
    kept: Kernel = {}
    monkeypatch.setattr(bpf, "update", lambda _map, _key, value: kept.update(stored=value))
    monkeypatch.setattr(bpf, "lookup", lambda _map, _key, _size: kept.get("said"))
    return kept


@pytest.fixture
def backend(kernel: Kernel) -> SockopsBackend:
    return SockopsBackend(Maps(3, 4, 5), Sockets())  # type: ignore[arg-type]


Opened = Callable[..., Negotiation]


@pytest.fixture
def opened(backend: SockopsBackend, kernel: Kernel) -> Iterator[Opened]:
    """Connects, and finds `said` when the connection is up."""
    listener = tcp_socket(4)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    sock = backend.opener(4, 0, Config())

    def open_it(seen: int | None, theirs: bytes = ANSWER, **known: bool) -> Negotiation:
        negotiation = Negotiation(Config(), Opener.ACTIVE)
        told: list[bool] = []
        address = listener.getsockname()
        backend.connect(sock, address, negotiation, lambda: told.append(True), **known)
        if seen is not None:
            own = LAYOUT.unpack(kernel["stored"])[9]
            kernel["said"] = LAYOUT.pack(1, seen, 1, 3, 1, 3, len(theirs), 0, b"", own, theirs, b"")
        backend.connected(sock)
        assert told == [True]
        backend.connected(sock)  # no news
        assert told == [True]
        return negotiation

    yield open_it
    sock.close()
    listener.close()


def test_an_opener_is_given_its_option(opened: Opened, kernel: Kernel) -> None:
    negotiation = opened(SYN_LEFT | UP | ACKED)
    assert isinstance(negotiation.outcome, Negotiated)
    assert negotiation.own is not None
    values = LAYOUT.unpack(kernel["stored"])
    kind, seen, syns, most, offered, length = values[:6]
    assert (kind, seen, syns, most) == (1, 0, 0, SYNS_WITH_OPTION)
    assert offered == 0b1101, "P-256, Curve25519, Curve448"
    assert values[9][:length] == negotiation.own.raw
    assert values[8] == bytes(10), "nothing to resume"


def test_who_insists_repeats_it_for_ever(opened: Opened, kernel: Kernel) -> None:
    opened(SYN_LEFT | UP | ACKED, insist=True)
    assert LAYOUT.unpack(kernel["stored"])[3] == 0


def test_a_path_that_is_known_to_carry_it_is_tried_longer(opened: Opened, kernel: Kernel) -> None:
    opened(SYN_LEFT | UP | ACKED, known=True)
    assert LAYOUT.unpack(kernel["stored"])[3] == SYNS_TO_THE_KNOWN


@pytest.mark.parametrize(
    ("seen", "theirs", "reason"),
    [
        (None, b"", FallbackReason.SYN_RETRANSMITTED_PLAIN),
        (UP, ANSWER, FallbackReason.SYN_RETRANSMITTED_PLAIN),
        (SYN_LEFT | GAVE_UP | UP, ANSWER, FallbackReason.SYN_RETRANSMITTED_PLAIN),
        (SYN_LEFT | CROSSED | UP, b"", FallbackReason.NO_ENO_IN_SYN),
        (SYN_LEFT | UP, b"", FallbackReason.NO_ENO_IN_SYN_ACK),
        (SYN_LEFT | UP, b"\x45\x03\x23", FallbackReason.SAME_ROLE),
        # The program did not like what the state machine would have taken.
        (SYN_LEFT | UP, ANSWER, FallbackReason.NO_OPTION_SPACE),
    ],
)
def test_what_ends_in_plain(
    opened: Opened, seen: int | None, theirs: bytes, reason: FallbackReason
) -> None:
    assert opened(seen, theirs).outcome == Fallback(reason)


@pytest.mark.parametrize("theirs", [b"", b"\x45\x03\x23", b"\x45\x04\x01\x22"])
def test_what_was_acknowledged_cannot_end_in_plain(opened: Opened, theirs: bytes) -> None:
    with pytest.raises(ConnectionAbortedError):
        opened(SYN_LEFT | UP | ACKED, theirs)


def accept(
    backend: SockopsBackend, kernel: Kernel, said: tuple[bytes, bytes, bytes], *, kind: int = 3
) -> Negotiation | None:
    def new(_: Tuple4, *, resume: bool = True, random: RandomBytes = bytes) -> Requested:
        config = Config()
        negotiation = Negotiation(config, Opener.PASSIVE, random=random)
        return Requested(negotiation, Policy(Mode.OPPORTUNISTIC), config, None)

    lengths = [len(part) for part in said]
    with tcp_socket(4) as listener, tcp_socket(4) as client:
        backend.adopt_listener(listener, new)
        assert kernel["stored"][0] == 2
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect_ex(listener.getsockname())
        listener.setblocking(True)
        kernel["said"] = LAYOUT.pack(kind, UP, 0, 0, 0, *lengths, b"", *said)
        with listener.accept()[0] as sock:
            ends = Tuple4.between(sock.getsockname(), sock.getpeername())
            requested = backend.accepted(sock, ends)
            return requested.negotiation if requested is not None else None


def test_an_accepted_connection(backend: SockopsBackend, kernel: Kernel) -> None:
    negotiation = accept(backend, kernel, (ANSWER, b"\x02\x04\x05\xb4\x45\x04\x21\x23", ACK))
    assert negotiation is not None
    assert isinstance(negotiation.outcome, Negotiated)
    assert negotiation.outcome.eno_transcript == b"\x45\x04\x21\x23" + ANSWER


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((ANSWER, b"\x45\x03\x23", b""), FallbackReason.NO_ENO_IN_FIRST_ACK),
        ((b"", b"\x45\x03\x23", ACK), FallbackReason.NO_OPTION_SPACE),
        ((b"", b"\x45\x03\x22", ACK), FallbackReason.NO_COMMON_TEP),
    ],
)
def test_an_accepted_connection_in_plain(
    backend: SockopsBackend,
    kernel: Kernel,
    said: tuple[bytes, bytes, bytes],
    reason: FallbackReason,
) -> None:
    negotiation = accept(backend, kernel, said)
    assert negotiation is not None
    assert negotiation.outcome == Fallback(reason)


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (b"\x45\x04\x01\x24", b"\x45\x03\x23"),
        (ANSWER, b"\x45\x03\x22"),
        (ANSWER, b""),
        # It resumes what no cache knows any more.
        (b"\x45\x15\x01\xa3" + bytes(17), b"\x45\x14\xa3" + bytes(17)),
    ],
)
def test_an_answer_that_would_not_be_given_now_is_not_taken(
    backend: SockopsBackend, kernel: Kernel, own: bytes, theirs: bytes
) -> None:
    assert accept(backend, kernel, (own, theirs, ACK)) is None


def test_of_which_nothing_is_known_is_not_taken(backend: SockopsBackend, kernel: Kernel) -> None:
    assert accept(backend, kernel, (ANSWER, b"\x45\x03\x23", ACK), kind=1) is None
    assert backend.evicted == 1


@pytest.mark.parametrize(
    "config",
    [
        Config(active_b=True),
        Config(application_aware=True, require_application_aware=True),
    ],
)
def test_what_the_program_does_not_know_is_refused(backend: SockopsBackend, config: Config) -> None:
    with pytest.raises(LocalError, match="sockops"):
        backend.configure(config)


def test_what_is_published_of_a_configuration(backend: SockopsBackend, kernel: Kernel) -> None:
    backend.configure(Config(application_aware=True))
    cookie, teps, bits = struct.unpack("=Q4sB3x", kernel["stored"])
    assert cookie
    assert teps == b"\x23\x24\x21\0"
    assert bits == 3
    backend.configure(Config(enabled=False))
    assert struct.unpack("=Q4sB3x", kernel["stored"])[1] == bytes(4)


def test_a_socket_that_is_released_has_no_news(backend: SockopsBackend) -> None:
    with tcp_socket(4) as listener, backend.opener(4, 0, Config()) as sock:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        told: list[bool] = []
        negotiation = Negotiation(Config(), Opener.ACTIVE)
        backend.connect(sock, listener.getsockname(), negotiation, lambda: told.append(True))
        backend.release(sock)
        backend.release(sock)
        backend.connected(sock)
        assert not told
