"""docs/identities.md: its commands do what it says, its example runs, its figures are right."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tcpcrypt.auth import learned
from tcpcrypt.auth.introductions import read_text
from tcpcrypt.auth.known_peers import KnownPeers, TrustLevel

DOCUMENT = (Path(__file__).parents[2] / "docs/identities.md").read_text()
SESSIONS = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
STATE = "/var/lib/tcpcrypt"

CHANGING = [
    (r"tcpcrypt1:[a-z2-7]{52}", "FINGERPRINT"),
    (r"^( *)\|.{17}\|$", r"\1ART"),
    (r"\b[0-9a-z]{16}\b", "SHORT FORM OR HINT"),
    (r"\b\d+ s ago", "SECONDS ago"),
]


def steps() -> list[tuple[str, str, str]]:
    """Host, command, output, in the order of the document."""
    found = []
    for session in SESSIONS:
        parts = re.split(r"^(db|client)\$ (.*)\n", session, flags=re.MULTILINE)
        assert parts[0] == ""
        found += list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    return found


def settled(text: str) -> str:
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text


def test_the_commands_do_what_the_document_says(tmp_path: Path) -> None:
    own = tmp_path / "bin" / "tcpcrypt"
    own.parent.mkdir()
    own.write_text(
        f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tcpcrypt.cli.tcpcrypt"
        ' "$@" --state "$STATE" --control "$STATE/none"\n'
    )
    own.chmod(0o755)
    keys: dict[str, str] = {}
    ran = steps()
    for host, command, expected in ran:
        # A key that the document shows as made here is the one that was made here.
        for shown, made in keys.items():
            command = command.replace(shown, made)  # noqa: PLW2901
        state = tmp_path / host
        answer = re.search(r"\((?:yes|no|/|the whole fingerprint)+\) (\w+)\n", expected)
        if answer is not None:
            expected = expected.replace(f"{answer[0]}", answer[0][: -len(answer[1]) - 1])  # noqa: PLW2901
        done = run(command, own.parent, state, tmp_path, "" if answer is None else answer[1])
        done = re.sub(r"^tcpcrypt: no tcpcryptd answers .*\n", "", done, flags=re.MULTILINE)
        assert settled(done.replace(str(state), STATE)) == settled(expected), command
        if command == "tcpcrypt id new":
            made = re.findall(CHANGING[0][0], done)
            keys |= dict(zip(re.findall(CHANGING[0][0], expected), made, strict=True))
    assert len(ran) >= 10
    assert len(keys) == 1


def run(command: str, path: Path, state: Path, where: Path, typed: str) -> str:
    """What a command prints, by a person at a terminal."""
    master, slave = pty.openpty()
    try:
        os.write(master, f"{typed}\n".encode())
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": f"{path}:/usr/bin:/bin", "STATE": str(state)},
            cwd=where,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(master)
        os.close(slave)
    return done.stdout


def test_the_files_shown_are_files() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)
    assert {peer.trust for peer in KnownPeers.parse(shown.encode(), "x")} == {"pinned", "tofu"}
    (text,) = [part for part in SESSIONS if "-----BEGIN" in part]
    (introduction,) = read_text(text, "x")
    assert introduction.trust is TrustLevel.PINNED


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(example, "identities.md", "exec"), {})
    assert "no proof by role B" in capsys.readouterr().out


def test_the_figures_are_those_of_the_code() -> None:
    assert f"{learned.LEARNT_INCOMING_MAX:,} incoming keys" in DOCUMENT
    assert f"{learned.LEARNT_OUTGOING_MAX:,} outgoing ones" in DOCUMENT
