"""What `tcpcrypt doctor` finds around the daemon: its file, its traces, other firewalls."""

from __future__ import annotations

import os
import re
from typing import Final

from tcpcrypt.core.policy import Policy
from tcpcrypt.daemon.configuration import DEFAULT_PATH, ConfigurationError, DaemonSettings, parse
from tcpcrypt.daemon.confinement import find_account
from tcpcrypt.runtime.installation import QUEUE_NUMBERS
from tcpcrypt.runtime.nft_words import TABLE
from tcpcrypt.runtime.routing import TABLE_LOCAL
from tcpcrypt.runtime.rules import CHAIN_PREFIX
from tcpcrypt.runtime.segment_queue import INNER_QUEUE, OUTER_QUEUE
from tcpcrypt.runtime.segment_rules import is_segment
from tcpcrypt.tools.findings import Check, Facts, Finding, Need

__all__ = ["SURROUNDINGS"]

_IPV6_MTU_MIN: Final = 1280
_LIBERAL: Final = "proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"
_UNREADABLE: Final = "the configuration cannot be read"
_QUEUES: Final = QUEUE_NUMBERS | {INNER_QUEUE, OUTER_QUEUE}
_OTHERS: Final = {
    "Docker": r"^:DOCKER",
    "ufw": r"^:ufw6?-",
    "fail2ban": r"^:f2b-",
    "Kubernetes": r"^:KUBE-",
    "libvirt": r"^:LIBVIRT",
    "a default policy of DROP": r"^:(INPUT|OUTPUT|FORWARD) DROP",
}
"""By what chain in iptables-save one knows them."""
_OUR_CHAIN: Final = f":{CHAIN_PREFIX}"
_OUR_TABLE: Final = f"table inet {TABLE}"
_OTHER_TABLES: Final = {"firewalld": r"^table inet firewalld$", "nftables": r"^table inet filter$"}


def _configuration(facts: Facts) -> Finding:
    text = facts.read(str(DEFAULT_PATH).lstrip("/"))
    if text is None:
        return Finding(False, f"no {DEFAULT_PATH}")
    try:
        found = parse(text, str(DEFAULT_PATH))
    except ConfigurationError as error:
        return Finding(False, str(error))
    return Finding(True, f"{DEFAULT_PATH}, {len(found.policies)} policies")


def _account(_facts: Facts) -> Finding:
    account = find_account(DaemonSettings().user)
    if account is None:
        return Finding(False, "this user namespace has one user alone")
    return Finding(account.name == DaemonSettings().user, account.name)


def _others(facts: Facts) -> Finding:
    found = []
    for patterns, commands in (
        (_OTHERS, (("iptables-save",), ("ip6tables-save",), ("iptables-legacy-save",))),
        (_OTHER_TABLES, (("nft", "list", "tables"),)),
    ):
        text = "\n".join(facts.run(*command) or "" for command in commands)
        found += [name for name, known in patterns.items() if re.search(known, text, re.MULTILINE)]
    return Finding(not found, ", ".join(found) or "none that is known")


def _running(facts: Facts) -> Finding:
    if not daemon_runs(facts):
        return Finding(True, "none in this network namespace")
    queues = [line.split() for line in facts.lines("proc/net/netfilter/nfnetlink_queue")]
    pids = {q[1] for q in queues if len(q) > 1 and q[0].isdecimal() and int(q[0]) in _QUEUES}
    return Finding(True, f"running, process {', '.join(sorted(pids))}" if pids else "running")


def _segment_policies(facts: Facts) -> list[Policy]:
    """Those of the segment plane.  Raises `ConfigurationError`."""
    text = facts.read(str(DEFAULT_PATH).lstrip("/"))
    return [p for p in parse(text or "", str(DEFAULT_PATH)).policies if is_segment(p)]


def _gateway(facts: Facts) -> Finding:
    """What policies of a gateway (`match.inner`) depend on."""
    try:
        policies = _segment_policies(facts)
    except ConfigurationError:
        return Finding(True, _UNREADABLE)
    names = {name for policy in policies for name in policy.match.inner}
    if not names:
        return Finding(True, "no policy is for one")
    missing = [name for name in sorted(names) if facts.read(f"sys/class/net/{name}/mtu") is None]
    if missing:
        return Finding(False, f"no interface {', '.join(missing)}")
    ways = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    if not any(facts.read(f"proc/sys/net/{way}") == "1" for way in ways):
        return Finding(False, "this host forwards nothing")
    return Finding(True, f"forwards for {', '.join(sorted(names))}")


