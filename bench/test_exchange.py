"""RFC 8548 sections 3.3 and 3.5: connections a second, fresh and resumed.

Both ends run in this process, on one core: ENO options, key exchange or
resumption, and one frame each way, without a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.hosts import Host, connect, data_of, events, exchange

from tcpcrypt._fast import IMPLEMENTATION
from tcpcrypt.core.config import Config
from tcpcrypt.registry import Tep

ROUNDS = {"fresh": 60, "resumed": 200}


def converse(client: Host, server: Host) -> bool:
    """One connection from SYN to the first data of both; whether it was resumed."""
    one, other = connect(client, server)
    one.send_data(b"request")
    other.send_data(b"reply")
    exchange(one, other)
    assert data_of(events(one)) == b"reply"
    assert data_of(events(other)) == b"request"
    resumed: bool = one.resumed
    assert other.resumed is resumed
    return resumed


@pytest.mark.parametrize("kind", ROUNDS)
@pytest.mark.parametrize("tep", list(Tep)[1:], ids=lambda tep: tep.name)
def test_exchanges(benchmark: Any, report: Callable[..., None], tep: Tep, kind: str) -> None:
    config = Config(teps=(tep,))
    hosts = Host(config), Host(config)
    if kind == "resumed":
        assert converse(*hosts) is False

    def once() -> None:
        if kind == "fresh":
            for host in hosts:
                host.cache.flush()
        assert converse(*hosts) is (kind == "resumed")

    benchmark.pedantic(once, rounds=ROUNDS[kind], warmup_rounds=2)
    if benchmark.stats is None:  # --benchmark-disable
        return
    rate = 1 / benchmark.stats.stats.median
    benchmark.extra_info["per_s"] = rate
    title = f"connections a second, both ends on one core (twin: {IMPLEMENTATION})"
    report(title, tep.name, **{kind: f"{rate:,.0f}"})
