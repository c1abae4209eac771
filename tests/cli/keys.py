"""Run commands on keys of a directory, with what a person types."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.cli import tcpcrypt as command

NOW = 1_800_000_000
A, B, C = (fingerprint(name.encode() * 32) for name in "abc")
S, T = "10.0.0.2:5432", "[2001:db8::7]:22"


class Typed(io.StringIO):
    """A terminal, and what is typed there."""

    def isatty(self) -> bool:
        return True


class Commands:
    """`tcpcrypt WORDS --state DIRECTORY`; no daemon runs, unless `control` is one's."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.control = directory / "nobody"
        self._capsys = capsys

    def __call__(self, *words: object, typed: str | None = None) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        line = [*map(str, words), "--state", str(self.directory), "--control", str(self.control)]
        before = sys.stdin
        sys.stdin = io.StringIO() if typed is None else Typed(typed)
        try:
            status = command.main(line)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            sys.stdin = before
        return status, *self._capsys.readouterr()

    def json(self, *words: object, status: int = 0) -> Any:
        found, out, _err = self(*words, "--json")
        assert found == status
        return json.loads(out)

    @property
    def file(self) -> KnownPeersFile:
        return KnownPeersFile(self.directory / "known_peers")

    def know(self, *lines: tuple[str, str, str]) -> None:
        """Scope, trust, key."""

        def change(known: KnownPeers) -> None:
            for line in list(known):
                known.remove(line.key, line.scope)
            for scope, trust, key in lines:
                known.put(KnownPeer(key, scope, NOW, NOW, TrustLevel(trust)))

        self.file.update(change)

    @property
    def known(self) -> set[tuple[str, str, str]]:
        """Scope, trust, key."""
        file = self.file
        file.refresh()
        return {(line.scope, str(line.trust), line.key) for line in file.current}
