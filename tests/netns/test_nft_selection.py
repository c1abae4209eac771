"""Which of iptables and nft the daemon takes, and that neither leaves the other's rules."""

import shutil
import signal
import sys
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.unqueued import STRICT, Unqueued, ruleset, steering

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.installation import rules_for
from tcpcrypt.runtime.iptables import Iptables
from tcpcrypt.runtime.nft import Nft, queue_refusal
from tcpcrypt.runtime.rules import Rule
from tcpcrypt.runtime.ruleset import guard_rules
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, wait_until

QUEUE = Rule("mangle", "OUTPUT", ("-p", "tcp", "-j", "NFQUEUE", "--queue-num", "7"))


def takes_queue(host: Host) -> bool:
    """Whether the kernel takes nft's queue statement, seen by giving it one."""
    text = "add table inet t; add chain inet t c; add rule inet t c queue num 7\n"
    done = host.run("nft", "-f", "-", input=text, check=False)
    host.run("nft", "flush", "ruleset")
    return done.returncode == 0


def test_the_queue_statement_is_tried_out_and_nothing_stays(pair: Network) -> None:
    """The one test that meets the statement itself: it asserts what this kernel does."""
    works = takes_queue(pair.client)
    with pair.client.entered():
        assert (queue_refusal() == "") is works
        if works:
            firewall = Nft()
            firewall.install([QUEUE])
            assert "queue to 7" in ruleset(pair.client) or "queue num 7" in ruleset(pair.client)
            assert firewall.missing() == 0
            assert firewall.remove() == 1
        else:
            with pytest.raises(LocalError, match=r"queue statement \(CONFIG_NFT_QUEUE\)"):
                Nft().install([QUEUE])
        # What queues nothing needs no such statement.
        Nft().install(guard_rules(STRICT, serving=True))
        assert Nft().remove() > 0
    assert ruleset(pair.client) == ""


def path_with(directory: Path, *programs: str) -> tuple[str, ...]:
    """A command that runs another with these programs alone."""
    for name in programs:
        (directory / name).symlink_to(shutil.which(name) or name)
    return ("/usr/bin/env", f"PATH={directory}")


def test_without_iptables_the_daemon_takes_nft_or_says_why_not(
    pair: Network, tmp_path: Path
) -> None:
    through = path_with(tmp_path, "ip", "nft")
    if takes_queue(pair.client):
        ours = LabDaemon(pair.client, "--port", str(PORT), through=through)
        theirs = LabDaemon(pair.server, "--port", str(PORT), through=through)
        assert "table inet tcpcrypt" in ruleset(pair.client)
        with pair.conversation():
            ours.wait_for("enabled")
        assert [ours.stop(), theirs.stop()] == [0, 0]
    else:
        with pytest.raises(LocalError) as caught:
            LabDaemon(pair.client, "--port", str(PORT), through=through)
        assert "with iptables: iptables-restore is not installed" in str(caught.value)
        assert "with nft: this kernel does not take nft's queue statement" in str(caught.value)
    assert ruleset(pair.client) == ""
    assert pair.client.run("ip", "rule").stdout.count("fwmark") == 0


@pytest.fixture
def nft_alone(tmp_path: Path) -> tuple[str, ...]:
    """A system without iptables, and an nft that gives the kernel no queue statement."""
    through = path_with(tmp_path, "ip")
    wrapper = tmp_path / "nft"
    wrapper.write_text(
        '#!/bin/sh\ncase "$*" in *"-f -") /bin/sed "s/queue num [0-9]*/counter return/" |'
        f' exec {shutil.which("nft")} "$@";; *) exec {shutil.which("nft")} "$@";; esac\n'
    )
    wrapper.chmod(0o755)
    return through


def down(host: Host) -> None:
    host.run(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "down", cwd="/")


@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_a_daemon_with_nft_leaves_what_it_should(
    pair: Network, nft_alone: tuple[str, ...], mode: str, tmp_path: Path
) -> None:
    """Killed, its janitor takes the table out but for the guard; then `tcpcrypt down` all."""
    config = tmp_path / "tcpcrypt.toml"
    config.write_text(
        f'[daemon]\ncontrol = "{tmp_path}/control.sock"\n[[policy]]\n'
        f'match = {{ ports = {PORT} }}\nmode = "{mode}"\n'
    )
    daemon = LabDaemon(pair.client, "--config", str(config), through=nft_alone)
    assert "chain mangle_output" in ruleset(pair.client)
    config.write_text(config.read_text().replace(f"ports = {PORT}", f"ports = [{PORT}, 90]"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("reloaded")
    assert "{ 80, 90 }" in ruleset(pair.client)
    pair.client.run("nft", "flush", "ruleset")
    daemon.wait_for("restored", timeout=20)
    assert "{ 80, 90 }" in ruleset(pair.client)
    daemon.stop(signal.SIGKILL)
    wait_until(lambda: "chain mangle" not in ruleset(pair.client), "end of the janitor's work")
    with pair.listen():
        if mode == "require":
            with pytest.raises(ConnectionRefusedError):
                pair.connect()
            down(pair.client)
        pair.connect().close()
    assert ruleset(pair.client) == ""


def test_iptables_serves_where_it_is_there(pair: Network) -> None:
    firewall = Firewall()
    with steering(pair.client) as listeners:
        firewall.install(rules_for(STRICT, 0, listeners))
        assert firewall.name == "iptables"
        assert firewall.missing() == 0
        assert "TCPCRYPT-OUTPUT" in pair.client.run("iptables-save").stdout
        assert "table inet tcpcrypt" not in ruleset(pair.client)
        assert firewall.remove() > 0
    assert "TCPCRYPT" not in pair.client.run("iptables-save").stdout


@pytest.mark.parametrize("first", ["iptables", "nft"])
def test_what_the_other_left_goes_once_the_rules_are_in(pair: Network, first: str) -> None:
    """As when iptables was installed or removed while no daemon ran."""
    made = [Iptables(), Unqueued()] if first == "iptables" else [Unqueued(), Iptables()]
    with steering(pair.client) as listeners:
        rules = rules_for(STRICT, 0, listeners)
        (Unqueued() if first == "iptables" else Iptables()).install(rules)
        firewall = Firewall(implementations=made)
        firewall.install(rules)
        assert firewall.name == first
        tables = ruleset(pair.client)
        assert ("table inet tcpcrypt" in tables) is (first == "nft")
        assert ("TCPCRYPT-OUTPUT" in tables) is (first == "iptables")
        guard = guard_rules(STRICT, serving=False)
        assert firewall.remove(guard) > 0
        with pytest.raises(ConnectionRefusedError):
            pair.connect()
        # `tcpcrypt down` does not know who was there, and takes out all.
        assert Firewall().remove() > 0
    assert "tcpcrypt" not in ruleset(pair.client).lower()
