"""The vendored files as cases, and the rules by which some are left out.

A case is left out only where what it tests has no counterpart: RFC 8548 uses
nonces of 12 bytes and tags of 16, AES with 128 or 256 bits, and bare points
where X.509 wraps them.  How many each rule leaves out is stated here, and a
test holds the rules to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
FILES: Final = (
    "aes_gcm",
    "chacha20_poly1305",
    "ecdh_secp256r1",
    "ecdh_secp256r1_ecpoint",
    "ecdh_secp521r1",
    "ecdh_secp521r1_ecpoint",
    "hkdf_sha256",
    "x25519",
    "x448",
)

NONCE = "nonce is not of 12 bytes"
AES_192 = "AES with a key of 192 bits"
WRAPPING = "not the standard wrapping of a point of the curve: there is no wrapping here"

SPKI: Final = {
    "ecdh_secp256r1": (
        "3059301306072a8648ce3d020106082a8648ce3d030107034200",
        "3039301306072a8648ce3d020106082a8648ce3d030107032200",
    ),
    "ecdh_secp521r1": (
        "30819b301006072a8648ce3d020106052b8104002303818600",
        "3058301006072a8648ce3d020106052b81040023034400",
    ),
}
"""What precedes a point of the curve in SubjectPublicKeyInfo, long form and compressed."""


@dataclass(frozen=True)
class Case:
    """One test of a file; byte strings decoded, `group` what its group says."""

    file: str
    test: dict[str, Any]
    group: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file} {self.test['tcId']}: {self.test['comment']}"

    def __getitem__(self, name: str) -> bytes:
        return bytes.fromhex(self.test[name])

    @property
    def result(self) -> str:
        return self.test["result"]

    @property
    def flags(self) -> list[str]:
        return self.test["flags"]

    @property
    def point(self) -> bytes | None:
        """ECDH: the public key as a point, None where the wrapping is another."""
        if "InvalidAsn" in self.flags:
            return None
        public = self.test["public"]
        for prefix in SPKI.get(self.file, ("",)):
            if public.startswith(prefix):
                return bytes.fromhex(public[len(prefix) :])
        return None

    @property
    def left_out(self) -> str | None:
        """The rule that leaves this case out, or None."""
        if self.group["type"] == "AeadTest":
            if self.group["ivSize"] != 96:
                return NONCE
            if self.file == "aes_gcm" and self.group["keySize"] == 192:
                return AES_192
        if self.file in SPKI and self.point is None:
            return WRAPPING
        return None


def every_case(file: str) -> Iterator[Case]:
    """All tests of a file, those that are left out too."""
    for group in json.loads((HERE / f"{file}_test.json").read_text())["testGroups"]:
        for test in group["tests"]:
            yield Case(file, test, group)


def cases(file: str) -> list[Case]:
    """The tests of a file that are run."""
    return [case for case in every_case(file) if case.left_out is None]
