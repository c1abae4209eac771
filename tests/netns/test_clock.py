"""The wall clock of running daemons jumps: years ahead, years back, and home again.

client ---- veth1 ---- server           both daemons see what `wall_clock.c` tells them
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from pathlib import Path

from netns.network import Network
from netns.trusting import pair_of, policy

SOURCE = Path(__file__).with_name("wall_clock.c")
YEAR = 365 * 86_400.0


def test_a_clock_that_jumps_costs_no_connection_and_no_trust(pair: Network, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    shim, ahead = tmp_path / "wall_clock.so", tmp_path / "ahead"
    subprocess.run(("cc", "-shared", "-fPIC", "-O1", "-o", shim, SOURCE, "-ldl"), check=True)
    ahead.write_bytes(struct.pack("=q", 0))
    two = pair_of(pair, tmp_path)
    for side in (two.client, two.server):
        side.through = ("env", f"LD_PRELOAD={shim}", f"TEST_WALL_CLOCK={ahead}")
    two.start(policy("tofu"))
    two.meet()
    keys = two.client.keys(two.scope), two.server.keys("*")
    with pair.listen() as listener, contextlib.ExitStack() as kept:
        open_: list[tuple[socket.socket, socket.socket]] = []
        for number, years in enumerate((0, 10, -20, 0)):
            with ahead.open("r+b") as file:
                file.write(struct.pack("=q", int(years * YEAR)))
            # A new connection, and those of all times before.
            one = kept.enter_context(pair.connect())
            one.sendall(b"?")
            open_.append((one, kept.enter_context(listener.accept()[0])))
            assert open_[-1][1].recv(1) == b"?"
            for pair_ in open_:
                for here, there in (pair_, pair_[::-1]):
                    here.sendall(b"still here")
                    there.settimeout(10)
                    assert there.recv(100) == b"still here"
            for side in (two.client, two.server):
                since = {session.id: session.since for session in side.sessions()}
                assert len(since) == number + 1
                # The daemon has seen the jump.
                assert abs(since[max(since)] - time.time() - years * YEAR) < 120
    assert (two.client.keys(two.scope), two.server.keys("*")) == keys
    two.talk()
    for side in (two.client, two.server):
        assert not side.daemon.events("refused", "aborted", "failed", "fallback", "bug")
        side.stop()
