"""What a user would take instead, each as a chain from a client's host to a server's.

A chain is started between two hosts that are joined already.  Its programs
listen on the client's own loopback, where the traffic programs go to, and hand
on to the services of the server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcpcrypt.tools.netns import Host, wait_until

HERE = "127.0.0.1"
STANFORD = "TCPCRYPT_INTEROP_STANFORD"
"""The environment variable that names a built Stanford `tcpcryptd`."""
STANFORD_QUEUE = "666"


@dataclass
class Ground:
    """Where a chain is to be: two hosts, the server's address, the services' ports."""

    client: Host
    server: Host
    address: str
    ports: dict[str, int]
    directory: Path
    """Empty, for the chain's own files."""
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)
    """Those whose processor time and memory are the chain's."""

    def start(self, host: Host, *argv: str) -> None:
        with (self.directory / "log").open("a") as log:
            self.processes.append(host.start(*argv, stdout=log, stderr=log, cwd="/"))

    def there(self, offset: int) -> Iterable[tuple[int, int]]:
        """For each service, a port on which a chain can listen, and its own."""
        return [(port + offset, port) for port in self.ports.values()]

    def local(self, offset: int) -> dict[str, tuple[str, int]]:
        """The services, by the chain's ports on the client's loopback."""
        return {name: (HERE, port + offset) for name, port in self.ports.items()}

    def direct(self) -> dict[str, tuple[str, int]]:
        """The services, by themselves."""
        return {name: (self.address, port) for name, port in self.ports.items()}

    def listening(self, host: Host, ports: Iterable[int]) -> None:
        """Wait until somebody listens on all of these."""
        wanted = {f":{port:04X}" for port in ports}

        def all_there() -> bool:
            lines = host.run("cat", "/proc/net/tcp").stdout.splitlines()[1:]
            found = {line.split()[1][-5:] for line in lines if line.split()[3] == "0A"}
            return wanted <= found

        try:
            wait_until(all_there, f"listener of {self.processes[-1].args}", timeout=20)
        except TimeoutError as error:
            raise SystemExit(f"{error}\n{(self.directory / 'log').read_text()}") from error


Targets = dict[str, tuple[str, int]]
Start = Callable[[Ground], Targets]
"""Starts a chain; returns where the traffic programs find the services."""


def _certificate(ground: Ground) -> tuple[str, str]:
    certificate, key = ground.directory / "certificate.pem", ground.directory / "key.pem"
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=server", "-addext", "subjectAltName=DNS:server",
         "-out", certificate, "-keyout", key),
        check=True, capture_output=True,
    )  # fmt: skip
    return str(certificate), str(key)


def python_ssl(ground: Ground) -> Targets:
    certificate, key = _certificate(ground)
    program = (sys.executable, str(Path(__file__).with_name("tls_relay.py")))
    for secure, port in ground.there(1000):
        to = (ground.address, str(secure), HERE, str(port), certificate, key)
        ground.start(ground.server, *program, "server", *to)
    ground.listening(ground.server, (secure for secure, _ in ground.there(1000)))
    for secure, _port in ground.there(1000):
        to = (HERE, str(secure), ground.address, str(secure), certificate)
        ground.start(ground.client, *program, "client", *to)
    ground.listening(ground.client, (secure for secure, _ in ground.there(1000)))
    return ground.local(1000)


def stunnel(ground: Ground) -> Targets:
    """TLS 1.3 only, the server's certificate checked, no delay."""
    certificate, key = _certificate(ground)
    common = [
        "foreground = yes", "debug = err", "pid =", "sslVersion = TLSv1.3",
        "socket = l:TCP_NODELAY=1", "socket = r:TCP_NODELAY=1",
    ]  # fmt: skip
    roles = {
        "server": (ground.server, [f"cert = {certificate}", f"key = {key}"]),
        "client": (ground.client, ["client = yes", f"CAfile = {certificate}", "verifyPeer = yes"]),
    }
    for role, (host, own) in roles.items():
        lines = [*common, *own]
        for secure, port in ground.there(1000):
            ends = {
                "server": (f"{ground.address}:{secure}", f"{HERE}:{port}"),
                "client": (f"{HERE}:{secure}", f"{ground.address}:{secure}"),
            }[role]
            lines += [f"[{role}-{port}]", f"accept = {ends[0]}", f"connect = {ends[1]}"]
        path = ground.directory / f"{role}.conf"
        path.write_text("\n".join(lines) + "\n")
        ground.start(host, "stunnel", str(path))
        ground.listening(host, (secure for secure, _ in ground.there(1000)))
    return ground.local(1000)


