"""Captures of TCP/S: of two hosts with the kernel module, and of ours."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.decoding import Kept, decode
from tcps.hosts import Ours, Wire
from tcps.tcp import ACK, CLIENT_ISN, FIN, PSH, SERVER_ISN, SYN, packet, syn, syn_ack

from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.tcps.schedule import X25519
from tcpcrypt.tools.decode.capture import read_capture
from tcpcrypt.tools.decode.files import SecretFileError, read_secrets
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.tools.decode.tcps import TcpsSecrets
from tcpcrypt.tools.vectors import verify_document, verify_file
from tcpcrypt.wire.segment import Segment

FOLDER = Path(__file__).parents[2] / "vectors/peers/tcps-seed"
CAPTURE, KEYS = FOLDER / "tcps-seed-http.pcap", FOLDER / "tcps-seed-http.keys.json"
REQUEST = b"GET /index.html HTTP/1.0\r\nHost: 10.77.0.1\r\n\r\n"


def of_the_module(document: Any = None) -> tuple[list[ConnectionReport], Kept]:
    keys = KeyStore()
    path = KEYS
    if document is not None:
        path = document
    read_secrets(path, keys)
    return decode([bytes(p.data) for p in read_capture(CAPTURE)], keys)


def test_every_tag_of_the_module_verifies() -> None:
    reports, sink = of_the_module()
    assert [report.profile for report in reports] == ["tcps"] * 4
    for number, sent, answer in ((0, REQUEST, 795), (3, b"GET /1k HTTP/1.0", 1211)):
        report = reports[number]
        assert report.errors == []
        assert sink.said[number, True].startswith(sent)
        assert sink.said[number, False].startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(sink.said[number, False]) == answer
        for direction in (report.client_to_server, report.server_to_client):
            assert direction.authenticated is True
            assert direction.ended == "fin"
    assert sink.said[0, False].endswith(b"line 8: the quick brown fox jumps over the lazy dog\n")
    assert sink.said[3, False].endswith(b"Z" * 1024)


def test_what_the_module_let_go_in_the_clear_is_told_and_not_given_out() -> None:
    """Its second connections to a server that knows the client (S4)."""
    reports, sink = of_the_module()
    for number, leaked in ((1, 6 * 224), (2, 2 * 224)):
        report = reports[number]
        assert sink.said[number, True] == REQUEST
        assert report.client_to_server.authenticated is True
        assert (number, False) not in sink.said
        assert report.server_to_client.authenticated is None
        (error,) = report.errors
        assert f"server to client: {leaked} bytes left in the clear" in error


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", str(CAPTURE), "--secrets", str(KEYS), "--json"]) == 1
    first = json.loads(capsys.readouterr().out)["connections"][0]
    assert first == {
        **first,
        "profile": "tcps",
        "tep": None,
        "aead": None,
        "session_id": None,
        "client_to_server": {
            "bytes": 45,
            "frames": 2,
            "sha256": hashlib.sha256(REQUEST).hexdigest(),
            "authenticated": True,
            "ended": "fin",
        },
        "errors": [],
    }
    argv = ["decode", str(CAPTURE), "--secrets", str(KEYS), "--stream", "0"]
    assert main(argv) == 0
    assert "every tag verified" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_private_key_of_either_host_is_enough(side: str, tmp_path: Path) -> None:
    document = json.loads(KEYS.read_text())
    document["hosts"] = {}
    for connection in document["connections"]:
        del connection[f"{side}_priv"]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(document))
    reports, sink = of_the_module(path)
    assert reports[0].errors == []
    assert sink.said[0, True] == REQUEST


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"client_pub": "00" * 32}, "client_pub: is not that of client_priv"),
        ({"client_priv": "00"}, "client_priv: 1 bytes, not 32"),
        ({"server_priv": 3}, "server_priv: not of type str"),
    ],
)
def test_secrets_that_contradict_themselves(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    document = json.loads(KEYS.read_text())
    document["connections"][1] |= change
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SecretFileError, match=why):
        read_secrets(path, KeyStore())


def test_secrets_of_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"hosts": {}, "connections": []}')
    reports, _sink = of_the_module(path)
    for report in reports:
        assert report.profile == "tcps"
        assert report.errors[0].startswith("no key: none of the 0 private keys given is of this")


# --- connections of ours ------------------------------------------------------------------

WORDS = b"what they said"


class Taped:
    """Packets of a connection, and the client's private key."""

    def __init__(self) -> None:
        private = bytes(range(32))
        self.keys = KeyStore()
        key = X25519.from_private(private)
        self.keys.tcps.ephemeral[key.public] = key
        self.one, self.other = Ours(), Ours()
        self.wire = Wire(self.one, self.other)
        self.packets: list[bytes] = []
        self.one.local_out(syn())
        self.one.connection._ephemeral = X25519.from_private(private)
        self.one.connection._public = key.public
        for octets in (syn(), syn_ack(), packet(), packet(False)):
            self.say(octets)

    def say(self, octets: bytes) -> bytes:
        """What goes over the wire for `octets`."""
        self.wire.carry(octets)
        left = self.wire.seen[-1]
        made = bytes(left._packet)
        self.packets.append(made)
        return made

    def read(self) -> tuple[ConnectionReport, Kept]:
        (report,), sink = decode(self.packets, self.keys)
        assert report.profile == "tcps"
        return report, sink


