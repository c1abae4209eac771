"""How a relay begins: what is there already is taken at once, and what it sends is not held up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.bare_host import Site, bare_host
from support.hosts import Host, connect
from support.relays import tcp_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.relay import Relay


@pytest.fixture
def site() -> Iterator[Site]:
    with bare_host(Policy(Mode.OPPORTUNISTIC, auth="tofu", pq="prefer")) as site:
        yield site


def relay(loop: Loop, outer: Any, session: Any, ready: list[object]) -> Relay:
    outer.setblocking(False)
    return Relay(
        loop,
        outer,
        session,
        ready=ready.append,
        ended=lambda _ending, _detail: None,
        releasing=lambda _sock: None,
        rekeyed=lambda _event: None,
        proved=lambda _event: None,
    )


def test_an_init1_that_brought_the_ack_with_it_is_answered_without_another_turn() -> None:
    loop, ready = Loop(), list[object]()
    a, b = connect(Host(Config()), Host(Config()))
    near, far = tcp_pair(0)
    near.sendall(a.bytes_to_send())
    accepting = relay(loop, far, b, ready)
    accepting.start()
    assert len(ready) == 1
    near.settimeout(10)
    a.receive_data(near.recv(1 << 16))
    while a.next_event():
        pass
    assert a.established
    accepting.reset()
    near.close()
    loop.close()


def test_an_init1_that_comes_later_is_waited_for() -> None:
    loop, ready = Loop(), list[object]()
    a, b = connect(Host(Config()), Host(Config()))
    near, far = tcp_pair(0)
    accepting = relay(loop, far, b, ready)
    accepting.start()
    assert not ready
    near.sendall(a.bytes_to_send())
    for _ in range(10):
        loop.step(1)
        if ready:
            break
    assert len(ready) == 1
    accepting.reset()
    near.close()
    loop.close()


def test_packets_are_taken_in_the_turn_that_made_them_while_the_host_serves(site: Site) -> None:
    """And not any more when it is told to take no connections."""
    taken: list[object] = []
    site.queue.receive = taken.append  # type: ignore[attr-defined]
    site.queue.fileno = lambda: 0  # type: ignore[attr-defined]
    host = site.host
    host._context.take_packets()
    host.loop.step(0)
    assert not taken
    host._serving = True
    for _ in range(3):
        host._context.take_packets()
    host.loop.step(0)
    assert taken == [host._on_packet]
    host._context.take_packets()
    type(host).retire(host)
    host.loop.step(0)
    assert len(taken) == 1
