"""Completion of the command lines in bash, zsh and fish, from the argument parsers.

The scripts in contrib/completion/ know how one completes; what there is to complete
is a table that is put in where they say `# TABLE`.  Each row is a level of a command
line ("tcpcrypt", "tcpcrypt policy check"): its subcommands, its options, what an
option takes, and what its arguments are.  What is taken is one of

    file  directory  host      found by the shell
    a|b|c                      these words
    -                          nothing that could be known
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import tcpcrypt
from tcpcrypt.tools import parsers

__all__ = ["SHELLS", "Level", "levels", "script"]

SHELLS: Final = ("bash", "fish", "zsh")
_OTHERS: Final = ("tcpcryptd", "stx-send", "stx-recv", "stx-keygen")
_SCRIPTS: Final = Path(tcpcrypt.__file__).parent / "contrib/completion"
_TABLE: Final = "# TABLE\n"
_UNKNOWN: Final = "-"


@dataclass(frozen=True, slots=True)
class Level:
    """What can stand behind a command."""

    commands: dict[str, str] = field(default_factory=dict)
    """Each with its summary."""
    options: dict[str, str] = field(default_factory=dict)
    """Each with its help, in one line."""
    values: dict[str, str] = field(default_factory=dict)
    """What an option takes, of those that take anything."""
    arguments: tuple[str, ...] = ()
    """What the arguments are, in order; the last one ends with `+` if it may be repeated."""


def script(shell: str) -> str:
    """The completion script for one of SHELLS, for all programs."""
    write = {"bash": _bash, "fish": _fish, "zsh": _zsh}[shell]
    template = (_SCRIPTS / f"complete.{shell}").read_text(encoding="utf-8")
    head, mark, tail = template.partition(_TABLE)
    assert mark, shell
    return head + "".join(write(path, level) for path, level in levels().items()) + tail


def levels() -> dict[str, Level]:
    """Every level by its path, the words that lead to it."""
    program = import_module(parsers.PROGRAM)
    found = {"tcpcrypt": _level(parsers.parser_of(program)(""))}
    for name, command in parsers.program_commands().items():
        found.update(_below(f"tcpcrypt {name}", command, program.COMMANDS[name].default))
    for name in _OTHERS:
        module = import_module(f"tcpcrypt.cli.{name.replace('-', '_')}")
        found.update(_below(name, parsers.parser_of(module)()))
    return found


def _below(
    path: str, parser: argparse.ArgumentParser, default: str = ""
) -> Iterator[tuple[str, Level]]:
    """`default`: the subcommand that is meant where none is named."""
    level, children = _level(parser), parsers.commands(parser)
    if default:
        meant = _level(children[default])
        level.options.update(meant.options)
        level.values.update(meant.values)
    yield path, level
    for name, child in children.items():
        yield from _below(f"{path} {name}", child)


def _level(parser: argparse.ArgumentParser) -> Level:
    options, values = {"--help": "show the arguments"}, {}
    arguments: list[str] = []
    for action in parsers.shown(parser):
        repeated = "+" if action.nargs in ("+", "*") else ""
        if not action.option_strings:
            arguments.append(_kind(action) + repeated)
        for name in action.option_strings:
            options[name] = _one_line(parser, action)
            if action.nargs != 0:
                values[name] = _kind(action)
    return Level(_summaries(parser), options, values, tuple(arguments))


def _summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {}


def _kind(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    name = action.metavar if isinstance(action.metavar, str) else ""
    if name in ("DIR", "DIRECTORY"):
        return "directory"
    if name.startswith("FILE") or action.type is Path:
        return "file"
    return "host" if name.startswith("HOST") else _UNKNOWN


def _one_line(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Its help up to the first sentence's end."""
    choices = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    values: dict[str, Any] = {**vars(action), "prog": parser.prog, "choices": choices}
    text = " ".join(((action.help or "") % values).split())
    return text.partition(";")[0].partition(": ")[0].partition(" (default")[0]


# --- the table, as each shell writes it -----------------------------------------------------


def _quoted(text: str) -> str:
    """For bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _bash(path: str, level: Level) -> str:
    values = " ".join(f"{name}={kind}" for name, kind in level.values.items())
    return (
        f"    {_quoted(path)})\n"
        f"        commands={_quoted(' '.join(level.commands))}\n"
        f"        options={_quoted(' '.join(level.options))}\n"
        f"        values={_quoted(values)}\n"
        f"        arguments={_quoted(' '.join(level.arguments))}\n"
        "        ;;\n"
    )


def _zsh(path: str, level: Level) -> str:
    def described(entries: dict[str, str]) -> str:
        return " ".join(
            _quoted(f"{name}:{text}" if text else name) for name, text in entries.items()
        )

    values = " ".join(f"{name} {_quoted(kind)}" for name, kind in level.values.items())
    return (
        f"    ({_quoted(path)})\n"
        f"        commands=({described(level.commands)})\n"
        f"        options=({described(level.options)})\n"
        f"        values=({values})\n"
        f"        arguments=({' '.join(map(_quoted, level.arguments))})\n"
        "        ;;\n"
    )


def _fish(path: str, level: Level) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def described(entries: dict[str, str]) -> str:
        return " ".join(quoted(f"{name}\t{text}") for name, text in entries.items())

    values = " ".join(quoted(f"{name}={kind}") for name, kind in level.values.items())
    return (
        f"        case {quoted(path)}\n"
        f"            set commands {described(level.commands)}\n"
        f"            set options {described(level.options)}\n"
        f"            set values {values}\n"
        f"            set arguments {' '.join(map(quoted, level.arguments))}\n"
    )
