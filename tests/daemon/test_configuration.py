"""The configuration file: each key, each fault with its line, and any bytes at all."""

import os
import pwd
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.daemon.configuration import (
    Configuration,
    ConfigurationError,
    DaemonSettings,
    load,
    parse,
)
from tcpcrypt.daemon.keys import KEYS, MATCH, SECTIONS, Key
from tcpcrypt.daemon.metrics_address import MetricsAddress
from tcpcrypt.daemon.toml_text import SIZE_MAX
from tcpcrypt.daemon.values import AEAD_NAMES, TEP_NAMES
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import AeadId, Tep

ROOT_USER = pwd.getpwuid(0).pw_name
NOBODY = pwd.getpwnam("nobody").pw_uid


def written(key: Key, value: str) -> str:
    """A whole file with this one key."""
    if key.section == MATCH:
        plane = 'plane = "segment"\n' if key.name == "inner" else ""
        return f'[[policy]]\nmode = "never"\n{plane}match = {{ {key.name} = {value} }}\n'
    if key.section == "policy":
        mode = "" if key.name == "mode" else 'mode = "never"\n'
        if key.name in ("auth", "pq", "psk"):
            mode = 'mode = "require"\n'
        segment = 'plane = "segment"\n'
        companions = {"psk": 'auth = "psk"\n', 'auth"psk"': 'psk = "x"\n', "active_b": segment}
        mode += companions.get(key.name) or companions.get(key.name + value, "")
        return f"[[policy]]\n{mode}{key.name} = {value}\n"
    return f"[{key.section}]\n{key.name} = {value}\n"


def named(name: str) -> Key:
    (key,) = [key for key in KEYS if f"{key.section}.{key.name}" == name]
    return key


def outcome(configuration: Configuration, key: Key) -> Any:
    """What the configuration holds where `key` should have an effect."""
    if key.section == "daemon":
        return getattr(configuration.daemon, key.name)
    if key.section == "crypto":
        names = {"resumption": "resume", "rekey": "rekey_after_bytes"}
        return getattr(configuration.config, names.get(key.name, key.name))
    (policy,) = configuration.policies
    if key.section == MATCH:
        names = {"uid": "uids", "cgroup": "cgroups"}
        return getattr(policy.match, names.get(key.name, key.name))
    return getattr(policy, key.name)


POLICY = '[[policy]]\nmode = "never"\n'
REQUIRE = '[[policy]]\nmode = "require"\n'
OPEN = '[[policy]]\nmode = "opportunistic"\n'
OF_SEGMENT = OPEN + "match.ports = 80\nplane = 'segment'\n"
OF_TCPS = OPEN + "match.ports = 80\nprofile = 'tcps'\n"
X25519_ALONE = "[crypto]\nteps = [0x23]\n"
CHACHA_ALONE = "[crypto]\naeads = ['chacha20-poly1305']\n"

# --- every key -----------------------------------------------------------------

