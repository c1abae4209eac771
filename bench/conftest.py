"""Tables of what the benchmarks found, after pytest-benchmark's own.

A test files a row with `report(table, row, column=text, ...)`.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.backends.openssl import backend

from tcpcrypt._fast import _c, _py

Tables = dict[str, dict[str, dict[str, str]]]
TABLES = pytest.StashKey[Tables]()
TWINS = {"c": _c, "py": _py}
Report = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLES] = {}


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    def file(table: str, row: str, **columns: str) -> None:
        request.config.stash[TABLES].setdefault(table, {}).setdefault(row, {}).update(columns)

    return file


@pytest.fixture(params=TWINS)
def fast(request: pytest.FixtureRequest) -> object:
    """Each twin of `tcpcrypt._fast`."""
    return TWINS[request.param]


@pytest.fixture(scope="session")
def evp(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """bench/evp_loop.c as a library."""
    source = Path(__file__).with_name("evp_loop.c")
    library = tmp_path_factory.mktemp("evp") / "evp_loop.so"
    compiler = shutil.which("cc") or pytest.fail("a C compiler is needed to measure libcrypto")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, source, "-lcrypto"], check=True)
    loop = ctypes.CDLL(str(library))
    loop.loop_new.restype = ctypes.c_void_p
    loop.loop_free.argtypes = [ctypes.c_void_p]
    loop.loop_free.restype = None
    for function in (loop.loop_seal, loop.loop_open):
        pointers = [ctypes.c_void_p] * 3
        function.argtypes = [*pointers, ctypes.c_int, ctypes.c_int]
    loop.OpenSSL_version.restype = ctypes.c_char_p
    return loop


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, Python {platform.python_version()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tables = terminalreporter.config.stash[TABLES]
    if not tables:
        return
    libcrypto = ctypes.CDLL(_c_library())
    libcrypto.OpenSSL_version.restype = ctypes.c_char_p
    terminalreporter.section("rates")
    terminalreporter.write_line(machine())
    terminalreporter.write_line(f"c:  {libcrypto.OpenSSL_version(0).decode()}")
    terminalreporter.write_line(f"py: cryptography on {backend.openssl_version_text()}")
    for title, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        first = max(len(row) for row in rows)
        widths = [max(len(n), *(len(r.get(n, "")) for r in rows.values())) for n in names]
        terminalreporter.write_line("")
        terminalreporter.write_line(title, bold=True)
        for key, cells in [("", {name: name for name in names}), *rows.items()]:
            line = "  ".join(
                cells.get(name, "").rjust(width) for name, width in zip(names, widths, strict=True)
            )
            terminalreporter.write_line(f"{key:{first}}  {line}".rstrip())


def _c_library() -> str:
    """The libcrypto that the extension is linked with, as it is mapped here."""
    mapped = Path("/proc/self/maps").read_text().split()
    system = [path for path in mapped if "/libcrypto.so" in path]
    return system[0]
