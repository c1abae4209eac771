"""`tcpcrypt policy`: a configuration file to start from, what a file means, what is in force."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tcpcrypt.cli import query
from tcpcrypt.daemon.configuration import (
    DEFAULT_PATH,
    ConfigurationError,
    Document,
    read_document,
    read_file,
)
from tcpcrypt.daemon.review import Meaning, Warn, file_warnings, meanings, sentence, warnings
from tcpcrypt.daemon.starter import starter_file
from tcpcrypt.daemon.toml_text import SIZE_MAX

__all__ = ["configure", "run"]

_OK: Final = 0
_FAILED: Final = 1
_UNREADABLE: Final = 2
_KEY_COLUMNS: Final = 12
_LINE_COLUMNS: Final = 6
_WIDTH_MAX: Final = 100


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        parents=[common],
        help="explain a configuration file line by line, with its faults",
        description="Say in plain words what each line of a configuration file means and what"
        " each of its policies will do, and name what is wrong with it or perhaps not meant."
        "  Exit status 1 if it has a fault, 2 if it cannot be read.",
        epilog=f"example: tcpcrypt policy check {DEFAULT_PATH}",
    )
    check.add_argument(
        "file",
        nargs="?",
        default=str(DEFAULT_PATH),
        metavar="FILE",
        help="the file, or - for standard input (default: %(default)s)",
    )
    init = actions.add_parser(
        "init",
        parents=[common],
        help="write a configuration file to start from",
        description="Write a configuration file with every key explained in its place and a few"
        " careful policies.  Goes to standard output, or to a file that does not exist yet.",
        epilog=f"example: tcpcrypt policy init {DEFAULT_PATH}",
    )
    init.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where it goes")
    show = actions.add_parser(
        "show",
        help="show the policies that the running daemon goes by",
        description="Show the policies that the running daemon goes by, in their order.",
        epilog="example: tcpcrypt policy show --json",
    )
    query.add_arguments(show)


def run(arguments: argparse.Namespace) -> int:
    """Run `check`, `init` or `show`; returns the exit status."""
    return {"check": _check, "init": _init, "show": _show}[arguments.action](arguments)


def _show(arguments: argparse.Namespace) -> int:
    with query.client(arguments) as daemon:
        policies = daemon.policy()
    if arguments.json:
        query.print_json({"policies": policies})
    else:
        _print_policies([policy["meaning"] for policy in policies])
    return _OK


def _init(arguments: argparse.Namespace) -> int:
    text, path = starter_file(), arguments.file
    if path is not None:
        try:
            # "x": what an administrator wrote is never overwritten.
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o644)
        except OSError as error:
            print(f"tcpcrypt: {path}: {error.strerror}", file=sys.stderr)
            return _FAILED
    if arguments.json:
        print(json.dumps({"file": None if path is None else str(path), "text": text}, indent=2))
    elif path is None:
        print(text, end="")
    else:
        print(f"{path}: written; explained by `tcpcrypt policy check {path}`")
    return _OK


def _check(arguments: argparse.Namespace) -> int:
    name = "standard input" if arguments.file == "-" else arguments.file
    try:
        data = sys.stdin.buffer.read(SIZE_MAX + 1) if name != arguments.file else read_file(name)
    except (ConfigurationError, OSError) as error:
        if arguments.json:
            unread = {"line": 0, "key": "", "message": str(error)}
            print(json.dumps({"file": name, "ok": False, "errors": [unread]}, indent=2))
        print(f"tcpcrypt: {error}", file=sys.stderr)
        return _UNREADABLE
    document = read_document(data, name)
    warned = warnings(document)
    if name == arguments.file:
        warned = file_warnings(Path(name)) + warned
    if arguments.json:
        print(json.dumps(_answer(document, warned), indent=2))
    else:
        _print_answer(document, warned)
    return _FAILED if document.problems else _OK


def _answer(document: Document, warned: list[Warn]) -> dict[str, Any]:
    return {
        "file": document.source,
        "ok": not document.problems,
        "errors": [asdict(problem) for problem in document.problems],
        "warnings": [asdict(warn) for warn in warned],
        "lines": [asdict(meaning) for meaning in meanings(document)],
        "policies": [
            {
                "policy": index + 1,
                "line": document.policy_line(index),
                "mode": policy.mode.value,
                "meaning": sentence(policy),
            }
            for index, policy in enumerate(document.policies)
        ],
    }


def _print_answer(document: Document, warned: list[Warn]) -> None:
    _print_lines(meanings(document))
    if not document.problems:
        print()
        _print_policies([sentence(policy) for policy in document.policies])
    if warned or document.problems:
        print()
    for warn in warned:
        policy_ = f"policy {warn.policy} " if warn.policy else ""
        _print_row(f"{_place(warn.line)}warning: ", policy_ + warn.message)
    for problem in document.problems:
        _print_row(f"{_place(problem.line)}error: ", str(problem))
    counts = [(len(warned), "warning"), (len(document.problems), "error")]
    words = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts if n]
    print(f"{document.source}: {', '.join(words) or 'ok'}")


def _print_policies(sentences: Sequence[str]) -> None:
    for number, text in enumerate(sentences, 1):
        _print_row(f"policy {number}: ", text)
    print(f"Every {'other ' if sentences else ''}connection is left alone.")


def _print_lines(found: list[Meaning]) -> None:
    last = 0
    for meaning in found:
        # Several keys on one line: the number stands at the first of them.
        number = str(meaning.line) if meaning.line and meaning.line != last else ""
        last = meaning.line
        if meaning.key:
            label = f"  {meaning.key}"
        else:
            label = {"policy": "[[policy]]", "policy.match": "  match"}.get(
                meaning.section, f"[{meaning.section}]"
            )
        _print_row(f"{number:>{_LINE_COLUMNS}}  {label:<{_KEY_COLUMNS + 2}} ", meaning.meaning)


def _print_row(head: str, text: str) -> None:
    width = max(40, min(_WIDTH_MAX, shutil.get_terminal_size((_WIDTH_MAX, 24)).columns))
    print(
        textwrap.fill(
            text,
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def _place(line: int) -> str:
    return f"line {line}: " if line else ""
