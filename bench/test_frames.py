"""RFC 8548 section 4.2: frames sealed and opened, beside libcrypto's own rate.

libcrypto's rate is that of bench/evp_loop.c: the same EVP calls that a frame
needs and nothing else, in C, on the same buffers.  It runs before every round
of ours, so that whatever slows the machine slows both; medians are compared.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from tcpcrypt.crypto.aead import AEADS, AeadParameters

BATCH = 1 << 20
SIZES = {1400: "1400 B", 16384: "16 KiB", 65518: "64 KiB"}
"""Data bytes in a frame; the last is the most that one can hold."""
ROUNDS = 300


class Batch:
    """Frames of `size` data bytes, about a mebibyte of them, and both ways to do them."""

    def __init__(self, fast: Any, evp: ctypes.CDLL, aead: AeadParameters, size: int) -> None:
        self.evp, self.size = evp, size
        self.frames = max(1, BATCH // size)
        self.bytes = self.frames * size
        self.plain = bytearray(self.bytes + 1)
        self.data = memoryview(self.plain)[: self.bytes]
        self.wire = bytearray(self.frames * (size + 20))
        self.key = bytes(range(aead.key_len)) + bytes(aead.nonce_len)
        self.name = aead.evp_name.encode()
        self.sealer = fast.FrameSealer(aead, self.key)
        self.opener = fast.FrameOpener(aead, self.key)
        self.pointers = [
            (ctypes.c_char * len(buffer)).from_buffer(buffer) for buffer in (self.plain, self.wire)
        ]

    def seal(self) -> None:
        assert self.sealer.seal(self.data, self.wire, 0, self.size)[2] == self.frames

    def open(self) -> None:
        assert self.opener.open(self.wire, self.data, 0)[2] == self.frames

    def plain_seal(self, loop: int) -> None:
        assert self.evp.loop_seal(loop, *self.pointers, self.frames, self.size) == 1

    def plain_open(self, loop: int) -> None:
        # What libcrypto sealed last, which is not what ours sealed: the nonces
        # of ours are offsets.
        assert self.evp.loop_open(loop, *self.pointers[::-1], self.frames, self.size) == 1


@pytest.mark.parametrize("size", SIZES, ids=SIZES.get)
@pytest.mark.parametrize("aead", AEADS.values(), ids=lambda aead: aead.evp_name)
@pytest.mark.parametrize("way", ["seal", "open"])
def test_frames(  # noqa: PLR0917 (fixtures come by name)
    benchmark: Any,
    report: Callable[..., None],
    fast: Any,
    evp: ctypes.CDLL,
    way: str,
    aead: AeadParameters,
    size: int,
) -> None:
    batch = Batch(fast, evp, aead, size)
    sealing, opening = (evp.loop_new(batch.name, batch.key, encrypt) for encrypt in (1, 0))
    plain_times = []

    def plain_round() -> None:
        if way == "open":
            batch.plain_seal(sealing)
        start = time.perf_counter()
        if way == "seal":
            batch.plain_seal(sealing)
        else:
            batch.plain_open(opening)
        plain_times.append(time.perf_counter() - start)
        if way == "open":
            batch.seal()

    benchmark.pedantic(
        batch.seal if way == "seal" else batch.open,
        setup=plain_round,
        rounds=ROUNDS if fast.IMPLEMENTATION == "c" else ROUNDS // 10,
        warmup_rounds=3,
    )
    evp.loop_free(sealing)
    evp.loop_free(opening)
    if benchmark.stats is None:  # --benchmark-disable
        return
    median = benchmark.stats.stats.median
    plain = statistics.median(plain_times)
    figures = {
        "frames_per_s": batch.frames / median,
        "gb_per_s": batch.bytes / median / 1e9,
        "libcrypto_gb_per_s": batch.bytes / plain / 1e9,
        "of_libcrypto": plain / median,
    }
    benchmark.extra_info.update(figures)
    by = "extension" if fast.IMPLEMENTATION == "c" else "Python twin, on an OpenSSL of its own"
    report(
        f"frames, {'sealed' if way == 'seal' else 'opened'} in batches of 1 MiB ({by})",
        f"{aead.evp_name} {SIZES[size]}",
        **{
            "frames/s": f"{figures['frames_per_s']:,.0f}",
            "GB/s": f"{figures['gb_per_s']:.2f}",
            "libcrypto GB/s": f"{figures['libcrypto_gb_per_s']:.2f}",
            "ratio": f"{figures['of_libcrypto']:.3f}",
        },
    )
