"""TCP/S on a host: its rules, its packets through a queue that is not there, what is told of it."""

import dataclasses
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from support.queues import Verdicts
from tcps.tcp import ACK, PSH, RST, SYN, packet, syn, syn_ack

from tcpcrypt.core.policy import TCPS, FlowDirection, Match, Mode, Policy
from tcpcrypt.daemon.demands import demands, sentences, warnings
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime import sock_diag
from tcpcrypt.runtime.left_behind import diverted_by
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.older import OlderConnection, diverted_connections, older_connections
from tcpcrypt.runtime.rules import MARK_DONE, MARK_PASSED
from tcpcrypt.runtime.ruleset import accepting_rules, guard_rules, opening_rules
from tcpcrypt.runtime.tcps import TCPS_QUEUE, TcpsDivert, tcps_rules
from tcpcrypt.tcps.schedule import X25519
from tcpcrypt.tcps.weaknesses import LACKS

HTTP = Match(ports=(range(80, 81),))
REQUIRED = Policy(Mode.REQUIRE, HTTP, profile=TCPS)
OPPORTUNISTIC = Policy(Mode.OPPORTUNISTIC, HTTP, auth="tofu", profile=TCPS)
QUEUED = ("-j", "NFQUEUE", "--queue-num", str(TCPS_QUEUE))


class Side:
    """One host, by packets."""

    def __init__(self, *policies: Policy) -> None:
        self.policies: Sequence[Policy] = policies
        self.queue = Verdicts()
        self.told: list[tuple[str, dict[str, object]]] = []
        self.numbers = iter(range(1, 100))
        self.divert = TcpsDivert(
            self.queue,  # type: ignore[arg-type]
            lambda: self.policies,
            lambda *event: self.told.append(event),
            lambda: next(self.numbers),
        )

    def take(self, octets: bytes, hook: Hook, mark: int = 0) -> bytes | None:
        self.divert.take(QueuedPacket(TCPS_QUEUE, 1, hook, mark, memoryview(octets)))
        what, payload, _mark = self.queue.verdicts[-1]
        return None if what is Verdict.DROP else payload or octets

    def out(self, octets: bytes) -> bytes | None:
        return self.take(octets, Hook.OUTPUT)

    def into(self, octets: bytes | None) -> bytes | None:
        assert octets is not None
        return self.take(octets, Hook.INPUT)


def opened(one: Side, other: Side) -> None:
    other.into(one.out(syn()))
    one.into(other.out(syn_ack()))
    other.into(one.out(packet()))


def test_a_connection_through_queues_and_what_is_told_of_it() -> None:
    one, other = Side(OPPORTUNISTIC), Side(REQUIRED)
    assert one.divert.sessions() == []
    one.out(syn())
    (entry,) = one.divert.sessions()
    assert (entry["state"], entry.get("profile")) == ("connecting", None)
    opened(one, other)
    data = packet(flags=PSH | ACK, data=b"words")
    left = one.out(data)
    assert left is not None
    assert b"words" not in left
    got = other.into(left)
    assert got is not None
    assert got.endswith(b"words")
    (mine,), (theirs,) = one.divert.sessions(), other.divert.sessions()
    assert mine == {
        "direction": "outgoing",
        "client": "192.0.2.1:40000",
        "service": "198.51.100.2:80",
        "id": 1,
        "state": "encrypted",
        "policy": 1,
        "since": mine["since"],
        "sent": 5,
        "received": 0,
        "profile": "tcps",
        "lacks": list(LACKS),
    }
    assert (theirs["direction"], theirs["received"]) == ("incoming", 5)
    assert [event for event, _facts in one.told] == ["tcps_encrypted"]
    assert other.told[-1] == (
        "tcps_identified",
        {
            "id": 1,
            "direction": "incoming",
            "client": "192.0.2.1:40000",
            "service": "198.51.100.2:80",
            "identity": "a key for an address that was not known",
        },
    )
    one.policies = ()
    assert one.divert.sessions()[0]["policy"] is None
    one.divert.expire()
    assert len(one.divert.sessions()) == 1
    one.divert.close()
    one.divert.expire()
    assert one.divert.sessions() == []


