"""Compiled from ext/_c_cache.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import SessionCache as SessionCache
