"""Peers and paths that do what they may not: typed failures in time, others undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aio.ends import HOST, Ends, hurry, in_a_loop

from tcpcrypt import aio
from tcpcrypt.aio import channel
from tcpcrypt.aio import server as server_module
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.psk import create_psk
from tcpcrypt.core.events import Role
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    HandshakeTimeoutError,
    IdentityChangedError,
    LocalError,
    NoCommonTEPError,
    NoEncryptionError,
    ResetError,
    TcpcryptError,
    TruncationError,
)
from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC
from tcpcrypt.sockets.arrangement import arrange
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.keys import KeyDirectory
from tcpcrypt.sockets.peer import PeerSpec
from tcpcrypt.sockets.state import Failure, State

STRANGER = fingerprint(Identity.from_private(bytes(range(32))).public)
SECRET = b"what nobody else may read"
GREETING = b"what nobody else may say"


# --- peers that are no peers --------------------------------------------------------------


async def failure_of(ends: Ends, peer: Callable[[socket.socket], object]) -> OSError:
    """What `connect` raises at a listener whose only connection `peer` is given."""
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                sock.settimeout(10)
                peer(sock)

        serving = loop.run_in_executor(None, serve)
        with pytest.raises(OSError) as caught:
            await aio.connect(listener.getsockname(), peer="tofu", keys=ends.client_keys)
        await serving
    return caught.value


def say(words: bytes) -> Callable[[socket.socket], None]:
    """A peer that says this, and listens."""

    def peer(sock: socket.socket) -> None:
        sock.sendall(words)
        wait_for_end(sock)

    return peer


def wait_for_end(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


def test_silence(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 0.3)

    async def main() -> None:
        begun = time.monotonic()
        error = await failure_of(ends, wait_for_end)
        assert type(error) is HandshakeTimeoutError
        assert isinstance(error, TimeoutError)
        assert time.monotonic() - begun >= 0.3

    ends.run(main)


def test_dripping_does_not_prolong_it(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 0.5)

    def drip(sock: socket.socket) -> None:
        for octet in b"TCENO\x01\x45\x28" + bytes(1000):
            sock.send(bytes([octet]))
            time.sleep(0.1)

    async def main() -> None:
        assert type(await failure_of(ends, drip)) is HandshakeTimeoutError

    ends.run(main)


@in_a_loop
async def test_other_protocols(ends: Ends) -> None:
    for words in (b"220 mail ESMTP\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x03", bytes(64), b"TCENOX"):
        error = await failure_of(ends, say(words))
        assert isinstance(error, NoEncryptionError)
        assert error.reason is FallbackReason.NO_PREFACE


@in_a_loop
async def test_an_option_that_is_none(ends: Ends) -> None:
    for option in (b"\x45\x00", b"\x45\xff", b"\x44\x04", b"\x45\x29"):
        error = await failure_of(ends, say(b"TCENO\x01" + option))
        assert isinstance(error, NoEncryptionError)


@in_a_loop
async def test_an_end_before_anything(ends: Ends) -> None:
    assert type(await failure_of(ends, lambda sock: sock.shutdown(socket.SHUT_WR))) in {
        TruncationError,
        ResetError,
    }


@in_a_loop
async def test_a_reset_before_anything(ends: Ends) -> None:
    def reset(sock: socket.socket) -> None:
        assert sock.recv(5) == b"TCENO"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert type(await failure_of(ends, reset)) is ResetError


@in_a_loop
async def test_clients_that_are_none(ends: Ends) -> None:
    """Each fails for its own reason, and one that is good meanwhile does not wait."""
    failed: list[tuple[object, BaseException]] = []
    async with await ends.server(
        echo, on_failure=lambda name, error: failed.append((name, error))
    ) as server:
        address = server.sockets[0].getsockname()
        silent = [socket.create_connection(address) for _ in range(20)]
        for words in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"TCENO\x02",
            b"TCENO\x01\x45\xff",
            bytes(100_000),
        ):
            sock = socket.create_connection(address)
            with contextlib.suppress(OSError):
                sock.sendall(words)
            silent.append(sock)
        early = socket.create_connection(address)
        early.sendall(b"TCE")
        early.close()
        begun = time.monotonic()
        reader, writer = await ends.connect(server)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert time.monotonic() - begun < 4  # well before the silent ones are done
        await until(lambda: len(failed) == 5)
        kinds = sorted(type(error).__name__ for _, error in failed)
        assert kinds[:4] == ["NoEncryptionError"] * 4
        assert kinds[4] in ("ResetError", "TruncationError")
        assert server.failures[Failure.NO_ENCRYPTION] == 4
        assert server.handshakes == 20
        assert all(str(name).startswith("('127.0.0.1'") for name, _ in failed)
        for sock in silent:
            sock.close()
        writer.close()
        await writer.wait_closed()


def test_a_silent_client_is_told_of_at_the_deadline(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 0.3)

    async def main() -> None:
        async with await ends.server() as server:
            with socket.create_connection(server.sockets[0].getsockname()) as silent:
                silent.setblocking(False)
                with pytest.raises(ConnectionResetError):
                    await asyncio.get_running_loop().sock_recv(silent, 1)
            assert server.failures == {Failure.HANDSHAKE_TIMEOUT: 1}
            assert server.handshakes == 0

    ends.run(main)


@in_a_loop
async def test_a_crowd_of_silent_clients_keeps_nobody_out(ends: Ends) -> None:
    """Those that have had their time give way, the oldest first."""
    async with await ends.server(echo, handshakes=4) as server:
        address = server.sockets[0].getsockname()
        silent = [socket.create_connection(address) for _ in range(8)]
        reader, writer = await ends.connect(server)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert server.handshakes <= 4
        assert server.failures[Failure.HANDSHAKE_TIMEOUT] >= 4
        for sock in silent:
            sock.close()
        writer.close()
        await writer.wait_closed()


def test_silent_clients_do_not_keep_the_last_descriptors(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are fewer descriptors than a server makes handshakes."""
    monkeypatch.setattr(server_module, "_PATIENCE", 0.1)
    told: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        async with await ends.server(
            echo, on_failure=lambda _who, why: told.append(str(why))
        ) as server:
            silent = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(8)]
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, before[1]))
            while sum("others were waiting" in why for why in told) < 5:
                await asyncio.sleep(0.01)
            for sock in silent:
                sock.close()

    try:
        ends.run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@in_a_loop
