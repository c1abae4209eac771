"""Who sits between two hosts that know each other is refused; who knows neither is seen."""

from collections.abc import Callable
from pathlib import Path

import pytest
from netns.mallory import Mallory, Rewriter
from netns.network import PORT, Network
from netns.observed import eno, segments
from netns.trusting import Pair, pair_of, policy

from tcpcrypt.auth.known_peers import KnownPeer, TrustLevel
from tcpcrypt.auth.psk import create_psk
from tcpcrypt.tools.netns import Capture, free_of, wait_until
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import insert_option, remove_option

SECRET = b"for the right host alone"


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


@pytest.fixture
def mallory(pair: Network, tmp_path: Path) -> Mallory:
    return Mallory(pair, tmp_path)


def test_a_man_in_the_middle_is_refused_under_tofu_after_first_contact(
    two: Pair, mallory: Mallory
) -> None:
    two.start(policy("tofu"))
    two.meet()
    right = two.server.fingerprint()
    mallory.step_in(policy("tofu"))
    with mallory.relaying(), two.refused():
        (line,) = two.client.daemon.wait_for("refused")
    assert right in line["reason"]
    assert mallory.identity() in line["reason"]
    assert two.client.keys(two.scope) == [right]
    assert mallory.heard == b""
    assert len(two.server.daemon.events("enabled")) == 1


def test_a_man_in_the_middle_is_refused_under_pinned_by_either_side(
    two: Pair, mallory: Mallory
) -> None:
    two.start(policy("pinned"))
    for side, other, scope in (
        (two.client, two.server, two.scope),
        (two.server, two.client, "*"),
    ):
        key = other.fingerprint()
        side.store.update(
            lambda known, key=key, scope=scope: known.put(
                KnownPeer(key, scope, 1_700_000_000, None, TrustLevel.PINNED)
            )
        )
        side.told()
    wait_until(lambda: _knows(two), "pins in force")
    mallory.step_in(policy("tofu"))
    with mallory.relaying():
        with two.refused():
            (line,) = two.client.daemon.wait_for("refused")
        assert mallory.identity() in line["reason"]
        # The server refuses him, too, where the client would not.
        two.client.stop()
        two.client.start(policy("none"))
        mallory.near.stop()
        mallory.near.start(policy("none"))
        with two.network.listen(), two.network.connect() as one:
            one.sendall(SECRET)
            line = two.server.daemon.wait_for("refused")[0]
    assert mallory.identity() in line["reason"]


def _knows(two: Pair) -> bool:
    try:
        two.talk()
    except ConnectionRefusedError:
        return False
    return True


def test_a_man_in_the_middle_without_the_psk_is_refused(two: Pair, mallory: Mallory) -> None:
    for side in (two.client, two.server):
        (side.state / "psk").mkdir(mode=0o700, parents=True)
        side.state.chmod(0o700)
    _psk, path = create_psk(two.client.state / "psk", "site")
    other = two.server.state / "psk" / "site"
    other.write_bytes(path.read_bytes())
    other.chmod(0o600)
    two.start(policy("psk", psk="site"))
    two.talk()
    # Cached sessions hold the key, and are not his either.
    mallory.step_in(policy("tofu"))
    with mallory.relaying(), two.refused():
        (line,) = two.client.daemon.wait_for("refused")
    assert "pre-shared key" in line["reason"]
    assert mallory.heard == b""


def test_a_man_in_the_middle_shows_as_differing_session_ids_under_none(
    two: Pair, mallory: Mallory
) -> None:
    """RFC 8548 section 5: nobody is refused, and whoever compares sees it."""
    two.start(policy("none"))
    two.talk()
    assert two.client.enabled()["session"] == two.server.enabled()["session"]
    mallory.step_in(policy("none"))
    with mallory.relaying(), two.network.listen() as listener, two.network.connect() as one:
        one.sendall(SECRET)
        other, _address = listener.accept()
        with other:
            assert other.recv(100) == SECRET
            other.sendall(b"!")
            assert one.recv(1) == b"!"
    assert mallory.heard == SECRET
    assert two.client.enabled(2)["session"] != two.server.enabled(2)["session"]