GOOD = [
    ("daemon.backend", '"auto"', "auto"),
    ("daemon.backend", '"nfqueue"', "nfqueue"),
    ("daemon.backend", '"sockops"', "sockops"),
    ("daemon.backend", '"mixed"', "mixed"),
    ("daemon.steering", '"auto"', "auto"),
    ("daemon.steering", '"tproxy"', "tproxy"),
    ("daemon.control", '"/tmp/c.sock"', Path("/tmp/c.sock")),
    ("daemon.user", '"nobody"', "nobody"),
    ("daemon.user", '"tcpcrypt"', "tcpcrypt"),
    ("daemon.families", '"auto"', ()),
    ("daemon.families", "4", (4,)),
    ("daemon.families", "[6, 4]", (4, 6)),
    ("daemon.log", '"auto"', "auto"),
    ("daemon.log", '"stderr"', "stderr"),
    ("daemon.log", '"journald"', "journald"),
    ("daemon.log", '"/var/log/t.log"', "/var/log/t.log"),
    ("daemon.keylog", '"/root/keys"', Path("/root/keys")),
    ("daemon.metrics", '"none"', None),
    ("daemon.metrics", '"127.0.0.1:9469"', MetricsAddress(None, "127.0.0.1", 9469)),
    ("daemon.metrics", '"[::1]:9469"', MetricsAddress(None, "::1", 9469)),
    ("daemon.metrics", '"unix:/run/m.sock"', MetricsAddress(Path("/run/m.sock"))),
    ("daemon.path_memory", "0", 0.0),
    ("daemon.path_memory", "1.5", 1.5),
    ("daemon.path_memory", "86400", 86400.0),
    ("daemon.guard", '"keep"', "keep"),
    ("daemon.guard", '"remove"', "remove"),
    ("daemon.drain", "30", 30.0),
    ("crypto.teps", '"P521"', (Tep.ECDHE_P521,)),
    (
        "crypto.teps",
        '[0x21, "curve25519", 36, "p521"]',
        (Tep.ECDHE_P256, Tep.ECDHE_CURVE25519, Tep.ECDHE_CURVE448, Tep.ECDHE_P521),
    ),
    ("crypto.aeads", '["chacha20-poly1305", 1]', (AeadId.CHACHA20_POLY1305, AeadId.AES_128_GCM)),
    ("crypto.aeads", '"aes-256-gcm"', (AeadId.AES_256_GCM,)),
    ("crypto.resumption", "false", False),
    ("crypto.resumption", "true", True),
    ("crypto.rekey", '"limit"', None),
    ("crypto.rekey", "1_048_576", 1 << 20),
    ("policy.mode", '"never"', Mode.NEVER),
    ("policy.mode", '"opportunistic"', Mode.OPPORTUNISTIC),
    ("policy.mode", '"require"', Mode.REQUIRE),
    ("daemon.state", '"/srv/state"', Path("/srv/state")),
    ("daemon.tofu_enforce", "false", False),
    ("policy.auth", '"none"', "none"),
    ("policy.auth", '"tofu"', "tofu"),
    ("policy.auth", '"pinned"', "pinned"),
    ("policy.auth", '"psk"', "psk"),
    ("policy.pq", '"off"', "off"),
    ("policy.pq", '"prefer"', "prefer"),
    ("policy.pq", '"require"', "require"),
    ("policy.psk", '"site-a"', "site-a"),
    ("policy.application_aware", "true", True),
    ("policy.match.direction", '"both"', None),
    ("policy.match.direction", '"incoming"', FlowDirection.INCOMING),
    ("policy.match.direction", '"outgoing"', FlowDirection.OUTGOING),
    ("policy.match.local", '"192.0.2.1"', (ip_network("192.0.2.1/32"),)),
    ("policy.match.local", '["fd00::/8"]', (ip_network("fd00::/8"),)),
    (
        "policy.match.remote",
        '["10.0.0.0/8", "::ffff:192.0.2.0/120", "::/0"]',
        (ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24"), ip_network("::/0")),
    ),
    ("policy.match.ports", "80", (range(80, 81),)),
    ("policy.match.ports", '"80"', (range(80, 81),)),
    ("policy.match.ports", '[1, "8000-8099", 65535]',
     (range(1, 2), range(8000, 8100), range(65535, 65536))),
    ("policy.match.uid", "0", (range(0, 1),)),
    ("policy.match.uid", '["1000-1999", "7", "nobody"]',
     (range(1000, 2000), range(7, 8), range(NOBODY, NOBODY + 1))),
    ("policy.match.cgroup", '"/system.slice/a.service/"', ("system.slice/a.service",)),
    ("policy.match.cgroup", r"['user.slice', 'a\x2db']", ("user.slice", r"a\x2db")),
    ("policy.match.inner", '"eth1"', ("eth1",)),
    ("policy.match.inner", '["eth1", "br-lan.20", "eth1"]', ("eth1", "br-lan.20")),
    ("policy.plane", '"relay"', "relay"),
    ("policy.plane", '"segment"', "segment"),
    ("policy.active_b", "true", True),
]  # fmt: skip
FIXED = {"policy.profile": '"rfc8548"'}
"""Keys of which one value changes nothing."""


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_key_does_what_it_says(name: str, value: str, expected: object) -> None:
    key = named(name)
    assert outcome(parse(written(key, value)), key) == expected


@pytest.mark.parametrize(("name", "value"), FIXED.items())
def test_a_key_with_one_value(name: str, value: str) -> None:
    key = named(name)
    assert parse(written(key, value)).policies == (Policy(Mode.NEVER),)


def test_every_key_is_exercised() -> None:
    assert {name for name, _, _ in GOOD} | set(FIXED) == {f"{k.section}.{k.name}" for k in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.section}.{key.name}")
def test_every_key_is_documented(key: Key) -> None:
    assert key.section in SECTIONS
    assert re.fullmatch(r"[A-Z].{20,}\.", key.text, re.DOTALL)
    assert key.kind.phrase
    assert "{}" in key.says
    example = key.example
    if "postgres" in example:  # a user that not every host has
        example = example.replace("postgres", "nobody")
    parse(written(key, example))
    if key.default is not None:
        without = parse("" if key.section in ("daemon", "crypto") else POLICY)
        if key.name == "auth":
            without = parse(POLICY.replace("never", "require"))
        elif key.name == "active_b":
            without = parse(POLICY + 'plane = "segment"\n')
        assert parse(written(key, key.default)) == without
    for word, meaning in key.meanings:
        assert meaning
        parse(written(key, f'"{word}"'))


def test_an_empty_file_changes_nothing() -> None:
    configuration = parse("")
    assert configuration.daemon == DaemonSettings()
    assert configuration.config == Config(cache_per_peer=64)
    assert configuration.policies == ()


def test_without_resumption_no_secret_is_kept() -> None:
    config = parse("[crypto]\nresumption = false").config
    assert not config.resume
    assert not config.cache


def test_every_algorithm_has_a_name() -> None:
    assert set(TEP_NAMES.values()) == set(Tep) - {Tep.EXPERIMENTAL}
    assert set(AEAD_NAMES.values()) == set(AeadId)


@pytest.mark.parametrize("condition", ["uid = 5", 'cgroup = "a.slice"'])
@pytest.mark.parametrize("direction", ["", 'direction = "both", ', 'direction = "outgoing", '])
def test_whose_program_it_is_concerns_what_is_opened_here(condition: str, direction: str) -> None:
    text = f'[[policy]]\nmode = "require"\nmatch = {{ {direction}{condition} }}'
    assert parse(text).policies[0].match.direction is FlowDirection.OUTGOING


def test_policies_keep_their_order() -> None:
    configuration = parse("""
        [[policy]]
        mode = "never"
        match.ports = 22
        [[policy]]
        mode = "require"
        [policy.match]
        remote = "10.0.0.0/8"
        """)
    assert configuration.policies == (
        Policy(Mode.NEVER, Match(ports=(range(22, 23),))),
        Policy(Mode.REQUIRE, Match(remote=(ip_network("10.0.0.0/8"),))),
    )


@pytest.mark.parametrize(("auth", "pq"), [("none", "off"), ("tofu", "prefer")])
def test_the_hybrid_is_preferred_where_hosts_are_authenticated(auth: str, pq: str) -> None:
    (policy,) = parse(REQUIRE + f'auth = "{auth}"\n').policies
    assert (policy.auth, policy.pq) == (auth, pq)


@pytest.mark.parametrize(
    ("auth", "mode"),
    [("tofu", Mode.OPPORTUNISTIC), ("pinned", Mode.REQUIRE), ("psk", Mode.REQUIRE)],
)
def test_who_asks_for_a_certain_key_requires_encryption(auth: str, mode: Mode) -> None:
    psk = 'psk = "x"\n' if auth == "psk" else ""
    (policy,) = parse(OPEN + f'auth = "{auth}"\n{psk}').policies
    assert policy.mode is mode


# --- faults --------------------------------------------------------------------

BAD = [
    # what there is not
    ("[demon]\n", 1, "demon", 'no such section; did you mean "daemon"?'),
    ("\nwhatever = 1\n", 2, "whatever", "no such section; there are daemon, crypto, policy"),
    ("[daemon]\n\ncontrl = 1", 3, "daemon.contrl", 'no such key; did you mean "control"?'),
    ("[daemon]\nteps = 1", 2, "daemon.teps", "it belongs in [crypto]"),
    ("[daemon]\nmode = 1", 2, "daemon.mode", "it belongs in [[policy]]"),
    (POLICY + "ports = 80", 3, "policy 1, ports", "it belongs in `match` of a [[policy]]"),
    (POLICY * 2 + "match.prots = 80", 5, "policy 2, match.prots", 'did you mean "ports"?'),
    ("[daemon]\nkeylog = 'x'", 2, "daemon.keylog", '"x" is not an absolute path'),
    ("[daemon]\nmetrics = 'x'", 2, "daemon.metrics", 'or a loopback address with a port such as'),
    ("[daemon]\nmetrics = 9469", 2, "daemon.metrics", '9469 is not "none", "unix:" and'),
    ("[daemon]\nmetrics = 'unix:x'", 2, "daemon.metrics", "not an absolute path"),
    ("[daemon]\nmetrics = '10.0.0.1:9469'", 2, "daemon.metrics", "others can reach 10.0.0.1"),
    ("[daemon]\nmetrics = '[::]:9469'", 2, "daemon.metrics", "others can reach ::"),
    ("[daemon]\nmetrics = '127.0.0.1:443'", 2, "daemon.metrics", "ports are 1024 to 65535"),
    ("[daemon]\nmetrics = '127.0.0.1:65536'", 2, "daemon.metrics", "ports are 1024 to 65535"),
    ("[daemon]\nmetrics = '127.0.0.256:9469'", 2, "daemon.metrics", "is not an IP address"),
    ("[daemon]\nsteering = 'redirect'", 2, "daemon.steering", "this version does not have"),
    (POLICY + "auth = 'tofu'", 3, "policy 1, auth", "connections are left alone"),
    (POLICY + "pq = 'prefer'", 3, "policy 1, pq", "connections are left alone"),
    (REQUIRE + "auth = 'psk'", 3, "policy 1, auth", '"psk" needs the key `psk`'),
    (REQUIRE + "psk = 'x'", 3, "policy 1, psk", 'is for `auth` = "psk"'),
    (REQUIRE + "auth = 'psk'\npsk = '../x'", 4, "policy 1, psk", "is not a name of 1 to 64"),
    (REQUIRE + "auth = 'ca'", 3, "policy 1, auth", '"ca" is not "none", "tofu", "pinned" or'),
    (OPEN + "pq = 'require'", 3, "policy 1, pq", '"require" needs `mode` = "require"'),
    (OPEN + "auth = 'tofu'\npq = 'require'", 4, "policy 1, pq", "may go in the clear"),
    ("[daemon]\nstate = 'x'", 2, "daemon.state", "not an absolute path"),
    ("[daemon]\ntofu_enforce = 'no'", 2, "daemon.tofu_enforce", "neither true nor false"),
    (OPEN + "profile = 'stanford'\nauth = 'tofu'", 3, "policy 1, profile", "proves nothing"),
    (OPEN + "profile = 'both'\npq = 'prefer'", 3, "policy 1, profile", 'need "rfc8548"'),
    (X25519_ALONE + OPEN + "profile = 'both'", 5, "policy 1, profile", "none of the"),
    (CHACHA_ALONE + OPEN + "profile = 'stanford'", 5, "policy 1, profile", "none of the"),
    (OF_TCPS + "auth = 'pinned'", 5, "policy 1, auth", "worth little there"),
    (OF_TCPS + "pq = 'prefer'", 5, "policy 1, pq", '"tcps" has no post-quantum'),
    (
        OF_TCPS + "application_aware = true",
        5,
        "policy 1, application_aware",
        "nothing to tell it by",
    ),
    (OPEN + "application_aware = 1", 3, "policy 1, application_aware", "1 is neither true"),
    (OPEN + "profile = 'tcps'", 3, "policy 1, profile", '"tcps" needs `match.ports`'),
    (
        OPEN + OPEN + "profile = 'tcps'\nmatch.ports = 80",
        5,
        "policy 2, profile",
        "before all others",
    ),
    (OF_TCPS + "match.uid = 0", 5, "policy 1, match.uid", "have no owner"),
    (OPEN + "plane = 'segment'", 3, "policy 1, plane", '"segment" needs `match.ports`'),
    (OPEN + "plane = 'fast'", 3, "policy 1, plane", 'is not "relay" or "segment"'),
    (OPEN + OF_SEGMENT, 6, "policy 2, plane", '"segment" have to stand before those with'),
    (OF_SEGMENT + OF_TCPS, 8, "policy 2, profile", '"tcps" have to stand before all others'),
    (OF_SEGMENT + "match.uid = 0", 5, "policy 1, match.uid", "have no owner"),
    (OF_SEGMENT + "match.cgroup = 'a'", 5, "policy 1, match.cgroup", "have no owner"),
    (OF_SEGMENT + "profile = 'both'", 4, "policy 1, plane", 'the profile "rfc8548" alone'),
    (OF_SEGMENT + "profile = 'tcps'", 4, "policy 1, plane", 'the profile "rfc8548" alone'),
    (OPEN + "active_b = true", 3, "policy 1, active_b", 'is for `plane` = "segment"'),
    (OPEN + "match.inner = 'eth1'", 3, "policy 1, match.inner", "takes `plane` ="),
    (OF_SEGMENT + "match.inner = 'lo'", 5, "policy 1, match.inner", "to other hosts"),
    (OF_SEGMENT + "match.inner = 'eth+'", 5, "policy 1, match.inner", "is not the name"),
    (OF_SEGMENT + "match.inner = 5", 5, "policy 1, match.inner", "is not the name"),
    (
        OF_SEGMENT + "match.inner = 'eth1'\n" + OF_SEGMENT + "match.inner = ['eth1', 'eth2']",
        10,
        "policy 2, match.inner",
        "names other interfaces than an earlier policy",
    ),
    # what is not what it should be
    ("daemon = 3", 1, "daemon", "3 is not a table of keys"),
    ("[[daemon]]", 1, "daemon", "a list of 1 is not a table of keys"),
    ("[policy]\nmode = 'never'", 1, "policy", "write [[policy]], with two brackets"),
    ("policy = 1", 1, "policy", "1 is no policy"),
    ("policy = [\n 1]", 2, "policy 1", "1 is not a table of keys"),
    (POLICY + "match = 5", 3, "policy 1, match", "5 is not a table of keys"),
    ("[[policy]]\nmatch.ports = 5", 1, "policy 1, mode", "is missing"),
    ("[[policy]]\nmode = 'on'", 2, "policy 1, mode", '"on" is not "never", "opportunistic" or'),
    ("[[policy]]\nmode = true", 2, "policy 1, mode", "true is not"),
    ("[daemon]\ncontrol = 'x'", 2, "daemon.control", "not an absolute path"),
    ("[daemon]\ncontrol = 5", 2, "daemon.control", "not an absolute path"),
    (f"[daemon]\ncontrol = '/{'x' * 107}'", 2, "daemon.control", "at most 107 bytes"),
    ('[daemon]\ncontrol = "/a\\u0000"', 2, "daemon.control", "no control characters"),
    ("[daemon]\nlog = 'file'", 2, "daemon.log", 'is not "auto", "stderr", "journald" or'),
    ("[daemon]\nlog = 5", 2, "daemon.log", "5 is not"),
    (f"[daemon]\nuser = '{ROOT_USER}'", 2, "daemon.user", "is root"),
    ("[daemon]\nuser = 'no-such-user'", 2, "daemon.user", "this host has no user"),
    ("[daemon]\nuser = 0", 2, "daemon.user", "0 is not a user name"),
    ("[daemon]\nuser = 'a b'", 2, "daemon.user", "is not a user name"),
    ("[daemon]\nfamilies = [4, 5]", 2, "daemon.families", "4, 6 or [4, 6] is wanted"),
    ("[daemon]\nfamilies = []", 2, "daemon.families", "the list is empty"),
    ("[daemon]\nfamilies = [4, 6, 4]", 2, "daemon.families", "2 are the most"),
    ("[daemon]\nfamilies = 'ipv4'", 2, "daemon.families", "is wanted"),
    ("[daemon]\ndrain = -1", 2, "daemon.drain", "0 to 86400 seconds"),
    ("[daemon]\ndrain = nan", 2, "daemon.drain", "nan is not a number of seconds"),
    ("[daemon]\ndrain = inf", 2, "daemon.drain", "inf is not a number of seconds"),
    ("[daemon]\ndrain = true", 2, "daemon.drain", "true is not a number of seconds"),
    ("[daemon]\npath_memory = '10 min'", 2, "daemon.path_memory", "not a number of seconds"),
    ("[daemon]\npath_memory = 86401", 2, "daemon.path_memory", "0 to 86400 seconds"),
    ("[crypto]\nteps = ['rsa']", 2, "crypto.teps", '"rsa" is no key agreement; there are'),
    ("[crypto]\nteps = [0x20]", 2, "crypto.teps", "32 is no key agreement"),
    ("[crypto]\nteps = [true]", 2, "crypto.teps", "true is no key agreement"),
    ("[crypto]\nteps = [[1]]", 2, "crypto.teps", "a list of 1 is no key agreement"),
    ("[crypto]\nteps = []", 2, "crypto.teps", "the list is empty"),
    ("[crypto]\nteps = ['p256', 0x21]", 2, "crypto.teps", "33 is listed twice"),
    ("[crypto]\naeads = [true]", 2, "crypto.aeads", "true is no cipher"),
    ("[crypto]\naeads = 1.0", 2, "crypto.aeads", "1.0 is no cipher"),
    ("[crypto]\naeads = [1, 2, 16, 1]", 2, "crypto.aeads", "3 are the most"),
    ("[crypto]\nresumption = 1", 2, "crypto.resumption", "1 is neither true nor false"),
    ("[crypto]\nrekey = 1023", 2, "crypto.rekey", "1023 is not"),
    ("[crypto]\nrekey = true", 2, "crypto.rekey", "true is not"),
    ("[crypto]\nrekey = 1e9", 2, "crypto.rekey", "1000000000.0 is not"),
    ("[crypto]\nrekey = 2026-01-01", 2, "crypto.rekey", "2026-01-01 is not"),
    (POLICY + "match.direction = 'in'", 3, "policy 1, match.direction", '"in" is not'),
    (POLICY + "match.local = 'eth0'", 3, "policy 1, match.local", "is no address or network"),
    (POLICY + "match.local = 10", 3, "policy 1, match.local", "in quotation marks"),
    (POLICY + "match.remote = 'fe80::1%eth0'", 3, "policy 1, match.remote", "zones of link-local"),
    (POLICY + "match.remote = '10.1.2.3/8'", 3, "policy 1, match.remote",
     'the network is "10.0.0.0/8"'),
    (POLICY + "match.remote = '10.0.0.0/33'", 3, "policy 1, match.remote", "is no address"),
    (POLICY + "match.remote = []", 3, "policy 1, match.remote", "leave the key out"),
    (POLICY + "match.ports = 0", 3, "policy 1, match.ports", "ports are 1 to 65535"),
    (POLICY + "match.ports = '1-65536'", 3, "policy 1, match.ports", "ports are 1 to 65535"),
    (POLICY + "match.ports = '90-80'", 3, "policy 1, match.ports", "ends before it begins"),
    (POLICY + "match.ports = 'http'", 3, "policy 1, match.ports", "is no port or range"),
    (POLICY + "match.ports = true", 3, "policy 1, match.ports", "true is no port"),
    (POLICY + "match.ports = '٨٠'", 3, "policy 1, match.ports", "is no port"),
    (POLICY + f"match.ports = {[*range(1, 258)]}", 3, "policy 1, match.ports", "256 are the most"),
    (POLICY + "match.uid = -1", 3, "policy 1, match.uid", "users are 0 to 4294967294"),
    (POLICY + "match.uid = 4294967295", 3, "policy 1, match.uid", "users are 0 to 4294967294"),
    (POLICY + "match.uid = 'no-such-user'", 3, "policy 1, match.uid", "this host has no user"),
    (POLICY + "match.uid = 1.5", 3, "policy 1, match.uid", "1.5 is no user"),
    (POLICY + "match.cgroup = '/'", 3, "policy 1, match.cgroup", "the root holds every process"),
    (POLICY + "match.cgroup = 'a/../b'", 3, "policy 1, match.cgroup", "no part of the path"),
    (POLICY + "match.cgroup = 'a//b'", 3, "policy 1, match.cgroup", "no part of the path"),
    (POLICY + "match.cgroup = 'a -j ACCEPT'", 3, "policy 1, match.cgroup", "is not the path of"),
    (POLICY + "match.cgroup = 'a\"b'", 3, "policy 1, match.cgroup", "is not the path of"),
    (POLICY + f"match.cgroup = '{'a' * 512}'", 3, "policy 1, match.cgroup", "is not the path of"),
    (POLICY + 'match = { uid = 1, direction = "incoming" }', 3, "policy 1, match.uid",
     "it could never match"),
    (POLICY + '[policy.match]\ndirection = "incoming"\ncgroup = "a"', 5, "policy 1, match.cgroup",
     "it could never match"),
    (POLICY * 65, 129, "policy", "65 policies; 64 are the most"),
    (POLICY + f"match.local = {['10.0.0.1'] * 1025}", 3, "policy 1, match.local",
     "1024 are the most"),
    (POLICY + f"match.local = {['10.0.0.1'] * 600}\nmatch.remote = {['10.0.0.1'] * 600}", 3,
     "policy 1, match", "more than 1024 networks in one policy"),
    (POLICY + f"match.local = {['::1'] * 100}\nmatch.remote = {['::1'] * 100}", 3,
     "policy 1, match", "10000 combinations of addresses, ports, users and"),
    ((POLICY + f"match.remote = {['::1'] * 1000}\n") * 9, 27, "policy 9, match",
     "the policies up to here name 9000 combinations"),
    # what is no TOML
    ("[daemon]\nlog = \n", 2, "", "not TOML: Invalid value"),
    ("[daemon]\nlog = 'x", 2, "", "not TOML"),
    ("a = 1\na = 2\n", 2, "", "not TOML: Cannot overwrite a value"),
    (b"[daemon]\n# \xff\n", 2, "", "not UTF-8 text"),
    ("a = " + "[" * 5000, 0, "", "nested too deeply"),
    ("a = " + "9" * 5000, 0, "", "a number is too large"),
    ("#" * (SIZE_MAX + 1), 0, "", "larger than 1048576 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "message"), BAD, ids=range(len(BAD)))
def test_a_fault_names_its_line_and_key(
    text: str | bytes, line: int, key: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "file.toml")
    error = caught.value
    assert (error.line, error.key) == (line, key)
    assert message in str(error)
    assert str(error).startswith(f"file.toml:{line}: " if line else "file.toml: ")
    assert isinstance(error, LocalError)


def test_all_faults_are_found_at_once() -> None:
    text = "[daemon]\nlog = 1\nfoo = 2\n[crypto]\nteps = 3\n[[policy]]\n"
    with pytest.raises(ConfigurationError, match=r"x:2: daemon.log: .* \(and 3 more\)") as caught:
        parse(text, "x")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 5, 6]


def test_names_of_the_file_cannot_move_the_cursor() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse('"\\u001b[2J" = 1\n[daemon]\n"\\u0007" = 1\nlog = "\\u001b[2J"')
    assert all(str(problem).isprintable() for problem in caught.value.problems)
    assert [problem.line for problem in caught.value.problems] == [1, 3, 4]


# --- files ---------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tcpcrypt.toml"
    path.write_text('[daemon]\nguard = "remove"\n')
    assert load(path).daemon.guard == "remove"
    assert load(str(path)).daemon.guard == "remove"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none: No such file or directory"):
        load(tmp_path / "none")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Is a directory|not a regular file"):
        load(tmp_path)


def test_a_pipe_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        load(tmp_path / "pipe")


def test_a_name_with_a_null_byte() -> None:
    with pytest.raises(ConfigurationError, match="null byte"):
        load("a\0b")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"#" * SIZE_MAX)
    load(path)
    path.write_bytes(b"#" * (SIZE_MAX + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load(path)
