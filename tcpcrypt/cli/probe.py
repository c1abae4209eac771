"""`tcpcrypt probe`: does the path to a host keep option 69, and what does the host answer?"""

from __future__ import annotations

import argparse
import json

from tcpcrypt.core.negotiation import Fallback, Negotiated
from tcpcrypt.tools.probe import Result, probe, resolve, tep_name
from tcpcrypt.tools.syn import Knock

__all__ = ["configure", "run"]

_TIMEOUT_MAX = 120.0


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Send a SYN with a TCP-ENO option (kind 69, RFC 8547) and one without, and compare the"
        " answers.  No connection is made: a SYN-ACK is answered with a reset, which is what this"
        " host's kernel does with a SYN-ACK that no program asked for.  Nothing is offered for"
        " resumption.  A tcpcryptd of this host is gone around.  Needs CAP_NET_RAW.  Exit status:"
        " 0 if a connection would be encrypted at every address probed, 1 if not."
    )
    parser.add_argument(
        "target",
        type=_target,
        metavar="HOST:PORT",
        help="a name or address and a port; IPv6 addresses as [ADDRESS]:PORT",
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "-4", dest="family", action="store_const", const=4, default=0, help="IPv4 alone"
    )
    family.add_argument("-6", dest="family", action="store_const", const=6, help="IPv6 alone")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait for the answers of an address, repeating what is not answered"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="also ask for each encryption protocol by itself: four more SYNs",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Probe every address of the target; returns the exit status."""
    host, port = arguments.target
    results = []
    for address in resolve(host, port, arguments.family):
        result = probe(address, arguments.timeout, each=arguments.each)
        results.append(result)
        if not arguments.json:
            print(_text(result), flush=True)
    ok = bool(results) and all(result.ok for result in results)
    if arguments.json:
        document = {
            "host": host,
            "port": port,
            "ok": ok,
            "results": [result.as_json() for result in results],
        }
        print(json.dumps(document, indent=2))
    return 0 if ok else 1


def _text(result: Result) -> str:
    address, port = result.address[:2]
    lines = [f"{f'[{address}]' if ':' in address else address}:{port}  {result.conclusion.value}"]
    for name, knock in (("with option 69", result.eno), ("without", result.plain)):
        if knock is not None:
            lines.append(f"  {name:<16}{_knock(knock)}")
    if result.option is not None:
        teps = ", ".join(tep_name(suboption.tep) for suboption in result.option.suboptions)
        bits = f"a={result.option.application_aware:d} b={result.option.b:d}"
        lines.append(f"  {'its answer':<16}{teps or 'no protocol'}; {bits}; no resumption asked")
    if isinstance(result.outcome, Negotiated):
        lines.append(f"  {'agreed':<16}{tep_name(result.outcome.tep)}")
    elif isinstance(result.outcome, Fallback):
        lines.append(f"  {'plain because':<16}{result.outcome.reason.value}")
    if result.teps:
        answers = (f"{tep_name(tep)} {'yes' if yes else 'no'}" for tep, yes in result.teps)
        lines.append(f"  {'one by one':<16}{', '.join(answers)}")
    lines += [f"  {'note':<16}{note}" for note in result.notes]
    return "\n".join(lines)


def _knock(knock: Knock) -> str:
    parts = [f"{knock.answer.value}: {knock.detail}" if knock.detail else knock.answer.value]
    if knock.milliseconds is not None:
        parts.append(f"after {knock.milliseconds:.1f} ms")
    if knock.hops is not None:
        parts.append(f"TTL {knock.ttl}, about {knock.hops} hops")
    if knock.sent != 1:
        parts.append(f"{knock.sent} SYNs")
    return ", ".join(parts)


def _target(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"{text!r}: write an IPv6 address as [ADDRESS]:PORT")
    if not host or not colon or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    if not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return host, int(port)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 120")
    return seconds
