"""Compiled from ext/_c_kdf.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import expand as expand
from tcpcrypt._fast import extract as extract
from tcpcrypt._fast import resume_identifiers as resume_identifiers
