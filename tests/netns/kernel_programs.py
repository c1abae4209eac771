"""Whether the kernel lets a BPF program in, for tests of backends that need one."""

import errno
import os

import pytest

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.sockops import Attachment


def needed_by(backend: str) -> None:
    """Skip where it is a matter of privilege, as in a container.

    A program that the kernel refuses, or that was not built, is a failure.
    """
    try:
        Attachment().close()
    except LocalError as error:
        if os.strerror(errno.EPERM) not in str(error):
            raise
        pytest.skip(f"the {backend} backend cannot run here: {error}")
