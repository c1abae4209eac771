"""Compiled from ext/_c_options.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import checksum as checksum
from tcpcrypt._fast import parse_eno as parse_eno
from tcpcrypt._fast import walk_options as walk_options
