"""Decoding tapes, and comparing what comes of it with what both sides heard."""

import hashlib

from support.captures import Recorded
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.tools.decode.capture import Packet
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.keys import FromLine, KeyStore
from tcpcrypt.tools.decode.report import ConnectionReport


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.said: dict[tuple[int, bool], bytes] = {}
        self.ended: list[int] = []

    def data(self, report: ConnectionReport, from_client: bool, data: bytes, time: float) -> None:
        assert report.number not in self.ended
        key = report.number, from_client
        self.said[key] = self.said.get(key, b"") + data

    def end(self, report: ConnectionReport, time: float) -> None:
        self.ended.append(report.number)


def store(*lines: str) -> KeyStore:
    keys = KeyStore()
    for number, text in enumerate(lines):
        line = KeyLine.parse(text)
        add = keys.add_resumed if line.resumed else keys.add_fresh
        add(line.match, FromLine(f"line {number}", line))
    return keys


def decode(packets: list[bytes], keys: KeyStore) -> tuple[list[ConnectionReport], Kept]:
    sink = Kept()
    decoder = Decoder(keys, sink)
    for number, packet in enumerate(packets, 1):
        decoder.packet(Packet(number, float(number), memoryview(packet)))
    reports = decoder.finish()
    assert sorted(sink.ended) == list(range(len(reports)))
    return reports, sink


def check(
    recorded: Recorded, packets: list[bytes] | None = None, *, ended: str = ""
) -> ConnectionReport:
    """What is decoded is what both sides heard, and every tag verified."""
    profile = recorded.one.config.profile
    ended = ended or ("finp" if profile.authenticated_end else "fin")
    taken = recorded.packets if packets is None else packets
    (report,), sink = decode(taken, store(*recorded.lines))
    assert report.errors == []
    assert report.profile == profile.name
    assert report.session_id == KeyLine.parse(recorded.lines[0]).session_id
    for from_client, direction in (
        (True, report.client_to_server),
        (False, report.server_to_client),
    ):
        heard = bytes(recorded.heard[from_client])
        assert sink.said.get((0, from_client), b"") == heard
        assert direction.bytes == len(heard)
        assert direction.as_json()["sha256"] == hashlib.sha256(heard).hexdigest()
        assert direction.authenticated is True
        assert direction.ended == ended
    return report


def talk(recorded: Recorded) -> Recorded:
    recorded.say(True, b"question")
    recorded.say(False, b"answer " * 1000)
    recorded.close()
    return recorded
