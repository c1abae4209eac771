"""The unit under a real systemd, which is the first process of a root file system of its own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.packaging import story
from netns.packaging.booted import Booted

from tcpcrypt.tools.netns import wait_until

UNIT = "tcpcryptd.service"
RECEIVER = "stx-recv.service"
KEY_OF_A_CLIENT = (
    "install -d -o stx -g stx -m 700 /var/lib/stx /var/lib/stx/keys",
    "setpriv --reuid stx --regid stx --clear-groups stx-keygen --keys /var/lib/stx/keys laptop",
)
DROP_IN = f"run/systemd/system/{UNIT}.d"


@pytest.fixture
def root(package: Path, pair: Network, tmp_path: Path) -> Iterator[Booted]:
    """Booted, with the package installed; a web server and a daemon are on the other host."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "page.html").write_bytes(story.PAGE)
    pair.web(site)
    with Booted(pair.client, Path("/"), tmp_path / "root") as root:
        (root.path / "root" / "a.deb").write_bytes(package.read_bytes())
        root.run("dpkg", "--install", "/root/a.deb")
        yield root


def test_a_life_as_a_service(package: Path, root: Booted, pair: Network, tmp_path: Path) -> None:
    """Off at first; started it serves; what fails comes back; removed it leaves nothing."""
    assert root.property_of(UNIT, "ActiveState") == "inactive"
    assert root.property_of(UNIT, "UnitFileState") == "disabled"
    pair.daemon(pair.server)
    (root.path / story.CONFIGURATION).write_text(story.POLICY)
    # Type=notify: when this returns, what the policy names is encrypted or refused.
    root.systemctl("enable", "--now", UNIT)
    assert root.property_of(UNIT, "StatusText") == "serving by 1 policy"
    _the_journal_has_fields(root, pair)
    _a_reload(root, pair)
    _who_kills_it_opens_nothing(root, pair)
    _a_worker_that_hangs_is_noticed(root, pair)
    _an_upgrade(root, pair, story.another_version(package, tmp_path))
    root.systemctl("stop", UNIT)
    assert root.property_of(UNIT, "Result") == "success"
    assert root.daemons() == []
    root.systemctl("start", UNIT)
    story.curl(root, pair)
    root.run("dpkg", "--remove", "tcpcrypt")
    assert root.property_of(UNIT, "ActiveState") == "inactive"
    assert root.daemons() == []
    assert root.rules() == []
    root.run("dpkg", "--purge", "tcpcrypt")
    assert root.property_of(UNIT, "LoadState") == "not-found"


def _the_journal_has_fields(root: Booted, network: Network) -> None:
    story.curl(root, network)
    words = ("TCPCRYPT_EVENT=enabled", "--output=json")
    told = wait_until(lambda: root.journal(UNIT, *words), "entry of the journal")
    (line,) = told.splitlines()
    entry = json.loads(line)
    peer = f"{network.server_end.v4}:{PORT}"
    assert peer in entry["MESSAGE"]
    (theirs,) = network.daemons[0].wait_for("enabled")
    assert entry["TCPCRYPT_SESSION"] == theirs["session"], "both ends have one session"
    assert entry["SYSLOG_IDENTIFIER"] == "tcpcryptd"


def _a_reload(root: Booted, network: Network) -> None:
    """The same process by other policies; a file with a fault changes nothing."""
    before = root.property_of(UNIT, "MainPID")
    path = root.path / story.CONFIGURATION
    path.write_text(story.POLICY + '[[policy]]\nmatch = { ports = 81 }\nmode = "opportunistic"\n')
    root.systemctl("reload", UNIT)
    _says(root, "serving by 2 policies")
    path.write_text(story.POLICY + "odd = 1\n")
    root.systemctl("reload", UNIT)
    wait_until(lambda: root.journal(UNIT, "TCPCRYPT_EVENT=reload_failed", "-o", "cat"), "refusal")
    _says(root, "serving by 2 policies")
    path.write_text(story.POLICY)
    root.systemctl("reload", UNIT)
    _says(root, "serving by 1 policy")
    assert root.property_of(UNIT, "MainPID") == before
    story.curl(root, network)


def _says(root: Booted, what: str) -> None:
    wait_until(lambda: root.property_of(UNIT, "StatusText") == what, what)


def _who_kills_it_opens_nothing(root: Booted, network: Network) -> None:
    """Killed, it is started again; until then what `require` names is refused."""
    root.run("mkdir", "-p", DROP_IN)
    (root.path / DROP_IN / "slow.conf").write_text("[Service]\nRestartSec=3s\nWatchdogSec=2s\n")
    root.systemctl("daemon-reload")
    root.systemctl("restart", UNIT)
    root.systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
    wait_until(lambda: root.property_of(UNIT, "SubState") == "auto-restart", "end of the daemon")
    assert story.refused(root, network)
    _comes_back(root, restarts=1)
    story.curl(root, network)


def _a_worker_that_hangs_is_noticed(root: Booted, network: Network) -> None:
    """The parent would ping for ever; it does so while the worker answers, no longer."""
    status = json.loads(root.run("tcpcrypt", "status", "--json").stdout)
    root.run("kill", "-STOP", str(status["worker"]))
    _comes_back(root, restarts=2)
    assert "atchdog timeout" in root.journal(UNIT, "--output=cat")
    story.curl(root, network)


def _comes_back(root: Booted, restarts: int) -> None:
    def is_back() -> bool:
        counted = int(root.property_of(UNIT, "NRestarts"))
        return counted >= restarts and root.property_of(UNIT, "SubState") == "running"

    wait_until(is_back, f"restart {restarts}", timeout=30)


def _an_upgrade(root: Booted, network: Network, newer: Path) -> None:
    """What ran runs on with the new version, by systemd and not beside it."""
    before = root.property_of(UNIT, "MainPID")
    (root.path / "root/newer.deb").write_bytes(newer.read_bytes())
    root.run("dpkg", "--install", "/root/newer.deb")
    assert root.property_of(UNIT, "SubState") == "running"
    assert root.property_of(UNIT, "MainPID") != before
    story.curl(root, network)


def test_the_receiver_of_files(root: Booted, pair: Network, tmp_path: Path) -> None:
    """By the commands that stand in the head of its unit; nothing listens before there is a key."""
    root.systemctl("start", RECEIVER)
    assert root.property_of(RECEIVER, "ActiveState") == "inactive"
    for line in KEY_OF_A_CLIENT:
        root.run("sh", "-c", line)
    root.systemctl("start", RECEIVER)
    wait_until(lambda: ":12345 " in root.run("ss", "-ltn").stdout, "its port")
    key, letter = tmp_path / "key", tmp_path / "letter"
    key.write_bytes((root.path / "var/lib/stx/keys/laptop").read_bytes())
    key.chmod(0o600)
    letter.write_bytes(story.PAGE)
    program = (sys.executable, "-m", "tcpcrypt.cli.stx_send", "--id", "laptop")
    pair.server.run(
        *("env", f"STX_KEY_FILE={key}", *program, pair.client_end.v4, "12345", str(letter))
    )
    assert (root.path / "var/lib/stx/files/laptop/letter").read_bytes() == story.PAGE
    assert "letter" in root.journal(RECEIVER, "--output=cat")
    root.systemctl("stop", RECEIVER)
    assert root.property_of(RECEIVER, "Result") == "success"
