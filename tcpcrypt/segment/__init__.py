"""The segment plane: tcpcrypt in the segments of a connection that others own.

The connection goes on between the two hosts that have it, with its addresses
and its ports; an engine beside each of them, or on a gateway in front of it,
changes the segments that pass.  `docs/segment.md` tells how.
"""
