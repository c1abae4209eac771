"""What the TEP that authenticates shows to everybody who looks on.

docs/authenticated-tep.md: A sends its static key in the clear, in the tail of Init1;
that of B is sealed for A under K1, which does not follow from ss[0].
"""

from __future__ import annotations

from typing import Final

from tcpcrypt.auth.agreement import Tail1, Tail2
from tcpcrypt.auth.terms import STATIC_KEY_LEN, VERSION_HYBRID
from tcpcrypt.crypto.hybrid import INITIATOR_LEN, RESPONDER_LEN
from tcpcrypt.errors import PeerError
from tcpcrypt.tools.decode.handshake import Agreed
from tcpcrypt.tools.decode.report import Shown
from tcpcrypt.wire.messages import Init1, Init2

__all__ = ["shown"]

_PUBLIC_LENS: Final = {
    True: (INITIATOR_LEN, RESPONDER_LEN),
    False: (STATIC_KEY_LEN, STATIC_KEY_LEN),
}
"""Of Pub_A and Pub_B, in version 2 and in version 1."""


def shown(agreed: Agreed, init1: Init1, init2: Init2) -> Shown | None:
    """Of messages that were parsed with public keys of no bytes; None: they are malformed."""
    public_a, public_b = _PUBLIC_LENS[agreed.version == VERSION_HYBRID]
    try:
        tail1, tail2 = Tail1.parse(init1.tail[public_a:]), Tail2.parse(init2.tail[public_b:])
    except PeerError:
        return None
    return Shown(
        version=agreed.version,
        key_of_a=tail1.static,
        b_shows_key=tail2.sealed is not None,
        psk_hint=tail1.hint,
        psk_used=tail2.psk_used,
    )
