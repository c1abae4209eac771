"""The import contract: imports point down, and leaves import nothing above them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tcpcrypt

ROOT = Path(tcpcrypt.__file__).parent

LAYERS = ["wire", "crypto", "core", "auth", "segment", "runtime", "daemon", "cli"]
"""From the bottom up; a package may import itself and what stands before it.

`segment` is pure protocol, which the runtime carries.  `auth` stands above `core`,
which knows authentication by its seam alone (`tcpcrypt.core.tep`)."""

BESIDE = {
    # Beside the daemon: each may use core and what is below it, and nothing else.
    # A connection that the daemon encrypts is asked about at its control socket.
    "sockets": {"wire", "crypto", "core", "auth", "daemon"},
    "aio": {"wire", "crypto", "core", "auth", "sockets", "daemon"},
    "transfer": {"wire", "crypto", "core", "auth", "sockets"},
    # Pure protocol, without the core's: the runtime carries it, the decoder reads it.
    "tcps": {"wire", "crypto"},
    # Of `sockets` the tables, which docs/states.md shows.
    "tools": {"wire", "crypto", "core", "auth", "runtime", "daemon", "sockets", "tcps"},
    "contrib": {"wire", "crypto"},
}
LEAVES = {"errors", "registry", "_fast"}
TOP_ONLY_FOR_CLI = {"sockets", "aio", "transfer", "tcps", "tools", "contrib"}


def allowed(package: str) -> set[str]:
    if package in BESIDE:
        return BESIDE[package] | {package} | LEAVES
    if package == "errors":
        return set()
    if package == "registry":
        return set()
    if package == "_fast":
        return {"errors", "registry", "_fast"}
    below = set(LAYERS[: LAYERS.index(package) + 1]) | LEAVES
    if package in {"runtime", "daemon"}:
        below |= {"tcps"}
    return below | TOP_ONLY_FOR_CLI if package == "cli" else below


def imports(path: Path) -> set[str]:
    """Second components of all `tcpcrypt.X` imports, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("tcpcrypt.")}
    return found


MODULES = sorted(path for path in ROOT.rglob("*.py*") if path.suffix in {".py", ".pyi"})


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return  # the package itself re-exports the core's names
    # `tcpcrypt.__version__` and the like are names of the package, not modules.
    upward = {name for name in imports(path) if not name.startswith("__")} - allowed(parts[0])
    assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"


def test_every_package_has_its_place() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert packages <= set(LAYERS) | set(BESIDE) | LEAVES


def test_public_names_exist() -> None:
    for name in tcpcrypt.__all__:
        assert getattr(tcpcrypt, name) is not None


def test_the_core_needs_nothing_that_other_systems_lack() -> None:
    """The promise of `tcpcrypt/__init__.py`; Windows has neither these nor forks."""
    lacking = (
        "import os, sys\n"
        "del os.fork, os.register_at_fork\n"
        "for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'): sys.modules[name] = None\n"
        "import tcpcrypt\n"
        "print(tcpcrypt.Session.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", lacking],
        env=os.environ | {"TCPCRYPT_PUREPYTHON": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("Session\n", "")
