"""What `tcpcrypt doctor` tries out, in a private network namespace and never on the host.

Whether a kernel has a match or a target is only known once it was asked to
install a rule with it: modules are loaded by that, and in containers they are
often kept back.  iptables and nft are tried with the same rules, each in its
own words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.iptables import rendered
from tcpcrypt.runtime.nft import COMMAND as NFT
from tcpcrypt.runtime.nft import Nft
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.routing import Routing
from tcpcrypt.runtime.rules import MARK_DONE, Rule
from tcpcrypt.tools.features import FEATURES, REQUIRED, failing_with
from tcpcrypt.tools.findings import Check, Finding, Need
from tcpcrypt.tools.netns import Host, Lab

__all__ = ["TRIALS", "Bench"]

_SECONDS: Final = 20.0
_QUEUE: Final = 1
_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_COMMANDS: Final = {4: "iptables", 6: "ip6tables"}
_VARIANTS: Final = ("", "-nft", "-legacy")
_ERROR_MAX: Final = 160


class Bench:
    """A private network namespace, and what of iptables and of nft works in it.

    A context manager.  Raises `OSError` or `LocalError` where the system
    gives no namespace.
    """

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self.families = tuple(families)
        self.variants: dict[int, dict[str, dict[str, str]]] = {}
        """By family and command: the features that fail, and why."""
        self.nft: dict[str, str] = {}
        """The features that fail with nft, and why."""
        self._lab = Lab()
        self.host: Host

    def __enter__(self) -> Bench:
        try:
            self.host = self._lab.host("bench")
            with tempfile.TemporaryDirectory(prefix="tcpcrypt-doctor-") as directory:
                lock = str(Path(directory) / "xtables.lock")
                for family in self.families:
                    names = [_COMMANDS[family] + variant for variant in _VARIANTS]
                    found = [name for name in names if shutil.which(f"{name}-restore")]
                    self.variants[family] = {
                        name: failing_with(partial(self._restore, family, name, lock=lock))
                        for name in _distinct(found)
                    }
            self.nft = failing_with(self._rehearse)
        except BaseException:
            self._lab.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lab.close()

    def _restore(self, family: int, command: str, rules: Sequence[Rule], *, lock: str) -> None:
        self.run(
            *(f"{command}-restore", "--noflush", "--wait", "5"),
            text=rendered(rules, family),
            environment={**os.environ, "XTABLES_LOCKFILE": lock},
        )

    def _rehearse(self, rules: Sequence[Rule]) -> None:
        with self.host.entered():
            Nft(self.families).rehearse(rules)

    def run(self, *argv: str, text: str = "", environment: dict[str, str] | None = None) -> str:
        """What a command prints in the namespace.  Raises `LocalError` with its last words."""
        try:
            with self.host.entered():
                done = subprocess.run(
                    argv,
                    input=text,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    env=environment,
                    timeout=_SECONDS,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            raise LocalError(f"{argv[0]} does not end") from None
        except OSError as error:
            raise LocalError(f"{argv[0]}: {error.strerror}") from error
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if line.strip()]
            useful = [line for line in words if not line.startswith("Try `")]
            why = (useful or [f"exit {done.returncode}"])[0].strip()
            raise LocalError(why[:_ERROR_MAX])
        return done.stdout

    def best(self, family: int) -> tuple[str, dict[str, str]]:
        """The command that the daemon would use, and what fails with it.

        Raises `LocalError` if there is none at all.
        """
        found = self.variants.get(family)
        if not found:
            raise LocalError(f"{_COMMANDS[family]}-restore is not installed")
        return min(found.items(), key=lambda item: len(REQUIRED & set(item[1])))


def _distinct(commands: Sequence[str]) -> Iterator[str]:
    """Each program once: `iptables` is a link to one of the others."""
    seen = set()
    for command in commands:
        # The program behind the link looks at its own name, so that the real
        # path is the same for iptables and ip6tables, -save and -restore.
        real = os.path.realpath(shutil.which(f"{command}-restore") or command)
        if real not in seen:
            seen.add(real)
            yield command


def _variants(bench: Bench) -> Finding:
    parts, ok = [], True
    for family in bench.families:
        command, failing = bench.best(family)
        ok = ok and not REQUIRED & set(failing)
        parts.append(f"{bench.run(command, '-V').strip()} works" if not failing else command)
        for name, lacks in bench.variants[family].items():
            if name != command or lacks:
                parts.append(f"{name} lacks {_listed(lacks)}" if lacks else f"{name} works too")
    return Finding(ok, "; ".join(parts))


def _listed(failing: Collection[str]) -> str:
    return "everything" if len(failing) == len(FEATURES) else ", ".join(failing)


def _feature(name: str) -> Callable[[Bench], Finding]:
    def look(bench: Bench) -> Finding:
        whys = {}
        for family in bench.families:
            _command, failing = bench.best(family)
            if name in failing:
                whys[family] = failing[name]
        if not whys:
            return Finding(True, " and ".join(f"IPv{family}" for family in bench.families))
        return Finding(False, "; ".join(f"IPv{family}: {why}" for family, why in whys.items()))

    return look


def _nft(bench: Bench) -> Finding:
    if shutil.which(NFT) is None:
        return Finding(False, "not installed")
    version = bench.run(NFT, "--version").strip()
    if not bench.nft:
        return Finding(True, f"{version} works")
    lacks = "; ".join(f"{name}: {why}" for name, why in bench.nft.items())
    return Finding(not REQUIRED & set(bench.nft), f"{version} lacks {lacks}")


def _why_not_nft(bench: Bench) -> str | None:
    if shutil.which(NFT) is None:
        return f"{NFT} is not installed"
    lacks = [name for name in bench.nft if name in REQUIRED]
    return f"nft lacks {_listed(lacks)}" if lacks else None


def _why_not_iptables(bench: Bench) -> str | None:
    for family in bench.families:
        try:
            command, failing = bench.best(family)
        except LocalError as error:
            return str(error)
        if lacks := [name for name in failing if name in REQUIRED]:
            return f"{command} lacks {_listed(lacks)}"
    return None


def _firewall(bench: Bench) -> Finding:
    """What `tcpcrypt.runtime.firewall` will choose, and why not the other."""
    iptables, nft = _why_not_iptables(bench), _why_not_nft(bench)
    if iptables is None:
        other = "nft, which would work too, comes second" if nft is None else f"not nft: {nft}"
        return Finding(True, f"iptables is used; {other}")
    if nft is None:
        return Finding(True, f"nft is used; not iptables: {iptables}")
    return Finding(False, f"not iptables: {iptables}; not nft: {nft}")


def _bind(bench: Bench) -> Finding:
    with bench.host.entered(), contextlib.closing(PacketQueue.open({_QUEUE: 16})):
        return Finding(True, "a queue can be bound")


def _transparent(bench: Bench) -> Finding:
    for family in bench.families:
        v4 = family == 4
        sock = bench.host.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_STREAM)
        with sock:
            option = (_SOL_IP, _IP_TRANSPARENT) if v4 else (_SOL_IPV6, _IPV6_TRANSPARENT)
            sock.setsockopt(*option, 1)
            # An address that this host does not have.
            sock.bind(("192.0.2.1" if v4 else "2001:db8::1", 0))
    return Finding(True, " and ".join(f"IPv{family}" for family in bench.families))


def _so_mark(bench: Bench) -> Finding:
    with bench.host.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_DONE)
    return Finding(True, "can be set")


def _routing(bench: Bench) -> Finding:
    with bench.host.entered():
        routing = Routing(bench.families)
        try:
            routing.install()
        finally:
            routing.remove()
    return Finding(True, "rules, routes and sysctls can be set")


def _raw(bench: Bench) -> Finding:
    try:
        with bench.host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP):
            return Finding(True, "can be made")
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return Finding(False, error.strerror or "forbidden")


R, O = Need.REQUIRED, Need.OPTIONAL  # noqa: E741 (columns of a table)

TRIALS: Final[tuple[Check[Bench], ...]] = (
    Check(
        *("netfilter", "firewall", R, _firewall),
        "no rule of the daemon can be installed",
        "see to `iptables` below; nft serves where the kernel has CONFIG_NFT_QUEUE",
    ),
    Check(
        *("netfilter", "iptables", O, _variants),
        "it cannot be used; see `firewall` for what is used instead",
        "install iptables 1.8 (Debian: apt-get install iptables), or load what is missing below",
    ),
    *(
        Check(
            *("netfilter", feature.name, O, _feature(feature.name)),
            feature.meaning,
            f"modprobe {feature.module}; in a container, load it on the machine itself",
        )
        for feature in FEATURES
    ),
    Check(
        *("netfilter", "nfnetlink_queue", R, _bind),
        "the packets of handshakes do not reach the daemon",
        "modprobe nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE)",
    ),
    Check(
        *("netfilter", "nft", Need.INFORMATION, _nft),
        "nothing, as long as iptables works, which comes first",
        "nothing, or install nft 1.0 and use a kernel with CONFIG_NFT_QUEUE",
    ),
    Check(
        *("sockets", "IP_TRANSPARENT", R, _transparent),
        "services would not see the address of their client",
        "run as root, with a kernel that has CONFIG_NETFILTER_XT_TARGET_TPROXY",
    ),
    Check(
        *("sockets", "SO_MARK", R, _so_mark),
        "the daemon's own connections would be steered to itself",
        "run as root",
    ),
    Check(
        *("sockets", "policy routing", R, _routing),
        "steered packets do not reach the daemon",
        "use a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES",
    ),
    Check(
        *("sockets", "raw sockets", O, _raw),
        "`tcpcrypt probe` does not work; the daemon does",
        "give CAP_NET_RAW to who runs it",
    ),
)
