"""TCP/S: what a Linux kernel module of that name speaks, for hosts that already run it.

A legacy protocol, off by default, and weaker than anything else here: read
docs/tcps.md before use.  `connection` is one connection and `gate` all of a
host, both without I/O; `states` is the table that they follow.
"""
