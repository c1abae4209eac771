"""From a Debian that has nothing: `apt install ./…deb`, `pipx install`, `tox`.

Takes minutes and the network; run by `make test-long`.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.packaging import story
from netns.packaging.fresh import apt_install, bootstrapped, connected
from netns.packaging.root import Root

pytestmark = pytest.mark.long

TREE = Path(__file__).parents[3]
PATIENCE = 3600
"""Seconds, for what compiles and downloads on a machine that may have other things to do."""
COMPILER = ("gcc", "libc6-dev", "libssl-dev", "python3-dev")
# tox's own environment is made by a command of these, shortened to one suite.
SUITE = "testenv:pure.commands=python -m pytest -q -p no:cacheprovider tests/wire"


@pytest.fixture
def root(pair: Network, tmp_path: Path) -> Iterator[Root]:
    with Root(pair.client, bootstrapped(), tmp_path / "root") as root:
        yield root


@pytest.fixture
def sources(root: Root, tmp_path: Path) -> Path:
    """The source archive, unpacked in the root: what users without a checkout have."""
    done = subprocess.run(
        (sys.executable, "-c", "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])",
         str(tmp_path)),
        cwd=_copy(tmp_path / "checkout"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("tcpcrypt-*.tar.gz")
    return Path(shutil.copy(archive, root.path / "root" / archive.name))


def _copy(place: Path) -> Path:
    """The files of this tree that belong to a version."""
    built = ("*.so", "*.bpf.o", "_c_*.c", "__pycache__", "*.egg-info")
    for name in ("tcpcrypt", "ext", "tests", "vectors", "docs", "packaging", "bench", "examples"):
        shutil.copytree(TREE / name, place / name, ignore=shutil.ignore_patterns(*built))
    for path in TREE.iterdir():
        if path.is_file():
            shutil.copy(path, place / path.name)
    return place


def test_apt_installs_it_and_curl_is_encrypted(
    package: Path, pair: Network, root: Root, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "page.html").write_bytes(story.PAGE)
    pair.web(site)
    connected(root)
    for made in (package, story.another_version(package, tmp_path)):
        shutil.copy(made, root.path / "root" / made.name)
    apt_install(root, "curl", "procps", f"/root/{package.name}")
    story.fresh(root)
    story.encrypts_curl(root, pair)
    install = ["apt-get", "install", "--yes", "/root/newer.deb"]
    story.upgraded(root, pair, install)
    pair.daemons[0].stop()
    assert story.refused(root, pair)
    story.removed(root, pair)
    story.purged(root)


def test_lintian_finds_no_error(package: Path, root: Root) -> None:
    connected(root)
    apt_install(root, "lintian")
    shutil.copy(package, root.path / "root" / package.name)
    done = root.run(
        "lintian", "--allow-root", f"/root/{package.name}", check=False, timeout=PATIENCE
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("E:")] == []


def test_pipx_installs_it(root: Root, sources: Path) -> None:
    variables = connected(root)
    apt_install(root, "pipx", *COMPILER)
    archive = f"/root/{sources.name}"
    root.run("pipx", "install", archive, network=False, variables=variables, timeout=PATIENCE)
    said = root.run("/root/.local/bin/tcpcrypt", "--version").stdout
    assert said.startswith("tcpcrypt ")
    interpreter = "/root/.local/pipx/venvs/tcpcrypt/bin/python"
    assert root.run(interpreter, "-I", "-c", story.ASK).stdout.startswith("c ")


def test_tox_runs_in_a_checkout(root: Root, tmp_path: Path) -> None:
    variables = connected(root)
    apt_install(root, "python3-venv", "nodejs", *COMPILER)
    checkout = _copy(tmp_path / "checkout")
    shutil.copytree(checkout, root.path / "root/checkout")
    root.run("python3", "-m", "venv", "/root/tools")
    words = ("/root/tools/bin/pip", "install", "--quiet", "tox>=4.20")
    root.run(*words, network=False, variables=variables, timeout=PATIENCE)
    done = root.run(
        *("/root/tools/bin/tox", "run", "--root", "/root/checkout", "-c", "/root/checkout/tox.ini"),
        *("-e", "pure", "-x", SUITE),
        network=False, variables=variables, timeout=PATIENCE,
    )  # fmt: skip
    assert " passed" in done.stdout


def test_the_same_wheels_make_the_same_package(package: Path, tmp_path: Path) -> None:
    """Byte for byte, whatever the directory in which it was built."""
    build = [sys.executable, str(TREE / "packaging/deb/build.py")]
    made = []
    wheels = tmp_path / "wheels"
    words = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:")
    subprocess.run((*words, "--dest", wheels, f"{TREE}[decode,metrics]"), check=True)
    for own in wheels.glob("tcpcrypt-*"):
        own.unlink()
    for name in ("one", "other"):
        out = tmp_path / name
        done = subprocess.run(
            [*build, "--wheels", str(wheels), "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append((out / package.name).read_bytes())
    assert made[0] == made[1]
