"""A daemon on each host and a capture between them, while a program works."""

import contextlib
import dataclasses
from collections.abc import Iterator

from netns.network import Network

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, free_of, wait_until

_TROUBLE = ("aborted", "fallback", "refused", "failed", "exhausted", "bug")


@dataclasses.dataclass
class Watched:
    """The two daemons, and what passes on the wire."""

    ours: LabDaemon
    theirs: LabDaemon
    capture: Capture

    def enabled(self, count: int = 1) -> list[dict[str, str]]:
        """The client's `enabled` lines: at least `count`, the server's sessions the same."""

        def sessions(daemon: LabDaemon) -> set[str]:
            return {line["session"] for line in daemon.events("enabled")}

        def same() -> bool:
            mine = sessions(self.ours)
            return len(mine) >= count and mine == sessions(self.theirs)

        wait_until(same, f"{count} sessions on both ends")
        lines = self.ours.events("enabled")
        assert len({line["session"] for line in lines}) == len(lines)
        return lines

    def trouble(self) -> list[dict[str, str]]:
        return [*self.ours.events(*_TROUBLE), *self.theirs.events(*_TROUBLE)]


@contextlib.contextmanager
def daemon(host: Host, port: int, *arguments: str) -> Iterator[LabDaemon]:
    """A daemon on one host, for one block."""
    started = LabDaemon(host, "--port", str(port), *arguments)
    try:
        yield started
    finally:
        assert started.stop() == 0, started.errors()


@contextlib.contextmanager
def watched(
    network: Network,
    port: int,
    *needles: bytes,
    arguments: tuple[str, ...] = (),
    keep: int = 1 << 18,
) -> Iterator[Watched]:
    """Both daemons serve `port` during the block.

    After it every connection must have been encrypted, with the same session
    IDs on both ends, nothing must have gone wrong, and none of the `needles`
    must have passed in clear.  `keep`: bytes of each packet that are looked at.
    """
    assert needles
    with (
        daemon(network.client, port, *arguments) as ours,
        daemon(network.server, port, *arguments) as theirs,
    ):
        with Capture(network.client_end, keep) as capture:
            found = Watched(ours, theirs, capture)
            yield found
        found.enabled()
        assert capture.dropped == 0
        assert free_of(capture.packets, *needles) == list(needles)
        assert found.trouble() == []
