"""A configuration in plain words.

What each line means, what each policy does, and what may not be meant.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tcpcrypt.core.policy import SEGMENT, FlowDirection, Match, Mode, Network, Policy
from tcpcrypt.daemon import demands, values
from tcpcrypt.daemon.configuration import Configuration, DaemonSettings, Document
from tcpcrypt.daemon.keys import SECTIONS

__all__ = ["Meaning", "Warn", "file_warnings", "meanings", "sentence", "warnings"]

_SSH: Final = (range(22, 23),)
_ALL_PORTS: Final = (range(1, 65536),)
_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_LINK_LOCAL: Final = (ipaddress.ip_network("fe80::/10"),)
_EVERYWHERE: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


CGROUPS: Final = Path("/sys/fs/cgroup")
"""Where cgroup v2 is, if this host has it alone."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one line, or a part of it, means."""

    line: int
    section: str
    key: str
    """Empty: the line begins a section."""
    policy: int | None
    """Counted from 1."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that is allowed and perhaps not meant."""

    line: int
    policy: int | None
    """Counted from 1."""
    message: str


def meanings(document: Document) -> list[Meaning]:
    """What each line of the file means, in the file's order."""
    found = []
    for line, section, policy in document.headers:
        number = None if policy is None else policy + 1
        text = SECTIONS[section]
        if section == "policy":
            text = f"Policy {number} begins."
        elif number is not None:
            text = f"The conditions of policy {number}; all of them have to hold."
        found.append(Meaning(line, section, "", number, text))
    for setting in document.settings:
        key = setting.key
        text = key.says.format(key.kind.say(setting.value))
        number = None if setting.policy is None else setting.policy + 1
        found.append(
            Meaning(setting.line, key.section, key.name, number, text[:1].upper() + text[1:])
        )
    return sorted(found, key=lambda meaning: (meaning.line, bool(meaning.key)))


def sentence(policy: Policy) -> str:
    """What will happen to the connections that `policy` names."""
    match = policy.match
    ports = f" to {values.PORTS.say(match.ports)}" if match.ports else ""
    hosts = f"hosts in {values.NETWORKS.say(match.remote)}" if match.remote else ""
    here = f"address {values.NETWORKS.say(match.local)}" if match.local else ""
    if match.inner:
        words = _of_a_gateway(match, ports, hosts)
    elif match == Match():
        words = "All TCP connections between this host and others"
    elif match.direction is FlowDirection.INCOMING:
        words = f"Connections that {hosts or 'other hosts'} open{ports or ' to this host'}"
        words += f", at this host's {here}," if here else ""
    elif match.direction is FlowDirection.OUTGOING:
        openers = [values.UIDS.say(match.uids)] if match.uids else []
        if match.cgroups:
            openers.append(f"control group {values.CGROUPS.say(match.cgroups)}")
        opener = f"programs of {' in '.join(openers)} open" if openers else "this host opens"
        words = f"Connections that {opener}{ports}"
        words += f" {'of' if ports else 'to'} {hosts}" if hosts else ""
        words += f", from this host's {here}," if here else ""
    else:
        words = f"Connections{ports}, opened by this host or by {hosts or 'others'},"
        if hosts:
            words = f"Connections{ports} between this host and {hosts}"
        words += f", at this host's {here}," if here else ""
    done = {
        Mode.NEVER: "are left alone",
        Mode.OPPORTUNISTIC: "are encrypted where the other host and the path allow it,"
        " and go in the clear where not",
        Mode.REQUIRE: "are encrypted or refused",
    }[policy.mode]
    return f"{words} {done}.".replace(",,", ",") + demands.sentences(policy)


def _of_a_gateway(match: Match, ports: str, hosts: str) -> str:
    behind = f"hosts behind {values.INTERFACES.say(match.inner)}"
    if match.local:
        behind += f" in {values.NETWORKS.say(match.local)}"
    elsewhere = hosts or "hosts elsewhere"
    opened = {
        None: f"Connections{ports} between {behind} and {elsewhere}",
        FlowDirection.OUTGOING: f"Connections that {behind} open{ports} to {elsewhere}",
        FlowDirection.INCOMING: f"Connections that {elsewhere} open{ports} to {behind}",
    }[match.direction]
    return f"{opened}, which this host forwards,"


