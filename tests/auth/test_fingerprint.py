"""Fingerprints as text, and their picture, which is OpenSSH's."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tcpcrypt.auth.fingerprint import (
    FINGERPRINT_LEN,
    draw,
    fingerprint,
    is_fingerprint,
    randomart,
    short_form,
)

KEY = bytes(range(32))
TEXT = "tcpcrypt1:mmg42klgyqzwneiskrelxms3j72bfje4omw3fsflyg4fqg6xcdoq"
"""SHA-256 of 00 01 .. 1f by sha256sum, in base32 by coreutils."""


def test_fingerprint() -> None:
    assert fingerprint(KEY) == TEXT
    assert len(TEXT) == FINGERPRINT_LEN == 62
    digest = base64.b32decode(TEXT.partition(":")[2].upper() + "====")
    assert digest == hashlib.sha256(KEY).digest()
    assert short_form(TEXT) == "mmg42klgyqzwneis"


@pytest.mark.parametrize(
    "text",
    [
        *(TEXT[:-1], TEXT + "q", TEXT.upper(), TEXT + "\n", TEXT[:-1] + "b", ""),
        *(TEXT.replace("1:", "2:"), TEXT.partition(":")[2], short_form(TEXT), TEXT + "===="),
    ],
)
def test_what_is_no_whole_fingerprint(text: str) -> None:
    assert is_fingerprint(TEXT)
    assert not is_fingerprint(text)


def test_randomart_is_stable() -> None:
    assert randomart(TEXT).splitlines() == ART


ART = [
    "+---[tcpcrypt1]---+",
    "|     o+=+o       |",
    "|     .o+Bo .     |",
    "|    . o+Eo+      |",
    "|     o B =       |",
    "|    o B S o      |",
    "| o . * B =       |",
    "|. = = + o .      |",
    "|.o = + o .       |",
    "|o o.o   .        |",
    "+----[SHA256]-----+",
]


def test_randomart_of_a_key_of_openssh() -> None:
    """Recorded from `ssh-keygen -lv` (OpenSSH 9.2)."""
    digest = base64.b64decode(RECORDED[0] + "=")
    assert draw(digest, "[ED25519 256]", "[SHA256]").splitlines() == RECORDED[1]


RECORDED = (
    "q+PE47pV/cpZ8auiRgRcw94W4xlLRS1l+XrDlUIoPDc",
    [
        "+--[ED25519 256]--+",
        "|     . o+  o+oo. |",
        "|      o .==E.oo  |",
        "|       o ++*o. ..|",
        "|        o.*  . .o|",
        "|       .S.. . o..|",
        "|     . ... . o.o.|",
        "|      =..   o ...|",
        "|     +.o...+   . |",
        "|    o++o..+....  |",
        "+----[SHA256]-----+",
    ],
)


def test_randomart_is_what_ssh_keygen_draws(tmp_path: Path) -> None:
    program = shutil.which("ssh-keygen")
    if program is None:
        pytest.fail("ssh-keygen is not installed (Debian: openssh-client)")
    for number in range(8):
        path = tmp_path / str(number)
        subprocess.run([program, "-qt", "ed25519", "-N", "", "-f", path], check=True)
        told = subprocess.run([program, "-lvf", path], check=True, capture_output=True, text=True)
        line, *art = told.stdout.splitlines()
        found = re.search(r"SHA256:(\S+)", line)
        assert found is not None
        digest = base64.b64decode(found[1] + "=")
        assert draw(digest, "[ED25519 256]", "[SHA256]").splitlines() == art
