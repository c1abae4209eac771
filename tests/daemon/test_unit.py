"""The systemd unit: well-formed, tight, and true to what the daemon does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tcpcrypt
from tcpcrypt.cli.tcpcryptd import parser
from tcpcrypt.daemon.configuration import DEFAULT_PATH
from tcpcrypt.daemon.confinement import Capability

SYSTEMD = Path(tcpcrypt.__file__).parent / "contrib" / "systemd"
UNIT = SYSTEMD / "tcpcryptd.service"
EXPOSURE_MAX = 3.5
"""Of 10, as `systemd-analyze security` counts; what a firewall daemon has by default is 9."""
NEEDED = [
    # What a strace of all three processes, iptables and ip shows, the unusual ones.
    *("accept4", "capset", "epoll_wait", "eventfd2", "pidfd_open", "pidfd_send_signal", "prctl"),
    *("prlimit64", "recvmsg", "sendmsg", "setgroups", "setresgid", "setresuid", "setsid"),
    *("socketpair", "umask", "vfork", "wait4", "mlock2", "memfd_create", "close_range"),
]


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    program = tmp_path / "tcpcryptd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text()
    assert text.count("/usr/bin/tcpcryptd") == 1
    path = tmp_path / UNIT.name
    path.write_text(text.replace("/usr/bin/tcpcryptd", str(program)))
    return path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program is not None, "systemd-analyze (package systemd) is needed to check the unit"
    return subprocess.run((program, *words), capture_output=True, text=True, check=False)


def test_it_is_well_formed(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_mistake_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text() + "NoSuchKey=1\n")
    assert "NoSuchKey" in analyze("verify", "--man=no", str(unit)).stderr


def test_it_is_tight(unit: Path) -> None:
    done = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


def test_its_command_line_is_one() -> None:
    (command,) = settings()["ExecStart"]
    arguments = parser().parse_args(command.split()[1:])
    assert arguments.config == DEFAULT_PATH
    assert not arguments.single_process


def test_it_allows_the_capabilities_that_are_kept() -> None:
    allowed = {name for line in settings()["CapabilityBoundingSet"] for name in line.split()}
    assert {f"CAP_{capability.name}" for capability in Capability} <= allowed


def test_it_allows_the_system_calls_that_are_made() -> None:
    allowed: set[str] = set()
    for line in settings()["SystemCallFilter"]:
        named = {call for name in line.lstrip("~").split() for call in calls(name)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    assert set(NEEDED) <= allowed
    assert not allowed & {"ptrace", "mount", "bpf", "init_module", "kexec_load", "reboot"}


def calls(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    lines = analyze("syscall-filter", name).stdout.splitlines()[1:]
    members = [line.strip() for line in lines if line.strip() and "#" not in line]
    return {call for member in members for call in calls(member)}


def test_the_janitor_may_do_its_work() -> None:
    assert settings()["KillMode"] == ["control-group"]
    assert settings()["Type"] == ["notify"]


def test_the_user_of_the_worker() -> None:
    lines = (SYSTEMD / "tcpcrypt.sysusers").read_text().splitlines()
    (line,) = [line for line in lines if line and not line.startswith("#")]
    assert line.startswith("u tcpcrypt - ")
