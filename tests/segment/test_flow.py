"""Connections through two engines: right bytes, whatever the network does."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment.model import Faults
from segment.path import Path, Setup

from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache


def text(length: int, seed: int = 7) -> bytes:
    return bytes((i * i * seed >> 3) & 0xFF for i in range(length))


SECRET = b"nobody is to read this line" * 100


@pytest.mark.parametrize("family", [4, 6])
def test_bytes_of_both_directions_arrive_and_nothing_of_them_is_on_the_wire(family: int) -> None:
    path = Path(Setup(family=family))
    path.exchange(SECRET, SECRET[::-1])
    assert b"nobody" not in path.in_clear()
    assert b"ydobon" not in path.in_clear()
    mine, theirs = path.events[True][0], path.events[False][0]
    assert mine[0] == theirs[0] == "encrypted"
    assert mine[1]["session"] == theirs[1]["session"]
    path.world.run(5)
    assert path.flow(True).over
    assert path.flow(False).over


@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("fault", ["lose", "repeat", "swap"])
def test_a_bad_wire(fault: str, rate: float) -> None:
    path = Path(Setup(seed=3, wire=Faults(**{fault: rate})))
    path.exchange(text(150_000), text(60_000, 11))
    assert path.names(True)[0] == "encrypted"


def test_a_gateway_whose_inner_network_is_as_bad() -> None:
    bad = Faults(lose=0.03, swap=0.03, repeat=0.03, delay=0.002)
    path = Path(Setup(seed=5, wire=bad, inner=bad, forwards=True))
    path.exchange(text(100_000), text(50_000, 11))
    assert path.names(True)[0] == "encrypted"


@pytest.mark.parametrize(
    "options",
    [
        {"timestamps": False},
        {"sack": False},
        {"scale": None},
        {"mss": 536},
        {"buffer": 3000},
        {"flight": 500},
    ],
    ids=lambda options: next(iter(options)),
)
def test_hosts_that_have_less(options: dict[str, object]) -> None:
    path = Path(Setup(seed=9, wire=Faults(lose=0.02, swap=0.02)), **options)
    path.exchange(text(30_000), text(20_000, 11))


def test_resumption() -> None:
    caches = (ResumptionCache(Config()), ResumptionCache(Config()))
    for resumed in (False, True):
        path = Path(Setup(caches=caches))
        path.exchange(b"once" * 1000, b"more" * 1000)
        assert path.events[True][0][1]["resumed"] is resumed


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    isn=st.tuples(*[st.sampled_from((0, 2**31 - 2000, 2**31, 2**32 - 3000, 2**32 - 1))] * 2),
    rates=st.tuples(*[st.sampled_from((0.0, 0.0, 0.02, 0.15))] * 3),
    sizes=st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)),
    hosts=st.tuples(st.booleans(), st.booleans()),
)
def test_any_network(
    seed: int,
    isn: tuple[int, int],
    rates: tuple[float, float, float],
    sizes: tuple[int, int],
    hosts: tuple[bool, bool],
) -> None:
    sack, forwards = hosts
    path = Path(Setup(seed=seed, isn=isn, wire=Faults(*rates), forwards=forwards), sack=sack)
    path.exchange(text(sizes[0]), text(sizes[1], 11), seconds=3000)


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_full_segment_with_its_frame_is_a_full_segment(timestamps: bool) -> None:
    """Neither longer than the path takes, nor one more than the application's TCP sent."""
    path = Path(timestamps=timestamps)
    path.open()
    path.world.run(1)
    before, sent = len(path.wire), path.client.segments
    path.client.write(text(28_000))
    path.world.run(5)
    assert bytes(path.server.received) == text(28_000)
    mine = [packet for from_client, packet in path.wire[before:] if from_client]
    assert len(mine) == path.client.segments - sent
    assert 1490 < max(map(len, mine)) <= 1500
