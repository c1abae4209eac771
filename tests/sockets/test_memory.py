"""What an idle connection costs: 16 KiB at most beyond what the kernel has."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

from tcpcrypt import sockets
from tcpcrypt.sockets import KeyDirectory, SecureSocket

COUNT = 40
LIMIT = 16 << 10


def together(client_keys: Path, server_keys: Path, pool) -> tuple[SecureSocket, SecureSocket]:
    one, other = socket.socketpair()
    client = sockets.wrap(one, peer="tofu", keys=client_keys, name="s:1", transport="inband")
    server = sockets.wrap(
        other, peer="tofu", keys=server_keys, server_side=True, transport="inband"
    )
    shaken = pool.submit(server.do_handshake)
    client.do_handshake()
    shaken.result(10)
    return client, server


def bulk(client: SecureSocket, server: SecureSocket, pool) -> None:
    """A megabyte each way, after which both are idle again."""
    data = bytes(1 << 20)
    for one, other in ((client, server), (server, client)):
        sent = pool.submit(one.sendall, data)
        left = len(data)
        while left:
            left -= len(other.recv(1 << 20))
        sent.result(10)


def test_memory_of_an_idle_connection(tmp_path: Path, pool) -> None:
    """Both ends are counted here, each with what it has for resumption."""
    keys = tmp_path / "client", tmp_path / "server"
    warm = [together(*keys, pool) for _ in range(3)]
    for pair in warm:
        bulk(*pair, pool)
    for directory in map(KeyDirectory.at, keys):
        assert len(directory.outgoing) + len(directory.incoming) >= 1
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        pairs = [together(*keys, pool) for _ in range(COUNT)]
        for pair in pairs:
            bulk(*pair, pool)
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(line.size_diff for line in after.compare_to(before, "filename"))
    each = grown / (2 * COUNT)
    assert each < LIMIT, [str(line) for line in after.compare_to(before, "lineno")[:10]]
    for pair in (*warm, *pairs):
        for end in pair:
            end.abort()


def test_importing_needs_no_daemon() -> None:
    """A program on a system without one is not made to load it."""
    program = (
        "import sys, tcpcrypt.sockets;"
        "assert not [name for name in sys.modules if name.startswith('tcpcrypt.daemon')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
