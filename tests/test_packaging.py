"""`pip install .` gives a working package, with the extension where it can be built.

(Each way in which a build can fail: tests/fast/test_build.py.)
"""

import os
import shutil
import subprocess
import sys
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
    ignore = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")
    for name in ("tcpcrypt", "ext"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
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
        assert install(tree)[0] == "c"
