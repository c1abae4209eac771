"""The Debian package on a host like this one, in a root file system that is gone afterwards."""

import subprocess
from pathlib import Path

import pytest
from netns.network import Network
from netns.packaging import story
from netns.packaging.root import Root


def test_from_installation_to_purge(package: Path, pair: Network, tmp_path: Path) -> None:
    """Installed it does nothing; told to, it encrypts; upgraded, removed, purged: no trace."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "page.html").write_bytes(story.PAGE)
    pair.web(site)
    newer = story.another_version(package, tmp_path)
    with Root(pair.client, Path("/"), tmp_path / "root") as root:
        for made in (package, newer):
            (root.path / "root" / made.name).write_bytes(made.read_bytes())
        said = root.run("dpkg", "--install", f"/root/{package.name}").stdout
        assert "nothing is encrypted yet" in said
        story.fresh(root)
        story.encrypts_curl(root, pair)
        story.upgraded(root, pair, ["dpkg", "--install", f"/root/{newer.name}"])
        pair.daemons[0].stop()
        assert story.refused(root, pair), "what `require` names does not go in the clear"
        story.removed(root, pair)
        story.purged(root)


@pytest.mark.long
def test_an_upgrade_that_does_not_start_again_stays_closed(
    package: Path, pair: Network, tmp_path: Path
) -> None:
    """Between two versions, and after a failure, nothing of `require` goes in the clear."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "page.html").write_bytes(story.PAGE)
    pair.web(site)
    with Root(pair.client, Path("/"), tmp_path / "root") as root:
        (root.path / "root/a.deb").write_bytes(package.read_bytes())
        root.run("dpkg", "--install", "/root/a.deb")
        configuration = root.path / story.CONFIGURATION
        configuration.write_text(story.POLICY)
        root.run("tcpcrypt", "up")
        assert story.refused(root, pair)
        configuration.write_text(story.POLICY + "odd = 1\n")
        done = root.run("dpkg", "--install", "/root/a.deb")
        assert "the daemon did not start again" in done.stderr
        assert root.daemons() == []
        assert story.refused(root, pair)
        root.run("dpkg", "--purge", "tcpcrypt")
        assert root.rules() == []
        story.curl(root, pair)


def test_what_is_in_it(package: Path) -> None:
    listing = subprocess.run(
        ("dpkg-deb", "--contents", package), capture_output=True, text=True, check=True
    ).stdout
    files = {line.split()[5].removeprefix(".") for line in listing.splitlines()}
    site = next(name for name in files if name.endswith("/site-packages/"))
    assert {
        "/etc/tcpcrypt/tcpcrypt.toml",
        "/lib/systemd/system/tcpcryptd.service",
        "/lib/systemd/system/stx-recv.service",
        "/usr/lib/sysusers.d/tcpcrypt.conf",
        "/usr/sbin/tcpcryptd",
        "/usr/share/man/man8/tcpcryptd.8.gz",
        "/usr/share/man/man5/tcpcrypt.toml.5.gz",
        "/usr/share/bash-completion/completions/stx-send",
        "/usr/share/fish/vendor_completions.d/tcpcrypt.fish",
        "/usr/share/zsh/vendor-completions/_tcpcrypt",
        "/usr/share/tcpcrypt/grafana/tcpcrypt.json",
        "/usr/share/tcpcrypt/wireshark/tcpcrypt.lua",
        f"{site}tcpcrypt/runtime/eno_sockops.bpf.o",
        f"{site}cryptography/",
        f"{site}scapy/",
        f"{site}prometheus_client/",
    } <= files
    # Neither what pip notes of the machine that built it, nor what no user can use.
    odd = ("/RECORD", "/direct_url.json", ".pyc", ".pyx", "/build.py")
    assert not [name for name in files if name.endswith(odd)]
    assert all("root/root" in line for line in listing.splitlines())
    out = 'dpkg-deb --fsys-tarfile "$1" | tar -xO ./lib/systemd/system/tcpcryptd.service'
    unit = subprocess.run(
        ("sh", "-c", out, "sh", package), capture_output=True, text=True, check=True
    ).stdout
    assert "ExecStart=/usr/sbin/tcpcryptd --config /etc/tcpcrypt/tcpcrypt.toml" in unit
