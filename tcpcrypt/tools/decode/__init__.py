"""Captured connections and their keys in, plaintext out.

```
capture ─► connections ─► reassembly ─► stream (frames) ─► sink
                └─ handshake: what was agreed on    └─ keys: key log, secrets file
```

A packet source is any iterable of `capture.Packet`; a sink any `sink.Sink`.
"""
