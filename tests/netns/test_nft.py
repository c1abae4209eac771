"""Rules in the words of nft, in a real kernel: what applications open, with real packets.

The queue statements are replaced, for this kernel may lack them (`unqueued.py`).
"""

import errno
import os
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import segments
from netns.unqueued import (
    STRICT,
    WEB,
    Unqueued,
    installed,
    ruleset,
    steering,
    tracked_mark,
    verdict,
)

from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.installation import rules_for
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.rules import MARK_DIRECT, MARK_REFUSED, MARK_STEERED, MARK_UNREACHABLE
from tcpcrypt.runtime.ruleset import guard_rules
from tcpcrypt.tools.netns import Capture, wait_until

# --- the text and the kernel ---------------------------------------------------------------

OWNED = Match(
    FlowDirection.OUTGOING,
    remote=(ip_network("10.0.0.0/8"), ip_network("fd99::/16")),
    ports=tuple(range(p, p + 1 + p % 2) for p in range(100, 500, 10)),
    uids=(range(1000, 1001), range(5)),
)
POLICIES = {
    "web": WEB,
    "strict": STRICT,
    "everything": (Policy(Mode.REQUIRE, Match()),),
    "owners": (Policy(Mode.NEVER, OWNED), Policy(Mode.OPPORTUNISTIC, OWNED), *STRICT),
    "direction": tuple(
        Policy(mode, Match(direction, ports=(range(5, 9),)))
        for mode in Mode
        for direction in FlowDirection
    ),
}


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_kernel_takes_all_rules_and_tells_them(pair: Network, name: str) -> None:
    policies = POLICIES[name]
    older = [
        OlderConnection(network[1], 40000, network[2], PORT)
        for network in (ip_network("10.99.1.0/24"), ip_network("fd99:1::/64"))
    ]
    firewall = Unqueued()
    with steering(pair.client) as listeners:
        for generation in (0, 1):
            rules = rules_for(policies, generation, listeners, older, policies)
            firewall.install(rules)
            assert firewall.missing() == 0
            assert len(firewall.listed()) >= len(rules)
        firewall.rehearse(rules_for(WEB, 0, listeners))
        assert firewall.missing() == 0
        assert firewall.remove() >= len(rules)
        assert firewall.remove() == 0
    assert ruleset(pair.client) == ""


def test_what_others_change_in_our_table_is_seen_and_put_back(pair: Network) -> None:
    firewall = Unqueued()
    rules = guard_rules(STRICT, serving=True)
    with pair.client.entered():
        firewall.install(rules)
        pair.client.run("nft", "insert", "rule", "inet", "tcpcrypt", "filter_output", "accept")
        assert firewall.missing() == 1
        pair.client.run("nft", "flush", "chain", "inet", "tcpcrypt", "filter_input")
        assert firewall.missing() == 1 + sum(rule.hook == "INPUT" for rule in rules)
        pair.client.run("nft", "flush", "ruleset")
        assert firewall.missing() == len(rules)
        firewall.install(rules)
        assert firewall.missing() == 0


def test_rules_that_the_kernel_does_not_take_change_nothing(pair: Network) -> None:
    nowhere = Policy(Mode.REQUIRE, Match(FlowDirection.OUTGOING, cgroups=("there/is/none",)))
    firewall = Unqueued()
    with pair.client.entered():
        firewall.install(guard_rules(STRICT, serving=True))
        before = ruleset(pair.client)
        for change in (firewall.install, firewall.rehearse):
            with pytest.raises(LocalError, match=r"cgroupv2 path fails.*there/is/none"):
                change(guard_rules((nowhere,), serving=True))
        assert ruleset(pair.client) == before
        with pytest.raises(LocalError, match="cgroupv2 path fails"):
            Unqueued().install(guard_rules((nowhere,), serving=True))
        assert firewall.missing() == 0


def test_tables_of_others_stay(pair: Network) -> None:
    pair.client.run("nft", "add", "table", "inet", "filter")
    pair.client.run("iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    before = ruleset(pair.client)
    firewall = Unqueued()
    with pair.client.entered():
        firewall.install(guard_rules(STRICT, serving=True))
        assert ruleset(pair.client) != before
        firewall.remove()
    assert ruleset(pair.client) == before


# --- what an application opens -------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_steered_connection_comes_to_the_listener_and_never_to_the_wire(
    pair: Network, family: int
) -> None:
    """By its mark, then by that of the connection, and without that by the policy's port."""
    server = pair.server_end.v4 if family == 4 else pair.server_end.v6
    for name in ("established", "unacknowledged"):
        pair.client.sysctl(f"net.netfilter.nf_conntrack_tcp_timeout_{name}", "1")
    with (
        Capture(pair.client_end) as capture,
        installed(pair.client, WEB, verdict(MARK_STEERED)) as listeners,
        pair.connect(family) as one,
    ):
        port = one.getsockname()[1]
        assert tracked_mark(pair.client, port) == MARK_STEERED
        other, _address = listeners.application_listeners[family == 6].accept()
        with other:
            assert listeners.meant_by_application(other)[:2] == (server, PORT)
            assert other.getpeername()[:2] == one.getsockname()[:2]
            for wait in (False, True):
                if wait:
                    wait_until(lambda: tracked_mark(pair.client, port) is None, "expiry")
                one.sendall(b"not for the wire")
                assert other.recv(100) == b"not for the wire"
                other.sendall(b"nor this")
                assert one.recv(100) == b"nor this"
    assert segments(capture.packets) == []


