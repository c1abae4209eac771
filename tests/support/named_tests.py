"""Documents that name a test for each of their claims, held to it.

A name in backquotes that begins with `test_` is that of a test function, a path in backquotes
that begins with `tests/` and ends with `.py` is that of a file, and `FILE::test_x` says that the
test stands in that file.
"""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

_NAMED = re.compile(r"`(?:(tests/[\w/-]+\.py)(?:::(test_\w+))?|(test_\w+))(?:\[[^`\]]*\])?`")


@cache
def written() -> dict[str, frozenset[str]]:
    """The test functions of each file below tests/, by its path from the root."""
    return {
        str(path.relative_to(ROOT)): frozenset(
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
        )
        for path in (ROOT / "tests").rglob("*.py")
    }


def named(text: str) -> list[str]:
    """What `text` names, as it stands there without its backquotes."""
    return [
        f"{file}::{inside}" if inside else file or name
        for file, inside, name in _NAMED.findall(text)
    ]


def missing(text: str) -> list[str]:
    """What `text` names and nobody has written, each once, sorted."""
    tests = written()
    everywhere = frozenset[str]().union(*tests.values())

    def there(name: str) -> bool:
        file, _, inside = name.partition("::")
        if inside:
            return inside in tests.get(file, ())
        return file in tests or file in everywhere

    return sorted({name for name in named(text) if not there(name)})