def _sequence_numbers(facts: Facts) -> Finding:
    """Whether connection tracking lets segments be whose numbers are others behind this host."""
    try:
        policies = _segment_policies(facts)
    except ConfigurationError:
        return Finding(True, _UNREADABLE)
    if not policies:
        return Finding(True, "no policy changes segments")
    setting = facts.read(_LIBERAL)
    if setting is None:
        return Finding(True, "connection tracking is not loaded")
    if setting == "1":
        return Finding(True, "not checked")
    if daemon_runs(facts):
        return Finding(False, "checked, though tcpcryptd runs")
    if not os.access(facts.root / _LIBERAL, os.W_OK):
        return Finding(False, "checked, and tcpcryptd may not change it")
    return Finding(True, "checked until tcpcryptd starts")


def daemon_runs(facts: Facts) -> bool:
    """Whether a tcpcryptd has the lock of this network namespace."""
    return any(line.split()[-1:] == ["@tcpcryptd"] for line in facts.lines("proc/net/unix"))


def _left_over(facts: Facts) -> Finding:
    if daemon_runs(facts):
        return Finding(True, "the running daemon's")
    found: dict[str, str] = {}
    for command in ("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"):
        text = facts.run(f"{command}-save") or ""
        chains = sorted(
            {line.split()[0][1:] for line in text.splitlines() if line.startswith(_OUR_CHAIN)}
        )
        # Where iptables is the legacy one, both names tell the same.
        if chains and found.get(command.removesuffix("-legacy")) != ", ".join(chains):
            found[command] = ", ".join(chains)
    if _OUR_TABLE in (facts.run("nft", "list", "tables", "inet") or "").splitlines():
        found["nft"] = _OUR_TABLE
    for family in ("-4", "-6"):
        text = facts.run("ip", family, "rule") or ""
        if re.search(rf"lookup {TABLE_LOCAL}\b", text):
            found[f"ip {family} rule"] = f"lookup {TABLE_LOCAL}"
    text = "; ".join(f"{where}: {what}" for where, what in found.items())
    return Finding(not found, text or "nothing")


def _mtu(facts: Facts) -> Finding:
    found = {}
    for device in sorted((facts.root / "sys/class/net").glob("*")):
        text = facts.read(f"sys/class/net/{device.name}/mtu")
        if text and text.isdecimal() and device.name != "lo":
            found[device.name] = int(text)
    if not found:
        return Finding(True, "no devices but the loopback")
    name = min(found, key=lambda device: found[device])
    smallest = f"smallest {found[name]} ({name})"
    return Finding(found[name] >= _IPV6_MTU_MIN, smallest)


R, O, I = Need.REQUIRED, Need.OPTIONAL, Need.INFORMATION  # noqa: E741 (columns of a table)

SURROUNDINGS: Final[tuple[Check[Facts], ...]] = (
    Check(
        *("surroundings", "configuration", O, _configuration),
        "tcpcryptd does not start by it; it does with --config FILE or --port",
        f"mkdir -p {DEFAULT_PATH.parent}; tcpcrypt policy init {DEFAULT_PATH}; adapt it;"
        f" tcpcrypt policy check {DEFAULT_PATH}",
    ),
    Check(
        *("surroundings", "the worker's user", I, _account),
        "the worker shares its user with others, or has no other to become",
        "useradd --system --no-create-home --shell /usr/sbin/nologin tcpcrypt",
    ),
    Check(
        *("surroundings", "other firewalls", I, _others),
        "their rules stay as they are and apply as well: they see the connections between hosts"
        " with their real addresses and ports, and those between the daemon and programs of this"
        " host on the loopback, which they have to let pass",
        "see that they accept what comes and goes by lo; rules by a program's user see the daemon's"
        " on the wire instead",
    ),
    Check(*("surroundings", "tcpcryptd", I, _running), "", ""),
    Check(
        *("surroundings", "gateway", O, _gateway),
        "policies with `match.inner` protect nothing: no packet comes by where they look",
        "correct the name of the interface, which `ip link` shows; sysctl -w"
        " net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    ),
    Check(
        *("surroundings", "sequence numbers", O, _sequence_numbers),
        'policies with `plane` = "segment" give segments other numbers, which connection tracking'
        " calls invalid: firewalls that drop what is invalid drop them",
        "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1, in a container on its host",
    ),
    Check(
        *("surroundings", "left over of a dead daemon", O, _left_over),
        "a daemon was killed: its rules wait for the next one, or keep up what `require` says",
        "`tcpcrypt up` takes them over, `tcpcrypt down` removes them",
    ),
    Check(
        *("surroundings", "path MTU", I, _mtu),
        "a device below IPv6's minimum of 1280 bytes fragments; encryption adds nothing to a"
        " packet (frames are part of the stream), so the path's MTU stays what it was",
        "see to the device's MTU, whether or not anything is encrypted",
    ),
)
