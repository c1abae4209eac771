"""A second host: RFC 8547 and RFC 8548 once more, slow, plain, and able to misbehave.

It shares no line with the package under test and imports nothing of it, so that
an error in how the RFCs were read has to be made twice to go unseen.  It is
written for reading, not for speed: every key is computed from the formulas each
time, every frame is cut out of one growing string.

    options.py       RFC 8547: the ENO option, and what two of them agree on
    groups.py        RFC 8548 section 5: the four groups
    keys.py          RFC 8548 sections 3.3 to 3.5: the key schedule
    frames.py        RFC 8548 sections 3.6 to 3.8: frames, rekeying
    host.py          a host that is honest but for its one fault
    scripts.py       handshakes and conversations with a subject
    misbehaviour.py  what one entry of the tables says
    faulty_*.py      the tables: each misbehaviour, by name

A `Subject` (see scripts.py) is the host under test, behind a handful of methods.
"""
