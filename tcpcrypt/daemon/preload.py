"""All that the worker imports late, imported while it may still read it.

Libraries import parts of themselves when they are first used.  The worker's
user may not be able to read them by then: the installation can lie in a
directory that is root's alone.  So each algorithm is used once, in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.psk import PskStore
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiation, Opener
from tcpcrypt.core.policy import FlowDirection, Mode, Policy
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.crypto import hybrid
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.authentication import Authentication

__all__ = ["preload"]

_ROOM: Final = 40
_PEER: Final = b"nobody"
_SCOPE: Final = "192.0.2.1:1"
_DIRECTIONS: Final = (FlowDirection.OUTGOING, FlowDirection.INCOMING)


def preload(config: Config) -> None:
    """Make a connection with itself for each TEP and AEAD of `config`, fresh and resumed.

    The TEP that authenticates is among them, with identities made up for it.
    """
    for tep in config.teps:
        for aead in config.aeads:
            one = replace(config, teps=(tep,), aeads=(aead,), enabled=True)
            _meet(one, one)
    for pq in ("off", "prefer"):
        policy = Policy(Mode.REQUIRE, auth="tofu", pq=pq)
        _meet(*(_authenticated(config, policy, direction) for direction in _DIRECTIONS))


def _authenticated(config: Config, policy: Policy, direction: FlowDirection) -> Config:
    trust = Trust(KnownPeers(), PskStore(), Identity.generate(), hybrid.available())
    base = policy.configure(config)
    return Authentication(trust).configure(base, policy, direction, _SCOPE)[0]


def _meet(ours: Config, theirs: Config) -> None:
    client, server = _Side(ours, ResumptionCache(ours)), _Side(theirs, ResumptionCache(theirs))
    for _ in ("fresh", "resumed"):
        _converse(client, server)
    for side in (client, server):
        side.cache.flush()


class _Side(NamedTuple):
    config: Config
    cache: ResumptionCache


def _converse(ours: _Side, theirs: _Side) -> None:
    client = Negotiation(ours.config, Opener.ACTIVE, resumption=ours.cache, peer=_PEER)
    server = Negotiation(theirs.config, Opener.PASSIVE, resumption=theirs.cache, peer=_PEER)
    server.segment_received(True, False, client.option_to_send(True, False, _ROOM))
    client.segment_received(True, True, server.option_to_send(True, True, _ROOM))
    server.segment_received(False, True, client.option_to_send(False, True, _ROOM))
    ends = []
    for negotiation, (config, cache) in ((client, ours), (server, theirs)):
        outcome = negotiation.outcome
        if outcome is None or isinstance(outcome, Fallback):
            raise LocalError(f"a connection with itself fails: {outcome}")
        ends.append(Session(config, outcome, resumption=cache, peer=_PEER))
    one, other = ends
    one.send_data(b"?")
    for _ in range(4):
        _pass(one, other)
        _pass(other, one)
    if not (one.established and one.session_id == other.session_id):
        raise LocalError("a connection with itself comes to nothing")
    one.rekey()
    one.finish()
    other.finish()
    _pass(one, other)
    _pass(other, one)
    for session in ends:
        session.wipe()


def _pass(sender: Session, receiver: Session) -> None:
    while data := sender.bytes_to_send():
        receiver.receive_data(data)
