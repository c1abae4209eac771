"""The systemd unit of stx-recv: well-formed, tight, and true to what the program takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tcpcrypt
from tcpcrypt.cli.stx_recv import parser

SYSTEMD = Path(tcpcrypt.__file__).parent / "contrib" / "systemd"
UNIT = SYSTEMD / "stx-recv.service"
EXPOSURE_MAX = 1.5
"""Of 10, as `systemd-analyze security` counts."""


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program is not None, "systemd-analyze (package systemd) is needed to check the unit"
    return subprocess.run((program, *words), capture_output=True, text=True, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    program = tmp_path / "stx-recv"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text()
    assert text.count("/usr/bin/stx-recv") == 1
    path = tmp_path / UNIT.name
    path.write_text(text.replace("/usr/bin/stx-recv", str(program)))
    return path


def test_it_is_well_formed(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_tight(unit: Path) -> None:
    done = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


def test_its_command_line_is_one() -> None:
    (command,) = settings()["ExecStart"]
    arguments = parser().parse_args(command.split()[1:])
    folders = {f"/var/lib/{name}" for name in settings()["StateDirectory"][0].split()}
    assert {str(arguments.out), str(arguments.keys)} <= folders
    assert arguments.per_client
    assert arguments.peer == "key"


def test_its_threads_fit() -> None:
    (command,) = settings()["ExecStart"]
    arguments = parser().parse_args(command.split()[1:])
    assert int(settings()["TasksMax"][0]) >= 3 * arguments.connections


def test_its_user_is_made() -> None:
    lines = (SYSTEMD / "stx-recv.sysusers").read_text().splitlines()
    (line,) = [line for line in lines if line and not line.startswith("#")]
    assert line.startswith("u stx - ")
    assert settings()["User"] == ["stx"]