def test_a_man_in_the_middle_of_the_first_contact_is_the_first_contact(
    two: Pair, mallory: Mallory
) -> None:
    """A limit of tofu: his key is remembered, and shows as soon as fingerprints are compared."""
    two.start(policy("tofu"))
    mallory.step_in(policy("tofu"))
    with mallory.relaying(), two.network.listen() as listener, two.network.connect() as one:
        one.sendall(SECRET)
        other, _address = listener.accept()
        with other:
            assert other.recv(100) == SECRET
            other.sendall(b"!")
            assert one.recv(1) == b"!"
    wait_until(lambda: two.client.keys(two.scope), "key on disk")
    assert two.client.keys(two.scope) == [mallory.identity()]
    assert two.client.keys(two.scope) != [two.server.fingerprint()]


# --- what a path can take away from handshakes -------------------------------------------------


def without_eno(segment: Segment) -> bytes | None:
    return remove_option(segment.options, 69) if eno(segment) is not None else None


def with_plain_tep(segment: Segment) -> bytes | None:
    """TEP 0x20 stripped, and the one of RFC 8548 in its place."""
    if segment.flags.ack or eno(segment) is None:
        return None
    return insert_option(remove_option(segment.options, 69), b"\x45\x03\x23")


def with_first_version(segment: Segment) -> bytes | None:
    """The hybrid stripped from what the client offers."""
    data = eno(segment)
    if segment.flags.ack or data is None or b"TA\x02" not in data:
        return None
    changed = data.replace(b"TA\x02", b"TA\x01")
    option = bytes((69, len(changed) + 2)) + changed
    return insert_option(remove_option(segment.options, 69), option)


@pytest.mark.parametrize("mode", ["require", "opportunistic"])
@pytest.mark.parametrize(
    "change", [without_eno, with_plain_tep], ids=["eno dropped", "0x20 stripped"]
)
def test_what_is_stripped_for_a_known_peer_is_refused_and_never_plain(
    path: Network, tmp_path: Path, mode: str, change: Callable[[Segment], bytes | None]
) -> None:
    assert path.middle is not None
    two = pair_of(path, tmp_path)
    two.client.start(policy("tofu", mode))
    two.server.start(policy("tofu", "opportunistic"))
    two.meet()
    with (
        Rewriter(path.middle, change) as rewriter,
        Capture(path.client_end) as capture,
        two.refused(reached=True),
    ):
        (line,) = two.client.daemon.wait_for("refused")
    assert rewriter.changed
    assert two.server.fingerprint() in line["reason"]
    sent = [s for s in segments(capture.packets) if s.destination_port == PORT]
    assert not [s for s in sent if s.payload]
    two.talk()


def test_a_stripped_version_2_is_refused_under_pq_require(path: Network, tmp_path: Path) -> None:
    """And a change of the offer shows to both, whatever they would have agreed on."""
    assert path.middle is not None
    two = pair_of(path, tmp_path)
    two.start(policy("tofu", pq="require"))
    two.server.reload(policy("tofu", pq="prefer"))
    with Rewriter(path.middle, with_first_version) as rewriter, two.refused():
        assert two.client.daemon.wait_for("refused")
    assert rewriter.changed


def test_an_answer_of_plain_tcpcrypt_is_refused_for_a_known_peer(two: Pair) -> None:
    two.client.start(policy("tofu", "opportunistic"))
    two.server.start(policy("tofu"))
    two.meet()
    two.server.reload(policy("none"))
    with Capture(two.network.client_end) as capture, two.refused():
        (line,) = two.client.daemon.wait_for("refused")
    assert two.server.fingerprint() in line["reason"]
    assert free_of(capture.packets, SECRET) == [SECRET]
    assert not [s for s in segments(capture.packets) if s.payload]
