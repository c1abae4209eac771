"""`tcpcrypt decode` from its command line: text, JSON, one stream, exit statuses."""

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.captures import CLIENT6, SERVER6, Recorded, Tape, altered, record, write
from support.decoding import talk
from support.hosts import Host, region

from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.tools.decode.capture import Packet, read_capture
from tcpcrypt.wire.frame import Plaintext
from tcpcrypt.wire.segment import Segment

CAPTURES = Path(__file__).parents[2] / "vectors" / "peers"
REAL = CAPTURES / "stanford" / "a_get_p256_aes128_classic.pcap"
SECRETS = REAL.with_suffix(".secrets.json")


class Files:
    """A capture and its key log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.capture, self.keylog = directory / "x.pcap", directory / "keys.log"

    def put(self, *recorded: Recorded) -> None:
        write(self.capture, [packet for each in recorded for packet in each.packets])
        lines = [line for each in recorded for line in each.lines]
        self.keylog.write_text("# a comment\n\n" + "\n".join(lines) + "\n")

    def run(self, *arguments: str) -> int:
        return main(["decode", str(self.capture), "--keylog", str(self.keylog), *arguments])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def direction(data: bytes, frames: int, ended: str = "finp") -> dict[str, object]:
    return {
        "bytes": len(data),
        "frames": frames,
        "sha256": hashlib.sha256(data).hexdigest(),
        "authenticated": True,
        "ended": ended,
    }


def test_json_says_everything(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    assert files.run("--json") == 0
    (connection,) = json.loads(capsys.readouterr().out)["connections"]
    assert connection == {
        "number": 0,
        "client": "192.0.2.1:40000",
        "server": "192.0.2.7:80",
        "profile": "rfc8548",
        "tep": 0x23,
        "aead": 1,
        "resumed": False,
        "session_id": recorded.one.session_id.hex(),
        "in_band": None,
        "application_aware": {"client": False, "server": False},
        "fallback": None,
        "authentication": None,
        "client_to_server": direction(b"question", 2),
        "server_to_client": direction(b"answer " * 1000, 6),
        "errors": [],
    }


def test_the_document_names_every_field(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.put(talk(record(Host(), Host())))
    assert files.run("--json") == 0
    (connection,) = json.loads(capsys.readouterr().out)["connections"]
    text = (Path(__file__).parents[2] / "docs" / "decode.md").read_text()
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == {*connection, *connection["client_to_server"]}


def test_a_capture_of_the_real_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", str(REAL), "--secrets", str(SECRETS)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "0: 10.77.0.1:40244 -> 10.77.0.2:80  stanford TEP 0x21 AEAD 0x0001\n"
        "   session ID 218147ed04ef0e5f"
    )
    assert "   client to server: 82 bytes in 1 frames, every tag verified, ended fin\n" in out
    assert "> GET /hello.txt HTTP/1.1\n> Host: 10.77.0.2\n" in out
    assert out.endswith("< \n< hello tcpcrypt world\n\n")


def test_one_stream_as_text_and_raw(
    files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    one, other = Host(), Host()
    second = record(one, other, tape=Tape(("192.0.2.1", 40001)))
    second.say(True, b"\x1b[31mred\r\n\xff\ttab\n")
    second.say(False, bytes(range(256)) * 100)
    second.close()
    files.put(talk(record(one, other)), second)
    assert files.run("--stream", "1") == 0
    out = capfdbinary.readouterr().out.decode()
    assert out.startswith("1: 192.0.2.1:40001 -> 192.0.2.7:80  rfc8548 TEP 0x23 AEAD 0x0001\n")
    assert "> \\x1b[31mred\n> \\xff\ttab\n" in out, "a terminal is told nothing"
    assert files.run("--stream", "1", "--raw", "server") == 0
    assert capfdbinary.readouterr().out == bytes(range(256)) * 100
    assert files.run("--stream", "1", "--raw", "client") == 0
    assert capfdbinary.readouterr().out == b"\x1b[31mred\r\n\xff\ttab\n"
    assert files.run("--stream", "1", "--json") == 0
    (connection,) = json.loads(capfdbinary.readouterr().out)["connections"]
    assert connection["number"] == 1
    assert files.run("--stream", "2") == 2
    assert b"there is no connection 2, but 2 in all" in capfdbinary.readouterr().err


def test_long_connections_are_shown_in_part(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"line\n" * 10_000)
    recorded.close()
    files.put(recorded)
    assert files.run() == 0
    out = capsys.readouterr().out
    assert "   ... and 45904 bytes more: --stream 0\n" in out
    assert out.count("> line\n") == 819
    assert files.run("--stream", "0") == 0
    assert capsys.readouterr().out.count("> line\n") == 10_000


def test_what_cannot_be_decoded_is_told_and_is_status_1(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = talk(record(Host(), Host()))
    at = [n for n, s in enumerate(recorded.tape.sent) if s.from_client and s.payload][1]
    recorded.tape.sent[at] = altered(recorded.tape.sent[at], 9)
    files.put(recorded)
    assert files.run() == 1
    out = capsys.readouterr().out
    assert "   ! client to server: the frame at offset 79 of the stream fails authent" in out
    assert "client to server: 0 bytes in 0 frames, NOT authenticated as a whole" in out
    assert files.run("--stream", "0", "--raw", "client") == 1
    assert "fails authentication" in capsys.readouterr().err
    files.keylog.write_text("")
    assert files.run() == 1
    out = capsys.readouterr().out
    assert "! no key: the 0 secrets given hold none of it (N_A " in out
    assert "client to server: nothing to read, ended fin" in out


def test_plain_connections_are_decoded_too(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = Tape()
    tape.syn(b"\x02\x04\x05\xb4")
    tape.syn(b"\x02\x04\x05\xb4", from_client=False, ack=True)
    tape.say(True, b"")
    tape.say(True, b"in the clear")
    tape.fin(True)
    write(files.capture, tape.packets())
    files.keylog.write_text("")
    assert files.run("--json") == 0
    (connection,) = json.loads(capsys.readouterr().out)["connections"]
    assert connection["profile"] == "plain"
    assert connection["fallback"] == "peer's SYN has no usable ENO option"
    assert connection["tep"] is connection["aead"] is connection["session_id"] is None
    assert connection["client_to_server"] == direction(b"in the clear", 0, "fin") | {
        "frames": None,
        "authenticated": None,
    }
    assert connection["errors"] == []


@pytest.mark.parametrize(
    ("client", "server", "third", "fallback"),
    [
        (b"\x45\x03\x23", b"", b"\x45\x02", "peer's SYN-ACK has no usable ENO option"),
        (b"\x45\x03\x23", b"\x45\x04\x01\x23", b"", "peer's first ACK has no ENO option"),
        (b"\x45\x03\x23", b"\x45\x03\x23", b"\x45\x02", "both sides claim the same role"),
        (b"\x45\x03\x23", b"\x45\x04\x01\x24", b"\x45\x02", "no encryption protocol in common"),
        (b"\x45\x03\x9f", b"\x45\x03\x01", b"\x45\x02", "peer's ENO option is ill-formed"),
        (b"\x45\x03\x23" * 2, b"\x45\x04\x01\x23", b"\x45\x02",
         "peer's SYN has more than one ENO option"),
    ],
)  # fmt: skip
def test_why_a_connection_is_plain(  # noqa: PLR0917
    files: Files, capsys: pytest.CaptureFixture[str], client: bytes, server: bytes, third: bytes,
    fallback: str,
) -> None:  # fmt: skip
    tape = Tape()
    tape.syn(client)
    tape.syn(server, from_client=False, ack=True)
    tape.ack_options = third
    tape.say(True, b"")
    tape.say(False, b"220 ready\r\n")
    write(files.capture, tape.packets())
    files.keylog.write_text("")
    assert files.run() == 0
    out = capsys.readouterr().out
    assert f"plain ({fallback})\n" in out
    assert "< 220 ready\n" in out


@pytest.mark.parametrize(
    ("client", "server", "why"),
    [
        (b"\x45\x03\x30", b"\x45\x04\x01\x30", "TEP 0x30 is not one of tcpcrypt"),
        (b"\x45\x05\xa0XX", b"\x45\x06\x01\xa0XX", "TEP 0x20 is for experiments"),
        (b"\xfd\x24TC" + bytes(32), b"\xfd\x24TC" + bytes(32), "no key: none of the 0 private"),
    ],
)
def test_encryption_that_is_not_known(
    files: Files, capsys: pytest.CaptureFixture[str], client: bytes, server: bytes, why: str
) -> None:
    tape = Tape()
    tape.syn(client)
    tape.syn(server, from_client=False, ack=True)
    tape.ack_options = b"\x45\x02"
    tape.say(True, b"")
    write(files.capture, tape.packets())
    files.keylog.write_text("")
    assert files.run() == 1
    assert f"! {why}" in capsys.readouterr().out


def test_data_of_a_syn_that_offers_encryption_are_not_the_streams(files: Files) -> None:
    """RFC 8547 section 4.7."""
    recorded = talk(record(Host(), Host()))
    syn = recorded.tape.sent[0]
    assert syn.options == region(syn.options)
    recorded.tape.sent[0] = type(syn)(True, "S", syn.seq, 0, syn.options, b"early data")
    files.put(recorded)
    assert files.run() == 0


def test_files_that_cannot_be_read(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.put(talk(record(Host(), Host())))
    files.keylog.write_text("TCPCRYPT_SS 00\n")
    assert files.run() == 2
    assert "keys.log: line 1: not a line of 7 fields" in capsys.readouterr().err
    files.keylog.unlink()
    assert files.run() == 2
    assert "keys.log: No such file" in capsys.readouterr().err
    files.keylog.write_text("")
    files.capture.write_bytes(b"nothing of the kind")
    assert files.run() == 2
    assert "neither a pcap nor a pcapng file" in capsys.readouterr().err


def test_a_line_that_is_being_written_is_left_out(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    files.keylog.write_text(recorded.lines[0] + "\n" + recorded.lines[0][:80])
    assert files.run() == 0
    files.keylog.write_text(recorded.lines[0])  # whole, but for its end
    assert files.run() == 0
    assert capsys.readouterr().err == ""


def test_a_broken_line_among_good_ones_is_told_of_and_left_out(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    files.keylog.write_text(f"{recorded.lines[0][:80]}\n{recorded.lines[0]}\n")
    assert files.run() == 0
    assert "keys.log: line 1: not a line of 7 fields" in capsys.readouterr().err


def test_packets_that_contradict_themselves_are_told_of(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    write(files.capture, [*recorded.packets, b"\x4f" + bytes(40), b"\x60" + bytes(10)])
    assert files.run() == 0
    assert "2 packets contradict themselves and were left out" in capsys.readouterr().err


def test_a_damaged_capture_is_read_as_far_as_it_goes(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    from tcpcrypt.cli import decode as command
    from tcpcrypt.tools.decode.capture import CaptureError

    def interrupted(error: BaseException):
        def read(path: Path):
            yield from list(read_capture(path))[:6]
            raise error

        return read

    for error, why in (
        (CaptureError("damaged behind frame 6"), "damaged behind frame 6"),
        (KeyboardInterrupt(), "interrupted: the rest of the capture was not read"),
    ):
        monkeypatch.setattr(command, "read_capture", interrupted(error))
        assert files.run("--json") == 1
        told = json.loads(capsys.readouterr().out)
        assert told["errors"] == [why]
        assert told["connections"][0]["client_to_server"]["bytes"] == len(b"question")


def test_plaintext_as_a_capture(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """What it writes any tool follows; here it is read again, as the plain TCP that it is."""
    one, other = Host(), Host()
    first = talk(record(one, other))
    second = record(one, other, tape=Tape(CLIENT6, SERVER6))
    second.say(False, bytes(range(256)) * 400)
    second.tape.say(True, b"", "R")
    files.put(first, second)
    out = files.directory / "plain.pcapng"
    before = os.umask(0)
    try:
        assert files.run("--json", "--write", str(out)) == 0
    finally:
        os.umask(before)
    decoded = json.loads(capsys.readouterr().out)["connections"]
    assert out.stat().st_mode & 0o777 == 0o600
    assert b"session ID " + first.one.session_id.hex().encode() in out.read_bytes()
    times = [packet.time for packet in read_capture(out)]
    assert times == sorted(times)
    for packet in read_capture(out):
        assert Segment.parse(packet.data).checksum_ok()
    assert main(["decode", str(out), "--keylog", os.devnull, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["connections"]
    assert len(plain) == len(decoded) == 2
    for was, now in zip(decoded, plain, strict=True):
        assert (now["client"], now["server"]) == (was["client"], was["server"])
        assert now["profile"] == "plain"
        for direction in ("client_to_server", "server_to_client"):
            for field in ("bytes", "sha256"):
                assert now[direction][field] == was[direction][field]
    assert [c["client_to_server"]["ended"] for c in plain] == ["fin", "rst"]


def test_a_capture_is_not_written_over_itself(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.put(talk(record(Host(), Host())))
    octets = files.capture.read_bytes()
    with pytest.raises(SystemExit) as caught:
        files.run("--write", str(files.capture))
    assert caught.value.code == 2
    assert files.capture.read_bytes() == octets
    assert files.run("--write", str(files.directory / "missing" / "x")) == 1
    assert "No such file" in capsys.readouterr().err


def test_plaintext_is_not_written_over_the_keys(files: Files) -> None:
    files.put(talk(record(Host(), Host())))
    lines = files.keylog.read_bytes()
    with pytest.raises(SystemExit) as caught:
        files.run("--write", str(files.keylog))
    assert caught.value.code == 2
    assert files.keylog.read_bytes() == lines


@pytest.mark.parametrize("put", ["link", "fifo", "second name", "directory"])
def test_plaintext_goes_to_no_file_that_another_could_have_put_there(
    files: Files, put: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.put(talk(record(Host(), Host())))
    out, elsewhere = files.directory / "plain.pcapng", files.directory / "elsewhere"
    elsewhere.write_text("not to be lost")
    if put == "link":
        out.symlink_to(elsewhere)
    elif put == "second name":
        out.hardlink_to(elsewhere)
    elif put == "fifo":
        os.mkfifo(out)
    else:
        out.mkdir()
    assert files.run("--write", str(out)) == 1
    assert str(out) in capsys.readouterr().err
    assert elsewhere.read_text() == "not to be lost"


def test_plaintext_goes_to_no_file_of_another_user(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp another may have made it first; root could open it all the same."""
    files.put(talk(record(Host(), Host())))
    out = files.directory / "plain.pcapng"
    out.touch(0o644)
    own = out.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert files.run("--write", str(out)) == 1
    assert "not a regular file of this user" in capsys.readouterr().err
    assert out.stat().st_size == 0


