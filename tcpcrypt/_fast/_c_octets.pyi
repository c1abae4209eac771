"""Compiled from ext/_c_octets.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import Octets as Octets
