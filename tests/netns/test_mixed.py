"""Opened as by sockops, accepted as by NFQUEUE.  (More than here is tested with
TCPCRYPT_TEST_BACKEND=mixed.)
"""

from pathlib import Path

import pytest
from netns import kernel_programs
from netns.network import PORT, Network
from netns.observed import eno, segments
from netns.trusting import pair_of, policy

from tcpcrypt.tools.netns import Capture


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    kernel_programs.needed_by("mixed")


@pytest.mark.parametrize("pq", ["off", "require"])
def test_hosts_that_prove_who_they_are_meet_and_resume(
    pair: Network, tmp_path: Path, pq: str
) -> None:
    """Which sockops refuses: its program knows nothing of such answers."""
    two = pair_of(pair, tmp_path)
    two.start(policy("tofu", pq=pq), backend='"mixed"')
    two.meet()
    two.talk()
    for side in (two.client, two.server):
        starts = [line["start"] for line in side.daemon.wait_for("enabled", count=2)]
        assert starts == ["fresh", "resumed"]
    assert two.client.sessions() == []


@pytest.mark.parametrize("family", [4, 6])
def test_no_packet_of_an_opener_waits_in_the_queue(pair: Network, family: int) -> None:
    ours = pair.daemon(pair.client, "--backend", "mixed", "--mode", "require")
    pair.daemon(pair.server, "--mode", "require")
    with pair.conversation(family):
        pass
    ours.wait_for("closed")
    command = "iptables" if family == 4 else "ip6tables"
    listed = pair.client.run(f"{command}-save", "-c", "-t", "mangle").stdout
    diverted = [
        line for line in listed.splitlines() if "--queue-num 69" in line or "NFQUEUE" in line
    ]
    held = [line for line in diverted if not line.startswith("[0:")]
    # The application's own SYN, which every backend holds.
    assert len(held) == 1, "\n".join(diverted)


def test_a_plain_peer_is_left_in_plain_or_refused(pair: Network) -> None:
    ours = pair.daemon(pair.client, "--backend", "mixed")
    with Capture(pair.client_end) as capture, pair.conversation():
        pass
    assert "no usable ENO" in ours.wait_for("fallback")[0]["reason"]
    syns = [eno(s) for s in segments(capture.packets) if s.flags.syn]
    assert syns[0] is not None
    ours.stop()
    pair.daemon(pair.client, "--backend", "mixed", "--mode", "require")
    with pair.listen(), pytest.raises(ConnectionRefusedError):
        pair.connect()


def test_a_path_that_strips_the_answer_ends_in_plain(path: Network) -> None:
    strip = "-p tcp --tcp-flags SYN,ACK SYN,ACK -j TCPOPTSTRIP --strip-options 69"
    path.meddle(*strip.split())
    ours, theirs = path.both("--backend", "mixed")
    with Capture(path.client_end) as capture, path.conversation():
        pass
    for daemon in (ours, theirs):
        daemon.wait_for("fallback")
    late = [s for s in segments(capture.packets) if s.destination_port == PORT and not s.flags.syn]
    assert late
    assert not any(eno(s) for s in late)
