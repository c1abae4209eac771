"""A session lends its streams, and never seals or opens what another has."""

from __future__ import annotations

import pytest
from support.hosts import Host, connect, data_of, drain, events, exchange, open_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Rekeyed, StreamEnded
from tcpcrypt.core.lease import LEASE_MIN, Lease, Returned
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError, PeerReason
from tcpcrypt.wire.frame import sealed_size


def talked(config: Config | None = None) -> tuple[Session, Session]:
    """An open connection on which each side has sent a frame."""
    one, other = open_pair(Host(config or Config()), Host(config or Config()))
    one.send_data(b"question")
    other.send_data(b"answer")
    exchange(one, other)
    events(one)
    events(other)
    return one, other


def lent(session: Session) -> Lease:
    lease = session.lend()
    assert lease is not None
    return lease


def sealed(lease: Lease, data: bytes) -> tuple[bytes, Returned]:
    """What a borrower does: one frame, and what it gives back."""
    sealing, opening = lease.sealing, lease.opening
    assert sealing is not None
    out = bytearray(sealed_size(len(data), len(data) or 1, 16, False))
    _consumed, written, frames = sealing.sealer.seal(data, out, sealing.offset, len(data) or 1)
    assert opening is not None
    returned = Returned(sealing.offset + written, frames, opening.offset, 0, opening.wire)
    return bytes(out), returned


def test_a_borrower_seals_what_the_peer_opens() -> None:
    one, other = talked()
    wire, returned = sealed(lent(one), b"by another")
    other.receive_data(wire)
    assert data_of(events(other)) == b"by another"
    one.take_back(returned)
    one.send_data(b" and by the session")
    other.receive_data(drain(one))
    assert data_of(events(other)) == b" and by the session"


def test_a_borrower_opens_what_the_peer_sealed() -> None:
    one, other = talked()
    other.send_data(b"first")
    first = drain(other)
    other.send_data(b"second")
    second = drain(other)
    one.receive_data(first[:5])
    lease = lent(one)
    assert lease.opening is not None
    assert lease.sealing is not None
    assert lease.opening.wire == first[:5]
    out = bytearray(5)
    opened = lease.opening.opener.open(first, out, lease.opening.offset)
    assert out == b"first"
    place = lease.opening.offset + opened[0]
    one.take_back(Returned(lease.sealing.offset, 0, place, 5, second))
    assert data_of(events(one)) == b"second"


def test_rfc8548_3_7_a_borrower_may_end_both_streams() -> None:
    one, other = talked()
    lease = lent(one)
    assert lease.sealing is not None
    assert lease.opening is not None
    finp = bytearray(sealed_size(0, 1, 16, False))
    sealing = lease.sealing
    sealing.sealer.seal(b"", finp, sealing.offset, 1, False, True)
    other.receive_data(finp)
    assert [event for event in events(other) if isinstance(event, StreamEnded)]
    other.finish()
    theirs = drain(other)
    consumed = lease.opening.opener.open(theirs, bytearray(64), lease.opening.offset)[0]
    assert consumed == len(theirs)
    place = lease.opening.offset + consumed
    one.take_back(
        Returned(sealing.offset + len(finp), 1, place, 0, finished=True, peer_finished=True)
    )
    assert events(one) == [StreamEnded(True)]
    assert one.state is SessionState.CLOSED
    with pytest.raises(LocalError, match="finished"):
        one.send_data(b"more")
    with pytest.raises(RuntimeError, match="wiped"):
        sealing.sealer.seal(b"", finp, 0, 1)
    one.receive_data(b"more")
    assert one.error is not None
    assert one.error.reason is PeerReason.DATA_AFTER_FINP


def test_rfc8548_3_7_nothing_follows_an_own_end_that_a_borrower_has_sent() -> None:
    one, _other = talked()
    lease = lent(one)
    assert lease.sealing is not None
    assert lease.opening is not None
    finp = bytearray(sealed_size(0, 1, 16, False))
    lease.sealing.sealer.seal(b"", finp, lease.sealing.offset, 1, False, True)
    place = lease.opening.offset
    one.take_back(Returned(lease.sealing.offset + len(finp), 1, place, 0, finished=True))
    assert one.state is SessionState.FINISHED
    for more in (lambda: one.send_data(b"more"), one.finish, one.rekey, one.keep_alive):
        with pytest.raises(LocalError, match="the own stream is finished"):
            more()
    assert drain(one) == b""


