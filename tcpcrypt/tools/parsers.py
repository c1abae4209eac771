"""The programs' argument parsers, for what is made of them: manual pages and completions.

The programs are known here by name only, because this is about them and no part of
them.  argparse has no public way to ask a parser for its arguments; `_actions` has
been there since its first version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Final

__all__ = ["PROGRAM", "commands", "parser_of", "program_commands", "shown"]

PROGRAM: Final = "tcpcrypt.cli.tcpcrypt"
"""The one with commands, each a module that is imported when it is asked for."""


def parser_of(module: ModuleType | Any) -> Callable[..., argparse.ArgumentParser]:
    """What makes the parser of a program's module."""
    made: Callable[..., argparse.ArgumentParser] = getattr(module, "parser", None) or module._parser
    return made


def program_commands() -> dict[str, argparse.ArgumentParser]:
    """Every command of tcpcrypt(1), with all of its arguments."""
    module = import_module(PROGRAM)
    make = parser_of(module)
    return {name: commands(make(name))[name] for name in module.COMMANDS}


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a parser; empty if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments, but for --help, subcommands and what is hidden."""
    return [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]
