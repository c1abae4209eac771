"""Compiled from ext/_c_lanes.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import make_lanes as make_lanes
