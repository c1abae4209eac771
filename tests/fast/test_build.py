"""The build: whatever is missing, an installation comes out, and one line says what.

The whole of setup.py runs in a copy of the sources, with what it needs taken
away by the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Build = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "ext"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "tcpcrypt", tmp_path / "tcpcrypt", ignore=ignore)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TCPCRYPT_")}
        return subprocess.run(
            [sys.executable, "setup.py", "build"],
            cwd=tmp_path,
            env=inherited | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def built(where: Path) -> list[Path]:
    return list(where.glob("build/lib*/**/_c_*.so"))


@pytest.fixture
def no_cython(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH in which Cython cannot be imported."""
    folder = tmp_path_factory.mktemp("no-cython")
    (folder / "Cython.py").write_text("raise ImportError('not here')\n")
    return str(folder)


def complaints(ran: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ran.stderr.splitlines() if line.startswith("tcpcrypt: ")]


def test_pure_python_on_demand(build: Build, tmp_path: Path) -> None:
    ran = build(TCPCRYPT_PUREPYTHON="1")
    assert ran.returncode == 0, ran.stderr
    assert complaints(ran) == []
    assert built(tmp_path) == []
    assert list(tmp_path.glob("build/lib*/tcpcrypt/_fast/_py_frames.py"))


def programs(where: Path) -> list[Path]:
    return list(where.glob("build/lib*/tcpcrypt/runtime/eno_sockops.bpf.o"))


@pytest.fixture
def no_program(tmp_path: Path, build: Build) -> Path:
    """Where none was built before; returns where it would be."""
    program = tmp_path / "tcpcrypt/runtime/eno_sockops.bpf.o"
    program.unlink(missing_ok=True)
    return program


def test_the_bpf_program_is_built_and_names_no_folder_of_this_machine(
    build: Build, tmp_path: Path, no_program: Path
) -> None:
    ran = build(TCPCRYPT_PUREPYTHON="1")
    assert (ran.returncode, complaints(ran)) == (0, [])
    (program,) = programs(tmp_path)
    assert program.read_bytes().startswith(b"\x7fELF")
    assert str(tmp_path).encode() not in program.read_bytes()


def test_no_clang(build: Build, tmp_path: Path, no_program: Path) -> None:
    ran = build(TCPCRYPT_PUREPYTHON="1", TCPCRYPT_CLANG="no-such-clang")
    assert ran.returncode == 0, ran.stderr
    (said,) = complaints(ran)
    assert said.startswith("tcpcrypt: built without the sockops backend, because no-such-clang")
    assert programs(tmp_path) == []
    ran = build(TCPCRYPT_CLANG="no-such-clang", TCPCRYPT_PUREPYTHON="1", TCPCRYPT_REQUIRE_EXT="1")
    assert ran.returncode != 0


def test_a_source_that_clang_rejects(build: Build, tmp_path: Path, no_program: Path) -> None:
    (tmp_path / "ext/eno_sockops.bpf.c").write_text("int x = y;\n")
    ran = build(TCPCRYPT_PUREPYTHON="1")
    assert ran.returncode == 0, ran.stderr
    assert "because clang failed: ext/eno_sockops.bpf.c:1" in complaints(ran)[0]


def test_a_program_that_was_built_before_is_taken_where_there_is_no_clang(
    build: Build, tmp_path: Path, no_program: Path
) -> None:
    no_program.write_bytes(b"as it was shipped")
    ran = build(TCPCRYPT_PUREPYTHON="1", TCPCRYPT_CLANG="no-such-clang")
    assert ran.returncode == 0, ran.stderr
    assert [program.read_bytes() for program in programs(tmp_path)] == [b"as it was shipped"]


def test_no_cython(build: Build, tmp_path: Path, no_cython: str) -> None:
    ran = build(PYTHONPATH=no_cython)
    assert ran.returncode == 0, ran.stderr
    assert complaints(ran) == [
        "tcpcrypt: built in pure Python, because Cython is not installed",
    ]
    assert built(tmp_path) == []


def test_no_compiler(build: Build, tmp_path: Path) -> None:
    ran = build(CC="no-such-compiler")
    assert ran.returncode == 0, ran.stderr
    assert len(complaints(ran)) == 1
    assert "built in pure Python, because the compiler failed: " in complaints(ran)[0]
    assert "no-such-compiler" in complaints(ran)[0]
    assert built(tmp_path) == []
    assert list(tmp_path.glob("build/lib*/tcpcrypt/_fast/_py_frames.py"))


def test_no_libcrypto_headers(build: Build, tmp_path: Path) -> None:
    (tmp_path / "ext/libcrypto.pxd").write_text(
        (tmp_path / "ext/libcrypto.pxd").read_text().replace("openssl/", "no-such-openssl/")
    )
    ran = build()
    assert ran.returncode == 0, ran.stderr
    assert len(complaints(ran)) == 1
    assert built(tmp_path) == []


def test_sources_that_cython_rejects(build: Build, tmp_path: Path) -> None:
    (tmp_path / "ext/_c_options.pyx").write_text("def def\n")
    ran = build()
    assert ran.returncode == 0, ran.stderr
    assert complaints(ran)[0].startswith("tcpcrypt: built in pure Python, because Cython failed")
    assert built(tmp_path) == []


def test_a_failure_is_an_error_where_the_extension_is_required(
    build: Build, no_cython: str
) -> None:
    for environment in ({"CC": "no-such-compiler"}, {"PYTHONPATH": no_cython}):
        ran = build(TCPCRYPT_REQUIRE_EXT="1", **environment)
        assert ran.returncode != 0
        assert "tcpcrypt: extension not built: " in ran.stderr
