"""What is run of Wycheproof and what is not; and that the files are Wycheproof's."""

import hashlib
from collections import Counter

from wycheproof.cases import AES_192, FILES, HERE, NONCE, WRAPPING, every_case

RUN = {
    "aes_gcm": 133,
    "chacha20_poly1305": 316,
    "ecdh_secp256r1": 356,
    "ecdh_secp256r1_ecpoint": 355,
    "ecdh_secp521r1": 662,
    "ecdh_secp521r1_ecpoint": 661,
    "hkdf_sha256": 86,
    "x25519": 518,
    "x448": 510,
}
"""3,597 cases."""
LEFT_OUT = {
    ("aes_gcm", NONCE): 119,
    ("aes_gcm", AES_192): 64,
    ("chacha20_poly1305", NONCE): 9,
    ("ecdh_secp256r1", WRAPPING): 256,
    ("ecdh_secp521r1", WRAPPING): 254,
}


def test_what_is_run_and_what_is_left_out() -> None:
    run, left_out = Counter(), Counter()
    for file in FILES:
        for case in every_case(file):
            if case.left_out is None:
                run[file] += 1
            else:
                left_out[file, case.left_out] += 1
    assert run == RUN
    assert left_out == LEFT_OUT
    assert sum(run.values()) == 3597


def test_the_files_are_those_of_the_origin() -> None:
    listed = dict(
        reversed(line.split()) for line in (HERE / "ORIGIN").read_text().splitlines()
        if line.endswith(".json")
    )  # fmt: skip
    assert set(listed) == {f"{file}_test.json" for file in FILES}
    for name, digest in listed.items():
        assert hashlib.sha256((HERE / name).read_bytes()).hexdigest() == digest, name
    assert "Apache License" in (HERE / "LICENSE").read_text()
