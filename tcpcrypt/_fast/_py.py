"""The Python twin, gathered."""

from typing import Final

from tcpcrypt._fast._py_cache import SessionCache
from tcpcrypt._fast._py_frames import (
    STOP_BAD_TAG,
    STOP_FIN,
    STOP_NEED_MORE,
    STOP_OUT_FULL,
    STOP_REKEY,
    STOP_TOO_SHORT,
    STOP_URGENT,
    STOP_URGENT_TRUNCATED,
    FrameOpener,
    FrameSealer,
)
from tcpcrypt._fast._py_kdf import expand, extract, resume_identifiers
from tcpcrypt._fast._py_lanes import make_lanes
from tcpcrypt._fast._py_netlink import build_verdict, check_verdicts, parse_queue
from tcpcrypt._fast._py_octets import Octets
from tcpcrypt._fast._py_options import checksum, parse_eno, walk_options
from tcpcrypt._fast._py_pump import make_pump
from tcpcrypt._fast._py_segment import parse_segment, rebuild_segment

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

IMPLEMENTATION: Final = "python"
