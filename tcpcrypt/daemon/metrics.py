"""The figures of a host as Prometheus reads them.

This is the one module that imports prometheus_client (the extra `metrics`), and
it is imported only where the configuration asks for metrics.  A reason that is
possible but has not come yet stands there as 0, so that the first one is seen
by `increase()` too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from tcpcrypt import __version__, _fast
from tcpcrypt.auth.known_peers import TrustLevel
from tcpcrypt.core.policy import FlowDirection
from tcpcrypt.errors import FallbackReason, PeerReason
from tcpcrypt.runtime.figures import STATES, Figures
from tcpcrypt.runtime.relay import Ending
from tcpcrypt.runtime.tally import BOUNDS, Durations, Tally, word

__all__ = ["HostCollector", "Page", "Pages"]

Page = Callable[[str], tuple[str, bytes]]
"""Takes what the reader accepts (the HTTP field), returns content type and body."""

_REST: Final = 9.0
_FALLBACKS: Final = tuple(map(word, FallbackReason))
_FAULTS: Final = tuple(map(word, PeerReason))
_REFUSALS: Final = (*_FALLBACKS, word(PeerReason.AUTHENTICATION), word(PeerReason.IDENTITY_CHANGED))
_ENDINGS: Final = tuple(
    ending.name.lower() for ending in Ending if ending not in (Ending.ABORTED, Ending.REFUSED)
)


class HostCollector(Collector):
    """All metrics of a host, made anew at each scrape."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: a host is not asked while the registry is made."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order in which docs/metrics.md has them."""
        figures = self._figures()
        yield from _of_the_daemon(figures)
        yield from _of_outcomes(figures.tally)
        yield from _of_connections(figures)
        yield from _of_what_is_kept(figures)


class Pages:
    """What is told of `figures`, as OpenMetrics or in Prometheus' own format; a `Page`.

    A page is shown again instead of being made anew until nine times as long has
    passed as it took to make: however many readers there are, they cost a tenth
    of the time of whoever shows it.
    """

    def __init__(
        self, figures: Callable[[], Figures], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HostCollector(figures))
        self._clock = clock
        self._until = 0.0
        self._made: dict[str, bytes] = {}
        """By content type; there are a few."""

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """Content type and text for a reader that accepts `accept`, the field of HTTP."""
        encode, content_type = exposition.choose_encoder(accept)
        began = self._clock()
        if began >= self._until:
            self._made.clear()
        if content_type not in self._made:
            self._made[content_type] = encode(self._registry)
            took = self._clock() - began
            self._until = max(self._until, began + took) + _REST * took
        return content_type, self._made[content_type]


def _of_the_daemon(figures: Figures) -> Iterator[Metric]:
    yield _gauge(
        "tcpcrypt_info",
        "What is at work; the value is always 1",
        ("version", "backend", "steering", "implementation"),
        {(__version__, figures.backend, figures.steering, _fast.IMPLEMENTATION): 1},
    )
    yield _gauge(
        "tcpcrypt_start_time_seconds", "When the daemon began, Unix time", (), figures.started
    )
    yield _counter(
        "tcpcrypt_cpu_seconds", "Processor time of the process that moves the data", (), figures.cpu
    )
    yield _gauge("tcpcrypt_policies", "Policies in force", (), figures.policies)
    yield _gauge(
        "tcpcrypt_keylog_enabled",
        "1 while the secrets of connections are written to a file",
        (),
        int(figures.key_log),
    )
    yield _counter(
        "tcpcrypt_bugs", "Mistakes of the daemon; its log has each", (), figures.tally.bugs
    )


def _of_outcomes(tally: Tally) -> Iterator[Metric]:
    counters = tally.counters
    yield _counter(
        "tcpcrypt_connections_encrypted",
        "Connections that were encrypted, by a key exchange (fresh) or without one (resumed)",
        ("start",),
        {("fresh",): counters.fresh, ("resumed",): counters.resumed},
    )
    plain = {
        ("fallback", reason): count for reason, count in _reasons(tally, "fallback", _FALLBACKS)
    }
    plain["direct", "path_memory"] = counters.direct
    yield _counter(
        "tcpcrypt_connections_plain",
        "Connections in the clear: through the daemon (fallback), or left alone because the"
        " peer or the path is known not to encrypt (direct)",
        ("how", "reason"),
        plain,
    )
    for name, says, label, known in (
        ("refused", "that policy refused", "reason", _REFUSALS),
        ("aborted", "that an error of the peer or the path ended", "reason", _FAULTS),
        ("failed", "that never came about", "reason", ()),
        ("closed", "that ended in order", "how", _ENDINGS),
    ):
        yield _counter(
            f"tcpcrypt_connections_{name}",
            f"Connections {says}",
            (label,),
            {(reason,): count for reason, count in _reasons(tally, name, known)},
        )
    yield _counter(
        "tcpcrypt_connections_exhausted",
        "Connections for which there was no room",
        (),
        counters.exhausted,
    )
    yield _histogram(
        "tcpcrypt_setup_seconds",
        "From the arrival of a connection until its data can pass",
        ("direction", "start"),
        tally.setups,
    )


def _of_connections(figures: Figures) -> Iterator[Metric]:
    yield _gauge(
        "tcpcrypt_connections",
        "Live connections",
        ("state", "direction"),
        {
            (state, direction.value): figures.connections.get((state, direction.value), 0)
            for state in STATES
            for direction in FlowDirection
        },
    )
    yield _gauge(
        "tcpcrypt_tcps_connections",
        "Live connections of profile tcps, which no other metric counts",
        ("state",),
        {(state,): figures.tcps.get(state, 0) for state in STATES},
    )
    yield _gauge(
        "tcpcrypt_connection_slots",
        "Connections for which there are descriptors",
        (),
        figures.slots,
    )
    yield _counter(
        "tcpcrypt_application_bytes",
        "Bytes of this host's applications, by what protects them between the hosts",
        ("protection", "direction"),
        {
            (protection, direction): figures.moved.get((encrypted, direction), 0)
            for encrypted, protection in ((True, "encrypted"), (False, "plain"))
            for direction in ("sent", "received")
        },
    )
    yield _counter("tcpcrypt_frames_sealed", "Frames sealed by this host", (), figures.frames)
    yield _counter("tcpcrypt_rekeys", "Key changes, of both directions", (), figures.rekeys)


def _of_what_is_kept(figures: Figures) -> Iterator[Metric]:
    yield _gauge("tcpcrypt_resumption_cache_entries", "Session secrets kept", (), figures.cached)
    yield _gauge(
        "tcpcrypt_resumption_cache_capacity",
        "Session secrets that can be kept",
        (),
        figures.cache_capacity,
    )
    yield _counter(
        "tcpcrypt_queue_overruns",
        "Times at which the kernel had no room for packets for the daemon",
        (),
        figures.overruns,
    )
    yield _counter(
        "tcpcrypt_handshakes_evicted",
        "Handshakes that had to make room for others",
        (),
        figures.evicted,
    )
    yield _gauge(
        "tcpcrypt_syns_held",
        "SYNs of applications that wait for the peer's answer",
        (),
        figures.held,
    )
    yield _counter(
        "tcpcrypt_syns_held_overflowed",
        "SYNs of applications for which there was no room to wait",
        (),
        figures.held_overflowed,
    )
    yield _gauge(
        "tcpcrypt_known_identities",
        "Keys of other hosts that are known, by trust",
        ("trust",),
        {(level.value,): figures.identities.get(level, 0) for level in TrustLevel},
    )


def _reasons(tally: Tally, name: str, known: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each reason for `name` and how often it came, those that did not among them."""
    came = {reason: count for (what, reason), count in tally.reasons.items() if what == name}
    yield from (dict.fromkeys(known, 0) | came).items()


_Values = float | Mapping[Any, float]
"""One, or one for each tuple of labels."""


def _samples(values: _Values) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(values, Mapping):
        yield from values.items()
    else:
        yield (), values


def _gauge(name: str, says: str, labels: tuple[str, ...], values: _Values) -> Metric:
    family = GaugeMetricFamily(name, says, labels=labels)
    for labelled, value in _samples(values):
        family.add_metric(labelled, value)
    return family


def _counter(name: str, says: str, labels: tuple[str, ...], values: _Values) -> Metric:
    family = CounterMetricFamily(name, says, labels=labels)
    for labelled, value in _samples(values):
        family.add_metric(labelled, value)
    return family


def _histogram(
    name: str,
    says: str,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, str], Durations],
) -> Metric:
    family = HistogramMetricFamily(name, says, labels=labels)
    for labelled, times in values.items():
        below, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), times.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(labelled, buckets, times.total)
    return family
