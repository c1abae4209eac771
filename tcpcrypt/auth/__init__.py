"""Who is at the other end: identities, fingerprints, and proofs over a session ID.

The names below are the stable ones; what lies in submodules may move before
version 1.0.
"""

from tcpcrypt.auth.fingerprint import fingerprint, is_fingerprint, randomart, short_form
from tcpcrypt.auth.identity import Identity, create_identity, load_identity
from tcpcrypt.auth.proof import new_challenge, prove, verify

__all__ = [
    "Identity",
    "create_identity",
    "fingerprint",
    "is_fingerprint",
    "load_identity",
    "new_challenge",
    "prove",
    "randomart",
    "short_form",
    "verify",
]
