"""tcpcrypt segment: what it gives the engine, without the network that it needs."""

from __future__ import annotations

import argparse

import pytest

from tcpcrypt.cli import segment
from tcpcrypt.daemon.configuration import SECRETS_PER_PEER


class ConfiguredError(Exception):
    """Instead of going on."""


def test_it_keeps_as_many_secrets_for_a_peer_as_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One handshake at a time spends one: with few, connections at once are not resumed."""
    named: dict[str, object] = {}

    def config(**given: object) -> None:
        named.update(given)
        raise ConfiguredError

    monkeypatch.setattr(segment, "Config", config)
    parser = argparse.ArgumentParser()
    segment.configure(parser, argparse.ArgumentParser())
    with pytest.raises(ConfiguredError):
        segment.run(parser.parse_args(["--port", "80"]))
    assert named["cache_per_peer"] == SECRETS_PER_PEER >= 64
