"""The core, held to the vectors: records and whole sessions on both sides."""

import json
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.core.config import FRAME_DATA_MAX, Config
from tcpcrypt.core.events import (
    DataReceived,
    Direction,
    Event,
    Rekeyed,
    Role,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.records import KeyRing, RecordReceiver, RecordSender
from tcpcrypt.core.resumption import Ticket
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import AEADS, aead
from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret
from tcpcrypt.crypto.secret import Secret

VECTORS = Path(__file__).parents[2] / "vectors"
ALL: list[dict[str, Any]] = [
    vector
    for path in [*sorted(VECTORS.glob("rfc8548-*.json")), VECTORS / "peers/rfc8548-sample.json"]
    for vector in json.loads(path.read_text())["vectors"]
]
ROLES = {"A": Role.A, "B": Role.B, "original A": Role.A, "original B": Role.B}

each_vector = pytest.mark.parametrize("vector", ALL, ids=lambda v: v["name"])
each_role = pytest.mark.parametrize("role", Role, ids=lambda r: r.name)


def frames_of(frames: list[dict[str, Any]], role: Role) -> list[dict[str, Any]]:
    return [frame for frame in frames if ROLES[frame["sender"]] is role]


def stream_of(frames: list[dict[str, Any]], role: Role) -> bytes:
    return b"".join(bytes.fromhex(frame["frame"]) for frame in frames_of(frames, role))


def wanted(frames: list[dict[str, Any]], role: Role) -> dict[str, Any]:
    """What the peer of `role` has to be told of its stream."""
    data, urgent = b"", []
    for frame in frames_of(frames, role):
        if frame.get("urgent") is not None:
            urgent.append(len(data) + frame["urgent"])
        data += bytes.fromhex(frame["data"])
    last = frames_of(frames, role)[-1]
    return {"data": data, "urgent": urgent, "ended": last.get("fin", False)}


def told(events: list[Event]) -> dict[str, Any]:
    return {
        "data": b"".join(bytes(e.data) for e in events if isinstance(e, DataReceived)),
        "urgent": [e.index for e in events if isinstance(e, UrgentReceived)],
        "ended": any(isinstance(e, StreamEnded) for e in events),
    }


def events_of(session: Session) -> list[Event]:
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


@each_role
@each_vector
def test_records_open_the_frames(vector: dict[str, Any], role: Role) -> None:
    parameters, frames = aead(vector["aead"]), vector["frames"]
    ring = KeyRing(MasterKey(Secret(bytes.fromhex(vector["mk"][0]))), parameters, role.peer)
    start = frames_of(frames, role)[0]["offset"]
    receiver = RecordReceiver(Config(), ring, parameters, offset=start, other_offset=start)
    data = b""
    for frame in frames_of(frames, role):
        receiver.feed(bytes.fromhex(frame["frame"]))
        received = receiver.step()
        assert received is not None
        assert received.data == bytes.fromhex(frame["data"])
        assert received.rekeyed is frame["rekey"]
        assert received.fin is frame["fin"]
        assert receiver.generation == frame["generation"]
        if frame["urgent"] is None:
            assert received.urgent_index is None
        else:
            assert received.urgent_index == len(data) + frame["urgent"]
        data += received.data


@each_role
@pytest.mark.parametrize(
    "vector",
    # The core keeps room for an urgent field in every frame.
    [v for v in ALL if all(len(f["data"]) <= 2 * FRAME_DATA_MAX for f in v["frames"])],
    ids=lambda v: v["name"],
)
def test_records_seal_the_frames(vector: dict[str, Any], role: Role) -> None:
    parameters, frames = aead(vector["aead"]), frames_of(vector["frames"], role)
    ring = KeyRing(MasterKey(Secret(bytes.fromhex(vector["mk"][0]))), parameters, role)
    config = Config(first_frame_data=FRAME_DATA_MAX)
    sender = RecordSender(config, ring, parameters, offset=frames[0]["offset"])
    for frame in frames:
        if frame["rekey"]:
            sender.advance_key()
        urgent = -1 if frame["urgent"] is None else frame["urgent"]
        sender.seal(bytes.fromhex(frame["data"]), fin=frame["fin"], urgent=urgent)
        assert bytes(sender.take()).hex() == frame["frame"]
        assert sender.take() == b""


class KnownKey:
    """In place of a group: makes the key of the vector."""

    def __init__(self, tep: int, private: str) -> None:
        self._make = lambda: group(tep).from_private(bytes.fromhex(private))

    def generate(self) -> EphemeralKey:
        return self._make()


@each_role
@pytest.mark.parametrize(
    "vector",
    # What a host of this package sends: known algorithms, and nothing to be ignored.
    [
        v
        for v in ALL
        if all(c in AEADS for c in v["ciphers"]) and not v["init1_ignored"] + v["init2_ignored"]
    ],
    ids=lambda v: v["name"],
)
def test_session_after_a_fresh_exchange(
    vector: dict[str, Any], role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = role.name.lower()
    key = KnownKey(vector["tep"], vector[f"private_{side}"])
    monkeypatch.setattr("tcpcrypt.core.tep.group", lambda _tep, _profile: key)
    aeads = tuple(vector["ciphers"]) if role is Role.A else (vector["aead"],)
    negotiated = Negotiated(
        role=role,
        tep=vector["tep"],
        tep_byte=vector["tep"],
        eno_transcript=bytes.fromhex(vector["eno_a"] + vector["eno_b"]),
        resuming=False,
        ticket=None,
        nonce_a=b"",
        nonce_b=b"",
        peer_application_aware=False,
    )
    nonce = bytes.fromhex(vector[f"n_{side}"])
    session = Session(Config(aeads=aeads), negotiated, random=lambda _length: nonce)
    own, others = ("init1", "init2") if role is Role.A else ("init2", "init1")
    peer = stream_of(vector["frames"], role.peer)
    session.receive_data(bytes.fromhex(vector[others]) + peer)
    assert bytes(session.bytes_to_send()).hex() == vector[own]
    assert session.session_id.hex() == vector["session_id"]
    assert session.aead == vector["aead"]
    events = events_of(session)
    assert told(events) == wanted(vector["frames"], role.peer)
    heard = [e for e in events if isinstance(e, Rekeyed) and e.direction is Direction.RECEIVING]
    assert [event.generation for event in heard] == [
        frame["generation"] for frame in frames_of(vector["frames"], role.peer) if frame["rekey"]
    ]


@each_role
@each_vector
def test_session_after_a_resumption(vector: dict[str, Any], role: Role) -> None:
    """`role` is that of the original session; section 3.5 lets either side open."""
    resumed = vector["resumed"]
    opens = ROLES[resumed["opener"]] is role
    secret = SessionSecret(Secret(bytes.fromhex(vector["ss1"])), 1)
    negotiated = Negotiated(
        role=Role.A if opens else Role.B,
        tep=vector["tep"],
        tep_byte=vector["tep"] | 0x80,
        eno_transcript=bytes.fromhex(resumed["eno_opener"] + resumed["eno_passive"]),
        resuming=True,
        ticket=Ticket(vector["tep"], vector["aead"], role, secret, None, 0, True),
        nonce_a=bytes.fromhex(resumed["nonce_a"]),
        nonce_b=bytes.fromhex(resumed["nonce_b"]),
        peer_application_aware=False,
    )
    session = Session(Config(), negotiated)
    assert session.session_id.hex() == resumed["session_id"]
    session.receive_data(stream_of(resumed["frames"], role.peer))
    assert told(events_of(session)) == wanted(resumed["frames"], role.peer)
    first = frames_of(resumed["frames"], role)[0]
    if first.get("urgent") is None and first["data"]:
        session.send_data(bytes.fromhex(first["data"]))
        assert bytes(session.bytes_to_send()).hex() == first["frame"]
