"""RFC 8548 section 3.1: Wycheproof's HKDF vectors through `tcpcrypt.crypto.kdf`."""

import pytest
from wycheproof.cases import cases

from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.errors import LocalError


def test_48_3_1_extract_then_cprf() -> None:
    for case in cases("hkdf_sha256"):
        with extract(case["salt"], case["ikm"]) as prk:
            size = case.test["size"]
            if case.result == "invalid":
                with pytest.raises(LocalError):
                    cprf(prk, case["info"], size)
                continue
            with cprf(prk, case["info"], size) as okm:
                assert bytes(okm.view()) == case["okm"], str(case)
