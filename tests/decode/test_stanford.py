"""Captures of the Stanford daemon, and our own sessions in its profile."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.captures import Sent, Tape, altered, record
from support.decoding import check, decode, store, talk
from support.hosts import Host

from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.tools.decode.capture import read_capture
from tcpcrypt.tools.decode.files import SecretFileError, read_key_log, read_secrets
from tcpcrypt.tools.decode.frames import FrameReader
from tcpcrypt.tools.decode.keys import FromExchange, KeyStore
from tcpcrypt.wire.profile import STANFORD
from tcpcrypt.wire.segment import Segment

CAPTURES = Path(__file__).parents[2] / "vectors" / "peers" / "stanford"
FRESH, RESUMED, REDIRECT = (
    "a_get_p256_aes128_classic",
    "c_resumed_after_a_classic",
    "f1_get_redirect",
)
REQUEST = (
    b"GET /hello.txt HTTP/1.1\r\nHost: 10.77.0.2\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
)


def secrets(name: str) -> KeyStore:
    keys = KeyStore()
    read_secrets(CAPTURES / f"{name}.secrets.json", keys)
    return keys


def packets(name: str) -> list[bytes]:
    return [bytes(packet.data) for packet in read_capture(CAPTURES / f"{name}.pcap")]


def stated(name: str) -> bytes:
    document = json.loads((CAPTURES / f"{name}.secrets.json").read_text())
    return bytes.fromhex(document["A"][-1]["session_id"])


@pytest.mark.parametrize("name", [FRESH, RESUMED, REDIRECT])
def test_captures_of_the_real_daemon(name: str) -> None:
    (report,), sink = decode(packets(name), secrets(name))
    assert report.errors == []
    assert (report.profile, report.tep, report.aead) == ("stanford", 0x21, 1)
    assert report.resumed is (name == RESUMED)
    assert report.session_id == stated(name)
    assert sink.said[0, True] == REQUEST
    head, _, body = sink.said[0, False].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.7\r\n")
    assert body == b"hello tcpcrypt world\n"
    for direction, frames in ((report.client_to_server, 1), (report.server_to_client, 2)):
        assert direction.frames == frames
        assert direction.authenticated is True
        assert direction.ended == "fin", "its end is not protected"


def test_the_secrets_of_a_session_open_the_one_that_resumes_it() -> None:
    (report,), sink = decode(packets(RESUMED), secrets(FRESH))
    assert report.errors == []
    assert report.session_id == stated(RESUMED)
    assert sink.said[0, True] == REQUEST


KEX = ("prk_ss0", "ecdh_shared_secret", "ephemeral_private")


@pytest.mark.parametrize("known", KEX)
@pytest.mark.parametrize("side", ["A", "B"])
def test_any_one_secret_of_the_exchange_is_enough(known: str, side: str, tmp_path: Path) -> None:
    """The private key of either side, the shared secret, or PRK: as RFC 8548 section 3.3."""
    document = json.loads((CAPTURES / f"{FRESH}.secrets.json").read_text())
    (kex, _keys) = document[side]
    for name in KEX:
        if name != known:
            del kex[name]
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({side: [kex]}))
    keys = KeyStore()
    read_secrets(path, keys)
    (report,), sink = decode(packets(FRESH), keys)
    assert report.errors == []
    assert report.session_id == stated(FRESH)
    assert sink.said[0, True] == REQUEST


def test_a_secret_that_does_not_fit_is_named(tmp_path: Path) -> None:
    document = json.loads((CAPTURES / f"{FRESH}.secrets.json").read_text())
    for change, why in (
        ({"prk_ss0": "00" * 32}, "its session ID is 2181"),
        ({"prk_ss0": None}, "neither a PRK, a shared secret nor a private key"),
    ):
        kex, keys = document["A"]
        wanted = {k: v for k, v in (kex | change).items() if v is not None and k not in KEX[1:]}
        path = tmp_path / "secrets.json"
        path.write_text(json.dumps({"A": [wanted, keys]}))
        made = KeyStore()
        read_secrets(path, made)
        (report,), _ = decode(packets(FRESH), made)
        assert "secrets.json: A[0]" in report.errors[0]
        assert why in report.errors[0]


# --- between the real daemon and this package -----------------------------------------------


def logged(name: str) -> KeyStore:
    keys = KeyStore()
    assert read_key_log(CAPTURES / f"{name}.keys", keys) == []
    return keys


def sent(seed: int, size: int) -> bytes:
    """What the programs said when the captures were made."""
    return random.Random(seed).randbytes(size)


def test_p521_and_aes_256_of_the_real_daemon() -> None:
    name = "p521_aes256_from_tcpcrypt"
    reports, sink = decode(packets(name), logged(name))
    assert [report.resumed for report in reports] == [False, True]
    for number, report in enumerate(reports):
        assert report.errors == []
        assert (report.profile, report.tep, report.aead) == ("stanford", 0x22, 2)
        assert sink.said[number, True] == sent(1, 500)
        assert sink.said[number, False] == sent(2, 5000)


def copies(name: str) -> dict[int, list[tuple[int, bytes]]]:
    """Packets and payloads that the client sent, by sequence number."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for number, packet in enumerate(packets(name)):
        segment = Segment.parse(packet)
        if segment.destination_port == 80 and segment.payload:
            found.setdefault(segment.seq, []).append((number, bytes(segment.payload)))
    return found


