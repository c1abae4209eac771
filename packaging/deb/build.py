"""Build the Debian package: `python packaging/deb/build.py`, or `make deb`.

The package carries an environment of its own in /usr/lib/tcpcrypt: the wheel of this
tree and those of what it needs, because a Debian release has them too old or not at
all.  So it is for the release whose interpreter builds it, which must be Debian's.

    --wheels DIR   take the needed wheels from there, and nothing from an index
    --own WHEEL    take this wheel of the tree instead of building one

Given the same wheels and SOURCE_DATE_EPOCH (by default, the time of the last commit),
the package is the same byte for byte.  Needs chrpath, debhelper and dpkg-dev; no root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("tcpcrypt", "ext", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
EXTRAS = ("decode", "metrics")
"""What the programs of the package can use; the other extras are for developers."""
PYTHON = Path("/usr/bin/python3")
HOME = Path("usr/lib/tcpcrypt")
ADMINISTRATORS = frozenset({"tcpcryptd"})
"""Programs for /usr/sbin."""
FOR_OTHERS = ("grafana", "prometheus", "wireshark")
"""Of contrib/: what other programs read, in /usr/share/tcpcrypt."""
OF_THE_INSTALLER = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip notes for itself, with paths of this build; dpkg is the installer here."""


class BuildError(Exception):
    """What went wrong, for people."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build the package; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        print(build(arguments.out, wheels=arguments.wheels, own=arguments.own))
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    options = argparse.ArgumentParser(
        description="Build the Debian package of this tree.",
        epilog="example: python packaging/deb/build.py --out dist",
    )
    options.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="where the package goes (default: dist/)"
    )
    options.add_argument(
        "--wheels", type=Path, help="a directory with the wheels of everything that is needed"
    )
    options.add_argument("--own", type=Path, help="a wheel of this tree, built before")
    return options


def build(out: Path, *, wheels: Path | None = None, own: Path | None = None) -> Path:
    """Make the package in `out`; returns its path.  Raises `BuildError`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = _python_version()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_epoch()), "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-deb-") as directory:
        # One name for all builds: compilers write the paths of sources down.
        work = Path(directory) / "tcpcrypt"
        shutil.copytree(ROOT / "packaging/deb/debian", work / "debian")
        own = own or _own_wheel(work / "own", environment)
        wheels = wheels or _needed_wheels(own, work / "wheels", environment)
        stage = work / "stage"
        site = stage / HOME / f"lib/python{version}/site-packages"
        _install(own, wheels, site, environment)
        _environment(stage, version)
        _programs(stage, project["scripts"])
        _beside_the_programs(stage, site, work / "debian", sorted(project["scripts"]))
        _describe(work / "debian", project["version"], version, environment)
        _run("dpkg-buildpackage", "-b", "-us", "-uc", cwd=work, environment=environment)
        (made,) = Path(directory).glob("tcpcrypt_*.deb")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(made, out / made.name))


