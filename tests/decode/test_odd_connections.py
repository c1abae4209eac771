"""Connections that are not as most are: simultaneous opens, broken messages, forged lengths."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from support.captures import Recorded, Sent, Tape, altered, record
from support.decoding import check, decode, store, talk
from support.hosts import ROOM, Host, region

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.tools.decode import connection, frames, reassembly
from tcpcrypt.wire.profile import RFC8548, STANFORD


def crossed(first_is_b: bool) -> Recorded:
    """RFC 9293 figure 7: both open; bit `b` tells the roles."""
    configs = Config(active_b=first_is_b), Config(active_b=not first_is_b)
    one, other = (Negotiation(config, Opener.ACTIVE) for config in configs)
    tape = Tape()
    options = [side.option_to_send(syn=True, ack=False, room=ROOM) for side in (one, other)]
    for from_client, option in zip((True, False), options, strict=True):
        tape.syn(option, from_client=from_client)
        (other if from_client else one).segment_received(
            syn=True, ack=False, options=region(option)
        )
    options = [side.option_to_send(syn=True, ack=True, room=ROOM) for side in (one, other)]
    for from_client, option in zip((True, False), options, strict=True):
        tape.syn(option, from_client=from_client, ack=True)
        (other if from_client else one).segment_received(syn=True, ack=True, options=region(option))
    tape.ack_options = one.option_to_send(syn=False, ack=True, room=ROOM) or b"\x45\x02"
    tape.say(True, b"")
    lines: list[str] = []
    sessions = [
        Session(config, side.outcome, key_log=lambda line: lines.append(line.build()))
        for config, side in zip(configs, (one, other), strict=True)
    ]
    made = Recorded(tape, *sessions, lines)
    made.carry()
    return talk(made)


@pytest.mark.parametrize("first_is_b", [False, True])
def test_a_simultaneous_open(first_is_b: bool) -> None:
    report = check(crossed(first_is_b))
    assert report.client == "192.0.2.1:40000"
    assert report.resumed is False


def test_who_opened_a_fresh_connection_does_not_matter() -> None:
    recorded = talk(record(Host(), Host()))
    assert recorded.lines[0].endswith(" A")
    recorded.lines[0] = recorded.lines[0][:-1] + "B"
    check(recorded)


def test_a_connection_that_nobody_answers() -> None:
    tape = Tape()
    tape.syn(b"\x45\x03\x23")
    tape.syn(b"\x45\x03\x23")
    tape.sent.append(Sent(False, "RA", 0, 1001))
    (report,), _ = decode(tape.packets(), store())
    assert (report.profile, report.errors) == ("plain", [])
    assert report.client_to_server.ended == "rst"


def test_a_syn_that_is_repeated_without_eno_is_answered_in_plain() -> None:
    tape = Tape()
    tape.syn(b"\x45\x03\x23")
    tape.syn(b"")
    tape.syn(b"", from_client=False, ack=True)
    tape.say(True, b"")
    tape.say(True, b"plain")
    (report,), sink = decode(tape.packets(), store())
    assert sink.said[0, True] == b"plain"
    assert report.fallback is not None
    assert "SYN-ACK" in report.fallback.value


def first_data(recorded: Recorded, from_client: bool, number: int = 0) -> int:
    found = [
        n for n, s in enumerate(recorded.tape.sent) if s.from_client is from_client and s.payload
    ]
    return found[number]


@pytest.mark.parametrize(
    ("from_client", "at", "flip", "why"),
    [
        (False, 0, 1, "Init2: key exchange message has the wrong magic number"),
        (True, 5, 0xFF, "Init1: key exchange message is longer than this host accepts"),
        (True, 8, 3, "Init1 offers no AEAD algorithm"),
        (True, 20, 1, "no key: the 1 secrets given hold none of it"),
        (False, 9, 0x77, "line 0: it names AEAD 0x0001, and Init2 0x0076"),
    ],
)
def test_messages_that_are_not_whole_or_not_right(
    from_client: bool, at: int, flip: int, why: str
) -> None:
    recorded = talk(record(Host(), Host()))
    where = first_data(recorded, from_client)
    recorded.tape.sent[where] = altered(recorded.tape.sent[where], at, flip)
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert why in report.errors[0]
    assert sink.said == {}


def test_an_algorithm_that_is_not_known() -> None:
    recorded = talk(record(Host(), Host()))
    where = first_data(recorded, False)
    recorded.tape.sent[where] = altered(recorded.tape.sent[where], 9, 0x76)
    words = recorded.lines[0].split()
    (report,), _ = decode(recorded.packets, store(" ".join([*words[:5], "0077", words[6]])))
    assert "AEAD 0x0077 is not known" in report.errors[0]


def test_a_forged_length_does_not_hide_the_true_frame() -> None:
    """The copy that came first asks for bytes that never come."""
    recorded = talk(record(Host(), Host()))
    where = first_data(recorded, True, 1)
    forged = altered(recorded.tape.sent[where], 1, 0x7F)
    recorded.tape.sent.insert(where, forged)
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, True] == b"question"
    assert "only the later ones are authentic" in report.errors[0]
    assert report.client_to_server.ended == "finp"


def test_a_frame_that_is_too_short_is_named() -> None:
    recorded = record(Host(), Host())
    recorded.tape.say(True, b"\x00\x00\x10" + bytes(16), "PA")
    (report,), _ = decode(recorded.packets, store(*recorded.lines))
    assert report.errors == [
        "client to server: the frame at offset 79 of the stream is too short for flags and tag"
    ]


def test_new_keys_where_the_profile_has_none() -> None:
    config = Config(profile=STANFORD, teps=(0x21,), aeads=(1,))
    recorded = record(Host(config), Host(config))
    recorded.tape.say(True, b"\x01\x00\x20" + bytes(32), "PA")
    (report,), _ = decode(recorded.packets, store(*recorded.lines))
    assert "asks for new keys, which this profile does not have" in report.errors[0]


def lossy() -> Recorded:
    recorded = record(Host(), Host())
    for n in range(20):
        recorded.say(True, bytes([n]) * 100)
    recorded.close()
    del recorded.tape.sent[first_data(recorded, True, 3)]
    return recorded


def test_behind_a_gap_that_is_too_long_it_goes_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, so that a capture without end can be read."""
    monkeypatch.setattr(reassembly, "_WAITING_MAX", 500)
    recorded = lossy()
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, True] == b"".join(bytes([n]) * 100 for n in range(20) if n != 2)
    assert len(report.errors) == 1


