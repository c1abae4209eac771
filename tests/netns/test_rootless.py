"""Without root: the same in a user namespace of an ordinary user, under `unshare -rn`."""

import itertools
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tcpcrypt
from tcpcrypt.tools.labdaemon import BACKEND

NOBODY = "65534"

SCRIPT = """
import os, sys
from pathlib import Path
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Lab, free_of, wait_until
assert Path("/proc/self/uid_map").read_text().split()[2] == "1", "only one user is there"
os.chdir("/")
with Lab() as lab:
    client, server = lab.host("client"), lab.host("server")
    end, far = lab.join(client, server)
    ours, theirs = LabDaemon(client, "--port", "80"), LabDaemon(server, "--port", "80")
    server.start(sys.executable, "-c", '''
import socket
listener = socket.create_server(("", 80))
while True:
    sock = listener.accept()[0]
    sock.sendall(b"for " + str(sock.getpeername()[0]).encode() + b": " + sock.recv(100))
    sock.close()
''')
    def ask(text):
        done = client.run(sys.executable, "-c", f'''
import socket
sock = socket.create_connection(("{far.v4}", 80), 10)
sock.sendall(b"{text}")
print(sock.makefile("rb").read().decode())
''', check=False)
        return done.stdout.strip()
    with Capture(end) as capture:
        assert wait_until(lambda: ask("secret"), "answer") == f"for {end.v4}: secret"
        assert ask("again secret") == f"for {end.v4}: again secret"
    mine, others = ours.wait_for("enabled", count=2), theirs.wait_for("enabled", count=2)
    assert [m["session"] for m in mine] == [o["session"] for o in others]
    assert [m["start"] for m in mine][-1] == "resumed"
    assert free_of(capture.packets, b"secret") == [b"secret"]
    assert (ours.stop(), theirs.stop()) == (0, 0)
    assert "TCPCRYPT" not in client.run("iptables-save").stdout
print("all of it worked")
"""


@pytest.mark.parametrize("iptables", ["iptables-nft", "iptables-legacy"])
def test_nobody_can_do_it(iptables: str) -> None:
    """Every rule, mark and queue works with the capabilities of a user namespace."""
    argv = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", SCRIPT]
    mapped = Path("/proc/self/uid_map").read_text().split()[2]
    if os.geteuid() == 0 and mapped != "1":  # not in a user namespace of one user already
        argv = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--", *argv]
        argv = ["unshare", "--mount", "sh", "-ec", f'{opened()}\nexec "$@"', "sh", *argv]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        commands = Path(name)
        commands.chmod(0o755)
        for family in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                target = f"/usr/sbin/{iptables.replace('iptables', family)}{suffix}"
                (commands / f"{family}{suffix}").symlink_to(target)
        environment = {
            # The kernel lets no other backend in.
            **{name: value for name, value in os.environ.items() if name != BACKEND},
            "PATH": f"{commands}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": "/tmp",
            "HOME": "/",
        }
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    assert done.stdout.strip() == "all of it worked", done.stderr


def opened() -> str:
    """Shell commands that let others see this installation, in their own mount namespace.

    A checkout in /root, say, is out of reach for nobody.  A directory that bars
    the way is covered by an empty one that does not, with the part of it that
    is needed put back into its place.
    """
    lines = []
    for place in {Path(sys.prefix), Path(sys.base_prefix), Path(tcpcrypt.__file__).parent}:
        ancestors = [*reversed(place.resolve().parents), place.resolve()]
        for bar, inside in itertools.pairwise(ancestors):
            if not bar.stat().st_mode & 0o001:
                q_bar, q_inside = shlex.quote(str(bar)), shlex.quote(str(inside))
                lines += [
                    f"kept=$(mktemp -d) && mount --bind {q_inside} $kept",
                    f"mountpoint -q {q_bar} || mount -t tmpfs -o mode=755 none {q_bar}",
                    f"mkdir -p {q_inside} && mount --move $kept {q_inside} && rmdir $kept",
                ]
                break
    return "\n".join(dict.fromkeys(lines))
