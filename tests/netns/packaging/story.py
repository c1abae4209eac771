"""What becomes of a host on which the Debian package is installed."""

import json
import subprocess
from pathlib import Path

from netns.network import Network
from netns.packaging.root import Root

from tcpcrypt.tools.netns import Capture, free_of, wait_until

PAGE = b"<h1>a page that nobody else may read</h1>"
POLICY = '\n[[policy]]\nmatch = { ports = 80 }\nmode = "require"\n'
CONFIGURATION = "etc/tcpcrypt/tcpcrypt.toml"
STATE = ("var/lib/tcpcrypt", "var/log/tcpcryptd.log", "etc/tcpcrypt")
ASK = "import tcpcrypt, tcpcrypt._fast as f; print(f.IMPLEMENTATION, tcpcrypt.__file__)"


def fresh(root: Root) -> None:
    """Installed, nothing runs, nothing is diverted, and everything is there."""
    assert root.rules() == []
    assert root.daemons() == []
    twin, where = root.run("/usr/lib/tcpcrypt/bin/python3", "-I", "-c", ASK).stdout.split()
    assert twin == "c"
    assert where.startswith("/usr/lib/tcpcrypt/lib/python3")
    for program in ("tcpcrypt", "tcpcryptd", "stx-send", "stx-recv", "stx-keygen"):
        assert "usage:" in root.run(program, "--help").stdout
    checked = root.run("tcpcrypt", "policy", "check", "--json")
    answer = json.loads(checked.stdout)
    assert (answer["ok"], answer["policies"]) == (True, [])
    assert root.run("getent", "passwd", "tcpcrypt").stdout.endswith("/usr/sbin/nologin\n")


def encrypts_curl(root: Root, network: Network) -> None:
    """A policy, the daemon, and a page that nobody between the hosts can read."""
    theirs = network.daemon(network.server)
    with (root.path / CONFIGURATION).open("a") as file:
        file.write(POLICY)
    assert "1 require" in root.run("tcpcrypt", "up").stdout
    with Capture(network.client_end) as capture:
        curl(root, network)
    assert capture.dropped == 0
    needles = (b"GET /page", b"HTTP/1", b"nobody else")
    assert free_of(capture.packets, *needles) == list(needles)
    (line,) = theirs.wait_for("enabled")
    log = (root.path / "var/log/tcpcryptd.log").read_text()
    assert f"session={line['session']}" in log, "both ends have one session"


def curl(root: Root, network: Network) -> None:
    url = f"http://{network.server_end.v4}/page.html"
    done = root.run("curl", "--silent", "--show-error", "--max-time", "30", url)
    assert done.stdout.encode() == PAGE


def refused(root: Root, network: Network) -> bool:
    url = f"http://{network.server_end.v4}/page.html"
    return root.run("curl", "--silent", "--max-time", "5", url, check=False).returncode in {
        7,
        28,
        56,
    }


def another_version(package: Path, place: Path) -> Path:
    """The same package with a higher version."""
    tree = place / "tree"
    subprocess.run(("dpkg-deb", "-R", package, tree), check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    made = place / "newer.deb"
    words = ("dpkg-deb", "-Zgzip", "--root-owner-group", "-b", tree, made)
    subprocess.run(words, check=True, capture_output=True)
    return made


def upgraded(root: Root, network: Network, install: list[str]) -> None:
    """The daemon of the new version serves; what was written in the configuration is there."""
    before = root.daemons()
    root.run(*install)
    after = root.daemons()
    assert after
    assert not set(before) & set(after)
    assert POLICY in (root.path / CONFIGURATION).read_text()
    curl(root, network)


def removed(root: Root, network: Network) -> None:
    """No rule is left, of a guard neither; what an administrator wrote is."""
    assert root.rules()
    unfinished = root.path / "run/tcpcrypt.upgrade"
    unfinished.write_text(f"/{CONFIGURATION}\n")  # as an upgrade that failed leaves it
    said = root.run("dpkg", "--remove", "tcpcrypt").stdout
    assert not unfinished.exists(), "the next installation would start the daemon by it"
    assert "tcpcryptd has ended" in said
    wait_until(lambda: not root.daemons(), "end of the daemon")
    assert root.rules() == []
    assert not (root.path / "usr/lib/tcpcrypt").exists()
    assert not (root.path / "usr/bin/tcpcrypt").is_symlink()
    assert POLICY in (root.path / CONFIGURATION).read_text()
    curl(root, network)  # in the clear, as before everything


def purged(root: Root) -> None:
    """Keys, logs and configuration are gone; where received files went, they are."""
    for name in ("var/lib/tcpcrypt/key", "etc/tcpcrypt/psk/site", "var/lib/stx/keys/laptop"):
        key = root.path / name
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text("a secret")
    (root.path / "root/received").mkdir()
    (root.path / "var/lib/stx/files").symlink_to("/root/received")
    assert [name for name in STATE if (root.path / name).exists()] == list(STATE)
    root.run("dpkg", "--purge", "tcpcrypt")
    assert [name for name in STATE if (root.path / name).exists()] == []
    assert not (root.path / "var/lib/stx/keys").exists()
    assert (root.path / "var/lib/stx/files").is_symlink()
