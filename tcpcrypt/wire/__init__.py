"""Bytes to values and back: RFC 8547 section 4, RFC 8548 section 4, TCP and IP headers.

Nothing here keeps state, reads a clock or knows a key.  Whatever a peer sends
ends in a value or in a `PeerError` with a named reason.
"""
