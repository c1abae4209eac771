"""Compiled from ext/_c_segment.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import parse_segment as parse_segment
from tcpcrypt._fast import rebuild_segment as rebuild_segment
