"""The Wireshark dissector, run by tshark over captures that this package's own core made."""

import os
import random
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import IPv6
from support.captures import CLIENT6, SERVER6, Recorded, Sent, Tape, record, write
from support.conversations import End, carry
from support.hosts import Host
from support.terms import Conditions, identity, shared, ta_host

from tcpcrypt import sockets
from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.contrib.scapy import Init1, Init2, eno_of, split
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.registry import Tep

ROOT = Path(__file__).parents[2]
DISSECTOR = ROOT / "tcpcrypt" / "contrib" / "wireshark" / "tcpcrypt.lua"
STANFORD = ROOT / "vectors" / "peers" / "stanford"
REQUEST = b"GET /what-nobody-reads HTTP/1.1\r\nHost: collector\r\n\r\n"


def tshark(
    capture: Path, *arguments: str, opened: Path | None = None, prefs: tuple[str, ...] = ()
) -> str:
    """What tshark prints; an error of the dissector is a failure."""
    if opened is not None:
        prefs += (f"tcpcrypt.opened:{opened}",)
    more = [word for pref in prefs for word in ("-o", pref)]
    done = subprocess.run(
        ["tshark", "-n", "-X", f"lua_script:{DISSECTOR}", *more, "-r", str(capture), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert "Lua Error" not in text, text
        assert "lua: " not in text, text
    return done.stdout


def fields(capture: Path, *names: str, where: str = "tcp", **more: Any) -> list[list[str]]:
    """Rows of the packets for which a display filter holds."""
    asked = [word for name in names for word in ("-e", name)]
    text = tshark(capture, "-2", "-Y", where, "-T", "fields", "-E", "aggregator= ", *asked, **more)
    return [line.split("\t") for line in text.splitlines()]


def opened(capture: Path, recorded: list[Recorded]) -> Path:
    """What `tcpcrypt decode --opened` makes of it."""
    log, out = capture.with_suffix(".keys"), capture.with_suffix(".opened")
    log.write_text("".join(f"{line}\n" for each in recorded for line in each.lines))
    main(["decode", str(capture), "--keylog", str(log), "--opened", str(out), "--json"])
    return out


def put(capture: Path, *recorded: Recorded) -> Path:
    return write(capture, [packet for each in recorded for packet in each.packets])


def web(recorded: Recorded, size: int = 5000) -> Recorded:
    recorded.say(True, REQUEST)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    recorded.say(False, head + bytes(range(256)) * (size // 256))
    recorded.close()
    return recorded


def messages(recorded: Recorded) -> tuple[Init1, Init2]:
    """Init1 and Init2 as they lie on the tape."""
    one, other = (
        split(b"".join(s.payload for s in recorded.tape.sent if s.from_client is side))[0]
        for side in (True, False)
    )
    assert isinstance(one, Init1)
    assert isinstance(other, Init2)
    return one, other


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded, Recorded]:
    """A fresh session and one that resumes it, over IPv4 and IPv6."""
    one, other = Host(), Host()
    fresh = web(record(one, other))
    resumed = web(record(one, other, tape=Tape(CLIENT6, SERVER6)))
    return put(tmp_path_factory.mktemp("two") / "x.pcap", fresh, resumed), fresh, resumed


def test_suboptions_and_init_messages(two: tuple[Path, Recorded, Recorded]) -> None:
    """RFC 8547 section 4.1, RFC 8548 sections 3.5 and 4.1, as the parsers of the core read them."""
    capture, fresh, resumed = two
    rows = fields(
        capture,
        *("tcpeno.suboption.tep", "tcpeno.global.b", "tcpeno.suboption.resume"),
        *("tcpeno.suboption.nonce", "tcpeno.kind"),
        where="tcpeno",
    )
    assert [row[0] for row in rows] == ["0x21 0x24 0x23", "0x23", ""] * 2
    assert [row[1] for row in rows] == ["", "1", ""] * 2
    assert {row[4] for row in rows} == {"69"}
    syn = eno_of(IPv6(resumed.packets[0]))
    assert syn is not None
    data = syn.suboptions[-1].data
    assert rows[3][2:4] == [data[:9].hex(), data[9:].hex()]
    init1, init2 = messages(fresh)
    rows = fields(
        capture,
        *("tcpcrypt.init", "tcpcrypt.init.sym_cipher", "tcpcrypt.init.nonce"),
        *("tcpcrypt.init.public", "tcpcrypt.init.message_len", "tcpcrypt.init.tail"),
        where="tcpcrypt.init",
    )
    ciphers = " ".join(f"0x{cipher:04x}" for cipher in init1.sym_ciphers)
    assert rows == [
        ["Init1", ciphers, init1.nonce.hex(), init1.public.hex(), "79", ""],
        ["Init2", f"0x{init2.sym_cipher:04x}", init2.nonce.hex(), init2.public.hex(), "74", ""],
    ]


def test_frames_are_put_together_and_opened(two: tuple[Path, Recorded, Recorded]) -> None:
    """RFC 8548 section 4.2; what each side said comes out of what the file of frames holds."""
    capture, fresh, resumed = two
    rows = fields(
        capture,
        *("tcp.srcport", "ipv6.src", "tcpcrypt.frame.data", "tcpcrypt.frame.finp", "http.request"),
        *("http.request.uri", "http.response.code", "tcpcrypt.resumed"),
        where="tcpcrypt.frame",
        opened=opened(capture, [fresh, resumed]),
    )
    for each, v6, again in ((fresh, False, "0"), (resumed, True, "1")):
        mine = [row for row in rows if bool(row[1]) is v6]
        assert {word for row in mine for word in row[7].split()} == {again}
        for from_client in (True, False):
            side = [row for row in mine if (row[0] == "40000") is from_client]
            said = bytes.fromhex("".join(row[2] for row in side).replace(" ", ""))
            assert said == bytes(each.heard[from_client])
            assert " ".join(row[3] for row in side).split()[-1] == "1", "FINp comes last"
        assert [row[5] for row in mine if row[4]] == ["/what-nobody-reads"]
        assert [row[6] for row in mine if row[6]] == ["200"]


def test_without_the_file_it_is_ciphertext(two: tuple[Path, Recorded, Recorded]) -> None:
    capture, fresh, _resumed = two
    tree = tshark(capture, "-V")
    assert "what-nobody-reads" not in tree
    assert "TCP Option - Encryption Negotiation (ENO)" in tree
    assert "Suboption: TEP 0x23, TCPCRYPT_ECDHE_Curve25519, 17 bytes of data" in tree
    assert "[2 Reassembled TCP Segments (1420 bytes)" in tree
    assert "    Frame: 1417 bytes of ciphertext\n" in tree
    assert messages(fresh)[0].nonce.hex() in tree
    # One pass is as good as two.
    assert tshark(capture, "-V", "-2").count("bytes of ciphertext") == tree.count(
        "bytes of ciphertext"
    )


def test_a_copied_tag_opens_nothing(two: tuple[Path, Recorded, Recorded], tmp_path: Path) -> None:
    """A frame is shown opened only where all of its bytes are those that were verified."""
    capture, fresh, resumed = two
    path = opened(capture, [fresh, resumed])
    forged = replace(fresh.tape)
    at = next(n for n, s in enumerate(forged.sent) if s.from_client and len(s.payload) == 72)
    assert len(REQUEST) + 20 == 72
    forged.sent = list(forged.sent)
    payload = bytearray(forged.sent[at].payload)
    payload[10] ^= 1
    forged.sent[at] = replace(forged.sent[at], payload=bytes(payload))
    altered = write(tmp_path / "x.pcap", forged.packets())
    uri = "http.request.uri"
    assert fields(altered, uri, where="http.request && ip", opened=path) == []


def test_the_authenticated_tep(tmp_path: Path) -> None:
    """docs/authenticated-tep.md: both versions, with keys and a pre-shared key."""
    recorded = []
    for number, version in enumerate((1, 2)):
        key = shared(7)
        one = ta_host(Conditions(identity(1), (version,), key))
        other = ta_host(Conditions(identity(2), (version,), psks=[key]))
        recorded.append(web(record(one, other, tape=Tape(("192.0.2.1", 40000 + number)))))
    capture = put(tmp_path / "x.pcap", *recorded)
    rows = fields(
        capture,
        *("tcpeno.suboption.version", "tcpcrypt.init", "tcpcrypt.init.static_key"),
        *("tcpcrypt.init.hint", "tcpcrypt.init.psk", "_ws.expert.message"),
        *("tcpcrypt.init.sealed", "tcpcrypt.init.proof"),
        where="tcpeno.suboption.version || tcpcrypt.init",
    )
    assert [row[0] for row in rows if row[0]] == ["1", "1", "2", "2"]
    inits = [row for row in rows if row[1]]
    assert [row[1] for row in inits] == ["Init1", "Init2"] * 2
    shown = [identity(1).public.hex(), bytes([7] * 8).hex(), "1"]
    assert [row[2:5] for row in inits] == [shown, ["", "", "1"]] * 2
    assert not any("flags" in row[5] for row in inits)
    lengths = [[len(value) // 2 for value in row[6:]] for row in inits]
    assert lengths == [[0, 0], [48, 32]] * 2


def test_connections_that_stay_plain_are_left_to_whom_they_belong(tmp_path: Path) -> None:
    """RFC 8547 section 4.6: an option that is not answered, or not acknowledged."""
    packets = []
    for number, (answer, ack) in enumerate(((b"", b""), (b"\x45\x04\x01\x23", b""))):
        tape = Tape(("192.0.2.1", 40000 + number))
        tape.syn(b"\x45\x03\x23")
        tape.syn(answer, from_client=False, ack=True)
        tape.ack_options = ack
        tape.say(True, b"")
        tape.say(True, REQUEST, "PA")
        packets += tape.packets()
    capture = write(tmp_path / "x.pcap", packets)
    rows = fields(capture, "http.request.uri", where="http || tcpcrypt")
    assert rows == [["/what-nobody-reads"]] * 2


def test_secure_sockets_negotiate_within_their_streams(tmp_path: Path) -> None:
    """docs/sockets.md: prefaces, Init1 behind the first one, frames; fresh and resumed."""
    client, server = End.at(tmp_path / "a"), End.at(tmp_path / "b")
    log, packets = tmp_path / "keys.log", []
    sockets.log_keys(log)
    try:
        for number in range(2):
            tape = Tape(("192.0.2.1", 40000 + number), ("192.0.2.7", 5020))
            tape.syn(b"\x02\x04\x05\xb4")
            tape.syn(b"\x02\x04\x05\xb4", from_client=False, ack=True)
            tape.say(True, b"")

            def path(role: Role, data: bytes, tape: Tape = tape) -> list[bytes]:
                if data:
                    tape.say(role is Role.A, data, "PA")
                return [data]

            a, b = client.converse(Role.A), server.converse(Role.B)
            carry(a, b, path=path)
            a.send(b"what the meter says")
            carry(a, b, path=path)
            a.finish()
            b.finish()
            carry(a, b, path=path)
            packets += tape.packets()
    finally:
        sockets.log_keys(None)
    capture = write(tmp_path / "x.pcap", packets)
    opened = tmp_path / "opened"
    main(["decode", str(capture), "--keylog", str(log), "--opened", str(opened), "--json"])
    rows = fields(
        capture,
        *("tcpcrypt.preface", "tcpeno.suboption.tep", "tcpcrypt.init", "tcpcrypt.frame.data"),
        "tcpcrypt.resumed",
        where="tcpcrypt",
        opened=opened,
    )
    assert sum(bool(row[0]) for row in rows) == 4
    assert {row[1] for row in rows if row[1]} == {"0x20"}
    assert [row[2] for row in rows if row[2]] == ["Init1", "Init2"]
    said = [bytes.fromhex(row[3]) for row in rows if row[3]]
    assert said == [b"what the meter says"] * 2
    assert {row[4] for row in rows if row[3]} == {"0", "1"}


def test_segments_out_of_order_and_a_gap(tmp_path: Path) -> None:
    one, other = Host(Config(teps=(Tep.ECDHE_P256,))), Host(Config(teps=(Tep.ECDHE_P256,)))
    mixed = web(record(one, other, tape=Tape(("192.0.2.1", 40000))))
    sent = mixed.tape.sent
    data = [n for n, s in enumerate(sent) if not s.from_client and len(s.payload) > 1000]
    first, second = data[:2]
    sent[first], sent[second] = sent[second], sent[first]
    lossy = web(record(Host(), Host(), tape=Tape(("192.0.2.1", 40001))), 20_000)
    data = [n for n, s in enumerate(lossy.tape.sent) if not s.from_client and len(s.payload) > 1000]
    del lossy.tape.sent[data[3]]
    capture = put(tmp_path / "x.pcap", mixed, lossy)
    path = opened(capture, [mixed, lossy])
    rows = fields(
        capture,
        *("tcp.dstport", "tcpcrypt.frame.data"),
        where="tcp.srcport == 80",
        opened=path,
        prefs=("tcp.reassemble_out_of_order:TRUE",),
    )
    said = {port: "".join(row[1] for row in rows if row[0] == port) for port in ("40000", "40001")}
    assert bytes.fromhex(said["40000"].replace(" ", "")) == bytes(mixed.heard[False])
    some = bytes.fromhex(said["40001"].replace(" ", ""))
    assert len(some) > 1000
    assert bytes(lossy.heard[False]).startswith(some)
    missed = fields(capture, "tcp.dstport", where="tcpcrypt.out_of_step && tcp.port == 40001")
    assert missed, "it says that something is missing"


def test_captures_of_the_stanford_daemon(tmp_path: Path) -> None:
    capture, path = STANFORD / "f1_get_redirect.pcap", tmp_path / "opened"
    secrets = capture.with_suffix(".secrets.json")
    words = ["decode", str(capture), "--secrets", str(secrets), "--opened", str(path), "--json"]
    assert main(words) == 0
    rows = fields(
        capture,
        *("tcpeno.exid", "tcpcrypt.init", "http.request.uri", "http.response.code"),
        "tcpcrypt.init.sym_cipher",
        opened=path,
    )
    assert {row[0] for row in rows} == {"", "0x454e"}
    assert [row[1] for row in rows if row[1]] == ["Init1", "Init2"]
    assert [row[2] for row in rows if row[2]] == ["/hello.txt"]
    assert [row[3] for row in rows if row[3]] == ["200"]
    assert [row[4] for row in rows if row[4]] == ["0x0001 0x0002", "0x0001"]


def test_what_is_malformed_is_shown_and_stops_nothing(tmp_path: Path) -> None:
    """Options and streams with any bytes in them: the dissector never fails."""
    source = random.Random(69)
    one, other = Host(), Host()
    tapes = [web(record(one, other), 256).tape for _ in range(2)]
    packets = []
    for number in range(80):
        tape = replace(tapes[number % 2], client=("192.0.2.1", 1024 + number))
        tape.sent = sent = list(tapes[number % 2].sent)
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(sent))
            sent[at] = spoiled(sent[at], source)
        packets += tape.packets()
        if number % 8 == 0:
            packets[-1] = packets[-1][: source.randrange(20, len(packets[-1]) + 1)]
    capture = write(tmp_path / "x.pcap", packets)
    tree = tshark(capture, "-V", "-2")
    assert "Ill-formed option (RFC 8547, section 4.4)" in tree
    assert "No frame begins here" in tree
    assert tree.count("\nFrame ") + 1 >= len(packets)


def spoiled(sent: Sent, source: random.Random) -> Sent:
    """A segment of which some bytes of options or payload are others."""
    payload, options = bytearray(sent.payload), bytearray(sent.options)
    if payload and source.random() < 0.7:
        payload[source.randrange(min(len(payload), 12))] = source.randrange(256)
        del payload[source.randrange(1, len(payload) + 1) :]
    elif len(options) > 3 and options[1] > 2:
        options[source.randrange(2, options[1])] = source.randrange(256)
    return replace(sent, payload=bytes(payload), options=bytes(options))


def test_plaintext_as_a_capture_is_followed_by_tshark(
    two: tuple[Path, Recorded, Recorded], tmp_path: Path
) -> None:
    """`tcpcrypt decode --write`: what tools that know nothing of encryption make of it."""
    capture, fresh, resumed = two
    keys, plain = tmp_path / "keys", tmp_path / "plain.pcapng"
    keys.write_text("".join(f"{line}\n" for each in (fresh, resumed) for line in each.lines))
    assert main(["decode", str(capture), "--keylog", str(keys), "--write", str(plain)]) == 0
    done = subprocess.run(
        ["tshark", "-r", str(plain), "-q", "-z", "follow,tcp,raw,0", "-z", "follow,tcp,raw,1"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    followed = sorted(done.stdout.split("Follow: tcp,raw")[1:])  # by "tcp.stream eq N"
    for text, each in zip(followed, (fresh, resumed), strict=True):
        body = text.partition("Node 1")[2].splitlines()[1:]
        said = {True: "", False: ""}
        for line in body:
            said[not line.startswith("\t")] += line.strip(" \t=")
        for from_client in (True, False):
            assert bytes.fromhex(said[from_client]) == bytes(each.heard[from_client])


def test_the_commands_of_the_document(two: tuple[Path, Recorded, Recorded], tmp_path: Path) -> None:
    """docs/wireshark.md, line by line, where its files lie."""
    text = (ROOT / "docs" / "wireshark.md").read_text()
    commands = re.findall(r"^    ((?:tshark|tcpcrypt|python3) .*)$", text, re.M)
    assert len(commands) == 6
    capture, *recorded = two
    lines = [line for each in recorded for line in each.lines]
    (tmp_path / "keys.log").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "capture.pcap").write_bytes(capture.read_bytes())
    programs = {
        "tcpcrypt": [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt"],
        "python3": [sys.executable],
    }
    for command in commands:
        name, *words = shlex.split(command)
        done = subprocess.run(
            [*programs.get(name, [name]), *words],
            capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        if name == "python3":
            (tmp_path / "tcpcrypt.lua").write_bytes(Path(done.stdout.strip()).read_bytes())
        if "tcpcrypt.opened" in command:
            assert "GET /what-nobody-reads" in done.stdout
    assert "GET /what-nobody-reads" in done.stdout, "the last follows a stream"