def warnings(document: Document) -> list[Warn]:
    """What may not be meant, by line.  The document has to be without problems."""
    configuration = document.configuration
    if configuration is None:
        return []
    found = list(_of_the_whole(configuration))
    modes = {s.policy: s.value for s in document.settings if s.key.name == "mode"}
    for index, policy in enumerate(configuration.policies):
        line = document.policy_line(index)
        found += [
            Warn(line, index + 1, text) for text in _of_conditions(policy, configuration.daemon)
        ]
        mode = modes.get(index, policy.mode.value)
        found += [Warn(line, index + 1, text) for text in demands.warnings(policy, mode)]
        earlier = configuration.policies[:index]
        found += [Warn(line, index + 1, text) for text in _of_ssh(policy, earlier)]
        covering = _covering(earlier, policy.match)
        if covering:
            these = " and ".join(
                f"{number + 1} (line {document.policy_line(number)})" for number in covering
            )
            verb = "cover" if len(covering) > 1 else "covers"
            plural = "policies" if len(covering) > 1 else "policy"
            found.append(Warn(line, index + 1, f"never used: {plural} {these} {verb} all it names"))
    return sorted(found, key=lambda warn: warn.line)


def file_warnings(path: Path) -> list[Warn]:
    """Who else could change the file at `path`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return []
    if stat.S_ISREG(mode) and mode & (stat.S_IWGRP | stat.S_IWOTH):
        return [Warn(0, None, "others than its owner may write the file: chmod go-w")]
    return []


def _of_the_whole(configuration: Configuration) -> Iterator[Warn]:
    if not configuration.policies:
        yield Warn(0, None, "no policy: no connection will be encrypted")
    elif all(policy.mode is Mode.NEVER for policy in configuration.policies):
        yield Warn(0, None, 'every policy says "never": no connection will be encrypted')
    required = any(policy.mode is Mode.REQUIRE for policy in configuration.policies)
    if required and configuration.daemon.guard == "remove":
        yield Warn(
            0,
            None,
            'guard = "remove": once it is stopped, connections under `require` go in the clear',
        )
    if not configuration.daemon.tofu_enforce and any(
        policy.auth == "tofu" for policy in configuration.policies
    ):
        yield Warn(
            0, None, "tofu_enforce = false: whoever takes a known host's place is logged and served"
        )
    if configuration.daemon.keylog is not None:
        yield Warn(0, None, "keylog: whoever reads that file can decrypt every connection")
    try:
        pwd.getpwnam(configuration.daemon.user)
    except KeyError:
        yield Warn(
            0,
            None,
            f'this host has no user "{configuration.daemon.user}"; "nobody" takes its place',
        )


def _of_ssh(policy: Policy, earlier: Sequence[Policy]) -> Iterator[str]:
    """Whoever breaks ssh may not be able to mend it."""
    match, mode = policy.match, policy.mode
    ports = match.ports or _ALL_PORTS
    ssh = replace(match, ports=_SSH)
    if mode is Mode.NEVER or not _within(_SSH, ports) or _covering(earlier, ssh):
        return
    named = "names port 22" if match.ports else "names all ports, ssh's 22 among them"
    if mode is Mode.REQUIRE:
        yield (
            f"{named}, and requires encryption: you could lock yourself out;"
            " try it with `tcpcrypt up --confirm 60s`"
        )
    else:
        yield f"{named}: be sure of another way into this host while you try it"


def _of_conditions(policy: Policy, daemon: DaemonSettings) -> Iterator[str]:
    """What a policy reaches that it perhaps should not, and not what it should."""
    match, mode = policy.match, policy.mode
    if mode is Mode.NEVER:
        return
    if mode is Mode.REQUIRE and _subset(_EVERYWHERE, match.remote):
        yield "requires encryption from hosts everywhere: those without tcpcrypt are refused"
    families = [
        {network.version for network in networks}
        for networks in (match.local, match.remote)
        if networks
    ]
    common = set.intersection({4, 6}, *families)
    if not common:
        yield "never used: `local` and `remote` have no IP version in common"
    for version in sorted(common.difference(daemon.families or common)):
        effect = "refused" if mode is Mode.REQUIRE else "left alone"
        yield f"reaches IPv{version}, which `families` leaves out: connections there are {effect}"
    devices = {name for _index, name in socket.if_nameindex()}
    for name in match.inner:
        if name not in devices:
            yield f"names interface {name}, which this host does not have now"
    if policy.plane == SEGMENT and mode is Mode.OPPORTUNISTIC and policy.auth == "tofu":
        yield (
            "the segment plane tells a program that it is connected before the other host has"
            " proved its key; no data passes until it has"
        )
    for path in match.cgroups:
        if CGROUPS.joinpath("cgroup.procs").exists() and not CGROUPS.joinpath(path).is_dir():
            yield f"names control group {path}, which this host does not have now"
    for networks in (match.local, match.remote):
        if networks and _subset(networks, _LOOPBACK):
            yield "names the loopback alone: connections within this host are left alone"
        if networks and _subset(networks, _LINK_LOCAL):
            done = "refused" if mode is Mode.REQUIRE else "left alone"
            yield f"names link-local addresses alone: connections to these are {done}"


def _covering(earlier: Sequence[Policy], match: Match) -> list[int]:
    """Indices of the policies that together leave nothing to `match`; empty: none do.

    A policy counts if it holds wherever `match` does, ports aside; the ports of
    such policies are taken together.
    """
    wanted = match.ports or _ALL_PORTS
    indices: list[int] = []
    ports: list[range] = []
    for index, policy in enumerate(earlier):
        other = policy.match
        if (
            bool(other.inner) is bool(match.inner)
            and other.direction in (None, match.direction)
            and _subset(match.local or _EVERYWHERE, other.local)
            and _subset(match.remote or _EVERYWHERE, other.remote)
            and (not other.uids or (match.uids and _within(match.uids, other.uids)))
            and (not other.cgroups or (match.cgroups and _below(match.cgroups, other.cgroups)))
        ):
            these = other.ports or _ALL_PORTS
            if _within(wanted, these):
                return [index]
            if any(a.start < b.stop and b.start < a.stop for a in wanted for b in these):
                indices.append(index)
                ports += these
    return indices if _within(wanted, ports) else []


def _subset(networks: Iterable[Network], of: tuple[Network, ...]) -> bool:
    """Whether `of`, where empty means all addresses, holds all of `networks`."""
    if not of:
        return True
    # Two halves make a whole: what lies side by side is taken together.
    four = [n for n in of if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in of if isinstance(n, ipaddress.IPv6Network)]
    whole4 = list(ipaddress.collapse_addresses(four))
    whole6 = list(ipaddress.collapse_addresses(six))
    return all(
        any(network.subnet_of(other) for other in whole4)
        if isinstance(network, ipaddress.IPv4Network)
        else any(network.subnet_of(other) for other in whole6)
        for network in networks
    )


def _within(wanted: Iterable[range], given: Iterable[range]) -> bool:
    """Whether the ranges `given`, taken together, hold all numbers of `wanted`."""
    merged: list[range] = []
    for numbers in sorted(given, key=lambda numbers: numbers.start):
        if merged and numbers.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, numbers.stop))
        else:
            merged.append(numbers)
    return all(
        any(whole.start <= numbers.start and numbers.stop <= whole.stop for whole in merged)
        for numbers in wanted
    )


def _below(paths: Iterable[str], ancestors: Iterable[str]) -> bool:
    return all(
        any(path == above or path.startswith(above + "/") for above in ancestors) for path in paths
    )
