"""RFC 8548 sections 3.6 and 5: Wycheproof's AEAD vectors through `tcpcrypt.crypto.aead`.

A frame fixes its associated data and its first plaintext byte, so that a vector
fits it in parts: its key stream (key and nonce as AEAD key and randomizer, at
offset 0) and the way in which its tag is wrong.  The whole vector goes to the
algorithm that the registry names.
"""

import pytest
from cryptography.exceptions import InvalidTag
from wycheproof.cases import Case, cases

from tcpcrypt import _fast
from tcpcrypt.crypto.aead import AeadParameters, aead
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import AeadId

FILES = ("aes_gcm", "chacha20_poly1305")
_HEADER, _TAG = 3, 16


def parameters(case: Case) -> AeadParameters:
    if case.file == "chacha20_poly1305":
        return aead(AeadId.CHACHA20_POLY1305)
    return aead(AeadId.AES_128_GCM if case.group["keySize"] == 128 else AeadId.AES_256_GCM)


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("file", FILES)
def test_the_registered_algorithm(file: str) -> None:
    for case in cases(file):
        algorithm = parameters(case).construct(case["key"])
        sealed = case["ct"] + case["tag"]
        if case.result == "valid":
            assert algorithm.encrypt(case["iv"], case["msg"], case["aad"]) == sealed, str(case)
            assert algorithm.decrypt(case["iv"], sealed, case["aad"]) == case["msg"], str(case)
        else:
            with pytest.raises(InvalidTag):
                algorithm.decrypt(case["iv"], sealed, case["aad"])


def seal(case: Case, data: bytes) -> bytes:
    """One frame with `data` at offset 0."""
    chosen = parameters(case)
    out = bytearray(_HEADER + 1 + len(data) + _TAG)
    with Secret(case["key"] + case["iv"]) as key:
        sealer = chosen.sealer(key)
    assert sealer.seal(data, out, 0, max(len(data), 1), False, False, -1)[1] == len(out)
    sealer.wipe()
    return bytes(out)


def open_(case: Case, frame: bytes) -> tuple[int, bytes]:
    """Why opening stopped, and the data."""
    out = bytearray(len(frame))
    with Secret(case["key"] + case["iv"]) as key:
        opener = parameters(case).opener(key)
    _, written, _, stop, _, _ = opener.open(bytearray(frame), out, 0, False)
    opener.wipe()
    return stop, bytes(out[:written])


@pytest.mark.parametrize("file", FILES)
def test_48_3_6_frames_have_the_key_stream_of_the_vector(file: str) -> None:
    for case in cases(file):
        if case.result != "valid":
            continue
        message = case["msg"]
        frame = seal(case, message[1:])
        algorithm = parameters(case).construct(case["key"])
        plaintext = b"\x00" + message[1:]
        assert frame[_HEADER:] == algorithm.encrypt(case["iv"], plaintext, frame[:_HEADER])
        if message:
            stream = xor(case["ct"], message)
            assert xor(frame[_HEADER:-_TAG], plaintext) == stream, str(case)
        assert open_(case, frame) == (_fast.STOP_NEED_MORE, message[1:]), str(case)


@pytest.mark.parametrize("file", FILES)
def test_48_3_6_frames_with_a_tag_as_wrong_as_that_of_the_vector_fail(file: str) -> None:
    for case in cases(file):
        if case.result == "valid":
            continue
        algorithm = parameters(case).construct(case["key"])
        right = algorithm.encrypt(case["iv"], case["msg"], case["aad"])[-_TAG:]
        frame = seal(case, case["msg"])
        wrong = frame[:-_TAG] + xor(frame[-_TAG:], xor(right, case["tag"]))
        assert wrong != frame, str(case)
        assert open_(case, wrong) == (_fast.STOP_BAD_TAG, b""), str(case)
