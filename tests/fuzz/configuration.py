"""A configuration file; it may be one that a colleague has sent."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpcrypt.daemon.configuration import read_document
from tcpcrypt.daemon.requests import describe_policy

MAX_LEN = 4000


def seeds() -> Iterator[bytes]:
    yield b'[daemon]\nbackend = "divert"\n[crypto]\naeads = ["AEAD_AES_128_GCM"]\n'
    yield b'[[policy]]\nmode = "require"\n[policy.match]\nports = ["80", "1000-2000"]\n'
    yield b'[[policy]]\nauth = "tofu"\nmatch = { remote = "192.0.2.0/24" }\n'
    yield b'[[policy]]\n"mode" = \'off\'\n# note\n[policy.match]\ndirection = "in"\n'
    yield b"[crypto]\nteps = [0x21, 0x22,\n 0x23]\n[crypto]\n"


def check(data: bytes) -> None:
    document = read_document(data)  # never raises
    assert document.configuration is not None or document.problems
    for problem in document.problems:
        assert 0 <= problem.line <= data.count(b"\n") + data.count(b"\r") + 1
        assert str(problem).isprintable(), "what a file says is shown as text"
    for number, policy in enumerate(document.policies):
        json.dumps(describe_policy(number, policy))
