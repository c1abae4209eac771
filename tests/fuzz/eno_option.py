"""RFC 8547 section 4.4: the contents of a SYN-form option, of any host on the network."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.harness import alike

from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.wire.eno import SynOption
from tcpcrypt.wire.profile import PROFILES, RFC8548

MAX_LEN = 48


def seeds() -> Iterator[bytes]:
    yield bytes.fromhex("21222324a3") + bytes(range(17))
    yield bytes.fromhex("01 21 82 a1 02 03 22")
    yield bytes.fromhex("00 9f") + bytes(40)
    yield b"\x80\x20"


def check(data: bytes) -> None:
    alike(lambda twin: twin.parse_eno(data))
    for profile in PROFILES.values():
        try:
            option = SynOption.parse(data, profile)
        except PeerError:
            continue
        for suboption in option.suboptions:
            assert 0x20 <= suboption.tep < 0x80
            assert suboption.data is None or suboption.data in data
        try:
            built = option.build(profile)
        except LocalError:
            continue  # reserved bits, which are read and not written
        head = 2 + len(profile.option_exid)
        assert built[1] == len(built) <= 40
        assert profile is not RFC8548 or SynOption.parse(built[head:], profile) == option
