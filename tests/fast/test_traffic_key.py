"""RFC 8548 section 4.2.3: traffic keys of sealers and openers, and how they end."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from types import ModuleType

import pytest
from support.frames import frame, traffic_key

from tcpcrypt.crypto.aead import AEADS, AeadParameters

AES = AEADS[1]
CHACHA = AEADS[16]
KEY = traffic_key(AES)
BOTH = pytest.mark.parametrize("name", ["FrameSealer", "FrameOpener"])


@BOTH
@pytest.mark.parametrize("length", [0, 15, 16, 27, 29, 44])
def test_a_traffic_key_is_aead_key_and_nonce_randomizer(
    twin: ModuleType, name: str, length: int
) -> None:
    with pytest.raises(ValueError, match="traffic key has the wrong length"):
        getattr(twin, name)(AES, bytes(length))


@BOTH
def test_nonce_form_1_has_no_randomizer(twin: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match="traffic key has the wrong length"):
        getattr(twin, name)(AES, KEY, 1)


@BOTH
@pytest.mark.parametrize("nonce_form", [-1, 2])
def test_other_nonce_forms_are_unknown(twin: ModuleType, name: str, nonce_form: int) -> None:
    with pytest.raises(ValueError, match="unknown nonce form"):
        getattr(twin, name)(AES, KEY, nonce_form)


@BOTH
def test_a_nonce_of_8_bytes_is_not_for_every_aead(twin: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match=r"[Nn]once must be"):
        getattr(twin, name)(CHACHA, bytes(32), 1)


@BOTH
@pytest.mark.parametrize(
    ("length", "value"),
    [
        ("key_len", 0),
        ("key_len", 65),
        ("nonce_len", 7),
        ("nonce_len", 17),
        ("tag_len", 0),
        ("tag_len", 17),
    ],
)
def test_lengths_that_frames_cannot_carry_are_refused(
    twin: ModuleType, name: str, length: str, value: int
) -> None:
    odd = dataclasses.replace(AES, **{length: value})
    with pytest.raises(ValueError, match="lengths that frames cannot carry"):
        getattr(twin, name)(odd, bytes(odd.key_len + odd.nonce_len))


@pytest.mark.parametrize("aead", [AEADS[1], AEADS[2]], ids=lambda aead: aead.evp_name)
def test_nonce_form_1_is_the_offset_alone_in_little_endian(
    twin: ModuleType, aead: AeadParameters
) -> None:
    key = traffic_key(aead)[: aead.key_len]
    for offset in (0, 1, 0x0102030405060708):
        wire = bytearray(24)
        twin.FrameSealer(aead, key, 1).seal(b"data", wire, offset, 9)
        assert wire == frame(aead, key, offset, b"data", nonce_form=1)
        out = bytearray(4)
        assert twin.FrameOpener(aead, key, 1).open(wire, out, offset)[:3] == (24, 4, 1)
        assert out == b"data"


@pytest.mark.parametrize("evp_name", ["AES-128-CBC", "AES-128-CCM", "AES-256-GCM", "NO-SUCH"])
def test_libcrypto_must_have_that_aead(twins: list[ModuleType], evp_name: str) -> None:
    """Only the C twin looks at `evp_name`; the Python twin calls `construct`."""
    for twin in twins:
        if twin.IMPLEMENTATION == "c":
            with pytest.raises(ValueError, match=evp_name):
                twin.FrameSealer(dataclasses.replace(AES, evp_name=evp_name), KEY)


@BOTH
def test_the_key_is_copied(twin: ModuleType, name: str) -> None:
    key = bytearray(KEY)
    made = getattr(twin, name)(AES, key)
    key[:] = bytes(len(key))
    wire = frame(AES, KEY, 0, b"data")
    if name == "FrameSealer":
        out = bytearray(24)
        made.seal(b"data", out, 0, 9)
        assert out == wire
    else:
        assert made.open(wire, bytearray(4), 0)[2] == 1
    key.clear()  # no export of it is left


def test_a_wiped_key_is_gone(twin: ModuleType) -> None:
    sealer, opener = twin.FrameSealer(AES, KEY), twin.FrameOpener(AES, KEY)
    for made in (sealer, opener):
        made.wipe()
        made.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        sealer.seal(b"", bytearray(50), 0, 1)
    with pytest.raises(RuntimeError, match="wiped"):
        opener.open(b"", bytearray(50), 0)


@BOTH
@pytest.mark.parametrize("second", ["call", "wipe"])
def test_a_second_call_at_the_same_time_is_refused(
    twin: ModuleType, name: str, second: str
) -> None:
    """One object is for one thread; a mistake must neither crash nor reuse a nonce."""
    size = 1 << 23
    data, wire = bytearray(size), bytearray(size + size // 1000)
    twin.FrameSealer(AES, KEY).seal(data, wire, 0, 65518)
    refused: list[str] = []

    def attempt(call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except RuntimeError as error:
            refused.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(200):
            made = getattr(twin, name)(AES, KEY)
            if name == "FrameSealer":
                method, long, short = made.seal, (data, wire, 0, 9999), (b"", bytearray(), 0, 1)
            else:
                method, long, short = made.open, (wire, data, 0), (b"", bytearray(), 0)
            thread = threading.Thread(target=attempt, args=(method, *long))
            thread.start()
            while thread.is_alive():
                if second == "wipe":
                    attempt(made.wipe)
                else:
                    attempt(method, *short)
            thread.join()
            if "object is in use by another call" in refused:
                break
    finally:
        sys.setswitchinterval(interval)
    # Where the wipe came first, the long call was the one refused.
    assert "object is in use by another call" in refused
    assert set(refused) <= {"object is in use by another call", "key was wiped"}
