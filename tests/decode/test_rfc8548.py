"""RFC 8548 connections on tape, opened by their key log: whatever they negotiated."""

from collections.abc import Callable
from itertools import chain, pairwise

import pytest
from support.captures import CLIENT6, SERVER6, Recorded, Sent, Tape, altered, record
from support.decoding import check, decode, store, talk
from support.hosts import Host, events
from support.terms import TA, Conditions, identity, shared, ta_host

from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.tools.decode.files import read_key_log
from tcpcrypt.tools.decode.keys import KeyStore

BIG = bytes(range(256)) * 8192
"""2 MiB"""


@pytest.mark.parametrize("tep", [0x21, 0x22, 0x23, 0x24], ids=hex)
@pytest.mark.parametrize("aead", sorted(AEADS), ids=hex)
def test_every_tep_and_aead_fresh_and_resumed_with_and_without_swapped_roles(tep, aead) -> None:
    config = Config(teps=(tep,), aeads=(aead,))
    one, other = Host(config), Host(config)
    for client, server in ((one, other), (one, other), (other, one)):
        recorded = talk(record(client, server))
        report = check(recorded)
        assert (report.tep, report.aead) == (tep, aead)
        assert report.resumed is recorded.one.resumed
        assert report.application_aware == (False, False)
        assert report.client_to_server.frames == 2, "data, and FINp"


def test_application_aware_hosts_over_ipv6() -> None:
    config = Config(application_aware=True)
    recorded = talk(record(Host(config), Host(config), tape=Tape(CLIENT6, SERVER6)))
    report = check(recorded)
    assert report.application_aware == (True, True)
    assert (report.client, report.server) == ("[2001:db8::1]:40000", "[2001:db8::7]:80")


def test_megabytes_with_many_keys() -> None:
    config = Config(rekey_after_bytes=300_000)
    recorded = record(Host(config), Host(config), tape=Tape(mss=16_000))
    recorded.say(True, BIG)
    recorded.one.rekey()
    recorded.say(False, BIG[:1_000_000])
    recorded.other.rekey()
    recorded.close()
    check(recorded)


def test_urgent_data_are_data() -> None:
    recorded = record(Host(), Host())
    recorded.one.send_data(b"urgent!", urgent=3)
    recorded.carry()
    recorded.close()
    check(recorded)


@pytest.mark.parametrize("version", [1, 2])
def test_the_authenticated_tep_fresh_and_resumed(version: int) -> None:
    from tcpcrypt.crypto import hybrid

    if version == 2 and not hybrid.available():
        pytest.skip("the installed cryptography has no ML-KEM")
    key = shared(7)
    one = ta_host(Conditions(identity(1), (version,), key))
    other = ta_host(Conditions(identity(2), (version,), psks=[key]))
    for client, server in ((one, other), (one, other), (other, one)):
        recorded = talk(record(client, server))
        report = check(recorded)
        assert report.tep == TA
        assert report.resumed is recorded.one.resumed


def test_frame_offsets_that_do_not_count_the_init_messages() -> None:
    """Open point E1: a peer may count from behind Init1 and Init2."""
    from dataclasses import replace

    from tcpcrypt.wire.profile import RFC8548

    config = Config(profile=replace(RFC8548, offset_counts_init=False))
    check(talk(record(Host(config), Host(config))))


def test_a_later_session_needs_no_line_of_its_own() -> None:
    """ss[i+1] follows from ss[i], so that the first line opens what resumes it."""
    one, other = Host(), Host()
    first = talk(record(one, other))
    later = [
        talk(record(*hosts, tape=Tape(("192.0.2.1", 40001 + n))))
        for n, hosts in enumerate([(one, other), (other, one), (one, other)])
    ]
    packets = list(chain(first.packets, *(recorded.packets for recorded in later)))
    reports, sink = decode(packets, store(*first.lines))
    assert [report.errors for report in reports] == [[]] * 4
    assert [report.resumed for report in reports] == [False, True, True, True]
    for number, recorded in enumerate([first, *later]):
        assert sink.said[number, False] == bytes(recorded.heard[False])
        assert reports[number].session_id == KeyLine.parse(recorded.lines[0]).session_id
    # Where the first connection is not in the capture, its line is enough as well.
    reports, _ = decode(later[2].packets, _with_chains(first.lines))
    assert reports[0].errors == []


