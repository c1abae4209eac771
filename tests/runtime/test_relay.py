"""A relay moves bytes and endings, with the pump and without it: the same in all respects."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import PURE_PYTHON
from support.relays import PATIENCE, Chain, read_all, receive, sending, until

from tcpcrypt.core.config import Config
from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.pump import Pumping, Why
from tcpcrypt.runtime.relay import Ending

Make = Callable[..., Chain]


@pytest.fixture(params=["py"] if PURE_PYTHON else ["py", "c"])
def chain(request: pytest.FixtureRequest) -> Make:
    """Makes chains: `py` without pumps, `c` with them."""
    return lambda **more: Chain(pumps=request.param == "c", **more)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("plain", [False, True], ids=["encrypted", "plain"])
@pytest.mark.parametrize("buffers", [0, 8192], ids=["large", "small"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_both_directions_at_once(chain: Make, plain: bool, buffers: int, warm: bool) -> None:
    size = 3_000_000 if buffers else 20_000_000
    there, back = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    with chain(plain=plain, buffers=buffers) as both:
        client, server = both.client, both.server
        if warm:
            both.warm_up()
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(read_all(client.app)))
        with sending(client.app, there), sending(server.app, back):
            reader.start()
            assert digest(read_all(server.app)) == digest(there)
            reader.join(PATIENCE)
        assert digest(got[0]) == digest(back)
        until(lambda: client.endings and server.endings)
        assert client.endings == server.endings == [(Ending.CLOSED, "")]
        more = 2 * client.relay.sent - 2 * size if warm else 0
        assert client.relay.sent == server.relay.received == size + more // 2
        assert client.relay.received == server.relay.sent == size + more // 2


@pytest.mark.parametrize("aead", sorted(AEADS), ids=hex)
def test_every_aead(chain: Make, aead: int) -> None:
    data = random.Random(aead).randbytes(3_000_000)
    with chain(config=Config(aeads=(aead,))) as both:
        both.warm_up()
        with sending(both.client.app, data):
            assert digest(read_all(both.server.app)) == digest(data)


@pytest.mark.parametrize("plain", [False, True], ids=["encrypted", "plain"])
def test_half_close_and_a_long_answer(chain: Make, plain: bool) -> None:
    answer = random.Random(5).randbytes(8_000_000)
    with chain(plain=plain) as both:
        both.warm_up()
        both.client.app.sendall(b"question")
        both.client.app.shutdown(socket.SHUT_WR)
        assert read_all(both.server.app) == b"question"
        with sending(both.server.app, answer):
            assert digest(read_all(both.client.app)) == digest(answer)
        until(lambda: both.client.endings and both.server.endings)
        assert both.client.endings == both.server.endings == [(Ending.CLOSED, "")]


@pytest.mark.parametrize("plain", [False, True], ids=["encrypted", "plain"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_carried_over(chain: Make, plain: bool, warm: bool, who: str) -> None:
    with chain(plain=plain) as both:
        both.client.app.sendall(b"x")
        assert both.server.app.recv(1) == b"x"
        if warm:
            both.warm_up()
        one, other = both.client, both.server
        if who == "server":
            one, other = other, one
        reset(one.app)
        with pytest.raises(ConnectionResetError):
            read_all(other.app)
        until(lambda: one.endings and other.endings)
        assert one.endings[0][0] is Ending.RESET_BY_APPLICATION
        assert other.endings[0][0] is Ending.RESET_BY_PEER


def test_a_reset_reaches_one_who_is_not_read(chain: Make) -> None:
    """Backpressure stops reading, and the death of a socket is noticed all the same."""
    with chain(buffers=8192) as both:
        both.warm_up()
        both.client.app.settimeout(0.5)
        with pytest.raises(TimeoutError):
            both.client.app.sendall(bytes(1 << 28))
        reset(both.server.app)
        both.client.app.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            both.client.app.recv(1)
        until(lambda: both.client.endings and both.server.endings)


def test_truncation_is_a_reset(chain: Make) -> None:
    """RFC 8548 section 3.7: FIN without FINp is no end."""
    with chain() as both:
        both.warm_up()
        both.wire[1].shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            both.client.app.recv(1)
        until(lambda: both.client.endings)
        assert both.client.endings[0][0] is Ending.ABORTED
        assert "TRUNCATED" in both.client.endings[0][1] or "FINp" in both.client.endings[0][1]


def test_a_byte_from_elsewhere_is_a_reset(chain: Make) -> None:
    """A tag that does not verify ends the connection on both sides."""
    with chain() as both:
        both.warm_up()
        both.wire[1].send(bytes((0, 0, 40)) + bytes(40))
        with pytest.raises(ConnectionResetError):
            both.client.app.recv(1)
        until(lambda: both.client.endings)
        assert both.client.endings[0][0] is Ending.ABORTED


def test_a_frame_too_short_is_a_reset(chain: Make) -> None:
    with chain() as both:
        both.warm_up()
        both.wire[1].send(bytes((0, 0, 16)) + bytes(16))
        with pytest.raises(ConnectionResetError):
            both.client.app.recv(1)
        until(lambda: both.client.endings)
        assert both.client.endings[0][0] is Ending.ABORTED


def test_keys_change_in_bulk(chain: Make) -> None:
    """RFC 8548 section 3.8: each key seals so many bytes; the peer follows."""
    data = random.Random(7).randbytes(60_000_000)
    with chain(config=Config(rekey_after_bytes=16 << 20)) as both:
        both.warm_up()
        with sending(both.client.app, data):
            assert digest(read_all(both.server.app)) == digest(data)
        assert both.client.relay.rekeys >= 3
        assert both.server.relay.rekeys >= 3


def test_a_rekey_by_hand_is_answered(chain: Make) -> None:
    """Section 3.8 in both directions, however the connection is served."""
    with chain() as both:
        for _ in range(5):
            both.warm_up()
            assert both.call(lambda: rekey(both)) is None
            both.client.app.sendall(b"after")
            assert receive(both.server.app, 5) == b"after"
        until(lambda: both.client.relay.rekeys == both.server.relay.rekeys == 10)


def rekey(both: Chain) -> None:
    relay = both.client.relay
    relay.take_back()
    assert relay.session is not None
    relay.session.rekey()
    relay.settle()


def test_urgent_data_stays_in_its_place(chain: Make) -> None:
    with chain() as both:
        both.warm_up()
        for number in range(200):
            both.client.app.send(b"normal")
            both.client.app.send(b"urgent", socket.MSG_OOB)
            both.client.app.send(bytes((number,)))
        both.client.app.shutdown(socket.SHUT_WR)
        wanted = b"".join(b"normalurgent" + bytes((number,)) for number in range(200))
        assert read_all(both.server.app) == wanted


def test_many_sizes(chain: Make) -> None:
    """Whatever the sizes of writes, the bytes arrive; small ones at once."""
    sizes = [1, 2, 3, 1399, 1400, 1401, 13_999, 14_001, 65_515, 65_516, 65_517, 262_063, 262_065]
    with chain() as both:
        for size in sizes * 2:
            data = random.Random(size).randbytes(size)
            with sending(both.client.app, data, end=False):
                assert receive(both.server.app, size) == data
            both.server.app.sendall(b"!")
            assert both.client.app.recv(1) == b"!"


def test_a_peer_that_drips(chain: Make) -> None:
    """Frames come a byte at a time."""
    with chain() as both:
        both.warm_up()
        relay = both.server.relay
        wire = both.call(lambda: seal(relay, [b"slowly", b"", b"but surely"]))
        for byte in wire:
            both.wire[1].send(bytes((byte,)))
            time.sleep(0.0005)
        assert receive(both.client.app, 16) == b"slowlybut surely"


def seal(relay: object, parts: list[bytes]) -> bytes:
    """What the session would send; it stays out of the relay's own way."""
    relay.take_back()  # type: ignore[attr-defined]
    session = relay.session  # type: ignore[attr-defined]
    wire = b""
    for part in parts:
        session._sender.seal(part)
        while chunk := session.bytes_to_send():
            wire += chunk
    return wire


