"""RFC 8548 through `Session`: two hosts in memory, every TEP and AEAD, every ending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hosts import Host, connect, data_of, drain, events, exchange, open_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Direction,
    Established,
    Rekeyed,
    Role,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.lifecycle import TABLE, SessionInput, SessionState, Verdict
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.errors import (
    HandshakeTimeoutError,
    IntegrityError,
    LocalError,
    PeerError,
    PeerReason,
    ResetError,
    TruncationError,
)

TEPS = (0x21, 0x22, 0x23, 0x24)
INIT1_LEN, INIT2_LEN = 79, 74


def aborted(session: Session) -> PeerError:
    """The error of a session whose last event is `Aborted`."""
    found = events(session)
    assert isinstance(found[-1], Aborted), found
    assert session.error is found[-1].error
    assert drain(session) == b""
    assert not session.fin_queued
    return found[-1].error


def test_the_frames_that_it_seals_are_counted() -> None:
    one, other = connect(Host(Config(frame_data=1000)), Host(Config()))
    assert (one.frames_sealed, other.frames_sealed) == (0, 0)
    exchange(one, other)
    one.send_data(bytes(9_500))
    one.rekey()
    exchange(one, other)
    # Ten of data, one that announces the key, and the peer's answer to that.
    assert (one.frames_sealed, other.frames_sealed) == (11, 1)


@pytest.mark.parametrize("tep", TEPS, ids=hex)
@pytest.mark.parametrize("aead", sorted(AEADS), ids=hex)
def test_every_tep_and_aead_fresh_and_resumed(tep: int, aead: int) -> None:
    config = Config(teps=(tep,), aeads=(aead,))
    client, server = Host(config), Host(config)
    for resumed in (False, True):
        one, other = connect(client, server)
        one.send_data(b"question")
        other.send_data(b"answer")
        exchange(one, other)
        first, second = events(one), events(other)
        assert isinstance(first[0], Established)
        assert isinstance(second[0], Established)
        assert first[0].session_id == second[0].session_id == one.session_id
        assert len(one.session_id) == 33
        assert one.session_id[0] == tep | (0x80 if resumed else 0)
        assert one.resumed is other.resumed is resumed
        assert (one.tep, one.aead, one.role) == (tep, aead, Role.A)
        assert (other.tep, other.aead, other.role) == (tep, aead, Role.B)
        assert one.peer_identity is None
        assert data_of(first) == b"answer"
        assert data_of(second) == b"question"


def test_48_3_3_init_messages_leave_alone_and_frames_follow() -> None:
    """Each chunk of `bytes_to_send` is one write, so that PSH ends Init1 and Init2."""
    one, other = connect(Host(), Host())
    one.send_data(b"early")
    init1 = one.bytes_to_send()
    assert len(init1) == INIT1_LEN
    assert one.bytes_to_send() == b"", "A has no key before Init2"
    other.receive_data(init1)
    other.send_data(b"server first")
    init2 = other.bytes_to_send()
    assert len(init2) == INIT2_LEN
    assert len(other.bytes_to_send()) == 20 + len(b"server first")
    one.receive_data(init2)
    assert len(one.bytes_to_send()) == 20 + len(b"early")


def test_everything_arrives_byte_by_byte_too() -> None:
    one, other = connect(Host(), Host())
    one.send_data(b"x" * 5000)
    other.send_data(b"y" * 3000)
    one.finish()
    other.finish()
    exchange(one, other, step=1)
    first, second = events(one), events(other)
    assert data_of(first) == b"y" * 3000
    assert data_of(second) == b"x" * 5000
    assert isinstance(first[-1], StreamEnded)
    assert isinstance(second[-1], StreamEnded)
    assert one.state is other.state is SessionState.CLOSED


@given(
    messages=st.lists(
        st.tuples(st.booleans(), st.integers(0, 70000), st.sampled_from(["data", "rekey"])),
        max_size=12,
    ),
    step=st.integers(1, 100_000),
)
def test_what_is_sent_arrives_whatever_the_sizes_splits_and_rekeys(messages, step) -> None:
    one, other = open_pair()
    expected = {Role.A: b"", Role.B: b""}
    got = {Role.A: b"", Role.B: b""}
    for from_one, size, kind in messages:
        session = one if from_one else other
        if kind == "rekey":
            session.rekey()
        else:
            payload = bytes([size & 0xFF]) * size
            session.send_data(payload)
            expected[session.role] += payload
        if size % 3:
            exchange(one, other, step=step)
            got[Role.A] += data_of(events(other))
            got[Role.B] += data_of(events(one))
    exchange(one, other, step=step)
    got[Role.A] += data_of(events(other))
    got[Role.B] += data_of(events(one))
    assert got == expected
    assert one.error is None
    assert other.error is None


def test_session_id_is_an_error_until_there_is_one() -> None:
    """RFC 8547 section 5.1: never zeros, never empty."""
    one, _ = connect(Host(), Host())
    for name in ("session_id", "aead", "peer_identity"):
        with pytest.raises(LocalError):
            getattr(one, name)
    assert not one.established


def test_frame_sizes_small_at_first_then_large() -> None:
    config = Config(first_frame_data=1000, small_frames_until=3000, frame_data=50_000)
    one, _other = open_pair(Host(config), Host(config))
    one.send_data(b"z" * 120_000)
    wire, sizes = drain(one), []
    while wire:
        length = int.from_bytes(wire[1:3], "big")
        sizes.append(length - 17)
        wire = wire[3 + length :]
    assert sum(sizes) == 120_000
    assert sizes[:3] == [1000, 1000, 1000]
    assert max(sizes) == 50_000


# --- endings -------------------------------------------------------------------


def test_48_3_7_half_close_both_ways() -> None:
    one, other = open_pair()
    one.send_data(b"last words")
    assert not one.fin_queued
    one.finish()
    assert one.fin_queued
    with pytest.raises(LocalError):
        one.send_data(b"more")
    with pytest.raises(LocalError):
        one.finish()
    exchange(one, other)
    other.receive_eof()
    assert events(other) == [DataReceived(b"last words"), StreamEnded()]
    other.send_data(b"still here")
    other.finish()
    exchange(one, other)
    assert events(one) == [DataReceived(b"still here"), StreamEnded()]
    one.receive_eof()
    assert one.state is other.state is SessionState.CLOSED
    one.receive_reset()
    assert one.error is None
    assert events(one) == []


def test_48_3_7_finish_before_the_exchange_is_over() -> None:
    one, other = connect(Host(), Host())
    one.send_data(b"all I have")
    one.finish()
    assert not one.fin_queued
    exchange(one, other)
    assert events(other)[1:] == [DataReceived(b"all I have"), StreamEnded()]
    assert one.fin_queued


def test_48_3_7_fin_without_finp_is_never_an_end() -> None:
    one, other = open_pair()
    one.send_data(b"cut he")
    other.receive_data(drain(one))
    other.receive_eof()
    found = events(other)
    assert found[0] == DataReceived(b"cut he")
    assert isinstance(found[-1], Aborted)
    assert isinstance(found[-1].error, TruncationError)
    assert StreamEnded() not in found
    with pytest.raises(TruncationError):
        other.send_data(b"x")
    with pytest.raises(TruncationError):
        other.finish()
    other.receive_data(b"ignored from now on")
    other.receive_eof()
    assert events(other) == []


def test_48_3_7_fin_inside_a_frame() -> None:
    one, other = open_pair()
    one.send_data(b"data")
    one.finish()
    other.receive_data(drain(one)[:-1])
    other.receive_eof()
    assert aborted(other).reason is PeerReason.TRUNCATED


def test_48_3_7_fin_during_the_exchange() -> None:
    one, other = connect(Host(), Host())
    one.receive_eof()
    assert aborted(one).reason is PeerReason.FIN_DURING_EXCHANGE
    other.receive_data(drain(connect(Host(), Host())[0])[:20])
    other.receive_eof()
    assert aborted(other).reason is PeerReason.FIN_DURING_EXCHANGE


def test_48_8_reset_is_told_from_an_end() -> None:
    one, other = open_pair()
    one.receive_reset()
    assert isinstance(aborted(one), ResetError)
    other.finish()
    other.receive_reset()
    assert isinstance(aborted(other), ResetError)


def test_48_8_reset_before_the_last_bytes_left_is_an_error() -> None:
    one, other = open_pair()
    one.finish()
    exchange(one, other)
    other.send_data(b"never leaves")
    other.finish()
    assert other.state is SessionState.CLOSED
    other.receive_reset()
    assert isinstance(aborted(other), ResetError)


def test_bytes_after_finp_abort() -> None:
    for extra in (b"x", b"\0" * 50):
        for apart in (False, True):
            one, other = open_pair()
            one.finish()
            wire = drain(one)
            if apart:
                other.receive_data(wire)
                other.receive_data(b"")
                other.receive_data(extra)
            else:
                other.receive_data(wire + extra)
            found = events(other)
            assert found[0] == StreamEnded()
            assert isinstance(found[1], Aborted)
            assert found[1].error.reason is PeerReason.DATA_AFTER_FINP


def test_handshake_deadline() -> None:
    now = [100.0]
    a, b = connect(Host(), Host())
    one = Session(Config(), a.negotiated, clock=lambda: now[0])
    other = Session(Config(), b.negotiated, clock=lambda: now[0])
    assert one.deadline == 110.0
    one.handle_timeout()
    assert one.error is None
    exchange(one, other)
    now[0] = 200.0
    one.handle_timeout()
    assert one.error is None, "the deadline is for the key exchange alone"
    late = Session(Config(), a.negotiated, clock=lambda: now[0])
    now[0] += 10
    late.handle_timeout()
    assert isinstance(aborted(late), HandshakeTimeoutError)


# --- what an attacker can do to frames ------------------------------------------


@pytest.mark.parametrize("position", range(0, 24))
def test_48_3_6_any_flipped_byte_of_a_frame_aborts(position: int) -> None:
    one, other = open_pair()
    one.send_data(b"data")
    wire = bytearray(drain(one))
    wire[position] ^= 0x80 if position == 1 else 0x01
    other.receive_data(wire)
    other.receive_eof()
    error = aborted(other)
    assert isinstance(error, IntegrityError | TruncationError) or error.reason in {
        PeerReason.FRAME_TOO_SHORT
    }
    if position not in (1, 2):
        assert isinstance(error, IntegrityError)


def test_48_8_forged_rekey_bit_changes_nothing_but_ends_the_connection() -> None:
    one, other = open_pair()
    one.send_data(b"data")
    wire = bytearray(drain(one))
    wire[0] |= 1
    other.receive_data(wire)
    assert isinstance(aborted(other), IntegrityError)


@pytest.mark.parametrize("length", [0, 16])
def test_frame_too_short_for_flags_and_tag(length: int) -> None:
    for control in (0, 1):
        _, other = open_pair()
        other.receive_data(bytes((control, 0, length)) + b"\0" * length)
        assert aborted(other).reason is PeerReason.FRAME_TOO_SHORT


def test_frames_authenticated_before_the_fault_are_delivered() -> None:
    one, other = open_pair()
    one.send_data(b"good")
    wire = bytearray(drain(one))
    one.send_data(b"bad")
    wire += drain(one)
    wire[-1] ^= 1
    other.receive_data(wire)
    found = events(other)
    assert found[0] == DataReceived(b"good")
    assert isinstance(found[1], Aborted)
    assert len(found) == 2


def test_replayed_reordered_and_reflected_frames_fail() -> None:
    one, other = open_pair()
    one.send_data(b"first")
    first = drain(one)
    one.send_data(b"secnd")
    second = drain(one)
    for wire in (first + first, second + first):
        _, other = one, open_pair()[1]
        other.receive_data(wire)
        assert isinstance(aborted(other), IntegrityError)
    one.receive_data(first)
    assert isinstance(aborted(one), IntegrityError), "own frames are not the peer's"


@pytest.mark.parametrize("kind", ["urgent", "rekey"])
def test_many_tiny_frames_in_one_read_cost_no_more_than_their_size(kind: str) -> None:
    import tracemalloc

    one, other = open_pair()
    for _ in range(2000):
        if kind == "rekey":
            one.rekey()
        one.send_data(b"u", urgent=0 if kind == "urgent" else -1)
    wire = drain(one)
    tracemalloc.start()
    other.receive_data(wire)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data_of(events(other)) == b"u" * 2000
    assert held < peak < 100 * len(wire)


def test_keys_of_a_finished_direction_are_not_kept() -> None:
    one, other = open_pair()
    one.finish()
    exchange(one, other)
    for _ in range(50):
        other.rekey()
        other.send_data(b"x")
        exchange(one, other)
    assert one._ring is not None
    assert len(one._ring._kept) <= 1


def test_dripping_large_frames_costs_no_more_than_the_frame() -> None:
    _, other = open_pair()
    other.receive_data(b"\x00\xff\xff")
    for _ in range(1000):
        other.receive_data(b"\0")
    assert other._receiver is not None
    assert len(other._receiver._buffer) == 1003


# --- urgent data -----------------------------------------------------------------


def test_48_3_7_urgent_index_counts_the_application_stream() -> None:
    one, other = open_pair()
    one.send_data(b"0123456789")
    one.send_data(b"urgent!", urgent=5)
    one.send_data(b"after")
    other.receive_data(drain(one))
    assert events(other) == [
        DataReceived(b"0123456789"),
        UrgentReceived(15),
        DataReceived(b"urgent!"),
        DataReceived(b"after"),
    ]
    one.send_data(b"u", urgent=0)
    other.receive_data(drain(one))
    assert events(other) == [UrgentReceived(22), DataReceived(b"u")]


def test_urgent_with_finp_and_before_keys() -> None:
    one, other = connect(Host(), Host())
    one.send_data(b"now", urgent=2)
    exchange(one, other)
    assert events(other)[1:] == [UrgentReceived(2), DataReceived(b"now")]
    with pytest.raises(LocalError):
        one.send_data(b"abc", urgent=3)


# --- rekeying ----------------------------------------------------------------------


def test_48_3_8_rekey_is_answered_at_once_with_an_empty_frame() -> None:
    one, other = open_pair()
    one.rekey()
    assert events(one) == [Rekeyed(Direction.SENDING, 1)]
    frame = drain(one)
    assert frame[0] == 1
    assert len(frame) == 20
    other.receive_data(frame)
    assert events(other) == [Rekeyed(Direction.RECEIVING, 1), Rekeyed(Direction.SENDING, 1)]
    answer = drain(other)
    assert answer[0] == 1
    assert len(answer) == 20
    one.receive_data(answer)
    assert events(one) == [Rekeyed(Direction.RECEIVING, 1)]
    assert drain(one) == b"", "nothing is owed: R <= L"


def test_48_3_8_both_initiate_at_once_and_owe_nothing() -> None:
    one, other = open_pair()
    one.rekey()
    other.rekey()
    first, second = drain(one), drain(other)
    one.receive_data(second)
    other.receive_data(first)
    assert drain(one) == b""
    assert drain(other) == b""
    one.send_data(b"under generation 1")
    exchange(one, other)
    assert data_of(events(other)) == b"under generation 1"


def test_48_3_8_one_frame_for_each_generation() -> None:
    """L may run ahead with data; every generation has its own rekey=1 frame."""
    one, other = open_pair()
    one.rekey()
    for text in (b"two", b"three"):
        one.rekey()
        one.rekey()  # pending already: no second key
        one.send_data(text)
    wire = drain(one)
    other.receive_data(wire)
    found = events(other)
    assert [e.generation for e in found if e == Rekeyed(Direction.RECEIVING, 3)] == [3]
    assert data_of(found) == b"twothree"
    answers = drain(other)
    assert len(answers) == 3 * 20
    assert answers[0::20] == b"\1\1\1"
    one.receive_data(answers)
    assert one.error is None


def test_48_3_8_no_empty_initiation_while_the_answer_is_due() -> None:
    one, other = open_pair()
    assert one.keep_alive()
    assert not one.keep_alive()
    frame = drain(one)
    assert len(frame) == 20
    one.rekey()
    assert drain(one) == b"", "waits for data"
    other.receive_data(frame)
    one.receive_data(drain(other))
    assert events(one)[-1] == Rekeyed(Direction.RECEIVING, 1)
    one.send_data(b"data of generation 2")
    exchange(one, other)
    assert data_of(events(other)) == b"data of generation 2"


def test_a_second_rekey_follows_as_soon_as_the_first_is_answered() -> None:
    one, other = open_pair()
    one.rekey()
    one.rekey()
    exchange(one, other)
    assert Rekeyed(Direction.RECEIVING, 2) in events(other)
    assert one.keep_alive()


def test_48_3_8_owed_answers_behind_a_pending_announcement() -> None:
    one, other = open_pair()
    one.rekey()
    drain_one = drain(one)
    one.rekey()  # generation 2, announced by the next frame
    other.rekey()
    other.receive_data(drain_one)
    wire = drain(other)
    other.rekey()
    other.send_data(b"2")
    other.rekey()
    other.send_data(b"3")
    one.receive_data(wire + drain(other))
    assert one.error is None
    exchange(one, other)
    assert one.error is None
    assert other.error is None
    one.send_data(b"still in step")
    exchange(one, other)
    assert data_of(events(other)) == b"still in step"


def test_48_3_8_after_finp_no_answer_is_owed() -> None:
    one, other = open_pair()
    one.finish()
    fin = drain(one)
    other.rekey()
    one.receive_data(drain(other))
    assert events(one) == [Rekeyed(Direction.RECEIVING, 1)]
    assert drain(one) == b""
    other.receive_data(fin)
    assert events(other)[-1] == StreamEnded()
    with pytest.raises(LocalError):
        one.rekey()
    with pytest.raises(LocalError):
        one.keep_alive()


def test_rekeying_needs_keys() -> None:
    one, _ = connect(Host(), Host())
    with pytest.raises(LocalError):
        one.rekey()
    with pytest.raises(LocalError):
        one.keep_alive()


def test_keys_wear_out_by_bytes() -> None:
    config = Config(rekey_after_bytes=10_000)
    one, other = open_pair(Host(config), Host(config))
    for _ in range(10):
        one.send_data(b"w" * 5000)
        exchange(one, other)
    found = events(other)
    assert len(data_of(found)) == 50_000
    assert max(e.generation for e in found if isinstance(e, Rekeyed)) >= 4


def test_one_large_write_rekeys_within_itself() -> None:
    config = Config(rekey_after_bytes=100_000)
    one, other = open_pair(Host(config), Host(config))
    one.send_data(b"w" * 1_000_000)
    exchange(one, other)
    found = events(other)
    assert len(data_of(found)) == 1_000_000
    assert max(e.generation for e in found if isinstance(e, Rekeyed)) >= 9


def test_keys_wear_out_by_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tcpcrypt.core import beginning as module
    from tcpcrypt.crypto.aead import aead

    monkeypatch.setattr(module, "aead_parameters", lambda n: replace(aead(n), max_frames=2))
    one, other = open_pair()
    for _ in range(6):
        one.send_data(b"frame")
        exchange(one, other)
    found = events(other)
    assert data_of(found) == b"frame" * 6
    assert Rekeyed(Direction.RECEIVING, 2) in found


# --- open point E1 -------------------------------------------------------------------


def test_e1_first_frame_opens_under_either_offset_origin() -> None:
    from dataclasses import replace

    from tcpcrypt.wire.profile import RFC8548

    after_init = replace(RFC8548, name="after-init", offset_counts_init=False)
    for tolerant in (True, False):
        one, other = connect(
            Host(Config(profile=after_init, tolerate_offset_origin=tolerant)),
            Host(Config(tolerate_offset_origin=tolerant)),
        )
        one.send_data(b"counted otherwise")
        if tolerant:
            other.send_data(b"counted literally")
        exchange(one, other)
        if tolerant:
            one.send_data(b", and again")
            exchange(one, other)
            assert data_of(events(other)) == b"counted otherwise, and again"
            assert data_of(events(one)) == b"counted literally"
        else:
            assert isinstance(aborted(other), IntegrityError)


def test_e1_only_the_first_frame_is_tried_twice() -> None:
    one, other = open_pair()
    one.send_data(b"first")
    other.receive_data(drain(one))
    events(other)
    assert other._receiver is not None
    assert other._receiver._other_offset is None


# --- seams ----------------------------------------------------------------------------


def test_stream_bytes_before_init_count_in_offsets() -> None:
    """In-band negotiation: each stream has a preface of its own length."""
    a, b = connect(Host(), Host())
    one = Session(Config(), a.negotiated, sent_before=11, received_before=13)
    other = Session(Config(), b.negotiated, sent_before=13, received_before=11)
    one.send_data(b"x")
    other.send_data(b"y")
    exchange(one, other)
    assert data_of(events(other)) == b"x"
    assert data_of(events(one)) == b"y"
    strict = Config(tolerate_offset_origin=False)
    one = Session(strict, a.negotiated, sent_before=11, received_before=13)
    other = Session(strict, b.negotiated, sent_before=13)
    one.send_data(b"x")
    exchange(one, other)
    assert isinstance(aborted(other), IntegrityError)


def test_flush_resumption_of_an_established_connection() -> None:
    """RFC 8548 section 3.5: flush what was used in or results from it."""
    client, server = Host(), Host()
    one, other = connect(client, server)
    assert not one.flush_resumption()
    exchange(one, other)
    assert len(client.cache) == 1
    assert one.flush_resumption()
    assert not one.flush_resumption()
    assert len(client.cache) == 0
    one, other = connect(client, server)
    exchange(one, other)
    assert not one.resumed
    one, other = connect(client, server)
    assert one.resumed
    assert one.flush_resumption(), "the successor was cached when the SYN left"
    client, server = Host(), Host()
    # What became of the session is forgotten too, whoever opened meanwhile.
    for turn in range(4):
        first, second = connect(client, server)
        exchange(first, second)
        for i in range(turn):
            hosts = (client, server) if i % 2 else (server, client)
            exchange(*connect(*hosts))
        assert first.flush_resumption()
        assert second.flush_resumption()
        assert len(client.cache) == len(server.cache) == 0
    unkept, _ = open_pair(Host(Config(cache=False)), Host())
    assert not unkept.flush_resumption()


def test_wiping_leaves_nothing_usable() -> None:
    one, other = open_pair()
    one.send_data(b"queued")
    one.wipe()
    assert drain(one) == b""
    with pytest.raises(RuntimeError):
        one.send_data(b"x")
    other.send_data(b"too late")
    one.receive_data(drain(other))
    assert one.next_event() is None
    fresh, _ = connect(Host(), Host())
    fresh.wipe()
    assert drain(fresh) == b""
    assert other.error is None


# --- the table ---------------------------------------------------------------------------


def test_lifecycle_table_is_sound() -> None:
    for (state, happened), (verdict, following) in TABLE.items():
        if state is SessionState.ABORTED:
            assert following is SessionState.ABORTED
        if verdict is Verdict.END:
            assert happened is SessionInput.PEER_FINISH, "EOF comes from FINp alone"
        assert verdict is not Verdict.ABORT, "aborting is what the table lacks"


def test_impossible_input_is_a_local_error() -> None:
    one, _ = open_pair()
    with pytest.raises(LocalError, match="impossible"):
        one._input(SessionInput.KEYS, None)
