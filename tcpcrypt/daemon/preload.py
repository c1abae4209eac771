"""All that the worker imports late, imported while it may still read it.

Libraries import parts of themselves when they are first used.  The worker's
user may not be able to read them by then: the installation can lie in a
directory that is root's alone.  So each algorithm is used once, in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError

__all__ = ["preload"]

_ROOM: Final = 40
_PEER: Final = b"nobody"


def preload(config: Config) -> None:
    """Make a connection with itself for each TEP and AEAD of `config`, fresh and resumed."""
    for tep in config.teps:
        for aead in config.aeads:
            one = replace(config, teps=(tep,), aeads=(aead,), enabled=True)
            caches = ResumptionCache(one), ResumptionCache(one)
            for _ in ("fresh", "resumed"):
                _converse(one, *caches)
            for cache in caches:
                cache.flush()


def _converse(config: Config, ours: ResumptionCache, theirs: ResumptionCache) -> None:
    client = Negotiation(config, Opener.ACTIVE, resumption=ours, peer=_PEER)
    server = Negotiation(config, Opener.PASSIVE, resumption=theirs, peer=_PEER)
    server.segment_received(True, False, client.option_to_send(True, False, _ROOM))
    client.segment_received(True, True, server.option_to_send(True, True, _ROOM))
    server.segment_received(False, True, client.option_to_send(False, True, _ROOM))
    ends = []
    for negotiation, cache in ((client, ours), (server, theirs)):
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
