"""What `tcpcrypt doctor` tries out, in a private network namespace and never on the host.

Whether a kernel has a match or a target of iptables is only known once it was
asked to install a rule with it: modules are loaded by that, and in containers
they are often kept back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.iptables import rendered
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.routing import Routing
from tcpcrypt.runtime.rules import MARK_DONE, MARK_MASK, MARK_STEERED, Rule
from tcpcrypt.tools.findings import Check, Finding, Need
from tcpcrypt.tools.netns import Host, Lab

__all__ = ["FEATURES", "TRIALS", "Bench"]

_SECONDS: Final = 20.0
_QUEUE: Final = 1
_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_COMMANDS: Final = {4: "iptables", 6: "ip6tables"}
_VARIANTS: Final = ("", "-nft", "-legacy")
_ERROR_MAX: Final = 160


class Feature(NamedTuple):
    """A match or a target, and a rule with it."""

    name: str
    need: Need
    table: str
    hook: str
    words: str
    module: str
    meaning: str = "no rule of the daemon can be installed"


R, O = Need.REQUIRED, Need.OPTIONAL  # noqa: E741 (columns of a table)
_MARK: Final = f"{MARK_STEERED:#x}/{MARK_MASK:#x}"

FEATURES: Final = (
    Feature(
        *("target NFQUEUE", R, "mangle", "OUTPUT"),
        *(f"-p tcp --syn -j NFQUEUE --queue-num {_QUEUE}", "xt_NFQUEUE"),
    ),
    Feature(
        *("target TPROXY", R, "mangle", "PREROUTING"),
        *(f"-i lo -p tcp -j TPROXY --on-port 1 --tproxy-mark {_MARK}", "xt_TPROXY"),
    ),
    Feature(
        *("target MARK", R, "mangle", "OUTPUT", f"-p tcp -j MARK --set-xmark {_MARK}", "xt_mark"),
    ),
    Feature(
        *("match mark", R, "mangle", "POSTROUTING", f"-m mark --mark {_MARK} -j DROP", "xt_mark"),
    ),
    Feature(
        *("target CONNMARK", R, "mangle", "POSTROUTING"),
        *("-p tcp -j CONNMARK --save-mark --nfmask 0xf00000 --ctmask 0xf00000", "xt_connmark"),
    ),
    Feature(
        *("match connmark", R, "mangle", "OUTPUT"),
        *(f"-m connmark --mark {_MARK} -j RETURN", "xt_connmark"),
    ),
    Feature(
        *("match conntrack", R, "mangle", "INPUT"),
        *("-p tcp -m conntrack --ctstate NEW -j RETURN", "xt_conntrack"),
    ),
    Feature(
        *("match socket", R, "mangle", "INPUT"),
        *("-p tcp -m socket --nowildcard --restore-skmark -j RETURN", "xt_socket"),
    ),
    Feature(
        *("match tcp-option 69", R, "mangle", "PREROUTING"),
        *("-p tcp --syn --tcp-option 69 -j RETURN", "xt_tcpudp"),
    ),
    Feature(
        *("match addrtype", R, "mangle", "PREROUTING"),
        *("-m addrtype --dst-type LOCAL -j RETURN", "xt_addrtype"),
    ),
    Feature(*("target CT", R, "raw", "OUTPUT", "-p tcp -j CT --notrack", "xt_CT")),
    Feature(
        *("target REJECT", R, "filter", "OUTPUT", "-p tcp -j REJECT --reject-with tcp-reset"),
        "ipt_REJECT, ip6t_REJECT",
    ),
    Feature(
        *("match multiport", O, "mangle", "OUTPUT"),
        *("-p tcp -m multiport --dports 1,2:3 -j RETURN", "xt_multiport"),
        "policies with several ports cannot be installed",
    ),
    Feature(
        *("match owner", O, "mangle", "OUTPUT"),
        *("-p tcp -m owner --uid-owner 0-1 -j RETURN", "xt_owner"),
        "policies by user cannot be installed",
    ),
    Feature(
        *("match cgroup", O, "mangle", "OUTPUT"),
        *("-p tcp -m cgroup --path / -j RETURN", "xt_cgroup"),
        "policies by control group cannot be installed",
    ),
)


class Bench:
    """A private network namespace, and what of iptables works in it.

    A context manager.  Raises `OSError` or `LocalError` where the system
    gives no namespace.
    """

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self.families = tuple(families)
        self.variants: dict[int, dict[str, dict[str, str]]] = {}
        """By family and command: the features that fail, and why."""
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
                        name: self._failing(family, name, lock) for name in _distinct(found)
                    }
        except BaseException:
            self._lab.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lab.close()

    def _failing(self, family: int, command: str, lock: str) -> dict[str, str]:
        """Everything at once, and one by one only if that fails."""
        try:
            self._restore(family, command, FEATURES, lock)
        except LocalError:
            pass
        else:
            return {}
        failing = {}
        for feature in FEATURES:
            try:
                self._restore(family, command, (feature,), lock)
            except LocalError as error:
                failing[feature.name] = str(error)
        return failing

    def _restore(self, family: int, command: str, features: Sequence[Feature], lock: str) -> None:
        rules = [Rule(f.table, f.hook, tuple(f.words.split())) for f in features]
        self.run(
            *(f"{command}-restore", "--noflush", "--wait", "5"),
            text=rendered(rules, family),
            environment={**os.environ, "XTABLES_LOCKFILE": lock},
        )

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
        required = {feature.name for feature in FEATURES if feature.need is Need.REQUIRED}
        found = self.variants.get(family)
        if not found:
            raise LocalError(f"{_COMMANDS[family]}-restore is not installed")
        return min(found.items(), key=lambda item: len(required & set(item[1])))


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
        required = [f.name for f in FEATURES if f.need is Need.REQUIRED and f.name in failing]
        ok = ok and not required
        parts.append(f"{bench.run(command, '-V').strip()} works" if not failing else command)
        for name, lacks in bench.variants[family].items():
            if name != command or lacks:
                parts.append(f"{name} lacks {_listed(lacks)}" if lacks else f"{name} works too")
    return Finding(ok, "; ".join(parts))


def _listed(failing: dict[str, str]) -> str:
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


def _nft_queue(bench: Bench) -> Finding:
    script = (
        "add table inet doctor\n"
        "add chain inet doctor c { type filter hook output priority 0; }\n"
        f"add rule inet doctor c tcp flags syn queue num {_QUEUE}\n"
    )
    if shutil.which("nft") is None:
        return Finding(False, "unknown without nft")
    try:
        bench.run("nft", "-f", "-", text=script)
    except LocalError:
        return Finding(False, "the kernel does not take it")
    return Finding(True, "there")


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


TRIALS: Final[tuple[Check[Bench], ...]] = (
    Check(
        *("netfilter", "iptables", R, _variants),
        "rules cannot be installed",
        "install iptables 1.8 (Debian: apt-get install iptables), or load what is missing below",
    ),
    *(
        Check(
            *("netfilter", feature.name, feature.need, _feature(feature.name)),
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
        *("netfilter", "nft queue statement", Need.INFORMATION, _nft_queue),
        "nothing: the daemon's rules are those of iptables",
        "nothing",
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
