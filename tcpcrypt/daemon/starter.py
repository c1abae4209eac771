"""The file that an administrator starts from: every key explained in its place."""

from __future__ import annotations

import textwrap
from typing import Final

from tcpcrypt.daemon.keys import MATCH, SECTIONS, keys_of

__all__ = ["starter_file"]

_WIDTH: Final = 88

_HEAD: Final = """\
# What tcpcryptd encrypts on this host.  Each key is explained in its place, and
# in tcpcrypt.toml(5); what is commented out shows the default.  After a change:
#
#     tcpcrypt policy check /etc/tcpcrypt/tcpcrypt.toml
#     systemctl reload tcpcryptd
#
# Both hosts of a connection need tcpcrypt.  Where only one has it, nothing changes
# under "opportunistic", and nothing goes through under "require".
"""

_POLICIES: Final = """\
# --- Left alone whatever stands below ------------------------------------------
# ssh protects itself and is the way into this host.

[[policy]]
match = { ports = 22 }
mode = "never"

# --- Services between hosts of private networks ---------------------------------
# These often travel in the clear.  Both ends of a connection are yours, so that
# installing tcpcrypt on both is enough.  "opportunistic" cannot cut anything off:
# without tcpcrypt on the other host, the connection stays as it was.

[[policy]]
match.remote = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
match.ports = [5432, 6379, 80]  # PostgreSQL, Redis, HTTP
mode = "opportunistic"

# --- Examples to adapt ----------------------------------------------------------
# Once `tcpcrypt sessions` shows that a path is encrypted, make sure that it stays so.
# The first policy that matches decides: put this one before the one above.
#
# [[policy]]
# match = { direction = "outgoing", remote = "10.1.2.3", ports = 5432 }
# mode = "require"
#
# Have that host prove, too, that it is the one that it was at the first contact
# (tcpcrypt on both hosts; `tcpcrypt peers list` shows what is remembered):
#
# [[policy]]
# match = { direction = "outgoing", remote = "10.1.2.4", ports = 5432 }
# mode = "require"
# auth = "tofu"
#
# What the programs of one service of this host open:
#
# [[policy]]
# match = { cgroup = "backup.slice", ports = "1-65535" }
# mode = "opportunistic"
"""


_OFF: Final = """\
# --- Nothing is encrypted yet ---------------------------------------------------
# As installed, this file has no policy, and every connection is left alone.  Take
# the "#" away before the policies that you want.

"""


def starter_file(*, policies: bool = True) -> str:
    """The text of the file; it is valid as it stands.

    Without `policies`, those that it would have are commented out: a daemon with this
    file leaves every connection alone.
    """
    parts = [_HEAD]
    for section in ("daemon", "crypto"):
        parts.append(f"# {SECTIONS[section]}\n[{section}]\n")
        parts += [_key(name, section) for name in keys_of(section)]
    parts.append(_comment(SECTIONS["policy"]) + "#\n# Keys of a policy:\n#\n" + _table("policy"))
    parts.append(_comment(f"Keys of its `match`.  {SECTIONS[MATCH]}") + "#\n" + _table(MATCH))
    parts.append(_POLICIES if policies else _OFF + _commented_out(_POLICIES))
    return "\n".join(parts)


def _commented_out(text: str) -> str:
    lines = text.splitlines()
    return "".join(f"{'#' if line and line[0] != '#' else ''}{line}\n" for line in lines)


def _key(name: str, section: str) -> str:
    key = keys_of(section)[name]
    text = _comment(f"{key.text}  Takes {key.kind.phrase}.")
    return f"{text}#{key.name} = {key.default}\n"


def _table(section: str) -> str:
    """The keys of a section that may occur often, in the form of a list."""
    lines = []
    for key in keys_of(section).values():
        default = f"  Default: {key.default}." if key.default else ""
        text = f"{key.text}  Takes {key.kind.phrase}.{default}"
        indent = "#" + " " * 13
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=f"# {key.name:<11} ",
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    return "\n".join(lines) + "\n"
