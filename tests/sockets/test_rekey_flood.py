"""RFC 8548 section 3.8: a peer that goes to a new key in every frame, and reads no answer."""

import socket
from pathlib import Path

import pytest
from support.conversations import UNAUTHENTICATED, End, connected, told

from tcpcrypt.sockets import inband
from tcpcrypt.sockets.inband import InBandSocket

REKEYS = 60_000
BOUND = 2 * inband._ANSWERS_MAX + 14_000
"""Answers to what one read brings come on top."""


def test_answers_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    ours, theirs = (End.at(tmp_path / name, UNAUTHENTICATED) for name in ("ours", "theirs"))
    evil, honest = connected(theirs, ours)
    raw, sock = socket.socketpair()
    with raw:
        for end in (raw, sock):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 8192)
        raw.setblocking(False)
        with InBandSocket(sock, honest) as secure:
            secure.do_handshake()
            secure.settimeout(0.01)
            session = evil._session
            assert session is not None
            sender = session._sender
            assert sender is not None
            sent, left, worst, stuck = 0, memoryview(b""), 0, 0
            for _ in range(200_000):
                if not left:
                    if sent == REKEYS:
                        break
                    sender.advance_key()
                    sender.seal(b"")
                    left, sent = memoryview(sender.take()), sent + 1
                try:
                    left, stuck = left[raw.send(left) :], 0
                except BlockingIOError:
                    with pytest.raises(TimeoutError):
                        secure.recv(100)
                    stuck += 1
                    streams = secure._streams
                    assert streams is not None
                    worst = max(worst, len(streams.queue) + len(secure._out))
                    if stuck > 20:
                        break
            assert stuck > 20, "it would have read for ever"
            assert inband._ANSWERS_MAX < worst <= BOUND
            # Whoever reads the answers after all has lost nothing.
            for _ in range(100_000):
                try:
                    got = raw.recv(1 << 16)
                except BlockingIOError:
                    with pytest.raises(TimeoutError):
                        secure.recv(100)
                    if not secure._out and not streams.queue:
                        break
                else:
                    evil.receive_data(got)
            assert told(evil).error is None
            assert secure.error is None
