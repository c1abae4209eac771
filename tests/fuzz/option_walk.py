"""RFC 9293 section 3.1: the options of a TCP header, of any host on the network."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.harness import alike, outcome

from tcpcrypt.wire.eno import EnoFound, find_eno
from tcpcrypt.wire.profile import PROFILES

MAX_LEN = 64


def seeds() -> Iterator[bytes]:
    yield bytes.fromhex("020405b40402080a000000010000000001030307")
    yield bytes.fromhex("020405b4450621222324010100")
    yield bytes.fromhex("fd06454e2122 4502 4502 0100")
    yield b"\x45\x01"


def check(data: bytes) -> None:
    walked = alike(lambda twin: twin.walk_options(data))
    alike(lambda twin: twin.checksum(data))
    refused = len(walked) == 2 and isinstance(walked[0], type)
    end = 0
    for _kind, start, behind in () if refused else walked:
        assert end <= start < behind <= len(data), "options overlap or lie outside"
        end = behind
    for profile in PROFILES.values():
        found = outcome(lambda profile=profile: find_eno(data, profile))  # type: ignore[misc]
        assert isinstance(found, EnoFound) is not refused
        assert refused or all(option in data for option in found.options)
