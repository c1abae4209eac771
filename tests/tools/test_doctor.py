"""The doctor's looks at hosts that are not like this one: trees of files, odd commands."""

import json
from pathlib import Path

import pytest

from tcpcrypt.errors import LocalError
from tcpcrypt.tools import trials
from tcpcrypt.tools.checks import HOST_CHECKS
from tcpcrypt.tools.doctor import Diagnosis
from tcpcrypt.tools.findings import Check, Facts, Finding, Need, Report, examine
from tcpcrypt.tools.selftest import SelfTest


def tree(root: Path, files: dict[str, str]) -> Facts:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Facts(root)


def look(name: str, facts: Facts) -> Finding:
    (check,) = [check for check in HOST_CHECKS if check.name == name]
    return check.look(facts)


CONFIG = "etc/tcpcrypt/tcpcrypt.toml"
GATEWAY = (
    '[[policy]]\nmode = "require"\nplane = "segment"\nmatch = { ports = 80, inner = "eth1" }\n'
)
INNER = "sys/class/net/eth1/mtu"
CONNTRACK = "proc/sys/net/netfilter/nf_conntrack_"
LIBERAL = CONNTRACK + "tcp_be_liberal"


@pytest.mark.parametrize(
    ("name", "files", "ok", "what"),
    [
        ("connection tracking", {}, True, "not loaded"),
        (
            "connection tracking",
            {CONNTRACK + "max": "100\n", CONNTRACK + "count": "89\n"},
            True,
            "89",
        ),
        (
            "connection tracking",
            {CONNTRACK + "max": "100\n", CONNTRACK + "count": "91\n"},
            False,
            "91",
        ),
        ("connection tracking", {CONNTRACK + "max": "0", CONNTRACK + "count": "91\n"}, True, "91"),
        ("IPv6", {}, False, "none"),
        ("IPv6", {"proc/net/if_inet6": ""}, True, "there"),
        (
            "IPv6",
            {"proc/net/if_inet6": "", "proc/sys/net/ipv6/conf/all/disable_ipv6": "1\n"},
            True,
            "disabled",
        ),
        ("sysctls of marks", {}, False, "no net.ipv4.tcp_fwmark_accept, net.ipv4.fwmark_reflect"),
        (
            "sysctls of marks",
            {
                "proc/sys/net/ipv4/tcp_fwmark_accept": "0\n",
                "proc/sys/net/ipv4/fwmark_reflect": "1\n",
            },
            True,
            "net.ipv4.tcp_fwmark_accept=0, net.ipv4.fwmark_reflect=1",
        ),
        ("configuration", {}, False, "no /etc/tcpcrypt/tcpcrypt.toml"),
        ("configuration", {CONFIG: '[[policy]]\nmatch = {}\nmode = "never"\n'}, True, "1 policies"),
        ("configuration", {CONFIG: "[daemon]\nuser = 7\n"}, False, "tcpcrypt.toml:2: daemon.user"),
        ("gateway", {}, True, "no policy"),
        ("gateway", {CONFIG: "[daemon]\nuser = 7\n"}, True, "cannot be read"),
        ("gateway", {CONFIG: GATEWAY}, False, "no interface eth1"),
        ("gateway", {CONFIG: GATEWAY, INNER: "1500"}, False, "forwards nothing"),
        (
            "gateway",
            {CONFIG: GATEWAY, INNER: "1500", "proc/sys/net/ipv4/ip_forward": "1"},
            True,
            "forwards for eth1",
        ),
        ("sequence numbers", {LIBERAL: "0\n"}, True, "no policy"),
        ("sequence numbers", {CONFIG: GATEWAY}, True, "not loaded"),
        ("sequence numbers", {CONFIG: "nonsense"}, True, "cannot be read"),
        ("sequence numbers", {CONFIG: GATEWAY, LIBERAL: "1\n"}, True, "not checked"),
        ("sequence numbers", {CONFIG: GATEWAY, LIBERAL: "0\n"}, True, "until tcpcryptd starts"),
        (
            "sequence numbers",
            {CONFIG: GATEWAY, LIBERAL: "0\n", "proc/net/unix": "0: 2 0 0 1 1 9 @tcpcryptd\n"},
            False,
            "though tcpcryptd runs",
        ),
        ("cgroup v2", {"proc/mounts": "cgroup /sys/fs/cgroup cgroup rw 0 0\nodd\n"}, False, "not"),
        ("cgroup v2", {"proc/mounts": "none /cg cgroup2 rw 0 0\n"}, True, "at /cg"),
        ("AES in the CPU", {"proc/cpuinfo": "flags : fpu aes sse\n"}, True, "there"),
        ("AES in the CPU", {"proc/cpuinfo": "Features\t: fp asimd aes\n"}, True, "there"),
        ("AES in the CPU", {"proc/cpuinfo": "flags : fpu vaes\n"}, False, "not"),
        ("AES in the CPU", {}, False, "not"),
        ("path MTU", {"sys/class/net/lo/mtu": "65536\n"}, True, "no devices"),
        (
            "path MTU",
            {"sys/class/net/eth0/mtu": "1500\n", "sys/class/net/tun0/mtu": "1200\n"},
            False,
            "smallest 1200 (tun0)",
        ),
        (
            "tcpcryptd",
            {"proc/net/unix": "Num RefCount\n0: 2 0 0 1 1 9 @tcpcryptd\n"},
            True,
            "running",
        ),
        (
            "tcpcryptd",
            {
                "proc/net/unix": "0: 2 0 0 1 1 9 @tcpcryptd\n",
                "proc/net/netfilter/nfnetlink_queue": "29795 4711 0 2 65535 0 0 0 1\n7 8 0 2\n",
            },
            True,
            "running, process 4711",
        ),
        ("tcpcryptd", {"proc/net/unix": "0: 2 0 0 1 1 9 @tcpcryptd2\n"}, True, "none"),
    ],
)
def test_what_a_look_finds(
    tmp_path: Path, name: str, files: dict[str, str], ok: bool, what: str
) -> None:
    finding = look(name, tree(tmp_path, files))
    assert finding.ok is ok
    assert what in finding.what