LOSSY = "lossy_to_tcpcrypt"


def test_a_lossy_path_of_the_real_daemon() -> None:
    """It uses nonces twice: what it sends again it seals in other frames."""
    (report,), sink = decode(packets(LOSSY), logged(LOSSY))
    assert report.errors == []
    assert sink.said[0, True] == sent(1, 20_000)
    twice = [c for c in copies(LOSSY).values() if len({payload for _n, payload in c}) > 1]
    assert len(twice) == 5, "two frames under one nonce, each"


def test_frames_sealed_anew_are_read_where_the_first_ones_were_lost() -> None:
    """Wherever the eavesdropper sat: the bytes are right, and the joints are told of."""
    by_seq = copies(LOSSY)
    anew = {
        seq: max(c, key=lambda copy: len(copy[1]))
        for seq, c in by_seq.items()
        if len({payload for _n, payload in c}) > 1
    }
    first = {by_seq[seq][0][0] for seq in anew}
    covered = {
        number
        for seq, (late, payload) in anew.items()
        for other, those in by_seq.items()
        for number, _payload in those
        if seq <= other < seq + len(payload) and number < late
    }
    assert len(first) == 5
    assert len(covered) > 15
    for lost in (first, covered):
        left = [packet for number, packet in enumerate(packets(LOSSY)) if number not in lost]
        (report,), sink = decode(left, logged(LOSSY))
        assert sink.said[0, True] == sent(1, 20_000)
        assert len(report.errors) == 5
        assert all("frames go on at" in error for error in report.errors)
        assert report.client_to_server.authenticated is False


# --- sessions of our own ------------------------------------------------------------------


def hosts(tep: int = 0x21, aead: int = 1, **more) -> tuple[Host, Host]:
    config = Config(profile=STANFORD, teps=(tep,), aeads=(aead,), **more)
    return Host(config), Host(config)


@pytest.mark.parametrize("tep", [0x21, 0x22], ids=["P-256", "P-521"])
@pytest.mark.parametrize("aead", [1, 2], ids=["AES-128", "AES-256"])
def test_every_tep_and_aead_fresh_and_resumed(tep: int, aead: int) -> None:
    one, other = hosts(tep, aead)
    for resumed in (False, True, True):
        report = check(talk(record(one, other)))
        assert (report.tep, report.aead, report.resumed) == (tep, aead, resumed)


def test_application_aware_hosts() -> None:
    one, other = hosts(application_aware=True)
    for resumed in (False, True):
        report = check(talk(record(one, other)))
        assert report.resumed is resumed
        assert report.application_aware == (True, True)


def test_megabytes_with_loss_and_reordering() -> None:
    recorded = record(*hosts(aead=2))
    recorded.say(True, bytes(range(256)) * 4096)
    recorded.say(False, bytes(range(255, -1, -1)) * 4096)
    recorded.close()
    sent = recorded.tape.sent
    head, rest = sent[:5], sent[5:]
    late = rest[::7]
    recorded.tape.sent = [*head, *(s for n, s in enumerate(rest) if n % 7), *late, *rest[:20]]
    check(recorded)


def test_a_chain_of_resumptions_from_one_line() -> None:
    one, other = hosts()
    recorded = [talk(record(one, other, tape=Tape(("192.0.2.1", 40000 + n)))) for n in range(12)]
    together = [packet for each in recorded for packet in each.packets]
    reports, sink = decode(together, store(*recorded[0].lines))
    assert [report.errors for report in reports] == [[]] * 12
    assert [report.resumed for report in reports] == [False] + [True] * 11
    for number, each in enumerate(recorded):
        assert reports[number].session_id == KeyLine.parse(each.lines[0]).session_id
        assert sink.said[number, True] == bytes(each.heard[True])


def test_a_segment_that_was_tampered_with() -> None:
    recorded = talk(record(*hosts()))
    at = [n for n, s in enumerate(recorded.tape.sent) if not s.from_client and s.payload][1]
    recorded.tape.sent[at] = altered(recorded.tape.sent[at], 30)
    (report,), sink = decode(recorded.packets, store(*recorded.lines))
    assert report.errors == [
        "server to client: the frame at offset 108 of the stream fails authentication;"
        " frames go on at 1528"
    ]
    assert report.server_to_client.authenticated is False
    whole = bytes(recorded.heard[False])
    assert sink.said[0, False] == whole[1400:], "one segment is a frame, and one was lost"
    assert sink.said[0, True] == bytes(recorded.heard[True])