def _with_chains(lines: list[str]) -> KeyStore:
    import tempfile
    from pathlib import Path

    keys = KeyStore()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "keys"
        path.write_text("\n".join(lines) + "\n")
        read_key_log(path, keys)
    return keys


# --- what a network does ----------------------------------------------------------------


def shuffled(sent: list[Sent]) -> list[Sent]:
    """Data segments in pairs the other way round; the handshake stays in front."""
    head, rest = sent[:3], sent[3:]
    for at in range(0, len(rest) - 1, 2):
        rest[at], rest[at + 1] = rest[at + 1], rest[at]
    return head + rest


def late(sent: list[Sent]) -> list[Sent]:
    """Every fifth data segment comes at the end."""
    head, rest = sent[:3], sent[3:]
    return head + [s for n, s in enumerate(rest) if n % 5] + rest[::5]


def twice(sent: list[Sent]) -> list[Sent]:
    """All segments come again, one after the other."""
    return [copy for s in sent for copy in (s, s)] + sent[3:]


def overlapping(sent: list[Sent]) -> list[Sent]:
    """Retransmissions are cut elsewhere than what was sent first."""
    out = list(sent)
    for one, other in pairwise(sent[3:]):
        if (
            one.from_client is other.from_client
            and (one.seq + len(one.payload)) % 2**32 == other.seq
        ):
            half = len(one.payload) // 2
            both = one.payload[half:] + other.payload[: len(other.payload) // 2]
            out.append(Sent(one.from_client, "A", (one.seq + half) % 2**32, one.ack, b"", both))
    return out


def backwards(sent: list[Sent]) -> list[Sent]:
    return sent[:3] + sent[:2:-1]


def keep_alives(sent: list[Sent]) -> list[Sent]:
    """RFC 9293 section 3.8.4: one byte before the next one."""
    probes = [Sent(s.from_client, "A", (s.seq - 1) % 2**32, s.ack, b"", b"\0") for s in sent[3:]]
    return sent + probes


@pytest.mark.parametrize(
    "network",
    [shuffled, late, twice, overlapping, backwards, keep_alives],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("isn", [1000, 2**32 - 2000], ids=["low", "wraps"])
def test_whatever_order_and_however_often(network: Callable, isn: int) -> None:
    recorded = record(Host(), Host(), tape=Tape(isn={True: isn, False: isn + 7}))
    for n in range(6):
        recorded.say(bool(n % 2), bytes([n]) * 5000)
    recorded.one.rekey()
    recorded.close()
    recorded.tape.sent = network(recorded.tape.sent)
    check(recorded)


def test_connections_side_by_side_and_ports_used_again() -> None:
    one, other = Host(), Host()
    tapes = [Tape(("192.0.2.1", 40000)), Tape(("192.0.2.1", 40001)),
             Tape(("192.0.2.1", 40000), isn={True: 77, False: 88})]  # fmt: skip
    recorded = [talk(record(one, other, tape=tape)) for tape in tapes]
    mixed = [
        p for pair in zip(recorded[0].packets, recorded[1].packets, strict=False) for p in pair
    ]
    mixed += recorded[0].packets[-3:] + recorded[1].packets[-3:] + recorded[2].packets
    reports, sink = decode(mixed, store(*(r.lines[0] for r in recorded)))
    assert [report.errors for report in reports] == [[], [], []]
    for number, each in enumerate(recorded):
        assert sink.said[number, True] == bytes(each.heard[True])
        assert sink.said[number, False] == bytes(each.heard[False])


# --- what is wrong, and is said ---------------------------------------------------------


def data_segments(recorded: Recorded, from_client: bool) -> list[int]:
    """Indices of segments with frames in them."""
    with_data = [
        n for n, s in enumerate(recorded.tape.sent) if s.from_client is from_client and s.payload
    ]
    return with_data[1:]  # without the Init message


def test_a_changed_byte_is_an_error_and_ends_its_direction_alone() -> None:
    recorded = talk(record(Host(), Host()))
    at = data_segments(recorded, False)[0]
    recorded.tape.sent[at] = altered(recorded.tape.sent[at], 50)
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert len(report.errors) == 1
    assert (
        "server to client: the frame at offset 74 of the stream fails authentication"
        in (report.errors[0])
    )
    assert report.server_to_client.authenticated is False
    assert report.client_to_server.authenticated is True
    assert sink.said[0, True] == b"question"
    assert (0, False) not in sink.said, "not one byte that is not authentic"


def test_of_two_copies_that_differ_the_authentic_one_is_read() -> None:
    recorded = talk(record(Host(), Host()))
    at = data_segments(recorded, False)[0]
    recorded.tape.sent.insert(at, altered(recorded.tape.sent[at], 50))
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, False] == bytes(recorded.heard[False])
    assert "came twice and differ; only the later ones are authentic" in report.errors[0]
    # The other way round nothing is wrong with what was read.
    recorded = talk(record(Host(), Host()))
    at = data_segments(recorded, False)[0]
    recorded.tape.sent.insert(at + 1, altered(recorded.tape.sent[at], 50))
    check(recorded)


def test_behind_a_gap_frames_are_found_again() -> None:
    recorded = record(Host(), Host())
    for n in range(5):
        recorded.say(True, bytes([n]) * 100)
    recorded.one.rekey()
    recorded.say(True, b"after the new key")
    recorded.close()
    lost = data_segments(recorded, True)[2:4]
    sent = [s for n, s in enumerate(recorded.tape.sent) if n not in lost]
    recorded.tape.sent = sent
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert (
        sink.said[0, True] == b"".join(bytes([n]) * 100 for n in (0, 1, 4)) + b"after the new key"
    )
    assert report.errors == [
        "client to server: bytes 319 to 558 of the stream are not in the capture;"
        " frames go on at 559"
    ]
    assert report.client_to_server.authenticated is False
    assert report.client_to_server.ended == "finp"


def test_a_rekeying_in_a_gap_is_survived() -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"first")
    recorded.one.rekey()
    recorded.carry()
    recorded.say(True, b"last")
    at = data_segments(recorded, True)[1]
    del recorded.tape.sent[at]
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert sink.said[0, True] == b"firstlast"
    assert len(report.errors) == 1


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_gap_whose_end_is_a_rekeying(lost: int) -> None:
    """The frame behind it announces the key that it is sealed with."""
    recorded = record(Host(), Host())
    recorded.say(True, b"first")
    for n in range(4):
        recorded.one.rekey()
        recorded.carry()
        recorded.say(True, b"key %d" % (n + 1))
    with_data = data_segments(recorded, True)
    # "first", then two frames for each key: the announcement, and the data.
    gone = with_data[1 : 1 + 2 * (lost - 1)] if lost > 1 else with_data[:1]
    recorded.tape.sent = [s for n, s in enumerate(recorded.tape.sent) if n not in gone]
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    kept = [b"first"] if lost > 1 else []
    assert sink.said[0, True] == b"".join(kept + [b"key %d" % n for n in range(lost, 5)])
    assert len(report.errors) == 1


