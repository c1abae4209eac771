"""Every key that seals or opens and every secret that is made, watched from outside."""

from __future__ import annotations

import sys
from typing import Any

from tcpcrypt.crypto.aead import AeadParameters
from tcpcrypt.crypto.secret import Secret


class _Watched:
    """What seals or opens under one key."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.wiped = False

    def wipe(self) -> None:
        self.wiped = True
        self._real.wipe()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Sealer(_Watched):
    def __init__(self, real: Any, key: bytes, watch: Watch) -> None:
        super().__init__(real)
        self._key, self._watch = key, watch

    def seal(self, data: object, out: bytearray, offset: int, *more: object) -> Any:
        sealed = self._real.seal(data, out, offset, *more)
        self._watch.frames_sealed(self._key, offset, bytes(out[: sealed[1]]))
        return sealed


class Watch:
    """From its making until `stop`."""

    def __init__(self) -> None:
        self.frames: dict[tuple[bytes, int], bytes] = {}
        """By key and frame id: RFC 8548 section 4.2.3 makes a nonce of each."""
        self.ciphers: list[_Watched] = []
        self.secrets: list[Secret] = []
        self._real = AeadParameters.sealer, AeadParameters.opener, Secret.__init__
        self._made_by = Secret.__dict__["made_by"]
        sealer, opener, init = self._real
        made_by = Secret.made_by
        watch = self

        def watched_sealer(parameters: Any, key: Secret, *more: Any) -> _Sealer:
            found = _Sealer(sealer(parameters, key, *more), bytes(key.view()), watch)
            watch.ciphers.append(found)
            return found

        def watched_opener(parameters: Any, key: Secret, *more: Any) -> _Watched:
            found = _Watched(opener(parameters, key, *more))
            watch.ciphers.append(found)
            return found

        def watched_init(secret: Secret, octets: Any) -> None:
            init(secret, octets)
            watch.secrets.append(secret)

        def watched_made_by(_cls: type[Secret], *arguments: Any) -> Secret:
            secret = made_by(*arguments)
            watch.secrets.append(secret)
            return secret

        changed: Any = AeadParameters
        changed.sealer, changed.opener = watched_sealer, watched_opener
        changed = Secret
        changed.__init__, changed.made_by = watched_init, classmethod(watched_made_by)

    def stop(self) -> None:
        changed: Any = AeadParameters
        changed.sealer, changed.opener, init = self._real
        changed = Secret
        changed.__init__, changed.made_by = init, self._made_by

    def frames_sealed(self, key: bytes, offset: int, wire: bytes) -> None:
        at = 0
        while at < len(wire):
            end = at + 3 + int.from_bytes(wire[at + 1 : at + 3])
            name = key, offset + at
            assert name not in self.frames, f"frame id {offset + at} used twice under one key"
            self.frames[name] = wire[at:end]
            at = end

    def left(self) -> list[Secret]:
        """Secrets that were not wiped, and that somebody beside this list still has."""
        # The list, the name below and the argument of getrefcount are three.
        return [s for s in self.secrets if not s.wiped and sys.getrefcount(s) > 3]

    def forget(self) -> None:
        """What was looked at is not looked at again."""
        self.ciphers.clear()
        self.secrets.clear()
