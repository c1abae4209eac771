"""Compiled from ext/_c_netlink.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from tcpcrypt._fast import build_verdict as build_verdict
from tcpcrypt._fast import check_verdicts as check_verdicts
from tcpcrypt._fast import parse_queue as parse_queue
