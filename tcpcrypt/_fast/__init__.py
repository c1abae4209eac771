"""The one switch between the Cython extension and its Python twin.

`TCPCRYPT_PUREPYTHON=1` chooses the Python twin; unset, empty or 0 chooses the
extension wherever it was built.  The types of both stand in `__init__.pyi`.
"""

import os
import warnings

__all__ = [
    "IMPLEMENTATION",
    "STOP_BAD_TAG",
    "STOP_FIN",
    "STOP_NEED_MORE",
    "STOP_OUT_FULL",
    "STOP_REKEY",
    "STOP_TOO_SHORT",
    "STOP_URGENT",
    "STOP_URGENT_TRUNCATED",
    "FrameOpener",
    "FrameSealer",
    "Octets",
    "SessionCache",
    "build_verdict",
    "check_verdicts",
    "checksum",
    "expand",
    "extract",
    "make_lanes",
    "make_pump",
    "parse_eno",
    "parse_queue",
    "parse_segment",
    "rebuild_segment",
    "resume_identifiers",
    "walk_options",
]


def _choose():
    if os.environ.get("TCPCRYPT_PUREPYTHON", "") in ("", "0"):
        try:
            from tcpcrypt._fast import _c  # noqa: PLC0415 (only where wanted)

            return _c
        except ModuleNotFoundError as error:
            # Not built is a supported installation and needs no words.
            if not (error.name or "").startswith("tcpcrypt._fast."):
                raise
        except ImportError as error:
            # Built but not loadable (say, libcrypto is gone) deserves some.
            warnings.warn(
                f"tcpcrypt runs in pure Python: its extension does not load: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
    from tcpcrypt._fast import _py  # noqa: PLC0415 (only where needed)

    return _py


_twin = _choose()
IMPLEMENTATION = _twin.IMPLEMENTATION
STOP_BAD_TAG = _twin.STOP_BAD_TAG
STOP_FIN = _twin.STOP_FIN
STOP_NEED_MORE = _twin.STOP_NEED_MORE
STOP_OUT_FULL = _twin.STOP_OUT_FULL
STOP_REKEY = _twin.STOP_REKEY
STOP_TOO_SHORT = _twin.STOP_TOO_SHORT
STOP_URGENT = _twin.STOP_URGENT
STOP_URGENT_TRUNCATED = _twin.STOP_URGENT_TRUNCATED
FrameOpener = _twin.FrameOpener
FrameSealer = _twin.FrameSealer
Octets = _twin.Octets
SessionCache = _twin.SessionCache
build_verdict = _twin.build_verdict
check_verdicts = _twin.check_verdicts
checksum = _twin.checksum
expand = _twin.expand
extract = _twin.extract
make_lanes = _twin.make_lanes
make_pump = _twin.make_pump
parse_eno = _twin.parse_eno
parse_queue = _twin.parse_queue
parse_segment = _twin.parse_segment
rebuild_segment = _twin.rebuild_segment
resume_identifiers = _twin.resume_identifiers
walk_options = _twin.walk_options
