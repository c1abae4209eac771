"""iptables' words in those of nft: one by one, and all that policies can become."""

import dataclasses
import ipaddress
import itertools
import re

import pytest

from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.diversion import divert_rules
from tcpcrypt.runtime.nft import rules_in
from tcpcrypt.runtime.nft_words import script, translated
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.rules import (
    LISTENER_ADDRESS,
    MARK_DIRECT,
    MARK_STEERED,
    Rule,
    marked,
    set_mark,
    tproxy,
)
from tcpcrypt.runtime.ruleset import accepting_rules, guard_rules, opening_rules

SYN = "tcp flags & (fin | syn | rst | ack)"
PORTS = (range(80, 81), range(8000, 8100))
NETS = tuple(ipaddress.ip_network(text) for text in ("10.9.0.0/16", "2001:db8::/32"))
OWNED = Match(FlowDirection.OUTGOING, uids=(range(1000, 1001), range(5)), cgroups=("/a.slice/b/",))
MATCHES = {
    "anything": Match(),
    "port": Match(ports=PORTS[:1]),
    "range": Match(ports=PORTS[1:]),
    "ports": Match(ports=PORTS),
    "forty ports": Match(ports=tuple(range(p, p + 1 + p % 2) for p in range(100, 500, 10))),
    "remote": Match(remote=NETS),
    "local": Match(local=NETS, ports=PORTS),
    "out": Match(FlowDirection.OUTGOING, ports=PORTS),
    "in": Match(FlowDirection.INCOMING, ports=PORTS),
    "owners": OWNED,
    "owners of ports": dataclasses.replace(OWNED, ports=PORTS, remote=NETS),
}
OLDER = tuple(
    OlderConnection(ipaddress.ip_address(a), 40000, ipaddress.ip_address(b), 80)
    for a, b in (("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2"))
)


KINDS = {"mark": "meta", "connmark": "ct"}
"""Of matches on marks."""
TOLD = {
    "--syn": re.escape(SYN),
    "-i": "iifname",
    "-o": "oifname",
    "-s": r"ip6? saddr ",
    "-d": r"ip6? daddr ",
    "--sport": "sport",
    "--uid-owner": "skuid",
    "--path": "cgroupv2",
    "--tcp-option": "tcp option 69 exists",
    "--tcp-flags": r"tcp flags & \(syn",
    "--dst-type": "fib daddr type local",
    "--ctstate": "ct state",
    "--nowildcard": r"socket transparent \{ 0, 1 \}",
    "--transparent": "socket transparent 1",
    "--queue-num": "queue num",
    "NFQUEUE": "queue num",
    "REJECT": "reject with",
    "CONNMARK": "ct mark set",
    "-g": "goto",
}


def policies_named(name: str, mode: Mode) -> tuple[Policy, ...]:
    return (Policy(mode, MATCHES[name]), Policy(Mode.REQUIRE, MATCHES["ports"]))


def everything(policies: tuple[Policy, ...], *, queue: int | None = None) -> list[Rule]:
    """As a daemon that serves installs it, with the listeners' own rules."""
    rules = [
        *guard_rules(policies, serving=True),
        *divert_rules(),
        *opening_rules(policies, 0, OLDER, policies),
    ]
    for family, port in ((4, 20000), (6, 20001)):
        unasked = ("-i", "lo", "-p", "tcp", "-d", LISTENER_ADDRESS[family], "--dport", str(port))
        rules.append(Rule("mangle", "PREROUTING", (*unasked, "-j", "DROP"), (family,)))
        steered = ("-i", "lo", "-p", "tcp", *marked(MARK_STEERED))
        words = (*steered, *tproxy(family, port, MARK_STEERED))
        rules.append(Rule("mangle", "PREROUTING", words, (family,)))
    return rules + accepting_rules(policies, {4: 20002, 6: 20003}, queue=queue)


def said(words: str, table: str = "mangle", family: int | None = None) -> list[str]:
    families = (4, 6) if family is None else (family,)
    return translated(Rule(table, "OUTPUT", tuple(words.split()), families))


