"""The rules of the segment plane in the words of both firewalls; kernels are in tests/netns."""

from __future__ import annotations

import ipaddress

import pytest

from tcpcrypt.core.policy import SEGMENT, FlowDirection, Match, Mode, Policy
from tcpcrypt.runtime.nft_words import script
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.rules import MARK_PASSED, Rule, marked
from tcpcrypt.runtime.ruleset import guard_rules, opening_rules
from tcpcrypt.runtime.segment_queue import INNER_QUEUE, OUTER_QUEUE
from tcpcrypt.runtime.segment_rules import forwarding_guard, segment_rules

HTTP = (range(80, 81),)
OLD = OlderConnection(ipaddress.ip_address("10.0.0.1"), 40000, ipaddress.ip_address("10.0.0.2"), 80)


def policy(mode: Mode = Mode.OPPORTUNISTIC, **conditions: object) -> Policy:
    match = Match(**{"ports": HTTP, **conditions})  # type: ignore[arg-type]
    return Policy(mode, match, plane=SEGMENT)


def said(rules: list[Rule]) -> list[str]:
    """Those for IPv4; the others say the same."""
    texts = [(r.families, f"{r.table} {r.hook} {' '.join(r.words)}") for r in rules]
    return [text for families, text in texts if 4 in families]


def test_a_host_asks_for_what_it_sends_and_gets_but_not_for_what_stays_on_it() -> None:
    words = said(segment_rules([policy()]))
    asks = f"-j NFQUEUE --queue-num {INNER_QUEUE}"
    assert f"mangle OUTPUT ! -o lo -p tcp --dport 80 {asks}" in words
    assert f"mangle OUTPUT ! -o lo -p tcp --sport 80 {asks}" in words
    asks = f"-j NFQUEUE --queue-num {OUTER_QUEUE}"
    assert f"mangle INPUT ! -i lo -p tcp --sport 80 {asks}" in words
    assert f"mangle INPUT ! -i lo -p tcp --dport 80 {asks}" in words
    # Never open when nobody listens, and what the engine adds is not asked for again.
    assert not any("bypass" in text for text in words)
    assert words[0].endswith("-j RETURN")
    assert words[0].startswith("mangle OUTPUT -p tcp -m mark")


def test_each_direction_has_the_packets_of_both_ways_and_no_others() -> None:
    words = said(segment_rules([policy(direction=FlowDirection.OUTGOING)]))
    queued = [text for text in words if "NFQUEUE" in text and "-p tcp" in text]
    assert [text.split("--")[1].strip() for text in queued] == [
        "dport 80 -j NFQUEUE",
        "sport 80 -j NFQUEUE",
    ]
    there = (ipaddress.ip_network("10.0.0.0/8"),)
    words = said(segment_rules([policy(direction=FlowDirection.INCOMING, remote=there)]))
    queued = [text for text in words if "NFQUEUE" in text and "-p tcp" in text]
    assert "OUTPUT ! -o lo -p tcp -d 10.0.0.0/8 --sport 80" in queued[0]
    assert "INPUT ! -i lo -p tcp -s 10.0.0.0/8 --dport 80" in queued[1]
    assert len(queued) == 2


def test_a_gateway_asks_for_what_it_forwards() -> None:
    rules = segment_rules([policy(inner=("eth1", "eth2"), ports=(range(8000, 8100),))])
    words = said(rules)
    inner = f"-j NFQUEUE --queue-num {INNER_QUEUE}"
    outer = f"-j NFQUEUE --queue-num {OUTER_QUEUE}"
    for name in ("eth1", "eth2"):
        for end in ("--sport", "--dport"):
            assert f"mangle FORWARD -i {name} -p tcp {end} 8000:8099 {inner}" in words
            assert f"mangle FORWARD -o {name} -p tcp {end} 8000:8099 {outer}" in words
    assert not any("OUTPUT" in text and "NFQUEUE" in text and "icmp" not in text for text in words)
    # Between two inner networks nothing is outside.
    first = next(i for i, text in enumerate(words) if "NFQUEUE" in text)
    assert "mangle FORWARD -i eth1 -o eth2 -p tcp -j RETURN" in words[:first]
    # A gateway's connection is marked when it begins, whoever opens it.
    marks = [text for text in words if "CONNMARK" in text]
    assert len(marks) == 4
    assert all("--dport" in text and "--syn" in text for text in marks)


def test_what_is_never_to_be_encrypted_is_not_asked_for() -> None:
    there = (ipaddress.ip_network("10.0.0.9"),)
    words = said(segment_rules([policy(Mode.NEVER, remote=there), policy()]))
    never = [i for i, text in enumerate(words) if "10.0.0.9" in text]
    assert len(never) == 4
    assert all(words[i].endswith("-j RETURN") for i in never)
    assert max(never) < min(i for i, text in enumerate(words) if "NFQUEUE" in text)
    assert segment_rules([policy(Mode.NEVER)]) == []


def test_older_connections_are_left_alone() -> None:
    words = said(segment_rules([policy()], [OLD]))
    left = [text for text in words if "40000" in text]
    assert [text.split()[1] for text in left] == ["OUTPUT", "INPUT"]
    assert all(text.endswith("-j RETURN") for text in left)


