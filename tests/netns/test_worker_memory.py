"""RFC 8548 section 8: the worker of a running daemon keeps no key of a connection that is over.

The keys are known from the key log of the other host, whose daemon is told to keep one.
"""

from __future__ import annotations

from pathlib import Path

from conftest import PURE_PYTHON
from netns.network import Network
from support.memory import found

from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret

SIZE = 300_000


def secrets_of(line: KeyLine) -> dict[str, bytes]:
    """ss[0] and what keys of the first generation come of it; of traffic keys the AEAD's part."""
    parameters = aead(line.aead)
    needles = {"ss[0]": bytes(line.ss.view())}
    session_id, master, _next = SessionSecret(Secret(line.ss.view())).use(
        line.session_id[0], line.sn
    )
    assert session_id == line.session_id
    keys = master.traffic_keys(parameters)
    for name, key in (("k_ab", keys.ab), ("k_ba", keys.ba)):
        needles[name] = bytes(key.view()[: parameters.key_len])
    return needles


if not PURE_PYTHON:  # of the Python twin's copies nothing is promised

    def test_48_8_a_worker_keeps_no_traffic_key(pair: Network, tmp_path: Path) -> None:
        log = tmp_path / "server.keys"
        ours = pair.daemon(pair.client)
        pair.daemon(pair.server, "--keylog", str(log))
        with pair.conversation() as (one, other):
            one.sendall(bytes(SIZE))
            got = 0
            while got < SIZE:
                got += len(other.recv(1 << 16))
            (text,) = log.read_text().splitlines()
            needles = secrets_of(KeyLine.parse(text))
            # The search finds what is there.
            assert {"k_ab", "k_ba"} <= found(ours.worker, needles)
        ours.wait_for("closed")
        assert found(ours.worker, needles) == set()
