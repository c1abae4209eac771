"""`tcpcryptd`: encrypt the TCP connections of this host, in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Settings
from tcpcrypt.runtime.host import Host
from tcpcrypt.runtime.installation import Installation
from tcpcrypt.runtime.privileges import DirectPrivileges
from tcpcrypt.runtime.status import StatusFile

__all__ = ["main"]

_EXAMPLE = """\
example:
  tcpcryptd --port 80 --port 8000-8099 --mode opportunistic

encrypts connections to these ports, of services on this host and of programs
that use such services elsewhere, wherever the other host does the same.
Needs CAP_NET_ADMIN (and iptables, iproute2); ends on SIGTERM or SIGINT and
takes every rule out again.
"""


_SECRETS_PER_PEER: Final = 64
"""A browser opens dozens of connections at once, and many clients can share one
address.  The secret that a SYN asks for must not be pushed out before its ACK."""
_FAMILIES: Final[dict[str, tuple[int, ...]]] = {"4": (4,), "6": (6,), "46": (4, 6)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to end.  Exit status 0; 1 if it could not start; 2 for usage."""
    arguments = _parser().parse_args(argv)
    try:
        log = Log(arguments.log_file.open("a") if arguments.log_file else sys.stderr)
    except OSError as error:
        print(f"tcpcryptd: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    settings = Settings(
        policies=(Policy(Mode(arguments.mode), Match(ports=tuple(arguments.port))),),
        config=Config(
            resume=not arguments.no_resume,
            cache=not arguments.no_resume,
            cache_per_peer=_SECRETS_PER_PEER,
        ),
        families=_FAMILIES[arguments.family or _families_here()],
    )
    installation = Installation(settings)
    try:
        installation.open()
    except LocalError as error:
        print(f"tcpcryptd: {error}", file=sys.stderr)
        return 1
    host = Host(
        settings,
        log.write,
        steering=installation.steering,
        queue=installation.queue,
        privileges=DirectPrivileges(),
    )
    ended_by = []

    def end(number: int, _frame: object) -> None:
        ended_by.append(signal.Signals(number).name)
        host.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    status = StatusFile(host, arguments.status) if arguments.status else None
    try:
        if status is not None:
            status.start()
        host.start()
        installation.install()
        log.write(
            "started",
            {
                "ports": ",".join(_ports_text(ports) for ports in arguments.port),
                "mode": arguments.mode,
                "older_connections": len(installation.older),
            },
        )
        if not ended_by:
            host.run()
    except LocalError as error:
        print(f"tcpcryptd: {error}", file=sys.stderr)
        return 1
    finally:
        host.close()
        installation.remove()
        installation.close()
    if status is not None:
        with contextlib.suppress(OSError):
            status.write()
    log.write("ended", {"by": ",".join(ended_by)})
    return 0


class Log:
    """One line of `key=value` for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: str, fields: dict[str, object]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        words = [f"time={stamp}", f"event={event}"]
        words += [f"{name}={_quoted(str(value))}" for name, value in fields.items()]
        print(" ".join(words), file=self._stream, flush=True)


def _quoted(text: str) -> str:
    if text and not set(text) & set(' "=\\\n'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tcpcryptd",
        description="Encrypt TCP connections of this host (RFC 8547, RFC 8548).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port",
        metavar="PORT[-LAST]",
        type=_ports,
        action="append",
        required=True,
        help="a service port or a range of them; may be repeated",
    )
    parser.add_argument(
        "--mode",
        choices=[Mode.OPPORTUNISTIC.value, Mode.REQUIRE.value],
        default=Mode.OPPORTUNISTIC.value,
        help="plain TCP where the other side cannot encrypt, or refuse (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        choices=["nfqueue"],
        default="nfqueue",
        help="what carries the TCP-ENO option (default: %(default)s)",
    )
    parser.add_argument(
        "--family",
        choices=list(_FAMILIES),
        help="IP versions to serve (default: those that this host has)",
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="make a fresh key exchange for each connection"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", type=Path, help="append the log there, not to stderr"
    )
    parser.add_argument(
        "--status", metavar="FILE", type=Path, help="keep counters and connections there, as JSON"
    )
    return parser


def _families_here() -> str:
    return "46" if Path("/proc/net/if_inet6").exists() else "4"


def _ports_text(ports: range) -> str:
    return str(ports.start) if len(ports) == 1 else f"{ports.start}:{ports.stop - 1}"


def _ports(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        ports = range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no port") from None
    if not ports or not 1 <= ports.start < ports.stop <= 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port or range of ports")
    return ports


if __name__ == "__main__":
    sys.exit(main())
