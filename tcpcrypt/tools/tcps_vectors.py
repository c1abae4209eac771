"""Vectors of TCP/S, with values of the kernel module itself (`vectors/peers/tcps-seed`).

Their file has no `format`; they are known by `client_isn`.
"""

from __future__ import annotations

import contextlib

from tcpcrypt.tcps.options import syn_region
from tcpcrypt.tcps.schedule import X25519, Direction, derive, identity_tag
from tcpcrypt.tools.vector_fields import Checker, Fields, Unverifiable

__all__ = ["FORM", "verify_tcps"]

FORM = "tcps-seed"
_SEQ_MOD = 1 << 32


def verify_tcps(vector: Fields) -> Checker:
    """Recompute keys, a segment each way, the tags of both hosts, and the options of a SYN."""
    checker = Checker(vector.where)
    with contextlib.suppress(Unverifiable):  # it has been noted
        _verify(vector, checker)
    return checker


def _verify(vector: Fields, checker: Checker) -> None:
    keys = []
    for name in ("client", "server", "client_static", "server_static"):
        private = vector.octets(f"{name}_priv")
        with checker.computing(f"{name}_priv", private):
            keys.append(X25519.from_private(private))
    client, server, client_static, server_static = keys
    checker.compare("client_pub", vector.octets("client_pub"), client.public)
    checker.compare("server_pub", vector.octets("server_pub"), server.public)
    numbers = vector.integer("client_isn"), vector.integer("server_isn")
    with client.agree(server.public) as shared:
        checker.compare("shared", vector.octets("shared"), bytes(shared.view()))
        derived = derive(shared, *numbers)
    for name, isn, direction in (
        ("c2s", numbers[0], derived.c2s),
        ("s2c", numbers[1], derived.s2c),
    ):
        _verify_segment(vector, name, isn, direction, checker)
    shared_static = client_static.agree(server_static.public)
    checker.compare("static_shared", vector.octets("static_shared"), bytes(shared_static.view()))
    for own, other, is_client in (
        (client_static, server_static, True),
        (server_static, client_static, False),
    ):
        name = f"auth_tag_from_{'client' if is_client else 'server'}"
        made = identity_tag(own, other.public, *numbers, is_client=is_client)
        checker.compare(name, vector.octets(name), made)
    region = syn_region(vector.octets("syn_options_in"), client.public)
    checker.compare("syn_options_out", vector.octets("syn_options_out"), region)


def _verify_segment(
    vector: Fields, name: str, isn: int, direction: Direction, checker: Checker
) -> None:
    stated, position = vector.object(name), vector.integer("pos")
    for kind, stream in (("enc", direction.data), ("mac", direction.tags)):
        key = vector.object("keys").octets(f"{kind}_{name}")
        checker.compare(f"keys.{kind}_{name}", key, stream.key())
    ciphertext, tag = direction.seal(position, vector.integer("flags"), vector.octets("plaintext"))
    checker.compare(f"{name}.seq", stated.integer("seq"), (isn + 1 + position) % _SEQ_MOD)
    checker.compare(f"{name}.ciphertext", stated.octets("ciphertext"), ciphertext)
    checker.compare(f"{name}.tag", stated.octets("tag"), tag)