def test_a_connection_of_ours() -> None:
    tape = Taped()
    tape.say(packet(flags=PSH | ACK, data=WORDS))
    tape.say(packet(False, PSH | ACK, data=WORDS * 50, acked=len(WORDS)))
    tape.say(packet(flags=FIN | ACK, at=len(WORDS)))
    report, sink = tape.read()
    assert report.errors == []
    assert sink.said == {(0, True): WORDS, (0, False): WORDS * 50}
    assert report.client_to_server.ended == "fin"
    assert report.server_to_client.ended == "open"


def test_segments_that_come_twice_out_of_order_or_forged() -> None:
    tape = Taped()
    pieces = [tape.say(packet(flags=ACK, data=bytes((i,)) * 100, at=100 * i)) for i in range(6)]
    start = len(tape.packets) - 6
    forged = Segment.parse(pieces[2]).altered(Segment.parse(pieces[2]).options, b"x" * 100)
    early = packet(flags=ACK, data=b"x", at=-5, options=b"\xfd\x14TM" + bytes(16))
    clear = packet(flags=ACK, data=b"in the clear", at=600)
    tape.packets[start:] = [pieces[i] for i in (1, 0, 0, 3)]
    tape.packets += [forged, early, pieces[2], pieces[5], pieces[4], clear]
    report, sink = tape.read()
    assert sink.said[0, True] == b"".join(bytes((i,)) * 100 for i in range(6))
    assert report.client_to_server.frames == 7
    assert report.client_to_server.authenticated is False
    assert "the tags of 2 segments are wrong" in report.errors[0]
    assert "12 bytes left in the clear" in report.errors[1]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_what_is_not_in_the_capture_is_told(lost: int) -> None:
    tape = Taped()
    for at in (0, 100):
        tape.say(packet(flags=ACK, data=bytes(100), at=at))
    tape.say(packet(flags=FIN | ACK, at=200))
    del tape.packets[4 + lost]
    report, sink = tape.read()
    assert report.client_to_server.authenticated is (lost == 2)
    assert len(sink.said[0, True]) == (200 if lost == 2 else 100)
    assert (report.errors == []) is (lost == 2)


def test_a_connection_that_ends_with_its_syns() -> None:
    tape = Taped()
    del tape.packets[2:]
    report, _sink = tape.read()
    assert report.errors == []
    assert report.client_to_server.authenticated is None


def test_a_forged_identity_is_told() -> None:
    tape = Taped()
    tape.keys.tcps.static = {h.hosts.own.public: h.hosts.own for h in (tape.one, tape.other)}
    public = tape.other.hosts.own.public
    report, _sink = tape.read()
    assert report.errors == []
    for said in (b"abcd", bytes(4)):
        tape.packets.append(packet(False, options=b"\xfd\x28TI" + public + said))
    report, _sink = tape.read()
    assert report.errors == ["server to client: the tags of 1 TI options are wrong"]


def test_keys_that_are_none() -> None:
    key = X25519.generate()
    secrets = TcpsSecrets({key.public: key})
    good = b"\xfd\x24TC" + key.public
    assert secrets.reader(good, b"", 1, 2) == "its keys are malformed"
    zero = secrets.reader(good, b"\xfd\x24TC" + bytes(32), CLIENT_ISN, SERVER_ISN)
    assert isinstance(zero, str)
    assert zero.startswith("TCP/S: ")
    assert SYN == 2


# --- vectors ------------------------------------------------------------------------------


def test_vectors_are_verified_by_the_tool() -> None:
    report = verify_file(FOLDER / "tcps-seed.json")
    assert (report.vectors, report.values, report.mismatches) == (24, 24 * 17, ())


def test_a_value_that_differs_is_named() -> None:
    document = json.loads((FOLDER / "tcps-seed.json").read_text())
    document["vectors"][3]["s2c"]["tag"] = "00" * 16
    document["vectors"][4]["client_priv"] = "00"
    report = verify_document(document)
    assert [m.field for m in report.mismatches] == ["s2c.tag", "client_priv"]
