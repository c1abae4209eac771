"""The rules of the segment plane in the words of both firewalls; kernels are in tests/netns."""

import pytest

from tcpcrypt.runtime.nft_words import script
from tcpcrypt.segment.service import INNER_QUEUE, OUTER_QUEUE, segment_rules


def test_a_host_asks_for_what_it_sends_and_gets_but_not_for_what_stays_on_it() -> None:
    rules = segment_rules([range(80, 81)])
    words = [(rule.hook, " ".join(rule.words)) for rule in rules]
    assert ("OUTPUT", f"! -o lo -p tcp --dport 80 -j NFQUEUE --queue-num {INNER_QUEUE}") in words
    assert ("INPUT", f"! -i lo -p tcp --sport 80 -j NFQUEUE --queue-num {OUTER_QUEUE}") in words
    # Never open when nobody listens, and what the engine adds is not asked for again.
    assert not any("bypass" in text for _, text in words)
    assert words[0][1].endswith("-j RETURN")
    assert words[1][1].endswith("-j RETURN")


def test_a_gateway_asks_for_what_it_forwards() -> None:
    rules = segment_rules([range(8000, 8100)], "eth1")
    assert {rule.hook for rule in rules} == {"FORWARD"}
    words = [" ".join(rule.words) for rule in rules]
    assert f"-i eth1 -p tcp --sport 8000:8099 -j NFQUEUE --queue-num {INNER_QUEUE}" in words
    assert f"-o eth1 -p tcp --dport 8000:8099 -j NFQUEUE --queue-num {OUTER_QUEUE}" in words


@pytest.mark.parametrize("inner", [None, "eth1"])
def test_nft_can_say_the_same(inner: str | None) -> None:
    text = script(segment_rules([range(80, 81), range(8000, 8100)], inner))
    assert f"tcp dport 80 queue num {INNER_QUEUE}" in text
    assert f"tcp sport 8000-8099 queue num {OUTER_QUEUE}" in text
    assert "bypass" not in text