def test_marks_of_others_stay_and_ours_pass_the_guard() -> None:
    one, other = Side(REQUIRED), Side(REQUIRED)
    left = one.take(syn(), Hook.OUTPUT, 0x7)
    assert left is not None
    assert one.queue.verdicts[-1][2] == MARK_DONE | 0x7
    other.take(left, Hook.INPUT, 0x00F00007)
    assert other.queue.verdicts[-1][2] == MARK_PASSED | 0x7


def test_what_ended_is_not_listed() -> None:
    one = Side(REQUIRED)
    one.out(syn())
    one.into(syn_ack())
    assert one.divert.sessions() == []
    assert [event for event, _facts in one.told] == ["tcps_refused"]


@pytest.mark.parametrize(
    "policies",
    [
        (),
        (Policy(Mode.OPPORTUNISTIC),),
        (dataclasses.replace(REQUIRED, mode=Mode.NEVER),),
        (Policy(Mode.OPPORTUNISTIC, Match(uids=(range(1),))),),
        (Policy(Mode.NEVER), Policy(Mode.REQUIRE)),
    ],
)
def test_what_is_not_of_this_profile_is_let_go(policies: tuple[Policy, ...]) -> None:
    assert Side(*policies).out(syn()) == syn()


@pytest.mark.parametrize(
    "policies",
    [
        (Policy(Mode.REQUIRE),),
        (Policy(Mode.OPPORTUNISTIC, auth="tofu"),),
        # Whose it is no packet says.
        (Policy(Mode.NEVER, Match(uids=(range(1),))), Policy(Mode.REQUIRE)),
        (Policy(Mode.REQUIRE, Match(cgroups=("/a",))), Policy(Mode.NEVER)),
    ],
)
def test_who_has_a_port_of_this_profile_is_not_spared_other_policies(
    policies: tuple[Policy, ...],
) -> None:
    """What is let go here has a mark at which no other rule stops it."""
    web = dataclasses.replace(HTTP, direction=FlowDirection.OUTGOING)
    side = Side(dataclasses.replace(REQUIRED, match=web), *policies)
    # From port 80 of a peer, to another port of this host.
    assert side.into(packet(from_client=False, flags=SYN)) is None
    assert side.divert.gate.refused == 1
    service = dataclasses.replace(HTTP, direction=FlowDirection.INCOMING)
    side = Side(dataclasses.replace(REQUIRED, match=service), *policies)
    # From port 80 of this host, to another one of a peer.
    assert side.out(packet(from_client=False, flags=SYN)) is None
    assert side.out(packet(from_client=False, at=1)) is None


@pytest.mark.parametrize("begun", [1, 2, 3])
def test_a_syn_in_place_of_an_answer_makes_nothing_plain(begun: int) -> None:
    """TCP takes it for a simultaneous open, and no policy is about what peers open to that port."""
    one, other = Side(REQUIRED), Side(REQUIRED)
    offered = one.out(syn())
    if begun > 1:
        other.into(offered)
        one.into(other.out(syn_ack()))
    if begun > 2:
        one.out(packet(flags=RST | ACK))
    assert one.into(packet(from_client=False, flags=SYN, seq=7)) is None
    one.out(packet(flags=SYN | ACK, ack=8))
    one.into(packet(from_client=False, seq=8))
    data = one.out(packet(flags=PSH | ACK, data=b"words"))
    assert data is None or b"words" not in data


