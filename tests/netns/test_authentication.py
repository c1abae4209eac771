"""Two daemons that prove to each other who they are; nobody sits between them.

Who does is in test_authentication_attacks.py.
"""

import signal
import socket
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import segments
from netns.trusting import Pair, Trusting, ended_by_reset, pair_of, policy

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import load_identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.psk import create_psk, load_psk
from tcpcrypt.daemon.client import Client
from tcpcrypt.daemon.sockopt import Option, getsockopt
from tcpcrypt.tools.netns import Capture, free_of, wait_until

SECRET = b"for the right host alone"


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


def pin(known: KnownPeers, key: str, scope: str, trust: TrustLevel = TrustLevel.PINNED) -> None:
    known.put(KnownPeer(key, scope, 1_700_000_000, None, trust))


# --- tofu ---------------------------------------------------------------------------


def test_first_contact_is_remembered_and_the_second_is_none(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    mine, theirs = two.client.fingerprint(), two.server.fingerprint()
    assert two.client.daemon.events("started")[0]["identity"] == mine
    for side, key, scope in ((two.client, theirs, two.scope), (two.server, mine, "*")):
        (line,) = side.daemon.events("first_contact")
        assert (line["fingerprint"], line["scope"]) == (key, scope)
        assert side.keys(scope) == [key]
        peer = side.known().get(key, scope)
        assert peer is not None
        assert peer.trust is TrustLevel.TOFU
        line = side.enabled()
        assert (line["tep"], line["kex"], line["fingerprint"]) == ("0x20", "X25519MLKEM768", key)
    two.talk()
    for side in (two.client, two.server):
        assert side.enabled(2)["start"] == "resumed"
        assert len(side.daemon.events("first_contact")) == 1
        assert not side.daemon.events("refused", "aborted", "fallback", "bug", "trust_failed")


def test_the_identity_outlives_the_daemon_and_lies_in_a_file_of_roots_own(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    mine = two.client.fingerprint()
    path = two.client.state / "identity"
    assert path.stat().st_mode & 0o777 == 0o600
    assert two.client.state.stat().st_mode & 0o777 == 0o700
    assert len(two.client.daemon.events("identity")) == 1
    two.client.stop()
    two.client.start(policy("tofu"))
    two.talk()
    assert two.client.fingerprint() == mine
    assert not two.client.daemon.events("identity", "first_contact")
    assert not two.server.daemon.events("refused", "aborted")


def test_no_policy_that_authenticates_no_identity(two: Pair) -> None:
    two.client.start('[[policy]]\nmode = "require"\nmatch.ports = 80\n')
    assert not two.client.state.exists()
    assert "identity" not in two.client.daemon.events("started")[0]


def test_a_changed_key_is_a_refused_connection(two: Pair) -> None:
    """Nothing of the application's leaves; both fingerprints are in the log."""
    two.start(policy("tofu"))
    two.meet()
    before = two.server.fingerprint()
    two.server.stop()
    after = two.server.new_identity()
    two.server.start(policy("tofu"))
    with Capture(two.network.client_end) as capture, two.refused():
        (line,) = two.client.daemon.wait_for("refused")
    assert before in line["reason"]
    assert after in line["reason"]
    assert two.client.keys(two.scope) == [before]
    assert two.client.counters()["refused"] == 1
    assert not two.server.daemon.events("enabled")
    sent = [s for s in segments(capture.packets) if s.destination_port == PORT and s.payload]
    assert {bytes(s.payload[:4]).hex() for s in sent} == {"15101a0e"}  # Init1 and no more
    # Whoever decides that it was on purpose says so, and it goes on.
    two.client.store.update(
        lambda known: (known.remove(before, two.scope), pin(known, after, two.scope))
    )
    two.client.told()
    wait_until(lambda: _talks(two), "connection to the new key")


def _talks(two: Pair) -> bool:
    try:
        two.talk()
    except ConnectionRefusedError:
        return False
    return True


def test_tofu_enforce_false_only_logs_a_changed_key(two: Pair) -> None:
    two.client.start(policy("tofu"), tofu_enforce="false")
    two.server.start(policy("tofu"))
    two.meet()
    before = two.server.fingerprint()
    two.server.stop()
    after = two.server.new_identity()
    two.server.start(policy("tofu"))
    two.talk()
    (line,) = two.client.daemon.wait_for("identity_changed")
    assert (line["fingerprint"], line["known"]) == (after, before)
    assert two.client.keys(two.scope) == [before]


def test_an_unknown_host_without_authentication_goes_on_under_opportunistic(two: Pair) -> None:
    """With RFC 8548 alone, or in the clear; and under `require` it does not."""
    two.client.start(policy("tofu", "opportunistic"))
    two.server.start(policy("none", "opportunistic"))
    two.talk()
    assert two.client.enabled()["tep"] == "0x23"
    two.server.stop()
    two.talk_alone()
    two.client.daemon.wait_for("fallback")
    assert len(two.client.known()) == 0
    two.client.reload(policy("tofu", "require"))
    with two.refused(reached=True):
        pass
    two.server.start(policy("none"))
    with two.refused():
        pass


def test_a_connection_to_port_0_is_refused_and_nothing_waits_for_it(two: Pair) -> None:
    """No key can be known for it; Linux lets any user try."""
    two.client.start('[[policy]]\nmode = "opportunistic"\nauth = "tofu"\n')
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            two.network.connect(port=0)
    assert len(two.client.daemon.wait_for("failed", count=3)) == 3
    assert not two.client.daemon.events("bug")
    two.talk_alone()


def test_a_server_that_speaks_first(two: Pair) -> None:
    """It does so once the client has proved who it is; nobody waits for anybody for ever."""
    two.start(policy("tofu"))
    for start in ("fresh", "resumed", "resumed"):
        with two.network.listen() as listener, two.network.connect() as one:
            other, _address = listener.accept()
            with other:
                other.sendall(b"220 ready\r\n")
                assert one.recv(100) == b"220 ready\r\n"
                one.sendall(b"QUIT\r\n")
                assert other.recv(100) == b"QUIT\r\n"
        assert start in {line["start"] for line in two.client.daemon.wait_for("enabled")}
    for side in (two.client, two.server):
        assert all(line["proved"] == "yes" for line in side.daemon.wait_for("closed", count=3))


# --- pinned, psk ----------------------------------------------------------------------


def test_pinned_asks_for_the_pinned_key_on_both_sides(two: Pair) -> None:
    two.start(policy("pinned"))
    mine, theirs = two.client.fingerprint(), two.server.fingerprint()
    with two.refused():
        assert mine in two.server.daemon.wait_for("refused")[0]["reason"]
        assert mine in two.client.daemon.wait_for("failed")[0]["reason"]
    two.server.store.update(lambda known: pin(known, mine, "*"))
    two.server.told()
    with two.refused():
        wait_until(lambda: _reasons(two.client, theirs), "the server's key in a refusal")
    two.client.store.update(lambda known: pin(known, theirs, two.scope))
    two.client.told()
    wait_until(lambda: _talks(two), "connection")
    assert two.client.enabled()["trust"] == "pinned"
    assert two.server.enabled()["trust"] == "pinned"


def _reasons(side: Trusting, text: str) -> bool:
    lines = side.daemon.events("refused")
    return any(text in line["reason"] for line in lines)


def test_pinned_makes_opportunistic_require(two: Pair) -> None:
    two.client.start(policy("pinned", "opportunistic"))
    with two.refused(reached=True):
        assert two.client.daemon.wait_for("refused")


def share_psk(two: Pair, name: str = "site") -> None:
    for side in (two.client, two.server):
        (side.state / "psk").mkdir(mode=0o700, parents=True)
        side.state.chmod(0o700)
    _psk, path = create_psk(two.client.state / "psk", name)
    other = two.server.state / "psk" / name
    other.write_bytes(path.read_bytes())
    other.chmod(0o600)


def test_a_psk_that_both_have(two: Pair) -> None:
    share_psk(two)
    two.start(policy("psk", psk="site"))
    two.talk()
    for side in (two.client, two.server):
        assert side.enabled()["psk"] == "site"
    two.talk()
    assert two.client.enabled(2)["start"] == "resumed"


def test_another_psk_under_the_same_hint_is_refused(two: Pair) -> None:
    """Whoever knows name and hint, and not the key, gets nothing and is nobody."""
    share_psk(two)
    right = load_psk(two.client.state / "psk" / "site")
    wrong = two.server.state / "psk" / "site"
    text = wrong.read_text()
    key = bytes(right.key.view()).hex()
    wrong.write_text(text.replace(key, key[::-1]))
    two.start(policy("psk", psk="site"))
    with Capture(two.network.client_end) as capture, two.refused():
        assert two.client.daemon.wait_for("refused", "aborted")
    assert two.client.counters()["fresh"] == two.server.counters()["fresh"] == 0
    assert free_of(capture.packets, SECRET) == [SECRET]


def test_a_peer_without_the_psk_is_refused(two: Pair) -> None:
    share_psk(two)
    two.client.start(policy("psk", psk="site"))
    two.server.start(policy("tofu"))
    (two.server.state / "psk" / "site").unlink()
    two.server.told()
    two.server.stop()
    two.server.start(policy("tofu"))
    with two.refused():
        (line,) = two.client.daemon.wait_for("refused")
    assert "pre-shared key" in line["reason"]


def test_a_policy_whose_psk_is_missing_does_not_start(two: Pair) -> None:
    with pytest.raises(Exception, match="there is no pre-shared key 'site'"):
        two.client.start(policy("psk", psk="site"))


# --- the hybrid -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "kex"),
    [
        ("prefer", "prefer", "X25519MLKEM768"),
        ("off", "prefer", "X25519"),
        ("require", "prefer", "X25519MLKEM768"),
        ("require", "require", "X25519MLKEM768"),
    ],
)
def test_which_key_agreement(two: Pair, ours: str, theirs: str, kex: str) -> None:
    two.client.start(policy("tofu", pq=ours))
    two.server.start(policy("tofu", pq=theirs))
    two.talk()
    for side in (two.client, two.server):
        assert side.enabled()["kex"] == kex


@pytest.mark.parametrize(("ours", "theirs"), [("require", "off"), ("off", "require")])
def test_a_peer_that_excludes_what_policy_requires_is_refused(
    two: Pair, ours: str, theirs: str
) -> None:
    two.client.start(policy("tofu", pq=ours))
    two.server.start(policy("tofu", pq=theirs))
    with two.refused():
        assert two.client.daemon.wait_for("refused")


def test_the_hybrid_without_identities(two: Pair) -> None:
    two.start(policy("none", pq="require"))
    two.talk()
    line = two.client.enabled()
    assert (line["kex"], line["tep"]) == ("X25519MLKEM768", "0x20")
    assert "fingerprint" not in line
    assert not (two.client.state / "identity").exists()


# --- what is seen of it -------------------------------------------------------------------


def test_sessions_status_and_sockets_tell_who_the_peer_is(two: Pair) -> None:
    two.start(policy("tofu"))
    theirs = two.server.fingerprint()
    with two.network.conversation() as (one, _other):
        (session,) = two.client.sessions()
        assert (session.fingerprint, session.proved, session.kex) == (
            *(theirs, True, "X25519MLKEM768"),
        )
        assert session.trust == "tofu"
        value = getsockopt(one, Option.TCP_CRYPT_PEER_IDENTITY, control=two.client.control, wait=5)
        assert value == theirs.encode()
        with Client(two.client.control) as client:
            assert client.status()["identity"] == two.client.fingerprint()
        (other,) = two.server.sessions()
        assert other.session_id == session.session_id
        assert other.fingerprint == two.client.fingerprint()


def test_a_handshake_takes_as_many_packets_as_without_authentication(two: Pair) -> None:
    counts = {}
    for auth, pq in (("none", "off"), ("tofu", "off"), ("tofu", "require")):
        two.start(policy(auth, pq=pq))
        with Capture(two.network.client_end) as capture:
            two.talk()
        # Bare ACKs come when a timer of the kernel says so; what TCP repeats, when it is busy.
        sent = dict.fromkeys(
            (s.flags.syn, s.source_port == PORT, s.seq, bytes(s.payload))
            for s in segments(capture.packets)
            if s.flags.syn or s.payload
        )
        inits = [data[:4].hex() in ("15101a0e", "097105e0") for *_, data in sent]
        last = max(number for number, is_init in enumerate(inits) if is_init)
        counts[auth, pq] = [(syn, of_server) for syn, of_server, *_ in sent][: last + 1]
        two.client.stop()
        two.server.stop()
    assert len(counts["none", "off"]) == 4  # both SYNs, Init1, Init2
    assert counts["tofu", "off"] == counts["none", "off"]
    assert counts["tofu", "require"] == counts["none", "off"]


def test_the_identity_of_a_service_is_on_no_wire(two: Pair) -> None:
    """S_B travels encrypted; S_A, which policy asked for, is there to be seen."""
    two.start(policy("tofu"))
    with Capture(two.network.client_end) as capture:
        two.meet()
    publics = [load_identity(s.state / "identity").public for s in (two.client, two.server)]
    assert free_of(capture.packets, *publics) == [publics[1]]


# --- trust changes while connections live ----------------------------------------------------


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_revoked_key_ends_live_connections_and_resumes_none(two: Pair, who: str) -> None:
    two.start(policy("tofu"))
    two.meet()
    side, other = (two.client, two.server) if who == "client" else (two.server, two.client)
    scope = two.scope if who == "client" else "*"
    key = other.fingerprint()
    with two.network.conversation() as (one, two_):
        side.store.update(lambda known: pin(known, key, scope, TrustLevel.REVOKED))
        side.told()
        for sock in (one, two_):
            assert ended_by_reset(sock)
    (line,) = side.daemon.wait_for("distrusted")
    assert key in line["reason"]
    with two.refused():
        assert side.daemon.wait_for("refused")
    assert not side.daemon.events("bug")


def test_forgetting_a_peer_makes_it_a_first_contact_again(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    key = two.server.fingerprint()
    two.client.store.update(lambda known: known.remove(key, two.scope))
    two.client.told()
    wait_until(lambda: _forgot(two), "second first contact")
    assert two.client.daemon.events("first_contact")[1]["fingerprint"] == key


def _forgot(two: Pair) -> bool:
    two.talk()
    return len(two.client.daemon.events("first_contact")) > 1


def test_the_daemon_sees_by_itself_that_the_file_has_changed(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    key = two.server.fingerprint()
    with two.network.conversation() as (one, _other):
        two.client.store.update(lambda known: pin(known, key, two.scope, TrustLevel.REVOKED))
        assert ended_by_reset(one)


def test_a_damaged_file_of_known_peers_changes_nothing(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    path = two.client.state / "known_peers"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"end\n", b""))
    two.client.told()
    (line,) = two.client.daemon.wait_for("trust_failed")
    assert str(path) in line["reason"]
    two.talk()
    path.write_bytes(good)
    two.client.told()
    two.talk()
    assert len(two.client.daemon.events("first_contact")) == 1


def test_a_thousand_known_peers_on_either_side(two: Pair) -> None:
    """How long a look takes stands in tests/auth/test_known_peers.py: microseconds."""
    for side, scopes in (
        (two.client, [f"198.51.{n // 200}.{n % 200}:443" for n in range(1000)]),
        (two.server, ["*"] * 1000),
    ):
        keys = [fingerprint(n.to_bytes(32, "big")) for n in range(1000)]
        side.store.update(
            lambda known, keys=keys, scopes=scopes: [
                pin(known, key, scope, TrustLevel.TOFU)
                for key, scope in zip(keys, scopes, strict=True)
            ]
        )
    two.start(policy("tofu"))
    for _ in range(3):
        two.talk()
    wait_until(lambda: (len(two.client.known()), len(two.server.known())) == (1001, 1001), "1,001")
    assert len(two.client.daemon.events("first_contact")) == 1


def test_a_reload_begins_to_ask(two: Pair) -> None:
    two.start(policy("none"))
    two.talk()
    assert two.client.enabled()["tep"] == "0x23"
    for side in (two.client, two.server):
        side.reload(policy("tofu"))
    two.meet()
    assert two.client.enabled(2)["tep"] == "0x20"
    assert two.client.enabled(2)["start"] == "fresh"


def test_services_of_one_host_ask_each_for_themselves(two: Pair) -> None:
    """The answer to a SYN goes by the policy of the service that it names."""
    both = policy("tofu") + policy("none", ports=81)
    two.start(both)
    for port, tep in ((PORT, "0x20"), (81, "0x23"), (PORT, "0x20")):
        with two.network.listen(port=port) as listener, two.network.connect(port=port) as one:
            one.sendall(b"?")
            other, _address = listener.accept()
            other.close()
        lines = two.server.daemon.wait_for("enabled")
        assert lines[-1]["tep"] == tep


def test_one_process_does_the_same(two: Pair) -> None:
    for side in (two.client, two.server):
        side.start(policy("tofu"), "--single-process")
    two.meet()
    key = two.server.fingerprint()
    with two.network.conversation() as (one, _other):
        two.client.store.update(lambda known: pin(known, key, two.scope, TrustLevel.REVOKED))
        assert ended_by_reset(one)


# --- addresses that several hosts share -------------------------------------------------------


def test_two_clients_behind_one_address(path: Network, tmp_path: Path) -> None:
    """NAT: incoming trust goes by keys; neither client is taken for the other."""
    assert path.middle is not None
    two = pair_of(path, tmp_path)
    second = path.lab.host("second")
    near, _far = path.lab.join(second, path.middle)
    second.run("ip", "route", "add", "default", "via", f"{near.v4.rpartition('.')[0]}.2")
    path.middle.run(
        *("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", path.middle_ends[1].device),
        *("-j", "MASQUERADE"),
    )
    other = Trusting(path, second, tmp_path / "second")
    two.start(policy("tofu"))
    other.start(policy("tofu"))
    for host in (path.client, second, path.client, second):
        with path.listen() as listener, host.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.settimeout(15)
            one.connect((path.server_end.v4, PORT))
            one.sendall(b"?")
            served, address = listener.accept()
            with served:
                assert served.recv(1) == b"?"
                assert address[0] == path.middle_ends[1].v4
    keys = {two.client.fingerprint(), other.fingerprint()}
    assert {line["fingerprint"] for line in two.server.daemon.wait_for("enabled", count=4)} == keys
    wait_until(lambda: set(two.server.keys("*")) == keys, "both keys")
    assert not two.server.daemon.events("refused", "aborted")


def test_one_address_with_two_hosts_behind_its_ports(path: Network, tmp_path: Path) -> None:
    """Port forwarding: each service has a scope of its own, and its own host's key."""
    assert path.middle is not None
    two = pair_of(path, tmp_path)
    second = path.lab.host("second")
    inner, _near = path.lab.join(second, path.middle)
    second.run("ip", "route", "add", "default", "via", f"{inner.v4.rpartition('.')[0]}.2")
    public = path.middle_ends[0].v4
    for port, to in ((8001, path.server_end.v4), (8002, inner.v4)):
        path.middle.run(
            *("iptables", "-t", "nat", "-A", "PREROUTING", "-d", public, "-p", "tcp"),
            *("--dport", str(port), "-j", "DNAT", "--to-destination", f"{to}:{PORT}"),
        )
    other = Trusting(path, second, tmp_path / "second")
    two.client.start(policy("tofu").replace("ports = 80", "ports = [8001, 8002]"))
    two.server.start(policy("tofu"))
    other.start(policy("tofu"))
    for _ in range(2):
        for host, port in ((path.server, 8001), (second, 8002)):
            with (
                host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
                path.client.socket(socket.AF_INET, socket.SOCK_STREAM) as one,
            ):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.settimeout(10)
                listener.bind(("", PORT))
                listener.listen()
                one.settimeout(15)
                one.connect((public, port))
                one.sendall(b"?")
                served, _address = listener.accept()
                with served:
                    assert served.recv(1) == b"?"
    wait_until(lambda: two.client.keys(f"{public}:8002"), "second key")
    assert two.client.keys(f"{public}:8001") == [two.server.fingerprint()]
    assert two.client.keys(f"{public}:8002") == [other.fingerprint()]
    assert not two.client.daemon.events("refused", "aborted")


def test_the_daemon_ends_with_what_it_learnt_on_disk(two: Pair) -> None:
    two.start(policy("tofu"))
    with two.network.conversation():
        pass
    two.client.daemon.process.send_signal(signal.SIGTERM)
    two.client.daemon.wait_for("ended")
    assert two.client.keys(two.scope) == [two.server.fingerprint()]