def test_tracking_that_may_not_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where /proc/sys is there to be read."""
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("be_liberal"))
    facts = tree(tmp_path, {CONFIG: GATEWAY, LIBERAL: "0\n"})
    finding = look("sequence numbers", facts)
    assert finding == Finding(False, "checked, and tcpcryptd may not change it")


def test_every_check_looks_at_an_empty_host_without_falling_over(tmp_path: Path) -> None:
    reports = examine(HOST_CHECKS, Facts(tmp_path))
    assert len(reports) == len(HOST_CHECKS)
    assert all(report.what for report in reports)


@pytest.mark.parametrize(
    "error", [LocalError("it failed"), OSError(1, "it failed"), ValueError("it failed")]
)
def test_a_look_that_fails_is_a_finding(error: Exception) -> None:
    def fail(_subject: None) -> Finding:
        raise error

    (report,) = examine([Check("group", "name", Need.REQUIRED, fail, "meaning", "remedy")], None)
    assert report.fatal
    assert "it failed" in report.what


def test_the_tables_are_complete() -> None:
    everything = [*HOST_CHECKS, *trials.TRIALS]
    names = [(check.group, check.name) for check in everything]
    assert len(set(names)) == len(names)
    for check in everything:
        if check.name != "tcpcryptd":  # which is well whether one runs or not
            assert check.meaning, check.name
            assert check.remedy, check.name


def report(need: Need, ok: bool) -> Report:
    return Report("group", "name", need, ok, "what", "meaning", "remedy")


def test_what_makes_a_daemon_possible() -> None:
    fine = report(Need.REQUIRED, True)
    assert Diagnosis((fine, report(Need.OPTIONAL, False), report(Need.INFORMATION, False))).ok
    assert not Diagnosis((fine, report(Need.REQUIRED, False))).ok
    assert Diagnosis((fine,), SelfTest({"step": True})).ok
    assert not Diagnosis((fine,), SelfTest({"step": True, "other": False})).ok
    assert not Diagnosis((fine,), SelfTest({"step": True}, error="why")).ok
    assert not Diagnosis((fine,), SelfTest()).ok


def test_json_says_what_to_do_only_where_something_is_to_be_done() -> None:
    diagnosis = Diagnosis((report(Need.REQUIRED, True), report(Need.REQUIRED, False)))
    document = json.loads(json.dumps(diagnosis.as_json()))
    assert [check["remedy"] for check in document["checks"]] == [None, "remedy"]
    assert document["self_test"] is None
    assert document["ok"] is False


def test_links_to_one_program_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "multi").write_text("#!/bin/sh\n")
    (tmp_path / "multi").chmod(0o755)
    (tmp_path / "other").write_text("#!/bin/sh\n")
    (tmp_path / "other").chmod(0o755)
    for name, target in (("", "multi"), ("-nft", "multi"), ("-legacy", "other")):
        (tmp_path / f"iptables{name}-restore").symlink_to(target)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = ["iptables", "iptables-nft", "iptables-legacy"]
    assert list(trials._distinct(found)) == ["iptables", "iptables-legacy"]


@pytest.mark.parametrize(
    ("iptables", "nft", "what"),
    [
        ({}, {}, "iptables is used; nft, which would work too, comes second"),
        (
            {},
            {"target NFQUEUE": "No such file"},
            "iptables is used; not nft: nft lacks target NFQUEUE",
        ),
        (
            {"target TPROXY": "No such file"},
            {"match cgroup": "No such file"},
            "nft is used; not iptables: iptables lacks target TPROXY",
        ),
        (None, {}, "nft is used; not iptables: iptables-restore is not installed"),
        (
            None,
            {"target NFQUEUE": "No such file"},
            "not iptables: iptables-restore is not installed; not nft: nft lacks target NFQUEUE",
        ),
        (None, None, "not iptables: iptables-restore is not installed; not nft: nft is not"),
    ],
)
def test_which_firewall_is_used_and_why_not_the_other(
    iptables: dict[str, str] | None,
    nft: dict[str, str] | None,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bench = trials.Bench((4,))
    bench.variants = {4: {"iptables": iptables} if iptables is not None else {}}
    if nft is not None:
        (tmp_path / "nft").write_text("#!/bin/sh\n")
        (tmp_path / "nft").chmod(0o755)
        bench.nft = nft
    (check,) = [check for check in trials.TRIALS if check.name == "firewall"]
    finding = check.look(bench)
    assert check.need is Need.REQUIRED
    assert finding.what.startswith(what)
    assert finding.ok is not what.startswith("not ")
