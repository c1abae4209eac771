"""The scapy layers: their own tests, and that they read and make what the core does."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw
from support.captures import Recorded, record
from support.hosts import Host

from tcpcrypt.contrib.scapy import (
    ENO,
    EnoGlobal,
    EnoLast,
    EnoSized,
    EnoTep,
    Frame,
    FramePlaintext,
    Init1,
    Init2,
    eno_of,
    split,
    traffic_keys,
)
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.errors import PeerError
from tcpcrypt.registry import AeadId
from tcpcrypt.wire import messages
from tcpcrypt.wire.eno import Suboption, SynOption
from tcpcrypt.wire.profile import STANFORD

TESTS = Path(__file__).with_name("layers.uts")


def test_what_scapys_own_runner_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scapy.tools.UTscapy", "-t", str(TESTS), "-f", "text", "-q"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "FAILED=0" in said
    cases = sum(line.startswith("= ") for line in TESTS.read_text().splitlines())
    assert f"PASSED={cases} " in said, said


@given(st.binary(max_size=38))
def test_any_contents_of_an_option_come_back(contents: bytes) -> None:
    """RFC 8547 section 4.1: and are taken apart as the parser of the core does."""
    layer = ENO(contents)
    assert bytes(layer) == contents
    try:
        option = SynOption.parse(contents)
    except PeerError:
        assert isinstance(layer.suboptions[-1], Raw)
        return
    teps = [s for s in layer.suboptions if not isinstance(s, EnoGlobal)]
    found = [Suboption(s.tep & 0x7F, None if isinstance(s, EnoTep) else s.data) for s in teps]
    assert tuple(found) == option.suboptions
    globals_ = [s for s in layer.suboptions if isinstance(s, EnoGlobal)]
    if globals_:
        assert (bool(globals_[0].b), bool(globals_[0].a)) == (option.b, option.application_aware)


@given(st.binary(max_size=300), st.booleans())
def test_any_stream_comes_back(octets: bytes, init: bool) -> None:
    stream = bytes(Init2(public=octets[:40])) + octets if init else octets
    assert b"".join(bytes(part) for part in split(stream)) == stream


def streams(recorded: Recorded) -> dict[bool, bytes]:
    return {
        side: b"".join(s.payload for s in recorded.tape.sent if s.from_client is side)
        for side in (True, False)
    }


@pytest.mark.parametrize("cipher", list(AeadId))
@pytest.mark.parametrize("profile", ["rfc8548", "stanford"])
def test_frames_of_our_own_hosts_are_opened(cipher: AeadId, profile: str) -> None:
    """RFC 8548 sections 3.3, 3.5 and 4.2.3, by the line of a key log, fresh and resumed."""
    config = Config(aeads=(cipher,))
    if profile == "stanford":
        if cipher is AeadId.CHACHA20_POLY1305:
            return  # that dialect does not have it
        config = Config(profile=STANFORD, teps=(0x21,), aeads=(cipher,))
    one, other = Host(config), Host(config)
    for resumed in (False, True):
        recorded = record(one, other)
        recorded.say(True, b"question")
        recorded.say(False, b"answer " * 5000)
        line = KeyLine.parse(recorded.lines[0])
        assert line.resumed is resumed
        syn = eno_of(IP(recorded.packets[1]))
        assert syn is not None
        tep_byte = syn.suboptions[-1].tep
        ss = bytes(line.ss.view())
        keys = traffic_keys(ss, tep_byte, line.aead, sn=line.sn, profile=config.profile)
        for from_client, key in zip((True, False), keys, strict=True):
            parts = split(streams(recorded)[from_client])
            offset = 0
            if not resumed:
                assert isinstance(parts[0], Init1 if from_client else Init2)
                init = parts.pop(0)
                offset = len(bytes(init)) if config.profile.offset_counts_init else 0
            said = b""
            for frame in parts:
                said += key.open(frame, offset).data
                offset += len(bytes(frame))
            assert said == bytes(recorded.heard[from_client])


def test_the_example_of_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = record(Host(), Host())
    recorded.say(True, b"question")
    (tmp_path / "keys.log").write_text("".join(f"{line}\n" for line in recorded.lines))
    (tmp_path / "client-to-server").write_bytes(streams(recorded)[True])
    document = (Path(__file__).parents[2] / "docs" / "decode.md").read_text()
    example = document.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        exec(compile(example, "decode.md", "exec"), {})
    assert capsys.readouterr().out == "b'question'\n"


def test_what_it_makes_a_session_takes() -> None:
    """RFC 8548 section 4.2.2: reserved flags are ignored; the core never sends any."""
    recorded = record(Host(), Host())
    line = KeyLine.parse(recorded.lines[0])
    key, _back = traffic_keys(bytes(line.ss.view()), 0x23, line.aead)
    offset = len(streams(recorded)[True])
    frame = key.seal(FramePlaintext(reserved=0x2A, data=b"made by scapy"), offset, reserved=0x55)
    recorded.other.receive_data(bytes(frame))
    got = recorded.other.next_event()
    assert isinstance(got, DataReceived)
    assert bytes(got.data) == b"made by scapy"


def test_what_it_makes_the_parsers_read() -> None:
    octets = bytes(Init1(sym_ciphers=[1, 2], nonce=b"n" * 32, public=b"p" * 32 + b"tail"))
    init1 = messages.Init1.parse(octets, 32)
    assert (init1.ciphers, init1.public_key, init1.tail) == ((1, 2), b"p" * 32, b"tail")
    assert init1.build() == octets
    layer = ENO(suboptions=[EnoGlobal(a=1), EnoSized(tep=0xA1, data=b"abc"), EnoLast(tep=0xA3)])
    option = SynOption.parse(bytes(layer))
    assert option.suboptions == (Suboption(0x21, b"abc"), Suboption(0x23, b""))
    assert option.application_aware
    packet = IP(bytes(IP() / TCP(options=[layer.option()])))
    assert bytes(eno_of(packet)) == bytes(layer)
    assert Frame(bytes(Frame(ciphertext=b"c" * 17))).clen == 17
