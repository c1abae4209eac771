"""What an exchange proved, as the opaque bytes that the core keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.errors import LocalError


@given(
    key=st.none() | st.binary(min_size=32, max_size=32),
    psk=st.text(alphabet="abc.-_é", max_size=32),
    version=st.sampled_from([1, 2]),
)
def test_a_proof_survives_packing(key: bytes | None, psk: str, version: int) -> None:
    proof = PeerProof(key, psk, version)
    packed = proof.pack()
    assert PeerProof.unpack(packed) == PeerProof.unpack(memoryview(packed)) == proof
    assert len(packed) <= 98, "with what the cache adds it fits 128 bytes"


@pytest.mark.parametrize("proof", [PeerProof(bytes(31), "", 1), PeerProof(None, "é" * 33, 1)])
def test_what_could_not_be_unpacked_is_not_packed(proof: PeerProof) -> None:
    with pytest.raises(LocalError):
        proof.pack()


@pytest.mark.parametrize("packed", ["", "01", "0102", "0101" + "00" * 31, "0100ff"])
def test_what_was_not_packed_is_refused(packed: str) -> None:
    with pytest.raises(LocalError):
        PeerProof.unpack(bytes.fromhex(packed))
