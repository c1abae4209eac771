"""Two hosts in private namespaces, a daemon on each, one connection: does it get encrypted?"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, Lab, free_of

__all__ = ["SelfTest", "self_test"]

_PORT: Final = 80
_SECONDS: Final = 15.0
_LENGTH: Final = 4096


@dataclass
class SelfTest:
    """What was verified."""

    steps: dict[str, bool] = field(default_factory=dict)
    error: str = ""
    connection_ms: float | None = None
    """From connect() until the echo of 4 KiB is back, key exchange included."""
    total_ms: float = 0.0
    session: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(self.steps.values()) and not self.error

    def as_json(self) -> dict[str, Any]:
        """The form of `--json`."""
        return {
            "ok": self.ok,
            "steps": self.steps,
            "error": self.error or None,
            "session": self.session or None,
            "connection_ms": self.connection_ms and round(self.connection_ms, 1),
            "total_ms": round(self.total_ms, 1),
        }


def self_test(sysctls: Sequence[tuple[str, str]] = ()) -> SelfTest:
    """Run it, with `sysctls` set on both hosts; what goes wrong is in the result."""
    result = SelfTest()
    start = time.monotonic()
    try:
        with Lab() as lab:
            _run(lab, sysctls, result)
    except (LocalError, OSError) as error:
        result.error = str(error)
    result.total_ms = (time.monotonic() - start) * 1000
    return result


def _run(lab: Lab, sysctls: Sequence[tuple[str, str]], result: SelfTest) -> None:
    client, server = lab.host("client"), lab.host("server")
    for host in (client, server):
        for name, value in sysctls:
            host.sysctl(name, value)
    end, far = lab.join(client, server)
    arguments = ("--port", str(_PORT))
    ours, theirs = LabDaemon(client, *arguments), LabDaemon(server, *arguments)
    result.steps["two daemons start"] = True
    # Bytes that compress, look like no ciphertext, and are nowhere else.
    secret = os.urandom(16).hex().encode() * (_LENGTH // 32)
    with Capture(end) as capture:
        came, milliseconds = _echo(client, server, far.v4, secret)
    result.connection_ms = milliseconds
    result.steps["what was sent comes back"] = came == secret
    mine, other = (daemon.wait_for("enabled", timeout=_SECONDS)[0] for daemon in (ours, theirs))
    result.session = mine["session"]
    result.steps["both session IDs are equal"] = mine["session"] == other["session"]
    seen = sum(map(len, capture.packets))
    result.steps["the wire was seen"] = capture.dropped == 0 and seen > 2 * _LENGTH
    result.steps["nothing of it is on the wire in clear"] = bool(
        free_of(capture.packets, secret[:32])
    )
    result.steps["both daemons end cleanly"] = (ours.stop(), theirs.stop()) == (0, 0)


def _echo(client: Host, server: Host, address: str, data: bytes) -> tuple[bytes, float]:
    """What a service of the server sends back, and after how many milliseconds."""
    with server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(_SECONDS)
        listener.bind(("", _PORT))
        listener.listen()
        service = threading.Thread(target=_serve, args=(listener,), daemon=True)
        service.start()
        start = time.monotonic()
        with client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(_SECONDS)
            sock.connect((address, _PORT))
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            came = bytearray()
            while len(came) <= len(data) and (piece := sock.recv(1 << 16)):
                came += piece
        milliseconds = (time.monotonic() - start) * 1000
        service.join(_SECONDS)
    return bytes(came), milliseconds


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock, _address = listener.accept()
        with sock:
            sock.settimeout(_SECONDS)
            while piece := sock.recv(1 << 16):
                sock.sendall(piece)
