"""With and without the extension: the same packets, whatever the network does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment import path as paths
from segment.model import Faults
from segment.path import Path, Setup

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.wire.segment import Segment

Headers = list[tuple[object, ...]]


@pytest.fixture(autouse=True)
def twin() -> None:
    """Both are wanted here."""


def headers(path: Path) -> Headers:
    """All that is to be the same on the wire: its keys, and so what they seal, are not."""
    found: Headers = []
    for from_client, packet in path.wire:
        segment = Segment.parse(packet)
        if segment.flags.syn or not path.flow(True).session_id:
            continue
        beneath = bytearray(packet[: segment.header_at])
        if segment.version == 4:
            beneath[10:12] = bytes(2)
        found.append(
            (
                from_client, bytes(beneath), segment.seq, segment.ack, segment.flags,
                segment.window, bytes(segment.options), len(segment.payload),
            )
        )  # fmt: skip
    return found


def run(setup: Setup, lanes: bool, up: int, down: int, **of_hosts: object) -> tuple[Path, int]:
    """A connection that answers before it sends more, and how much of it lanes did."""
    usual = 0

    class Counting:
        """A lane that counts."""

        def __init__(self, lane: _fast.Lane) -> None:
            self._lane = lane

        def __getattr__(self, name: str) -> object:
            return getattr(self._lane, name)

        def take(self, side: int, packet: bytes, now: float) -> list[tuple[int, bytes]] | None:
            nonlocal usual
            found = self._lane.take(side, packet, now)
            usual += found is not None
            return found

    class CountingLanes:
        def __init__(self) -> None:
            made = _fast.make_lanes()
            assert made is not None
            self._lanes = made

        @property
        def memory(self) -> object:
            return self._lanes.memory

        def stream(self, *arguments: object, **named: object) -> object:
            return self._lanes.stream(*arguments, **named)  # type: ignore[arg-type]

        def lend(self, *arguments: object, **named: object) -> Counting:
            return Counting(self._lanes.lend(*arguments, **named))  # type: ignore[arg-type]

    before = paths.make_lanes
    paths.make_lanes = CountingLanes if lanes else lambda: None  # type: ignore[assignment]
    try:
        path = Path(setup, **of_hosts)
    finally:
        paths.make_lanes = before
    path.open()
    data = bytes(range(256)) * 400
    for piece in range(3):
        path.client.write(data[piece : piece + up])
        path.server.write(data[piece + 7 : piece + 7 + down])
        path.world.run(600, lambda n=piece + 1: (  # type: ignore[misc]
            len(path.server.received) == n * up and len(path.client.received) == n * down
        ))  # fmt: skip
    path.client.close()
    path.server.close()
    path.world.run(600, lambda: path.client.peer_closed and path.server.peer_closed)
    path.world.run(5)
    assert bytes(path.server.received) == b"".join(data[n : n + up] for n in range(3))
    assert bytes(path.client.received) == b"".join(data[n + 7 : n + 7 + down] for n in range(3))
    return path, usual


def both(setup: Setup, up: int = 60_000, down: int = 20_000, **of_hosts: object) -> float:
    """Compare; how many segments were usual, for each on the wire, which two engines see."""
    one, none = run(setup, False, up, down, **of_hosts)
    other, usual = run(setup, True, up, down, **of_hosts)
    assert none == 0
    assert headers(one)
    for first, second in itertools.zip_longest(headers(one), headers(other)):
        assert first == second
    for mine in (True, False):
        assert one.names(mine) == other.names(mine)
        assert one.flow(mine).over == other.flow(mine).over
    return usual / len(other.wire)


HOSTS: list[dict[str, object]] = [
    {},
    {"timestamps": False},
    {"sack": False},
    {"scale": None},
    {"mss": 536},
    {"buffer": 3000},
    {"flight": 500},
    {"joined": 30},
]


@pytest.mark.parametrize("options", HOSTS, ids=lambda options: next(iter(options), "usual"))
@pytest.mark.parametrize("family", [4, 6])
def test_a_good_network(options: dict[str, object], family: int) -> None:
    assert both(Setup(seed=4, family=family), **options) > 1.1


@pytest.mark.parametrize("wire", [Faults(), Faults(lose=0.05, repeat=0.02, swap=0.05)])
@pytest.mark.parametrize("options", HOSTS, ids=lambda options: next(iter(options), "usual"))
def test_a_resumed_connection(options: dict[str, object], wire: Faults) -> None:
    caches = (ResumptionCache(Config()), ResumptionCache(Config()))
    setup = Setup(seed=9, wire=wire, caches=caches)
    run(Setup(caches=caches), False, 10, 10)
    assert both(setup, 4000, 3000, **options) > 1.1


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("options", HOSTS, ids=lambda options: next(iter(options), "usual"))
def test_a_bad_network(options: dict[str, object], forwards: bool) -> None:
    wire = Faults(lose=0.02, repeat=0.02, swap=0.02)
    # Loss, gaps and SACK are usual, too: what is left to Python is the beginning and the end.
    assert both(Setup(seed=6, wire=wire, forwards=forwards), **options) > 1.1


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    isn=st.tuples(*[st.sampled_from((0, 2**31 - 2000, 2**31, 2**32 - 3000, 2**32 - 1))] * 2),
    rates=st.tuples(*[st.sampled_from((0.0, 0.0, 0.01, 0.1))] * 3),
    inner=st.sampled_from((0.0, 0.0, 0.02)),
    sizes=st.tuples(st.integers(0, 30_000), st.integers(0, 30_000)),
    options=st.sampled_from(HOSTS),
    forwards=st.booleans(),
)
def test_any_network(  # noqa: PLR0917 (what hypothesis draws)
    seed: int,
    isn: tuple[int, int],
    rates: tuple[float, float, float],
    inner: float,
    sizes: tuple[int, int],
    options: dict[str, object],
    forwards: bool,
) -> None:
    setup = Setup(
        seed=seed,
        isn=isn,
        wire=Faults(*rates),
        inner=Faults(lose=inner, swap=inner, delay=0.0001),
        forwards=forwards,
    )
    both(setup, *sizes, **options)