def test_recalled_while_bytes_fly(chain: Make) -> None:
    """Going to and fro between the pump and Python loses nothing."""
    data = random.Random(9).randbytes(30_000_000)
    with chain(threads=2) as both:
        both.warm_up()
        with sending(both.client.app, data):
            got: list[bytes] = []
            reader = threading.Thread(target=lambda: got.append(read_all(both.server.app)))
            reader.start()
            while reader.is_alive():
                both.call(both.client.relay.take_back)
                both.call(both.server.relay.take_back)
                time.sleep(0.002)
            reader.join()
        assert digest(got[0]) == digest(data)


@pytest.mark.skipif(PURE_PYTHON, reason="the twin has no pump that could fail")
@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOMEM, "Cannot allocate memory"), (0, "libcrypto")]
)
def test_a_pump_that_fails_is_a_reset(number: int, reason: str) -> None:
    """What it sealed last may be nowhere: not even an answer to a new key leaves,
    which would take the same nonce."""
    with Chain(pumps=True) as both:
        both.warm_up()
        client, server = both.client.relay, both.server.relay

        def fail() -> None:
            server.take_back()
            assert server.session is not None
            server.session.rekey()
            wire = b""
            while chunk := server.session.bytes_to_send():
                wire += chunk
            assert client._loan is not None
            back = client._loan.recall()
            streams = replace(back.streams, wire=back.streams.wire + wire)
            client._on_back(replace(back, why=Why.BROKEN, error=number, streams=streams))

        both.call(fail)
        with pytest.raises(ConnectionResetError):
            both.client.app.recv(1)
        until(lambda: both.client.endings and both.server.endings)
        assert both.client.endings == [(Ending.ABORTED, f"pump failed: {reason}")]
        assert both.server.endings[0][0] is Ending.RESET_BY_PEER
        assert both.server.relay.rekeys == 1  # its own, which has no answer


