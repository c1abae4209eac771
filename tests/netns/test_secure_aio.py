"""`tcpcrypt.aio` over real daemons: TCP's own option, and who stands behind it."""

import asyncio
from pathlib import Path

import pytest
from netns.network import Network
from netns.trusting import Pair, pair_of, policy

from tcpcrypt import aio
from tcpcrypt.errors import AuthenticationError, ResetError, TruncationError
from tcpcrypt.sockets import KeyDirectory, State

PATIENCE = 15.0
DATA = bytes(range(256)) * 4096


@pytest.fixture
def two(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


async def opened(
    two: Pair, client_peer: str, server_peer: str
) -> tuple[asyncio.StreamReader, aio.SecureWriter, asyncio.Task]:
    """The client's streams over a connection between the hosts, and the server's to come."""
    with two.network.listen() as listening:
        one = two.network.connect()
        other, _address = listening.accept()
    for sock in (one, other):
        sock.setblocking(False)
    # Of an accepted connection only the daemon's view differs, and both have one here.
    theirs = asyncio.create_task(
        aio.connect(sock=other, peer=server_peer, transport="eno", control=two.server.control),
        name="theirs",
    )
    reader, writer = await aio.connect(
        sock=one, peer=client_peer, transport="eno", control=two.client.control
    )
    return reader, writer, theirs


async def read(opening: asyncio.Task) -> bytes:
    reader, _writer = await opening
    return await reader.read()


def test_the_daemons_encrypt_and_tell_who_it_is(two: Pair) -> None:
    two.start(policy("tofu"))
    two.meet()
    pins = [f"pin:{side.fingerprint()}" for side in (two.server, two.client)]

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            reader, writer, task = await opened(two, *pins)
            far_reader, far_writer = await task
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
            with pytest.raises(AuthenticationError, match=other):
                await opened(two, f"pin:{other}", "tofu")
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "theirs")
            with pytest.raises((ResetError, TruncationError)):
                await read(task)

    asyncio.run(main())
