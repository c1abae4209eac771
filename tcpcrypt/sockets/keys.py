"""The directory of a user's keys: who this program is, and whom it knows.

```
identity      the static key, made at the first use
known_peers   keys of others, and how far they are trusted
psk/NAME      pre-shared keys
```

It is laid out as the daemon's state is, so that `tcpcrypt id|psk|peers --state
DIR` show and change it.  Whose it is by default: `TCPCRYPT_KEYS` names it;
otherwise root has the daemon's, /var/lib/tcpcrypt, and anybody else
`$XDG_STATE_HOME/tcpcrypt` or ~/.local/state/tcpcrypt.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar, Final

from tcpcrypt.auth.identity import Identity, ensure_identity
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.auth.learned import Learned, News, remember
from tcpcrypt.auth.psk import PskStore, changed_psks, load_psks
from tcpcrypt.auth.secret_file import make_directory
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.auth.trust import Trust, TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.crypto import hybrid
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.preface import Usual
from tcpcrypt.sockets.sessions import SharedResumption

__all__ = ["KeyDirectory", "Keys", "default_directory"]

_SYSTEM: Final = Path("/var/lib/tcpcrypt")
_SYSTEM_PSKS: Final = Path("/etc/tcpcrypt/psk")
_VARIABLE: Final = "TCPCRYPT_KEYS"
_REST: Final = 9
"""How much longer than it took to write what strangers have shown nothing of that kind is
written: they have a tenth of a server's time for it, however many keys they make."""

Stamp = tuple[int, int, int] | None


def default_directory() -> Path:
    """Where the keys of this process are, if nothing else is said."""
    if named := os.environ.get(_VARIABLE):
        return Path(named)
    if os.geteuid() == 0:
        return _SYSTEM
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification of these directories: one that is not absolute is to be ignored.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "tcpcrypt"


_Settled = tuple[Identity | None, PskStore, Config, TrustTerms, Usual]


