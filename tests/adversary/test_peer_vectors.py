"""The second implementation against the published vectors, one set of which neither made.

So an error that both implementations share would have to be in those vectors too.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem
from peer.authenticating import AuthenticatingHost, public
from peer.frames import Direction, Frame
from peer.groups import WIRE_LEN, KeyPair
from peer.host import Host

VECTORS = Path(__file__).parents[2] / "vectors"
FILES = [*sorted(VECTORS.glob("rfc8548-*.json")), VECTORS / "peers" / "rfc8548-sample.json"]
AUTHENTICATED = sorted(VECTORS.glob("authenticated-*.json"))


def vectors(files: list[Path]) -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.stem}-{vector['name']}")
        for path in files
        for vector in json.loads(path.read_text())["vectors"]
    ]


def octets(values: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(values[name]) for name in names]


def key_pair(tep: int, private: bytes) -> KeyPair:
    """The pair of a known private key; a scalar is drawn one below."""
    if tep in {0x23, 0x24}:
        return KeyPair(tep, lambda _length: private)
    scalar = int.from_bytes(private, "big")
    return KeyPair(tep, lambda _length: (scalar - 1).to_bytes(66, "big"))


def original_a(vector: dict[str, Any]) -> Host:
    """A of the vector, with all keys in place."""
    tep = vector["tep"]
    private_a, private_b, init1, init2, es = octets(
        vector, "private_a", "private_b", "init1", "init2", "es"
    )
    host = Host("A", teps=(tep,), aeads=tuple(vector["ciphers"]))
    host.own_region, host.peer_option = octets(vector, "eno_a", "eno_b")
    host.settle()
    assert host.tep == tep
    host.key, other = key_pair(tep, private_a), key_pair(tep, private_b)
    assert init1[host.key_at :][: WIRE_LEN[tep]] == host.key.wire
    assert init2[42:][: WIRE_LEN[tep]] == other.wire
    assert host.key.shared(other.wire) == other.shared(host.key.wire) == es
    host.aead, host.peer_init, host.peer_key = vector["aead"], init2, other.wire
    host.start_fresh(init1)
    return host


def traffic_keys(direction: Direction) -> list[str]:
    return [b"".join(direction.traffic_key(generation)).hex() for generation in range(3)]


def check_frames(host: Host, frames: list[dict[str, Any]], own: str) -> None:
    """Seal the own frames again, and open the other's."""
    for frame in frames:
        data, wire = octets(frame, "data", "frame")
        fin, rekey = frame.get("fin", False), frame.get("rekey", False)
        urgent = frame.get("urgent")
        if frame["sender"] == own:
            assert host.writer.offset == frame["offset"]
            assert host.writer.frame(data, fin=fin, rekey=rekey, urgent=urgent) == wire
        else:
            assert host.reader.offset == frame["offset"]
            flags = (1 if fin else 0) | (0 if urgent is None else 2)
            assert host.reader.feed(wire) == [Frame(int(rekey), flags, urgent, data)]


@pytest.mark.parametrize("vector", vectors(FILES))
def test_every_value_of_a_fresh_session(vector: dict[str, Any]) -> None:
    host = original_a(vector)
    assert host.session_id.hex() == vector["session_id"]
    assert host.previous.ss.hex() == vector["prk"]
    following = host.remembered.secret
    assert following.ss.hex() == vector["ss1"]
    assert following.following().ss.hex() == vector["ss2"]
    assert (following.half("A") + following.half("B")).hex() == vector["resume1"]
    assert traffic_keys(host.writer) == vector["k_ab"]
    assert traffic_keys(host.reader) == vector["k_ba"]
    assert [mk.hex() for mk in host.writer.masters[:3]] == vector["mk"]
    check_frames(host, vector["frames"], "A")


def authenticating_a(vector: dict[str, Any]) -> AuthenticatingHost:
    """A of a vector of TEP 0x20, which has opened C_B and compared V_B."""
    static = bytes.fromhex(vector["static_a"]) if "static_a" in vector else None
    psk = (*octets(vector, "psk_hint", "psk"),) if "psk" in vector else None
    host = AuthenticatingHost(
        "A", version=vector["version"], static=static, psk=psk, aeads=tuple(vector["ciphers"])
    )
    host.own_region, host.peer_option = octets(vector, "eno_a", "eno_b")
    host.settle()
    init1, init2, host.ephemeral = octets(vector, "init1", "init2", "private_a")
    if vector["version"] == 2:
        seed = bytes.fromhex(vector["mlkem_seed_a"])
        host.kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    assert init1[host.tail_at - 32 : host.tail_at] == public(host.ephemeral)
    assert host.hear_init(init2) == b""
    assert host.aead == vector["aead"]
    assert host.psk_used is vector["psk_used"]
    host.start_fresh(init1)
    return host


@pytest.mark.parametrize("vector", vectors(AUTHENTICATED))
def test_every_value_of_a_session_of_tep_0x20(vector: dict[str, Any]) -> None:
    host = authenticating_a(vector)
    static_b = vector.get("static_b")
    assert host.peer_static == (public(bytes.fromhex(static_b)) if static_b else None)
    assert host.prk.hex() == vector["prk"]
    assert host.session_id.hex() == vector["session_id"]
    assert host.writer.masters[0].hex() == vector["mk0"]
    assert traffic_keys(host.writer)[0] == vector["k_ab0"]
    assert traffic_keys(host.reader)[0] == vector["k_ba0"]
    following = host.remembered.secret
    assert following.ss.hex() == vector["ss1"]
    assert (following.half("A") + following.half("B")).hex() == vector["resume1"]
    check_frames(host, vector["frames"], "A")


@pytest.mark.parametrize("vector", vectors(FILES + AUTHENTICATED))
def test_every_value_of_the_resumed_session(vector: dict[str, Any]) -> None:
    resumed = vector["resumed"]
    opens = resumed["opener"] == "original A"
    role, aeads = "A" if opens else "B", (vector["aead"],)
    if "version" in vector:
        host: Host = AuthenticatingHost(role, version=vector["version"], aeads=aeads)
        host.remembered = authenticating_a(vector).remembered
    else:
        host = Host(role, teps=(vector["tep"],), aeads=aeads)
        host.remembered = original_a(vector).remembered
    opener, passive, nonce_a, nonce_b = octets(
        resumed, "eno_opener", "eno_passive", "nonce_a", "nonce_b"
    )
    host.own_nonce = nonce_a
    host.own_region, host.peer_option = (opener, passive) if opens else (passive, opener)
    host.settle()
    assert host.resuming
    assert host.peer_nonce == nonce_b
    host.start_resumed()
    assert host.session_id.hex() == resumed["session_id"]
    assert host.writer.masters[0].hex() == resumed["mk0"]
    assert traffic_keys(host.writer)[0] == resumed["k_ab0"]
    assert traffic_keys(host.reader)[0] == resumed["k_ba0"]
    check_frames(host, resumed["frames"], "original A")
