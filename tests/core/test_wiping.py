"""RFC 8548 section 8: no secret outlives its use, whichever way a connection ends.

Every `Secret`, sealer and opener that a session makes is looked at when it is over.
What merely loses its last reference is overwritten too (`tests/crypto/test_secret.py`),
but only then; here each has to be wiped by who used it, while somebody still holds it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from support.hosts import Host, connect, drain, events, exchange, fallback, negotiate

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.negotiation import Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import AeadParameters
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import PeerError


class Made:
    """What was made while it watched."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.secrets: list[Secret] = []
        self.sealers: list[Any] = []
        self.openers: list[Any] = []
        start, made_by = Secret.__init__, Secret.made_by.__func__  # type: ignore[attr-defined]

        def init(secret: Secret, octets: Any) -> None:
            start(secret, octets)
            self.secrets.append(secret)

        def filled(cls: type[Secret], *arguments: Any) -> Secret:
            secret: Secret = made_by(cls, *arguments)
            self.secrets.append(secret)
            return secret

        patch.setattr(Secret, "__init__", init)
        patch.setattr(Secret, "made_by", classmethod(filled))
        for name, found in (("sealer", self.sealers), ("opener", self.openers)):
            patch.setattr(AeadParameters, name, self._noted(getattr(AeadParameters, name), found))

    @staticmethod
    def _noted(make: Callable[..., Any], found: list[Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            found.append(make(*arguments))
            return found[-1]

        return noted

    def left(self) -> int:
        """How many can still be used."""
        usable = sum(not secret.wiped for secret in self.secrets)
        for sealer in self.sealers:
            with contextlib.suppress(RuntimeError):
                sealer.seal(b"", bytearray(64), 0, 1)
                usable += 1
        for opener in self.openers:
            with contextlib.suppress(RuntimeError):
                opener.open(b"", bytearray(64), 0)
                usable += 1
        return usable


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


def talk(one: Session, other: Session) -> None:
    one.send_data(b"question")
    other.send_data(b"answer")
    exchange(one, other)
    one.rekey()
    exchange(one, other)
    other.rekey()
    exchange(one, other)


def in_order(one: Session, other: Session) -> None:
    one.finish()
    other.finish()
    exchange(one, other)


def by_a_forged_frame(one: Session, other: Session) -> None:
    one.receive_data(bytes(40))
    other.receive_data(bytes(40))
    assert isinstance(one.error, PeerError)


def by_a_reset(one: Session, other: Session) -> None:
    one.receive_reset()
    other.receive_reset()


def by_its_owner(one: Session, other: Session) -> None:
    one.wipe()
    other.wipe()


@pytest.mark.parametrize("ending", [in_order, by_a_forged_frame, by_a_reset, by_its_owner])
@pytest.mark.parametrize("cached", [False, True])
def test_every_secret_is_wiped_when_a_connection_is_over(
    made: Made, ending: Callable[[Session, Session], None], cached: bool
) -> None:
    client, server = Host(Config(cache=cached)), Host(Config(cache=cached))
    for resumed in (False, cached):
        one, other = connect(client, server)
        exchange(one, other)
        assert one.resumed is resumed
        talk(one, other)
        assert made.left() >= 4, "nothing is looked at"
        ending(one, other)
        assert made.left() == 0
        events(one)
        events(other)


def test_keys_that_were_changed_are_wiped_at_once(made: Made) -> None:
    one, other = connect(Host(Config(cache=False)), Host(Config(cache=False)))
    exchange(one, other)
    before = made.left()
    for _ in range(3):
        one.rekey()
        exchange(one, other)
    assert made.left() == before


def test_what_a_failed_exchange_made_is_wiped(made: Made) -> None:
    one, other = connect(Host(), Host())
    init1 = drain(one)
    other.receive_data(init1)
    init2 = bytearray(drain(other))
    init2[0] ^= 1
    one.receive_data(init2)
    assert one.error is not None
    other.wipe()
    assert made.left() == 0


def test_a_kept_secret_past_its_lifetime_is_wiped_when_it_is_met(made: Made) -> None:
    now = [0.0]
    cache = ResumptionCache(Config(), clock=lambda: now[0])
    secret = SessionSecret(Secret(bytes(32)), 1)
    cache.store(b"peer", tep=0x23, aead=1, original_role=Role.A, secret=secret, expires=10.0)
    secret.wipe()
    now[0] = 10.0
    assert cache.offer(b"peer", (0x23,)) is None
    assert len(made.secrets) > 1
    assert made.left() == 0


def test_secrets_that_are_skipped_are_wiped(made: Made) -> None:
    """Attempts of the opener were lost: the listener goes ahead to the index that came."""
    cache = ResumptionCache(Config())
    secret = SessionSecret(Secret(bytes(32)), 1)
    third = secret.peek_next().peek_next()
    identifier = third.resume_ids()[Role.A]
    cache.store(b"peer", tep=0x23, aead=1, original_role=Role.B, secret=secret)
    for one in made.secrets:
        one.wipe()
    recognised = cache.recognise(0x23, identifier)
    assert recognised is not None
    ticket = cache.commit(recognised)
    assert ticket is not None
    assert ticket.secret.index == 3
    ticket.secret.wipe()
    assert made.left() == 0


def test_an_offered_secret_is_wiped_where_it_is_not_taken(made: Made) -> None:
    client, server = Host(), Host()
    one, other = connect(client, server)
    exchange(one, other)
    in_order(one, other)
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive, strip=["synack"])
    fallback(active)
    assert made.left() == 0
