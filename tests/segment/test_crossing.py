"""RFC 9293 section 3.5: both hosts open at once, with engines between them."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment.model import ACK, SYN, Faults
from segment.path import Path, Setup
from segment.test_flow import text
from segment.test_table import BACK, MSS, THERE, segment, table

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.segment.opening import Side
from tcpcrypt.wire.segment import Segment

PLAIN = Config()
B = Config(active_b=True)
INSISTS = Config(require_encryption=True)


def parsed(sent: tuple[bool, bytes]) -> Segment:
    return Segment.parse(sent[1])


def with_b() -> bytes:
    """The options of a SYN of a host that is told to be B."""
    option = Negotiation(B, Opener.ACTIVE).option_to_send(True, False, 36)
    return MSS + option + bytes(-len(option) % 4)


def crossing(one: Config | None, other: Config | None, **more: object) -> Path:
    return Path(Setup(crossed=True, config=(one, other), **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("configs", [(PLAIN, B), (B, PLAIN)], ids=["b at one", "b at the other"])
def test_rfc8547_4_4_one_side_is_told_to_be_b_and_it_is_encrypted(
    configs: tuple[Config, Config], family: int
) -> None:
    path = crossing(*configs, family=family)
    path.exchange(text(30_000), text(20_000, 11))
    first, second = (path.events[mine][0] for mine in (True, False))
    assert (first[0], second[0]) == ("encrypted", "encrypted")
    assert first[1]["session"] == second[1]["session"]
    assert {first[1]["role"], second[1]["role"]} == {"A", "B"}
    assert text(100) not in path.in_clear()
    flags = [segment.flags for segment in map(parsed, path.wire) if segment.flags.syn]
    assert flags.count(SYN) >= 2 <= flags.count(SYN | ACK)  # they did cross
    path.world.run(5)
    for mine in (True, False):
        assert path.names(mine)[-1] == "closed"


@pytest.mark.parametrize(
    "configs",
    [(PLAIN, PLAIN), (B, B), (PLAIN, None), (None, B)],
    ids=["neither is b", "both are", "one has none", "the other has none"],
)
def test_rfc8547_4_3_or_it_is_plain(configs: tuple[Config | None, Config | None]) -> None:
    path = crossing(*configs)
    path.exchange(text(3000), text(2000, 11))
    for mine, config in zip((True, False), configs, strict=True):
        if config is not None:
            assert path.names(mine)[0] == "fallback"


def test_or_refused_where_encryption_is_required() -> None:
    path = crossing(INSISTS, PLAIN)
    path.server.connect()
    path.client.connect()
    path.world.run(10)
    assert path.names(True) == ["refused"]
    assert path.client.state == path.server.state == "reset"


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    rates=st.tuples(*[st.sampled_from((0.0, 0.05, 0.2))] * 3),
    late=st.sampled_from((0.0, 0.001, 0.004, 0.0049)),
    insists=st.booleans(),
)
def test_on_any_network_it_is_encrypted_or_plain_at_both(
    seed: int, rates: tuple[float, float, float], late: float, insists: bool
) -> None:
    config = replace(PLAIN, require_encryption=insists)
    path = crossing(config, replace(B, require_encryption=insists), seed=seed, wire=Faults(*rates))
    path.client.connect()
    path.world.run(late)
    path.server.connect()
    path.client.write(text(5000))
    path.server.write(text(4000, 11))
    path.client.close()
    path.server.close()
    path.world.run(3000, lambda: path.client.peer_closed and path.server.peer_closed)
    assert (bytes(path.server.received), bytes(path.client.received)) == (
        text(5000),
        text(4000, 11),
    )
    assert {path.names(True)[0], path.names(False)[0]} == {"encrypted"}


def test_a_strangers_syn_ends_no_open_connection_and_changes_no_answer() -> None:
    one = table()
    one.take(Side.INNER, segment(THERE, SYN, 100, options=MSS))
    # Whoever answers with another number than he asked with is not the same.
    one.take(Side.OUTER, segment(BACK, SYN, 900, options=with_b()))
    _, outcome = one.take(Side.OUTER, segment(BACK, SYN | ACK, 901, 101, options=with_b()))
    assert (outcome.passed, outcome.packets) == (False, [])
    assert one.flows[THERE].state == "connecting"