def test_the_relay_has_no_part_in_it() -> None:
    both = [policy(), policy(inner=("eth1",))]
    words = said(opening_rules(both, 0, []))
    assert not any("--dport 80" in text and "NFQUEUE" in text for text in words)
    assert not any("eth1" in text for text in words)


def test_the_guard_of_a_host_refuses_what_nobody_has_decided_on() -> None:
    words = said(guard_rules([policy(Mode.REQUIRE)], serving=True))
    assert any("OUTPUT" in text and "--dport 80 --syn" in text for text in words)
    assert any("INPUT" in text and " ".join(marked(MARK_PASSED)) in text for text in words)
    assert said(guard_rules([policy(Mode.REQUIRE, inner=("eth1",))], serving=False)) == []


def test_the_guard_of_a_gateway() -> None:
    required = [
        policy(Mode.NEVER, inner=("eth1",), ports=(range(81, 82),)),
        policy(Mode.REQUIRE, inner=("eth1",)),
    ]
    serving = said(forwarding_guard(required, serving=True))
    passed = serving.index(f"filter FORWARD -p tcp {' '.join(marked(MARK_PASSED))} -j RETURN")
    reset = "-j REJECT --reject-with tcp-reset"
    for device in ("-i", "-o"):
        never = serving.index(f"filter FORWARD {device} eth1 -p tcp --dport 81 --syn -j RETURN")
        refused = serving.index(f"filter FORWARD {device} eth1 -p tcp --dport 80 --syn {reset}")
        assert passed < never < refused
    # When nobody knows any more which connections were encrypted, none goes on.
    left = said(forwarding_guard([policy(inner=("eth1",))], serving=False))
    assert any("! --syn -m connmark" in text and text.endswith(reset) for text in left)
    assert not any("--dport 80 --syn" in text and text.endswith(reset) for text in left)
    assert forwarding_guard([policy()], serving=False) == []
    # Nor when a reload has left it out.
    reloaded = said(forwarding_guard([], [policy(inner=("eth1",))], serving=True))
    assert reloaded == serving[passed : passed + 2]


@pytest.mark.parametrize("inner", [(), ("eth1",)])
def test_nft_can_say_the_same(inner: tuple[str, ...]) -> None:
    named = [policy(Mode.REQUIRE, inner=inner, ports=(range(80, 81), range(8000, 8100)))]
    text = script([*segment_rules(named, [OLD]), *forwarding_guard(named, serving=False)])
    assert f"tcp dport {{ 80, 8000-8099 }} queue num {INNER_QUEUE}" in text
    assert f"tcp sport {{ 80, 8000-8099 }} queue num {OUTER_QUEUE}" in text
    assert "bypass" not in text


def test_what_quotes_an_opened_packet_comes_to_the_queue() -> None:
    rules = segment_rules([policy(inner=("eth1",))])
    words = said(rules)
    for device in ("OUTPUT ! -o lo", "FORWARD -i eth1"):
        for kind in (3, 4, 5, 11, 12):
            asks = f"-p icmp --icmp-type {kind} -j NFQUEUE --queue-num {INNER_QUEUE}"
            assert f"mangle {device} {asks}" in words
    inner = [text for text in words if "icmp" in text and f"num {INNER_QUEUE}" in text]
    assert not any("-i lo" in text or "-o eth1" in text for text in inner)
    text = script(rules)
    assert f"meta l4proto icmp icmp type 11 queue num {INNER_QUEUE}" in text
    assert f"meta l4proto ipv6-icmp icmpv6 type 2 queue num {INNER_QUEUE}" in text


def test_rfc1191_who_sent_too_long_a_packet_hears_of_it_by_the_queue() -> None:
    rules = segment_rules([policy(inner=("eth1",)), policy()])
    words = said(rules)
    for device in ("INPUT", "FORWARD -o eth1"):
        asks = f"-p icmp --icmp-type 3/4 -j NFQUEUE --queue-num {OUTER_QUEUE}"
        assert f"mangle {device} {asks}" in words
    text = script(rules)
    assert f"meta l4proto icmp icmp type 3 icmp code 4 queue num {OUTER_QUEUE}" in text
    assert f"meta l4proto ipv6-icmp icmpv6 type 2 queue num {OUTER_QUEUE}" in text
    # A gateway that serves no connection of its own does not ask of its own.
    words = said(segment_rules([policy(inner=("eth1",))]))
    assert not any("icmp" in text and " INPUT " in text for text in words)


def test_rfc4861_a_redirect_can_quote_nothing_that_was_opened() -> None:
    """It is about a packet that leaves by the interface by which it came: never an inner one."""
    words = said(segment_rules([policy(inner=("eth1", "eth2"))]))
    queued = next(n for n, text in enumerate(words) if "NFQUEUE" in text)
    for come in ("eth1", "eth2"):
        for go in ("eth1", "eth2"):
            assert f"mangle FORWARD -i {come} -o {go} -p tcp -j RETURN" in words[:queued]
