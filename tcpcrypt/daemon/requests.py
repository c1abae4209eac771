"""What may be asked over the control socket: one table of methods, and what reads requests.

A request is a line of JSON, `{"v": 1, "method": NAME, "params": {...}}`, and is
believed in nothing: what is not exactly of that form is a `RefusedError` that
names the place.  docs/control.md describes each method.
"""

from __future__ import annotations

import enum
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from tcpcrypt.core.policy import Policy
from tcpcrypt.daemon.review import sentence
from tcpcrypt.errors import LocalError

__all__ = [
    "LATER",
    "METHODS",
    "VERSION",
    "WAIT_MAX",
    "Access",
    "Caller",
    "Code",
    "Desk",
    "Overview",
    "RefusedError",
    "Request",
    "describe_policy",
    "parse",
]

VERSION: Final = 1
WAIT_MAX: Final = 60.0
"""Seconds that `find` may wait."""
SESSIONS_MAX: Final = 10_000
"""Entries in one answer; the rest is had with `after`."""
_SETTLING: Final = 0.2
"""Seconds after which a connection that is not known is none of ours.  The
kernel shows an application its connection before the daemon has accepted it."""
_UNDECIDED: Final = frozenset({"connecting", "exchanging"})

LATER: Final = object()
"""Instead of a result: ask again in a moment."""


class Code(enum.Enum):
    """Why there is no result."""

    BAD_REQUEST = "bad-request"
    """Not a line of JSON of the form above."""
    BAD_VERSION = "bad-version"
    UNKNOWN_METHOD = "unknown-method"
    BAD_PARAMS = "bad-params"
    TOO_LONG = "too-long"
    """The line is longer than the server reads; it closes the connection."""
    DENIED = "denied"
    """Not for this user."""
    BUSY = "busy"
    """Too many clients, or too much that nobody has read yet."""
    UNAVAILABLE = "unavailable"
    """Nothing to do it to, such as a confirmation that nobody waits for."""
    FAILED = "failed"
    """The daemon could not do it; its log may say more."""


class RefusedError(LocalError):
    """A request that gets an error for an answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Overview(Protocol):
    """What a host tells of itself; JSON values throughout, and never a secret."""

    def status(self) -> dict[str, Any]: ...

    def sessions(self) -> list[dict[str, Any]]:
        """One entry for each live connection."""

    def peers(self) -> list[dict[str, Any]]:
        """One entry for each remote host seen lately."""

    def find(self, local: tuple[str, int], remote: tuple[str, int]) -> dict[str, Any] | None:
        """The connection of the application's socket with these addresses."""

    def flush(self, peer: str | None) -> int:
        """Forget what is kept of a peer, or of all; returns of how many."""


class Access(enum.Enum):
    """Who may."""

    EVERYBODY = "everybody"
    ADMINISTRATOR = "root and the daemon's own user"
    ROOT = "root"


