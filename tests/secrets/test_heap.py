"""RFC 8548 section 8: after a connection no traffic key is left in the memory of its process.

A host is another process, all of whose writable memory is read through
/proc/PID/mem.  The test is its peer, so it has the same keys, and looks for them
while they are in use (or else the search finds nothing of worth) and after.

Out of reach in any case, and not looked for: the shared secret as
`cryptography` returns it, and what Python has copied of it on the way, for as
long as nothing else has taken that memory; see `tcpcrypt.crypto.secret`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PURE_PYTHON
from support.hosts import drain, outcome, region
from support.memory import found

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.crypto import kdf, schedule
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import CONST_KEY_A, CONST_KEY_B, CONST_NEXTK, CONST_REKEY

HOST = Path(__file__).with_name("host.py")
NAMES = {
    CONST_KEY_A: "k_ab",
    CONST_KEY_B: "k_ba",
    CONST_REKEY: "mk",
    CONST_NEXTK: "ss[1]",
}


@pytest.fixture
def needles(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Every secret that the key schedule of this process derives, by its name.

    Of traffic keys the AEAD's part: libcrypto keeps the two apart.
    """
    derived: dict[str, bytes] = {}
    counts: dict[str, int] = {}

    def cprf(key: Secret, info: bytes, length: int) -> Secret:
        secret = kdf.cprf(key, info, length)
        derived.setdefault("ss[0]", bytes(key.view()))
        name = NAMES.get(info[:1])
        if name is not None:
            counts[name] = counts.get(name, -1) + 1
            derived[f"{name} {counts[name]}"] = bytes(secret.view())[:16]
        return secret

    monkeypatch.setattr(schedule, "cprf", cprf)
    return derived


class Peer:
    """The other end of a host's connection, in this process."""

    def __init__(self, ending: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(30)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, HOST, str(theirs.fileno()), ending],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"TCPCRYPT_PUREPYTHON": ""},
                text=True,
            )

    def connect(self) -> Session:
        negotiation = Negotiation(Config(), Opener.ACTIVE)
        self._send(region(negotiation.option_to_send(syn=True, ack=False, room=40)))
        answer = region(self.socket.recv(self.socket.recv(1)[0]))
        negotiation.segment_received(syn=True, ack=True, options=answer)
        self._send(region(negotiation.option_to_send(syn=False, ack=True, room=40)))
        return Session(Config(), outcome(negotiation))

    def _send(self, options: bytes) -> None:
        self.socket.sendall(bytes((len(options),)) + options)

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()
        self.process.kill()
        self.process.communicate()


def until(peer: Peer, session: Session, size: int) -> None:
    """Carry bytes both ways until so many of data have come back."""
    got = 0
    while got < size or not session.established:
        peer.socket.sendall(drain(session))
        session.receive_data(peer.socket.recv(1 << 16))
        while (event := session.next_event()) is not None:
            if isinstance(event, DataReceived):
                got += len(event.data)


if not PURE_PYTHON:  # of the Python twin's copies nothing is promised

    @pytest.mark.parametrize("ending", ["end", "wipe", "fault"])
    def test_48_8_no_traffic_key_is_in_memory_after_the_connection(
        ending: str, needles: dict[str, bytes]
    ) -> None:
        with Peer(ending) as peer:
            session = peer.connect()
            data = bytes(200_000)
            session.send_data(data)
            until(peer, session, len(data))
            session.send_data(b"look")
            until(peer, session, 4)
            while "k_ba 1" not in needles:  # the host's new key may come behind the data
                session.receive_data(peer.socket.recv(1 << 16))
            peer.says("open")
            used = found(peer.process.pid, needles)
            # The search finds what is there: the keys in use, of both directions.
            assert {"k_ab 0", "k_ba 1"} <= used, needles.keys()
            peer.go_on()
            if ending == "fault":
                peer.socket.sendall(bytes(100))
            else:
                session.finish()
                peer.socket.sendall(drain(session))
            peer.socket.shutdown(socket.SHUT_WR)
            peer.says("closed")
            assert {"k_ab 0", "k_ba 0", "k_ab 1", "k_ba 1", "mk 0", "ss[0]"} <= needles.keys()
            assert found(peer.process.pid, needles) == set()
