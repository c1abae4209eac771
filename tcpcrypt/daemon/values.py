"""The kinds of value that a key of the configuration file can have.

Each kind reads what TOML gave (`read`, which raises `ValueError` with a text
for the administrator) and says what was read in
plain words (`say`).
"""

from __future__ import annotations

import ipaddress
import json
import math
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tcpcrypt.core.policy import Network
from tcpcrypt.registry import AeadId, Tep

__all__ = [
    "AEADS",
    "AEAD_NAMES",
    "BOOLEAN",
    "BYTES",
    "CGROUPS",
    "DIRECTORY",
    "FAMILIES",
    "INTERFACES",
    "KEYLOG",
    "LOG",
    "NETWORKS",
    "NETWORKS_MAX",
    "PORTS",
    "PSK",
    "SECONDS",
    "SOCKET",
    "TEPS",
    "TEP_NAMES",
    "UIDS",
    "USER",
    "Kind",
    "choice",
    "shown",
]

LIST_MAX: Final = 256
"""Entries of a list of ports, users or control groups."""
NETWORKS_MAX: Final = 1024
"""Networks that one policy may name."""
_PATH_MAX: Final = 4096
_SOCKET_PATH_MAX: Final = 107
"""Bytes of the address of a Unix socket (unix(7)), without the closing zero."""
_CGROUP_MAX: Final = 511
"""Bytes of a path that the firewall's `cgroup` match takes."""
_CGROUP: Final = re.compile(r"[A-Za-z0-9_.:@\\/+-]+")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,14}")
_PSK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_UID_LAST: Final = 2**32 - 2
"""The number after it means "no user" to the kernel."""
_DAY: Final = 86_400.0
_REKEY_MIN: Final = 1024
_REKEY_MAX: Final = 2**60
_SHOWN_MAX: Final = 60
_PORT_NAMES: Final = {
    22: "ssh",
    25: "SMTP",
    53: "DNS",
    80: "HTTP",
    443: "HTTPS",
    3306: "MySQL",
    5432: "PostgreSQL",
    6379: "Redis",
    8080: "HTTP",
    11211: "memcached",
}
TEP_NAMES: Final = {
    "curve25519": Tep.ECDHE_CURVE25519,
    "curve448": Tep.ECDHE_CURVE448,
    "p256": Tep.ECDHE_P256,
    "p521": Tep.ECDHE_P521,
}
AEAD_NAMES: Final = {
    "aes-128-gcm": AeadId.AES_128_GCM,
    "aes-256-gcm": AeadId.AES_256_GCM,
    "chacha20-poly1305": AeadId.CHACHA20_POLY1305,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value."""

    phrase: str
    """What such a value is, for the manual and for messages."""
    read: Callable[[Any], Any]
    """From what TOML gave.  Raises `ValueError`."""
    say: Callable[[Any], str]
    """What `read` returned, in plain words."""


def shown(value: object) -> str:
    """`value` for a message: escaped, on one line, of bounded length."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        # Not as a whole: it may be nested deeper than Python can print.
        return f"a list of {len(value)}"
    text = json.dumps(value) if isinstance(value, str | bool) else str(value)[: 2 * _SHOWN_MAX]
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def _listed(words: Sequence[str], last: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`; long lists are cut."""
    if len(words) > 12:
        words = [*words[:10], f"{len(words) - 10} more"]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _several(value: object, limit: int) -> list[Any]:
    """A list of TOML, or what stands for a list of one."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("the list is empty; leave the key out instead")
    if len(values) > limit:
        raise ValueError(f"{len(values)} entries; {limit} are the most")
    return values


def choice(meanings: Mapping[str, str], planned: tuple[str, ...] = ()) -> Kind:
    """One of a few words; those `planned` are known but not in this version."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in meanings:
            return value
        if isinstance(value, str) and value in planned:
            raise ValueError(
                f"this version does not have {shown(value)}, only"
                f" {_listed([shown(word) for word in meanings])}"
            )
        raise ValueError(f"{shown(value)} is not {phrase}")

    phrase = _listed([f'"{word}"' for word in meanings])
    return Kind(phrase, read, lambda value: meanings[value])


def _read_path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or len(value) > _PATH_MAX:
        raise ValueError(f"{shown(value)} is not an absolute path")
    if not value.isprintable():
        raise ValueError(f"{shown(value)}: a path here has no control characters")
    return Path(value)


def _read_socket(value: object) -> Path:
    path = _read_path(value)
    if len(str(path).encode()) > _SOCKET_PATH_MAX:
        raise ValueError(f"the path of a socket has at most {_SOCKET_PATH_MAX} bytes")
    return path


def _read_psk(value: object) -> str:
    if not isinstance(value, str) or not _PSK.fullmatch(value):
        raise ValueError(f"{shown(value)} is not {PSK.phrase}")
    return value


def _read_log(value: object) -> str:
    if value in ("auto", "stderr", "journald"):
        return str(value)
    try:
        return str(_read_path(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is not {LOG.phrase}") from None


def _read_user(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > 255:
        raise ValueError(f"{shown(value)} is not a user name")
    try:
        if pwd.getpwnam(value).pw_uid == 0:
            raise ValueError(f"{shown(value)} is root; the daemon's work is to be done by another")
    except KeyError:
        # That one alone may be missing, for it is what stands there by default.
        if value != "tcpcrypt":
            raise ValueError(f"this host has no user {shown(value)}") from None
    return value


def _read_families(value: object) -> tuple[int, ...]:
    if value == "auto":
        return ()
    values = _several(value, 2)
    if any(type(family) is not int or family not in (4, 6) for family in values):
        raise ValueError(f"{FAMILIES.phrase} is wanted")
    return tuple(sorted(set(values)))


def _read_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is not a number of seconds")
    if not 0 <= value <= _DAY:
        raise ValueError(f"{shown(value)}: 0 to {_DAY:.0f} seconds (a day) are possible")
    return float(value)


def _read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def _read_bytes(value: object) -> int | None:
    if value == "limit":
        return None
    if type(value) is not int or not _REKEY_MIN <= value <= _REKEY_MAX:
        raise ValueError(f"{shown(value)} is not {BYTES.phrase}")
    return value


def _numbers(names: Mapping[str, int], what: str) -> Callable[[object], tuple[int, ...]]:
    numbers = set(names.values())

    def read(value: object) -> tuple[int, ...]:
        found: list[int] = []
        for entry in _several(value, len(names)):
            number = names.get(entry.lower()) if isinstance(entry, str) else entry
            if not isinstance(number, int) or isinstance(number, bool) or number not in numbers:
                known = ", ".join(f'"{name}" ({n:#x})' for name, n in names.items())
                raise ValueError(f"{shown(entry)} is no {what}; there are {known}")
            if number in found:
                raise ValueError(f"{shown(entry)} is listed twice")
            found.append(number)
        return tuple(found)

    return read


def _named(names: Mapping[str, int]) -> Callable[[tuple[int, ...]], str]:
    by_number = {number: name for name, number in names.items()}
    return lambda numbers: ", then ".join(by_number[number] for number in numbers)


def _read_network(value: object) -> Network:
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError(f"{shown(value)} is not an address or network in quotation marks")
    if "%" in value:
        raise ValueError(f"{shown(value)}: zones of link-local addresses are not supported")
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(
                f'{shown(value)} is no address or network such as "10.0.0.0/8" or "fd00::/8"'
            ) from None
        raise ValueError(
            f'{shown(value)} has bits beyond its prefix; the network is "{meant}"'
        ) from None
    if isinstance(network, ipaddress.IPv6Network):
        # Sockets of both families write IPv4 addresses so.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _read_networks(value: object) -> tuple[Network, ...]:
    return tuple(_read_network(entry) for entry in _several(value, NETWORKS_MAX))


def _read_range(value: object, first: int, last: int, what: str) -> range:
    """A number, `"80"` or `"8000-8099"`."""
    if type(value) is int:
        low = high = value
    elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(-[0-9]{1,10})?", value):
        text = value.split("-")
        low, high = int(text[0]), int(text[-1])
    else:
        raise ValueError(f"{shown(value)} is no {what} or range of them")
    if low > high:
        raise ValueError(f"{shown(value)}: the range ends before it begins")
    if low < first or high > last:
        raise ValueError(f"{shown(value)}: {what}s are {first} to {last}")
    return range(low, high + 1)


def _read_ports(value: object) -> tuple[range, ...]:
    return tuple(_read_range(entry, 1, 65535, "port") for entry in _several(value, LIST_MAX))


def _read_uid(value: object) -> range:
    if isinstance(value, str) and _NAME.fullmatch(value) and not re.fullmatch(r"[0-9-]+", value):
        try:
            number = pwd.getpwnam(value).pw_uid
        except KeyError:
            raise ValueError(f"this host has no user {shown(value)}") from None
        return range(number, number + 1)
    return _read_range(value, 0, _UID_LAST, "user")


def _read_uids(value: object) -> tuple[range, ...]:
    return tuple(_read_uid(entry) for entry in _several(value, LIST_MAX))


def _read_cgroup(value: object) -> str:
    if not isinstance(value, str) or not _CGROUP.fullmatch(value) or len(value) > _CGROUP_MAX:
        # The path goes into firewall rules, whose syntax it must not meddle with.
        raise ValueError(
            f"{shown(value)} is not the path of a control group"
            " (letters, digits and any of _ . : @ \\ / + -)"
        )
    path = value.strip("/")
    if not path:
        raise ValueError("the root holds every process; leave the key out instead")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f'{shown(value)}: no part of the path may be empty, "." or ".."')
    return path


def _read_cgroups(value: object) -> tuple[str, ...]:
    return tuple(_read_cgroup(entry) for entry in _several(value, LIST_MAX))


def _read_interfaces(value: object) -> tuple[str, ...]:
    names = _several(value, LIST_MAX)
    for name in names:
        if not isinstance(name, str) or not _INTERFACE.fullmatch(name) or name == "lo":
            raise ValueError(f"{shown(name)} is not the name of an interface to other hosts")
    return tuple(dict.fromkeys(names))


def _say_seconds(value: float) -> str:
    if value == 0:
        return "no time at all"
    return f"{value:g} second{'' if value == 1 else 's'}"


def _say_ranges(word: str, names: Mapping[int, str]) -> Callable[[tuple[range, ...]], str]:
    def say(ranges: tuple[range, ...]) -> str:
        words = []
        for numbers in ranges:
            name = names.get(numbers.start)
            if len(numbers) > 1:
                words.append(f"{numbers.start} to {numbers[-1]}")
            else:
                words.append(f"{numbers.start} ({name})" if name else str(numbers.start))
        several = len(ranges) > 1 or len(ranges[0]) > 1
        return f"{word}{'s' if several else ''} {_listed(words)}"

    return say


def _say_families(families: tuple[int, ...]) -> str:
    return _listed([f"IPv{family}" for family in families], "and") or "those that this host has"


SOCKET: Final = Kind("an absolute path of at most 107 bytes", _read_socket, str)
DIRECTORY: Final = Kind("an absolute path", _read_path, str)
PSK: Final = Kind(
    "a name of 1 to 64 letters, digits, dots, dashes and underscores, no dot or dash first",
    _read_psk,
    lambda name: f'"{name}"',
)
KEYLOG: Final = Kind(
    '"none" or an absolute path',
    lambda value: None if value == "none" else _read_path(value),
    lambda path: str(path or "no file"),
)
LOG: Final = Kind('"auto", "stderr", "journald" or an absolute path', _read_log, str)
USER: Final = Kind("a user name", _read_user, str)
FAMILIES: Final = Kind('"auto", 4, 6 or [4, 6]', _read_families, _say_families)
SECONDS: Final = Kind("seconds, 0 to 86400", _read_seconds, _say_seconds)
BOOLEAN: Final = Kind("true or false", _read_boolean, lambda value: "yes" if value else "no")
BYTES: Final = Kind(
    f'"limit" or a number of bytes from {_REKEY_MIN} to 2^60',
    _read_bytes,
    lambda value: "as many bytes as the algorithm allows" if value is None else f"{value:,} bytes",
)
TEPS: Final = Kind(
    "a name, a number, or a list of them", _numbers(TEP_NAMES, "key agreement"), _named(TEP_NAMES)
)
AEADS: Final = Kind(
    "a name, a number, or a list of them", _numbers(AEAD_NAMES, "cipher"), _named(AEAD_NAMES)
)
NETWORKS: Final = Kind(
    "an address, a network, or a list of them",
    _read_networks,
    lambda networks: _listed([_say_network(network) for network in networks]),
)
PORTS: Final = Kind(
    'a port, a range such as "8000-8099", or a list of them',
    _read_ports,
    _say_ranges("port", _PORT_NAMES),
)
UIDS: Final = Kind(
    'a number, a user name, a range such as "1000-1999", or a list of them',
    _read_uids,
    _say_ranges("user", {0: "root"}),
)
CGROUPS: Final = Kind(
    "a path below the root of cgroup v2, or a list of them", _read_cgroups, _listed
)
INTERFACES: Final = Kind("an interface, or a list of them", _read_interfaces, _listed)


def _say_network(network: Network) -> str:
    """A network of one address is that address."""
    return str(network.network_address if network.num_addresses == 1 else network)
