"""Which twin runs: TCPCRYPT_PUREPYTHON and what was built decide."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tcpcrypt._fast

STUB = Path(tcpcrypt._fast.__file__).with_suffix(".pyi")


def is_protocol(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Such a class says what an object is like; no module has it."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
    )


def names() -> set[str]:
    found = set()
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_protocol(node):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def test_a_twin_has_all_names_of_the_stub(twin: ModuleType) -> None:
    assert set(twin.__all__) == names() == set(tcpcrypt._fast.__all__)
    for name in names():
        assert hasattr(twin, name)


def test_a_twin_has_all_methods_of_the_stub(twin: ModuleType) -> None:
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef) and not is_protocol(node):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    found = inspect.getattr_static(getattr(twin, node.name), method.name)
                    assert callable(found) or inspect.isdatadescriptor(found)


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "TCPCRYPT_PUREPYTHON"}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=inherited | environment,
    )


SAY = "import tcpcrypt._fast; print(tcpcrypt._fast.IMPLEMENTATION)"


def test_the_environment_chooses_python() -> None:
    assert run(SAY, TCPCRYPT_PUREPYTHON="1").stdout == "python\n"


@pytest.mark.parametrize("value", ["", "0"])
def test_otherwise_what_was_built_runs(value: str) -> None:
    built = importlib.util.find_spec("tcpcrypt._fast._c_frames") is not None
    assert run(SAY, TCPCRYPT_PUREPYTHON=value).stdout == ("c\n" if built else "python\n")


class Refuse(importlib.abc.MetaPathFinder):
    """Fails to import the extension with `error`."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.startswith("tcpcrypt._fast._c_"):
            raise self.error


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[ImportError], None]:
    """Let the next choice find the extension as `error` says."""
    monkeypatch.delenv("TCPCRYPT_PUREPYTHON", raising=False)
    for name in [name for name in sys.modules if name.startswith("tcpcrypt._fast._c")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(tcpcrypt._fast, "_c", raising=False)
    return lambda error: monkeypatch.setattr(sys, "meta_path", [Refuse(error), *sys.meta_path])


def test_an_extension_that_was_not_built_needs_no_words(
    refuse: Callable[[ImportError], None], recwarn: pytest.WarningsRecorder
) -> None:
    refuse(ModuleNotFoundError("No module", name="tcpcrypt._fast._c_cache"))
    assert tcpcrypt._fast._choose().IMPLEMENTATION == "python"
    assert not recwarn.list


def test_an_extension_that_does_not_load_is_told(refuse: Callable[[ImportError], None]) -> None:
    refuse(ImportError("libcrypto.so.3: cannot open shared object file"))
    with pytest.warns(RuntimeWarning, match="does not load: libcrypto"):
        assert tcpcrypt._fast._choose().IMPLEMENTATION == "python"


def test_another_missing_module_is_not_hidden(refuse: Callable[[ImportError], None]) -> None:
    refuse(ModuleNotFoundError("No module named 'other'", name="other"))
    with pytest.raises(ModuleNotFoundError, match="other"):
        tcpcrypt._fast._choose()


def test_a_choice_in_this_process_is_the_same(
    twins: list[ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tcpcrypt._fast._choose() is twins[-1]
    monkeypatch.setenv("TCPCRYPT_PUREPYTHON", "1")
    assert tcpcrypt._fast._choose() is twins[0]
