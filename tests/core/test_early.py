"""Two round trips that an exchange can do without, and that nothing else changes by it."""

from __future__ import annotations

import pytest
from support.hosts import (
    Host,
    data_of,
    drain,
    events,
    exchange,
    negotiate,
    outcome,
)
from support.terms import Conditions, identity, only, ta_host

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, Established, PeerProved
from tcpcrypt.core.exchange import prepare
from tcpcrypt.core.negotiation import Opener
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError


def hosts(**more: object) -> tuple[Host, Host]:
    """Both prove themselves; B does not wait with its first frame."""
    client = ta_host(Conditions(identity(1)))
    return client, ta_host(Conditions(identity(2)), prove_at_once=True, **more)


def sessions(client: Host, server: Host) -> tuple[Session, Session]:
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    return client.session(active), server.session(passive)


def proved(session: Session) -> bool:
    first, second = events(session)
    return isinstance(first, Established) and isinstance(second, PeerProved)


# --- Init1 that leaves with the offer ---------------------------------------------------


def test_init1_may_leave_before_b_has_agreed() -> None:
    """RFC 8548 section 3.3: nothing in it depends on B's option."""
    client, server = Host(Config(teps=(0x23,))), Host(Config(teps=(0x23,)))
    prepared = prepare(client.config, 0x23, b"")
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    assert active.own is None
    negotiate(active, passive)
    assert active.own is not None
    assert active.own.ticket is None
    one = client.session(active, prepared=prepared)
    other = server.session(passive)
    assert drain(one) == b"", "it has left"
    other.receive_data(prepared.message)
    exchange(one, other)
    assert one.session_id == other.session_id
    one.send_data(b"frames are counted from behind it")
    exchange(one, other)
    assert data_of(events(other)) == b"frames are counted from behind it"


def test_a_prepared_exchange_is_wiped_like_any() -> None:
    client, server = Host(Config(teps=(0x23,))), Host(Config(teps=(0x23,)))
    prepared = prepare(client.config, 0x23, b"")
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    assert not outcome(active).resuming
    session = client.session(active, prepared=prepared)
    session.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        prepared.agreement._key.agree(bytes(32))


# --- a first frame that does not wait ------------------------------------------------------


def test_b_of_a_resumed_session_may_prove_itself_at_once() -> None:
    client, server = hosts()
    exchange(*sessions(client, server))
    one, other = sessions(client, server)
    assert one.resumed
    early = drain(other)
    assert len(early) == 3 + 1 + 16, "an empty frame"
    with pytest.raises(LocalError):
        assert other.session_id
    assert events(other) == []
    one.receive_data(early)
    assert proved(one), "without having been asked for anything"
    assert one.peer_proved
    other.receive_data(drain(one))
    assert proved(other)
    assert drain(other) == b"", "once is enough"
    for sender, receiver in ((one, other), (other, one)):
        sender.send_data(b"hello")
        receiver.receive_data(drain(sender))
        assert data_of(events(receiver)) == b"hello"


def test_what_b_has_to_say_still_waits() -> None:
    client, server = hosts()
    exchange(*sessions(client, server))
    one, other = sessions(client, server)
    other.send_data(b"for the right host alone")
    assert len(drain(other)) == 20
    other.receive_data(drain(one))
    assert len(drain(other)) == 20 + len(b"for the right host alone")


def test_an_early_frame_leaves_before_the_others_if_nobody_took_it() -> None:
    client, server = hosts()
    exchange(*sessions(client, server))
    one, other = sessions(client, server)
    other.send_data(b"second")
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    assert data_of(events(one)) == b"second"


def test_a_fresh_exchange_proves_as_it_always_does() -> None:
    client, server = hosts()
    one, other = sessions(client, server)
    assert drain(other) == b""
    exchange(one, other)
    assert proved(one)
    assert proved(other)


def test_a_peer_that_is_revoked_meanwhile_is_sent_nothing() -> None:
    client, server = hosts()
    exchange(*sessions(client, server))
    active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    server.config.extensions[0x20].terms.accept = only(bytes(32))
    other = server.session(passive)
    assert drain(other) == b""
    assert isinstance(events(other)[-1], Aborted)


def test_wiping_takes_the_early_frame_along() -> None:
    client, server = hosts()
    exchange(*sessions(client, server))
    _one, other = sessions(client, server)
    other.wipe()
    assert drain(other) == b""


# --- keys that B derives while A is at work ------------------------------------------------


def test_b_derives_its_keys_once_init2_has_left() -> None:
    """B says nothing before the first frame of an A that proves itself, so that they can wait."""
    client, server = hosts()
    one, other = sessions(client, server)
    other.receive_data(drain(one))
    assert other._receiver is None
    one.receive_data(drain(other))
    other.use_idle_time()
    assert other._receiver is not None
    other.use_idle_time()
    exchange(one, other)
    assert proved(one)
    assert proved(other)


def test_the_first_frame_brings_about_what_waits() -> None:
    client, server = hosts()
    one, other = sessions(client, server)
    other.receive_data(drain(one))
    one.receive_data(drain(other))
    other.receive_data(b"")
    assert other._receiver is None
    exchange(one, other)
    assert proved(other)
    assert one.session_id == other.session_id


def test_what_waits_is_wiped_with_the_session() -> None:
    client, server = hosts()
    one, other = sessions(client, server)
    other.receive_data(drain(one))
    agreed = other._beginning.agreed
    assert agreed is not None
    other.wipe()
    assert agreed.prk.wiped
    with pytest.raises(LocalError, match="nothing is agreed"):
        other._beginning.derive()
