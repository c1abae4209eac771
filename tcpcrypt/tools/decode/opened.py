"""Frames with their plaintext, for who shows captures but has no ciphers.

```
TCPCRYPT_FRAME <frame> <plaintext>
```

Both in hex: the frame as it lies on the wire, header and tag included, and what it
protects (RFC 8548 section 4.2.2), without reserved flags.  The Wireshark dissector of
`tcpcrypt.contrib` finds frames in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.decode.private import open_private
from tcpcrypt.wire.frame import Plaintext

__all__ = ["LABEL", "OpenedFrames"]

LABEL: Final = "TCPCRYPT_FRAME"


class OpenedFrames:
    """Writes the file, mode 0600.  A context manager.

    `frame` and the exit raise `LocalError` where the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        """Raises `LocalError` if the file cannot be written, or others could read it."""
        self._path = path
        self._file = os.fdopen(open_private(path), "w", encoding="ascii")

    def __enter__(self) -> OpenedFrames:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            if kind is None:  # otherwise it was told
                raise self._failed(error) from error

    def frame(self, frame: bytes, plaintext: Plaintext) -> None:
        """Write one frame whose tag verified."""
        try:
            self._file.write(f"{LABEL} {frame.hex()} {plaintext.build().hex()}\n")
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> LocalError:
        return LocalError(f"{self._path}: {error.strerror}; what is in it is not all")
