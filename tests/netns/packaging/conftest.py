"""The Debian package, built once for all that test it."""

import fcntl
import importlib.util
import os
import sysconfig
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[3] / "packaging/deb/build.py"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, from the wheel that tox has made of this tree if that is where we are."""
    # Processes that share the tests (pytest-xdist) have directories beside each other.
    ours = tmp_path_factory.getbasetemp()
    shared = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "deb"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for made in shared.glob("*.deb"):
            return made
        return _built(shared)


def _built(out: Path) -> Path:
    specification = importlib.util.spec_from_file_location("packaging_deb_build", BUILD)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    wheel = Path(os.environ.get("TOX_PACKAGE", ""))
    tag = f"cp{sysconfig.get_python_version().replace('.', '')}"
    own = wheel if f"-{tag}-{tag}-" in wheel.name else None
    made = module.build(out, own=own)
    assert isinstance(made, Path)
    return made