@pytest.mark.parametrize("variant", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("ours", [True, False])
def test_nobody_translates_what_is_steered(pair: Network, variant: str, ours: bool) -> None:
    """They would, were it not for our rules: `accept` alone does not end nat."""
    elsewhere = "10.99.1.77"
    to = ("-j", "DNAT", "--to-destination", elsewhere)
    pair.client.run(variant, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", *to)
    firewall = Unqueued(verdict(MARK_STEERED))
    with steering(pair.client) as listeners:
        firewall.install([r for r in rules_for(WEB, 0, listeners) if ours or r.table != "nat"])
        with pair.connect():
            other, _address = listeners.application_listeners[0].accept()
            with other:
                meant = pair.server_end.v4 if ours else elsewhere
                assert other.getsockname() == (meant, PORT)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("mark", "number"),
    [(MARK_REFUSED, errno.ECONNREFUSED), (MARK_UNREACHABLE, errno.EHOSTUNREACH)],
)
def test_refused_and_unreachable_are_told_at_once(
    pair: Network, family: int, mark: int, number: int
) -> None:
    with (
        pair.listen(family),
        Capture(pair.client_end) as capture,
        installed(pair.client, WEB, verdict(mark)),
        pytest.raises(OSError) as caught,
    ):
        pair.connect(family)
    assert caught.value.errno == number
    assert segments(capture.packets) == []


@pytest.mark.parametrize("family", [4, 6])
def test_what_may_leave_as_it_is_does(pair: Network, family: int) -> None:
    """And the connection's mark keeps the bits of others."""
    pair.client.run("nft", "add", "table", "inet", "other")
    chain = "{ type filter hook output priority -160; }"
    pair.client.run("nft", f"add chain inet other out {chain}")
    pair.client.run("nft", "add", "rule", "inet", "other", "out", "ct mark set ct mark | 5")
    with (
        installed(pair.client, WEB, verdict(MARK_DIRECT)),
        pair.conversation(family) as (one, other),
    ):
        assert tracked_mark(pair.client, one.getsockname()[1]) == MARK_DIRECT | 5
        assert other.getpeername()[:2] == one.getsockname()[:2]


@pytest.mark.parametrize("family", [4, 6])
def test_a_syn_on_which_nobody_decided_does_not_leave(pair: Network, family: int) -> None:
    with pair.listen(family), Capture(pair.client_end) as capture:
        with installed(pair.client, STRICT), pytest.raises(ConnectionRefusedError):
            pair.connect(family)
        with installed(pair.client, WEB), pytest.raises(TimeoutError):
            pair.connect(family, timeout=0.5)
    assert segments(capture.packets) == []


@pytest.mark.parametrize("family", [4, 6])
def test_never_passes(pair: Network, family: int) -> None:
    never = Policy(Mode.NEVER, Match(ports=(range(PORT, PORT + 1),)))
    everything = Policy(Mode.REQUIRE, Match())
    with (
        installed(pair.client, (never, everything)),
        installed(pair.server, (never, everything)),
    ):
        with pair.conversation(family):
            pass
        with pytest.raises(ConnectionRefusedError):
            pair.connect(family, PORT + 1)


def test_answers_of_a_service_here_are_not_what_an_application_opens(pair: Network) -> None:
    """A policy by remote port may name the client's own."""
    every = (Policy(Mode.OPPORTUNISTIC, Match(FlowDirection.OUTGOING)),)
    with installed(pair.server, every, verdict(MARK_STEERED)), pair.conversation() as (one, _):
        assert tracked_mark(pair.server, one.getsockname()[1]) == 0


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def connects(network: Network, *through: str) -> bool:
    argv = (*through, sys.executable, "-c", CONNECT, network.server_end.v4, str(PORT))
    done = network.client.run(*argv, check=False)
    assert done.returncode == 0 or "ConnectionRefusedError" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_policy_by_user(pair: Network) -> None:
    users = (Policy(Mode.REQUIRE, Match(FlowDirection.OUTGOING, uids=(range(0, 1), range(7, 9)))),)
    with pair.listen(), installed(pair.client, users):
        assert not connects(pair)
        assert not connects(pair, "setpriv", "--clear-groups", "--reuid", "8", "--")
        assert connects(pair, "setpriv", "--clear-groups", "--reuid", "9", "--")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group, wherever they are mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = Path(next(words[1] for words in mounts if words[2] == "cgroup2"))
    path = mount / f"tcpcrypt-test-{os.getpid()}"
    (path / "sub").mkdir(parents=True)
    yield path
    (path / "sub").rmdir()
    path.rmdir()


def test_a_policy_by_control_group(pair: Network, group: Path) -> None:
    """What is in a group below it counts too."""
    owned = Match(FlowDirection.OUTGOING, cgroups=(group.name,))
    enter = 'echo $$ > $0/cgroup.procs; exec "$@"'
    with pair.listen(), installed(pair.client, (Policy(Mode.REQUIRE, owned),)):
        assert connects(pair)
        for place in (group, group / "sub"):
            assert not connects(pair, "sh", "-c", enter, str(place))
