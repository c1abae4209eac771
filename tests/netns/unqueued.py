"""Rules in the words of nft whose queue statements are replaced, for kernels that lack them.

Those in which an application's SYN waits are replaced by what a verdict of the
daemon would do, the others by a counter.  What needs a queue is shown with
iptables, whose rules these are, and by nft where the kernel has the statement
(`test_nft_selection.py`).
"""

import contextlib
import re
import socket
from collections.abc import Iterable, Iterator

from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.runtime.installation import rules_for
from tcpcrypt.runtime.nft import Nft
from tcpcrypt.runtime.routing import Routing
from tcpcrypt.runtime.rules import MARK_HANDSHAKE, MARK_MASK, Rule
from tcpcrypt.runtime.steering import TransparentSteering
from tcpcrypt.tools.netns import Host

WEB = (Policy(Mode.OPPORTUNISTIC, Match(ports=(range(80, 81),))),)
STRICT = (Policy(Mode.REQUIRE, Match(ports=(range(80, 81),))),)
_HOLD = re.compile(r"queue num 29[89]\d\d$", re.MULTILINE)
_QUEUE = re.compile(r"queue num \d+$", re.MULTILINE)


def verdict(mark: int) -> str:
    """What the daemon's verdict on a held SYN does to it."""
    return f"meta mark set meta mark & {~MARK_MASK & 0xFFFFFFFF:#x} | {mark:#x} return"


class Unqueued(Nft):
    """Rules of which none queues.

    `held` stands where a SYN waits; by itself, for a daemon that says nothing.
    """

    def __init__(self, held: str = "counter return") -> None:
        super().__init__()
        self._held = held

    def _script(self, rules: Iterable[Rule]) -> str:
        return _QUEUE.sub("counter", _HOLD.sub(self._held, super()._script(rules)))


def ruleset(host: Host) -> str:
    """Everything that nft knows of."""
    return host.run("nft", "list", "ruleset").stdout


@contextlib.contextmanager
def steering(host: Host) -> Iterator[TransparentSteering]:
    """A daemon's listeners and routes, without the daemon."""
    with host.entered(), contextlib.ExitStack() as stack:
        routing = Routing()
        routing.install()
        stack.callback(routing.remove)
        listeners = TransparentSteering()
        stack.callback(listeners.close)
        for listener in listeners.peer_listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_HANDSHAKE)
        listeners.listen()
        for listener in (*listeners.peer_listeners, *listeners.application_listeners):
            listener.settimeout(5)
        yield listeners


@contextlib.contextmanager
def installed(
    host: Host, policies: tuple[Policy, ...], held: str = "counter return"
) -> Iterator[TransparentSteering]:
    """All rules of a daemon that serves by `policies`, and nothing of them afterwards."""
    before = ruleset(host)
    firewall = Unqueued(held)
    with steering(host) as listeners:
        firewall.install(rules_for(policies, 0, listeners))
        try:
            yield listeners
            assert firewall.missing() == 0
        finally:
            firewall.remove()
    assert ruleset(host) == before


def tracked_mark(host: Host, port: int) -> int | None:
    """The mark of the connection from `port`; None if connection tracking knows of none."""
    for line in host.run("cat", "/proc/net/nf_conntrack").stdout.splitlines():
        if f" sport={port} " in line:
            return int(line.split(" mark=")[1].split()[0])
    return None
