"""`tcpcrypt up`, `confirm` and `down`: a daemon in the background, and no trace of it after."""

import argparse
import contextlib
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.cli.up import duration
from tcpcrypt.daemon import launcher
from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Host, Lab, become_root, wait_until

COMMAND = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt")
OPPORTUNISTIC = '[[policy]]\nmatch = { ports = 80 }\nmode = "opportunistic"\n'
REQUIRE = OPPORTUNISTIC.replace("opportunistic", "require")


class Place:
    """A host with a configuration, and the commands on it."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.config = directory / "tcpcrypt.toml"
        self.control = directory / "run" / "control.sock"
        self.log = directory / "log"
        self.configure(OPPORTUNISTIC)

    def configure(self, policies: str, daemon: str = "") -> None:
        self.config.write_text(f'[daemon]\ncontrol = "{self.control}"\n{daemon}\n{policies}')

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self.host.run(*COMMAND, *words, check=False, cwd="/")
        if check:
            assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def up(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("up", *self.arguments(*words), check=check)

    def arguments(self, *words: str) -> tuple[str, ...]:
        return ("--config", str(self.config), "--log-file", str(self.log), *words)

    def pid(self) -> int:
        with self.host.entered():
            pid = launcher.find_daemon()
        assert pid is not None
        return pid

    def holders(self) -> list[int]:
        with self.host.entered():
            return launcher.lock_holders()

    def traces(self) -> str:
        """Everything of ours in the kernel."""
        text = "".join(
            self.host.run(f"{command}-save").stdout
            for command in ("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy")
        )
        lines = [line for line in text.splitlines() if "TCPCRYPT" in line]
        for family in ("-4", "-6"):
            rules = self.host.run("ip", family, "rule").stdout.splitlines()
            lines += [line for line in rules if "fwmark" in line]
        return "\n".join(lines)

    def kill(self, *, all_of_it: bool) -> None:
        """As by a careless administrator."""
        parent = self.pid()
        victims = sorted(self.holders(), key=lambda pid: pid != parent)
        for pid in victims if all_of_it else [parent]:
            # The janitor first, else it does its work.
            if all_of_it:
                os.kill(pid, signal.SIGSTOP)
        for pid in victims if all_of_it else [parent]:
            os.kill(pid, signal.SIGKILL)
        if all_of_it:
            wait_until(lambda: not self.holders(), "end of all processes")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    become_root()
    with Lab() as lab:
        place = Place(lab.host("host"), tmp_path)
        try:
            yield place
        finally:
            with contextlib.suppress(LocalError):
                for pid in place.holders():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def test_up_and_down(place: Place) -> None:
    assert place.traces() == ""
    done = place.up()
    assert f"process {place.pid()}" in done.stdout
    assert "1 opportunistic" in done.stdout
    assert "event=started" in place.log.read_text()
    assert "TCPCRYPT" in place.traces()
    assert place.run("status", "--control", str(place.control)).returncode == 0
    done = place.run("down")
    assert "tcpcryptd has ended" in done.stdout
    assert "no rules were left" in done.stdout
    assert not place.holders()
    assert place.traces() == ""


def test_it_is_in_the_background(place: Place) -> None:
    """No terminal, no pipe and no session ties it to who started it."""
    place.up()
    pid = place.pid()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/2") == str(place.log)
    assert stat.S_IMODE(place.log.stat().st_mode) & 0o027 == 0


def test_up_twice(place: Place) -> None:
    place.up()
    pid = place.pid()
    assert f"running already, process {pid}" in place.up().stdout
    assert json.loads(place.up("--json").stdout) == {"started": False, "running": True, "pid": pid}
    again = place.up("--confirm", "60s", check=False)
    assert again.returncode == 1
    assert "being started" in again.stderr
    assert place.pid() == pid


def test_down_twice_and_without_up(place: Place) -> None:
    assert "no tcpcryptd was running" in place.run("down").stdout
    done = json.loads(place.run("down", "--json").stdout)
    assert done == {"stopped": None, "by": None, "removed": 0}


def test_json(place: Place) -> None:
    up = json.loads(place.up("--json").stdout)
    assert up == {"started": True, "running": True, "pid": place.pid(), "log": str(place.log)}
    down = json.loads(place.run("down", "--json").stdout)
    assert down == {"stopped": up["pid"], "by": "signal", "removed": 0}


# --- what cannot start ---------------------------------------------------------------------


def test_a_configuration_with_a_mistake(place: Place) -> None:
    place.configure(OPPORTUNISTIC.replace("mode", "moed"))
    done = place.up(check=False)
    assert done.returncode == 1
    assert str(place.config) in done.stderr
    assert "policy 1, mode: is missing" in done.stderr
    assert f"tcpcrypt policy check {place.config}" in done.stderr
    assert not place.holders()
    assert not place.log.exists()


def test_no_configuration(place: Place) -> None:
    place.config.unlink()
    done = place.up(check=False)
    assert done.returncode == 1
    assert f"{place.config} does not exist" in done.stderr
    assert f"`tcpcrypt policy init {place.config}`" in done.stderr


def test_the_error_of_the_daemon_is_told(place: Place) -> None:
    place.control.parent.write_text("in the way")
    done = place.up(check=False)
    assert done.returncode == 1
    assert "tcpcryptd ended with status 1" in done.stderr
    assert str(place.control.parent) in done.stderr
    assert not place.holders()
    assert place.traces() == ""


def test_a_log_that_cannot_be_written(place: Place) -> None:
    done = place.up("--log-file", "/proc/no/such/log", check=False)
    assert done.returncode == 1
    assert "/proc/no/such/log" in done.stderr


def test_an_interrupted_start_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it starts: here, the very first thing that would be heard from it."""

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "_wait_until_ready", interrupt)
    with place.host.entered(), pytest.raises(KeyboardInterrupt):
        launcher.start(place.config, place.log)
    assert not place.holders()
    assert place.traces() == ""


