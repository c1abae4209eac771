"""The `tcpcrypt` command: one table of subcommands, each a module of its own.

A subcommand's module has `configure(parser, common)`, which adds its arguments
(`common` is a parent parser with what all commands share), and `run(arguments)`,
which returns the exit status: 0 ok, 1 what was asked about is false or failed,
2 usage.  Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from tcpcrypt import __version__
from tcpcrypt.errors import TcpcryptError

__all__ = ["COMMANDS", "EXIT_FAILED", "EXIT_OK", "EXIT_USAGE", "Command", "main"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class Command(NamedTuple):
    """One subcommand."""

    module: str
    summary: str
    example: str
    default: str = ""
    """Its action where none is named; empty: one has to be, or there are none."""


COMMANDS: Final[dict[str, Command]] = {
    "bench": Command(
        "tcpcrypt.cli.bench",
        "measure what encryption costs on this machine, beside plain TCP",
        "tcpcrypt bench --quick --json",
    ),
    "completion": Command(
        "tcpcrypt.cli.completion",
        "print the script by which bash, zsh or fish completes these command lines",
        "tcpcrypt completion bash",
    ),
    "confirm": Command(
        "tcpcrypt.cli.confirm",
        "let a daemon stay that was started with `tcpcrypt up --confirm`",
        "tcpcrypt confirm",
    ),
    "connect": Command(
        "tcpcrypt.cli.connect",
        "open a secure connection by hand, without a daemon",
        "tcpcrypt connect -v device.example.org:7000",
    ),
    "decode": Command(
        "tcpcrypt.cli.decode",
        "print the plaintext of captured connections whose secrets are known",
        "tcpcrypt decode capture.pcap --keylog keys.log --stream 0",
    ),
    "demo": Command(
        "tcpcrypt.cli.demo",
        "encrypt curl and a web server between two hosts, and prove it",
        "tcpcrypt demo --size 10 --json",
    ),
    "doctor": Command(
        "tcpcrypt.cli.doctor",
        "check whether a daemon can run here, and what to do if not",
        "tcpcrypt doctor --no-self-test",
    ),
    "down": Command(
        "tcpcrypt.cli.down",
        "end the daemon and remove every rule, those of `require` too",
        "tcpcrypt down --now",
    ),
    "flush": Command(
        "tcpcrypt.cli.flush",
        "forget secrets for resumption and what was learnt of paths",
        "tcpcrypt flush 192.0.2.7",
    ),
    "id": Command(
        "tcpcrypt.cli.id",
        "show, make or replace the key by which others know this host",
        "tcpcrypt id show",
    ),
    "listen": Command(
        "tcpcrypt.cli.listen",
        "wait for a secure connection by hand, without a daemon",
        "tcpcrypt listen -v 7000 --peer psk:site-a",
    ),
    "peers": Command(
        "tcpcrypt.cli.peers",
        "list and change the hosts that this one knows, and how it went with them lately",
        "tcpcrypt peers --last plain",
        "list",
    ),
    "policy": Command(
        "tcpcrypt.cli.policy",
        "write a configuration file to start from, explain one, or show what is in force",
        "tcpcrypt policy check /etc/tcpcrypt/tcpcrypt.toml",
    ),
    "probe": Command(
        "tcpcrypt.cli.probe",
        "ask whether the path to a host keeps option 69 and what the host offers",
        "tcpcrypt probe www.example.org:80",
    ),
    "proxy": Command(
        "tcpcrypt.cli.proxy",
        "wrap any TCP service, at both ends, without a daemon",
        "tcpcrypt proxy server 7000 127.0.0.1:5432",
    ),
    "psk": Command(
        "tcpcrypt.cli.psk",
        "make and list pre-shared keys",
        "tcpcrypt psk new site-a",
    ),
    "rules": Command(
        "tcpcrypt.cli.rules",
        "show the firewall rules that a configuration asks for, or those in the kernel",
        "tcpcrypt rules --print --config tcpcrypt.toml",
    ),
    "segment": Command(
        "tcpcrypt.cli.segment",
        "encrypt connections segment by segment, of this host or as a gateway",
        "tcpcrypt segment --port 80 --inner eth1",
    ),
    "session-id": Command(
        "tcpcrypt.cli.session_id",
        "print the session ID of one connection",
        "tcpcrypt session-id 192.0.2.1:51234 192.0.2.7:443",
    ),
    "sessions": Command(
        "tcpcrypt.cli.sessions",
        "list live connections with their session IDs",
        "tcpcrypt sessions --state encrypted",
    ),
    "status": Command(
        "tcpcrypt.cli.status",
        "show whether a daemon runs here and what it has done",
        "tcpcrypt status --json",
    ),
    "up": Command(
        "tcpcrypt.cli.up",
        "start the daemon, for good or until it is confirmed",
        "tcpcrypt up --confirm 60s",
    ),
    "vectors": Command(
        "tcpcrypt.cli.vectors",
        "check or make test vectors",
        "tcpcrypt vectors verify vectors/*.json vectors/peers/*.json",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), "")
    arguments = _parser(name).parse_args(_with_action(words, name))
    if arguments.command is None:
        _parser(name).print_help(sys.stderr)
        return EXIT_USAGE
    try:
        status: int = import_module(COMMANDS[arguments.command].module).run(arguments)
    except TcpcryptError as error:
        print(f"tcpcrypt: {error}", file=sys.stderr)
        return EXIT_FAILED
    return status


def _with_action(words: list[str], name: str) -> list[str]:
    """`words` with the action that is meant where the command's name has none behind it."""
    if name not in COMMANDS or not COMMANDS[name].default:
        return words
    at = words.index(name) + 1
    rest = words[at:]
    if rest and (not rest[0].startswith("-") or rest[0] in ("-h", "--help")):
        return words
    return [*words[:at], COMMANDS[name].default, *rest]


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of the chosen command alone."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser = argparse.ArgumentParser(
        prog="tcpcrypt",
        description="TCP-ENO (RFC 8547) and tcpcrypt (RFC 8548).",
        epilog=f"example: {COMMANDS['vectors'].example}",
    )
    parser.add_argument("--version", action="version", version=f"tcpcrypt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary.capitalize() + ".",
            epilog=f"example: {command.example}",
        )
        if name == chosen:
            import_module(command.module).configure(subparser, common)
    return parser


if __name__ == "__main__":
    sys.exit(main())
