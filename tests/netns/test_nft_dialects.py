"""Rules in the words of nft, in a real kernel: the option of kind 253, wherever it stands."""

import contextlib

import pytest
from netns.network import PORT, Network
from netns.test_nft_peers import peer
from netns.unqueued import installed

from tcpcrypt.core.policy import BOTH, Match, Mode, Policy

OLD, ANY = (
    (Policy(Mode.OPPORTUNISTIC, Match(ports=(range(PORT, PORT + 1),)), profile=profile),)
    for profile in ("stanford", BOTH)
)
MSS = bytes.fromhex("020405b4")
ENO = bytes.fromhex("fd05454e21")
RFC = bytes.fromhex("45030121")


@pytest.mark.parametrize(
    ("policies", "options", "comes"),
    [
        (OLD, MSS + b"\x01" + ENO, True),  # where iptables does not find it
        (OLD, MSS + b"\x01" * 27 + ENO, True),
        (OLD, ENO + bytes.fromhex("fd060001aabb"), True),
        # Of several options of a kind nft sees the first: this one is left alone.
        (OLD, bytes.fromhex("fd060001aabb") + ENO, False),
        (OLD, bytes.fromhex("fd04cafe"), False),
        (OLD, bytes.fromhex("fd02"), False),
        (OLD, RFC, False),
        (ANY, RFC, True),
        (ANY, MSS + ENO, True),
    ],
)
def test_who_comes_to_the_daemon(
    pair: Network, policies: tuple[Policy, ...], options: bytes, comes: bool
) -> None:
    knock(pair, 4, policies, options, comes=comes)


def test_who_comes_by_ipv6(pair: Network) -> None:
    knock(pair, 6, OLD, MSS + b"\x01" + ENO, comes=True)


def knock(
    pair: Network, family: int, policies: tuple[Policy, ...], options: bytes, *, comes: bool
) -> None:
    with (
        pair.listen(family) as service,
        installed(pair.server, policies) as listeners,
        peer(pair, family) as one,
    ):
        one.open(options + bytes(-len(options) % 4))
        listener = listeners.peer_listeners[family == 6] if comes else service
        listener.settimeout(5)
        with contextlib.closing(listener.accept()[0]):
            pass
