"""What the BPF program judges at once is what the core judges, for any bytes.

The same C, compiled for this machine instead of for the kernel.
"""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiation, Opener
from tcpcrypt.core.tep import tep_spec
from tcpcrypt.errors import PeerError
from tcpcrypt.wire.eno import SynOption, find_eno

ROOT = Path(__file__).parents[2]
TEPS = (0x23, 0x24, 0x21, 0x22)
SOURCE = """
#include <string.h>
typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long long __u64;
#include "eno_choice.h"

static void put(struct eno_said *said, const __u8 *options, __u32 size)
{
	memset(said, 0, sizeof(*said));
	memcpy(said->options, options, size);
	said->size = size;
}

int acceptable(const __u8 *options, __u32 size, __u32 offered, const __u8 *ticket)
{
	struct eno_said said;
	put(&said, options, size);
	return eno_acceptable(&said, offered, ticket);
}

/* -1: not usable; else the global suboption. */
int read_options(const __u8 *options, __u32 size, __u8 *has, __u8 *resumption)
{
	struct eno_said said;
	put(&said, options, size);
	if (!eno_read(&said))
		return -1;
	for (__u32 i = 0; i < ENO_TEPS; i++) {
		has[i] = eno_has(&said, i);
		resumption[i] = has[i] ? eno_resumption(&said, i) : 0;
	}
	return said.global;
}
"""


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("choice")
    (folder / "choice.c").write_text(SOURCE)
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    words = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-fsanitize=undefined"]
    words += ["-fno-sanitize-recover=all", "-I", str(ROOT / "ext"), "choice.c", "-o", "choice.so"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "choice.so"))


SUBOPTIONS = st.one_of(
    st.sampled_from([b"\x00", b"\x01", b"\x03", b"\x1f", b"\x21", b"\x22", b"\x23", b"\x24"]),
    st.sampled_from([b"\x20", b"\x25", b"\x7f", b"\x80", b"\x88", b"\x90", b"\x9f"]),
    st.tuples(st.sampled_from([b"\xa1", b"\xa3", b"\xa4"]), st.binary(max_size=20)).map(b"".join),
    st.tuples(
        st.integers(0, 31), st.sampled_from([b"\xa1", b"\xa3", b"\xa4"]), st.binary(max_size=20)
    ).map(lambda parts: bytes((0x80 | parts[0],)) + parts[1] + parts[2]),
    st.binary(max_size=3),
)


def as_option(parts: list[bytes]) -> bytes:
    body = b"".join(parts)[:38]
    return bytes((69, 2 + len(body))) + body


ENO = st.lists(SUBOPTIONS, max_size=5).map(as_option)
OTHERS = st.sampled_from(
    [
        b"\x01",
        b"\x02\x04\x05\xb4",
        b"\x04\x02",
        b"\x03\x03\x07",
        b"\x08\x0a" + bytes(8),
        b"\x45\x02",
        b"\xfd\x04\x45\x4e",
        b"\xfd\x03\x45",
        b"\x00",
        b"\x07",
        b"\x07\x01",
    ]
)
REGIONS = st.one_of(
    st.lists(st.one_of(ENO, OTHERS), max_size=5).map(lambda parts: b"".join(parts)[:40]),
    st.binary(max_size=40),
)


def parsed(region: bytes) -> SynOption | None:
    """As `Negotiation` reads the options of a SYN."""
    try:
        found = find_eno(region)
        if len(found.options) != 1 or found.legacy:
            return None
        return SynOption.parse(memoryview(found.options[0])[2:])
    except PeerError:
        return None


@given(REGIONS)
@example(bytes.fromhex("45 15 01 a3") + bytes(17))
@example(bytes.fromhex("45 05 90 a3 00"))
def test_options_say_the_same(choice: ctypes.CDLL, region: bytes) -> None:
    has, resumption = ctypes.create_string_buffer(4), ctypes.create_string_buffer(4)
    told = choice.read_options(region, len(region), has, resumption)
    option = parsed(region)
    assert (told < 0) == (option is None)
    if option is None:
        return
    assert told == option.global_bits
    for index in range(4):
        tep = 0x21 + index
        own = [s for s in option.suboptions if s.tep == tep]
        assert has.raw[index] == (len(own) == 1)
        if len(own) == 1:
            offer = tep_spec(Config(teps=(tep,)), tep).read_offer(own[0].data)
            assert offer is not None
            assert bool(resumption.raw[index]) == bool(offer.identifier)
            start = resumption.raw[index]
            if start:
                assert region[start : start + 9] == offer.identifier


@given(REGIONS)
def test_an_answer_is_made_to_the_tep_that_the_core_would_choose(
    choice: ctypes.CDLL, region: bytes
) -> None:
    has, resumption = ctypes.create_string_buffer(4), ctypes.create_string_buffer(4)
    told = choice.read_options(region, len(region), has, resumption)
    best = next((tep for tep in TEPS if has.raw[tep - 0x21]), None)
    passive = Negotiation(Config(teps=TEPS), Opener.PASSIVE)
    passive.segment_received(True, False, region)
    if told < 0 or told & 1 or best is None:
        assert isinstance(passive.outcome, Fallback)
        return
    assert passive.outcome is None
    assert passive.option_to_send(True, True, 40) == bytes((69, 4, 1, best))


@given(REGIONS, st.sets(st.sampled_from(TEPS), min_size=1))
def test_a_syn_ack_is_acknowledged_if_the_core_would_enable_encryption(
    choice: ctypes.CDLL, region: bytes, offered: set[int]
) -> None:
    config = Config(teps=tuple(sorted(offered)))
    active = Negotiation(config, Opener.ACTIVE)
    active.option_to_send(True, False, 40)
    active.segment_received(True, True, region)
    mask = sum(1 << (tep - 0x21) for tep in offered)
    told = choice.acceptable(region, len(region), mask, bytes(10))
    assert bool(told) == (active.outcome is None)


@given(
    st.sampled_from(TEPS[:3]),
    st.binary(min_size=9, max_size=9),
    st.binary(max_size=9),
    st.tuples(st.booleans(), st.booleans()),
)
def test_a_resumption_is_acknowledged_if_it_is_the_one_that_was_offered(
    choice: ctypes.CDLL, tep: int, identifier: bytes, nonce: bytes, kind: tuple[bool, bool]
) -> None:
    same, fresh_too = kind
    theirs = identifier if same else bytes((identifier[0] ^ 1,)) + identifier[1:]
    body = b"\x01" + (b"\x22" if fresh_too else b"") + bytes((tep | 0x80,)) + theirs + nonce
    region = bytes((69, 2 + len(body))) + body
    ticket = bytes((tep,)) + identifier
    mask = (1 << (tep - 0x21)) | 2
    told = choice.acceptable(region, len(region), mask, ticket)
    good = (same and len(nonce) <= 8) or fresh_too
    assert bool(told) == good
