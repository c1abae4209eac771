"""`tcpcryptd`: encrypt the TCP connections of this host, in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tcpcrypt import __version__
from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.daemon.alone import serve_alone
from tcpcrypt.daemon.app import Task, serve
from tcpcrypt.daemon.configuration import (
    DEFAULT_PATH,
    SECRETS_PER_PEER,
    Configuration,
    DaemonSettings,
    load,
)
from tcpcrypt.daemon.confinement import close_others
from tcpcrypt.daemon.key_log import WARNING, KeyLogFile
from tcpcrypt.daemon.log import open_log
from tcpcrypt.errors import LocalError

__all__ = ["configuration_of", "main", "parser", "port_range"]

_EXAMPLE = """\
examples:
  tcpcryptd
  tcpcryptd --config ./tcpcrypt.toml --confirm 60
  tcpcryptd --port 80 --port 8000-8099 --mode opportunistic

The first serves by /etc/tcpcrypt/tcpcrypt.toml, see tcpcrypt.toml(5).  The
second takes everything back after a minute unless `tcpcrypt confirm` has come
by then.  The third needs no file: it encrypts connections to these ports, of
services on this host and of programs that use such services elsewhere,
wherever the other host does the same.

Needs root, or CAP_NET_ADMIN and CAP_NET_RAW in a user namespace, with iproute2
and iptables (or nft, where the kernel has its queue statement).  Ends on SIGTERM
or SIGINT and takes its rules out again; reads its file again on SIGHUP.  What
faces the network is a process of its own, without privileges.
"""
_FAMILIES: Final[dict[str, tuple[int, ...]]] = {"4": (4,), "6": (6,), "46": (4, 6)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to end.  Exit status 0; 1 if it could not start or go on; 2 for usage."""
    if argv is None:
        close_others()  # whatever else the caller had open
    known = parser()
    arguments = known.parse_args(argv)
    if arguments.port and arguments.config:
        known.error("--port and --config exclude one another")
    if not arguments.port and (arguments.mode or arguments.family or arguments.no_resume):
        known.error("--mode, --family and --no-resume belong to --port")
    if arguments.confirm and (arguments.single_process or arguments.status):
        known.error("--confirm needs the separated processes")
    try:
        task = _task(arguments)
        with contextlib.ExitStack() as stack:
            log = open_log(str(arguments.log_file or task.configuration.daemon.log))
            stack.callback(log.close)
            keylog = arguments.keylog or task.configuration.daemon.keylog
            if keylog is not None:
                file = KeyLogFile(keylog.absolute(), log.write)
                stack.callback(file.close)
                task = replace(task, key_log=file.write)
                print(f"tcpcryptd: KEY LOG {keylog}: {WARNING}", file=sys.stderr)
            if arguments.single_process or arguments.status:
                return serve_alone(task, log.write, arguments.status)
            return serve(task, log.write)
    except LocalError as error:
        print(f"tcpcryptd: {error}", file=sys.stderr)
        return 1


def _task(arguments: argparse.Namespace) -> Task:
    if arguments.port:
        # What it is told on the command line is over with the command.
        daemon = DaemonSettings(
            backend=arguments.backend or "auto",
            log="stderr",
            guard="remove",
            families=_FAMILIES.get(arguments.family, ()),
        )
        config = Config(
            resume=not arguments.no_resume,
            cache=not arguments.no_resume,
            cache_per_peer=SECRETS_PER_PEER,
        )
        mode = Mode(arguments.mode or Mode.OPPORTUNISTIC)
        found = Configuration(daemon, config, (Policy(mode, Match(ports=tuple(arguments.port))),))
        return Task(configuration=found, control=arguments.control, confirm=arguments.confirm)
    source = arguments.config or DEFAULT_PATH
    found = load(source)
    task = Task(
        configuration=found,
        source=source,
        control=arguments.control or found.daemon.control,
        backend=arguments.backend,
        confirm=arguments.confirm,
    )
    return replace(task, configuration=task.overridden(found))


def parser() -> argparse.ArgumentParser:
    """The options of tcpcryptd(8)."""
    options = argparse.ArgumentParser(
        prog="tcpcryptd",
        description="Encrypt TCP connections of this host (RFC 8547, RFC 8548).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"serve by this file (default, without --port: {DEFAULT_PATH})",
    )
    options.add_argument("--version", action="version", version=f"tcpcryptd {__version__}")
    options.add_argument(
        "--confirm",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="take everything back unless `tcpcrypt confirm` comes within that time",
    )
    options.add_argument(
        "--control",
        metavar="SOCKET",
        type=Path,
        help="answer tcpcrypt(1) there (default: as the file says; with --port nowhere)",
    )
    options.add_argument(
        "--keylog",
        metavar="FILE",
        type=Path,
        help="append the secret of each connection there, for `tcpcrypt decode`: whoever reads it"
        " can decrypt them",
    )
    options.add_argument(
        "--log-file", metavar="FILE", type=Path, help="append the log there, whatever the file says"
    )
    options.add_argument(
        "--single-process",
        action="store_true",
        help="do not separate privileges, and leave the rules behind if killed: for tests and"
        " experiments only",
    )
    options.add_argument(
        "--status",
        metavar="FILE",
        type=Path,
        help="keep counters and connections there, as JSON; implies --single-process",
    )
    ports = options.add_argument_group("without a file")
    ports.add_argument(
        "--port",
        metavar="PORT[-LAST]",
        type=port_range,
        action="append",
        help="a service port or a range of them; may be repeated",
    )
    ports.add_argument(
        "--mode",
        choices=[Mode.OPPORTUNISTIC.value, Mode.REQUIRE.value],
        help="plain TCP where the other side cannot encrypt, or refuse (default: opportunistic)",
    )
    ports.add_argument(
        "--backend",
        choices=["auto", "nfqueue", "sockops", "mixed"],
        help="what carries the TCP-ENO option (default: what the configuration says, or auto)",
    )
    ports.add_argument(
        "--family",
        choices=list(_FAMILIES),
        help="IP versions to serve (default: those that this host has)",
    )
    ports.add_argument(
        "--no-resume", action="store_true", help="make a fresh key exchange for each connection"
    )
    return options


def configuration_of(pid: int, proc: Path = Path("/proc")) -> Path | None:
    """The file by which a daemon serves that runs, as its command line says.

    None if it has its policies from there, or is gone.
    """
    try:
        words = (proc / f"{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        place = Path(os.readlink(proc / f"{pid}/cwd"))
    except OSError:
        return None
    argv = [os.fsdecode(word) for word in words]
    begin = [n for n, word in enumerate(argv) if word == __name__ or Path(word).name == "tcpcryptd"]
    if not begin:
        return None
    try:
        arguments = parser().parse_args(argv[begin[0] + 1 :])
    except SystemExit:
        return None
    return None if arguments.port else place / (arguments.config or DEFAULT_PATH)


def port_range(text: str) -> range:
    """A port or a range of them, as an argument of a command."""
    first, _, last = text.partition("-")
    try:
        ports = range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no port") from None
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port or range of ports")
    return ports


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
