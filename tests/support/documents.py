"""The commands that README and docs show, and who runs each of them.

A block of the language `sh` or `console`, or without one, shows commands where
a line begins with a program that is known here.  Each has a plan: the test that
runs it, or the reason why none does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LANGUAGES = {"", "sh", "bash", "console"}
_PROMPT = re.compile(r"^(?:[a-z]+\$ )?(?:[A-Z_]+=\S+ )*")
PROGRAMS = frozenset(
    {
        *("tcpcrypt", "tcpcryptd", "stx-send", "stx-recv", "stx-keygen", "make", "python"),
        *("python3", "node", "curl", "pip", "pipx", "apt", "tox", "systemctl", "mkdir", "cp"),
        *("echo", "tshark", "wireshark", "cat", "sudo", "install", "promtool"),
    }
)


class Plan(NamedTuple):
    """Who runs a command (`tests/path.py::name`), or why nobody does."""

    test: str = ""
    why: str = ""


_NETNS = "tests/netns/test_docs_commands.py"
TWO_HOSTS = Plan(f"{_NETNS}::test_the_commands_between_two_hosts")
FILES_OF_README = Plan(f"{_NETNS}::test_the_commands_without_a_daemon")
PROXIES = Plan(f"{_NETNS}::test_the_proxies_of_the_readme")
METRICS = Plan("tests/netns/test_metrics.py::test_the_numbers_of_encrypted_downloads")
IDENTITIES = Plan(
    "tests/cli/test_identities_document.py::test_the_commands_do_what_the_document_says"
)
SOCKETS = Plan("tests/sockets/test_document.py::test_the_five_minutes")
DEMO = Plan("tests/netns/test_demo.py::test_it_verifies_everything")
DOCTOR = Plan("tests/netns/test_doctor.py::test_a_host_that_can")
PROBE = Plan("tests/netns/test_probe.py::test_a_host_that_encrypts")
VECTORS = Plan("tests/test_docs_site.py::test_the_vectors_commands_run")
PACKAGE = Plan("tests/netns/packaging/test_deb.py::test_from_installation_to_purge")
FROM_NOTHING = Plan(
    "tests/netns/packaging/test_fresh_root.py::test_apt_installs_it_and_curl_is_encrypted"
)
PIPX = Plan("tests/netns/packaging/test_fresh_root.py::test_pipx_installs_it")
SYSTEMD = Plan(why="it takes a machine that systemd runs; tests/daemon/test_unit.py has the unit")
ITSELF = Plan(why="it is what runs these tests")
MEASURES = Plan(why="it measures, for minutes to an hour, on a machine that does nothing else")
DRAWING = Plan(why="a line of a picture that begins with the name of a program")

WHOLE: dict[str, Plan] = {
    "identities.md": IDENTITIES,
    "performance.md": MEASURES,
    "sockets.md": SOCKETS,
    "transfer.md": MEASURES,
}
"""Documents of which all commands have one plan."""
_FIRST_STEPS = dict.fromkeys(
    (
        "mkdir -p /etc/tcpcrypt",
        "tcpcrypt policy init /etc/tcpcrypt/tcpcrypt.toml",
        "tcpcrypt policy check /etc/tcpcrypt/tcpcrypt.toml",
        "tcpcrypt up --confirm 60s",
    ),
    TWO_HOSTS,
)
COMMANDS: dict[str, dict[str, Plan]] = {
    "README.md": {
        "make demo": DEMO,
        "make test": ITSELF,
        "tcpcrypt doctor": DOCTOR,
        **_FIRST_STEPS,
        "tcpcrypt proxy server 7000 127.0.0.1:5432": PROXIES,
        "tcpcrypt proxy client 127.0.0.1:5432 db.example.org:7000": PROXIES,
        "stx-keygen --keys client_keys laptop": FILES_OF_README,
        "mkdir -p incoming; stx-recv --out incoming --keys client_keys &": FILES_OF_README,
        "cp client_keys/laptop laptop.key": FILES_OF_README,
        'echo "Dear receiver" > letter.txt': FILES_OF_README,
        "STX_KEY_FILE=laptop.key stx-send --id laptop localhost 12345 letter.txt": FILES_OF_README,
    },
    "index.md": {
        "make demo": DEMO,
        "tcpcrypt doctor": DOCTOR,
        **_FIRST_STEPS,
        **dict.fromkeys(
            (
                *("tcpcrypt confirm", "tcpcrypt status", "tcpcrypt sessions"),
                *("tcpcrypt sessions --watch", "tcpcrypt peers", "tcpcrypt down"),
            ),
            TWO_HOSTS,
        ),
    },
    "administrator.md": {"tcpcrypt doctor": DOCTOR}
    | dict.fromkeys(
        (
            "tcpcrypt probe 10.0.0.7:5432",
            "tcpcrypt policy check /etc/tcpcrypt/tcpcrypt.toml",
            "tcpcrypt rules --print --config /etc/tcpcrypt/tcpcrypt.toml",
            "tcpcrypt up --confirm 60s",
            "tcpcrypt confirm",
            "tcpcrypt status",
            "tcpcrypt sessions --state encrypted",
            "tcpcrypt sessions --watch 2",
            "tcpcrypt peers --last plain",
            "tcpcrypt policy show",
            "tcpcrypt flush 10.0.0.7",
            "tcpcrypt flush",
            "tcpcrypt down",
        ),
        TWO_HOSTS,
    ),
    "cookbook.md": {
        "tcpcrypt segment --port 5432 --inner eth1 --mode require": Plan(
            "tests/netns/test_segment_gateway.py::test_two_gateways"
        ),
    },
    "install.md": {
        "make deb": PACKAGE,
        "apt install ./dist/tcpcrypt_0.1.0_amd64.deb": FROM_NOTHING,
        "tcpcrypt policy check": PACKAGE,
        "tcpcrypt up --confirm 60s": TWO_HOSTS,
        "systemctl enable --now tcpcryptd": SYSTEMD,
        "apt remove tcpcrypt": FROM_NOTHING,
        "apt purge tcpcrypt": FROM_NOTHING,
        "pipx install .": PIPX,
        "make build": ITSELF,
        "make test": ITSELF,
    },
    "metrics.md": dict.fromkeys(
        (
            "curl -s http://127.0.0.1:9469/metrics",
            "curl -s --unix-socket /run/tcpcrypt/metrics.sock http://localhost/metrics",
        ),
        METRICS,
    ),
    "processes.md": {
        "tcpcryptd (root)        sockets, queues, rules; answers the worker's few requests": DRAWING
    },
    "researcher.md": {
        "tcpcrypt vectors verify vectors/rfc8548-x25519.json": VECTORS,
        "node vectors/verify.mjs vectors/rfc8548-x25519.json": VECTORS,
        "tcpcrypt probe --json 192.0.2.7:80": PROBE,
    },
}
"""By document, each command that is not in a document of `WHOLE`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One command of a document."""

    document: str
    command: str

    @classmethod
    def of(cls, path: Path, text: str) -> Iterator[Shown]:
        """Those of a document, in order."""
        for language, block in _FENCE.findall(text):
            if language not in _LANGUAGES:
                continue
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                bare = _PROMPT.sub("", line)
                name, _, rest = bare.partition(" ")
                # A row of a table begins with a name, too: its columns stand further off.
                if name in PROGRAMS and not rest.startswith(" "):
                    prompt = re.match(r"^[a-z]+\$ ", line)
                    command = re.sub(r"\s+# .*$", "", line[prompt.end() if prompt else 0 :])
                    yield cls(path.name, command)

    @property
    def words(self) -> list[str]:
        """The command as a shell splits it, up to what the shell does with it."""
        bare = _PROMPT.sub("", self.command)
        # The only apostrophes that no shell would see through are those of pictures.
        words = bare.split() if self.plan is DRAWING else shlex.split(bare, comments=True)
        ends = [n for n, word in enumerate(words) if word in {"&", "|", ">", "<", "&&", ";"}]
        return words[: ends[0]] if ends else words

    @property
    def plan(self) -> Plan | None:
        """None: nobody has thought of it."""
        return WHOLE.get(self.document) or COMMANDS.get(self.document, {}).get(self.command)

    def __str__(self) -> str:
        return f"{self.document}: {self.command}"
