"""The worker needs nothing of the file system once it has given up its privileges."""

import subprocess
import sys

PROGRAM = """
import builtins, sys
from tcpcrypt.core.config import Config
from tcpcrypt.daemon import worker
from tcpcrypt.daemon.preload import preload
from tcpcrypt.registry import AeadId, Tep

config = Config(teps=tuple(Tep)[-4:], aeads=tuple(AeadId))
preload(config)
before = set(sys.modules)
sys.path[:] = []
sys.path_importer_cache.clear()
preload(config)
assert set(sys.modules) == before, set(sys.modules) - before
"""


def test_every_algorithm_works_without_anything_to_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