@pytest.mark.parametrize(
    ("words", "nft"),
    [
        ("-p tcp -j RETURN", "meta l4proto tcp return"),
        ("! -i lo -j DROP", 'iifname != "lo" drop'),
        ("-o lo -j RETURN", 'oifname "lo" return'),
        ("-s 10.0.0.0/8 -d 10.0.0.1 -j RETURN", "ip saddr 10.0.0.0/8 ip daddr 10.0.0.1 return"),
        ("-d fe80::/10 -j RETURN", "ip6 daddr fe80::/10 return"),
        ("--sport 5 --dport 80:90 -j DROP", "tcp sport 5 tcp dport 80-90 drop"),
        ("-m multiport --dports 80,8000:8099 -j DROP", "tcp dport { 80, 8000-8099 } drop"),
        # Elements of a set may not overlap, as ports of a policy may.
        ("-m multiport --dports 9,1:5,3:7,8 -j DROP", "tcp dport { 1-9 } drop"),
        ("--syn -j DROP", f"{SYN} == syn drop"),
        ("! --syn -j DROP", f"{SYN} != syn drop"),
        ("--tcp-flags SYN NONE -j DROP", "tcp flags & (syn) == 0 drop"),
        (
            "! --tcp-flags SYN,ACK SYN,ACK -j DROP",
            "tcp flags & (syn | ack) != (syn | ack) drop",
        ),
        ("--tcp-option 69 -j RETURN", "tcp option 69 exists return"),
        ("! --tcp-option 69 -j RETURN", "tcp option 69 missing return"),
        ("-m mark --mark 0x100000/0xf00000 -j DROP", "meta mark & 0x00f00000 == 0x00100000 drop"),
        (
            "-m connmark --mark 0x100000/0xf00000 -j DROP",
            "ct mark & 0x00f00000 == 0x00100000 drop",
        ),
        ("-m conntrack --ctstate INVALID,UNTRACKED -j DROP", "ct state invalid,untracked drop"),
        ("-m addrtype --dst-type LOCAL -j DROP", "fib daddr type local drop"),
        ("-m socket --nowildcard -j DROP", "socket transparent { 0, 1 } drop"),
        (
            "-m socket --nowildcard --restore-skmark -m mark --mark 0x0/0xf00000 -j DROP",
            "socket transparent { 0, 1 } meta mark set socket mark"
            " meta mark & 0x00f00000 == 0x00000000 drop",
        ),
        ("-m owner --uid-owner 1000-1000 -j DROP", "meta skuid 1000 drop"),
        ("-m owner --uid-owner 0-9 -j DROP", "meta skuid 0-9 drop"),
        ("-m cgroup --path a.slice/b -j DROP", 'socket cgroupv2 level 2 "a.slice/b" drop'),
        ("-g TCPCRYPT-STEER", "goto mangle_steer"),
        ("-j NFQUEUE --queue-num 7", "queue num 7"),
        # Bits of others are kept.
        (
            "-j MARK --set-xmark 0x100000/0xf00000",
            "meta mark set meta mark & 0xff0fffff | 0x00100000",
        ),
        ("-j MARK --set-xmark 0x0/0xf00000", "meta mark set meta mark & 0xff0fffff"),
        (
            "-j CONNMARK --set-xmark 0x600000/0xf00000",
            "ct mark set ct mark & 0xff0fffff | 0x00600000",
        ),
        (
            "-m mark --mark 0x600000/0xf00000 -j CONNMARK --save-mark --nfmask 0xf00000"
            " --ctmask 0xf00000",
            "meta mark & 0x00f00000 == 0x00600000 ct mark set ct mark & 0xff0fffff | 0x00600000",
        ),
        ("-j REJECT --reject-with tcp-reset", "reject with tcp reset"),
        ("-j REJECT --reject-with icmp-host-unreachable", "reject with icmp host-unreachable"),
        ("-j REJECT --reject-with icmp6-addr-unreachable", "reject with icmpv6 addr-unreachable"),
    ],
)
def test_words(words: str, nft: str) -> None:
    assert said(words) == [nft]
    assert said(words, family=4) == [f"meta nfproto ipv4 {nft}"]


def test_tproxy_without_a_socket_drops() -> None:
    mark = "meta mark set meta mark & 0xff0fffff | 0x00100000"
    line = "-p tcp -j TPROXY --on-ip {} --on-port 8 --tproxy-mark 0x100000/0xf00000"
    assert said(line.format("127.0.0.1"), family=4) == [
        f"meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:8 {mark} accept",
        "meta nfproto ipv4 meta l4proto tcp drop",
    ]
    assert said(line.format("::1"), family=6) == [
        f"meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:8 {mark} accept",
        "meta nfproto ipv6 meta l4proto tcp drop",
    ]
    # Without an address, once for each IP version.
    assert [
        line.split(" tproxy ")[1].split()[:3]
        for line in said("-p tcp -j TPROXY --on-port 8 --tproxy-mark 0x100000/0xf00000")[::2]
    ] == [["ip", "to", ":8"], ["ip6", "to", ":8"]]


