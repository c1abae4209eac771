"""Both twins of `tcpcrypt._fast`, for every test of an accelerated function.

`TCPCRYPT_TEST_PROFILE=long` (`make test-long`) makes random testing thirty times deeper.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("short", deadline=None)
settings.register_profile("long", deadline=None, max_examples=3000)
settings.load_profile(os.environ.get("TCPCRYPT_TEST_PROFILE", "short"))

PURE_PYTHON = os.environ.get("TCPCRYPT_PUREPYTHON", "") not in ("", "0")


def load_twin(name: str) -> ModuleType:
    """`py` or `c`.  A `c` that was not built is a failure, never a skip."""
    try:
        return importlib.import_module(f"tcpcrypt._fast._{name}")
    except ImportError as error:
        pytest.fail(f"the extension is not built (TCPCRYPT_PUREPYTHON=1 leaves it out): {error}")


@pytest.fixture(scope="session", params=["py"] if PURE_PYTHON else ["py", "c"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    """A module with all names of `tcpcrypt/_fast/__init__.pyi`."""
    return load_twin(request.param)


@pytest.fixture(scope="session")
def twins() -> list[ModuleType]:
    """All twins at once, to hold them to the same answers."""
    return [load_twin(name) for name in (["py"] if PURE_PYTHON else ["py", "c"])]


@pytest.fixture(scope="session", autouse=True)
def _keys_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What no test names a directory for makes its keys here, not in the one of the system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TCPCRYPT_KEYS", str(tmp_path_factory.mktemp("keys")))
        yield


@pytest.fixture(autouse=True)
def _key_directories_of_one_test() -> Iterator[None]:
    """A process keeps each directory of keys, and its caches, for good; not so the tests."""
    yield
    if (keys := sys.modules.get("tcpcrypt.sockets.keys")) is not None:
        keys.KeyDirectory._all.clear()
