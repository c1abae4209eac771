"""The manual pages, from what the programs themselves run on.

tcpcryptd(8), tcpcrypt(1), stx-send(1), stx-recv(1) and stx-keygen(1) come from
their argument parsers, tcpcrypt.toml(5) from the table of keys.  `python -m
tcpcrypt.tools.manpages docs/man` writes them all; a test compares the files
there with what would be written.

A program's module may have `MANUAL`, a mapping from the heading of a section to
its text, for what no option says; it stands before EXIT STATUS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from tcpcrypt import __version__
from tcpcrypt.daemon.configuration import DEFAULT_PATH, DaemonSettings
from tcpcrypt.daemon.keys import COMBINATIONS_MAX, KEYS, MATCH, POLICIES_MAX, SECTIONS, Key
from tcpcrypt.daemon.toml_text import SIZE_MAX
from tcpcrypt.daemon.values import NETWORKS_MAX
from tcpcrypt.tools import roff
from tcpcrypt.tools.parsers import PROGRAM, commands, parser_of, program_commands, shown

__all__ = ["EXAMPLE", "RELOADED", "main", "pages"]

_DAEMON: Final = "tcpcrypt.cli.tcpcryptd"
"""By name, because this is text about the programs and not a part of them."""
_TRANSFER: Final = {
    "stx-send": "send files that arrive whole, encrypted and verified",
    "stx-recv": "take files from clients that have a key",
    "stx-keygen": "make keys for clients of stx-recv",
}
_SOURCE: Final = f"tcpcrypt {__version__}"
_MANUAL: Final = "tcpcrypt manual"

RELOADED: Final = ("path_memory", "guard", "drain", "tofu_enforce")
"""Keys of [daemon] that a reload reads again; the daemon has the others in a list."""

EXAMPLE: Final = """\
# ssh protects itself.
[[policy]]
match = { ports = 22 }
mode = "never"

# The database of this host: nobody in the clear.
[[policy]]
match = { direction = "incoming", ports = 5432 }
mode = "require"

# Whatever else goes between the hosts of the private network.
[[policy]]
match = { remote = ["10.0.0.0/8", "fd00::/8"] }
mode = "opportunistic"
"""

_FILE_TEXT: Final = f"""\
{DEFAULT_PATH} tells tcpcryptd(8) which TCP connections of this host it is to encrypt.
It is a TOML file in UTF-8.  Nothing is touched that no policy names: without the file's
policies, the daemon leaves every connection alone.

Every key but `mode` may be left out.  A key that this page does not list is an error, and so
is a value that this page does not allow; the message names line and key.
`tcpcrypt policy check` explains a file line by line and warns of what may not be meant,
`tcpcrypt policy init` writes one to start from.

Where a list is allowed, a single value may stand for a list of one.

