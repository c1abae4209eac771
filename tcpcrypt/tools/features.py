"""What the daemon's rules are made of: each match and target, with a rule to try it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.rules import MARK_MASK, MARK_STEERED, Rule
from tcpcrypt.tools.findings import Need

__all__ = ["FEATURES", "REQUIRED", "Feature", "failing_with"]


class Feature(NamedTuple):
    """A match or a target, and a rule with it.

    `need`: what a firewall without it is good for.
    """

    name: str
    need: Need
    table: str
    hook: str
    words: str
    module: str
    meaning: str = "iptables cannot be used; see `firewall` for what is used instead"


R, O = Need.REQUIRED, Need.OPTIONAL  # noqa: E741 (columns of a table)
_MARK: Final = f"{MARK_STEERED:#x}/{MARK_MASK:#x}"

FEATURES: Final = (
    Feature(
        *("target NFQUEUE", R, "mangle", "OUTPUT"),
        *("-p tcp --syn -j NFQUEUE --queue-num 1", "xt_NFQUEUE"),
    ),
    Feature(
        *("target TPROXY", R, "mangle", "PREROUTING"),
        *(f"-i lo -p tcp -j TPROXY --on-port 1 --tproxy-mark {_MARK}", "xt_TPROXY"),
    ),
    Feature(
        *("target MARK", R, "mangle", "OUTPUT", f"-p tcp -j MARK --set-xmark {_MARK}", "xt_mark"),
    ),
    Feature(
        *("match mark", R, "mangle", "POSTROUTING", f"-m mark --mark {_MARK} -j DROP", "xt_mark"),
    ),
    Feature(
        *("target CONNMARK", R, "mangle", "POSTROUTING"),
        f"-p tcp -m mark --mark {_MARK}"
        " -j CONNMARK --save-mark --nfmask 0xf00000 --ctmask 0xf00000",
        "xt_connmark",
    ),
    Feature(
        *("match connmark", R, "mangle", "OUTPUT"),
        *(f"-m connmark --mark {_MARK} -j RETURN", "xt_connmark"),
    ),
    Feature(
        *("match conntrack", R, "mangle", "INPUT"),
        *("-p tcp -m conntrack --ctstate NEW -j RETURN", "xt_conntrack"),
    ),
    Feature(
        *("match socket", R, "mangle", "INPUT"),
        *("-p tcp -m socket --nowildcard --restore-skmark -j RETURN", "xt_socket"),
    ),
    Feature(
        *("match tcp-option 69", R, "mangle", "PREROUTING"),
        *("-p tcp --syn --tcp-option 69 -j RETURN", "xt_tcpudp"),
    ),
    Feature(
        *("match addrtype", R, "mangle", "PREROUTING"),
        *("-m addrtype --dst-type LOCAL -j RETURN", "xt_addrtype"),
    ),
    Feature(
        *("target REJECT", R, "filter", "OUTPUT", "-p tcp -j REJECT --reject-with tcp-reset"),
        "ipt_REJECT, ip6t_REJECT",
    ),
    Feature(
        *("match multiport", O, "mangle", "OUTPUT"),
        *("-p tcp -m multiport --dports 1,2:3 -j RETURN", "xt_multiport"),
        "policies with several ports cannot be installed",
    ),
    Feature(
        *("match owner", O, "mangle", "OUTPUT"),
        *("-p tcp -m owner --uid-owner 0-1 -j RETURN", "xt_owner"),
        "policies by user cannot be installed",
    ),
    Feature(
        *("match cgroup", O, "mangle", "OUTPUT"),
        *("-p tcp -m cgroup --path / -j RETURN", "xt_cgroup"),
        "policies by control group cannot be installed",
    ),
)

REQUIRED: Final = frozenset(feature.name for feature in FEATURES if feature.need is R)
"""A firewall without one of these cannot be used."""


def failing_with(take: Callable[[Sequence[Rule]], None]) -> dict[str, str]:
    """The features that `take` refuses: everything at once, one by one only if that fails."""
    rules = {f.name: Rule(f.table, f.hook, tuple(f.words.split())) for f in FEATURES}
    try:
        take(tuple(rules.values()))
    except LocalError:
        pass
    else:
        return {}
    failing = {}
    for name, rule in rules.items():
        try:
            take((rule,))
        except LocalError as error:
            failing[name] = str(error)
    return failing
