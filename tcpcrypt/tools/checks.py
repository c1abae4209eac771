"""What `tcpcrypt doctor` looks at on the host itself, without changing anything."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import time
from pathlib import Path
from typing import Final

import tcpcrypt
from tcpcrypt import _fast
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.sockops import Attachment
from tcpcrypt.tools.findings import Check, Facts, Finding, Need
from tcpcrypt.tools.surroundings import SURROUNDINGS

__all__ = ["HOST_CHECKS"]

_CAPABILITIES: Final = {
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}
_DESCRIPTORS_A_CONNECTION: Final = 2
_DESCRIPTORS_WANTED: Final = 16384
_CONNTRACK_FULL: Final = 0.9
_SOCK_OPS_SINCE: Final = (5, 19)
"""Helpers for header options, loops, and maps in the hands of processes without privileges."""


def _capability(*names: str) -> Finding:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    missing = [name for name in names if not effective >> _CAPABILITIES[name] & 1]
    return Finding(not missing, f"{' and '.join(missing)} missing" if missing else "effective")


def _program(*names: str) -> Finding:
    missing = [name for name in names if shutil.which(name) is None]
    return Finding(not missing, f"no {', '.join(missing)}" if missing else "found")


def _restorers(facts: Facts) -> Finding:
    return _program("iptables-restore", *(["ip6tables-restore"] if _has_ipv6(facts) else []))


def _has_ipv6(facts: Facts) -> bool:
    return facts.read("proc/net/if_inet6") is not None


def _descriptors(_facts: Facts) -> Finding:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Finding(True, "no limit")
    many = hard // _DESCRIPTORS_A_CONNECTION
    return Finding(hard >= _DESCRIPTORS_WANTED, f"{hard:,}, for about {many:,} connections")


def _kernel(_facts: Facts) -> Finding:
    return Finding(_version() >= (4, 18), f"Linux {platform.release()}")


def _version() -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _ipv6(facts: Facts) -> Finding:
    if not _has_ipv6(facts):
        return Finding(False, "this kernel has none, or it is switched off")
    off = facts.read("proc/sys/net/ipv6/conf/all/disable_ipv6") == "1"
    return Finding(True, "there, disabled on all devices" if off else "there")


_SYSCTLS: Final = (
    ("net/ipv4/tcp_fwmark_accept", (4,)),
    ("net/ipv4/fwmark_reflect", (4,)),
    ("net/ipv6/fwmark_reflect", (6,)),
)


def _sysctls(facts: Facts) -> Finding:
    values = {
        name.replace("/", "."): facts.read(f"proc/sys/{name}")
        for name, families in _SYSCTLS
        if families == (4,) or _has_ipv6(facts)
    }
    missing = [name for name, value in values.items() if value is None]
    if missing:
        return Finding(False, f"no {', '.join(missing)}")
    return Finding(True, ", ".join(f"{name}={value}" for name, value in values.items()))


def _rp_filter(facts: Facts) -> Finding:
    names = ("all", "default", "lo")
    values = [(name, facts.read(f"proc/sys/net/ipv4/conf/{name}/rp_filter")) for name in names]
    return Finding(True, ", ".join(f"{name}={value}" for name, value in values))


def _conntrack(facts: Facts) -> Finding:
    most = facts.read("proc/sys/net/netfilter/nf_conntrack_max")
    used = facts.read("proc/sys/net/netfilter/nf_conntrack_count")
    if most is None or used is None:
        return Finding(True, "not loaded yet; it is loaded with the first rule that needs it")
    # In a namespace of its own the maximum may be 0, which means that of the machine.
    full = 0 < int(most) * _CONNTRACK_FULL < int(used)
    return Finding(not full, f"{int(used):,} of {int(most):,} entries in use")


def _cgroup(facts: Facts) -> Finding:
    places = [
        parts[1]
        for parts in (line.split() for line in facts.lines("proc/mounts"))
        if len(parts) > 2 and parts[2] == "cgroup2"
    ]
    return Finding(bool(places), f"mounted at {places[0]}" if places else "not mounted")


def _sock_ops(facts: Facts) -> Finding:
    reasons = []
    if _version() < _SOCK_OPS_SINCE:
        reasons.append("Linux is older than 5.19")
    if not _capability("CAP_NET_ADMIN").ok:
        reasons.append("CAP_NET_ADMIN is missing")
    if not (_capability("CAP_BPF").ok or _capability("CAP_SYS_ADMIN").ok):
        barred = facts.read("proc/sys/kernel/unprivileged_bpf_disabled")
        reasons.append(f"CAP_BPF is missing (unprivileged_bpf_disabled={barred})")
    if _in_user_namespace(facts):
        reasons.append("this is a user namespace")
    if not reasons:
        try:
            Attachment().close()
        except LocalError as error:
            reasons.append(str(error))
    return Finding(not reasons, "; ".join(reasons) or "the program loads and can be attached")


def _in_user_namespace(facts: Facts) -> bool:
    words = (facts.read("proc/self/uid_map") or "0 0 4294967295").split()
    return words[2] != "4294967295"


def _user_namespaces(facts: Facts) -> Finding:
    if os.geteuid() == 0:
        return Finding(True, "not needed by root")
    most = facts.read("proc/sys/user/max_user_namespaces")
    clone = facts.read("proc/sys/kernel/unprivileged_userns_clone")
    barred = facts.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    ok = most not in (None, "0") and clone != "0" and barred != "1"
    return Finding(ok, "allowed" if ok else "forbidden to ordinary users")


def _extension(_facts: Facts) -> Finding:
    return Finding(_fast.IMPLEMENTATION == "c", f"_fast.IMPLEMENTATION is {_fast.IMPLEMENTATION!r}")


def _openssl(_facts: Facts) -> Finding:
    from cryptography.hazmat.backends.openssl.backend import backend  # noqa: PLC0415 (slow)

    return Finding(True, backend.openssl_version_text())


def _ml_kem(_facts: Facts) -> Finding:
    from tcpcrypt.crypto import hybrid  # noqa: PLC0415 (slow)

    there = hybrid.available()
    return Finding(there, "X25519MLKEM768 works" if there else "no ML-KEM in `cryptography`")


def _cpu_aes(facts: Facts) -> Finding:
    words = next(
        (line for line in facts.lines("proc/cpuinfo") if re.match(r"(flags|Features)\s*:", line)),
        "",
    ).split()
    return Finding("aes" in words, "there" if "aes" in words else "not among the CPU's features")


def _clock(_facts: Facts) -> Finding:
    built = Path(tcpcrypt.__file__).stat().st_mtime
    stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return Finding(time.time() > built - 86400, stamp)


R, O, I = Need.REQUIRED, Need.OPTIONAL, Need.INFORMATION  # noqa: E741 (columns of a table)
_PACKAGES: Final = "Debian: apt-get install iproute2 iptables util-linux"

HOST_CHECKS: Final[tuple[Check[Facts], ...]] = (
    Check(
        *("process", "CAP_NET_ADMIN", R, lambda _: _capability("CAP_NET_ADMIN")),
        "rules, marks and netfilter queues are out of reach",
        "run this, and the daemon, as root",
    ),
    Check(
        *(
            "process",
            "CAP_SETUID, CAP_SETGID",
            O,
            lambda _: _capability("CAP_SETUID", "CAP_SETGID"),
        ),
        "the daemon's worker cannot become an unprivileged user",
        "run the daemon as root of the machine",
    ),
    Check(
        *("process", "CAP_NET_RAW", O, lambda _: _capability("CAP_NET_RAW")),
        "`tcpcrypt probe` cannot send its SYNs; the daemon does not need it",
        "run `tcpcrypt probe` as root",
    ),
    Check(
        *("process", "file descriptors", O, _descriptors),
        "more connections at a time than that are refused",
        "raise the hard limit: LimitNOFILE= in the unit, `ulimit -Hn` in a shell",
    ),
    Check(
        *("programs", "iptables-restore", O, _restorers),
        "rules are installed by nft, if that can (see `firewall`)",
        _PACKAGES,
    ),
    Check(*("programs", "ip", R, lambda _: _program("ip")), "no policy routes", _PACKAGES),
    Check(
        *("programs", "nsenter, setpriv", O, lambda _: _program("nsenter", "setpriv")),
        "self-test, `tcpcrypt demo` and `tcpcrypt bench` do not run; the daemon does",
        _PACKAGES,
    ),
    Check(
        *("programs", "nft", I, lambda _: _program("nft")),
        "nothing, as long as iptables works, which comes first",
        "nothing, or Debian: apt-get install nftables",
    ),
    Check(
        *("kernel", "version", R, _kernel),
        "rules and sockets of older kernels differ from what the daemon expects",
        "run Linux 4.18 or newer",
    ),
    Check(
        *("kernel", "IPv6", O, _ipv6),
        "connections over IPv4 alone are served",
        "nothing, if that is as you want it",
    ),
    Check(
        *("kernel", "sysctls of marks", R, _sysctls),
        "answers of services would not come back to the daemon",
        "use a kernel with tcp_fwmark_accept and fwmark_reflect (Linux 3.14); the daemon sets"
        " them to 1 and back when it ends",
    ),
    Check(
        *("kernel", "rp_filter", I, _rp_filter),
        "nothing: what comes over the loopback has been routed already",
        "nothing",
    ),
    Check(
        *("kernel", "connection tracking", O, _conntrack),
        "when the table is full the kernel drops new connections, encrypted or not",
        "sysctl -w net.netfilter.nf_conntrack_max=… (twice the connections expected, and more)",
    ),
    Check(
        *("kernel", "cgroup v2", O, _cgroup),
        "policies by control group cannot match",
        "mount it: mount -t cgroup2 none /sys/fs/cgroup, or boot with"
        " systemd.unified_cgroup_hierarchy=1",
    ),
    Check(
        *("kernel", "eBPF sock_ops", I, _sock_ops),
        "the option goes in and out by netfilter queue; the backends sockops and mixed would not"
        " start",
        "nothing, unless you want one of them: give the daemon CAP_BPF, install libbpf (Debian:"
        " libbpf1), and build with clang and libbpf's headers (clang, libbpf-dev)",
    ),
    Check(
        *("kernel", "user namespaces", I, _user_namespaces),
        "without root no self-test and no demo",
        "run them as root, or allow it: sysctl -w user.max_user_namespaces=10000 and, where they"
        " exist, kernel.unprivileged_userns_clone=1 and"
        " kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    Check(
        *("cryptography", "extension", O, _extension),
        "the hot path runs in Python, at a fraction of the speed",
        "unset TCPCRYPT_PUREPYTHON; build with a C compiler and OpenSSL's headers"
        " (Debian: apt-get install gcc libssl-dev python3-dev), then `make build`",
    ),
    Check(*("cryptography", "OpenSSL", R, _openssl), "no cryptography", "reinstall `cryptography`"),
    Check(
        *("cryptography", "ML-KEM", I, _ml_kem),
        "recorded traffic of policies that authenticate is not safe from a later quantum"
        ' computer, and policies with pq = "require" do not start',
        "install cryptography 47 or later, as `pip install --upgrade cryptography` does",
    ),
    Check(
        *("cryptography", "AES in the CPU", I, _cpu_aes),
        "AES-GCM is slow here",
        "prefer ChaCha20-Poly1305: put it first in aeads of [crypto] in tcpcrypt.toml",
    ),
    Check(
        *("cryptography", "clock", I, _clock),
        "the clock is behind the time at which this software was installed: the stamps of the log"
        " are wrong; encryption does not need the clock",
        "set it: timedatectl set-ntp true",
    ),
    *SURROUNDINGS,
)
