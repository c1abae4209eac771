"""What opens one connection to who has captured it: a line of a key log.

```
TCPCRYPT_SS <match> <session id> <ss[i]> <sn[i] or -> <aead> <A|B>
```

All but the last field is hex.  `match` is what a capture shows: N_A of a fresh
exchange, and of a resumed session the identifier that its opener sends.  The last
field is the opener's role in the original session, which tells whose key is
k_ab (RFC 8548 section 3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tcpcrypt.core.events import Role
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import K_LEN, NONCE_LEN, RESUME_ID_LEN, SESSION_ID_LEN

__all__ = ["LABEL", "KeyLine", "KeyLog"]

LABEL: Final = "TCPCRYPT_SS"
_NOTHING: Final = "-"
_FIELDS: Final = 7
_AEAD_MAX: Final = 0xFFFF
_MATCH_LENS: Final = (NONCE_LEN, RESUME_ID_LEN)


@dataclass(frozen=True, slots=True)
class KeyLine:
    """The secret of one session; whoever has it reads the whole connection."""

    match: bytes
    """32 bytes of N_A, or 9 of an identifier."""
    session_id: bytes
    ss: Secret = field(repr=False)
    """ss[i], 32 bytes."""
    sn: bytes
    """sn[i], empty for ss[0]."""
    aead: int
    opener: Role
    """Role, in the original session, of the host that opened this connection."""

    @property
    def resumed(self) -> bool:
        """Whether it is about a resumed session."""
        return len(self.match) == RESUME_ID_LEN

    def build(self) -> str:
        """The line, without its end."""
        sn = self.sn.hex() or _NOTHING
        ss = self.ss.view().hex()
        return (
            f"{LABEL} {self.match.hex()} {self.session_id.hex()} {ss} {sn}"
            f" {self.aead:04x} {self.opener.name}"
        )

    @classmethod
    def parse(cls, line: str) -> KeyLine:
        """The inverse of `build`.  Raises `LocalError`, which shows nothing of the line."""
        words = line.split()
        if len(words) != _FIELDS or words[0] != LABEL:
            raise LocalError(f"not a line of {_FIELDS} fields that begins with {LABEL}")
        names = ("match", "session ID", "ss", "sn")
        values = [
            b"" if name == "sn" and word == _NOTHING else _octets(name, word)
            for name, word in zip(names, words[1:5], strict=True)
        ]
        match, session_id, ss, sn = values
        for name, value, lengths in (
            ("match", match, _MATCH_LENS),
            ("session ID", session_id, (SESSION_ID_LEN,)),
            ("ss", ss, (K_LEN,)),
        ):
            if len(value) not in lengths:
                wanted = " or ".join(map(str, lengths))
                raise LocalError(f"{name} has {len(value)} bytes, not {wanted}")
        try:
            aead, opener = int(words[5], 16), Role[words[6]]
        except (ValueError, KeyError):
            raise LocalError("the last fields are an AEAD in hex, and A or B") from None
        if not 0 < aead <= _AEAD_MAX:
            raise LocalError("AEAD is not a 16-bit number")
        return cls(match, session_id, Secret(ss), sn, aead, opener)


def _octets(name: str, word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        raise LocalError(f"{name} is not hexadecimal") from None


KeyLog = Callable[[KeyLine], None]
"""Takes each session's line when its keys are derived; the secret is wiped after."""