def _python_version() -> str:
    """As `3.11`.  The extension is for one; it has to be that of the system."""
    if not PYTHON.exists():
        raise BuildError(f"{PYTHON} is not there: Debian packages are built on Debian")
    words = (str(PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    theirs = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    if theirs != sysconfig.get_python_version():
        raise BuildError(
            f"this is Python {sysconfig.get_python_version()}, and the package is for the"
            f" system's, {theirs}: run it with an environment of {PYTHON}"
        )
    return theirs


def _epoch() -> int:
    """Seconds: the time that everything in the package has."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    words = ("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout.strip():
        return int(done.stdout)
    return int((ROOT / "pyproject.toml").stat().st_mtime)


def _run(*words: str, cwd: Path, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            words, cwd=cwd, env=dict(environment), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BuildError(
            f"{words[0]} is not installed (Debian: chrpath, debhelper, dpkg-dev)"
        ) from None
    if done.returncode:
        raise BuildError(f"{' '.join(words)}:\n{done.stdout}{done.stderr}")


# --- wheels ------------------------------------------------------------------------------


def _own_wheel(out: Path, environment: Mapping[str, str]) -> Path:
    tree = out / "tree"
    built = shutil.ignore_patterns("*.so", "*.bpf.o", "_c_*.c", "__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=built)
        else:
            shutil.copy(source, tree / name)
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--wheel-dir", str(out), str(tree)),
        cwd=out,
        environment={**environment, "TCPCRYPT_REQUIRE_EXT": "1", "CFLAGS": _flags(tree)},
    )
    (wheel,) = out.glob("tcpcrypt-*.whl")
    return wheel


def _flags(tree: Path) -> str:
    return f"-g -ffile-prefix-map={tree}=. -fstack-protector-strong -D_FORTIFY_SOURCE=2"


def _needed_wheels(own: Path, out: Path, environment: Mapping[str, str]) -> Path:
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
        *("--dest", str(out), f"{own.resolve()}[{','.join(EXTRAS)}]"),
        cwd=out.parent,
        environment=environment,
    )
    for wheel in out.glob("tcpcrypt-*.whl"):
        wheel.unlink()
    return out


def _install(own: Path, wheels: Path, site: Path, environment: Mapping[str, str]) -> None:
    # First what is needed, by name and by what the tree's wheel says; then that wheel.
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile"),
        *("--find-links", str(wheels.resolve()), "--target", str(site)),
        f"{own.resolve()}[{','.join(EXTRAS)}]",
        cwd=site.parents[-1],
        environment={**environment, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull},
    )
    shutil.rmtree(site / "bin", ignore_errors=True)
    shutil.rmtree(site / "share", ignore_errors=True)
    for information in site.glob("*.dist-info"):
        for name in OF_THE_INSTALLER:
            (information / name).unlink(missing_ok=True)
    # An interpreter that was not Debian's has left its own directory of libraries there.
    _run("chrpath", "--delete", *map(str, site.glob("tcpcrypt/_fast/*.so")), cwd=site,
         environment=environment)  # fmt: skip


# --- the tree of the package -------------------------------------------------------------


def _environment(stage: Path, version: str) -> None:
    """What `python3 -m venv --without-pip` makes, without the paths of this machine."""
    home = stage / HOME
    (home / "bin").mkdir(parents=True)
    (home / "bin/python3").symlink_to(f"../../../bin/python{version}")
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
    )


def _programs(stage: Path, scripts: Mapping[str, str]) -> None:
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        program = stage / HOME / "bin" / name
        # -I: neither the variables nor the directories of who calls it are of any account.
        program.write_text(
            f"#!/{HOME}/bin/python3 -I\n"
            "import sys\n\n"
            f"from {module} import {function}\n\n"
            f"sys.exit({function}())\n"
        )
        program.chmod(0o755)
        directory = stage / "usr" / ("sbin" if name in ADMINISTRATORS else "bin")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(f"../lib/tcpcrypt/bin/{name}")


def _beside_the_programs(stage: Path, site: Path, debian: Path, programs: list[str]) -> None:
    contrib = site / "tcpcrypt/contrib"
    for unit in ("tcpcryptd", "stx-recv"):
        text = (contrib / f"systemd/{unit}.service").read_text()
        for program in ADMINISTRATORS:
            text = text.replace(f"/usr/bin/{program} ", f"/usr/sbin/{program} ")
        (debian / f"tcpcrypt.{unit}.service").write_text(text)
    users = [
        (contrib / f"systemd/{name}.sysusers").read_text() for name in ("tcpcrypt", "stx-recv")
    ]
    (debian / "tcpcrypt.sysusers").write_text("".join(users))
    pages = sorted((ROOT / "docs/man").glob("*.[1-8]"))
    for page in pages:
        shutil.copy(page, debian / page.name)
    (debian / "tcpcrypt.manpages").write_text("".join(f"debian/{page.name}\n" for page in pages))
    for name in FOR_OTHERS:
        shutil.copytree(contrib / name, stage / "usr/share/tcpcrypt" / name)
    _completions(stage / "usr/share", site, programs)
    configuration = stage / "etc/tcpcrypt/tcpcrypt.toml"
    configuration.parent.mkdir(parents=True)
    starter = "from tcpcrypt.daemon.starter import starter_file as made"
    configuration.write_text(_said(site, f"{starter}; print(made(policies=False), end='')"))


def _said(site: Path, program: str) -> str:
    """What a program prints that uses what is to be installed."""
    program = f"import sys; sys.path.insert(0, {str(site)!r}); {program}"
    words = (sys.executable, "-I", "-B", "-c", program)
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _completions(share: Path, site: Path, programs: list[str]) -> None:
    """One file a shell; bash and fish look for one by the name of each program."""
    for shell, directory, own, others in (
        ("bash", "bash-completion/completions", "tcpcrypt", "{}"),
        ("fish", "fish/vendor_completions.d", "tcpcrypt.fish", "{}.fish"),
        ("zsh", "zsh/vendor-completions", "_tcpcrypt", ""),
    ):
        (share / directory).mkdir(parents=True)
        made = "from tcpcrypt.tools.completions import script as made"
        text = _said(site, f"{made}; print(made({shell!r}), end='')")
        (share / directory / own).write_text(text)
        for name in programs if others else ():
            if name != "tcpcrypt":
                (share / directory / others.format(name)).symlink_to(own)


def _describe(debian: Path, version: str, python: str, environment: Mapping[str, str]) -> None:
    major, minor = python.split(".")
    control = debian / "control"
    needed = f"python3 (>= {python}), python3 (<< {major}.{int(minor) + 1})"
    control.write_text(control.read_text().replace("@PYTHON@", needed))
    date = formatdate(int(environment["SOURCE_DATE_EPOCH"]))
    (debian / "changelog").write_text(
        f"tcpcrypt ({version}) unstable; urgency=medium\n\n"
        f"  * See CHANGELOG.md of tcpcrypt {version}.\n\n"
        f" -- The tcpcrypt maintainers <maintainers@tcpcrypt.invalid>  {date}\n"
    )
    terms = (ROOT / "LICENSE").read_text().splitlines()
    (debian / "copyright").write_text(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: tcpcrypt\n"
        "Comment: The packages carried in /usr/lib/tcpcrypt/lib have their licences in their\n"
        " *.dist-info directories there.\n\n"
        "Files: *\n"
        f"Copyright: {terms[2].removeprefix('Copyright (c) ')}\n"
        "License: MIT\n" + "".join(f" {line}\n" if line else " .\n" for line in terms[4:])
    )


if __name__ == "__main__":
    sys.exit(main())
