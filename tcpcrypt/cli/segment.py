"""`tcpcrypt segment`: encrypt the segments of connections, of this host or as a gateway."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
from ipaddress import ip_address

from tcpcrypt.cli.tcpcryptd import port_range
from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import SEGMENT, Match, Mode, Policy
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.daemon.configuration import SECRETS_PER_PEER
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.installation import only_one
from tcpcrypt.runtime.left_behind import end_left_behind
from tcpcrypt.runtime.liberal import LiberalTracking
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.rules import QUEUE_NUMBER
from tcpcrypt.runtime.segment_queue import RawSockets, open_segment_queue
from tcpcrypt.runtime.segment_rules import segment_rules
from tcpcrypt.runtime.segments import SegmentPlane
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.table import Key

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Encrypt connections segment by segment, in the foreground: their addresses, ports and"
        " their TCP stay those of the two hosts.  With --inner this host is a gateway for those"
        " behind that interface, who need know nothing of it; the other end is another gateway, or"
        " a host with this or with tcpcryptd.  Connections that are open already are reset."
        "  Needs root, and that no tcpcryptd serves here.  SIGINT or SIGTERM resets what is"
        " encrypted, has the kernel end all connections of this host with these ports, plain ones"
        " too, and takes the rules out again.  Exit status: 0 then, 1 if it could not start."
    )
    parser.add_argument(
        "--port",
        metavar="PORT[-LAST]",
        type=port_range,
        action="append",
        required=True,
        help="a service port or a range of them; may be repeated",
    )
    parser.add_argument(
        "--inner",
        metavar="INTERFACE",
        help="be a gateway for the hosts behind it, instead of serving this one",
    )
    parser.add_argument(
        "--mode",
        choices=[Mode.OPPORTUNISTIC.value, Mode.REQUIRE.value],
        default=Mode.OPPORTUNISTIC.value,
        help="plain TCP where the other side cannot encrypt, or refuse (default: %(default)s)",
    )
    parser.add_argument(
        "--active-b",
        action="store_true",
        help="have role B where both hosts open at once (RFC 8547 section 4.2); one of them has to,"
        " and whoever else is connected to with it stays plain",
    )
    parser.add_argument("--json", action="store_true", help="tell it as JSON, a line an event")


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end; returns the exit status."""
    if arguments.inner is not None:
        try:
            socket.if_nametoindex(arguments.inner)
        except OSError:
            raise LocalError(f"this host has no interface {arguments.inner!r}") from None
    mode = Mode(arguments.mode)
    inner = (arguments.inner,) if arguments.inner is not None else ()
    policy = Policy(mode, Match(ports=tuple(arguments.port), inner=inner), plane=SEGMENT)
    config = policy.configure(Config(active_b=arguments.active_b, cache_per_peer=SECRETS_PER_PEER))

    def tell(event: str, fields: dict[str, object]) -> None:
        line = " ".join((event, *(f"{name}={value}" for name, value in fields.items())))
        with contextlib.suppress(OSError):  # nobody reads it: no reason to serve no more
            print(json.dumps({"event": event, **fields}) if arguments.json else line, flush=True)

    def report(key: Key, event: str, fields: dict[str, object]) -> None:
        tell(event, {"inner": _place(*key[:2]), "outer": _place(*key[2:]), **fields})

    def chosen(_key: Key, _side: Side, forwarded: bool) -> Config | None:
        return config if forwarded is bool(inner) else None

    loop, firewall, tracking = Loop(), Firewall(), LiberalTracking()
    with contextlib.ExitStack() as stack:
        stack.callback(loop.close)
        lock = only_one()
        if lock is not None:
            stack.callback(lock.close)
        try:
            # The daemon's queue too, empty: whoever finds it free may take the rules away.
            queue = open_segment_queue({QUEUE_NUMBER: 1})
            # After the rules are gone, or dropped packets remain.
            stack.callback(queue.close)
            adding = RawSockets()
        except OSError as error:
            reason = f"cannot open the netfilter queues: {error.strerror}; be root"
            raise LocalError(reason) from error
        stack.callback(adding.close)
        tracking.install()
        stack.callback(tracking.remove)
        stack.callback(firewall.remove)
        stack.callback(end_left_behind, firewall)
        cache = ResumptionCache(config)
        plane = SegmentPlane(
            loop,
            queue,
            adding,
            chosen,
            resumption=cache,
            report=report,
            exhausted=lambda segments: tell("exhausted", {"dropped": segments}),
        )
        # First the resets: without the rules the segments would go in clear.
        stack.callback(plane.close)
        end_left_behind(firewall)
        firewall.install(segment_rules([policy]))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: loop.stop())
        tell("started", {"firewall": firewall.name})
        loop.run()
    tell("stopped", {})
    return 0


def _place(address: bytes, port: int) -> str:
    text = str(ip_address(address))
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
