"""Every key of the configuration file, once.

From this table come the reading of the file, its explanation by `tcpcrypt
policy check`, the starter file of `tcpcrypt policy init` and the manual page
tcpcrypt.toml(5).  A key that is not in it does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tcpcrypt.daemon import values
from tcpcrypt.daemon.metrics_address import METRICS
from tcpcrypt.daemon.values import Kind, choice

__all__ = [
    "COMBINATIONS_MAX",
    "KEYS",
    "MATCH",
    "POLICIES_MAX",
    "SECTIONS",
    "Key",
    "keys_of",
]

POLICIES_MAX: Final = 64
"""Policies of one file."""
COMBINATIONS_MAX: Final = 8192
"""Of addresses, ports, users and control groups, in all policies of one file together."""
MATCH: Final = "policy.match"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it takes, what it does, and how that is told."""

    section: str
    name: str
    kind: Kind
    default: str | None
    """As TOML; None where there is none: the key must be given, or its absence
    means that there is no such condition."""
    example: str
    """As TOML."""
    says: str
    """What a line with this key means; `{}` is what its kind says of the value."""
    text: str
    """One paragraph of the manual."""
    meanings: tuple[tuple[str, str], ...] = ()
    """For a choice: each word and what it means."""
    required: bool = False


def _choice(
    section: str,
    name: str,
    default: str | None,
    meanings: dict[str, str],
    text: str,
    *,
    planned: tuple[str, ...] = (),
    required: bool = False,
) -> Key:
    """A key that takes one of a few words, the last of which is the example."""
    return Key(
        section,
        name,
        choice(meanings, planned),
        None if default is None else f'"{default}"',
        f'"{list(meanings)[-1]}"',
        "{}.",
        text,
        tuple(meanings.items()),
        required,
    )


SECTIONS: Final = {
    "daemon": "How the daemon runs.",
    "crypto": "Algorithms and keys, for all policies.",
    "policy": "Which connections are to be encrypted, and how firmly.  The first policy that"
    " matches a connection decides about it; a connection that no policy matches is left"
    f" alone.  There may be {POLICIES_MAX} policies.",
    MATCH: "Conditions of a policy.  All that are given have to hold; a policy without any"
    " names every TCP connection of this host.",
}

