"""Builds the extension modules of `tcpcrypt._fast` from ext/, where it can, and the BPF program.

All else of the build stands in pyproject.toml.  The package works without the
extension, so a machine that lacks a compiler, Cython or libcrypto's headers
still gets an installation; one line says what was missing.  The BPF program of
the sockops backend takes clang and libbpf's headers; a program that was built
before is taken as it is where these are missing.

TCPCRYPT_PUREPYTHON=1   build no extension
TCPCRYPT_REQUIRE_EXT=1  fail if one of the two does not build; warnings are errors
TCPCRYPT_CLANG          the clang to take
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

MODULES = {
    "tcpcrypt._fast._c_options": ("ext/_c_options.pyx", False),
    "tcpcrypt._fast._c_frames": ("ext/_c_frames.pyx", True),
    "tcpcrypt._fast._c_cache": ("ext/_c_cache.pyx", True),
    "tcpcrypt._fast._c_segment": ("ext/_c_segment.pyx", False),
    "tcpcrypt._fast._c_netlink": ("ext/_c_netlink.pyx", False),
    "tcpcrypt._fast._c_kdf": ("ext/_c_kdf.pyx", True),
    "tcpcrypt._fast._c_octets": ("ext/_c_octets.pyx", True),
    "tcpcrypt._fast._c_pump": ("ext/_c_pump.pyx", True),
    "tcpcrypt._fast._c_lanes": ("ext/_c_lanes.pyx", True),
}


BPF_SOURCE = Path("ext/eno_sockops.bpf.c")
BPF_OBJECT = Path("tcpcrypt/runtime/eno_sockops.bpf.o")


def asked(name):
    return os.environ.get(name, "") not in ("", "0")


def libcrypto(option):
    """What pkg-config says of libcrypto; without it, what every system takes."""
    tool = os.environ.get("PKG_CONFIG") or shutil.which("pkg-config")
    if tool:
        answer = subprocess.run(
            [tool, option, "libcrypto"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            return shlex.split(answer.stdout)
    return ["-lcrypto"] if option == "--libs" else []


def give_up(missing):
    if asked("TCPCRYPT_REQUIRE_EXT"):
        sys.exit(f"tcpcrypt: extension not built: {missing}")
    print(f"tcpcrypt: built in pure Python, because {missing}", file=sys.stderr)


class OptionalBuildExt(build_ext):
    """Builds all extension modules or, where something is missing, none."""

    def run(self):
        inplace = self.inplace
        try:
            super().run()
        except (Exception, SystemExit) as error:
            # Compilers fail in many ways: not there, no header, no library.
            # What they made before is of no use without the rest.
            for self.inplace in {0, inplace}:
                for extension in self.extensions:
                    Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions.clear()
            give_up(f"the compiler failed: {error}")

    def get_source_files(self):
        declared = Path("tcpcrypt/_fast").glob("*.pxd")
        return sorted(map(str, (*Path("ext").glob("*.p*"), *declared)))


class BuildPyAndBpf(build_py):
    """Beside the modules, the program that the kernel runs: for every machine alike."""

    def run(self):
        super().run()
        target = BPF_OBJECT if self.editable_mode else Path(self.build_lib) / BPF_OBJECT
        target.parent.mkdir(parents=True, exist_ok=True)
        problem = compile_bpf(target)
        if problem and target.exists():
            print(f"tcpcrypt: BPF program of an earlier build, because {problem}", file=sys.stderr)
        elif problem and asked("TCPCRYPT_REQUIRE_EXT"):
            sys.exit(f"tcpcrypt: BPF program not built: {problem}")
        elif problem:
            print(
                f"tcpcrypt: built without the sockops backend, because {problem}", file=sys.stderr
            )

    def get_source_files(self):
        return [*super().get_source_files(), str(BPF_SOURCE), *map(str, Path("ext").glob("*.h"))]


def compile_bpf(target):
    """Make the BPF program; what went wrong, or None."""
    clang = os.environ.get("TCPCRYPT_CLANG") or shutil.which("clang")
    if not clang:
        return "clang is not installed"
    # BTF is in the debugging information.  Nothing of one kernel's goes in.
    words = [clang, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        words.append(f"-I/usr/include/{multiarch}")
    words += [f"-ffile-prefix-map={Path.cwd()}=.", "-c", str(BPF_SOURCE), "-o", f"{target}.new"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{clang}: {error.strerror}"
    if done.returncode:
        return f"clang failed: {(done.stderr.strip() or str(done.returncode)).splitlines()[0]}"
    os.replace(f"{target}.new", target)
    return None


def extensions():
    if asked("TCPCRYPT_PUREPYTHON"):
        return []
    try:
        from Cython.Build import cythonize  # noqa: PLC0415 (absence is an answer)
    except ImportError:
        give_up("Cython is not installed")
        return []
    # What Cython generates is clean under these, so nothing is silenced.
    warnings = ["-Wall", "-Wextra"]
    if asked("TCPCRYPT_REQUIRE_EXT"):
        warnings.append("-Werror")
    modules = [
        Extension(
            name,
            [source],
            extra_compile_args=[
                "-O2",
                *warnings,
                *(libcrypto("--cflags") if linked else []),
            ],
            extra_link_args=libcrypto("--libs") if linked else [],
        )
        for name, (source, linked) in MODULES.items()
    ]
    try:
        return cythonize(
            modules,
            include_path=["ext", "."],
            build_dir="build/cython",
            compiler_directives={"language_level": 3, "embedsignature": False},
            quiet=True,
        )
    except Exception as error:
        give_up(f"Cython failed: {error}")
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt, "build_py": BuildPyAndBpf})