class KeyDirectory:
    """One directory, read anew when it has changed; for any number of threads.

    `at` gives every caller of a process the same one, so that all connections
    share what they may resume.
    """

    _all: ClassVar[dict[str, KeyDirectory]] = {}
    _all_lock: ClassVar = threading.Lock()

    def __init__(self, path: Path) -> None:
        """Reads nothing yet."""
        self.path = path
        self.outgoing = SharedResumption()
        """Sessions with services."""
        self.incoming = SharedResumption()
        """Sessions with those that connected."""
        self.settled: dict[Hashable, _Settled] = {}
        """By what connections to whom go (`tcpcrypt.sockets.arrangement`), with what they
        were made of."""
        self._identity_path = path / "identity"
        self._psk_paths = (path / "psk", *((_SYSTEM_PSKS,) if path == _SYSTEM else ()))
        # Looked at for each connection, for which a `Path` is slow.
        self._identity_name = str(self._identity_path)
        self._psk_names = [str(path) for path in self._psk_paths]
        self._file = KnownPeersFile(path / "known_peers")
        self._trust: Trust | None = None
        self._identity_stamp: Stamp = None
        self._psks_stamp: tuple[Stamp, ...] = ()
        self._unwritten: list[Learned] = []
        """What is known and yet to be written, when `_rest_until` is past."""
        self._rest_until = 0.0
        self._lock = threading.RLock()

    @classmethod
    def at(cls, keys: Keys = None) -> KeyDirectory:
        """The directory at a path, the default one for None."""
        if isinstance(keys, KeyDirectory):
            return keys
        path = os.path.abspath(default_directory() if keys is None else keys)
        with cls._all_lock:
            found = cls._all.get(path)
            if found is None:
                found = cls._all[path] = cls(Path(path))
            return found

    @property
    def identity(self) -> Identity:
        """The own key, made now if there is none.  Raises `LocalError` as `trust` does."""
        identity = self.trust().identity
        if identity is None:  # `trust` never leaves it out
            raise LocalError(f"{self.path}: no identity")
        return identity

    def trust(self) -> Trust:
        """What the directory says now, always the same object.

        Raises `LocalError` for a file with a fault, or one that others could
        have written or read; nothing is believed then.
        """
        with self._lock:
            return self._refreshed()

    def _refreshed(self) -> Trust:
        trust = self._trust
        stamp = _stamp(self._identity_name)
        if trust is None or stamp is None or stamp != self._identity_stamp:
            make_directory(self.path)
            identity, _made = ensure_identity(self._identity_path)
            self._identity_stamp = _stamp(self._identity_name)
            if trust is None:
                trust = Trust(KnownPeers(), PskStore(), identity, hybrid.available())
            elif trust.identity is None or trust.identity.public != identity.public:
                # What was proved to another key is not this one's to go on with.
                trust.identity = identity
                self.outgoing.flush()
                self.incoming.flush()
        psks_stamp = tuple([_stamp(name) for name in self._psk_names])
        if psks_stamp != self._psks_stamp:
            psks = load_psks(*self._psk_paths)
            self._forget(changed_psks(trust.psks, psks))
            trust.psks, self._psks_stamp = psks, psks_stamp
        if self._file.refresh() or self._trust is None:
            self._know(trust)
        self._trust = trust
        if self._unwritten and time.monotonic() >= self._rest_until:
            self.write()
        return trust

    def _know(self, trust: Trust) -> None:
        """What the file says, and what is still to be written there."""
        trust.known = self._file.current.copy()
        remember(trust.known, self._unwritten, int(trust.clock()))

    def _forget(self, psks: frozenset[str]) -> None:
        """Sessions that were authenticated by keys which are no more go on no more."""
        if psks:
            for cache in (self.outgoing, self.incoming):
                cache.flush_identity(lambda packed: PeerProof.unpack(packed).psk in psks)

    def learn(self, terms: TrustTerms, proof: PeerProof, *, insist: bool) -> None:
        """Remember what a peer has proved, on the disk, if not at once then soon.

        `insist`: trust is in the memory alone, so that a first contact which
        cannot be remembered is none that counts.  Raises `LocalError` then, and
        `IdentityChangedError` where another process has met another key there
        at the same time.
        """
        with self._lock:
            learned = terms.learn(proof)
            if learned is None:
                return
            if learned.news is News.FULL and insist:
                raise LocalError(f"{self.path}: no room for more known peers; forget some")
            if learned.news not in (News.FIRST, News.AGAIN):
                return
            self._unwritten.append(learned)
            if not insist:
                if time.monotonic() >= self._rest_until:
                    self.write()
                    terms.judge(proof)  # by what others have written
                return
            unwritten, self._unwritten = self._unwritten, []
            try:
                written = learned in self._file.learn(unwritten)
            except LocalError:
                self._relearn()
                if learned.news is News.FIRST:
                    raise
                return
            if not written:
                self._relearn()
                terms.judge(proof)

    def write(self) -> None:
        """Write down what strangers have shown lately, if that is possible."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, []
            if not unwritten:
                return
            begun = time.monotonic()
            try:
                written = self._file.learn(unwritten)
            except LocalError:
                written = []
            if len(written) < len(unwritten):
                self._relearn()
            now = time.monotonic()
            self._rest_until = now + _REST * (now - begun)

    def _relearn(self) -> None:
        """Go by the file again, which has not taken what was learnt."""
        with contextlib.suppress(LocalError):
            self._file.refresh()
        if self._trust is not None:
            self._know(self._trust)

    def __repr__(self) -> str:
        return f"<KeyDirectory {self.path}>"


@atexit.register
def _write_all() -> None:
    """What is left at the end of the program."""
    for directory in list(KeyDirectory._all.values()):
        directory.write()


Keys = KeyDirectory | str | os.PathLike[str] | None
"""What `keys=` takes."""


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None  # whoever reads it says what is wrong
    return found.st_ino, found.st_mtime_ns, found.st_size
