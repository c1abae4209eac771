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
from netns.network import Network

from tcpcrypt.tools.netns import Lab, become_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak first: of two processes that share the tests one would wait for it in the end."""
    items.sort(key=lambda item: "test_soak" not in item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    become_root()


@pytest.fixture
def pair() -> Iterator[Network]:
    with Lab() as lab:
        client, server = lab.host("client"), lab.host("server")
        yield Network(lab, client, server, *lab.join(client, server))


@pytest.fixture
def path() -> Iterator[Network]:
    with Lab() as lab:
        client, middle, server = lab.host("client"), lab.host("middle"), lab.host("server")
        client_end, near = lab.join(client, middle)
        far, server_end = lab.join(middle, server)
        middle.sysctl("net.ipv4.ip_forward", "1")
        middle.sysctl("net.ipv6.conf.all.forwarding", "1")
        for host, end in ((client, near), (server, far)):
            host.run("ip", "-4", "route", "add", "default", "via", end.v4)
            host.run("ip", "-6", "route", "add", "default", "via", end.v6)
        yield Network(lab, client, server, client_end, server_end, middle, (near, far))
