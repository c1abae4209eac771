"""What a remembered key is good for: one service of one host, or connections to this host.

An outgoing scope is the address (or name) and port that connections go to, in
one spelling: `192.0.2.7:5432`, `[2001:db8::7]:22`, `[fe80::7%eth0]:22`,
`db.example.org:5432`.  Two ports are two scopes, because behind one address
two hosts may stand.  All connections that others open share the scope `*`:
their addresses say nothing (NAT), their keys all.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = ["INCOMING", "check_scope", "is_name", "outgoing_scope", "read_scope"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

INCOMING: Final = "*"
"""The scope of connections that others open."""

_NAME_MAX: Final = 253
"""Of a domain name (RFC 1035 section 2.3.4, without the last dot)."""
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# The last label of a name is not a number, or it would be an address (RFC 3696 section 2).
_NAME: Final = re.compile(rf"({_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_ZONE: Final = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
"""Linux: an interface's name has at most 15 bytes; exotic ones go by their number."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_PORT_MAX: Final = 0xFFFF


def outgoing_scope(address: Address, port: int) -> str:
    """The scope of a service.  Raises `LocalError` for what is no port or zone.

    An IPv4 address in its IPv6 form is that IPv4 address.  A link-local address
    keeps its zone, if it comes with one: on another link it is another host.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.scope_id is not None and not address.is_link_local:
            address = ipaddress.IPv6Address(int(address))
    zone = address.scope_id if isinstance(address, ipaddress.IPv6Address) else None
    if zone is not None and not _ZONE.fullmatch(zone):
        raise LocalError(f"{address}: {zone!r} is not a zone")
    return _joined(str(address), port)


def read_scope(text: str) -> str:
    """A scope as a person writes it, in the spelling that is compared.

    Raises `LocalError` for what is none.
    """
    if text == INCOMING:
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > _PORT_MAX:
        raise LocalError(f"{text!r} is not ADDRESS:PORT, [ADDRESS]:PORT, NAME:PORT or {INCOMING}")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        name = host.lower().removesuffix(".")
        if len(name) > _NAME_MAX or not _NAME.fullmatch(name):
            raise LocalError(f"{text!r}: {host!r} is neither an address nor a name") from None
        return f"{name}:{port}"
    if bracketed != (address.version == 6):
        raise LocalError(f"{text!r}: write IPv6, and it alone, as [ADDRESS]:PORT")
    return outgoing_scope(address, int(port))


def check_scope(text: str) -> None:
    """Raise `LocalError` unless `text` is a scope in the spelling that is compared."""
    if (spelt := read_scope(text)) != text:
        raise LocalError(f"{text!r} is not how this is written: {spelt!r} is")


def is_name(scope: str) -> bool:
    """Whether a scope names its host, which a daemon that sees addresses alone never looks up."""
    host = scope.rpartition(":")[0]
    return not host.startswith("[") and not host.rpartition(".")[2].isdecimal() and host != ""


def _joined(host: str, port: int) -> str:
    if not 1 <= port <= _PORT_MAX:
        raise LocalError(f"{port} is not a port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