def test_what_was_in_the_file_is_gone(files: Files) -> None:
    files.put(talk(record(Host(), Host())))
    out = files.directory / "plain.pcapng"
    out.write_bytes(b"x" * 1_000_000)
    assert files.run("--write", str(out)) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert len(list(read_capture(out))) > 3
    assert out.stat().st_size < 100_000


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_disk_that_is_full_is_said(
    files: Files, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, or when the file is closed: what is written is kept back a little."""
    recorded = record(Host(), Host())
    recorded.say(False, bytes(size))
    recorded.close()
    files.put(recorded)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    out = files.directory / "plain.pcapng"
    try:
        assert files.run("--json", "--write", str(out)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{out}: File too large; what is in it is not all" in capsys.readouterr().err


def test_times_that_the_format_cannot_say(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from tcpcrypt.cli import decode as command

    recorded = talk(record(Host(), Host()))
    files.put(recorded)
    late = [
        Packet(number, 2.0**64, memoryview(packet))
        for number, packet in enumerate(recorded.packets, 1)
    ]
    monkeypatch.setattr(command, "read_capture", lambda _path: iter(late))
    out = files.directory / "plain.pcapng"
    assert files.run("--write", str(out)) == 0
    assert len(list(read_capture(out))) > 3


@pytest.mark.parametrize(
    "arguments",
    [[], ["--keylog", "a", "--secrets", "b"], ["--keylog", "a", "--raw", "client"],
     ["--keylog", "a", "--stream", "-1"], ["--keylog", "a", "--stream", "x"],
     ["--keylog", "a", "--stream", "0", "--raw", "server", "--json"]],
)  # fmt: skip
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["decode", "x.pcap", *arguments])
    assert caught.value.code == 2
    assert "usage: tcpcrypt decode" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode", "--help"])
    assert "example: tcpcrypt decode" in capsys.readouterr().out


def test_who_reads_no_further_is_no_fault_of_the_program(files: Files) -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"line\n" * 100_000)
    recorded.close()
    files.put(recorded)
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", str(files.capture), "--keylog",
         str(files.keylog), "--stream", "0"],
        stdout=write_end, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_capture_from_a_pipe(files: Files) -> None:
    files.put(talk(record(Host(), Host())))
    with files.capture.open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", "-", "--keylog",
             str(files.keylog), "--json"],
            input=source.read(), capture_output=True, check=True,
        )  # fmt: skip
    (connection,) = json.loads(done.stdout)["connections"]
    assert connection["client_to_server"]["bytes"] == len(b"question")


def test_without_scapy_it_says_what_to_install(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put(talk(record(Host(), Host())))
    monkeypatch.setitem(sys.modules, "scapy", None)
    assert files.run() == 2
    assert "pip install 'tcpcrypt[decode]'" in capsys.readouterr().err


def test_a_stream_that_is_followed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Host(), Host()
    files.put(talk(record(one, other)), talk(record(one, other, tape=Tape(("192.0.2.1", 40001)))))
    assert files.run("--follow", "1") == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "1: 192.0.2.1:40001 -> 192.0.2.7:80  rfc8548 TEP 0x23 AEAD 0x0001 resumed"
    )
    assert (
        out.index("> question\n") < out.index("< answer answer") < out.index("every tag verified")
    )
    assert files.run("--follow", "2") == 2
    assert "there is no connection 2, but 2 in all" in capsys.readouterr().err


def test_one_port(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.put(talk(record(Host(), Host())))
    assert files.run("--port", "81", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"connections": []}
    assert files.run("--port", "40000", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["connections"]) == 1


def test_frames_with_their_plaintext(files: Files) -> None:
    """RFC 8548 section 4.2: as they lie on the wire, in order, FINp and all."""
    recorded = record(Host(), Host())
    recorded.say(True, b"question")
    recorded.one.send_data(b"!", urgent=0)
    recorded.carry()
    recorded.close()
    files.put(recorded)
    out = files.directory / "opened"
    assert files.run("--json", "--opened", str(out)) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    rows = [line.split() for line in out.read_text().splitlines()]
    assert {row[0] for row in rows} == {"TCPCRYPT_FRAME"}
    wire = b"".join(s.payload for s in recorded.tape.sent).hex()
    assert all(row[1] in wire for row in rows)
    found = [Plaintext.parse(bytes.fromhex(row[2])) for row in rows]
    assert [(p.data, p.fin, p.urgent) for p in found] == [
        (b"question", False, None),
        (b"!", False, 0),
        (b"", True, None),
        (b"", True, None),
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--follow", "0", "--json"], "--follow does not go with --json"),
        (["--follow", "0", "--stream", "0"], "not allowed with argument"),
        (["--packets", "1"], "--packets goes with --interface"),
        (["--port", "0"], "--port: from 1 to 65535"),
        (["--interface", "lo"], "not allowed with argument"),
        (["--opened", "{capture}"], "--opened: that is the capture itself"),
        (["--opened", "{keylog}"], "--opened: that is the file of the secrets"),
        (["--opened", "x", "--write", "./x"], "--opened: that is the file of --write"),
    ],
)
def test_usage_of_what_does_not_go_together(
    files: Files, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    files.put(talk(record(Host(), Host())))
    with pytest.raises(SystemExit) as caught:
        files.run(*(a.format(capture=files.capture, keylog=files.keylog) for a in arguments))
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--stream", "0", "--raw", "client"]])
def test_an_output_that_is_full_is_said(files: Files, arguments: list[str]) -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"line\n" * 10_000)
    recorded.close()
    files.put(recorded)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "decode", str(files.capture),
             "--keylog", str(files.keylog), *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "tcpcrypt: the output cannot be written: No space left on device\n"


def test_a_disk_that_is_full_of_frames_is_said(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = record(Host(), Host())
    recorded.say(False, bytes(200_000))
    recorded.close()
    files.put(recorded)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    out = files.directory / "opened"
    try:
        assert files.run("--json", "--opened", str(out)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{out}: File too large; what is in it is not all" in capsys.readouterr().err
