"""What a decoder keeps while it runs for long; connections that end go, keys may come late."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.captures import Recorded, Tape, record
from support.decoding import Kept, decode, store, talk
from support.hosts import Host
from support.terms import TA, Conditions, identity, shared, ta_host

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.tools.decode import decoder as module
from tcpcrypt.tools.decode.capture import Packet
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.files import GrowingKeyLog, SecretFileError
from tcpcrypt.tools.decode.inband import preface
from tcpcrypt.tools.decode.keys import FromLine, KeyStore
from tcpcrypt.wire.segment import Segment, TcpFlags


def feed(decoder: Decoder, packets: list[bytes], at: float = 0.0) -> None:
    for number, packet in enumerate(packets, 1):
        decoder.packet(Packet(number, at + number / 1000, memoryview(packet)))


def several(count: int) -> list[Recorded]:
    one, other = Host(), Host()
    return [talk(record(one, other, tape=Tape(("192.0.2.1", 40000 + n)))) for n in range(count)]


def test_a_connection_is_told_of_when_it_ends() -> None:
    """And what belongs to it may come again: it makes no other one."""
    recorded = talk(record(Host(), Host()))
    sink = Kept()
    decoder = Decoder(store(*recorded.lines), sink)
    feed(decoder, recorded.packets)
    assert sink.ended == [0], "before `finish`"
    feed(decoder, recorded.packets[-6:], 1.0)
    (report,) = decoder.finish()
    assert sink.ended == [0]
    assert report.errors == []
    assert report.server_to_client.ended == "finp"
    assert sink.said[0, False] == bytes(recorded.heard[False])


def test_what_ended_is_forgotten_after_a_while() -> None:
    """RFC 9293 section 3.4.2: after two MSL nothing of it is under way."""
    first, second = several(2)
    decoder = Decoder(store(*first.lines, *second.lines))
    feed(decoder, first.packets)
    assert len(decoder._by_flow) == 2
    feed(decoder, second.packets, 200.0)
    assert len(decoder._by_flow) == 4, "late copies may come"
    feed(decoder, second.packets[-1:], 300.0)
    assert len(decoder._by_flow) == 2
    assert [report.errors for report in decoder.finish()] == [[], []]


def test_a_forged_end_ends_nothing() -> None:
    """RFC 8548 sections 3.7 and 8: neither RST nor FIN is authenticated; FINp is."""
    for flags in ("R", "FA"):
        recorded = record(Host(), Host())
        recorded.say(True, b"question")
        end = len(recorded.tape.sent)
        for side in (True, False):
            before = recorded.tape.next[side]
            recorded.tape.say(side, b"", flags)
            recorded.tape.next[side] = before
        forged = len(recorded.tape.sent)
        recorded.say(False, b"answer")
        recorded.close()
        sink = Kept()
        decoder = Decoder(store(*recorded.lines), sink)
        feed(decoder, recorded.packets[:forged])
        assert end < forged
        # Its hosts go on, for longer than what has ended is remembered.
        for n, packet in enumerate(recorded.packets[forged:]):
            feed(decoder, [packet], 200.0 * (n + 1))
        (report,) = decoder.finish()
        assert sink.said[0, False] == b"answer"
        assert report.server_to_client.ended == "finp"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("from_client", [True, False])
def test_a_forged_syn_begins_nothing(from_client: bool, reset: bool) -> None:
    """Nobody answers it; whoever looks on was blind to the rest."""
    recorded = record(Host(), Host())
    recorded.say(True, b"question")
    if reset:
        for side in (True, False):
            recorded.tape.say(side, b"", "R")
    middle = len(recorded.tape.sent)
    recorded.say(False, b"answer")
    recorded.close()
    packets = list(recorded.packets)
    first = Segment.parse(packets[0] if from_client else packets[1])
    for number in (7, 2**31):
        seq = (first.seq + number) % 2**32
        syn = first.altered(first.options, b"data" * 300, flags=int(TcpFlags.SYN), seq=seq)
        answer = first.altered(first.options, b"", flags=int(TcpFlags.SYN | TcpFlags.ACK), seq=seq)
        packets[middle:middle] = [syn, answer]
    (report,), sink = decode(packets, store(*recorded.lines))
    assert report.errors == []
    assert sink.said[0, False] == b"answer"
    assert report.server_to_client.ended == "finp"


def test_a_syn_that_is_answered_begins_another_connection() -> None:
    """Of the former one the end is not in the capture: a host was switched off."""
    one, other = Host(), Host()
    former, later = record(one, other), record(one, other, tape=Tape(isn={True: 5, False: 6}))
    former.say(True, b"question")
    later.say(True, b"another")
    later.close()
    packets = [*former.packets, *later.packets]
    reports, sink = decode(packets, store(*former.lines, *later.lines))
    assert [report.errors for report in reports] == [[], []]
    assert (sink.said[0, True], sink.said[1, True]) == (b"question", b"another")
    assert [report.client_to_server.ended for report in reports] == ["open", "finp"]


def test_however_many_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENDED_MAX", 3)
    connections = several(6)
    decoder = Decoder(store(*(line for each in connections for line in each.lines)), keep=2)
    for each in connections:
        feed(decoder, each.packets)
    assert len(decoder._by_flow) == 2 * 3
    reports = decoder.finish()
    assert [report.number for report in reports] == [0, 1]
    assert decoder.connections == 6


def test_only_one_port() -> None:
    first = talk(record(Host(), Host()))
    second = talk(record(Host(), Host(), tape=Tape(server=("192.0.2.7", 5432))))
    decoder = Decoder(store(*first.lines, *second.lines), port=5432)
    feed(decoder, first.packets + second.packets)
    (report,) = decoder.finish()
    assert (report.server, report.errors) == ("192.0.2.7:5432", [])


def test_keys_that_come_while_the_connection_speaks() -> None:
    recorded = talk(record(Host(), Host()))
    keys = KeyStore()
    keys.growing = True
    sink = Kept()
    decoder = Decoder(keys, sink)
    half = len(recorded.packets) // 2
    feed(decoder, recorded.packets[:half])
    assert sink.said == {}
    decoder.keys_came()  # others'
    line = KeyLine.parse(recorded.lines[0])
    keys.add_fresh(line.match, FromLine("line 1", line))
    decoder.keys_came()
    assert sink.said[0, True] == b"question"
    feed(decoder, recorded.packets[half:])
    (report,) = decoder.finish()
    assert report.errors == []
    assert report.server_to_client.authenticated is True


def test_keys_that_come_when_it_is_over() -> None:
    recorded = talk(record(Host(), Host()))
    keys = KeyStore()
    keys.growing = True
    sink = Kept()
    decoder = Decoder(keys, sink)
    feed(decoder, recorded.packets)
    assert sink.ended == []
    line = KeyLine.parse(recorded.lines[0])
    keys.add_fresh(line.match, FromLine("line 1", line))
    decoder.keys_came()
    assert sink.ended == [0], "it is told of at once"
    assert sink.said[0, False] == bytes(recorded.heard[False])


def test_keys_that_never_come() -> None:
    """What waits for them is bounded, and why it was not read is told."""
    quiet, loud = talk(record(Host(), Host())), record(Host(), Host(), tape=Tape(mss=60_000))
    loud.say(False, bytes(3 << 20))
    for recorded in (quiet, loud):
        keys = KeyStore()
        keys.growing = True
        decoder = Decoder(keys)
        feed(decoder, recorded.packets)
        held = [c.server.stream.held for c, _ in decoder._by_flow.values()]
        assert max(held) <= (1 << 20) + 65536
        (report,) = decoder.finish()
        (error,) = report.errors
        assert error.startswith("no key: the 0 secrets given hold none of it (N_A ")


def test_a_key_log_that_grows(tmp_path: Path) -> None:
    path, keys = tmp_path / "keys.log", KeyStore()
    one, two, three = (each.lines[0] for each in several(3))
    log = GrowingKeyLog(path, keys)
    assert log.read() == []
    path.write_text(f"# a comment\n{one}\n{two[:50]}")
    assert (log.read(), keys.entries) == ([], 1)
    assert (log.read(), keys.entries) == ([], 1)
    path.write_text(f"# a comment\n{one}\n{two}\nbroken\n")
    assert log.read() == [f"{path}: line 4: not a line of 7 fields that begins with TCPCRYPT_SS"]
    assert keys.entries == 2
    path.unlink()
    assert log.read() == []
    path.write_text(f"{three}\n")  # another file of the same name
    assert (log.read(), keys.entries) == ([], 3)
    path.unlink()
    path.mkdir()
    with pytest.raises(SecretFileError, match="Is a directory"):
        log.read()


def test_a_key_log_that_was_long_before_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpcrypt.tools.decode.files._GROWTH_MAX", 1000)
    path, keys = tmp_path / "keys.log", KeyStore()
    lines = [each.lines[0] for each in several(4)]
    path.write_text("\n".join(lines) + "\n" + lines[0][:10])
    log = GrowingKeyLog(path, keys)
    looks = 0
    while not looks or log.behind:
        log.read()
        looks += 1
        assert looks < 9
    assert (looks > 1, keys.entries) == (True, 4)
    log.behind = True
    path.unlink()
    log.read()
    assert not log.behind


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_authenticated_tep_shows(version: int) -> None:
    """docs/authenticated-tep.md: A's key, that B has one, and the pre-shared key's hint."""
    key = shared(7)
    for terms_a, terms_b, key_of_a, b_shows, hint, used in (
        (Conditions(identity(1), (version,), key), Conditions(identity(2), (version,), psks=[key]),
         fingerprint(identity(1).public), True, "07" * 8, True),
        (Conditions(identity(1), (version,), key), Conditions(identity(2), (version,)),
         fingerprint(identity(1).public), True, "07" * 8, False),
        (Conditions(None, (version,)), Conditions(None, (version,)), None, False, None, False),
    ):  # fmt: skip
        one, other = ta_host(terms_a), ta_host(terms_b)
        recorded = talk(record(one, other))
        (report,), _sink = decode(recorded.packets, store(*recorded.lines))
        assert (report.errors, report.tep) == ([], TA)
        assert report.as_json()["authentication"] == {
            "version": version,
            "key_of_a": key_of_a,
            "b_shows_key": b_shows,
            "psk_hint": hint,
            "psk_used": used,
        }
        # It goes in the clear: no key is needed.
        (report,), _sink = decode(recorded.packets, store())
        assert report.as_json()["authentication"]["key_of_a"] == key_of_a


def test_messages_of_the_authenticated_tep_that_say_too_much() -> None:
    recorded = talk(record(ta_host(Conditions(identity(1))), ta_host(Conditions(identity(2)))))
    sent = recorded.tape.sent
    at = next(n for n, s in enumerate(sent) if s.payload.startswith(b"\x15\x10\x1a\x0e"))
    payload = bytearray(sent[at].payload)
    payload[-33] |= 2  # f1: a hint that there is not
    sent[at] = replace(sent[at], payload=bytes(payload))
    (report,), _sink = decode(recorded.packets, store(*recorded.lines))
    assert report.as_json()["authentication"] is None


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"", True),
        (b"TCE", True),
        (b"TCENO\x01\x45", True),
        (b"TCENO\x01\x45\x04\x01", True),
        (b"TCENO\x01\x45\x04\x01\x23more", (b"\x45\x04\x01\x23", 10)),
        (b"TRACE / HTTP/1.1", False),
        (b"TCENO\x02", False),
        (b"TCENO\x01\x46", False),
        (b"TCENO\x01\x45\x01", False),
        (b"TCENO\x01\x45\x29", False),
    ],
)
def test_prefaces(start: bytes, found: object) -> None:
    assert preface(start) == found
    assert preface(bytearray(start)) == found


def test_programs_that_only_begin_alike_are_plain() -> None:
    """A stream that begins as a preface does, and goes on otherwise, or ends."""
    for said, answered in (
        (b"TCENO\x01\x45\x04\x01\x23", b"220 ready\r\n"),
        (b"TCE", b""),
        (b"TCENO\x01\x45\x03\x23", b"TCENO\x01\x45\x04\x01\x24"),
    ):
        tape = Tape()
        tape.syn(b"\x02\x04\x05\xb4")
        tape.syn(b"\x02\x04\x05\xb4", from_client=False, ack=True)
        tape.say(True, b"")
        tape.say(True, said, "PA")
        if answered:
            tape.say(False, answered, "PA")
        (report,), sink = decode(tape.packets(), store())
        assert (report.profile, report.in_band, report.errors) == ("plain", None, [])
        assert sink.said[0, True] == said
        assert sink.said.get((0, False), b"") == answered