def test_a_daemon_that_does_not_get_ready(place: Place) -> None:
    with place.host.entered(), pytest.raises(LocalError, match="does not get ready"):
        launcher.start(place.config, place.log, timeout=0.01)
    assert not place.holders()


# --- confirmation --------------------------------------------------------------------------


class Terminal:
    """`tcpcrypt up --confirm` on a terminal."""

    def __init__(self, place: Place, *words: str) -> None:
        self._place = place
        self._fd, slave = pty.openpty()
        self.process = place.host.start(
            *COMMAND,
            "up",
            *place.arguments(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text: str, timeout: float = 20) -> None:
        end = time.monotonic() + timeout
        while text not in self.text:
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.text!r}"
            try:
                self.text += os.read(self._fd, 4096).decode()
            except OSError:
                raise AssertionError(f"no {text!r} in {self.text!r}") from None

    def enter(self) -> None:
        os.write(self._fd, b"\n")

    def hang_up(self) -> None:
        os.close(self._fd)


def test_confirmed_by_enter(place: Place) -> None:
    place.configure(REQUIRE)
    terminal = Terminal(place, "--confirm", "5s")
    terminal.wait_for("Press Enter within 5 s")
    pid = place.pid()
    terminal.enter()
    terminal.wait_for("Confirmed: the daemon stays.")
    assert terminal.process.wait(10) == 0
    time.sleep(5.5)
    assert place.pid() == pid
    assert "TCPCRYPT" in place.traces()
    place.run("down")


def test_not_confirmed(place: Place) -> None:
    """All of it is taken back, the guard of `require` too: that is what locks people out."""
    place.configure(REQUIRE)
    terminal = Terminal(place, "--confirm", "5")
    terminal.wait_for("Press Enter")
    assert "REJECT" in place.host.run("iptables-save").stdout
    terminal.wait_for("taken everything back")
    assert terminal.process.wait(10) == 1
    assert not place.holders()
    assert place.traces() == ""


def test_confirmed_from_another_login(place: Place) -> None:
    """The first one may well hang by then."""
    done = place.up("--confirm", "6s")
    assert "`tcpcrypt confirm` within 6 s" in done.stdout
    pid = place.pid()
    assert "stays" in place.run("confirm", "--control", str(place.control)).stdout
    time.sleep(6.5)
    assert place.pid() == pid
    again = place.run("confirm", "--control", str(place.control), check=False)
    assert "Traceback" not in again.stderr


def test_a_login_that_is_lost(place: Place) -> None:
    """As with ssh when the new rules cut it off: the terminal goes, the time runs on."""
    place.configure(REQUIRE)
    terminal = Terminal(place, "--confirm", "5s")
    terminal.wait_for("Press Enter")
    terminal.hang_up()
    wait_until(lambda: not place.holders(), "end of the daemon", timeout=15)
    assert place.traces() == ""


def test_nothing_to_confirm(place: Place) -> None:
    place.up()
    done = place.run("confirm", "--control", str(place.control), check=False)
    assert done.returncode == 1
    assert "nothing waits" in done.stderr


# --- what down finds -----------------------------------------------------------------------


