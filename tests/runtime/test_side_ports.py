"""No port left for a connection to a service: an end that is told, and nothing stays open."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from tcpcrypt.runtime import incoming
from tcpcrypt.runtime.incoming import AcceptedByPeer
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.privileges import tcp_socket
from tcpcrypt.runtime.tally import Tally


class Sockets:
    """Privileges that remember what they made."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def service(self, family: int) -> socket.socket:
        self.made.append(tcp_socket(family))
        self.made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return self.made[-1]


def test_when_all_ports_are_taken_the_connection_fails_and_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, sockets, tally = Loop(), Sockets(), Tally()
    reports: list[tuple[str, dict[str, Any]]] = []
    released: list[socket.socket] = []
    gone: list[object] = []
    context = SimpleNamespace(
        loop=loop,
        privileges=sockets,
        tally=tally,
        next_number=lambda: 1,
        backend=SimpleNamespace(release=released.append),
        report=lambda event, facts: reports.append((event, dict(facts))),
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        socket.create_connection(service.getsockname()) as before,
    ):
        taken = before.getsockname()[1]
        monkeypatch.setattr(incoming, "_PORTS", range(taken, taken + 1))
        outer = tcp_socket(4)
        connection = AcceptedByPeer(context, gone.append, outer)  # type: ignore[arg-type]
        connection._client, connection._service = ("127.0.0.1", 7), service.getsockname()
        connection._want_inner()
    assert gone == [connection]
    assert released == [outer]
    assert outer.fileno() < 0
    assert [sock.fileno() for sock in sockets.made] == [-1] * incoming._PORT_TRIES
    assert [(event, facts["reason"]) for event, facts in reports] == [
        ("failed", "service: Cannot assign requested address")
    ]
    assert tally.reasons == {("failed", "service_eaddrnotavail"): 1}
    loop.close()
