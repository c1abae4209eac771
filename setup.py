"""Builds the extension modules of `tcpcrypt._fast` from ext/, where it can.

All else of the build stands in pyproject.toml.  The package works without the
extension, so a machine that lacks a compiler, Cython or libcrypto's headers
still gets an installation; one line says what was missing.

TCPCRYPT_PUREPYTHON=1   build no extension
TCPCRYPT_REQUIRE_EXT=1  fail if the extension does not build; warnings are errors
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = {
    "tcpcrypt._fast._c_options": ("ext/_c_options.pyx", False),
    "tcpcrypt._fast._c_frames": ("ext/_c_frames.pyx", True),
    "tcpcrypt._fast._c_cache": ("ext/_c_cache.pyx", True),
    "tcpcrypt._fast._c_segment": ("ext/_c_segment.pyx", False),
    "tcpcrypt._fast._c_netlink": ("ext/_c_netlink.pyx", False),
    "tcpcrypt._fast._c_kdf": ("ext/_c_kdf.pyx", True),
}


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
        return sorted(map(str, Path("ext").glob("*.p*")))


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
            include_path=["ext"],
            build_dir="build/cython",
            compiler_directives={"language_level": 3, "embedsignature": False},
            quiet=True,
        )
    except Exception as error:
        give_up(f"Cython failed: {error}")
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
