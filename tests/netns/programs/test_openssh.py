"""ssh, scp, sftp and sshd, unmodified, through two daemons."""

import hashlib
import os
import random
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.programs.server import USER, listening, ordinary, program, running
from netns.programs.watch import daemon, watched

from tcpcrypt.tools.netns import Capture, free_of, wait_until

PORT = 2222
NOGROUP = 65534
# What ssh itself says in clear before it encrypts.
NEEDLES = (b"SSH-2.0-OpenSSH", b"curve25519-sha256", b"chacha20-poly1305@openssh.com")

CONFIGURATION = """
Port {port}
HostKey {place}/host_key
AuthorizedKeysFile {place}/user_key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""


@pytest.fixture(scope="module")
def place(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory of a running sshd: `log`, and `user_key`, which lets `guest` in."""
    place = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "user_key"):
        keygen = program("ssh-keygen", "openssh-client")
        argv = (keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(place / name))
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    (place / "conf").write_text(CONFIGURATION.format(place=place, port=PORT))
    # sshd lets in whom it runs as.  It looks that user up, and without a group
    # `tty` it leaves the group of terminals, which is not one of its own, alone.
    (place / "passwd").write_text(f"guest:x:{USER}:{NOGROUP}::{place}:/bin/sh\n")
    (place / "group").write_text(f"nogroup:x:{NOGROUP}:\n")
    mounts = "".join(f"mount --bind {place}/{n} /etc/{n} && " for n in ("passwd", "group"))
    sshd = ordinary(
        program("sshd", "openssh-server"),
        *("-D", "-e", "-f", str(place / "conf")),
        group=NOGROUP,
    )
    argv = ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *sshd]
    with running(hosts.server, PORT, place / "log", argv):
        yield place


def options(place: Path) -> list[str]:
    return [
        *("-F", "none", "-i", str(place / "user_key"), "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=5"),
        *("-o", f"UserKnownHostsFile={place}/known_hosts", "-o", "LogLevel=ERROR"),
    ]


def command(hosts: Network, place: Path, *arguments: str, family: int = 4) -> list[str]:
    host = hosts.server_end.v4 if family == 4 else hosts.server_end.v6
    ssh = program("ssh", "openssh-client")
    return [ssh, *options(place), "-p", str(PORT), "-l", "guest", host, *arguments]


def test_without_the_daemon_the_wire_shows_it(hosts: Network, place: Path) -> None:
    """What the other tests look for in vain would have been found."""
    with Capture(hosts.client_end) as capture:
        assert hosts.client.run(*command(hosts, place, "echo", "hello")).stdout == "hello\n"
    assert free_of(capture.packets, *NEEDLES) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_command_and_the_clients_address(hosts: Network, place: Path, family: int) -> None:
    address = hosts.client_end.v4 if family == 4 else hosts.client_end.v6
    with watched(hosts, PORT, *NEEDLES):
        argv = command(hosts, place, "echo $SSH_CONNECTION; echo oops >&2; exit 7", family=family)
        done = hosts.client.run(*argv, check=False)
    assert done.returncode == 7
    assert done.stderr == "oops\n"
    client, port, server, service = done.stdout.split()
    assert client == address
    assert server == (hosts.server_end.v4 if family == 4 else hosts.server_end.v6)
    assert service == str(PORT)
    line = f"Accepted publickey for guest from {address} port {port}"
    wait_until(lambda: line in (place / "log").read_text(), line)


@pytest.mark.parametrize("how", ["scp", "sftp"])
def test_ten_megabytes_there_and_back(
    hosts: Network, place: Path, tmp_path: Path, how: str
) -> None:
    content = random.Random(21).randbytes(10_000_000)
    (tmp_path / "one").write_bytes(content)
    remote = f"guest@{hosts.server_end.v4}"
    argv = [program(how, "openssh-client"), *options(place), "-P", str(PORT)]
    with watched(hosts, PORT, *NEEDLES) as seen:
        if how == "scp":
            hosts.client.run(*argv, f"{tmp_path}/one", f"{remote}:{tmp_path}/two")
            hosts.client.run(*argv, f"{remote}:{tmp_path}/two", f"{tmp_path}/three")
        else:
            commands = f"put {tmp_path}/one {tmp_path}/two\nget {tmp_path}/two {tmp_path}/three\n"
            (tmp_path / "batch").write_text(commands)
            hosts.client.run(*argv, "-b", str(tmp_path / "batch"), remote)
        seen.enabled()
    want = hashlib.sha256(content).digest()
    for name in ("two", "three"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).digest() == want


def test_a_terminal_session_idles_and_goes_on_with_short_echoes(
    hosts: Network, place: Path
) -> None:
    """Typing: each byte comes back from the server's terminal before the next is sent."""
    with watched(hosts, PORT, *NEEDLES) as seen:
        session = hosts.client.start(
            *command(hosts, place, "-tt", "stty raw -echo; echo ready; exec cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.stdout.readline().strip() == b"ready"
        times = []
        for number in range(60):
            if number == 30:
                time.sleep(2)
            byte = b"%c" % (97 + number % 26)
            begun = time.monotonic()
            session.stdin.write(byte)
            assert os.read(session.stdout.fileno(), 10) == byte
            times.append(time.monotonic() - begun)
        session.stdin.close()
        session.stdout.close()
        hosts.client.stop(session)
        assert len(seen.enabled()) == 1
    # A segment held back for its ACK would take 40 ms.
    assert statistics.median(times) < 0.025


def test_a_forwarded_port(hosts: Network, place: Path) -> None:
    data = random.Random(22).randbytes(1_000_000)
    forward = "127.0.0.1:7001:127.0.0.1:7002"
    with watched(hosts, PORT, *NEEDLES) as seen, hosts.server.socket() as listener:
        listener.bind(("127.0.0.1", 7002))
        listener.listen()
        listener.settimeout(10)
        tunnel = hosts.client.start(*command(hosts, place, "-N", "-L", forward))
        wait_until(lambda: listening(hosts.client, 7001), "forwarded port")
        with hosts.client.socket() as one:
            one.settimeout(10)
            one.connect(("127.0.0.1", 7001))
            other, _address = listener.accept()
            with other:
                other.settimeout(10)
                other.sendall(b"hello")
                assert one.recv(10) == b"hello"
                sender = threading.Thread(target=send, args=(one, data))
                sender.start()
                got = other.makefile("rb").read()
                sender.join(10)
        hosts.client.stop(tunnel)
        assert len(seen.enabled()) == 1
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_where_encryption_is_required(hosts: Network, place: Path) -> None:
    with watched(hosts, PORT, *NEEDLES, arguments=("--mode", "require")):
        assert hosts.client.run(*command(hosts, place, "echo", "hello")).stdout == "hello\n"


def test_a_client_without_the_daemon_is_refused(hosts: Network, place: Path) -> None:
    with daemon(hosts.server, PORT, "--mode", "require"):
        argv = ("timeout", "8", *command(hosts, place, "echo", "hello"))
        done = hosts.client.run(*argv, check=False)
    assert done.returncode == 255
    assert done.stdout == ""
