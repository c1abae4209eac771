"""Keys, stream, tag, identity tag and options against values of the module itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tcps import model

from tcpcrypt.crypto.secret import Secret
from tcpcrypt.tcps.keystream import KeyStream
from tcpcrypt.tcps.options import find_key, syn_region
from tcpcrypt.tcps.schedule import X25519, derive, identity_tag
from tcpcrypt.tcps.tag import tag

SEED = Path(__file__).parents[2] / "vectors/peers/tcps-seed/tcps-seed.json"
VECTORS = json.loads(SEED.read_text())["vectors"]


def of(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['pos']}-{len(v['plaintext']) // 2}")
def test_a_vector_of_the_module(vector: dict[str, Any]) -> None:
    client = X25519.from_private(of(vector["client_priv"]))
    server = X25519.from_private(of(vector["server_priv"]))
    assert client.public == of(vector["client_pub"])
    assert server.public == of(vector["server_pub"])
    shared = client.agree(server.public)
    assert bytes(shared.view()) == of(vector["shared"])
    numbers = vector["client_isn"], vector["server_isn"]
    keys = derive(shared, *numbers)
    for name, direction in (("c2s", keys.c2s), ("s2c", keys.s2c)):
        assert direction.data.key() == of(vector["keys"]["enc_" + name])
        assert direction.tags.key() == of(vector["keys"]["mac_" + name])
        place, plaintext = (vector["pos"], vector["flags"]), of(vector["plaintext"])
        sealed = direction.seal(*place, plaintext)
        assert sealed == (of(vector[name]["ciphertext"]), of(vector[name]["tag"]))
        assert direction.open(*place, *sealed) == plaintext
        assert direction.open(place[0], place[1] ^ 8, *sealed) is None
    statics = [
        X25519.from_private(of(vector[f"{who}_static_priv"])) for who in ("client", "server")
    ]
    for own, other, is_client, name in (
        (statics[0], statics[1], True, "auth_tag_from_client"),
        (statics[1], statics[0], False, "auth_tag_from_server"),
    ):
        made = identity_tag(own, other.public, *numbers, is_client=is_client)
        assert made == of(vector[name])
    region = syn_region(of(vector["syn_options_in"]), client.public)
    assert region == of(vector["syn_options_out"])
    assert find_key(region) == client.public


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 24


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**62), st.integers(0, 255),
       st.binary(max_size=200))  # fmt: skip
def test_the_tag_is_that_of_limbs(key: bytes, position: int, flags: int, data: bytes) -> None:
    assert tag(key, position, flags, data) == model.tag(key, position, flags, data)


def test_the_tag_is_not_poly1305() -> None:
    """So no library has it: https://www.rfc-editor.org/rfc/rfc8439#section-2.5."""
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    first = bytes(8) + b"\x18\x01" + bytes(6)
    for number in range(1, 200):
        key = bytes((number * i) % 256 for i in range(32))
        sound = Poly1305.generate_tag(key, first + (8).to_bytes(8, "little") + bytes(8))
        assert tag(key, 0, 0x18, b"") != sound


@pytest.mark.parametrize("start", [2**38 - 130, 2**38 - 64, 2**38 - 1, 2**38, 2**70 - 100])
def test_the_stream_goes_on_where_a_counter_of_32_bits_ends(start: int) -> None:
    stream = KeyStream(Secret(bytes(range(32))))
    start %= 2**64
    whole = stream.slice(start, 150)
    assert whole == b"".join(stream.slice(start + i, 1) for i in range(150))
    assert len({whole[i : i + 8] for i in range(140)}) == 140


def test_wiped_keys_are_of_no_use() -> None:
    keys = derive(Secret(bytes(32)), 1, 2)
    keys.wipe()
    for direction in (keys.c2s, keys.s2c):
        with pytest.raises(RuntimeError):
            direction.seal(0, 0, b"x")
        with pytest.raises(RuntimeError):
            direction.tag(0, 0, b"x")