def test_down_removes_the_guard_of_require(place: Place) -> None:
    """By choice it outlives the daemon; `down` says that it goes."""
    place.configure(REQUIRE)
    place.up()
    os.kill(place.pid(), signal.SIGTERM)
    wait_until(lambda: not place.holders(), "end of the daemon")
    assert "REJECT" in place.traces()
    done = place.run("down")
    assert "no tcpcryptd was running" in done.stdout
    assert "removed" in done.stdout
    assert place.traces() == ""


def test_down_ends_a_daemon_and_removes_its_guard(place: Place) -> None:
    place.configure(REQUIRE)
    place.up()
    done = json.loads(place.run("down", "--json").stdout)
    assert done["by"] == "signal"
    assert done["removed"] > 0
    assert place.traces() == ""


def test_down_for_a_restart_leaves_the_guard(place: Place) -> None:
    """No connection of `require` goes in plain TCP between two versions of a package."""
    place.configure(REQUIRE)
    place.up()
    assert "refused until a daemon serves" in place.run("down", "--keep-guard").stdout
    assert not place.holders()
    assert "REJECT" in place.traces()
    place.up()
    place.run("down")
    assert place.traces() == ""


def test_down_after_everything_was_killed(place: Place) -> None:
    place.up()
    place.kill(all_of_it=True)
    assert "TCPCRYPT" in place.traces()
    assert json.loads(place.run("down", "--json").stdout)["removed"] > 10
    assert place.traces() == ""


@pytest.mark.parametrize("command", ["up", "down"])
def test_right_after_the_daemon_was_killed(place: Place, command: str) -> None:
    """The janitor is at it, and holds the lock: it is waited for, not shot."""
    place.configure(REQUIRE)
    place.up()
    killed = place.pid()
    place.kill(all_of_it=False)
    if command == "down":
        place.run("down")
        assert place.traces() == ""
        assert not place.holders()
    else:
        place.up()
        assert place.pid() != killed


def test_rules_of_others_stay(place: Place) -> None:
    place.host.run("iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    before = place.host.run("iptables", "-t", "mangle", "-S").stdout
    place.up()
    place.run("down")
    assert place.host.run("iptables", "-t", "mangle", "-S").stdout == before


def test_a_daemon_that_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.up()
    pid = place.pid()
    monkeypatch.setattr(launcher, "STOP_SECONDS", 0.5)
    told: list[str] = []
    os.kill(pid, signal.SIGSTOP)
    with place.host.entered(), pytest.raises(LocalError, match=f"kill -9 {pid}"):
        launcher.stop(told.append, timeout=0.5)
    assert told
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not place.holders(), "end of the daemon")


def test_only_this_namespace_is_looked_at(place: Place) -> None:
    """Another network's daemon is none of our business, though one sees its process."""
    place.up()
    with Lab() as lab:
        other = lab.host("other")
        with other.entered():
            assert launcher.find_daemon() is None
            assert launcher.stop(timeout=1) is None
    assert place.pid()


def test_one_that_is_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_locks", lambda: {"socket:[77]"})
    (tmp_path / "1/fd").mkdir(parents=True)
    with pytest.raises(LocalError, match="out of sight"):
        launcher.lock_holders(tmp_path)
    (tmp_path / "1/fd/3").symlink_to("socket:[77]")
    (tmp_path / "1/fd/socket:[77]").touch()
    assert launcher.lock_holders(tmp_path) == [1]
    monkeypatch.setattr(launcher, "_locks", set)
    assert launcher.lock_holders(tmp_path) == []


_SQUATTER = """
import os, socket, sys, time
name, place, holder = sys.argv[1:4]
os.chdir(place)
os.seteuid(65534)
taken = socket.socket(socket.AF_UNIX)
taken.bind(name.replace("%", chr(0)))
taken.listen(1)
os.seteuid(0)  # as a program of root has it that was handed the socket
os.setuid(int(holder))
print("taken", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("holder", ["65534", "0"])
@pytest.mark.parametrize("name", ["%tcpcryptd", "@tcpcryptd"])
def test_a_lock_of_just_anybody_is_no_daemon(place: Place, name: str, holder: str) -> None:
    """Nor one that looks like it; else its command line would be taken for the daemon's."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        words = (sys.executable, "-c", _SQUATTER, name, directory, holder, "--config", "/evil")
        process = place.host.start(*words)
        try:
            wait_until(lambda: "tcpcryptd" in place.host.run("cat", "/proc/net/unix").stdout, "it")
            with place.host.entered():
                assert launcher.find_daemon() is None
                assert launcher.stop(timeout=1) is None
            pid = json.loads(place.up("--json").stdout)["pid"]
            if name.startswith("@"):  # the lock itself was to be had
                assert place.pid() == pid
                assert process.pid not in place.holders()
            assert process.poll() is None
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not place.traces(), "end of the daemon")
        finally:
            place.host.stop(process)


