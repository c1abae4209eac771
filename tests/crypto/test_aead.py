"""RFC 8548 sections 5 and 7: the AEAD registry."""

import dataclasses
from types import ModuleType

import pytest

from tcpcrypt import _fast
from tcpcrypt.crypto import aead as module
from tcpcrypt.crypto.aead import AEADS, AeadParameters, aead, register
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import AeadId
from tcpcrypt.wire.profile import RFC8548, NonceForm

# key, nonce, associated data, plaintext, ciphertext and tag
KNOWN = {
    # The Galois/Counter Mode of Operation (McGrew and Viega), test cases 4 and 16
    AeadId.AES_128_GCM: (
        "feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        "5bc94fbc3221a5db94fae95ae7121a47",
    ),
    AeadId.AES_256_GCM: (
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
    # RFC 8439 section 2.8.2
    AeadId.CHACHA20_POLY1305: (
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        "4c616469657320616e642047656e746c656d656e206f662074686520636c6173"
        "73206f66202739393a204966204920636f756c64206f6666657220796f75206f"
        "6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73"
        "637265656e20776f756c642062652069742e",
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691",
    ),
}


@pytest.mark.parametrize("identifier", KNOWN, ids=lambda i: i.name)
def test_known_answers(identifier: AeadId) -> None:
    key, nonce, header, plaintext, sealed = (bytes.fromhex(text) for text in KNOWN[identifier])
    cipher = aead(identifier).construct(key)
    assert cipher.encrypt(nonce, plaintext, header) == sealed
    assert cipher.decrypt(nonce, sealed, header) == plaintext


@pytest.mark.parametrize(
    ("identifier", "key_len"),
    [(0x0001, 16), (0x0002, 32), (0x0010, 32)],
)
def test_sizes_of_section_5(identifier: int, key_len: int) -> None:
    parameters = aead(identifier)
    assert parameters.id == identifier
    assert parameters is AEADS[identifier]
    assert (parameters.key_len, parameters.nonce_len, parameters.tag_len) == (key_len, 12, 16)
    assert parameters.traffic_key_len == key_len + 12


def test_registry_holds_the_three_of_section_7() -> None:
    assert set(AEADS) == set(AeadId)


def test_limits_keep_below_two_to_the_64_bytes() -> None:
    """RFC 8548 section 3.6: not more than 2**64 bytes of stream without rekeying."""
    for parameters in AEADS.values():
        assert 0 < parameters.max_bytes < 2**64
        assert 0 < parameters.max_frames < 2**64


@pytest.mark.parametrize("identifier", [AeadId.AES_128_GCM, AeadId.AES_256_GCM])
def test_gcm_limits_are_those_of_the_docstring(identifier: AeadId) -> None:
    parameters = aead(identifier)
    blocks = parameters.max_bytes // 16 + 2 * parameters.max_frames
    assert parameters.max_frames <= 2**32
    assert blocks**2 / 2**129 < 2**-59


@pytest.mark.parametrize("identifier", [0, 3, 0x0011, 0x10000])
def test_unknown_algorithm_is_the_callers_fault(identifier: int) -> None:
    with pytest.raises(LocalError):
        aead(identifier)


def test_new_entries_register_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = dict(module._registered)
    monkeypatch.setattr(module, "_registered", copy)
    entry = dataclasses.replace(aead(AeadId.AES_128_GCM), id=0x7777, name="OTHER")
    register(entry)
    assert aead(0x7777) is entry


@pytest.mark.parametrize("identifier", [0, -1, 0x10000, 0x0001])
def test_identifiers_out_of_range_or_in_use_are_refused(identifier: int) -> None:
    with pytest.raises(LocalError):
        register(dataclasses.replace(aead(AeadId.AES_128_GCM), id=identifier))


@pytest.fixture
def on_twin(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FrameSealer", "FrameOpener"):
        monkeypatch.setattr(_fast, name, getattr(twin, name))


def round_trip(parameters: AeadParameters, key: Secret, **profile: object) -> bytes:
    wire, plain = bytearray(100), bytearray(100)
    sealer = parameters.sealer(key, **profile)  # type: ignore[arg-type]
    consumed, written, frames = sealer.seal(b"hello", wire, 79, 5)
    assert (consumed, frames) == (5, 1)
    opened = parameters.opener(key, **profile).open(wire[:written], plain, 79)  # type: ignore[arg-type]
    assert opened[:3] == (written, 5, 1)
    assert plain[:5] == b"hello"
    return bytes(wire[:written])


@pytest.mark.usefixtures("on_twin")
@pytest.mark.parametrize("identifier", AEADS)
def test_sealer_and_opener_use_the_nonce_of_section_4_2_3(identifier: int) -> None:
    parameters = aead(identifier)
    octets = bytes(range(parameters.traffic_key_len))
    wire = round_trip(parameters, Secret(octets))
    nonce = bytearray(octets[parameters.key_len :])
    nonce[-1] ^= 79
    header = b"\x00\x00\x16"
    cipher = parameters.construct(octets[: parameters.key_len])
    assert wire == header + cipher.encrypt(bytes(nonce), b"\x00hello", header)


@pytest.mark.usefixtures("on_twin")
def test_profile_without_randomizer_uses_the_key_alone() -> None:
    profile = dataclasses.replace(RFC8548, nonce_form=NonceForm.LITTLE_ENDIAN_8)
    parameters = aead(AeadId.AES_128_GCM)
    octets = bytes(range(28))
    wire = round_trip(parameters, Secret(octets), profile=profile)
    nonce = (79).to_bytes(8, "little")
    header = b"\x00\x00\x16"
    cipher = parameters.construct(octets[:16])
    assert wire == header + cipher.encrypt(nonce, b"\x00hello", header)


@pytest.mark.parametrize("make", [AeadParameters.sealer, AeadParameters.opener])
def test_traffic_key_of_another_length_is_refused(make: object) -> None:
    with pytest.raises(LocalError):
        make(aead(AeadId.AES_256_GCM), Secret(bytes(28)))  # type: ignore[operator]


@pytest.mark.parametrize("make", [AeadParameters.sealer, AeadParameters.opener])
def test_wiped_traffic_key_is_refused(make: object) -> None:
    key = Secret(bytes(28))
    key.wipe()
    with pytest.raises(RuntimeError):
        make(aead(AeadId.AES_128_GCM), key)  # type: ignore[operator]
