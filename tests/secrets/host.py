"""A host that is searched: it accepts one connection, talks, ends or loses it, and waits.

    python host.py DESCRIPTOR end|wipe|fault

It prints `open` while its keys are in use and `closed` when they are not any more,
and goes on when it is given a line.  It does what any program with the core does.
"""

from __future__ import annotations

import socket
import sys

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.negotiation import Negotiated, Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.errors import TcpcryptError

ROOM = 40


def told(word: str) -> None:
    """Say where we are, and wait until the other has looked."""
    print(word, flush=True)
    sys.stdin.readline()


def flush(sock: socket.socket, session: Session) -> None:
    while chunk := session.bytes_to_send():
        sock.sendall(chunk)


def negotiated(sock: socket.socket) -> Negotiated:
    """The handshake; its segments come as one length byte and the option."""
    negotiation = Negotiation(Config(), Opener.PASSIVE)
    for syn, ack in ((True, False), (False, True)):
        options = sock.recv(sock.recv(1)[0])
        negotiation.segment_received(syn=syn, ack=ack, options=options)
        if syn:
            option = negotiation.option_to_send(syn=True, ack=True, room=ROOM)
            sock.sendall(bytes((len(option),)) + option)
    assert isinstance(negotiation.outcome, Negotiated)
    return negotiation.outcome


def main(descriptor: int, ending: str) -> None:
    """Echo what comes, change the key once, and end."""
    with socket.socket(fileno=descriptor) as sock:
        session = Session(Config(), negotiated(sock))
        while data := sock.recv(1 << 16):
            session.receive_data(data)
            while (event := session.next_event()) is not None:
                if isinstance(event, DataReceived):
                    session.send_data(event.data)
                    if bytes(event.data[-4:]) == b"look":
                        session.rekey()
                        flush(sock, session)
                        told("open")
            flush(sock, session)
        if ending == "end":
            session.finish()
            flush(sock, session)
        session.receive_eof()
        if ending == "wipe":
            session.wipe()
        elif ending == "fault":
            assert isinstance(session.error, TcpcryptError)
        del session
    told("closed")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
