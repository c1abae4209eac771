"""What a process of the daemon gives up before it begins to work.

The worker, which reads what strangers send, keeps nothing: no capability, no
way to gain one, no core dump that could hold a secret, no descriptor but its
own, and no life after its parent's.  Parent and janitor stay root with the
few capabilities that rules and sockets need.

Memory is not locked.  It would have to be all of it, since secrets pass
through objects of Python, and that includes the buffers of ten thousand
relays.  The systemd unit keeps the service out of swap instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import pwd
import resource
import signal
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = [
    "Account",
    "Capability",
    "bound",
    "capabilities",
    "close_others",
    "confine",
    "find_account",
    "name_process",
    "open_descriptors",
    "without_core_dumps",
]

_DEFAULT_USER: Final = "tcpcrypt"
_FALLBACK_USER: Final = "nobody"
_UMASK: Final = 0o077

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """Those of linux/capability.h that a process of ours needs."""

    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the worker runs as."""

    name: str
    uid: int
    gid: int


def find_account(name: str) -> Account | None:
    """The account `name`; where there is no user `tcpcrypt`, `nobody` takes its place.

    None where this user namespace has one user alone, as under `unshare -r`:
    the worker can then only give up its capabilities.  Raises `LocalError` if
    there is no such account, or if it is root's.
    """
    if _one_user_alone():
        return None
    for candidate in (name, _FALLBACK_USER) if name == _DEFAULT_USER else (name,):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(candidate)
            if entry.pw_uid == 0:
                raise LocalError(f"user {candidate} is root, from whom the worker is to be kept")
            return Account(candidate, entry.pw_uid, entry.pw_gid)
    raise LocalError(f"there is no user {name}")


def confine(account: Account | None, parent: int, keep: Collection[int] = ()) -> None:
    """Make this process, a child of process `parent`, one that may nothing.

    It becomes `account`, closes every descriptor but `keep`, and is killed
    when its parent ends.  Raises `LocalError` if any of that is refused; then
    it must not go on.
    """
    if keep:
        close_others(keep)
    os.umask(_UMASK)
    without_core_dumps()
    try:
        _drop_bounding_set(keep=())
        if account is not None:
            os.setgroups([])
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _set_capabilities(())
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # Both are reset when the user changes, hence last.
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError as error:
        raise LocalError(f"the worker cannot be confined: {error.strerror}") from error
    if any(capabilities().values()) or (
        account is not None and os.getresuid() != (account.uid,) * 3
    ):
        raise LocalError("the worker still has privileges")
    if os.getppid() != parent:
        raise SystemExit(1)  # it died before it could take this process along


def bound(keep: Collection[Capability]) -> None:
    """Keep these capabilities of those that this process has, and never gain another.

    Programs that it starts have no more either.  Dropping needs SETPCAP.  The
    process stays dumpable: it has no secrets, and iptables, a child of it,
    must be able to open the lock that it is given under /proc.

    Raises `LocalError`.
    """
    os.umask(_UMASK)
    without_core_dumps()
    try:
        _drop_bounding_set(keep)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _set_capabilities(keep)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise LocalError(f"capabilities cannot be bounded: {error.strerror}") from error


def name_process(name: str) -> None:
    """What `ps -e` and `top` show; 15 bytes at most."""
    _libc.prctl(_PR_SET_NAME, name.encode())


def without_core_dumps() -> None:
    """No core file, for it would hold what the memory holds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_descriptors() -> set[int]:
    """What this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the directory itself
            os.fstat(int(entry))
            found.add(int(entry))
    return found


def close_others(keep: Collection[int] = ()) -> None:
    """Close every descriptor but `keep`, standard input, output and error."""
    for descriptor in open_descriptors() - {0, 1, 2, *keep}:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def capabilities(pid: int | str = "self") -> dict[str, int]:
    """The capability sets of a process, `Inh`, `Prm`, `Eff`, `Bnd` and `Amb`, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name[3:]: int(value, 16)
        for name, _, value in (line.partition(":") for line in lines)
        if name.startswith("Cap")
    }


def _one_user_alone() -> bool:
    mapped = Path("/proc/self/uid_map").read_text().splitlines()
    denied = Path("/proc/self/setgroups").read_text().strip() == "deny"
    return denied or all(line.split()[2] == "1" for line in mapped)


def _drop_bounding_set(keep: Collection[int]) -> None:
    capability = 0
    # The kernel says where its capabilities end.
    while (held := _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if held and capability not in keep:
            _prctl(_PR_CAPBSET_DROP, capability)
        capability += 1


def _set_capabilities(keep: Collection[int]) -> None:
    """Permitted and effective: of `keep` those that the process has; inheritable: none."""
    bits = sum(1 << capability for capability in keep) & capabilities()["Prm"]
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _prctl(option: int, value: int) -> None:
    unsigned = [ctypes.c_ulong(word) for word in (value, 0, 0, 0)]
    if _libc.prctl(option, *unsigned):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