def test_a_bug_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Side(REQUIRED)
    monkeypatch.setattr(one.divert.gate, "outgoing", lambda _packet: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.out(syn())
    assert one.queue.verdicts[-1][0] is Verdict.DROP


def test_policies_are_warned_of() -> None:
    one = Side(Policy(Mode.NEVER), REQUIRED)
    one.divert.warn()
    assert one.told == [("tcps", {"policy": 2, "lacks": "; ".join(LACKS)})]
    assert len(list(warnings(REQUIRED, "require"))) == 3
    assert "SYN-ACK is lost" in list(warnings(OPPORTUNISTIC, "opportunistic"))[-1]
    assert "IPv4 alone, and is weak" in sentences(REQUIRED)
    assert "Another key than the first" in sentences(OPPORTUNISTIC)
    assert demands({"profile": "tcps", "auth": "tofu"})["pq"] == "off"
    assert not list(warnings(dataclasses.replace(REQUIRED, mode=Mode.NEVER), "never"))


# --- rules ---------------------------------------------------------------------------------


def queued(*policies: Policy) -> set[tuple[str, tuple[str, ...]]]:
    rules = tcps_rules(policies)
    assert all(rule.families == (4,) and rule.table == "mangle" for rule in rules)
    assert all(rule.words[-4:] == QUEUED for rule in rules)
    return {(rule.hook, rule.words[:-4]) for rule in rules}


def test_all_packets_of_both_directions_are_diverted() -> None:
    out, into, tcp = ("!", "-o", "lo"), ("!", "-i", "lo"), ("-p", "tcp")
    assert queued(REQUIRED) == {
        ("OUTPUT", (*out, *tcp, "--dport", "80")),
        ("INPUT", (*into, *tcp, "--sport", "80")),
        ("INPUT", (*into, *tcp, "--dport", "80")),
        ("OUTPUT", (*out, *tcp, "--sport", "80")),
    }
    one_way = dataclasses.replace(HTTP, direction=FlowDirection.OUTGOING,
                                  remote=(IPv4Network("10.0.0.0/8"),))  # fmt: skip
    assert queued(dataclasses.replace(REQUIRED, match=one_way)) == {
        ("OUTPUT", (*out, *tcp, "-d", "10.0.0.0/8", "--dport", "80")),
        ("INPUT", (*into, *tcp, "-s", "10.0.0.0/8", "--sport", "80")),
    }
    assert queued(Policy(Mode.REQUIRE), dataclasses.replace(REQUIRED, mode=Mode.NEVER)) == set()


OLD = OlderConnection(IPv4Address("10.0.0.1"), 40000, IPv4Address("10.0.0.2"), 80)


def test_older_connections_are_left_alone() -> None:
    six = OlderConnection(IPv6Address("fd00::1"), 1, IPv6Address("fd00::2"), 80)
    first, second, *_rest = tcps_rules([REQUIRED], [OLD, six])
    assert (first.hook, second.hook) == ("OUTPUT", "INPUT")
    assert first.words[2:] == (
        *("-s", "10.0.0.1", "--sport", "40000", "-d", "10.0.0.2", "--dport", "80"),
        *("-j", "RETURN"),
    )
    assert tcps_rules([Policy(Mode.REQUIRE)], [OLD]) == []


def test_other_rules_do_not_steer_what_is_diverted() -> None:
    for rules in (
        opening_rules([REQUIRED], 0, [], [OPPORTUNISTIC]),
        accepting_rules([REQUIRED], {4: 1, 6: 2}),
    ):
        words = [rule.words for rule in rules if "80" in rule.words]
        assert words
        assert not any({"NFQUEUE", "TPROXY", "TCPCRYPT-STEER"} & set(w) for w in words)
    targets = {
        rule.words[-1] for rule in guard_rules([OPPORTUNISTIC], serving=True) if "80" in rule.words
    }
    assert targets == {"RETURN"}
    assert any("tcp-reset" in rule.words for rule in guard_rules([REQUIRED], serving=False))


NETWORK = IPv4Network("10.0.0.0/8")
EIGHTIES = (range(80, 81), range(8000, 8100))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (
            "mangle -A TCPCRYPT-OUTPUT -d 10.0.0.0/8 ! -o lo -p tcp -m multiport"
            " --dports 80,8000:8099 -j NFQUEUE --queue-num 29797",
            Match(FlowDirection.OUTGOING, remote=(NETWORK,), ports=EIGHTIES),
        ),
        (
            "mangle -A TCPCRYPT-OUTPUT -s 10.0.0.0/8 ! -o lo -p tcp -m tcp --sport 80"
            " -j NFQUEUE --queue-num 29797",
            Match(FlowDirection.INCOMING, local=(NETWORK,), ports=EIGHTIES[:1]),
        ),
        ("mangle -A TCPCRYPT-OUTPUT ! -o lo -p tcp -j NFQUEUE --queue-num 29797", Match()),
        (
            'mangle_output meta nfproto ipv4 oifname != "lo" ip daddr 10.0.0.0/8'
            " tcp dport { 80, 8000-8099 } queue to 29797",
            Match(FlowDirection.OUTGOING, remote=(NETWORK,), ports=EIGHTIES),
        ),
    ],
)
def test_what_a_former_daemon_diverted_is_read_from_its_rules(line: str, match: Match) -> None:
    others = [
        line.replace("OUTPUT", "INPUT").replace("_output", "_input"),
        line.replace("29797", "29795"),
        line.replace("29797", "297970"),
    ]
    (policy,) = diverted_by([line, *others])
    assert (policy.match, policy.profile) == (match, TCPS)