def spiped(ground: Ground) -> Targets:
    key = ground.directory / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    for secure, port in ground.there(1000):
        ground.start(
            ground.server,
            *("spiped", "-d", "-F", "-n", "20000", "-k", str(key)),
            *("-s", f"[{ground.address}]:{secure}", "-t", f"[{HERE}]:{port}"),
        )
        ground.start(
            ground.client,
            *("spiped", "-e", "-F", "-n", "20000", "-k", str(key)),
            *("-s", f"[{HERE}]:{secure}", "-t", f"[{ground.address}]:{secure}"),
        )
    for host in (ground.server, ground.client):
        ground.listening(host, (secure for secure, _ in ground.there(1000)))
    return ground.local(1000)


def ssh(ground: Ground) -> Targets:
    """One ssh -L; all connections share its one TCP connection."""
    directory = ground.directory
    for name in ("host", "user"):
        subprocess.run(
            ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name), check=True
        )
    (directory / "authorized").write_text((directory / "user.pub").read_text())
    port, user = 2222, pwd.getpwuid(os.geteuid()).pw_name
    known = (directory / "host.pub").read_text()
    (directory / "known").write_text(f"[{ground.address}]:{port} {known}")
    (directory / "sshd.conf").write_text(
        f"ListenAddress {ground.address}:{port}\nHostKey {directory / 'host'}\n"
        f"AuthorizedKeysFile {directory / 'authorized'}\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPermitRootLogin prohibit-password\nMaxSessions 20000\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"]) or "sshd"
    ground.start(ground.server, sshd, "-D", "-e", "-f", str(directory / "sshd.conf"))
    ground.listening(ground.server, (port,))
    forwards = [
        word
        for here, there in ground.there(1000)
        for word in ("-L", f"{HERE}:{here}:{ground.address}:{there}")
    ]
    ground.start(
        ground.client,
        *("ssh", "-N", "-F", "none", "-p", str(port), "-i", str(directory / "user")),
        *("-o", f"UserKnownHostsFile={directory / 'known'}", "-o", "ExitOnForwardFailure=yes"),
        *(*forwards, f"{user}@{ground.address}"),
    )
    ground.listening(ground.client, (here for here, _ in ground.there(1000)))
    return ground.local(1000)


def stanford(ground: Ground) -> Targets:
    """Stanford's daemon on both hosts, each packet through its queue.

    Its libraries are expected where its own build leaves them, beside its `src`.
    """
    daemon = Path(os.environ[STANFORD]).resolve()
    libraries = daemon.parent.parent / "lib" / ".libs"
    ports = ",".join(map(str, ground.ports.values()))
    for host, (out, back) in ((ground.client, ("d", "s")), (ground.server, ("s", "d"))):
        # What overflows its queue or its list of a hundred segments is lost to it for ever.
        host.sysctl("net.ipv4.tcp_rmem", "4096 32768 32768")
        host.keep_order()
        jail = ground.directory / out
        jail.mkdir()
        ground.start(
            host,
            *("env", f"LD_LIBRARY_PATH={libraries}", str(daemon), "-f", "-p", STANFORD_QUEUE),
            *("-u", str(jail / "control"), "-U", "nobody", "-J", str(jail)),
        )
        wait_until(lambda host=host: _queue_is_read(host), "the Stanford daemon's queue", 10)
        for chain, side in (("OUTPUT", out), ("INPUT", back)):
            host.run(
                *("iptables", "-A", chain, "-p", "tcp", "-m", "multiport", f"--{side}ports"),
                *(ports, "-j", "NFQUEUE", "--queue-num", STANFORD_QUEUE),
            )
    return ground.direct()


def _queue_is_read(host: Host) -> bool:
    queues = host.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.splitlines()
    return any(line.split()[0] == STANFORD_QUEUE for line in queues)


RIVALS: dict[str, tuple[Start, str]] = {
    "Python ssl": (python_ssl, "openssl"),
    "stunnel": (stunnel, "stunnel"),
    "spiped": (spiped, "spiped"),
    "ssh -L": (ssh, "ssh"),
}
"""Chains by name, each with the program that it needs."""
