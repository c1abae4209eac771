"""The daemon's processes on a host: who they are, and what is left when one is killed.

client ---- veth1 ---- server            10.99.1.1    10.99.1.2
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon.separated import Daemon, conversation, gone, name, rules, status
from netns.network import Network

from tcpcrypt.daemon.confinement import capabilities
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import wait_until

NET = (1 << 12) | (1 << 13)
KILLED = -signal.SIGKILL


@pytest.fixture
def both(pair: Network, tmp_path: Path) -> tuple[Daemon, Daemon]:
    one, other = Daemon(pair.client, tmp_path), Daemon(pair.server, tmp_path)
    return one.started(), other.started()


# --- who they are --------------------------------------------------------------------------


def test_three_processes_with_as_little_as_each_needs(
    pair: Network, both: tuple[Daemon, Daemon]
) -> None:
    ours, _theirs = both
    parent, worker, janitor = ours.process.pid, ours.worker, ours.janitor
    assert name(worker) == "tcpcrypt-worker"
    assert set(capabilities(worker).values()) == {0}
    assert status(worker, "NoNewPrivs") == "1"
    with conversation(pair, ours):
        # It works without privileges, not only before it gave them up.
        assert set(capabilities(worker).values()) == {0}
        if ours.events("started")[0]["user"] == "nobody":
            assert set(status(worker, "Uid").split()) == {"65534"}
    for pid in (parent, janitor):
        found = capabilities(pid)
        assert found["Eff"] == found["Prm"] == found["Bnd"]
        assert found["Eff"] & NET == NET
        assert found["Eff"] & ~(NET | 1 << 5) == 0
        assert status(pid, "NoNewPrivs") == "1"
    for pid in (parent, worker, janitor):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0 " in limits


def test_the_worker_has_no_descriptor_of_its_parents(both: tuple[Daemon, Daemon]) -> None:
    ours = both[0]

    def sockets(pid: int) -> list[str]:
        return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]

    text = ours.host.run("cat", "/proc/net/unix").stdout
    (lock,) = [line.split()[6] for line in text.splitlines() if line.endswith("@tcpcryptd")]
    assert f"socket:[{lock}]" in sockets(ours.process.pid)
    assert f"socket:[{lock}]" in sockets(ours.janitor)
    assert f"socket:[{lock}]" not in sockets(ours.worker)
    assert sum("pidfd" in name for name in sockets(ours.worker)) == 0


# --- killed --------------------------------------------------------------------------------


def send_for_ever(sock: socket.socket) -> None:
    for _ in range(1000):
        sock.sendall(b"must not continue in the clear")
        time.sleep(0.01)


def read_for_ever(sock: socket.socket) -> None:
    """An orderly end is no error, and fails the test that expects one."""
    while sock.recv(1000):
        pass


@pytest.mark.parametrize("who", ["parent", "worker", "both"])
def test_killed_in_mid_transfer(pair: Network, both: tuple[Daemon, Daemon], who: str) -> None:
    """Connections end with an error, new ones go in plain TCP, and nothing stays."""
    ours, theirs = both
    worker, janitor = ours.worker, ours.janitor
    with conversation(pair, ours) as (one, other):
        victims = {"parent": [ours.process.pid], "worker": [worker]}
        for pid in victims.get(who, [ours.process.pid, worker]):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError):
            send_for_ever(one)
        with pytest.raises(ConnectionError):
            read_for_ever(other)
    assert ours.process.wait(15) == (1 if who == "worker" else KILLED)
    wait_until(lambda: gone(worker) and gone(janitor), "end of all")
    assert rules(pair.client) == ""
    if who == "worker":
        assert "signal 9" in ours.events("failed")[0]["reason"]
    with pair.conversation():
        pass
    assert theirs.process.poll() is None


@pytest.mark.parametrize("who", ["parent", "worker"])
def test_killed_under_require(pair: Network, tmp_path: Path, who: str) -> None:
    """What has to be encrypted is refused while no daemon runs, and served by the next."""
    theirs = Daemon(pair.server, tmp_path).started()
    ours = Daemon(pair.client, tmp_path, "require").started()
    with conversation(pair, ours):
        os.kill(ours.process.pid if who == "parent" else ours.worker, signal.SIGKILL)
        ours.process.wait(15)
    wait_until(lambda: "29795" not in rules(pair.client), "cleaning")
    left = [line for line in rules(pair.client).splitlines() if "REJECT" in line]
    assert left
    assert "NFQUEUE" not in rules(pair.client)
    with pair.listen(), pytest.raises(ConnectionRefusedError):
        pair.connect()
    again = Daemon(pair.client, tmp_path, "require").started()
    with conversation(pair, again):
        pass
    assert theirs.process.poll() is None


def test_all_three_killed(pair: Network, both: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    """Nobody is left to clean up: nothing passes in the clear until the next daemon is there."""
    ours = both[0]
    victims = ours.janitor, ours.process.pid, ours.worker
    os.kill(ours.process.pid, signal.SIGSTOP)  # or it would find the janitor a successor
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    ours.process.wait(10)
    assert "NFQUEUE" in rules(pair.client)
    with pair.listen(), pytest.raises(TimeoutError):
        pair.connect(timeout=0.5)
    again = Daemon(pair.client, tmp_path).started()
    with conversation(pair, again):
        pass
    assert again.host.stop(again.process) == 0
    assert rules(pair.client) == ""


def test_a_restart_right_after_the_kill(
    pair: Network, both: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    ours = both[0]
    os.kill(ours.process.pid, signal.SIGKILL)
    again = Daemon(pair.client, tmp_path).started()
    with conversation(pair, again):
        pass
    assert again.host.stop(again.process) == 0
    assert rules(pair.client) == ""


def test_the_janitor_has_a_successor(pair: Network, both: tuple[Daemon, Daemon]) -> None:
    ours = both[0]
    first = ours.janitor
    os.kill(first, signal.SIGKILL)
    ours.wait_for("janitor")
    second = wait_until(lambda: ours.janitor, "successor")
    assert first != second
    os.kill(ours.process.pid, signal.SIGKILL)
    wait_until(lambda: gone(second), "end")
    assert rules(pair.client) == ""


def listen(daemon: Daemon, count: int) -> None:
    for _ in range(count):
        daemon.told()


def test_a_stopped_worker_starves_the_watchdog(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path, WATCHDOG_USEC="4000000").started()
    while "READY" not in ours.told():
        pass
    assert ours.told() == {"WATCHDOG": "1"}
    os.kill(ours.worker, signal.SIGSTOP)
    ours.manager.settimeout(2.5)
    with pytest.raises(TimeoutError):
        listen(ours, 8)
    os.kill(ours.worker, signal.SIGCONT)
    assert ours.told() == {"WATCHDOG": "1"}


# --- told ------------------------------------------------------------------------------------


def test_a_signal_to_all_of_them_is_an_orderly_end(
    pair: Network, both: tuple[Daemon, Daemon]
) -> None:
    """As from Ctrl-C on a terminal, or from systemd."""
    ours = both[0]
    pids = [ours.worker, ours.janitor, ours.process.pid]
    with conversation(pair, ours) as (one, _other):
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert ours.process.wait(15) == 0
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert all(gone(pid) for pid in pids)
    assert ours.events("ended")[0]["by"] == "SIGINT"
    assert rules(pair.client) == ""
    assert not ours.control.exists()


def test_the_manager_is_told(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path).started()
    assert ours.told() == {"READY": "1", "STATUS": "serving by 1 policy"}
    ours.process.send_signal(signal.SIGHUP)
    assert "RELOADING" in ours.told()
    assert ours.told()["READY"] == "1"
    ours.process.terminate()
    assert ours.told()["STOPPING"] == "1"
    assert ours.process.wait(15) == 0


def test_reload(pair: Network, both: tuple[Daemon, Daemon]) -> None:
    """Other policies for what comes; what is there goes on.  A bad file changes nothing."""
    ours = both[0]
    with conversation(pair, ours) as (one, other):
        ours.write("never")
        ours.process.send_signal(signal.SIGHUP)
        ours.wait_for("reloaded")
        one.sendall(b"still here")
        assert other.recv(100) == b"still here"
        assert ours.ask("policy")["result"]["policies"][0]["mode"] == "never"
        before = len(ours.events("enabled"))
        with pair.connect():  # to the listener of the conversation; accepted by nobody
            pass
        assert len(ours.events("enabled")) == before
    ours.file.write_text("[[policy]]\nmode = 'sometimes'\n")
    ours.process.send_signal(signal.SIGHUP)
    failed = ours.wait_for("reload_failed")
    assert f"{ours.file}:2" in failed["reason"]
    ours.write("opportunistic", 'user = "nobody"\n')
    ours.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(ours.events("reloaded")) == 2, "reload")
    assert ours.events("reloaded")[1]["restart_to_change"] == "user"
    with conversation(pair, ours):
        pass
    large = ours.file.read_text() + "# \u00fc\n" * 200_000
    ours.file.write_text(large)
    ours.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(ours.events("reloaded")) == 3, "reload of a large file")
    assert ours.process.poll() is None


def test_without_confirmation_all_is_taken_back(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path, "require", "", "--confirm", "1").started()
    assert rules(pair.client) != ""
    assert ours.process.wait(15) == 1
    assert ours.events("unconfirmed")
    assert rules(pair.client) == "", "the rules that refuse would lock somebody out"


def test_killed_without_confirmation(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path, "require", "", "--confirm", "60").started()
    janitor = ours.janitor
    os.kill(ours.process.pid, signal.SIGKILL)
    wait_until(lambda: gone(janitor), "cleaning")
    assert rules(pair.client) == ""


def test_confirmed(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path, "opportunistic", "", "--confirm", "2").started()
    if os.geteuid() == 0:
        assert ours.ask("confirm") == {"v": 1, "result": {"confirmed": True}}
    ours.wait_for("confirmed")
    time.sleep(2.5)
    assert ours.process.poll() is None
    assert ours.host.stop(ours.process) == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_drain(pair: Network, tmp_path: Path, who: str) -> None:
    """After SIGTERM connections may end by themselves, and no new ones are encrypted."""
    hosts = {"client": (pair.client, pair.server), "server": (pair.server, pair.client)}
    draining, other_host = hosts[who]
    theirs = Daemon(other_host, tmp_path).started()
    ours = Daemon(draining, tmp_path, "opportunistic", "drain = 20").started()
    with conversation(pair, ours) as (one, other):
        ours.process.terminate()
        ours.wait_for("draining")
        for sender, receiver in ((one, other), (other, one)) * 3:
            sender.sendall(b"x" * 10000)
            arrived = 0
            while arrived < 10000:
                arrived += len(receiver.recv(10000))
        with pair.connect():
            pass
        time.sleep(0.3)
        assert len(ours.events("enabled")) == 1
        assert ours.process.poll() is None
    assert ours.process.wait(10) == 0, "as soon as the last one has ended"
    assert rules(draining) == ""
    assert theirs.process.poll() is None


def test_drain_under_require(pair: Network, tmp_path: Path) -> None:
    """New connections are refused meanwhile; what is not over in time is reset."""
    Daemon(pair.server, tmp_path).started()
    ours = Daemon(pair.client, tmp_path, "require", "drain = 2").started()
    with conversation(pair, ours) as (one, other):
        ours.process.terminate()
        ours.wait_for("draining")
        wait_until(lambda: "NFQUEUE --queue-num 298" not in rules(pair.client), "rules")
        with pytest.raises(ConnectionRefusedError):
            pair.connect()
        one.sendall(b"x")
        assert other.recv(1) == b"x"
        assert ours.process.wait(15) == 0
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert "REJECT" in rules(pair.client), "guard = keep"


def test_somebody_else_takes_our_rules_out(pair: Network, both: tuple[Daemon, Daemon]) -> None:
    ours = both[0]
    before = rules(pair.client)
    pair.client.run("iptables", "-t", "mangle", "-F")
    wait_until(lambda: ours.events("restored"), "look after", 20)
    assert rules(pair.client) == before


def test_what_cannot_start_leaves_nothing(pair: Network, tmp_path: Path) -> None:
    ours = Daemon(pair.client, tmp_path, daemon='user = "no-such-user-here"')
    assert ours.process.wait(15) == (1 if os.geteuid() == 0 else 0)
    assert "no-such-user-here" in ours.said()
    assert rules(pair.client) == ""


def test_one_process_if_that_is_wanted(pair: Network) -> None:
    ours = LabDaemon(pair.client, "--port", "80", "--single-process")
    path = Path(f"/proc/{ours.process.pid}/task/{ours.process.pid}/children")
    assert path.read_text() == ""
    assert ours.stop() == 0
    assert rules(pair.client) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "80", "--config", "x"],
        ["--mode", "require"],
        ["--confirm", "0"],
        ["--confirm", "1", "--single-process"],
        ["--port", "0"],
        ["--port", "9-8"],
        ["--port", "1-65536"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tcpcrypt.cli.tcpcryptd", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage: tcpcryptd" in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tcpcrypt.cli.tcpcryptd", "--config", tmp_path / "x.toml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"tcpcryptd: {tmp_path}/x.toml: No such file or directory\n",
    )
