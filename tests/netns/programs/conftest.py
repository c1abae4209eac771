"""Fixtures of the tests with real programs.

    client ---- veth1 ---- server        10.99.1.1    10.99.1.2
                                         fd99:1::1    fd99:1::2

The two hosts and the program's server last for a test file; the daemons and
the capture on the client's end of the wire last for a `watched` block.
"""

from collections.abc import Iterator

import pytest
from netns.network import Network

from tcpcrypt.tools.netns import Lab


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    with Lab() as lab:
        client, server = lab.host("client"), lab.host("server")
        yield Network(lab, client, server, *lab.join(client, server))
