"""What a policy of the file asks of the peer, and what it tells him."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tcpcrypt.core.policy import BOTH, RELAY, SEGMENT, TCPS, FlowDirection, Mode, Policy
from tcpcrypt.tcps.weaknesses import LACKS
from tcpcrypt.wire.profile import RFC8548, STANFORD

__all__ = ["contradictions", "demands", "effective_mode", "sentences", "warnings"]


def demands(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Policy` from the keys that a file gives."""
    auth, profile = found.get("auth", "none"), found.get("profile")
    return {
        "auth": auth,
        "pq": found.get("pq", "off" if auth == "none" or profile == TCPS else "prefer"),
        "psk": found.get("psk", ""),
        "profile": found.get("profile", RFC8548.name),
        "application_aware": found.get("application_aware", False),
        "plane": found.get("plane", RELAY),
        "active_b": found.get("active_b", False),
    }


def effective_mode(found: Mapping[str, Any]) -> Mode:
    """The mode; where each host has to prove a certain key, that of a policy that requires.

    So the rules that hold while no daemon runs hold for it, too.
    """
    mode = Mode(found["mode"])
    certain = demands(found)["auth"] in ("pinned", "psk")
    return Mode.REQUIRE if certain and mode is Mode.OPPORTUNISTIC else mode


def contradictions(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys that cannot stand beside the others, and why."""
    asked = demands(found)
    auth, pq, psk = asked["auth"], asked["pq"], asked["psk"]
    mode = found.get("mode")
    if auth == "psk" and not psk:
        yield "auth", '"psk" needs the key `psk`, the name of a pre-shared key'
    if psk and auth != "psk":
        yield "psk", 'is for `auth` = "psk"'
    if mode == Mode.NEVER.value:
        for name in ("auth", "pq"):
            if found.get(name, "none") not in ("none", "off"):
                yield name, 'with `mode` = "never" connections are left alone and prove nothing'
    if asked["profile"] == TCPS:
        if auth not in ("none", "tofu"):
            yield "auth", '"tcps" has "none" and "tofu" alone, and "tofu" is worth little there'
        if pq != "off":
            yield "pq", '"tcps" has no post-quantum key agreement'
        if asked["application_aware"]:
            yield "application_aware", '"tcps" has nothing to tell it by'
    elif asked["profile"] != RFC8548.name and (auth != "none" or pq != "off"):
        yield "profile", f'"{asked["profile"]}" proves nothing: `auth` and `pq` need "rfc8548"'
    yield from _against_its_plane(asked)
    if mode == Mode.OPPORTUNISTIC.value and pq == "require" and auth in ("none", "tofu"):
        yield (
            "pq",
            '"require" needs `mode` = "require": under "opportunistic" connections may go in'
            " the clear",
        )


def _against_its_plane(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if asked["plane"] != SEGMENT:
        if asked["active_b"]:
            yield "active_b", 'is for `plane` = "segment": of others no two hosts open at once'
    elif asked["profile"] != RFC8548.name:
        yield "plane", f'"segment" has the profile "rfc8548" alone, not "{asked["profile"]}"'


def sentences(policy: Policy) -> str:
    """What `policy` asks, in plain words; empty, or begins with a space."""
    if policy.profile == TCPS:
        text = " It is spoken as the TCP/S kernel module does, over IPv4 alone, and is weak."
        if policy.auth == "tofu":
            text += " Another key than the first one that an address has shown is refused."
        return text
    text = {
        "none": "",
        "tofu": " The key that a host first proves to have is remembered, and another one"
        " refused from then on.",
        "pinned": " A host has to prove a key that was pinned.",
        "psk": f' A host has to have the pre-shared key "{policy.psk}".',
    }[policy.auth]
    if policy.auth == "tofu" and policy.match.direction is FlowDirection.INCOMING:
        text = " Each host that proves a key is remembered by it; revoked keys are refused."
    if policy.pq == "require":
        text += " Keys are agreed on with a post-quantum hybrid or not at all."
    if policy.plane == SEGMENT and policy.mode is not Mode.NEVER:
        text += " Each segment is changed on its way."
    if policy.active_b:
        text += " It is for hosts that open at the same moment: this one has role B also then."
    if policy.application_aware:
        text += " The other host is told that the application here asks for session IDs."
    return (
        text
        + {
            RFC8548.name: "",
            STANFORD.name: " It is spoken as the Stanford tcpcryptd does, not RFC 8548.",
            BOTH: " RFC 8548 is spoken, or the dialect of the Stanford tcpcryptd.",
        }[policy.profile]
    )


def warnings(policy: Policy, mode: str) -> Iterator[str]:
    """What may not be meant; `mode` is what the file says."""
    if policy.profile == TCPS and policy.mode is not Mode.NEVER:
        yield from (f'`profile` = "tcps" is for hosts that have nothing else: {it}' for it in LACKS)
        if policy.mode is Mode.OPPORTUNISTIC:
            yield (
                "a server with TCP/S whose first SYN-ACK is lost looks as if it had none, and is"
                " spoken to in the clear"
            )
    elif policy.mode is Mode.OPPORTUNISTIC and policy.auth == "tofu":
        yield (
            "the first contact with a host may go in the clear, and is whoever answers; from the"
            " second on only its key does, as long as the daemon runs"
        )
    if STANFORD in policy.profiles and policy.mode is not Mode.NEVER:
        yield (
            f'`profile` = "{policy.profile}" allows a dialect in which nothing protects the end'
            " of a stream, and a resumed session has no randomness of its own"
        )
    if mode != policy.mode.value:
        yield f'`auth` = "{policy.auth}" makes its mode "{policy.mode.value}"'
