"""The extension under sanitizers, as `python tests/fuzz/sanitized.py` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_the_extension_is_clean_under_sanitizers() -> None:
    """Four minutes; every corpus, the twins, options, frames, the pump."""
    program = Path(__file__).with_name("sanitized.py")
    done = subprocess.run([sys.executable, program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