def test_frames_that_were_cut_anew_for_a_retransmission() -> None:
    """The real daemon seals what it sends again in other frames, at the same offset."""
    one, other = hosts()
    recorded = record(one, other)
    before = len(recorded.tape.sent)
    recorded.say(True, b"x" * 100)
    first = recorded.tape.sent[before]
    # The same key and offset, with more data: what the collapsed segment holds.
    twin = store(*recorded.lines)
    (material,) = twin._fresh[KeyLine.parse(recorded.lines[0]).match]
    line = material.line
    from tcpcrypt.crypto.aead import aead
    from tcpcrypt.crypto.schedule import SessionSecret
    from tcpcrypt.crypto.secret import Secret

    _, master, _ = SessionSecret(Secret(line.ss.view())).use(0x21, b"")
    keys = master.traffic_keys(aead(1))
    out = bytearray(320)
    data = b"x" * 100 + b"y" * 200
    aead(1).sealer(keys.ab, STANFORD).seal(data, out, 0, len(data))
    collapsed = Sent(True, "PA", first.seq, first.ack, b"", bytes(out))
    # Only the later copy was captured whole: the first one is lost.
    recorded.tape.sent[before] = collapsed
    (report,), sink = decode(recorded.packets, twin)
    assert sink.said[0, True] == data
    assert report.errors == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "neither events of hosts A and B"),
        ("{", "not JSON"),
        ('{"A": [{"event": "kex"}]}', "salt_nonce_c: missing"),
        ('{"A": [{"event": "kex", "salt_nonce_c": "00"}]}', "1 bytes, not 32"),
        ('{"A": [{"event": "keys_resumed", "session_id": "%s"}]}' % ("a1" * 33), "mk: missing"),
        ('{"A": 1}', "not of type list"),
    ],
)
def test_files_that_hold_no_secrets(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(text)
    with pytest.raises(SecretFileError, match=why):
        read_secrets(path, KeyStore())


def test_an_algorithm_that_the_dialect_does_not_have() -> None:
    """Init2 is what the capture says it is: one that names ChaCha20 is a fault, not an error."""
    made = record(*hosts())
    made.say(True, b"question")
    where = next(n for n, s in enumerate(made.tape.sent) if not s.from_client and s.payload)
    made.tape.sent[where] = altered(made.tape.sent[where], 8, 0x01 ^ 0x10)
    line = KeyLine.parse(made.lines[0])
    keys = KeyStore()
    keys.add_fresh(line.match, FromExchange("secrets", line.match, prk=line.ss))
    (report,), sink = decode(made.packets, keys)
    assert report.errors[0] == "secrets: profile stanford has no AEAD 0x0010"
    assert sink.said == {}


def test_frames_with_new_keys_that_the_dialect_has_not_are_no_frames() -> None:
    """Genuine, sealed by a peer that wants the reader to go from one to the next for ever."""
    made = record(*hosts())
    made.say(True, b"question")
    line = KeyLine.parse(made.lines[0])
    _id, master, _following = SessionSecret(Secret(line.ss.view())).use(0x21, b"")
    sealer = aead(1).sealer(master.traffic_keys(aead(1)).ab, STANFORD)
    question = [s for s in made.tape.sent if s.from_client and s.payload][-1]
    offset, seq, late = len(question.payload), question.seq + len(question.payload), []
    for _ in range(1500):
        out = bytearray(21)
        sealer.seal(b"x", out, offset, 100, True)
        late.insert(0, replace(question, seq=seq, payload=bytes(out)))
        offset, seq = offset + len(out), seq + len(out)
    made.tape.sent += late
    (report,), sink = decode(made.packets, store(*made.lines))
    assert "asks for new keys, which this profile does not have" in report.errors[0]
    assert sink.said == {(0, True): b"question"}


def test_what_cannot_be_opened_is_looked_at_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look costs what there is, and small segments may be many."""
    looks = 0
    look = FrameReader._other_frame

    def counted(self: FrameReader) -> bytes | None:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(FrameReader, "_other_frame", counted)
    made = record(*hosts())
    made.say(True, b"question")
    made.say(True, b"first")
    last = made.tape.sent[-1]
    made.tape.sent[-1] = altered(last, 10, 1)
    seq = last.seq + len(last.payload)
    for n in range(3000):
        made.tape.sent.append(replace(last, seq=seq + n, payload=b"\0"))
        if n < 200:  # and copies of it that differ
            made.tape.sent.append(altered(last, 11, 1 + n))
    (report,), sink = decode(made.packets, store(*made.lines))
    assert "fails authentication" in report.errors[0]
    assert sink.said == {(0, True): b"question"}
    assert 64 < looks < 150