# --- systemd -------------------------------------------------------------------------------

SYSTEMCTL = """#!/bin/sh
echo "$@" >> {calls}
case "$1" in
cat) exit {known};;
start) test -z "{refuse}" || {{ echo 'Job failed: {refuse}' >&2; exit 1; }}
    {python} -m tcpcrypt.cli.tcpcryptd --config {config} >> {calls}.out 2>&1 < /dev/null &
    until grep -q event=started {calls}.out; do sleep 0.1; done; echo $! > {calls}.pid;;
stop) test ! -f {calls}.pid || {{ kill $(cat {calls}.pid)
    while kill -0 $(cat {calls}.pid) 2> /dev/null; do sleep 0.1; done; rm {calls}.pid; }};;
esac
"""


def under_systemd(
    place: Place, *words: str, known: int = 0, refuse: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The command where /run/systemd/system exists, and what it called systemctl for.

    In a mount namespace of its own, and in one for process numbers of which
    the first is in this network, as on a machine.
    """
    calls = place.directory / "calls"
    calls.unlink(missing_ok=True)
    programs = place.directory / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(
        SYSTEMCTL.format(
            calls=calls, known=known, refuse=refuse, python=sys.executable, config=place.config
        )
    )
    (programs / "systemctl").chmod(0o755)
    script = (
        "mount -t tmpfs none /run && mkdir -p /run/systemd/system && mkdir /run/lock &&"
        " mkdir /run/etc && cp -a /etc/passwd /etc/group /etc/alternatives /run/etc &&"
        " mkdir /run/etc/tcpcrypt && cp $CONFIG /run/etc/tcpcrypt/tcpcrypt.toml &&"
        " mount --bind /run/etc /etc"
        ' && for step; do eval "$step" || exit; done'
    )
    steps = [" ".join((*COMMAND, *step.split())) for step in words]
    done = place.host.run(
        *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"),
        *(script, "sh", *steps),
        check=False,
        cwd="/",
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CONFIG": str(place.config),
        },
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_systemd_starts_and_stops_it(place: Place) -> None:
    done, calls = under_systemd(place, "up", "status --control " + str(place.control), "down")
    assert done.returncode == 0, done.stderr
    assert "started by systemd (tcpcryptd.service)" in done.stdout
    assert "tcpcryptd has ended" in done.stdout
    verbs = ["cat", "start", "cat", "stop"]
    assert [call.split() for call in calls] == [[verb, "tcpcryptd.service"] for verb in verbs]
    assert place.traces() == ""


def test_what_systemd_says_is_passed_on(place: Place) -> None:
    done, _calls = under_systemd(place, "up", refuse="see the journal")
    assert done.returncode == 1
    assert "Job failed: see the journal" in done.stderr
    assert "journalctl -u tcpcryptd.service" in done.stderr


@pytest.mark.parametrize("words", ["--config {config}", "--confirm 60s"])
def test_what_systemd_cannot_do_is_done_without(place: Place, words: str) -> None:
    log = f" --log-file {place.log}"
    step = "up " + words.format(config=place.config) + log
    done, calls = under_systemd(place, step, "down")
    assert done.returncode == 0, done.stderr
    assert "started by systemd" not in done.stdout
    assert not [call for call in calls if call.startswith("start")]


def test_a_unit_that_is_not_there(place: Place) -> None:
    done, calls = under_systemd(place, f"up --log-file {place.log}", "down", known=1)
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if not call.startswith("cat")]


# --- arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("60s", 60), ("2m", 120), ("1h", 3600), ("5", 5), ("7.5s", 7.5), ("0.5m", 30)],
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "4", "0", "-60", "2h", "60 s", "1d", "nan", "٦٠", "1e9"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="60s or 2m"):
        duration(text)


WITHOUT_ROOT = """
import os, sys
from tcpcrypt.cli import down, tcpcrypt, up  # while they may be read
os.setgroups([])
os.setuid(65534)
sys.exit(tcpcrypt.main(sys.argv[1:]))
"""


def test_not_without_root(place: Place) -> None:
    for command in ("up", "down"):
        done: Any = place.host.run(
            *(sys.executable, "-c", WITHOUT_ROOT, command),
            check=False,
            cwd="/",
        )
        assert done.returncode == 1
        assert "takes root" in done.stderr or "Permission" in done.stderr