def test_a_capture_that_ends_within_a_frame() -> None:
    recorded = talk(record(Host(), Host()))
    last = data_segments(recorded, False)[0]
    (report,), _ = decode(recorded.packets[: last + 1], store(*recorded.lines))
    assert report.errors == [
        "server to client: the stream ends within a frame, 1400 bytes behind the last one"
    ]
    assert report.server_to_client.ended == "open"


def test_a_missing_last_segment_is_told_by_the_fin() -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"question")
    recorded.say(True, b"more")
    recorded.tape.fin(True)
    del recorded.tape.sent[data_segments(recorded, True)[1]]
    (report,), _ = decode(recorded.packets, store(*recorded.lines))
    assert report.errors == [
        "client to server: bytes 107 to 130 of the stream are not in the capture"
    ]
    assert report.client_to_server.authenticated is False


@pytest.mark.parametrize(("flags", "ended"), [("R", "rst"), ("FA", "fin"), ("A", "open")])
def test_how_a_stream_without_finp_ended(flags: str, ended: str) -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"question")
    recorded.tape.say(True, b"", flags)
    recorded.tape.say(False, b"", flags)
    check(recorded, ended=ended)


def test_bytes_behind_finp_are_an_error() -> None:
    recorded = talk(record(Host(), Host()))
    fin = next(n for n, s in enumerate(recorded.tape.sent) if "F" in s.flags and s.from_client)
    recorded.tape.sent[fin] = Sent(True, "A", recorded.tape.sent[fin].seq, 0, b"", b"more")
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert "client to server: bytes follow the frame with FINp" in report.errors[0]
    assert sink.said[0, True] == b"question"