def test_what_is_more_than_data_is_the_sessions() -> None:
    """Frames that a borrower gives back unopened mean what they always mean."""
    one, other = talked()
    lease = lent(one)
    other.rekey()
    other.send_data(b"bye")
    other.finish()
    assert lease.opening is not None
    assert lease.sealing is not None
    one.take_back(Returned(lease.sealing.offset, 0, lease.opening.offset, 0, drain(other)))
    found = events(one)
    assert isinstance(found[0], Rekeyed)
    assert data_of(found) == b"bye"
    assert isinstance(found[-1], StreamEnded)


def test_a_fault_that_comes_back_aborts() -> None:
    one, _other = talked()
    lease = lent(one)
    unused = lease.unused()
    forged = bytes((0, 0, 40)) + bytes(40)
    one.take_back(Returned(unused.sealed_to, 0, unused.opened_to, 0, forged))
    (event,) = events(one)
    assert isinstance(event, Aborted)
    assert event.error.reason is PeerReason.FRAME_TAG
    assert one.lend() is None


def test_a_lent_session_touches_neither_stream() -> None:
    one, other = talked()
    other.send_data(b"x")
    wire = drain(other)
    lease = lent(one)
    assert one.lend() is None
    for touch in (
        lambda: one.send_data(b"never"),
        one.rekey,
        lambda: one.receive_data(wire),
        one.finish,
    ):
        with pytest.raises(LocalError, match="lent"):
            touch()
    assert drain(one) == b""
    assert lease.sealing is not None


@pytest.mark.parametrize("back", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_nothing_goes_back(back: tuple[int, int, int]) -> None:
    """A stream offset that was used is a nonce that was used."""
    one, _other = talked()
    unused = lent(one).unused()
    returned = Returned(
        unused.sealed_to + back[0], unused.frames + back[1], unused.opened_to + back[2]
    )
    with pytest.raises(LocalError, match="went back"):
        one.take_back(returned)


def test_only_what_was_lent_is_taken_back() -> None:
    one, _other = talked()
    with pytest.raises(LocalError, match="nothing is lent"):
        one.take_back(Returned())


def test_not_before_the_keys_and_not_while_there_is_something_to_do() -> None:
    one, other = connect(Host(), Host())
    assert one.lend() is None
    exchange(one, other)
    assert one.lend() is None  # `Established` has to be told
    events(one)
    one.send_data(b"x")
    assert one.lend() is None  # a frame has to leave
    other.receive_data(drain(one))
    assert one.lend() is not None


def test_the_first_frame_of_a_peer_is_the_sessions() -> None:
    """Where its stream begins is found out by its first frame (open point E1)."""
    one, other = open_pair()
    lease = lent(one)
    assert lease.opening is None
    assert lease.sealing is not None
    assert lease.unused() == Returned(lease.sealing.offset)
    one.take_back(lease.unused())
    other.send_data(b"x")
    one.receive_data(drain(other))
    events(one)
    assert lent(one).opening is not None


def test_a_key_near_its_limit_is_not_lent() -> None:
    config = Config(rekey_after_bytes=LEASE_MIN)
    one, other = talked(config)
    assert one.lend() is None
    # The peer's stream stays where it was.
    other.send_data(b"x")
    one.receive_data(drain(other))
    assert data_of(events(one)) == b"x"


def test_a_key_that_was_announced_goes_first() -> None:
    one, other = talked()
    one.rekey()
    one.rekey()
    other.receive_data(drain(one))
    exchange(one, other)
    events(one)
    wire, returned = sealed(lent(one), b"new key")
    one.take_back(returned)
    other.receive_data(wire)
    assert data_of(events(other)) == b"new key"


def test_a_new_key_that_nobody_was_told_of_is_not_lent() -> None:
    one, other = talked()
    one.rekey()
    drain(one)
    other.rekey()  # crosses it
    one.rekey()
    assert one.lend() is None


def test_streams_that_are_over_are_not_lent() -> None:
    one, other = talked()
    one.finish()
    wire = drain(one)
    lease = lent(one)
    assert lease.sealing is None
    assert lease.unused().sealed_to == 0
    one.take_back(lease.unused())
    other.receive_data(wire)
    events(other)
    lease = lent(other)
    assert lease.opening is None
    other.take_back(lease.unused())
    other.finish()
    drain(other)
    assert other.lend() is None


def test_the_limits_of_a_key_go_along() -> None:
    config = Config(rekey_after_bytes=1 << 30, first_frame_data=500, frame_data=5000)
    one, _other = talked(config)
    sealing = lent(one).sealing
    assert sealing is not None
    frame = sealed_size(8, 500, 16, False)
    assert sealing.offset == 79 + frame
    assert sealing.end == 79 + (1 << 30)
    assert sealing.frames == (1 << 32) - 1
    assert sealing.small_until == 79 + config.small_frames_until
    assert (sealing.first_frame_data, sealing.frame_data) == (500, 5000)
