"""`tcpcrypt demo`: two hosts, unmodified programs, encryption in between."""

from __future__ import annotations

import argparse

from tcpcrypt.tools import demo

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    demo.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    return demo.run(arguments.size, as_json=arguments.json, keep=arguments.keep)