# --- why there is no plaintext ----------------------------------------------------------


def only_error(recorded: Recorded, packets: list[bytes], *lines: str) -> str:
    (report,), sink = decode(packets, store(*lines))
    assert sink.said == {}
    assert report.client_to_server.authenticated is False
    assert report.client_to_server.as_json()["sha256"] is None
    (error,) = report.errors
    return error


def test_no_line_for_it() -> None:
    fresh, stranger = talk(record(Host(), Host())), talk(record(Host(), Host()))
    n_a = KeyLine.parse(fresh.lines[0]).match.hex()
    error = only_error(fresh, fresh.packets, *stranger.lines)
    assert error == f"no key: the 1 secrets given hold none of it (N_A {n_a})"
    one, other = Host(), Host()
    talk(record(one, other))
    resumed = talk(record(one, other))
    name = KeyLine.parse(resumed.lines[0]).match.hex()
    error = only_error(resumed, resumed.packets)
    assert error == f"no key: the 0 secrets given hold none of it (session {name})"


def test_a_line_that_does_not_fit() -> None:
    recorded = talk(record(Host(), Host()))
    words = recorded.lines[0].split()
    for at, value, why in (
        (2, "23" * 33, "line 0: its session ID is 2323"),
        (3, "00" * 32, "line 0: its session ID is"),
        (5, "0002", "line 0: it names AEAD 0x0002, and Init2 0x0001"),
        (4, "00", "line 0: sn[0] cannot have 1 bytes"),
    ):
        line = " ".join([*words[:at], value, *words[at + 1 :]])
        (report,), sink = decode(recorded.packets, store(line))
        assert sink.said == {}
        assert report.errors[0].startswith(why)
        assert "the 1 secrets given hold none that fits" in report.errors[1]


def test_a_beginning_that_is_not_in_the_capture() -> None:
    recorded = talk(record(Host(), Host()))
    (report,), _ = decode(recorded.packets[5:], store(*recorded.lines))
    assert report.profile is None
    assert report.errors == ["its beginning is not in the capture"]
    packets = recorded.packets
    assert only_error(recorded, packets[1:], *recorded.lines) == "its SYN is not in the capture"
    error = only_error(recorded, packets[:1] + packets[2:], *recorded.lines)
    assert error == "its SYN-ACK is not in the capture"
    init1 = next(n for n, s in enumerate(recorded.tape.sent) if s.from_client and s.payload)
    error = only_error(recorded, packets[:init1] + packets[init1 + 1 :], *recorded.lines)
    assert error == "its Init1 is not in the capture, or not as a whole"
    error = only_error(recorded, packets[: init1 + 1], *recorded.lines)
    assert error == "its Init2 is not in the capture, or not as a whole"


def test_a_lost_first_ack_does_not_hide_a_key_exchange() -> None:
    recorded = talk(record(Host(), Host()))
    check(recorded, [p for n, p in enumerate(recorded.packets) if n != 2])


def test_events_are_drained() -> None:
    """What `record` hands to the tests holds nothing back."""
    recorded = talk(record(Host(), Host()))
    assert events(recorded.one) == events(recorded.other) == []
