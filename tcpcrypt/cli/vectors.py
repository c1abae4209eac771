"""`tcpcrypt vectors`: check test vectors, or make the published ones again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tcpcrypt.tools.vector_generator import SEED, TEPS, generate
from tcpcrypt.tools.vectors import Report, VectorFileError, verify_file

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    verify = actions.add_parser(
        "verify",
        parents=[common],
        help="recompute every value of vector files",
        description="Recompute every value of vector files and compare.  Exit status 1 if one"
        " differs, 2 if a file cannot be read.",
        epilog="example: tcpcrypt vectors verify vectors/*.json",
    )
    verify.add_argument("files", nargs="+", type=Path, metavar="FILE")
    make = actions.add_parser(
        "generate",
        parents=[common],
        help="write vector files for every TEP and AEAD",
        description="Write one vector file for each TEP of RFC 8548, the same for the same seed.",
        epilog="example: tcpcrypt vectors generate vectors",
    )
    make.add_argument("directory", type=Path, metavar="DIRECTORY", help="where the files go")
    make.add_argument("--seed", default=SEED, help="default: that of the published files")


def run(arguments: argparse.Namespace) -> int:
    """Run `verify` or `generate`; returns the exit status."""
    return _verify(arguments) if arguments.action == "verify" else _generate(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    reports: dict[Path, Report] = {}
    errors: dict[Path, str] = {}
    for path in arguments.files:
        try:
            reports[path] = verify_file(path)
        except VectorFileError as error:
            errors[path] = str(error)
    vectors = sum(report.vectors for report in reports.values())
    values = sum(report.values for report in reports.values())
    wrong = [(path, m) for path, report in reports.items() for m in report.mismatches]
    if arguments.json:
        _print_json(
            {
                "vectors": vectors,
                "values": values,
                "ok": not wrong and not errors,
                "mismatches": [
                    {
                        "file": str(path),
                        "vector": m.vector,
                        "field": m.field,
                        "stated": m.stated,
                        "computed": m.computed,
                    }
                    for path, m in wrong
                ],
                "errors": [{"file": str(path), "error": why} for path, why in errors.items()],
            }
        )
    else:
        for path, mismatch in wrong:
            print(f"{path}: {mismatch}")
        outcome = f"{len(wrong)} do not match" if wrong else "all match"
        if reports:
            print(f"{vectors} vectors, {values} values checked, {outcome}")
    for path, why in errors.items():
        print(f"tcpcrypt: {path}: {why}", file=sys.stderr)
    if errors:
        return 2
    return 1 if wrong else 0


def _generate(arguments: argparse.Namespace) -> int:
    written = []
    for name, tep in TEPS.items():
        path = arguments.directory / f"rfc8548-{name}.json"
        document = generate(tep, arguments.seed)
        try:
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="ascii")
        except OSError as error:
            print(f"tcpcrypt: {path}: {error.strerror}", file=sys.stderr)
            return 2
        written.append({"file": str(path), "vectors": len(document["vectors"])})
    if arguments.json:
        _print_json({"files": written})
    else:
        for entry in written:
            print(f"{entry['file']}: {entry['vectors']} vectors")
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