def test_the_search_behind_a_gap_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_TRIES_MAX", 4)
    recorded = lossy()
    at = first_data(recorded, True, 3)
    for n in range(at, len(recorded.tape.sent)):
        if len(recorded.tape.sent[n].payload) == 120:
            recorded.tape.sent[n] = altered(recorded.tape.sent[n], 50)
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, True] == bytes(100) + b"\1" * 100
    assert "and no frame was found behind them" in report.errors[0]
    assert report.client_to_server.authenticated is False


@pytest.mark.parametrize("counts", [True, False])
def test_a_gap_in_front_of_the_first_frame(counts: bool) -> None:
    """Open point E1 is settled by the first frame that is there."""
    config = Config(profile=replace(RFC8548, offset_counts_init=counts))
    recorded = record(Host(config), Host(config))
    recorded.say(True, b"lost")
    recorded.say(True, b"kept")
    recorded.say(True, b" and more")
    del recorded.tape.sent[first_data(recorded, True, 1)]
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, True] == b"kept and more"
    assert len(report.errors) == 1


def gap(tape: Tape) -> None:
    tape.say(True, b"one ")
    tape.next[True] += 10
    tape.say(True, b"two")


def tail(tape: Tape) -> None:
    tape.say(True, b"one two")
    tape.next[True] += 10
    tape.fin(True)


@pytest.mark.parametrize("lose", [gap, tail])
def test_what_is_missing_of_a_plain_connection(lose: Callable[[Tape], None]) -> None:
    tape = Tape()
    tape.syn(b"")
    tape.syn(b"", from_client=False, ack=True)
    lose(tape)
    (report,), sink = decode(tape.packets(), store())
    assert sink.said[0, True] == b"one two"
    assert "of the stream are not in the capture" in report.errors[0]


def test_a_stray_segment_of_an_older_connection_changes_nothing() -> None:
    recorded = talk(record(Host(), Host()))
    packets = recorded.packets
    stray = recorded.tape.packet(Sent(True, "A", 3_000_000_000, 5, b"", b"old"))
    check(recorded, [*packets[:6], stray, *packets[6:]])


def test_a_gap_before_many_small_segments_costs_time_once() -> None:
    """Each of them could begin a frame; all together they are looked at once."""
    looked_up = 0

    class Counted(dict[int, bytes]):
        def __getitem__(self, start: int) -> bytes:
            nonlocal looked_up
            looked_up += 1
            return super().__getitem__(start)

    stream = reassembly.ByteStream(0)
    stream._waiting = Counted()
    for at in range(5_000):
        stream.add(11 + at, memoryview(b"\xff"))
    starts = [start for start, octets in stream.waiting(70_000) if len(octets) == 5_010 - start]
    assert starts == stream.starts()
    assert looked_up == 5_000


@pytest.mark.parametrize("what", ["no Init2", "one side", "plain"])
def test_memory_is_bounded_where_nothing_can_be_decided(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_UNDECIDED_MAX", 5000)
    monkeypatch.setattr(reassembly, "_WAITING_MAX", 5000)
    most = 0
    add = reassembly.ByteStream.add

    def watched(self: reassembly.ByteStream, seq: int, payload: memoryview) -> None:
        nonlocal most
        add(self, seq, payload)
        most = max(most, self.held)

    monkeypatch.setattr(reassembly.ByteStream, "add", watched)
    if what == "plain":
        tape = Tape()
        tape.syn(b"")
        tape.syn(b"", from_client=False, ack=True)
        tape.say(True, b"")
        for _ in range(100):
            tape.say(True, b"x" * 1000)
        del tape.sent[10]
        (report,), sink = decode(tape.packets(), store())
        assert len(sink.said[0, True]) == 99_000
        assert "are not in the capture" in report.errors[0]
    else:
        recorded = record(Host(), Host())
        recorded.say(True, bytes(100_000))
        recorded.say(False, bytes(100_000))
        sent = recorded.tape.sent
        if what == "no Init2":
            sent[:] = [s for s in sent if s.from_client or "S" in s.flags]
            why = "its Init2 is not in the capture, or not as a whole"
        else:
            sent[:] = [s for s in sent if not s.from_client]
            why = "its SYN is not in the capture"
        (report,), sink = decode(recorded.packets, store(*recorded.lines))
        assert why in report.errors[0]
        assert sink.said == {}
    assert most < 20_000
