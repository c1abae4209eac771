"""Dialects between two hosts: which is spoken when policies differ, and which SYNs come."""

from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import segments

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host
from tcpcrypt.wire.eno import find_eno
from tcpcrypt.wire.profile import RFC8548, STANFORD


def daemon(host: Host, place: Path, profile: str, mode: str = "opportunistic") -> LabDaemon:
    """A daemon that speaks `profile`."""
    place.mkdir()
    config = place / "tcpcrypt.toml"
    config.write_text(
        f'[daemon]\ncontrol = "{place}/control.sock"\nstate = "{place}/state"\n'
        f'[[policy]]\nmatch = {{ ports = {PORT} }}\nmode = "{mode}"\nprofile = "{profile}"\n'
    )
    with Network.every_policy():
        return LabDaemon(host, "--config", str(config))


def spoken(packets: list[bytes]) -> list[set[str]]:
    """The dialects in which each SYN of the client offers to encrypt, in order."""
    syns = {}
    for segment in segments(packets):
        if segment.flags.syn and not segment.flags.ack:
            names = {p.name for p in (RFC8548, STANFORD) if find_eno(segment.options, p).options}
            syns.setdefault(segment.seq, names)
    return list(syns.values())


@pytest.mark.parametrize("server", ["rfc8548", "stanford", "both"])
def test_a_client_that_speaks_both_finds_out(pair: Network, tmp_path: Path, server: str) -> None:
    """RFC 8547 section 4.1: the two options never share a SYN."""
    ours = daemon(pair.client, tmp_path / "client", "both")
    theirs = daemon(pair.server, tmp_path / "server", server)
    with Capture(pair.client_end) as wire:
        for _ in range(3):
            with pair.conversation():
                pass
        packets = wire.settled()
    enabled = [line.get("profile", "rfc8548") for line in ours.wait_for("enabled", count=2)]
    if server == "stanford":
        assert spoken(packets) == [{"rfc8548"}, {"stanford"}, {"stanford"}]
        assert enabled == ["stanford", "stanford"]
        assert len(ours.events("fallback")) == 1
    else:
        assert spoken(packets) == [{"rfc8548"}] * 3
        assert set(enabled) == {"rfc8548"}
    sessions = [{line["session"] for line in side.events("enabled")} for side in (ours, theirs)]
    assert sessions[0] == sessions[1]


@pytest.mark.parametrize("client", ["rfc8548", "stanford"])
def test_a_server_that_speaks_both_answers_either(
    pair: Network, tmp_path: Path, client: str
) -> None:
    ours = daemon(pair.client, tmp_path / "client", client, "require")
    theirs = daemon(pair.server, tmp_path / "server", "both", "require")
    for _ in range(2):
        with pair.conversation():
            pass
    starts = [line["start"] for line in ours.wait_for("enabled", count=2)]
    assert starts == ["fresh", "resumed"]
    for line in theirs.wait_for("enabled", count=2):
        assert line.get("profile", "rfc8548") == client


def test_required_dialects_that_differ_refuse(pair: Network, tmp_path: Path) -> None:
    daemon(pair.client, tmp_path / "client", "stanford", "require")
    daemon(pair.server, tmp_path / "server", "rfc8548")
    with pair.listen(), pytest.raises(ConnectionRefusedError):
        pair.connect()
