"""The compiled twin, gathered; an ImportError means that it was not built."""

from typing import Final

from tcpcrypt._fast._c_cache import SessionCache
from tcpcrypt._fast._c_frames import (
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
from tcpcrypt._fast._c_kdf import expand, extract, resume_identifiers
from tcpcrypt._fast._c_lanes import make_lanes
from tcpcrypt._fast._c_netlink import build_verdict, check_verdicts, parse_queue
from tcpcrypt._fast._c_octets import Octets
from tcpcrypt._fast._c_options import checksum, parse_eno, walk_options
from tcpcrypt._fast._c_pump import make_pump
from tcpcrypt._fast._c_segment import parse_segment, rebuild_segment

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

IMPLEMENTATION: Final = "c"