def test_the_counters_count_while_it_is_lent(chain: Make) -> None:
    with chain() as both:
        both.warm_up()
        before = both.client.relay.sent
        both.client.app.sendall(bytes(100_000))
        assert len(receive(both.server.app, 100_000)) == 100_000
        assert both.client.relay.sent == before + 100_000
        assert both.server.relay.received == before + 100_000


@pytest.mark.skipif(PURE_PYTHON, reason="the Python twin has no pump")
@pytest.mark.parametrize("plain", [False, True], ids=["encrypted", "plain"])
def test_where_no_thread_can_be_started_it_goes_on_in_python(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(11, "no thread")

    for name in ("lend", "lend_plain"):
        monkeypatch.setattr(Pumping, name, refuse)
    data = random.Random(3).randbytes(5_000_000)
    with Chain(pumps=True, plain=plain) as both:
        with sending(both.client.app, data):
            assert digest(read_all(both.server.app)) == digest(data)
        assert not both.client.lent


@pytest.mark.skipif(PURE_PYTHON, reason="the Python twin has no pump")
def test_a_mistake_on_the_way_back_resets_both_sides() -> None:
    """Fail closed: nobody waits for ever, and the mistake is reported."""
    with Chain(pumps=True) as both:
        both.warm_up()
        session = both.client.relay.session
        assert session is not None

        def mistaken(_returned: object) -> None:
            raise LocalError("a mistake")

        session.take_back = mistaken  # type: ignore[method-assign]
        both.wire[1].send(bytes((0, 0, 40)) + bytes(40))
        with pytest.raises(ConnectionResetError):
            both.client.app.recv(1)
        with pytest.raises(ConnectionResetError):
            both.server.app.recv(1)
        until(lambda: both.client.endings and both.failures)
        assert both.client.endings == [(Ending.ABORTED, "LocalError: a mistake")]
        assert [str(error) for error in both.failures] == ["a mistake"]
        both.failures.clear()
