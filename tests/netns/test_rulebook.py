"""`tcpcrypt rules`: what would be installed, and whether what is installed is that."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netns import kernel_programs
from netns.network import Network

from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.daemon.app import settings_of
from tcpcrypt.daemon.configuration import load
from tcpcrypt.runtime.nft import Nft
from tcpcrypt.runtime.routing import Routing
from tcpcrypt.runtime.ruleset import guard_rules
from tcpcrypt.tools import rulebook
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, wait_until

COMMAND = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "rules")
POLICIES = """
[[policy]]
match = { ports = 22 }
mode = "never"
[[policy]]
match = { remote = "10.99.0.0/16", ports = [80, "8000-8099"], uid = 33 }
mode = "opportunistic"
[[policy]]
match = { ports = 80 }
mode = "MODE"
"""


@pytest.fixture(params=["opportunistic", "require"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(tmp_path: Path, mode: str) -> Path:
    path = tmp_path / "tcpcrypt.toml"
    path.write_text(
        f'[daemon]\ncontrol = "{tmp_path}/run/control.sock"\n' + POLICIES.replace("MODE", mode)
    )
    return path


def rules(host: Host, config: Path, *words: str, status: int | None = None) -> dict[str, Any]:
    done = host.run(*COMMAND, "--config", str(config), "--json", *words, check=False, cwd="/")
    assert not done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (status or 0)
    return document


def everything(host: Host) -> str:
    text = host.run("iptables-save").stdout + host.run("ip6tables-save").stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def test_what_is_printed_can_be_installed(pair: Network, config: Path) -> None:
    """The text is what iptables-restore takes, and nothing is touched by printing it."""
    before = everything(pair.client)
    document = rules(pair.client, config, "--print")
    assert everything(pair.client) == before
    assert document["firewall"] == "iptables"
    assert list(document["rules"]) == [
        "iptables-restore --noflush",
        "ip6tables-restore --noflush",
    ]
    for command, text in document["rules"].items():
        pair.client.run(*command.split(), input=text)
        assert text.startswith("*")
    for command in document["commands"]:
        pair.client.run(*command.split())
    assert "TCPCRYPT-OUTPUT" in everything(pair.client)
    assert document["older_connections"] == 0


def test_what_is_printed_for_nft_can_be_installed(pair: Network, config: Path) -> None:
    """But for the queue statement, which this kernel may lack (see test_nft.py)."""
    document = rules(pair.client, config, "--print", "--firewall", "nft")
    assert document["firewall"] == "nft"
    ((command, text),) = document["rules"].items()
    assert text.count("queue num ") > 3
    pair.client.run(*command.split(), input=re.sub(r"queue num \d+", "counter", text))
    assert "chain mangle_output" in pair.client.run("nft", "list", "ruleset").stdout


def test_a_guard_of_nft_that_outlives_the_daemon(pair: Network, config: Path, mode: str) -> None:
    policies = settings_of(load(config)).policies
    with pair.client.entered():
        Nft().install(guard_rules((*policies, Policy(Mode.REQUIRE, Match())), serving=False))
    document = rules(pair.client, config, "--installed", status=1)
    assert (document["state"], list(document["installed"])) == ("left over", ["nft"])
    assert any(line.startswith("nft: filter_output ") for line in document["unexpected"])
    with pair.client.entered():
        Nft().install(guard_rules(policies, serving=False))
    if mode == "require":
        assert rules(pair.client, config, "--installed")["state"] == "guard"
        pair.client.run("nft", "flush", "chain", "inet", "tcpcrypt", "filter_input")
        document = rules(pair.client, config, "--installed", status=1)
        assert all(line.startswith("nft: filter_input ") for line in document["missing"])
        # What iptables has decides then, and nft's is too much.
        pair.client.run("iptables", "-N", "TCPCRYPT-OUTPUT")
        pair.client.run("iptables", "-A", "OUTPUT", "-j", "TCPCRYPT-OUTPUT")
        document = rules(pair.client, config, "--installed", status=1)
        assert any(line.startswith("nft: ") for line in document["unexpected"])
    else:
        assert rules(pair.client, config, "--installed")["state"] == "none"


def test_routes_and_sysctls_are_those_of_the_daemon(pair: Network) -> None:
    """The printed commands and what the daemon does come to the same."""

    def state() -> list[str]:
        texts = [
            pair.client.run("ip", family, *words).stdout
            for family in ("-4", "-6")
            for words in (("rule",), ("route", "show", "table", "29795"))
        ]
        for family in (4, 6):
            for name in rulebook._SYSCTLS[family]:
                texts.append(pair.client.run("cat", "/proc/sys/" + name.replace(".", "/")).stdout)
        return texts

    routing = Routing()
    with pair.client.entered():
        routing.install()
    installed = state()
    with pair.client.entered():
        routing.remove()
    assert state() != installed
    for family in (4, 6):
        for command in rulebook._commands(family):
            pair.client.run(*command.split())
    # `route replace` may order flags differently; rules and values may not differ.
    assert state() == installed


def test_text_for_people(pair: Network, config: Path) -> None:
    done = pair.client.run(*COMMAND, "--config", str(config), cwd="/")
    assert "# ip6tables-restore --noflush" in done.stdout
    assert "ip -6 rule add pref 29795" in done.stdout
    assert "--queue-num" in done.stdout


def test_without_root(config: Path) -> None:
    """Printing takes no privilege, only a user namespace."""
    config.chmod(0o644)
    argv = (
        "unshare",
        "--user",
        "--map-user=1000",
        "--map-group=1000",
        *COMMAND,
        "--config",
        str(config),
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", timeout=30)
    assert done.returncode == 0, done.stderr
    assert "TPROXY" in done.stdout


def test_a_mistake_in_the_file(pair: Network, config: Path) -> None:
    config.write_text("[daemon]\nuser = 7\n")
    done = pair.client.run(*COMMAND, "--config", str(config), check=False, cwd="/")
    assert done.returncode == 1
    assert f"{config}:2: daemon.user" in done.stderr


def test_installed_and_as_it_should_be(pair: Network, config: Path, mode: str) -> None:
    client = pair.client
    assert rules(client, config, "--installed")["state"] == "none"
    daemon = LabDaemon(client, "--config", str(config))
    document = rules(client, config, "--installed")
    assert (document["state"], document["ok"]) == ("serving", True)
    assert document["daemon"]
    assert document["installed"]["iptables"]
    # Another set of queues serves after a reload.
    os.kill(document["daemon"], signal.SIGHUP)
    daemon.wait_for("reloaded")
    assert rules(client, config, "--installed")["state"] == "serving"
    daemon.stop()
    document = rules(client, config, "--installed")
    assert document["state"] == ("guard" if mode == "require" else "none")


@pytest.mark.parametrize("backend", ["sockops", "mixed"])
def test_the_rules_of_each_backend(pair: Network, config: Path, backend: str) -> None:
    """Also where the configuration names another than the daemon was started with."""
    kernel_programs.needed_by(backend)
    LabDaemon(pair.client, "--config", str(config), "--backend", backend)
    document = rules(pair.client, config, "--installed")
    assert (document["state"], document["missing"], document["unexpected"]) == ("serving", [], [])


def test_older_connections_are_counted(pair: Network, config: Path) -> None:
    with pair.conversation():
        LabDaemon(pair.client, "--config", str(config))
        document = rules(pair.client, config, "--installed")
    assert document["state"] == "serving"
    assert document["older_connections"] == 1


def test_what_somebody_has_changed(pair: Network, config: Path) -> None:
    client = pair.client
    LabDaemon(client, "--config", str(config))
    client.run("iptables", "-t", "mangle", "-D", "OUTPUT", "-j", "TCPCRYPT-OUTPUT")
    client.run("ip6tables", "-t", "filter", "-A", "TCPCRYPT-OUTPUT", "-j", "ACCEPT")
    client.run("ip", "-4", "rule", "del", "fwmark", "0x100000/0xf00000")
    client.run("ip", "-6", "route", "flush", "table", "29795")
    client.sysctl("net.ipv4.fwmark_reflect", "0")
    document = rules(client, config, "--installed", status=1)
    assert document["state"] == "changed"
    assert document["missing"] == [
        "iptables: mangle -A OUTPUT -j TCPCRYPT-OUTPUT",
        "ip -4 rule: fwmark 0x100000/0xf00000",
        "sysctl net.ipv4.fwmark_reflect=1",
        "ip -6 route: local in table 29795",
    ]
    assert document["unexpected"] == ["ip6tables: filter -A TCPCRYPT-OUTPUT -j ACCEPT"]


def test_a_file_that_has_changed_since(pair: Network, config: Path) -> None:
    LabDaemon(pair.client, "--config", str(config))
    config.write_text(config.read_text().replace("ports = 22", "ports = 23"))
    document = rules(pair.client, config, "--installed", status=1)
    assert document["state"] == "changed"
    assert any("23" in line for line in document["missing"])
    assert any("22" in line for line in document["unexpected"])


def test_what_a_dead_daemon_left(pair: Network, config: Path) -> None:
    client = pair.client
    daemon = LabDaemon(client, "--config", str(config), "--single-process")
    daemon.stop(signal.SIGKILL)
    wait_until(lambda: "tcpcryptd" not in client.run("cat", "/proc/net/unix").stdout, "its end")
    document = rules(client, config, "--installed", status=1)
    assert document["state"] == "left over"
    assert document["unexpected"]
    client.run(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "down", cwd="/")
    assert rules(client, config, "--installed")["state"] == "none"
