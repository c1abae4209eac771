"""Compiled from ext/_c_pump.pyx; the contract stands in `tcpcrypt/_fast/__init__.pyi`."""

from typing import Final

from tcpcrypt._fast import Flow as Flow
from tcpcrypt._fast import Pump as Pump
from tcpcrypt._fast import make_pump as make_pump

# States of a direction, and why a flow came back: the numbers of the contract.
FLOW_OFF: Final = 0
FLOW_WATCH: Final = 1
FLOW_COPY: Final = 2
FLOW_CRYPT: Final = 3
FLOW_RECALLED: Final = 0
FLOW_INNER_ENDED: Final = 1
FLOW_OUTER_ENDED: Final = 2
FLOW_INNER_FAILED: Final = 3
FLOW_OUTER_FAILED: Final = 4
FLOW_STIRRED: Final = 5
FLOW_KEY_SPENT: Final = 6
FLOW_BROKEN: Final = 7