# --- connections that are there ------------------------------------------------------------


def table(tmp_path: Path) -> Path:
    def line(local: tuple[str, int], remote: tuple[str, int], state: str = "01") -> str:
        def text(end: tuple[str, int]) -> str:
            return f"{socket.inet_aton(end[0])[::-1].hex().upper()}:{end[1]:04X}"

        return f"0: {text(local)} {text(remote)} {state}"

    rows = [
        "header",
        line(("10.0.0.1", 40000), ("10.0.0.2", 80)),
        line(("10.0.0.1", 80), ("10.0.0.3", 50000)),
        line(("10.0.0.1", 22), ("10.0.0.3", 50001)),
        line(("10.0.0.1", 80), ("10.0.0.3", 50002), "06"),
        line(("10.0.0.1", 80), ("0.0.0.0", 0), "0A"),
        line(("127.0.0.1", 80), ("127.0.0.1", 50001)),
    ]
    (tmp_path / "tcp").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_connections_that_either_side_opened_are_found(tmp_path: Path) -> None:
    folder = table(tmp_path)
    served = OlderConnection(IPv4Address("10.0.0.1"), 80, IPv4Address("10.0.0.3"), 50000)
    # One that waits for late segments (TIME-WAIT) cannot be ended by every kernel, and need not.
    waits = dataclasses.replace(served, remote_port=50002)
    assert older_connections([REQUIRED], (), folder) == [OLD, served, waits]
    assert older_connections([REQUIRED], [REQUIRED], folder) == []
    assert older_connections([Policy(Mode.REQUIRE, HTTP)], (), folder) == [OLD]
    assert diverted_connections([REQUIRED], [OLD], folder) == [served]
    assert diverted_connections([Policy(Mode.REQUIRE, HTTP)], [], folder) == []


class Diag:
    """The kernel's answers."""

    def __init__(self, *results: int) -> None:
        self.results = list(results)
        self.asked: list[bytes] = []

    def __call__(self, *_arguments: int) -> "Diag":
        return self

    def __enter__(self) -> "Diag":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _seconds: float) -> None:
        pass

    def send(self, request: bytes) -> None:
        self.asked.append(request)

    def recv(self, _size: int) -> bytes:
        return bytes(16) + self.results.pop(0).to_bytes(4, "little", signed=True)


def test_connections_are_ended_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    diag = Diag(0, -2, 0)
    monkeypatch.setattr(sock_diag.socket, "socket", diag)
    assert sock_diag.destroy([OLD] * 3) == 2
    request = diag.asked[0]
    assert len(request) == int.from_bytes(request[:4], "little") == 72
    assert request[24:28] == (40000).to_bytes(2, "big") + (80).to_bytes(2, "big")
    monkeypatch.setattr(sock_diag.socket, "socket", Diag(-95, 0))
    with pytest.raises(LocalError, match="could not be ended"):
        sock_diag.destroy([OLD] * 2)

    def none(*_arguments: int) -> Diag:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(sock_diag.socket, "socket", none)
    with pytest.raises(LocalError, match="Protocol not supported"):
        sock_diag.destroy([OLD])


def test_the_flow_of_a_policy_is_seen_from_this_host() -> None:
    service = dataclasses.replace(HTTP, direction=FlowDirection.INCOMING)
    other = Side(dataclasses.replace(REQUIRED, match=service))
    key = b"\xfd\x24TC" + X25519.generate().public
    assert other.into(packet(flags=SYN, options=key)) is not None
    assert other.out(packet(flags=SYN)) is not None
