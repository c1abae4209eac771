"""Whatever is in a capture: a report, never an error, and no byte that is not authentic."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import Recorded, record
from support.decoding import decode, store
from support.hosts import Host

from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.errors import LocalError
from tcpcrypt.tools.decode.capture import Packet
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.link import ip_packet
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.wire.profile import PROFILES, RFC8548

TRUTH = {
    True: struct.pack("!2000H", *range(2000)),
    False: struct.pack("!3000H", *range(3000, 6000)),
}


def recorded(profile_name: str) -> Recorded:
    profile = PROFILES[profile_name]
    config = Config(profile=profile, teps=profile.teps or (0x23,), aeads=(1,))
    made = record(Host(config), Host(config))
    for from_client, data in TRUTH.items():
        made.say(from_client, data[:1000])
        if profile.rekeying:
            (made.one if from_client else made.other).rekey()
        made.say(from_client, data[1000:])
    made.close()
    return made


MADE = {name: recorded(name) for name in PROFILES}


class Pieces:
    """A sink that keeps what it is given piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bool, bytes]] = []

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        self.pieces.append((report.number, from_client, data))

    def end(self, report: ConnectionReport, time: float) -> None: ...


MEDDLING = st.lists(
    st.tuples(
        st.sampled_from(["drop", "copy", "flip", "cut", "move"]),
        st.integers(0, 40),
        st.integers(0, 1 << 16),
        st.integers(1, 255),
    ),
    max_size=12,
)


def meddle(packets: list[bytes], changes: list[tuple[str, int, int, int]]) -> list[bytes]:
    out = list(packets)
    for what, which, where, value in changes:
        if not out:
            break
        at = which % len(out)
        if what == "drop":
            del out[at]
        elif what == "copy":
            out.insert(where % (len(out) + 1), out[at])
        elif what == "move":
            out.insert(where % len(out), out.pop(at))
        elif what == "cut":
            out[at] = out[at][: max(1, where % len(out[at]))]
        else:
            changed = bytearray(out[at])
            changed[where % len(changed)] ^= value
            out[at] = bytes(changed)
    return out


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=60, deadline=None)
@given(changes=MEDDLING, cut=st.booleans())
def test_what_is_given_out_is_authentic(name: str, changes, cut: bool) -> None:
    made = MADE[name]
    sink = Pieces()
    decoder = Decoder(store(*made.lines), sink)
    for number, packet in enumerate(meddle(made.packets, changes), 1):
        decoder.packet(Packet(number, float(number), memoryview(packet), cut))
    reports = decoder.finish()
    for number, from_client, data in sink.pieces:
        if reports[number].profile == name:
            assert data in TRUTH[from_client]
    for report in reports:
        for from_client, direction in (
            (True, report.client_to_server),
            (False, report.server_to_client),
        ):
            assert direction.ended in {"finp", "fin", "rst", "open"}
            if report.profile != name or not direction.authenticated:
                continue
            # Verified from the first byte on: nothing is missing in between.
            whole = b"".join(d for n, c, d in sink.pieces if (n, c) == (report.number, from_client))
            assert TRUTH[from_client].startswith(whole)
            if direction.ended == "finp":
                assert whole == TRUTH[from_client]


@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_bytes_as_packets(packets: list[bytes]) -> None:
    reports, _sink = decode([p for p in packets if p], store())
    assert all(report.as_json()["errors"] is not None for report in reports)


@given(st.sampled_from([0, 1, 12, 101, 108, 113, 276]), st.binary(max_size=60))
def test_any_bytes_as_frames(link_type: int, frame: bytes) -> None:
    packet = ip_packet(link_type, memoryview(frame))
    assert packet is None or bytes(packet) in frame


@given(st.text(max_size=200))
def test_any_text_as_a_line(text: str) -> None:
    try:
        line = KeyLine.parse(text)
    except LocalError:
        return
    assert KeyLine.parse(line.build()) == line


def test_the_profiles_that_are_tried() -> None:
    assert set(MADE) == set(PROFILES)
    assert RFC8548.name in MADE
