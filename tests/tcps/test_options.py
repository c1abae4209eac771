"""Options, read as leniently as the module reads them, and built as it builds them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tcps import model
from tcps.tcp import LINUX_SYN, packet

from tcpcrypt.tcps.options import (
    find_identity,
    find_key,
    find_tag,
    identity_region,
    syn_region,
    tagged_region,
    untagged_region,
)

KEY, TAG = bytes(range(32)), bytes(range(16))
TC = b"\xfd\x24TC" + KEY
TM = b"\xfd\x14TM" + TAG
MSS, SACK, SCALE = b"\x02\x04\x05\xb4", b"\x04\x02", b"\x03\x03\x07"


@pytest.mark.parametrize(
    ("region", "kept"),
    [
        (LINUX_SYN, b"\x02\x04\x05\xa0"),
        (SCALE + SACK + MSS, b"\x02\x04\x05\xa0"),
        (b"\x02\x04\x00\x14", b"\x02\x04\x00\x14"),
        (b"\x02\x04\x00\x15", b"\x02\x04\x00\x01"),
        (SCALE + b"\x01" + SACK, SACK),
        (b"\x01" + SCALE, SCALE),
        (b"\x02\x03\x05" + SCALE, SCALE),
        (b"", b""),
        (b"\x00" + MSS, b""),
    ],
)
def test_one_option_of_a_syn_stays(region: bytes, kept: bytes) -> None:
    made = syn_region(region, KEY)
    assert made == (kept + TC).ljust(len(made), b"\x01")
    assert len(made) % 4 == 0
    assert len(made) <= 40


def test_tags() -> None:
    assert tagged_region(b"\x01" * 20, TAG) == b"\x01" * 20 + TM
    assert tagged_region(b"\x01" * 24, TAG) is None
    assert find_tag(b"\x01" * 20 + TM) == TAG
    assert (
        untagged_region(b"\x01\x01" + SACK + TM + b"\x01" * 4) == b"\x01\x01" + SACK + b"\x01" * 4
    )
    assert untagged_region(b"\x01" * 4) == b"\x01" * 4


def test_identities() -> None:
    region = identity_region(KEY, b"abcd")
    assert len(region) == 40
    assert find_identity(region) == (KEY, b"abcd")
    assert find_identity(TC) is None


@pytest.mark.parametrize(
    "region",
    [b"", b"\x00" + TC, TC[:-1], b"\x05\x00" + TC, b"\x05\x01" + TC, b"\x08\x30" + TC, b"\xfd",
     b"\xfd\x25" + TC[2:] + b"\0", b"\xfe" + TC[1:], TC[:2] + b"TM" + TC[4:]],
)  # fmt: skip
def test_no_key_is_found(region: bytes) -> None:
    assert find_key(region) is None


@given(st.binary(max_size=40))
def test_any_region_is_read_as_the_module_reads_it(region: bytes) -> None:
    region += bytes(-len(region) % 4)
    other = model.Packet(packet(options=region))
    assert find_key(region) == other.find(b"TC", 36)
    assert find_tag(region) == other.find(b"TM", 20)


@given(
    st.lists(st.sampled_from([MSS, SACK, SCALE, b"\x01", TM, b"\xfd\x04TC", b"\x05"]), max_size=4)
)
def test_any_options_are_read_as_the_module_reads_them(options: list[bytes]) -> None:
    region = b"".join(options)[:40]
    region += bytes(-len(region) % 4)
    assert find_tag(region) == model.Packet(packet(options=region)).find(b"TM", 20)