async def test_nothing_is_kept_of_who_has_not_negotiated(ends: Ends) -> None:
    """A flood of one connection is not collected anywhere."""
    async with await ends.server() as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"TCENO\x01\x45\x28")
        for _ in range(100):
            writer.write(bytes(100_000))
        with pytest.raises(OSError):
            await reader.readexactly(1 << 20)
        writer.close()


@in_a_loop
async def test_48_3_8_answers_that_the_peer_does_not_read_are_bounded(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8548 section 3.8: each new key is answered, whoever may be meant to choke on it."""
    limit, rekeys, frame = 20_000, 10_000, 20
    monkeypatch.setattr(channel, "_ANSWERS_MAX", limit)
    anybody = "insecure-unauthenticated"
    loop = asyncio.get_running_loop()
    listener, sock = socket.socket(), socket.socket()
    for each in (listener, sock):  # the kernel is not to hold all of it
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    listener.bind((HOST, 0))
    sock.setblocking(False)
    async with await aio.create_server(sock=listener, peer=anybody) as server:
        await loop.sock_connect(sock, listener.getsockname())
        peer = Conversation(Role.A, arrange(PeerSpec.parse(anybody), Role.A, "x"))
        await loop.sock_sendall(sock, b"".join(peer.data_to_send()))
        while peer.state is not State.AES_MODE:
            peer.receive_data(await loop.sock_recv(sock, 65536))
            await loop.sock_sendall(sock, b"".join(peer.data_to_send()))
        reader, writer = await server.accept()
        writer.transport.set_write_buffer_limits(high=0)
        session = peer._session
        assert session is not None
        for _ in range(rekeys):
            session._sender.advance_key()
            session._sender.seal(b"")
        flood = memoryview(b"".join(peer.data_to_send()))
        assert len(flood) >= rekeys * frame
        sent = most = idle = 0
        while idle < 20:
            try:
                took = sock.send(flood[sent:])
            except BlockingIOError:
                took = 0
            sent, idle = sent + took, 0 if took else idle + 1
            await asyncio.sleep(0.01)
            most = max(most, writer.transport.get_write_buffer_size())
        assert sent < len(flood), "the peer was never slowed down"
        # The kernel may have taken some of it after it was full for the first time.
        assert limit // 2 <= most <= 5 * limit + (64 << 10)
        # Nothing is lost by it: once the peer reads, everything goes on.
        rest = asyncio.create_task(loop.sock_sendall(sock, flood[sent:]))
        while session._receiver.generation < rekeys:
            peer.receive_data(await loop.sock_recv(sock, 65536))
            assert peer.error is None
        await rest
        peer.send(b"after all that")
        for out in peer.data_to_send():
            await loop.sock_sendall(sock, out)
        assert await reader.readexactly(14) == b"after all that"
        writer.transport.abort()
        sock.close()


# --- peers that are others --------------------------------------------------------------


async def refused(ends: Ends, server: aio.SecureServer, **more: object) -> OSError:
    with pytest.raises(OSError) as caught:
        await ends.connect(server, **more)
    return caught.value


@in_a_loop
async def test_a_pin(ends: Ends) -> None:
    async with await ends.server(echo) as server:
        assert type(await refused(ends, server, peer=f"pin:{STRANGER}")) is IdentityChangedError
        _reader, writer = await ends.connect(server)
        pin = f"pin:{STRANGER},{writer.peer_identity}"
        writer.close()
        _reader, writer = await ends.connect(server, peer=pin)
        writer.close()


@in_a_loop
async def test_a_key_that_has_changed(ends: Ends) -> None:
    server = await ends.server(echo)
    port = server.sockets[0].getsockname()[1]
    _reader, writer = await ends.connect(server)
    writer.close()
    server.close()
    async with await aio.create_server(
        (HOST, port), echo, peer="tofu", keys=ends.directory / "impostor", reuse_port=False
    ) as impostor:
        assert type(await refused(ends, impostor)) is IdentityChangedError


@in_a_loop
async def test_pre_shared_keys(ends: Ends) -> None:
    for keys in (ends.client_keys, ends.server_keys, ends.directory / "other"):
        keys.mkdir(mode=0o700)
        (keys / "psk").mkdir(mode=0o700)
    create_psk(ends.client_keys / "psk", "site")
    text = (ends.client_keys / "psk" / "site").read_bytes()
    descriptor = os.open(ends.server_keys / "psk" / "site", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, text)
    os.close(descriptor)
    create_psk(ends.directory / "other" / "psk", "site")
    async with await ends.server(echo, peer="psk:site") as server:
        reader, writer = await ends.connect(server, peer="psk:site")
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        other = ends.directory / "other"
        error = await refused(ends, server, peer="psk:site", keys=other)
        assert isinstance(error, AuthenticationError | ResetError)
        # One who asks for less than the server does.
        assert isinstance(await refused(ends, server, keys=other), ResetError)
        assert server.failures[Failure.AUTHENTICATION] >= 1


@in_a_loop
async def test_ends_that_are_to_authenticate_in_different_ways(ends: Ends) -> None:
    async with await ends.server(echo) as server:
        error = await refused(ends, server, peer="insecure-unauthenticated")
        assert type(error) is NoCommonTEPError
        assert server.failures == {Failure.NO_COMMON_TEP: 1}
    async with await ends.server(echo, peer="insecure-unauthenticated") as server:
        assert type(await refused(ends, server)) is NoCommonTEPError
        reader, writer = await ends.connect(server, peer="insecure-unauthenticated")
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert (writer.state, writer.peer_identity) == (State.AES_MODE, None)
        writer.close()


@in_a_loop
async def test_words_that_are_none(ends: Ends) -> None:
    for peer in ("", "TOFU", "insecure", "none", "pin:", "psk:", "psk:../x"):
        with pytest.raises(LocalError):
            await aio.connect((HOST, 9), peer=peer, keys=ends.client_keys)
        with pytest.raises(LocalError):
            await ends.server(peer=peer)
    for make in (
        lambda: aio.connect((HOST, 9), peer="tofu", keys=ends.client_keys, transport="tls"),
        lambda: ends.server(transport="plain"),
    ):
        with pytest.raises(LocalError, match="transport"):
            await make()


@in_a_loop
async def test_keys_that_others_may_read(ends: Ends) -> None:
    (await ends.server()).close()
    loose = ends.directory / "loose"
    loose.mkdir(mode=0o700)
    (loose / "identity").write_bytes((ends.server_keys / "identity").read_bytes())
    (loose / "identity").chmod(0o644)
    with pytest.raises(LocalError, match="identity"):
        await ends.server(keys=loose)
    with pytest.raises(LocalError, match="identity"):
        await aio.connect((HOST, 9), peer="tofu", keys=loose)


async def until(true: Callable[[], bool]) -> None:
    """`Ends.run` has an end for what never is."""
    while not true():
        await asyncio.sleep(0.01)


# --- a path that is not honest ----------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: aio.SecureWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@dataclass
class Seen:
    """What an altered connection came to, at both ends."""

    where: tuple[bool, int, str]
    """Whether towards the server, the byte, and what was done to it; -1: nothing."""
    forward: bytearray = field(default_factory=bytearray)
    backward: bytearray = field(default_factory=bytearray)
    """What the path has carried."""
    server_got: bytes = b""
    client_got: bytes = b""
    client_whole: bool = False
    """Whether it saw an authenticated end."""
    server_whole: bool = False
    error: BaseException | None = None
    resumed: bool | None = None


class Middle:
    """Someone on the path, between a client and a server."""

    def __init__(self, server: aio.StreamServer, ends: Ends) -> None:
        self._far = server.sockets[0].getsockname()
        self._ends = ends
        self._by_client: dict[object, Seen] = {}
        self.by_far_end: dict[object, Seen] = {}
        self._listener: asyncio.Server | None = None

    async def open(self) -> None:
        self._listener = await asyncio.start_server(self._relay, HOST, 0)

    def close(self) -> None:
        assert self._listener is not None
        self._listener.close()

    async def talk(self, seen: Seen, keys: KeyDirectory) -> None:
        """One connection through the middle, on which the client speaks at once."""
        assert self._listener is not None
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((HOST, 0))
        self._by_client[sock.getsockname()] = seen
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, self._listener.sockets[0].getsockname())
        try:
            reader, writer = await aio.connect(sock=sock, peer="tofu", keys=keys)
            seen.resumed = writer.resumed
            writer.write(SECRET)
            writer.write_eof()
            while data := await reader.read(1000):
                seen.client_got += data
            seen.client_whole = True
            writer.close()
            await writer.wait_closed()
        except OSError as error:
            seen.error = error

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = self._by_client[writer.get_extra_info("peername")]
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((HOST, 0))
        self.by_far_end[sock.getsockname()] = seen
        await asyncio.get_running_loop().sock_connect(sock, self._far)
        far_reader, far_writer = await asyncio.open_connection(sock=sock)
        await asyncio.gather(
            _carry(reader, far_writer, seen, forward=True),
            _carry(far_reader, writer, seen, forward=False),
        )
        for each in (writer, far_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()


async def _carry(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: Seen, *, forward: bool
) -> None:
    towards_server, at, how = seen.where
    carried = seen.forward if forward else seen.backward
    try:
        while data := await source.read(65536):
            begin = len(carried)
            carried += data
            out = bytearray(data)
            if forward == towards_server and begin <= at < begin + len(data):
                index = at - begin
                if how == "flip":
                    out[index] ^= 1 << at % 8
                elif how == "strip":
                    del out[index]
                else:
                    del out[index:]
                    sink.write(out)
                    break
            sink.write(out)
        sink.write_eof()
    except OSError:
        sink.transport.abort()


@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed"])
def test_nothing_that_is_altered_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """Whatever byte of preface, Init messages or frames is flipped, stripped or cut off."""
    ends = Ends(tmp_path)

    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: aio.SecureWriter) -> None:
            seen = middle.by_far_end[writer.get_extra_info("peername")]
            writer.write(GREETING)
            writer.write_eof()
            with contextlib.suppress(OSError):
                while data := await reader.read(1000):
                    seen.server_got += data
                seen.server_whole = True
            writer.close()

        async def prepared() -> KeyDirectory:
            """Keys with a cache of their own: empty, or with the one session to resume."""
            keys = KeyDirectory(ends.client_keys)
            if resumed:
                async with few:
                    before = Seen((True, -1, ""))
                    await middle.talk(before, keys)
                    assert before.client_whole
            return keys

        async def attempt(where: tuple[bool, int, str], keys: KeyDirectory) -> Seen:
            seen = Seen(where)
            await middle.talk(seen, keys)
            return seen

        few = asyncio.Semaphore(8)
        async with await ends.server(handle) as server:
            middle = Middle(server, ends)
            await middle.open()
            good = await attempt((True, -1, ""), await prepared())
            await until(lambda: good.server_got == SECRET)
            assert good.client_got == GREETING
            assert good.resumed is resumed
            places = [
                (forward, at, how)
                for forward, length in ((True, len(good.forward)), (False, len(good.backward)))
                for how, every in (
                    ("flip", (*range(40), *range(40, length, 5))),
                    ("strip", range(0, length, 11)),
                    ("cut", range(3, length, 11)),
                )
                for at in every
            ]
            assert len(places) > 100
            keys = await asyncio.gather(*(prepared() for _ in places))
            # Those that wait for bytes that never come: all at once, and not for long.
            hurry(monkeypatch, 1.0)
            tried = await asyncio.gather(*map(attempt, places, keys))
            await asyncio.sleep(0.1)  # whatever the server still has to read
            for seen in tried:
                # Where a frame begins: behind preface and, if fresh, Init message.
                check(seen, *(preface_and_init(way) for way in (good.forward, good.backward)))
            middle.close()

    ends.run(main)


def preface_and_init(stream: bytes) -> int:
    """Bytes of a stream before its first frame (RFC 8548 section 4.1)."""
    end = 6 + stream[7]
    if stream[end : end + 4] in (INIT1_MAGIC, INIT2_MAGIC):
        end += int.from_bytes(stream[end + 4 : end + 8], "big")
    return end


def check(seen: Seen, negotiation: int, negotiation_back: int) -> None:
    """What was received is what was sent, as far as it goes, and the damage was noticed."""
    towards_server, at, _how = seen.where
    assert SECRET.startswith(seen.server_got), seen
    assert GREETING.startswith(seen.client_got), seen
    assert not (seen.server_whole if towards_server else seen.client_whole), seen
    if not towards_server:
        assert isinstance(seen.error, TcpcryptError), seen
    if at < (negotiation if towards_server else negotiation_back):
        assert seen.server_got == seen.client_got == b"", seen
