"""X25519MLKEM768: TLS's order, FIPS 203's checks, and where there is no ML-KEM."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from tcpcrypt.crypto import hybrid
from tcpcrypt.crypto.groups import group
from tcpcrypt.crypto.hybrid import (
    CIPHERTEXT_LEN,
    ENCAPSULATION_KEY_LEN,
    HybridInitiator,
    HybridResponder,
)
from tcpcrypt.errors import LocalError, PeerError, PeerReason

X25519 = group(0x23)
FILE = Path(__file__).parents[2] / "vectors" / "wycheproof" / "mlkem768.json"
TESTS = json.loads(FILE.read_text())["tests"]


def named(tests: list[dict[str, str]]) -> list[object]:
    return [pytest.param(t, id=f"{t['file'][10:16]}-{t['tcId']}") for t in tests]


DECAPSULATED = [t for t in TESTS if "seed" in t and "K" in t]
BAD_CIPHERTEXTS = [t for t in TESTS if "seed" in t and "K" not in t]
BAD_KEYS = [t for t in TESTS if "seed" not in t]


def test_there_are_vectors_of_each_kind() -> None:
    assert (len(DECAPSULATED), len(BAD_CIPHERTEXTS), len(BAD_KEYS)) == (16, 6, 23)


def test_both_sides_agree_in_the_order_of_tls() -> None:
    """draft-ietf-tls-ecdhe-mlkem: ML-KEM first, in the keys and in the secret."""
    seed, raw_a, raw_b = bytes(range(64)), b"\x11" * 32, b"\x22" * 32
    a = HybridInitiator.from_private(seed, raw_a)
    b = HybridResponder(X25519.from_private(raw_b))
    assert len(a.public) == 1184 + 32
    assert a.public[1184:] == a.x25519.public == X25519.from_private(raw_a).public
    es = b.agree(a.public)
    assert len(b.public) == 1088 + 32
    assert b.public[1088:] == b.x25519.public
    assert a.agree(b.public) == es
    assert len(es) == 64
    dh = X25519.from_private(raw_a).agree(b.x25519.public)
    assert es.view()[32:] == dh.view()


@pytest.mark.parametrize("test", named(DECAPSULATED))
def test_wycheproof_decapsulation(test: dict[str, str]) -> None:
    """Also of ciphertexts that nobody made for the key (FIPS 203 section 6.3)."""
    a = HybridInitiator.from_private(bytes.fromhex(test["seed"]), b"\x11" * 32)
    assert a.public[:ENCAPSULATION_KEY_LEN].hex() == test["ek"]
    b = X25519.from_private(b"\x22" * 32)
    es = a.agree(bytes.fromhex(test["c"]) + b.public)
    assert bytes(es.view()[:32]).hex() == test["K"]


@pytest.mark.parametrize("test", named(BAD_CIPHERTEXTS))
def test_wycheproof_ciphertexts_of_another_length(test: dict[str, str]) -> None:
    a = HybridInitiator.from_private(bytes.fromhex(test["seed"]), b"\x11" * 32)
    with pytest.raises(PeerError) as caught:
        a.agree(bytes.fromhex(test["c"]) + X25519.generate().public)
    assert caught.value.reason is PeerReason.INIT_PUBLIC_KEY_LENGTH


@pytest.mark.parametrize("test", named(BAD_KEYS))
def test_wycheproof_encapsulation_keys_that_fail_the_checks(test: dict[str, str]) -> None:
    """FIPS 203 section 7.2: length, and every coefficient below the modulus."""
    key = bytes.fromhex(test["ek"])
    b = HybridResponder()
    with pytest.raises(PeerError) as caught:
        b.agree(key + X25519.generate().public)
    right = len(key) == ENCAPSULATION_KEY_LEN
    wanted = PeerReason.BAD_PUBLIC_KEY if right else PeerReason.INIT_PUBLIC_KEY_LENGTH
    assert caught.value.reason is wanted
    assert b.public == b""


@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_an_all_zero_x25519_half_aborts(side: str) -> None:
    a = HybridInitiator.generate()
    b = HybridResponder()
    if side == "initiator":
        b.agree(a.public)
        call = a.agree, b.public[:CIPHERTEXT_LEN] + bytes(32)
    else:
        call = b.agree, a.public[:ENCAPSULATION_KEY_LEN] + bytes(32)
    with pytest.raises(PeerError) as caught:
        call[0](call[1])
    assert caught.value.reason is PeerReason.ZERO_SHARED_SECRET


def test_known_keys_have_their_lengths() -> None:
    for seed, raw in ((63, 32), (64, 31)):
        with pytest.raises(LocalError):
            HybridInitiator.from_private(bytes(seed), b"\x11" * raw)


def test_wiped_keys_are_gone() -> None:
    a, b = HybridInitiator.generate(), HybridResponder()
    public = a.public
    for key in (a, b):
        key.wipe()
        key.wipe()
        with pytest.raises(RuntimeError, match="wiped"):
            key.agree(public if key is b else bytes(1120))


def test_without_ml_kem_the_hybrid_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hybrid.available()

    class Unsupported:
        class MLKEM768PrivateKey:
            @staticmethod
            def generate() -> None:
                raise UnsupportedAlgorithm("libcrypto has none")

    monkeypatch.setattr(hybrid, "_mlkem", Unsupported)
    assert not hybrid.available()
    monkeypatch.setattr(hybrid, "_mlkem", None)
    assert not hybrid.available()
    with pytest.raises(LocalError):
        HybridInitiator.generate()


def test_an_older_cryptography_has_no_such_module(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "cryptography.hazmat.primitives.asymmetric.mlkem"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("cryptography.hazmat.primitives.asymmetric.mlkem")
    spec = importlib.util.spec_from_file_location("hybrid_without", hybrid.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.available() is False