KEYS: Final[tuple[Key, ...]] = (
    _choice(
        "daemon",
        "backend",
        "auto",
        {
            "auto": "the best way to carry the TCP-ENO option that works here is used",
            "nfqueue": "the first packets of each connection pass through a netfilter queue,"
            " where the TCP-ENO option is put in and read",
            "sockops": "a BPF program in the kernel puts the TCP-ENO option into the daemon's"
            " connections and reads it",
            "mixed": "connections are opened as with sockops and accepted as with nfqueue",
        },
        "What carries the TCP-ENO option, by which two hosts agree on encryption.",
    ),
    _choice(
        "daemon",
        "steering",
        "auto",
        {
            "auto": "the best way to bring connections to the daemon that works here is used",
            "tproxy": "firewall rules with the TPROXY target bring connections to the daemon",
        },
        "What brings the connections of applications to the daemon.",
        planned=("cgroup", "redirect"),
    ),
    Key(
        "daemon",
        "control",
        values.SOCKET,
        '"/run/tcpcrypt/control.sock"',
        '"/run/tcpcrypt/control.sock"',
        "Commands such as `tcpcrypt status` reach the daemon at {}.",
        "The Unix socket on which the daemon answers tcpcrypt(1).",
    ),
    Key(
        "daemon",
        "user",
        values.USER,
        '"tcpcrypt"',
        '"nobody"',
        "What handles the bytes of peers runs as user {}, without any privilege.",
        "The user that does the cryptography and moves the data.  It may not be root.  Where"
        ' the user "tcpcrypt" does not exist, "nobody" takes its place; any other has to exist.',
    ),
    Key(
        "daemon",
        "families",
        values.FAMILIES,
        '"auto"',
        "[4, 6]",
        "The IP versions served are {}.",
        'IP versions to serve; "auto" means those that this host has.  Connections over'
        " another version are refused where a policy says `require`, and not touched otherwise.",
    ),
    Key(
        "daemon",
        "log",
        values.LOG,
        '"auto"',
        '"/var/log/tcpcrypt.log"',
        "The log goes to {}.",
        'Where the log goes: a file, standard error, or the journal; "auto" means the journal'
        " where systemd started the daemon, and standard error elsewhere.",
    ),
    Key(
        "daemon",
        "keylog",
        values.KEYLOG,
        '"none"',
        '"/var/lib/tcpcrypt/keys.log"',
        "The secrets of connections, by which captures are decrypted, are appended to {}.",
        "For finding faults only: a file to which the secret of each connection is appended, from"
        " which `tcpcrypt decode` reads captures.  Whoever has it can decrypt every connection"
        " that was made meanwhile, and those that resume them.  It is made with mode 0600; one"
        " that others may read is refused.  The log warns of it at each start.",
    ),
    Key(
        "daemon",
        "metrics",
        METRICS,
        '"none"',
        '"127.0.0.1:9469"',
        "Figures for Prometheus are served at {}.",
        "Where Prometheus, or any program that reads its format, gets the figures of this host, by"
        " HTTP with the path /metrics: a Unix socket, or a port of a loopback address; others"
        " cannot reach it.  Any user of this host may read them; no secret and no address of a"
        " peer is among them.  Needs the Python package prometheus_client: pip install"
        " 'tcpcrypt[metrics]'.",
    ),
    Key(
        "daemon",
        "path_memory",
        values.SECONDS,
        "600",
        "3600",
        "A host or path that swallows the TCP-ENO option is remembered for {} and tried in"
        " plain TCP meanwhile, under `opportunistic` only.",
        "Seconds for which a host is remembered that can be reached only without the TCP-ENO"
        " option.  Connections to it under the mode `opportunistic` go plain at once"
        " meanwhile, instead of after some seconds.  Mere silence counts for a tenth of the"
        " time, unless it comes again.  0 remembers nothing.  The mode `require`"
        " never makes use of it.",
    ),
    _choice(
        "daemon",
        "guard",
        "keep",
        {
            "keep": "when the daemon ends, however it ends, connections under `require` stay"
            " refused, until `tcpcrypt down`",
            "remove": "when the daemon is stopped, connections under `require` go in the clear;"
            " where it is killed or fails, they stay refused",
        },
        "What remains of the mode `require` while no daemon runs.",
    ),
    Key(
        "daemon",
        "drain",
        values.SECONDS,
        "0",
        "30",
        "When the daemon is told to end, live connections may go on for {}.",
        "Seconds for which connections may go on after the daemon was told to end.  No new ones"
        " are encrypted meanwhile: the mode `require` refuses them, `opportunistic` lets them go"
        " in the clear, also to hosts that `tofu` remembers.  What is left after that time is"
        " reset; it never continues in the clear.",
    ),
    Key(
        "daemon",
        "state",
        values.DIRECTORY,
        '"/var/lib/tcpcrypt"',
        '"/var/lib/tcpcrypt"',
        "This host's identity and the hosts that it knows are kept in {}.",
        "The directory, root's alone, of this host's identity (`identity`), of the hosts that it"
        " knows (`known_peers`) and of pre-shared keys (`psk/NAME`).  It and the identity are made"
        " when a policy first asks for authentication.",
    ),
    Key(
        "daemon",
        "tofu_enforce",
        values.BOOLEAN,
        "true",
        "false",
        "Connections to a host whose key has changed are refused: {}.",
        "Under `tofu`, whether a host that proves another key than the remembered one, or proves"
        " none, is refused.  false only logs it: the connection goes on, with whoever it is.  A"
        " remembered host that does not take part in authentication at all any more is refused"
        " in any case, and so is a key that was pinned or revoked.",
    ),
    Key(
        "crypto",
        "teps",
        values.TEPS,
        '["curve25519", "curve448", "p256"]',
        '["curve25519", 0x24, "p256", "p521"]',
        "The key agreements used, in order of preference, are {}.",
        "TCP encryption protocols of RFC 8548, that is, key agreements, by name or number, the"
        ' most preferred first: "curve25519" (0x23), "curve448" (0x24), "p256" (0x21) and'
        ' "p521" (0x22).  The last is left out by default, because it costs a listener ten times'
        " the work of the first for no more strength than the second gives.",
    ),
    Key(
        "crypto",
        "aeads",
        values.AEADS,
        '["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"]',
        '["chacha20-poly1305", 0x0002]',
        "The ciphers used, in order of preference, are {}.",
        'Ciphers by name or number, the most preferred first: "aes-128-gcm" (0x0001),'
        ' "aes-256-gcm" (0x0002) and "chacha20-poly1305" (0x0010).  Of those that both hosts'
        " have, the one that plays role B, usually the accepting one, chooses.",
    ),
    Key(
        "crypto",
        "resumption",
        values.BOOLEAN,
        "true",
        "false",
        "Later connections with the same host resume earlier ones, without public-key work: {}.",
        "Whether secrets of a connection are kept, in memory, so that later ones with the same"
        " host start faster.  false makes a fresh key exchange for each connection.",
    ),
    Key(
        "crypto",
        "rekey",
        values.BYTES,
        '"limit"',
        "1_073_741_824",
        "Keys are changed after {}.",
        "Bytes of one direction of a connection after which its key is replaced; each key is"
        ' wiped when it is.  "limit" means when the algorithm asks for it: after 256 GiB with'
        " AES-GCM.",
    ),
    _choice(
        "policy",
        "mode",
        None,
        {
            "never": "the daemon leaves such connections alone",
            "opportunistic": "such connections are encrypted where the other host and the path"
            " allow it, and go in the clear where not",
            "require": "such connections are encrypted or refused",
        },
        "How firmly the connections are to be encrypted.",
        required=True,
    ),
    _choice(
        "policy",
        "auth",
        "none",
        {
            "none": "the other host does not have to prove who it is",
            "tofu": "the first key that a host proves to have is remembered; from then on it has"
            " to prove that one, and encryption is required",
            "pinned": "the other host has to prove a key that `tcpcrypt peers pin` has named",
            "psk": "both hosts have to have the pre-shared key that `psk` names",
        },
        "What the other host has to prove.  Without a proof, encryption protects from whoever"
        " listens, not from whoever can place himself between the hosts.  Both hosts need tcpcrypt"
        " with this extension, which is an experimental one (TEP 0x20), and both show an identity"
        " key, in the clear where this host opens the connection.  Under `tofu` hosts that this"
        " host connects to are known by address and port; hosts that connect to it by their keys"
        ' alone, of which any is accepted that was not revoked.  "pinned" and "psk" make the mode'
        " `require`, and so does `tofu` for a host that is known, as long as the daemon runs.",
    ),
    _choice(
        "policy",
        "pq",
        None,
        {
            "off": "keys are agreed on without post-quantum cryptography",
            "prefer": "keys are agreed on with X25519MLKEM768 where the other host has it, so that"
            " recorded traffic stays secret from a later quantum computer",
            "require": "keys are agreed on with X25519MLKEM768, or the connection is refused",
        },
        'Post-quantum key agreement.  Without this key it is "prefer" where `auth` is not'
        ' "none", and "off" elsewhere.  A SYN holds one suboption of this extension only: a host'
        ' that opens a connection with "prefer" offers the hybrid, and falls back to RFC 8548'
        ' where `auth` is "none" and the other host has "off".',
    ),
    Key(
        "policy",
        "psk",
        values.PSK,
        None,
        '"site-a"',
        "Both hosts have to have the pre-shared key {}.",
        'The name of the pre-shared key, for `auth` = "psk": a file of that name, mode 0600, in'
        " the directory `psk` of `state` or in /etc/tcpcrypt/psk, the same on both hosts.",
    ),
    _choice(
        "policy",
        "profile",
        "rfc8548",
        {
            "rfc8548": "the protocol on the wire is that of RFC 8548",
            "stanford": "the protocol on the wire is that of the Stanford tcpcryptd of 2016",
            "both": "the protocol on the wire is that of RFC 8548 or that of the Stanford"
            " tcpcryptd, as the other host has it",
            "tcps": "the protocol on the wire is that of the TCP/S kernel module",
        },
        "The dialect spoken on the wire.  The Stanford tcpcryptd (drafts tcpinc-tcpeno-03 and"
        " tcpinc-tcpcrypt-02) knows no other than its own, which is weaker: nothing protects the"
        " end of a stream, so that a forged FIN cuts data off unnoticed, and a resumed session"
        ' has no randomness of its own.  With "both", a host that connects here is answered in its'
        " dialect; where this host connects, it offers RFC 8548 first, and the other dialect on"
        " the next connection if that did not lead to encryption.  Only policies without `auth`"
        ' and `pq` may have "stanford" or "both", and only TEPs 0x21 and 0x22 and AES-GCM serve'
        ' there.  "tcps" is another protocol altogether, for hosts with the TCP/S kernel module of'
        " commit f166d11 and over IPv4 alone; what it lacks docs/tcps.md says, and `tcpcrypt policy"
        " check` warns of it.  Such policies stand before all others, name ports, but no `uid` or"
        ' `cgroup`, and have `auth` "none" or "tofu"; their connections end when the daemon does.',
    ),
    Key(
        "policy",
        "application_aware",
        values.BOOLEAN,
        "false",
        "true",
        "The other host is told that the application here knows of encryption: {}.",
        "Whether applications of this policy ask for the session ID (`tcpcrypt session-id`, or by"
        " the control socket) and check it with the other side.  It is told in TCP-ENO (RFC 8547,"
        " section 4.2), so that both sides know whether the other one does, and changes nothing"
        " else.",
    ),
    _choice(
        "policy",
        "plane",
        "relay",
        {
            "relay": "the daemon takes the data over from the kernel's TCP, and hands it on",
            "segment": "the daemon changes each segment on its way, and the connection stays that"
            " of the two hosts",
        },
        'How the data passes through the daemon.  "relay" ends the connection here and makes'
        ' another one to the other host, and is faster; "segment" is for gateways'
        " (`match.inner`), and where the four-tuple has to be the same on both sides.  On the wire"
        " they are one.  Policies with"
        ' "segment" stand before those with "relay", name ports, but no `uid` or `cgroup`, and have'
        ' the profile "rfc8548"; their connections end when the daemon does (docs/segment.md).',
    ),
    Key(
        "policy",
        "active_b",
        values.BOOLEAN,
        "false",
        "true",
        "This host has role B also where it opens a connection: {}.",
        "For two hosts that open a connection to each other at the same moment, with `plane` ="
        ' "segment": who is host A and who B they cannot tell unless one of the two has been told'
        " to be B (RFC 8547, section 4.2).  Any other host that such a policy connects to has role"
        " B as well, so that nothing is agreed on, and the connection is plain, or refused.",
    ),
    _choice(
        MATCH,
        "direction",
        "both",
        {
            "both": "it does not matter which host opens the connection",
            "incoming": "other hosts open the connection, to services of this host",
            "outgoing": "this host opens the connection",
        },
        "Which host opens the connection.",
    ),
    Key(
        MATCH,
        "local",
        values.NETWORKS,
        None,
        '"192.0.2.10"',
        "This host's address of the connection is in {}.",
        "Addresses of this host, IPv4 or IPv6, of which the connection uses one.",
    ),
    Key(
        MATCH,
        "remote",
        values.NETWORKS,
        None,
        '["10.0.0.0/8", "fd00::/8"]',
        "The other host's address is in {}.",
        "Addresses of the other host, IPv4 or IPv6.",
    ),
    Key(
        MATCH,
        "ports",
        values.PORTS,
        None,
        '[5432, "8000-8099"]',
        "The service has {}.",
        "Ports of the service, that is, of the host that accepts the connection, whichever it"
        " is.  The port from which a client comes does not matter.",
    ),
    Key(
        MATCH,
        "uid",
        values.UIDS,
        None,
        '["postgres", "1000-1999"]',
        "The program that opens the connection runs as {}.",
        "Users of this host, for connections that their programs open; such a policy is one for"
        " outgoing connections.  Names are looked up when the file is read.",
    ),
    Key(
        MATCH,
        "cgroup",
        values.CGROUPS,
        None,
        '"backup.slice"',
        "The program that opens the connection is in control group {} or below.",
        "Control groups of this host, as paths below the root of cgroup v2, for connections that"
        " the programs in them open; such a policy is one for outgoing connections.  A control"
        " group has to exist, and for good: name slices, for a service has another one after"
        " each start.",
    ),
    Key(
        MATCH,
        "inner",
        values.INTERFACES,
        None,
        '"eth1"',
        "This host forwards the connection, between hosts behind {} and others.",
        "Interfaces of a gateway, for connections that it forwards between hosts behind them and"
        ' hosts elsewhere; such a policy has `plane` = "segment".  `local` are addresses of the'
        " hosts behind them then, `remote` of the others, and `direction` is seen from those"
        " behind them.  All policies with this key name the same interfaces.  Without it a policy"
        " is for connections of this host itself.",
    ),
)


def keys_of(section: str) -> dict[str, Key]:
    """The keys of a section, by name."""
    return {key.name: key for key in KEYS if key.section == section}