class Caller(NamedTuple):
    """The other end, as the kernel names it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Desk:
    """What requests are answered from."""

    overview: Overview
    policies: Callable[[], Sequence[Policy]]
    confirm: Callable[[], None] | None = None
    trust_changed: Callable[[], None] | None = None


Params = Mapping[str, Any]
Handler = Callable[[Desk, Params, float], object]
"""Takes the checked parameters and how long the caller has waited, in seconds."""


class Param(NamedTuple):
    """One parameter: what checks and converts it, and what stands for its absence."""

    convert: Callable[[str, Any], Any]
    default: Any = None
    required: bool = False


class Method(NamedTuple):
    """One thing that may be asked."""

    handle: Handler
    access: Access
    params: Mapping[str, Param]


class Request(NamedTuple):
    """One that is well-formed."""

    method: Method
    name: str
    params: Params


def parse(line: bytes) -> Request:
    """A request from its line.  Raises `RefusedError`."""
    value = _json(line)
    if not isinstance(value, dict):
        _refuse(Code.BAD_REQUEST, "the request is not an object")
    if type(value.get("v")) is not int or value["v"] != VERSION:
        _refuse(Code.BAD_VERSION, f"v: this server speaks version {VERSION}")
    for key in value:
        if key not in ("v", "method", "params"):
            _refuse(Code.BAD_REQUEST, f"{_shown(key)}: a request has no such key")
    name = value.get("method")
    if not isinstance(name, str):
        _refuse(Code.BAD_REQUEST, "method: not a string")
    method = METHODS.get(name)
    if method is None:
        _refuse(Code.UNKNOWN_METHOD, f"method: {_shown(name)} is none of {', '.join(METHODS)}")
    return Request(method, name, _params(name, method, value.get("params", {})))


def _params(name: str, method: Method, given: Any) -> Params:
    if not isinstance(given, dict):
        _refuse(Code.BAD_REQUEST, "params: not an object")
    for key in given:
        if key not in method.params:
            known = ", ".join(method.params) or "nothing"
            _refuse(Code.BAD_PARAMS, f"params.{_shown(key)}: {name} takes {known}")
    params = {}
    for key, param in method.params.items():
        if key in given:
            params[key] = param.convert(f"params.{key}", given[key])
        elif param.required:
            _refuse(Code.BAD_PARAMS, f"params.{key}: missing")
        else:
            params[key] = param.default
    return params


def _json(line: bytes) -> Any:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        _refuse(Code.BAD_REQUEST, f"byte {error.start}: not UTF-8")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        _refuse(Code.BAD_REQUEST, f"character {error.pos}: not JSON: {error.msg}")
    except RecursionError:
        _refuse(Code.BAD_REQUEST, "nested too deeply")
    except ValueError:
        _refuse(Code.BAD_REQUEST, "a number has too many digits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, one in pairs:
        if name in value:
            _refuse(Code.BAD_REQUEST, f"{_shown(name)}: given twice")
        value[name] = one
    return value


def _constant(name: str) -> NoReturn:
    _refuse(Code.BAD_REQUEST, f"{name} is no JSON number")


def _refuse(code: Code, message: str) -> NoReturn:
    raise RefusedError(code, message)


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else text[:40] + "...")


# --- parameters ------------------------------------------------------------------


def _address(place: str, value: Any) -> str:
    """The address as the daemon writes it: no zone, and IPv4 out of its IPv6 clothes."""
    if not isinstance(value, str):
        _refuse(Code.BAD_PARAMS, f"{place}: not a string with an IP address")
    try:
        address = ipaddress.ip_address(value.partition("%")[0])
    except ValueError:
        _refuse(Code.BAD_PARAMS, f"{place}: {_shown(value)} is not an IP address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _any_address(place: str, value: Any) -> str | None:
    return None if value is None else _address(place, value)


def _endpoint(place: str, value: Any) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2:
        _refuse(Code.BAD_PARAMS, f"{place}: not an array of an address and a port")
    return _address(f"{place}[0]", value[0]), _integer(1, 65535)(f"{place}[1]", value[1])


def _integer(first: int, last: int) -> Callable[[str, Any], int]:
    def convert(place: str, value: Any) -> int:
        if type(value) is not int or not first <= value <= last:
            _refuse(Code.BAD_PARAMS, f"{place}: not an integer from {first} to {last}")
        return value

    return convert


def _wait(place: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= WAIT_MAX:
        _refuse(Code.BAD_PARAMS, f"{place}: not a number of seconds from 0 to {WAIT_MAX:g}")
    return float(value)


# --- methods ---------------------------------------------------------------------


def _status(desk: Desk, _params: Params, _waited: float) -> object:
    return desk.overview.status()


def _sessions(desk: Desk, params: Params, _waited: float) -> object:
    after, limit = params["after"], params["limit"]
    entries = [entry for entry in desk.overview.sessions() if entry["id"] > after]
    entries.sort(key=lambda entry: int(entry["id"]))
    return {"sessions": entries[:limit], "more": len(entries) > limit}


def _peers(desk: Desk, _params: Params, _waited: float) -> object:
    return {"peers": desk.overview.peers()}


def _find(desk: Desk, params: Params, waited: float) -> object:
    entry = desk.overview.find(params["local"], params["remote"])
    patience = params["wait"] if entry is not None else min(params["wait"], _SETTLING)
    if waited < patience and (entry is None or entry["state"] in _UNDECIDED):
        return LATER
    return {"session": entry}


def _flush(desk: Desk, params: Params, _waited: float) -> object:
    return {"forgotten": desk.overview.flush(params["peer"])}


def _policy(desk: Desk, _params: Params, _waited: float) -> object:
    policies = desk.policies()
    return {"policies": [describe_policy(n, policy) for n, policy in enumerate(policies, 1)]}


def _confirm(desk: Desk, _params: Params, _waited: float) -> object:
    if desk.confirm is None:
        _refuse(Code.UNAVAILABLE, "nothing waits to be confirmed")
    desk.confirm()
    return {"confirmed": True}


def _trust_changed(desk: Desk, _params: Params, _waited: float) -> object:
    if desk.trust_changed is None:
        _refuse(Code.UNAVAILABLE, "nobody keeps identities here")
    desk.trust_changed()
    return {"noted": True}


METHODS: Final[Mapping[str, Method]] = {
    "status": Method(_status, Access.EVERYBODY, {}),
    "sessions": Method(
        _sessions,
        Access.EVERYBODY,
        {
            "after": Param(_integer(0, 2**63 - 1), 0),
            "limit": Param(_integer(1, SESSIONS_MAX), SESSIONS_MAX),
        },
    ),
    "peers": Method(_peers, Access.EVERYBODY, {}),
    "find": Method(
        _find,
        Access.EVERYBODY,
        {
            "local": Param(_endpoint, required=True),
            "remote": Param(_endpoint, required=True),
            "wait": Param(_wait, 0.0),
        },
    ),
    "policy": Method(_policy, Access.EVERYBODY, {}),
    "flush": Method(_flush, Access.ADMINISTRATOR, {"peer": Param(_any_address)}),
    "trust_changed": Method(_trust_changed, Access.ROOT, {}),
    "confirm": Method(_confirm, Access.ROOT, {}),
}


# --- policies ----------------------------------------------------------------------


def describe_policy(number: int, policy: Policy) -> dict[str, object]:
    """A policy as JSON, with a sentence that says what it does."""
    match = policy.match
    conditions: dict[str, object] = {
        "local": [str(network) for network in match.local],
        "remote": [str(network) for network in match.remote],
        "ports": [_range(ports) for ports in match.ports],
        "uid": [_range(uids) for uids in match.uids],
        "cgroup": list(match.cgroups),
        "inner": list(match.inner),
    }
    if match.direction is not None:
        conditions["direction"] = match.direction.value
    return {
        "number": number,
        "mode": policy.mode.value,
        "auth": policy.auth,
        "pq": policy.pq,
        "psk": policy.psk or None,
        "plane": policy.plane,
        "match": {name: value for name, value in conditions.items() if value},
        "meaning": sentence(policy),
    }


def _range(values: range) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
