"""RFC 8548 sections 3.3 to 3.5: the key schedule, as one small class a stage.

```
PRK = ss[0]        ss[i] = CPRF(ss[i-1], 01, 32)         sn[0] = "", sn[i] = nonce_a | nonce_b

ss[i] -> session_id = TEP byte | CPRF(ss[i], 02 | sn[i], 32)      33 bytes
      -> mk[0]      = CPRF(ss[i], 03 | sn[i], 32)        mk[j] = CPRF(mk[j-1], 03, 32)
      -> resume[i]  = CPRF(ss[i], 06, 18)                original A's half | original B's half
                      (`ResumptionForm.SESSION_ID`: CPRF(ss[i], 02, 9), which both send)

mk[j] -> k_ab[j]    = CPRF(mk[j], 04, ae_key_len + ae_nonce_len)
      -> k_ba[j]    = CPRF(mk[j], 05, ae_key_len + ae_nonce_len)
```

A stage hands out only what is legal there.  Going to the next stage consumes
the former one: its secret is wiped, and using it again raises `RuntimeError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256

from tcpcrypt import _fast
from tcpcrypt.crypto.aead import AeadParameters
from tcpcrypt.crypto.kdf import cprf
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import (
    CONST_KEY_A,
    CONST_KEY_B,
    CONST_NEXTK,
    CONST_REKEY,
    CONST_RESUME,
    CONST_SESSID,
    K_LEN,
    RESUME_ID_LEN,
    RESUME_LEN,
    RESUME_NONCE_MAX,
    SESSION_ID_LEN,
)
from tcpcrypt.wire.profile import ResumptionForm

__all__ = ["MasterKey", "SessionSecret", "TrafficKeys"]

_SN_MAX: Final = 2 * RESUME_NONCE_MAX + SHA256.digest_size
"""Two nonces, and the hash that another TEP may put behind them."""


@dataclass(frozen=True, slots=True)
class TrafficKeys:
    """RFC 8548 section 3.3: k_ab[j] and k_ba[j], by the roles in the session of ss[0].

    Each is an AEAD key and a nonce randomizer.
    """

    ab: Secret
    ba: Secret

    def wipe(self) -> None:
        """Forget both.  Idempotent."""
        self.ab.wipe()
        self.ba.wipe()


class MasterKey:
    """RFC 8548 section 3.3: mk[j], awaiting the next rekeying."""

    __slots__ = ("_mk", "generation")

    def __init__(self, mk: Secret, generation: int = 0) -> None:
        self._mk = mk
        self.generation = generation
        """j"""

    def traffic_keys(self, aead: AeadParameters) -> TrafficKeys:
        """k_ab[j] and k_ba[j] for one AEAD algorithm."""
        length = aead.traffic_key_len
        return TrafficKeys(cprf(self._mk, CONST_KEY_A, length), cprf(self._mk, CONST_KEY_B, length))

    def advance(self) -> MasterKey:
        """Section 3.8: mk[j+1]; wipes mk[j]."""
        following = MasterKey(cprf(self._mk, CONST_REKEY, K_LEN), self.generation + 1)
        self._mk.wipe()
        return following

    def wipe(self) -> None:
        """Forget mk[j].  Idempotent."""
        self._mk.wipe()

    def __repr__(self) -> str:
        return f"<MasterKey {self.generation}{' wiped' if self._mk.wiped else ''}>"


class SessionSecret:
    """RFC 8548 sections 3.3 and 3.5: ss[i], awaiting its one use.

    Takes over the `Secret` that it is given.  `form` is how it is named on the
    wire, which all that come of it share.
    """

    __slots__ = ("_ss", "form", "index")

    def __init__(
        self,
        ss: Secret,
        index: int = 0,
        form: ResumptionForm = ResumptionForm.RESUME_IDENTIFIER,
    ) -> None:
        if len(ss) != K_LEN:
            raise LocalError(f"ss[i] has {K_LEN} bytes, not {len(ss)}")
        self._ss = ss
        self.form = form
        self.index = index
        """i"""

    @classmethod
    def from_prk(cls, prk: Secret) -> SessionSecret:
        """ss[0], which is PRK (section 3.3)."""
        return cls(prk)

    def resume_ids(self) -> tuple[bytes, bytes]:
        """Section 3.5: resume[i], as the halves that original A and original B send.

        Nine bytes each.  These go over the wire in clear, so they are no secret.
        """
        if self.form is ResumptionForm.SESSION_ID:
            with cprf(self._ss, CONST_SESSID, RESUME_ID_LEN) as start:
                return (bytes(start.view()),) * 2
        with cprf(self._ss, CONST_RESUME, RESUME_LEN) as resume:
            octets = bytes(resume.view())
        return octets[:RESUME_ID_LEN], octets[RESUME_ID_LEN:]

    def identifiers(self, steps: int, half: int, prefix: bytes) -> tuple[bytes, ...]:
        """`prefix` and one half of resume[i], resume[i+1], ..., for `steps` indices.

        `half` is the role in the original session of the host that sends them.
        """
        if self.form is ResumptionForm.SESSION_ID:
            return self._session_names(steps, prefix)
        return _fast.resume_identifiers(self._ss, steps, half, prefix)

    def peek_next(self) -> SessionSecret:
        """ss[i+1], this one staying as it is: for the look-ahead of a cache."""
        return SessionSecret(cprf(self._ss, CONST_NEXTK, K_LEN), self.index + 1, self.form)

    def _session_names(self, steps: int, prefix: bytes) -> tuple[bytes, ...]:
        names = [prefix + self.resume_ids()[0]]
        if steps > 1:
            following = self.peek_next()
            names += following._session_names(steps - 1, prefix)
            following.wipe()
        return tuple(names)

    def use(self, tep_byte: int, sn: bytes) -> tuple[bytes, MasterKey, SessionSecret]:
        """Secure one connection: its session ID, mk[0], and ss[i+1].  Wipes ss[i].

        `tep_byte` is the TEP's byte in host B's SYN option of this connection,
        bit v included; `sn` is nonce_a | nonce_b by original role, empty for
        ss[0] (section 3.5), or what another TEP makes of them.  Raises
        `LocalError` for an `sn` that cannot be.
        """
        if len(sn) > (_SN_MAX if self.index else 0):
            raise LocalError(f"sn[{self.index}] cannot have {len(sn)} bytes")
        with cprf(self._ss, CONST_SESSID + sn, SESSION_ID_LEN - 1) as rest:
            session_id = bytes((tep_byte,)) + rest.view()
        master = MasterKey(cprf(self._ss, CONST_REKEY + sn, K_LEN))
        following = self.peek_next()
        self._ss.wipe()
        return session_id, master, following

    def copy(self) -> Secret:
        """ss[i], this one staying as it is: for a key log."""
        return Secret(self._ss.view())

    def take(self) -> Secret:
        """Hand ss[i] over to who keeps it; consumes this object, not the secret."""
        with self._ss as ss:
            return Secret(ss.view())

    def wipe(self) -> None:
        """Forget ss[i].  Idempotent."""
        self._ss.wipe()

    def __repr__(self) -> str:
        return f"<SessionSecret {self.index}{' wiped' if self._ss.wiped else ''}>"
