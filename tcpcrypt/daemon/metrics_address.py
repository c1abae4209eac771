"""Where metrics are to be had: a Unix socket, or a port that this host alone reaches."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tcpcrypt.daemon import values
from tcpcrypt.daemon.values import Kind, shown

__all__ = ["METRICS", "MetricsAddress"]

_UNIX: Final = "unix:"
_PORT_MIN: Final = 1024
"""The daemon has no capability to serve below."""


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """`path` of a Unix socket, or, where that is None, a loopback address and a port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _read(value: Any) -> MetricsAddress | None:
    if value == "none":
        return None
    if isinstance(value, str) and value.startswith(_UNIX):
        return MetricsAddress(values.SOCKET.read(value.removeprefix(_UNIX)))
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]{2,45}\]|[0-9.]{7,15}):([0-9]{1,5})", str(value))
    if not isinstance(value, str) or found is None:
        raise ValueError(f"{shown(value)} is not {METRICS.phrase}")
    try:
        address = ipaddress.ip_address(found[1].strip("[]"))
    except ValueError:
        raise ValueError(f"{shown(found[1])} is not an IP address") from None
    if not address.is_loopback:
        raise ValueError(
            f"{shown(value)}: others can reach {address}; metrics are served to this host alone,"
            ' at "127.0.0.1", "[::1]" or a Unix socket'
        )
    if not _PORT_MIN <= int(found[2]) <= 65535:
        raise ValueError(f"{shown(value)}: ports are {_PORT_MIN} to 65535")
    return MetricsAddress(None, str(address), int(found[2]))


METRICS: Final = Kind(
    '"none", "unix:" and an absolute path, or a loopback address with a port such as'
    ' "127.0.0.1:9469"',
    _read,
    lambda address: str(address or "nowhere"),
)
