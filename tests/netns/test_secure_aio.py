"""`tcpcrypt.aio` over real daemons: TCP's own option, and who stands behind it."""

import asyncio
from pathlib import Path

import pytest
from netns.network import Network
from netns.trusting import Pair, pair_of, policy

from tcpcrypt import aio
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    NoEncryptionError,
    ResetError,
    TruncationError,
)
from tcpcrypt.sockets import KeyDirectory, State

PATIENCE = 15.0
ANYBODY = "insecure-unauthenticated"
DATA = bytes(range(256)) * 4096


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


Opening = asyncio.Task[tuple[asyncio.StreamReader, aio.SecureWriter]]


def opening(two: Pair, client_peer: str, server_peer: str) -> tuple[Opening, Opening]:
    """The streams to come of both ends of one connection between the hosts."""
    with two.network.listen() as listening:
        one = two.network.connect()
        other, _address = listening.accept()
    tasks = []
    for sock, peer, side in ((one, client_peer, two.client), (other, server_peer, two.server)):
        sock.setblocking(False)
        # `connect` at the accepting end, too: to the daemons both ends are alike.
        asked = aio.connect(sock=sock, peer=peer, transport="eno", control=side.control)
        tasks.append(asyncio.create_task(asked))
    return tasks[0], tasks[1]


async def read(streams: Opening) -> bytes:
    reader, _writer = await streams
    return await reader.read()


def test_the_daemons_encrypt_and_tell_who_it_is(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    pins = [f"pin:{side.fingerprint()}" for side in (two.server, two.client)]

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            ours, theirs = opening(two, *pins)
            (reader, writer), (far_reader, far_writer) = await ours, await theirs
            assert writer.state is far_writer.state is State.AES_MODE
            assert writer.session_id == far_writer.session_id
            assert writer.peer_identity == two.server.fingerprint()
            assert far_writer.peer_identity == two.client.fingerprint()
            writer.write(DATA)
            writer.write_eof()
            assert await far_reader.read() == DATA
            far_writer.write(b"half")
            far_writer.close()
            assert await reader.read() == b"half"
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_the_wrong_identity_is_refused_before_a_byte(two: Pair, tmp_path: Path) -> None:
    two.start(policy("tofu"))
    two.meet()
    other = KeyDirectory.at(tmp_path / "other").identity.fingerprint

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            ours, theirs = opening(two, f"pin:{other}", "tofu")
            with pytest.raises(AuthenticationError, match=other):
                await ours
            with pytest.raises((ResetError, TruncationError)):
                await read(theirs)

    asyncio.run(main())


def test_a_policy_that_proves_nothing_is_not_enough(two: Pair) -> None:
    two.start(policy("none"))

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            ours, theirs = opening(two, "tofu", ANYBODY)
            with pytest.raises(AuthenticationError, match="no proof"):
                await ours
            with pytest.raises((ResetError, TruncationError)):
                await read(theirs)

    asyncio.run(main())


@pytest.mark.parametrize("flags", ["SYN", "SYN,ACK", "ACK"])
def test_a_stripped_option_lets_no_byte_through(path: Network, tmp_path: Path, flags: str) -> None:
    """RFC 8547 section 4.6: without the option there is plain TCP, and no stream to write to."""
    two = pair_of(path, tmp_path)
    two.start('[[policy]]\nmode = "opportunistic"\nmatch.ports = 80\n')
    strip = ("-j", "TCPOPTSTRIP", "--strip-options", "69")
    path.meddle("-p", "tcp", "--tcp-flags", "SYN,ACK", flags, *strip)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.gather(*opening(two, ANYBODY, ANYBODY), return_exceptions=True)
        # The end that finds it out first resets the connection, and the other one with it.
        assert all(
            isinstance(error, NoEncryptionError | ResetError | TruncationError) for error in found
        ), found
        assert FallbackReason.NOT_ENCRYPTED in [getattr(error, "reason", None) for error in found]

    asyncio.run(main())
