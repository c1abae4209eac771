"""Policies: first match wins, and nothing is touched unless named."""

import dataclasses
from ipaddress import ip_address, ip_network

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import (
    BOTH,
    NOTHING_NAMED,
    SEGMENT,
    TCPS,
    Flow,
    FlowDirection,
    Match,
    Mode,
    Policy,
    select,
)

OUT = Flow(FlowDirection.OUTGOING, ip_address("10.0.0.1"), 40000, ip_address("10.0.0.2"), 5432)
IN = Flow(FlowDirection.INCOMING, ip_address("10.0.0.1"), 80, ip_address("2001:db8::1"), 50000)


def test_first_match_wins() -> None:
    policies = (
        Policy(Mode.NEVER, Match(remote=(ip_network("10.0.0.99/32"),))),
        Policy(Mode.REQUIRE, Match(direction=FlowDirection.OUTGOING, ports=(range(5432, 5433),))),
        Policy(Mode.OPPORTUNISTIC, Match(ports=(range(80, 90), range(5432, 5433)))),
    )
    assert select(policies, OUT).mode is Mode.REQUIRE
    assert select(policies, IN).mode is Mode.OPPORTUNISTIC


def test_an_ipv4_address_in_ipv6_clothes_is_covered() -> None:
    flow = Flow(FlowDirection.OUTGOING, ip_address("::1"), 1, ip_address("::ffff:10.0.0.1"), 80)
    assert Match(remote=(ip_network("10.0.0.0/8"),)).covers(flow)


def test_nothing_is_touched_unless_named() -> None:
    assert select((), OUT) is NOTHING_NAMED
    assert not NOTHING_NAMED.configure(Config()).enabled


def test_each_condition_can_refuse() -> None:
    for match in (
        Match(direction=FlowDirection.INCOMING),
        Match(local=(ip_network("10.0.1.0/24"),)),
        Match(remote=(ip_network("2001:db8::/32"),)),
        Match(ports=(range(1, 1024),)),
    ):
        assert not match.covers(OUT)
    assert Match().covers(OUT)
    assert Match(
        FlowDirection.INCOMING,
        (ip_network("10.0.0.0/8"),),
        (ip_network("2001:db8::/32"),),
        (range(80, 81),),
    ).covers(IN)


def test_policy_configures_a_connection() -> None:
    assert Policy(Mode.REQUIRE).configure(Config()).require_encryption
    assert not Policy(Mode.OPPORTUNISTIC).configure(Config()).require_encryption
    assert not Policy(Mode.REQUIRE).configure(Config()).application_aware
    assert Policy(Mode.REQUIRE, application_aware=True).configure(Config()).application_aware
    assert Policy(Mode.REQUIRE).configure(Config(application_aware=True)).application_aware
    assert not Policy(Mode.REQUIRE).configure(Config()).active_b
    assert Policy(Mode.REQUIRE, active_b=True).configure(Config()).active_b
    assert Policy(Mode.REQUIRE).configure(Config(active_b=True)).active_b


def test_the_dialects_of_a_policy() -> None:
    names = {
        profile: [dialect.name for dialect in Policy(Mode.REQUIRE, profile=profile).profiles]
        for profile in ("rfc8548", "stanford", BOTH, TCPS)
    }
    assert names == {
        "rfc8548": ["rfc8548"],
        "stanford": ["stanford"],
        BOTH: ["rfc8548", "stanford"],
        TCPS: [],
    }


def test_the_owner_of_the_socket() -> None:
    of_postgres = dataclasses.replace(OUT, uid=112, cgroup="system.slice/postgresql.service")
    assert Match(uids=(range(100, 120),)).covers(of_postgres)
    assert not Match(uids=(range(1000, 60000),)).covers(of_postgres)
    assert not Match(uids=(range(0, 60000),)).covers(OUT), "nobody knows whose it is"
    for above in ("/", "system.slice", "/system.slice/postgresql.service/"):
        assert Match(cgroups=(above,)).covers(of_postgres)
    for other in ("system", "system.slice/postgresql", "user.slice"):
        assert not Match(cgroups=(other,)).covers(of_postgres)
    assert not Match(cgroups=("/",)).covers(OUT)


def test_what_goes_by_packets_is_told_by_dialect_or_plane() -> None:
    relayed = Policy(Mode.REQUIRE, Match())
    assert not relayed.by_packets
    assert dataclasses.replace(relayed, profile=TCPS).by_packets
    assert dataclasses.replace(relayed, plane=SEGMENT).by_packets
