"""Compiled from ext/_c_frames.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import STOP_BAD_TAG as STOP_BAD_TAG
from tcpcrypt._fast import STOP_FIN as STOP_FIN
from tcpcrypt._fast import STOP_NEED_MORE as STOP_NEED_MORE
from tcpcrypt._fast import STOP_OUT_FULL as STOP_OUT_FULL
from tcpcrypt._fast import STOP_REKEY as STOP_REKEY
from tcpcrypt._fast import STOP_TOO_SHORT as STOP_TOO_SHORT
from tcpcrypt._fast import STOP_URGENT as STOP_URGENT
from tcpcrypt._fast import STOP_URGENT_TRUNCATED as STOP_URGENT_TRUNCATED
from tcpcrypt._fast import FrameOpener as FrameOpener
from tcpcrypt._fast import FrameSealer as FrameSealer