The daemon reads the file when it starts and on SIGHUP (`systemctl reload tcpcryptd`); a file
with a fault changes nothing then.  Of [daemon], only {", ".join(f"`{key}`" for key in RELOADED)}
follow a reload; the rest takes a restart, and the log says so.
"""
_LIMITS: Final = (
    f"A file has at most {SIZE_MAX} bytes and {POLICIES_MAX} policies;"
    f" a policy names at most {NETWORKS_MAX} networks.  Combinations of addresses, users"
    f" and control groups (and of every seven ports), each a rule of the firewall,"
    f" are at most {COMBINATIONS_MAX} in all."
)
_EXIT_PROGRAM: Final = {
    0: "Done, or the answer is yes.",
    1: "What was asked about is false, or what was asked for failed.",
    2: "The command line is wrong.",
}
_EXIT_DAEMON: Final = {
    0: "The daemon ended because it was told to.",
    1: "It could not start, or it failed.",
    2: "The command line is wrong.",
}
_FILES: Final = {
    str(DEFAULT_PATH): "The configuration; see tcpcrypt.toml(5).",
    str(DaemonSettings().control): "The socket on which the daemon answers, unless the"
    " configuration names another.",
}
_SEE_ALSO: Final = ("tcpcrypt(1)", "tcpcrypt.toml(5)", "tcpcryptd(8)")
_STANDARDS: Final = "RFC 8547 (TCP-ENO), RFC 8548 (tcpcrypt)"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "tcpcryptd.8": _daemon_page(),
        "tcpcrypt.1": _program_page(),
        "tcpcrypt.toml.5": _file_page(),
        **{f"{name}.1": _transfer_page(name, text) for name, text in _TRANSFER.items()},
    }


def main(argv: list[str]) -> int:
    """Write all pages into a directory; returns the exit status."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m tcpcrypt.tools.manpages DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(argv[0])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (directory / name).write_text(text, encoding="ascii")
            print(directory / name)
    except OSError as error:
        print(f"manpages: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


# --- the three pages -------------------------------------------------------------


def _daemon_page() -> str:
    module = import_module(_DAEMON)
    parser = parser_of(module)()
    lines = _head("tcpcryptd", 8, "encrypt the TCP connections of this host")
    lines += [roff.section("SYNOPSIS"), _usage(parser)]
    lines += [roff.section("DESCRIPTION"), *roff.prose(parser.description or "")]
    lines += [roff.section("OPTIONS"), *_options(parser, with_help=True)]
    lines += _example(parser, roff.section("EXAMPLES"))
    lines += _own_sections(module)
    return _page(lines + _tail("tcpcryptd(8)", _EXIT_DAEMON, _FILES))


def _program_page() -> str:
    module = import_module(PROGRAM)
    own = program_commands()
    parser = parser_of(module)("")
    lines = _head("tcpcrypt", 1, "watch and control the encryption of TCP connections")
    lines.append(roff.section("SYNOPSIS"))
    for number, command in enumerate(own.values()):
        for leaf in _leaves(command):
            lines += [*([".br"] if number or leaf is not command else []), _usage(leaf)]
    lines += [roff.section("DESCRIPTION"), *roff.prose(parser.description or "")]
    lines += [roff.section("OPTIONS"), *_options(parser, with_help=True)]
    lines.append(roff.section("COMMANDS"))
    for command in own.values():
        for leaf in _leaves(command):
            lines += [
                roff.subsection(leaf.prog),
                *roff.prose(leaf.description or ""),
                *_options(leaf),
                *_example(leaf),
            ]
    lines += _own_sections(module)
    return _page(lines + _tail("tcpcrypt(1)", _EXIT_PROGRAM, _FILES))


def _transfer_page(name: str, summary: str) -> str:
    module = import_module(f"tcpcrypt.cli.{name.replace('-', '_')}")
    parser = parser_of(module)()
    lines = _head(name, 1, summary)
    lines += [roff.section("SYNOPSIS"), _usage(parser)]
    lines += [roff.section("DESCRIPTION"), *roff.prose(parser.description or "")]
    lines += [roff.section("OPTIONS"), *_options(parser, with_help=True)]
    lines += _example(parser, roff.section("EXAMPLES"))
    lines += _own_sections(module)
    others = [f"{other}(1)" for other in _TRANSFER if other != name]
    return _page(lines + _tail(f"{name}(1)", module.EXIT_STATUSES, {}, [*others, "tcpcrypt(1)"]))


def _file_page() -> str:
    lines = _head("tcpcrypt.toml", 5, "which TCP connections are encrypted, and how")
    lines += [roff.section("DESCRIPTION"), *roff.prose(_FILE_TEXT)]
    for section, text in SECTIONS.items():
        head = {"policy": "[[policy]]", MATCH: "match of a [[policy]]"}.get(section, f"[{section}]")
        lines += [roff.section(head), *roff.prose(text)]
        for key in KEYS:
            if key.section == section:
                lines += _key(key)
    lines += [roff.section("LIMITS"), *roff.prose(_LIMITS)]
    lines += [roff.section("EXAMPLE"), *roff.code(EXAMPLE.splitlines())]
    return _page(lines + _tail("tcpcrypt.toml(5)", {}, {str(DEFAULT_PATH): "This file."}))


def _key(key: Key) -> list[str]:
    default = "must be given"
    if not key.required:
        default = "default: " + (key.default or ("any" if key.section == MATCH else "see below"))
    label = f"{roff.bold(key.name)} ({roff.escape(default)})"
    lines = roff.item(label, roff.prose(key.text)[1:])
    if len(key.meanings) > 1:
        lines.append(".RS")
        for word, meaning in key.meanings:
            text = meaning[:1].upper() + meaning[1:] + "."
            lines += roff.item(roff.bold(f'"{word}"'), roff.prose(text)[1:])
        lines.append(".RE")
    else:
        lines += [".IP", f"Value: {roff.escape(key.kind.phrase)}."]
        if key.example != key.default:
            lines += [".IP", f"Example: {roff.bold(f'{key.name} = {key.example}')}"]
    return lines


# --- what pages have in common ---------------------------------------------------


def _head(name: str, number: int, summary: str) -> list[str]:
    return [
        '.\\" Generated by `python -m tcpcrypt.tools.manpages`; changes here are lost.',
        roff.title(name, number, _SOURCE, _MANUAL),
        # Neither hyphens at the end of lines nor stretched spaces in what people copy.
        ".nr HY 0",
        ".ad l",
        roff.section("NAME"),
        f"{roff.escape(name)} \\- {roff.escape(summary)}",
    ]


def _tail(
    own: str,
    statuses: Mapping[int, str],
    files: Mapping[str, str],
    others: Sequence[str] = _SEE_ALSO,
) -> list[str]:
    lines: list[str] = []
    if statuses:
        lines.append(roff.section("EXIT STATUS"))
        for status, text in statuses.items():
            lines += roff.item(roff.bold(str(status)), roff.prose(text)[1:])
    if files:
        lines.append(roff.section("FILES"))
    for path, text in files.items():
        lines += roff.item(f"\\fI{roff.escape(path)}\\fR", roff.prose(text)[1:])
    seen = [name for name in others if name != own]
    lines += [roff.section("SEE ALSO"), *roff.prose(", ".join([*seen, _STANDARDS]))]
    return lines


def _page(lines: list[str]) -> str:
    """`.PP` right after a heading says nothing that the heading has not said."""
    kept = [
        line
        for at, line in enumerate(lines)
        if line != ".PP" or not lines[at - 1].startswith((".SH", ".SS"))
    ]
    return "\n".join(kept) + "\n"


def _own_sections(module: object) -> list[str]:
    lines: list[str] = []
    for heading, text in cast("Mapping[str, str]", getattr(module, "MANUAL", {})).items():
        lines += [roff.section(heading.upper()), *roff.prose(text)]
    return lines


# --- argument parsers ------------------------------------------------------------
# `_mutually_exclusive_groups` is argparse's own, as what tools/parsers.py reads is.


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser itself, or its subcommands if it has any."""
    below = commands(parser)
    if not below:
        yield parser
    for command in below.values():
        yield from _leaves(command)


def _usage(parser: argparse.ArgumentParser) -> str:
    """One line of the synopsis."""
    words, grouped = [roff.bold(parser.prog)], set()
    actions = shown(parser)
    # Options first, as everybody writes them.
    for action in sorted(actions, key=lambda action: not action.option_strings):
        if action in grouped:
            continue
        group = next(
            (g for g in parser._mutually_exclusive_groups if action in g._group_actions), None
        )
        if group is None:
            word = _written(action)
            words.append(word if _needed(action) else f"[{word}]")
        else:
            members = [member for member in group._group_actions if member in actions]
            grouped.update(members)
            joined = " | ".join(map(_written, members))
            words.append(f"{{{joined}}}" if group.required else f"[{joined}]")
    return " ".join(words)


def _needed(action: argparse.Action) -> bool:
    if action.option_strings:
        return action.required
    return action.nargs not in ("?", "*")


def _written(action: argparse.Action) -> str:
    if action.option_strings:
        option = roff.bold(action.option_strings[-1])
        if action.nargs == "?":
            return f"{option} [{_argument(action)}]"
        return f"{option} {_argument(action)}" if action.nargs != 0 else option
    return _argument(action)


def _argument(action: argparse.Action) -> str:
    """What stands for the value of an argument."""
    if isinstance(action.metavar, tuple):
        return " ".join(f"\\fI{roff.escape(word)}\\fR" for word in action.metavar)
    if action.metavar is None and action.choices is not None:
        return "{" + "|".join(roff.bold(str(choice)) for choice in action.choices) + "}"
    upper = action.dest.upper() if action.option_strings else action.dest
    name = f"\\fI{roff.escape(action.metavar or upper)}\\fR"
    if action.nargs in ("+", "*"):
        return f"{name}..."
    return " ".join([name] * action.nargs) if isinstance(action.nargs, int) else name


def _options(parser: argparse.ArgumentParser, *, with_help: bool = False) -> list[str]:
    """Every argument with its help."""
    lines: list[str] = []
    for action in shown(parser):
        if not action.help:  # the synopsis has told what there is to tell
            continue
        names = [roff.bold(name) for name in action.option_strings]
        label = ", ".join(names)
        if action.nargs != 0:
            value = _argument(action)
            if names and action.nargs == "?":
                value = f"[{value}]"
            label = f"{label} {value}".strip()
        lines += roff.item(label, _help(parser, action))
    if with_help:
        text = "Show the arguments of the program or, after a command's name, of the command."
        if not commands(parser):
            text = "Show the arguments."
        lines += roff.item(f"{roff.bold('-h')}, {roff.bold('--help')}", [roff.escape(text)])
    return lines


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    choices = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    values = {**vars(action), "prog": parser.prog, "choices": choices}
    text = (action.help or "") % values
    if text and not text.endswith((".", ")")):
        text += "."
    return roff.prose(text[:1].upper() + text[1:])[1:]


def _example(parser: argparse.ArgumentParser, heading: str = "") -> list[str]:
    """The epilog, which is `example:` and one or more lines."""
    text = parser.epilog or ""
    label, colon, rest = text.partition(":")
    if not colon or label not in ("example", "examples"):
        return ([heading] if heading else []) + roff.prose(text) if text else []
    lines = [heading] if heading else [".PP", f"{label.capitalize()}:"]
    if "\n" in rest.strip():
        return lines + roff.prose(rest.lstrip("\n"))
    return lines + roff.code([rest.strip()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
