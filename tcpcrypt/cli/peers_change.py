"""`tcpcrypt peers trust|pin|forget|revoke`: say which keys are good."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from tcpcrypt.auth import notices
from tcpcrypt.auth.fingerprint import is_fingerprint, randomart
from tcpcrypt.auth.introductions import revoke
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.scope import INCOMING, is_name
from tcpcrypt.cli import keys, query
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]

Reader = Callable[[str], str]


def configure(actions: Any, scope: Reader, scope_or_key: Reader, key: Reader) -> None:
    """Add the actions to the subparsers of `tcpcrypt peers`."""
    about_scope = "ADDRESS:PORT, [ADDRESS]:PORT or NAME:PORT; '*' for hosts that connect to here"
    trust = actions.add_parser(
        "trust",
        help="accept a key as if it had been met at the first contact",
        description="Accept a key for a service, as `tofu` does at the first contact.  If another"
        " key is known for it, both are shown, and a person has to say that the new one takes its"
        " place.  A pinned key is not replaced so; see `pin`.",
        epilog="example: tcpcrypt peers trust 192.0.2.7:5432 tcpcrypt1:...",
    )
    trust.add_argument("scope", metavar="SCOPE", type=scope, help=about_scope)
    trust.add_argument("key", metavar="KEY", type=key, help="the whole fingerprint")
    pin = actions.add_parser(
        "pin",
        help="accept this key alone, for policies with `pinned`",
        description="Pin a key for a service, or the one that is known for it already.  If another"
        " key is known, both are shown, and a person has to say that the new one takes its place."
        "  Keys pinned for '*' are those of hosts that `pinned` policies let in.",
        epilog="example: tcpcrypt peers pin 192.0.2.7:5432",
    )
    pin.add_argument("scope", metavar="SCOPE", type=scope, help=about_scope)
    pin.add_argument("key", metavar="KEY", type=key, nargs="?", help="the whole fingerprint")
    for action in (trust, pin):
        action.add_argument(
            "--also",
            action="store_true",
            help="keep other keys of the service: several hosts answer there",
        )
    forget = actions.add_parser(
        "forget",
        help="forget a service or a key",
        description="Forget all keys of a service, or one key everywhere: the next contact is the"
        " first one again.  Asks first if a pinned or revoked key is among them.  Exit status: 1"
        " if nothing was known.",
        epilog="example: tcpcrypt peers forget 192.0.2.7:5432",
    )
    forget.add_argument("what", metavar="SCOPE|KEY", type=scope_or_key, help=about_scope)
    revoke_ = actions.add_parser(
        "revoke",
        help="refuse a key everywhere from now on",
        description="Refuse a key from now on, whoever shows it: a stolen one.  Connections that"
        " it proved are reset, its sessions not resumed.  Services that it was known for stay"
        " known: whoever answers there next has to be accepted by `trust` or `pin`.",
        epilog="example: tcpcrypt peers revoke tcpcrypt1:...",
    )
    revoke_.add_argument("key", metavar="KEY", type=key, help="the whole fingerprint")
    for action in (trust, pin, forget):
        action.add_argument(
            "--force", action="store_true", help="do not ask; what would be asked is shown"
        )
    for action in (trust, pin, forget, revoke_):
        keys.add_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    """Run the action; returns the exit status."""
    return {"trust": _accept, "pin": _accept, "forget": _forget, "revoke": _revoke}[
        arguments.action
    ](arguments)


# --- trust, pin ----------------------------------------------------------------------------


def _accept(arguments: argparse.Namespace) -> int:
    if is_name(arguments.scope):
        keys.warn(
            f"{arguments.scope}: the daemon knows services by their addresses; names are for"
            " programs that connect by name"
        )
    file = keys.known_peers_file(arguments)
    file.refresh()
    key, others = _considered(file.current, arguments)
    change = file.update(lambda known: _put(known, arguments, key, others))
    told = keys.tell(arguments)
    peer = change["known"]
    if arguments.json:
        query.print_json({**change, "known": keys.as_json(peer), "daemon": told})
    elif not change["changed"]:
        print(f"{peer.scope}: is known so already: {keys.described(peer)}")
    else:
        print(f"{peer.scope}: {peer.trust} {peer.key}")
        for other in change["forgotten"]:
            print(f"{peer.scope}: forgotten {other}")
    return 0


def _considered(known: KnownPeers, arguments: argparse.Namespace) -> tuple[str, frozenset[str]]:
    """The key, and those that it replaces, once a person has agreed where one has to."""
    scope, level = arguments.scope, _level(arguments)
    there = known.of_scope(scope)
    good = {key: peer for key, peer in there.items() if peer.trust is not TrustLevel.REVOKED}
    key = arguments.key
    if key is None:
        if len(good) != 1:
            what = "no key is known" if not good else f"{len(good)} keys are known"
            raise LocalError(f"{scope}: {what}; say which to pin")
        (key,) = good
        shown = f"{scope}: {keys.described(good[key])}\n{randomart(key)}\n{notices.HOW_TO_ACCEPT}"
        if good[key].trust is not TrustLevel.PINNED:
            keys.ask(shown, "Pin this key?", arguments, answers={key})
    if known.is_revoked(key):
        raise LocalError(
            f"{key} is revoked; `tcpcrypt peers forget` it first if that was a mistake"
        )
    if arguments.also or scope == INCOMING:
        return key, frozenset()
    others = frozenset(good) - {key}
    pinned = [other for other in others if good[other].trust is TrustLevel.PINNED]
    if pinned and level is TrustLevel.TOFU:
        raise LocalError(
            f"{scope}: {notices.listed(pinned)} is pinned; `tcpcrypt peers pin` replaces it"
        )
    if others:
        text = notices.WARNING.format(scope=scope, known=notices.listed(others), shown=key)
        keys.ask(
            f"{text}\n{notices.HOW_TO_ACCEPT}",
            "Forget the known key and accept the new one?",
            arguments,
            answers={key},
        )
    return key, others


def _put(
    known: KnownPeers, arguments: argparse.Namespace, key: str, others: frozenset[str]
) -> dict[str, Any]:
    scope, level = arguments.scope, _level(arguments)
    there = known.of_scope(scope)
    unseen = {
        other
        for other, peer in there.items()
        if other not in (key, *others) and peer.trust is not TrustLevel.REVOKED
    }
    if known.is_revoked(key) or (unseen and not arguments.also and scope != INCOMING):
        raise LocalError(f"{scope}: what is known has changed meanwhile; try again")
    forgotten = sorted(other for other in others if known.remove(other, scope))
    before = known.get(key, scope)
    if before is not None and level is TrustLevel.TOFU:
        level = before.trust  # trusted as much already, or more
    first, last = (int(time.time()), None) if before is None else (before.first, before.last)
    peer = KnownPeer(key, scope, first, last, level)
    known.put(peer)
    return {"changed": before != peer or bool(forgotten), "known": peer, "forgotten": forgotten}


def _level(arguments: argparse.Namespace) -> TrustLevel:
    return TrustLevel.PINNED if arguments.action == "pin" else TrustLevel.TOFU


# --- forget, revoke ----------------------------------------------------------------------------


def _forget(arguments: argparse.Namespace) -> int:
    file, what = keys.known_peers_file(arguments), arguments.what
    file.refresh()
    lines = _lines(file.current, what)
    grave = [line for line in lines if line.trust in (TrustLevel.PINNED, TrustLevel.REVOKED)]
    if grave:
        shown = "\n".join(f"{line.scope}: {keys.described(line)}" for line in grave)
        keys.ask(f"To be forgotten are also:\n{shown}", "Forget them?", arguments, answers=set())
    agreed = {(line.key, line.scope) for line in grave}
    gone = file.update(lambda known: _remove(known, what, agreed))
    told = keys.tell(arguments)
    if arguments.json:
        query.print_json({"forgotten": [keys.as_json(line) for line in gone], "daemon": told})
    for line in gone if not arguments.json else ():
        print(f"{line.scope}: forgotten {line.key}")
    if not gone and not arguments.json:
        keys.warn(f"nothing is known of {what}")
    return 0 if gone else 1


def _lines(known: KnownPeers, what: str) -> list[KnownPeer]:
    if is_fingerprint(what):
        return known.of_key(what)
    return list(known.of_scope(what).values())


def _remove(known: KnownPeers, what: str, agreed: set[tuple[str, str]]) -> list[KnownPeer]:
    lines = _lines(known, what)
    for line in lines:
        grave = line.trust in (TrustLevel.PINNED, TrustLevel.REVOKED)
        if grave and (line.key, line.scope) not in agreed:
            raise LocalError(f"{what}: what is known has changed meanwhile; try again")
        known.remove(line.key, line.scope)
    return lines


def _revoke(arguments: argparse.Namespace) -> int:
    file = keys.known_peers_file(arguments)
    lines = file.update(lambda known: revoke(known, arguments.key, int(time.time())))
    told = keys.tell(arguments)
    if arguments.json:
        query.print_json({"revoked": [keys.as_json(line) for line in lines], "daemon": told})
    for line in lines if not arguments.json else ():
        print(f"{line.scope}: revoked {line.key}")
    return 0
