"""The part of `tcpcrypt demo` about identities: first contact, second contact, a changed key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tcpcrypt.auth.fingerprint import randomart
from tcpcrypt.auth.identity import create_identity, load_identity
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.tools.demo_text import Printer
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, Lab, Link, free_of, wait_until

__all__ = ["TrustDemo"]

_PORT: Final = 80
_FILE: Final = """\
[daemon]
state = "{directory}/state"
control = "{directory}/c"

[[policy]]
mode = "require"
auth = "tofu"
match.ports = {port}
"""
_REFUSED: Final = 7
"""What curl exits with where a connection is refused."""
_AGENT: Final = "demo-agent-nobody-shall-read"


class TrustDemo:
    """Two more hosts, whose policies ask who the other one is."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        printer: Printer,
        check: Callable[[str, bool], None],
        serve: Callable[[Host, int], None],
    ) -> None:
        self._printer = printer
        self._check = check
        self._client, self._server = lab.host("alice"), lab.host("bob")
        self._wire: Link
        self._wire, self._far = lab.join(self._client, self._server)
        # In few letters: the path of a socket is short, and that of $TMPDIR may be long.
        self._places = {
            host.name: directory / host.name[0] for host in (self._client, self._server)
        }
        for place in self._places.values():
            place.mkdir(mode=0o700)
        serve(self._server, _PORT)
        self._known = KnownPeersFile(self._places["alice"] / "state" / "known_peers")

    def run(self) -> dict[str, Any]:
        """What was found, for `--json`."""
        ours, theirs = self._daemon(self._client), self._daemon(self._server)
        first = self._contact("first contact", ours, theirs, 1)
        self._check(
            "first contact: bob proved a key, and alice remembers it",
            wait_until(self._remembered, "known peer") == [first]
            and ours.events("first_contact")[0]["fingerprint"] == first,
        )
        second = self._contact("second contact", ours, theirs, 2)
        self._check(
            "second contact: the same key, nothing new to remember",
            second == first and len(ours.events("first_contact")) == 1,
        )
        theirs.stop()
        identity = self._places["bob"] / "state" / "identity"
        identity.unlink()
        changed = create_identity(identity).fingerprint
        theirs = self._daemon(self._server)
        self._refuse(ours, first, changed)
        self._check("both daemons end cleanly", (ours.stop(), theirs.stop()) == (0, 0))
        return {"remembered": first, "refused": changed}

    def _daemon(self, host: Host) -> LabDaemon:
        place = self._places[host.name]
        file = place / "tcpcrypt.toml"
        file.write_text(_FILE.format(directory=place, port=_PORT))
        return LabDaemon(host, "--config", str(file))

    def _remembered(self) -> list[str]:
        self._known.refresh()
        return list(self._known.current.of_scope(f"{self._far.v4}:{_PORT}"))

    def _curl(self) -> int:
        words = ("curl", "--silent", "--max-time", "30", "--user-agent", _AGENT)
        done = self._client.run(
            *words, "--output", "/dev/null", f"http://{self._far.v4}/", check=False
        )
        return done.returncode

    def _contact(self, what: str, ours: LabDaemon, theirs: LabDaemon, count: int) -> str:
        self._printer.title(f"alice: curl http://{self._far.v4}/, {what}")
        served = self._curl() == 0
        mine, other = (daemon.wait_for("closed", count=count)[-1] for daemon in (ours, theirs))
        key = mine["fingerprint"]
        self._printer.line(f"bob's key as alice sees it  {key}, {mine['start']}, {mine['kex']}")
        if count == 1:
            for line in randomart(key).splitlines():
                self._printer.line(f"    {line}")
        right = load_identity(self._places["bob"] / "state" / "identity").fingerprint
        self._check(
            f"{what}: served, and each has proved to the other who it is",
            served and key == right and (mine["proved"], other["proved"]) == ("yes", "yes"),
        )
        return key

    def _refuse(self, ours: LabDaemon, before: str, after: str) -> None:
        self._printer.title("bob has another key, or somebody has taken his place")
        with Capture(self._wire) as capture:
            status = self._curl()
        (line,) = ours.wait_for("refused")
        self._printer.line(line["reason"])
        self._check("a changed key: the connection is refused", status == _REFUSED)
        self._check(
            "both keys are in the log", before in line["reason"] and after in line["reason"]
        )
        self._check(
            "nothing of the request was on the wire",
            bool(capture.packets)
            and capture.dropped == 0
            and free_of(capture.packets, _AGENT.encode(), b"GET /") == [_AGENT.encode(), b"GET /"],
        )
