"""`tcpcrypt doctor` on hosts where a daemon can run, and where it cannot."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netns.network import Network

from tcpcrypt.tools.labdaemon import BACKEND
from tcpcrypt.tools.netns import Host

COMMAND = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "doctor")


def doctor(
    host: Host, *arguments: str, prefix: tuple[str, ...] = (), **kwargs: Any
) -> dict[str, Any]:
    """What the doctor says, and that its exit status goes with it."""
    done = host.run(*prefix, *COMMAND, "--json", *arguments, check=False, cwd="/", **kwargs)
    assert not done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    return document


def checks(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in document["checks"]}


@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_a_host_that_can(pair: Network, rp_filter: str) -> None:
    """Strict reverse path filtering is no obstacle."""
    for name in ("all", "default"):
        pair.client.sysctl(f"net.ipv4.conf.{name}.rp_filter", rp_filter)
    document = doctor(pair.client)
    assert document["ok"]
    assert not [c for c in document["checks"] if c["need"] == "required" and not c["ok"]]
    test = document["self_test"]
    assert all(test["steps"].values())
    assert len(test["session"]) == 66
    found = checks(document)
    assert found["firewall"]["found"].startswith("iptables is used; ")
    # What nft lacks here, if anything, is its queue statement alone.
    if not found["nft"]["ok"]:
        assert found["firewall"]["found"].endswith("nft lacks target NFQUEUE")
    assert 0 < test["connection_ms"] < test["total_ms"]


def test_the_host_is_not_touched(pair: Network) -> None:
    def state() -> str:
        commands = [(f"{name}-save",) for name in ("iptables", "ip6tables", "iptables-legacy")]
        commands += [("ip", "rule"), ("nft", "list", "ruleset")]
        return "".join(pair.client.run(*command).stdout for command in commands)

    pair.client.run("iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    before = [line for line in state().splitlines() if not line.startswith("#")]
    assert doctor(pair.client, "--no-self-test")["self_test"] is None
    assert [line for line in state().splitlines() if not line.startswith("#")] == before


def test_text_for_people(pair: Network) -> None:
    done = pair.client.run(*COMMAND, "--no-self-test", cwd="/")
    assert "A daemon can run here." in done.stdout
    assert "target TPROXY" in done.stdout
    assert "\033" not in done.stdout


def test_a_running_daemon_and_what_a_dead_one_left(pair: Network) -> None:
    daemon = pair.daemon(pair.client)
    found = checks(doctor(pair.client, "--no-self-test"))
    assert found["tcpcryptd"]["found"].startswith("running, process")
    assert found["left over of a dead daemon"]["ok"]
    daemon.stop()
    found = checks(doctor(pair.client, "--no-self-test"))
    assert found["tcpcryptd"]["found"].startswith("none")
    assert found["left over of a dead daemon"]["found"] == "nothing"
    pair.client.run("ip6tables", "-t", "mangle", "-N", "TCPCRYPT-OUTPUT")
    pair.client.run("iptables-legacy", "-N", "TCPCRYPT-INPUT")
    pair.client.run("nft", "add", "table", "inet", "tcpcrypt")
    pair.client.run("ip", "rule", "add", "fwmark", "1", "lookup", "29795")
    found = checks(doctor(pair.client, "--no-self-test"))
    left = found["left over of a dead daemon"]
    assert not left["ok"]
    assert left["found"] == (
        "ip6tables: TCPCRYPT-OUTPUT; iptables-legacy: TCPCRYPT-INPUT;"
        " nft: table inet tcpcrypt; ip -4 rule: lookup 29795"
    )
    assert "tcpcrypt down" in left["remedy"]


def test_other_firewalls_are_seen(pair: Network) -> None:
    pair.client.run("iptables", "-P", "INPUT", "DROP")
    pair.client.run("iptables", "-t", "nat", "-N", "DOCKER")
    pair.client.run("nft", "add", "table", "inet", "firewalld")
    found = checks(doctor(pair.client, "--no-self-test"))["other firewalls"]
    assert found["found"] == "Docker, a default policy of DROP, firewalld"
    assert "goes by lo" in found["remedy"]


def test_without_cap_net_admin(pair: Network) -> None:
    document = doctor(pair.client, prefix=("setpriv", "--bounding-set", "-net_admin", "--"))
    found = checks(document)
    assert not document["ok"]
    assert found["CAP_NET_ADMIN"]["found"] == "CAP_NET_ADMIN missing"
    assert "root" in found["CAP_NET_ADMIN"]["remedy"]
    assert not document["self_test"]["ok"]


def test_without_any_namespace(pair: Network) -> None:
    """As in many a container: what cannot be tried is not said to be there."""
    document = doctor(pair.client, prefix=("setpriv", "--bounding-set", "-sys_admin", "--"))
    private = checks(document)["private namespace"]
    assert not document["ok"]
    assert "Operation not permitted" in private["found"]
    assert document["self_test"]["error"] == private["found"]


def test_without_iptables(pair: Network, tmp_path: Path) -> None:
    for name in ("ip", "nsenter", "setpriv", "ip6tables-restore", "ip6tables-save", "ip6tables"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    document = doctor(
        pair.client,
        prefix=("/usr/bin/env", f"PATH={tmp_path}"),
        env={**os.environ},
    )
    found = checks(document)
    assert not document["ok"]
    assert found["iptables-restore"]["found"] == "no iptables-restore"
    assert "apt-get install" in found["iptables-restore"]["remedy"]
    assert found["iptables"]["found"] == "iptables-restore is not installed"
    assert found["firewall"]["found"] == (
        "not iptables: iptables-restore is not installed; not nft: nft is not installed"
    )
    assert "iptables" in document["self_test"]["error"]


def test_a_kernel_without_a_match(pair: Network, tmp_path: Path) -> None:
    """What is not there is named, with the module that brings it."""
    for family in ("iptables", "ip6tables"):
        real = shutil.which(f"{family}-restore")
        wrapper = tmp_path / f"{family}-restore"
        wrapper.write_text(
            "#!/bin/sh\ntext=$(cat)\n"
            'case $text in *"-m cgroup"*|*TPROXY*)'
            " echo 'RULE_APPEND failed (No such file)' >&2; exit 4;; esac\n"
            f'printf "%s\\n" "$text" | {real} "$@"\n'
        )
        wrapper.chmod(0o755)
        for suffix in ("", "-save"):
            (tmp_path / f"{family}{suffix}").symlink_to(shutil.which(family + suffix) or "")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for variant in ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"):
        (tmp_path / f"{variant}-restore").symlink_to("/bin/false")
    found = checks(doctor(pair.client, "--no-self-test", prefix=("/usr/bin/env", f"PATH={path}")))
    assert not found["target TPROXY"]["ok"]
    assert found["target TPROXY"]["found"].startswith("IPv4: RULE_APPEND failed")
    assert "modprobe xt_TPROXY" in found["target TPROXY"]["remedy"]
    assert found["match cgroup"]["need"] == "optional"
    assert not found["match cgroup"]["ok"]
    assert found["target NFQUEUE"]["ok"]
    assert "lacks target TPROXY, match cgroup" in found["iptables"]["found"]
    assert "iptables: iptables lacks target TPROXY" in found["firewall"]["found"]


def test_root_of_a_user_namespace() -> None:
    """It can run there: every capability it needs is over the network alone."""
    argv = ("unshare", "--user", "--map-root-user", "--net", *COMMAND, "--json")
    # The kernel lets no other backend in.
    environment = {name: value for name, value in os.environ.items() if name != BACKEND}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    document = json.loads(done.stdout)
    assert document["self_test"]["ok"], document["self_test"]
    assert done.returncode == 0
