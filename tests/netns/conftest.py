"""Fixtures of the namespace tests.

    pair            client ---- veth1 ---- server            10.99.1.1    10.99.1.2
                                                             fd99:1::1    fd99:1::2

    path            client -- veth1 -- middle -- veth2 -- server
                    10.99.1.1   10.99.1.2  10.99.2.1   10.99.2.2
                    fd99:1::1   fd99:1::2  fd99:2::1   fd99:2::2
                    `middle` forwards and, when told to, meddles.

Sockets made by `client.socket()` and the like are ordinary kernel sockets in
that host's namespace: to TCP the test is an application there.
"""

from collections.abc import Iterator

import pytest
from netns.network import Network, routed

from tcpcrypt.tools.netns import Lab, become_root

LONGEST = ("test_soak", "test_mutants", "test_multitudes", "test_fresh_root", "test_kill")
"""Files that take longest under `make test-long`: an hour, half of one, some minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These first: of processes that share the tests all but one would wait for them in the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    become_root()


@pytest.fixture
def accepted_by_queue() -> Iterator[None]:
    """For tests of the queue that accepts: where sockops is tested it is that of mixed."""
    with Network.every_policy():
        yield


@pytest.fixture
def pair() -> Iterator[Network]:
    with Lab() as lab:
        client, server = lab.host("client"), lab.host("server")
        yield Network(lab, client, server, *lab.join(client, server))


@pytest.fixture
def path() -> Iterator[Network]:
    with routed() as network:
        yield network
