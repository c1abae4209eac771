"""Keeps the files of identities: reads them as root, and writes down what is learnt.

Whoever serves connections is given a `Trust` at the start, and another one
whenever the files have changed; it tells what it learns (`take`), which is
written in batches.  A file with a fault changes nothing: what was read last
stays in force, and the log says so.  A fault of the secrets keeps no revocation
of a peer's key waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.auth.identity import Identity, ensure_identity, load_identity
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.auth.learned import Learned, remember
from tcpcrypt.auth.psk import PskStore, load_psks
from tcpcrypt.auth.trust import Trust
from tcpcrypt.core.policy import Policy
from tcpcrypt.crypto import hybrid
from tcpcrypt.daemon.configuration import DaemonSettings
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.authentication import needs_trust
from tcpcrypt.runtime.context import Report
from tcpcrypt.runtime.loop import Loop

__all__ = ["PSKS", "Keeper"]

PSKS: Final = Path("/etc/tcpcrypt/psk")
"""Where pre-shared keys may be, beside the directory `psk` of the state."""
_PERIOD: Final = 1.0
"""Seconds between two looks at the files, and between two writings."""
_WAITING_MAX: Final = 4096
"""What is learnt in one period; an attacker who makes up hosts gets no more of the disk."""
_PATIENCE: Final = 1.0
"""Seconds to wait for another writer; the worker may want sockets meanwhile."""

ReadIdentity = Callable[[Path], tuple[Identity, bool]]
"""Reads the identity; whether it was made now."""
Give = Callable[[Trust, int], None]
"""Takes a new state, and how much of what was told (`take`) is in it."""


class Keeper:
    """The directory of the state."""

    def __init__(self, daemon: DaemonSettings, report: Report) -> None:
        self._state = daemon.state
        self._enforce = daemon.tofu_enforce
        self._report = report
        self._fingerprint = ""
        self._file = KnownPeersFile(daemon.state / "known_peers", patience=_PATIENCE)
        self._known = self._file.current
        """What was given on last."""
        self._policies: Sequence[Policy] = ()
        self._needed = False
        self._authenticates = False
        """Whether a policy ever asked for keys: connections may live on that they proved."""
        self._stamp: object = None
        self._waiting: list[Learned] = []
        self._settled = 0
        """How much of what was taken is written, or cannot be."""
        self._taken = 0
        self._dropped = 0
        self._faults: dict[str, str] = {}
        """What reading and writing failed of and was told; it is not told again."""
        self._give: Give = lambda _trust, _applied: None
        self._acknowledge: Callable[[int], None] = lambda _applied: None

    def load(self, policies: Sequence[Policy], daemon: DaemonSettings) -> Trust | None:
        """What `policies` need; None: nothing.  A first identity is made now.

        Raises `LocalError` if there is anything wrong with it.
        """
        wanted = [policy for policy in policies if needs_trust(policy)]
        if not wanted and not self._needed:
            return None
        trust = self._read(wanted, daemon.tofu_enforce, ensure_identity)
        self._policies, self._enforce, self._needed = wanted, daemon.tofu_enforce, True
        return trust

    def _read(
        self, policies: Sequence[Policy], enforce: bool, read_identity: ReadIdentity
    ) -> Trust:
        stamp = self._look()
        identity, psks = None, PskStore()
        with_hybrid = hybrid.available()
        if any(policy.auth != "none" for policy in policies):
            self._authenticates = True
        if self._authenticates:
            identity, made = read_identity(self._state / "identity")
            self._fingerprint = identity.fingerprint
            if made:
                self._report("identity", {"fingerprint": identity.fingerprint, "made": "now"})
                stamp = self._look()
            psks = load_psks(*self._psk_directories())
        self._file.refresh()
        for policy in policies:
            if policy.auth == "psk" and psks.by_name(policy.psk) is None:
                raise LocalError(
                    f"there is no pre-shared key {policy.psk!r} in"
                    f" {' or '.join(map(str, self._psk_directories()))}"
                )
            if policy.pq == "require" and not with_hybrid:
                raise LocalError(
                    "a policy requires post-quantum keys, which the installed `cryptography`"
                    " does not have"
                )
        self._stamp, self._known = stamp, self._file.current
        return Trust(self._file.current.copy(), psks, identity, with_hybrid, enforce)

    def _psk_directories(self) -> tuple[Path, Path]:
        return self._state / "psk", PSKS

    # --- while it serves -------------------------------------------------------------

    def attach(
        self, loop: Loop, give: Give, acknowledge: Callable[[int], None] = lambda _applied: None
    ) -> None:
        """Look after the files from now on.

        `give` takes each new state; `acknowledge` is told how much of what was
        taken is written, where nothing else has changed.
        """
        self._give, self._acknowledge = give, acknowledge
        loop.call_every(_PERIOD, self.look)

    def identity(self) -> dict[str, object]:
        """For a line of the log: who this host is, if a policy ever wanted to know."""
        return {"identity": self._fingerprint} if self._fingerprint else {}

    @property
    def applied(self) -> int:
        """How much of what was taken is in what `load` or `give` hands out now."""
        return self._settled

    def take(self, learned: Learned) -> None:
        """Write this down soon, if any policy has ever wanted to know peers."""
        if not self._needed:
            return
        self._taken += 1
        if len(self._waiting) < _WAITING_MAX:
            self._waiting.append(learned)
        else:
            self._dropped += 1

    def look(self) -> None:
        """Look now, for somebody says that something has changed."""
        if self._needed:
            self._write()
            self._compare()

    def flush(self) -> None:
        """Write what is left to write, before the end."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        if self._dropped:
            self._report("exhausted", {"reason": f"{self._dropped} proofs are not written down"})
            self._dropped = 0
        if not self._waiting:
            return
        try:
            if self._file.refresh():
                self._stamp = None  # to be given on below, with what is written now
            expected = self._file.current.copy()
            written = self._file.learn(self._waiting)
            remember(expected, written, 0)
        except (LocalError, OSError) as error:
            self._failed("writing", str(error))
            return
        self._faults.pop("writing", None)
        complete = len(written) == len(self._waiting) and len(expected) == len(self._file.current)
        self._waiting.clear()
        self._settled = self._taken
        if complete:
            self._acknowledge(self._taken)
        else:
            self._stamp = None

    def _compare(self) -> None:
        """Give on what has changed since it was read last."""
        try:
            if not self._file.refresh() and self._look() == self._stamp:
                self._faults.pop("reading", None)
                return
            # An identity that is gone is not replaced: peers would refuse another one.
            trust = self._read(self._policies, self._enforce, lambda p: (load_identity(p), False))
        except (LocalError, OSError) as error:
            self._stamp = None  # what has changed is still to be given on
            self._failed("reading", str(error))
            self._give_known()
            return
        self._faults.pop("reading", None)
        # What waits to be written is not in it.
        self._give(trust, self.applied)

    def _give_known(self) -> None:
        """Give on what the file says of peers, while the secrets cannot be read.

        Not if the identity is gone: then all of the state may be, as when its
        disk is, and nobody is to become unknown by that.
        """
        known, identity = self._file.current, self._state / "identity"
        if known is not self._known and known != self._known and identity.exists():
            self._known = known
            trust = Trust(known.copy(), PskStore(), None, hybrid.available(), self._enforce)
            trust.secrets_stay = True
            self._give(trust, self.applied)

    def _failed(self, what: str, reason: str) -> None:
        if reason not in self._faults.values():
            self._faults[what] = reason
            self._report("trust_failed", {"reason": reason, "kept": "what was in force"})

    def _look(self) -> object:
        """What tells one state of the secret files from another."""
        found: list[tuple[int, int, int] | None] = []
        for path in (self._state / "identity", *self._psk_directories()):
            try:
                seen = os.stat(path)
                found.append((seen.st_ino, seen.st_mtime_ns, seen.st_size))
            except FileNotFoundError:
                found.append(None)
        return tuple(found)
