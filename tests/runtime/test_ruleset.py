"""Rules as data: what policies become, without a kernel to say it to."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.diversion import divert_rules
from tcpcrypt.runtime.iptables import Iptables, _left_behind, _transaction, rendered
from tcpcrypt.runtime.older import OlderConnection, older_connections
from tcpcrypt.runtime.rules import SYN_QUEUE, Rule
from tcpcrypt.runtime.ruleset import (
    HOLD_SLOTS,
    accepting_rules,
    guard_rules,
    hold_queue,
    opening_rules,
    selectors,
)

PORTS = Match(ports=(range(80, 81), range(8000, 8100)))
WEB = (Policy(Mode.OPPORTUNISTIC, PORTS),)
STRICT = (Policy(Mode.REQUIRE, PORTS),)
LISTENERS = {4: 20000, 6: 20001}


def words(rules: list[Rule], table: str, hook: str, family: int = 4) -> list[str]:
    return [
        " ".join(rule.words)
        for rule in rules
        if (rule.table, rule.hook) == (table, hook) and family in rule.families
    ]


def everything(policies: tuple[Policy, ...]) -> list[Rule]:
    return [
        *guard_rules(policies, serving=True),
        *opening_rules(policies, 0, ()),
        *accepting_rules(policies, LISTENERS),
    ]


def test_a_transaction_removes_before_it_adds() -> None:
    saved = "*mangle\n:TCPCRYPT-OUTPUT - [0:0]\n-A OUTPUT -j TCPCRYPT-OUTPUT\nCOMMIT\n"
    rules = [
        Rule("mangle", "INPUT", ("-p", "tcp", "-g", "TCPCRYPT-STEER")),
        Rule("mangle", "STEER", ("-j", "RETURN")),
    ]
    assert _transaction(rules, _left_behind(saved)).splitlines() == [
        "*mangle",
        "-D OUTPUT -j TCPCRYPT-OUTPUT",
        "-F TCPCRYPT-OUTPUT",
        "-X TCPCRYPT-OUTPUT",
        ":TCPCRYPT-INPUT - [0:0]",
        ":TCPCRYPT-STEER - [0:0]",
        "-A TCPCRYPT-INPUT -p tcp -g TCPCRYPT-STEER",
        "-A TCPCRYPT-STEER -j RETURN",
        "-I INPUT -j TCPCRYPT-INPUT",
        "COMMIT",
    ]
    assert _transaction([], {}) == ""


def test_what_drops_comes_first() -> None:
    text = rendered(everything(STRICT), 4)
    assert [line for line in text.splitlines() if line.startswith("*")] == [
        "*filter",
        "*mangle",
        "*nat",
    ]


@pytest.mark.parametrize("policies", [WEB, STRICT])
def test_never_fail_open(policies: tuple[Policy, ...]) -> None:
    rules = everything(policies)
    assert not any("--queue-bypass" in rule.words for rule in rules)
    for family in (4, 6):
        # What is steered leaves by no other device, and no SYN that nobody decided on.
        assert any(
            line.startswith("! -o lo") and line.endswith("DROP")
            for line in words(rules, "mangle", "POSTROUTING", family)
        )
        undecided = words(rules, "filter", "OUTPUT", family)[-1]
        assert "--syn" in undecided
        assert undecided.endswith(("-j DROP", "-j REJECT --reject-with tcp-reset"))


def test_each_policy_has_its_queue_and_generations_take_turns() -> None:
    policies = (*WEB, Policy(Mode.REQUIRE, Match(ports=(range(22, 23),))))
    for generation in (0, 1, 2):
        lines = words(opening_rules(policies, generation, ()), "mangle", "OUTPUT")
        queues = [int(line.split()[-1]) for line in lines if "NFQUEUE" in line]
        assert queues == [hold_queue(generation, 0), hold_queue(generation, 1)]
    assert hold_queue(0, 5) == hold_queue(2, 5) != hold_queue(1, 5)
    with pytest.raises(LocalError, match="more than 64"):
        hold_queue(0, HOLD_SLOTS)


def test_the_first_policy_that_matches_decides() -> None:
    spared = Policy(Mode.NEVER, Match(remote=(ipaddress.ip_network("10.9.0.0/16"),)))
    rules = everything((spared, *STRICT))
    for hook, decides in (("mangle", "NFQUEUE"), ("filter", "REJECT --reject-with tcp-reset")):
        lines = words(rules, hook, "OUTPUT")
        first = next(i for i, line in enumerate(lines) if "10.9.0.0/16" in line)
        named = next(i for i, line in enumerate(lines) if "dports" in line and decides in line)
        assert first < named
    assert not any("10.9" in line for line in words(rules, "mangle", "OUTPUT", 6))
    incoming = words(rules, "mangle", "PREROUTING")
    assert incoming[0] == "! -i lo -p tcp -s 10.9.0.0/16 --syn -j RETURN"
    assert "TPROXY --on-ip 127.0.0.1 --on-port 20000" in incoming[1]


def test_only_require_refuses_plain_clients() -> None:
    assert words(everything(WEB), "filter", "INPUT") == []
    refusing = words(everything(STRICT), "filter", "INPUT")
    assert refusing[0] == "-p tcp -m mark --mark 0x900000/0xf00000 -j RETURN"
    refusing = [line for line in refusing if "connmark" not in line]
    assert refusing[1].startswith("! -i lo -p tcp --syn -m multiport --dports 80,8000:8099")
    assert refusing[1].endswith("REJECT --reject-with tcp-reset")


def test_the_guard_that_outlives_the_daemon() -> None:
    assert guard_rules(WEB, serving=False) == []
    both = (Policy(Mode.OPPORTUNISTIC, Match(ports=(range(1, 2),))), *STRICT)
    out = words(guard_rules(both, serving=False), "filter", "OUTPUT")
    assert [line.split()[-1] for line in out[-2:]] == ["RETURN", "tcp-reset"]
    assert words(guard_rules(both, serving=False), "filter", "INPUT")[-1].endswith("tcp-reset")
    assert {rule.table for rule in guard_rules(both, serving=False)} == {"filter"}


def test_owners_decide_on_syns_alone() -> None:
    """A socket that its process has closed has no owner, and still sends."""
    mine = Match(FlowDirection.OUTGOING, uids=(range(1000, 1001),), cgroups=("/system.slice/",))
    lines = words(opening_rules((Policy(Mode.REQUIRE, mine),), 0, ()), "mangle", "OUTPUT")
    held = next(line for line in lines if "NFQUEUE" in line)
    assert "--syn -m owner --uid-owner 1000-1000 -m cgroup --path system.slice" in held
    assert not any("owner" in line for line in lines if "! --syn" in line)
    spared = (Policy(Mode.NEVER, mine), *WEB)
    lines = words(opening_rules(spared, 0, ()), "mangle", "OUTPUT")
    assert any("owner" in line and line.endswith("-g TCPCRYPT-DIRECT") for line in lines)
    assert not any("owner" in " ".join(rule.words) for rule in accepting_rules(spared, LISTENERS))


def test_the_kernel_may_reset_what_is_gone() -> None:
    """Its answer has no socket, and the mark of what it answers: it is not steered."""
    policies = (Policy(Mode.NEVER, Match(ports=(range(22, 23),))), *STRICT)
    lines = words(opening_rules(policies, 0, ()), "mangle", "INPUT")
    (marking,) = (line for line in lines if "! --syn" in line)
    assert marking == (
        "! -i lo -p tcp -m multiport --sports 80,8000:8099 ! --syn -m mark --mark 0x0/0xf00000"
        " -j MARK --set-xmark 0x600000/0xf00000"
    )
    # Behind what keeps others out of connections within this host.
    assert lines.index(marking) > max(n for n, line in enumerate(lines) if line.endswith("DROP"))
    former = words(opening_rules((), 0, (), STRICT), "mangle", "INPUT")
    assert marking in former


def test_direction() -> None:
    only_out = (Policy(Mode.REQUIRE, Match(FlowDirection.OUTGOING, ports=(range(5, 6),))),)
    assert words(everything(only_out), "mangle", "PREROUTING") == []
    assert not any("--dport 5 " in line for line in words(everything(only_out), "filter", "INPUT"))
    only_in = (Policy(Mode.REQUIRE, Match(FlowDirection.INCOMING, ports=(range(5, 6),))),)
    assert not any("NFQUEUE" in line for line in words(everything(only_in), "mangle", "OUTPUT"))


def chunks() -> Iterator[int]:
    yield from (1, 2, 7, 8, 14, 15, 16, 31)


@pytest.mark.parametrize("count", list(chunks()))
def test_many_ports_take_several_rules(count: int) -> None:
    match = Match(ports=tuple(range(p, p + 1 + p % 2) for p in range(100, 100 + 10 * count, 10)))
    found = []
    for family, where in selectors(match, outgoing=True):
        ports = where[-1].split(",")
        assert sum(2 if ":" in port else 1 for port in ports) <= 15
        found += [(family, port) for port in ports]
    assert len(found) == 2 * count


def test_older_connections_are_left_alone() -> None:
    old = OlderConnection(
        ipaddress.ip_address("10.0.0.1"), 40000, ipaddress.ip_address("10.0.0.2"), 80
    )
    rules = opening_rules(STRICT, 0, (old,))
    lines = words(rules, "mangle", "OUTPUT")
    exempt = next(i for i, line in enumerate(lines) if "-s 10.0.0.1 --sport 40000" in line)
    steered = next(i for i, line in enumerate(lines) if "connmark --mark 0x100000" in line)
    named = next(i for i, line in enumerate(lines) if "dports" in line)
    # A new connection of the same addresses is known by its connection mark.
    assert steered < exempt < named
    assert not any("10.0.0.1" in line for line in words(rules, "mangle", "OUTPUT", 6))


def test_older_connections_are_read_from_proc(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    (tmp_path / "tcp").write_text(
        head
        + "   0: 0100000A:9C40 0200000A:0050 01 00000000:00000000\n"
        + "   1: 00000000:0050 00000000:0000 0A 00000000:00000000\n"
        + "   2: 0100000A:9C41 0200000A:01BB 01 00000000:00000000\n"
        + "   3: 0100007F:9C42 0100007F:0050 01 00000000:00000000\n"
    )
    (tmp_path / "tcp6").write_text(
        head
        + "   0: 0000000000000000FFFF00000100000A:9C43"
        + " 0000000000000000FFFF00000200000A:1F40 01 0:0\n"
        + "   1: B80D0120000000000000000001000000:9C44"
        + " B80D0120000000000000000002000000:0050 08 0:0\n"
    )
    assert [
        (str(old.local), old.local_port, str(old.remote), old.remote_port)
        for old in older_connections(WEB, directory=tmp_path)
    ] == [
        ("10.0.0.1", 40000, "10.0.0.2", 80),
        ("10.0.0.1", 40003, "10.0.0.2", 8000),
        ("2001:db8::1", 40004, "2001:db8::2", 80),
    ]
    assert older_connections(WEB, before=STRICT, directory=tmp_path) == []
    spared = (Policy(Mode.NEVER, Match(uids=(range(1),))), Policy(Mode.NEVER, PORTS), *WEB)
    assert older_connections(spared, directory=tmp_path) == []
    (tmp_path / "tcp6").unlink()
    assert len(older_connections(WEB, directory=tmp_path)) == 1


def test_no_iptables_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="iptables-restore is not installed"):
        Iptables((4,)).install([Rule("raw", "OUTPUT", ("-j", "RETURN"))])


@pytest.mark.parametrize("queue", [None, 29795])
def test_what_follows_a_syn_is_looked_up_behind_the_queue(queue: int | None) -> None:
    """Not in front: the second of two that wait would miss what the first one makes."""
    lines = words(accepting_rules(WEB, LISTENERS, queue=queue), "mangle", "PREROUTING")
    follows = [line for line in lines if "--tcp-flags SYN NONE" in line]
    assert all(line.startswith("! -i lo -p tcp ") for line in follows)
    if queue is None:
        (only,) = follows
        assert "--tcp-option 69 -m addrtype --dst-type LOCAL -j TPROXY" in only
        return
    queued = [n for n, line in enumerate(follows) if "NFQUEUE" in line]
    handed = [n for n, line in enumerate(follows) if "TPROXY" in line and "connmark" not in line]
    assert max(handed) < min(queued)
    made = [
        n
        for n, line in enumerate(follows)
        if " tcp --tcp-flags SYN NONE -m connmark --mark 0xc00000" in line
    ]
    assert max(handed) < min(made), "what comes from the queue makes the connection"
    assert ["--transparent -j TPROXY" in follows[n] for n in made] == [True, False]
    assert "--on-port 1 " in follows[made[0]], "nobody but the connection"
    assert made.pop() == queued.pop(0), "what finds none waits for what was before it"
    assert "--tcp-option" not in follows[queued[0]], "what our listener was given, always"
    assert follows[queued[0]].endswith(f"--queue-num {queue}")
    assert "--tcp-option 69" in follows[queued[1]]
    assert follows[queued[1]].endswith(f"--queue-num {SYN_QUEUE}")


def test_the_segment_that_makes_a_connection_is_not_the_one_that_finds_it() -> None:
    """Both rules would hold for the first, were they the other way round."""
    lines = words(divert_rules(), "mangle", "INPUT")
    done = [line for line in lines if line.startswith("-p tcp -m mark --mark 0x300000/0xf00000")]
    assert done[2].endswith("--mark 0xc00000/0xf00000 -j CONNMARK --set-xmark 0x500000/0xf00000")
    assert done[3].endswith("! --mark 0x500000/0xf00000 -j CONNMARK --set-xmark 0xc00000/0xf00000")
    assert done[4].endswith("-j RETURN")


def test_require_keeps_what_the_listener_was_given_from_the_service() -> None:
    refusing = words(everything(STRICT), "filter", "INPUT")
    for mark in ("0x900000", "0xc00000", "0x500000"):  # passed, made, accepted
        (ours, others) = (line for line in refusing if f"connmark --mark {mark}" in line)
        assert ours.endswith("-m socket --nowildcard --transparent -j RETURN")
        assert others.endswith("REJECT --reject-with tcp-reset")
        assert refusing.index(ours) < refusing.index(others)
    kept = words(guard_rules(STRICT, serving=False), "filter", "INPUT")
    gone = [line for line in kept if "connmark" in line]
    assert gone
    assert all("--dport" in line and line.endswith("tcp-reset") for line in gone)
    # What begins with a FIN is not new to connection tracking, but invalid.
    for lines in (refusing, kept):
        assert any("--ctstate NEW,INVALID,UNTRACKED -j REJECT" in line for line in lines)
