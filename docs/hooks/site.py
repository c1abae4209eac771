"""What mkdocs does not do by itself: diagrams, pages made from the code, files beside docs/."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from tcpcrypt.cli.tcpcrypt import COMMANDS, _parser
from tcpcrypt.cli.tcpcryptd import parser as daemon_parser
from tcpcrypt.daemon.configuration import DEFAULT_PATH
from tcpcrypt.daemon.keys import KEYS, MATCH, SECTIONS
from tcpcrypt.tools.ladder import drawing

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r"\]\(\.\./((?!\.\.)[\w./-]+)\)")
INTO_DOCS = re.compile(r"\]\(docs/([\w./-]+)\)")
ROOT_PAGES = ("SECURITY.md", "THREAT_MODEL.md")
MANUAL = re.compile(r"\]\((?:docs/)?man/[\w.-]+\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here, and what pages point to outside of docs/."""
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    files.append(File.generated(config, "reference/configuration.md", content=configuration()))
    wanted = {
        path
        for page in (ROOT / "docs").glob("*.md")
        for path in OUTSIDE.findall(page.read_text())
        if (ROOT / path).is_file()
    }
    for path in sorted(wanted | set(ROOT_PAGES)):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_more: Any) -> str:
    """Draw the diagrams; point to files outside of docs/ where they are on the site."""
    text = INTO_DOCS.sub(r"](\1)", OUTSIDE.sub(r"](\1)", drawing(markdown)))
    return MANUAL.sub("](reference/commands.md)", text)


def commands() -> str:
    """What each command says with --help."""
    parts = ["# Commands", "What each says with `--help`.  The manual pages have the same.\n"]
    for name in COMMANDS:
        parser = _parser(name)
        (choices,) = (
            action.choices
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        parts += [f"## tcpcrypt {name}", f"```text\n{choices[name].format_help()}```\n"]
    parts += ["## tcpcryptd", f"```text\n{daemon_parser().format_help()}```\n"]
    return "\n\n".join(parts)


def configuration() -> str:
    """The table of keys."""
    parts = [
        "# Configuration",
        f"One TOML file, `{DEFAULT_PATH}`; what it does not say is as by default, and a key that"
        " is not here is an error that names it.  `tcpcrypt policy check FILE` explains each line.",
    ]
    for section, says in SECTIONS.items():
        title = {"policy": "[[policy]]", MATCH: "match of a [[policy]]"}.get(section)
        parts += [f"## {title or f'[{section}]'}", says]
        for key in KEYS:
            if key.section == section:
                parts.append(f"### {key.name}")
                parts.append(f"{key.text}")
                parts.append(f"Value: {key.kind.phrase}.")
                parts += [f"* `{word}`: {meaning}" for word, meaning in key.meanings]
                default = "none" if key.default is None else f"`{key.default}`"
                parts.append(f"Default: {default}.  Example: `{key.name} = {key.example}`")
    return "\n\n".join(parts) + "\n"