def test_what_nobody_may_translate_is_translated_to_what_it_is() -> None:
    """`accept` in a chain of nat leaves the decision to the next one."""
    assert said("-p tcp -j ACCEPT", "nat") == [
        "meta nfproto ipv4 meta l4proto tcp dnat ip to ip daddr",
        "meta nfproto ipv6 meta l4proto tcp dnat ip6 to ip6 daddr",
    ]
    assert said("-j ACCEPT", "mangle") == ["accept"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "-p",
        "-p tcp",
        "-j LOG",
        "-m statistic -j DROP",
        "--frobnicate 1 -j DROP",
        "-j DROP --syn",
        "-j MARK",
        "-j MARK --set-xmark 0x1/0xf00000",
        "-j MARK --and-mark 0x1",
        "-j NFQUEUE --queue-num 7 --queue-bypass",
        "-j REJECT --reject-with icmp-proto-unreachable",
        "-m socket --mark 0x0/0x1 -j DROP",
        "--dport http -m multiport --dports http -j DROP",
        # Not known which mark that is.
        "-j CONNMARK --save-mark --nfmask 0xf00000 --ctmask 0xf00000",
        "! -m mark --mark 0x1/0x1 -j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x1 -x",
        "-m mark ! --mark 0x1/0x1 -j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x1",
    ],
)
def test_what_is_not_known_is_refused_never_left_out(words: str) -> None:
    with pytest.raises(LocalError, match="nft: no words for"):
        said(words)


def test_control_groups_are_named_from_where_nft_looks() -> None:
    rule = Rule("mangle", "OUTPUT", ("-m", "cgroup", "--path", "a/b", "-j", "DROP"))
    for mount, name in (
        ("/sys/fs/cgroup", "a/b"),
        ("/sys/fs/cgroup/unified", "unified/a/b"),
        ("/cg", "../../../cg/a/b"),
    ):
        assert translated(rule, cgroups=mount) == [f'socket cgroupv2 level 2 "{name}" drop']


def test_a_script_replaces_the_table_in_one_transaction() -> None:
    rules = [
        Rule("nat", "OUTPUT", ("-p", "tcp", *marked(MARK_STEERED), "-j", "ACCEPT")),
        Rule("mangle", "OUTPUT", ("-p", "tcp", "-g", "TCPCRYPT-DIRECT")),
        Rule("mangle", "DIRECT", set_mark(MARK_DIRECT)),
        Rule("mangle", "POSTROUTING", ("-j", "RETURN")),
        Rule("filter", "OUTPUT", ("-p", "tcp", "-j", "DROP")),
    ]
    lines = [line.strip() for line in script(rules).splitlines()]
    assert lines[:3] == [
        "add table inet tcpcrypt",
        "delete table inet tcpcrypt",
        "table inet tcpcrypt {",
    ]
    assert [line for line in lines if line.startswith(("chain", "type"))] == [
        # What drops comes first, as everywhere; each before those of others.
        *("chain filter_output {", "type filter hook output priority -5; policy accept;"),
        *("chain mangle_output {", "type route hook output priority -155; policy accept;"),
        *("chain mangle_postrouting {",),
        "type filter hook postrouting priority -155; policy accept;",
        "chain mangle_direct {",
        *("chain nat_output {", "type nat hook output priority -105; policy accept;"),
    ]
    assert script([]).splitlines() == lines[:2]
    with pytest.raises(LocalError, match="no rules for table 'raw'"):
        script([Rule("raw", "OUTPUT", ("-j", "RETURN"))])


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", list(MATCHES))
def test_every_rule_of_a_policy_can_be_said(name: str, mode: Mode) -> None:
    policies = policies_named(name, mode)
    for queue in (None, 29795):
        for rule in everything(policies, queue=queue):
            words = rule.words
            # Nothing that narrows a rule is lost, and nothing that a rule does.
            for line in translated(rule):
                told = re.findall(r"(?<!set )(meta|ct) mark &", line)
                plain = [word for word in words if word != "!"]
                assert told == [KINDS[a] for a, b in itertools.pairwise(plain) if b == "--mark"]
                for option, text in TOLD.items():
                    said = option in words or f"{option}s" in words
                    assert bool(re.search(text, line)) is said, option
                assert line.count("dport") == sum(word.startswith("--dport") for word in words)
                assert "bypass" not in line
                if len(rule.families) == 1:
                    assert line.startswith(f"meta nfproto ipv{rule.families[0]} ")
            if "--queue-num" in words:
                assert line.endswith(f"queue num {words[-1]}")
    for rule in guard_rules(policies, serving=False):
        assert translated(rule)


def test_rules_are_read_as_nft_tells_them() -> None:
    text = """table inet tcpcrypt { # handle 7
	chain filter_output { # handle 1
		type filter hook output priority -5; policy accept;
		tcp dport { 1, 2,
			3 } drop # handle 4
		socket cgroupv2 level 2 "a.slice/b" return # handle 5
		socket cgroupv2 level 2 4711 return # handle 6
	}

	chain mangle_steer { # handle 2
		accept # handle 3
	}
}
"""
    assert rules_in(text) == [
        "filter_output tcp dport { 1, 2, 3 } drop",
        # Its name is not known any more once it is gone.
        "filter_output socket cgroupv2 level 2 * return",
        "filter_output socket cgroupv2 level 2 * return",
        "mangle_steer accept",
    ]
    assert rules_in("") == []
