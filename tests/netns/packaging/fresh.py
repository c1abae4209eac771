"""A Debian as debootstrap makes it, and the way out of it to what this machine installs from."""

import os
import shutil
import subprocess
from pathlib import Path

from netns.packaging.root import Root

SUITE = "bookworm"
CACHE = Path(os.environ.get("TCPCRYPT_TEST_ROOTS", "/var/tmp/tcpcrypt-test-roots"))
"""Where roots stay between runs; they are only ever read there."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def mirror() -> str:
    """Where this machine has its Debian packages from."""
    told = subprocess.run(
        ("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = [line.split()[1] for line in told.splitlines() if line.startswith("Debian ")]
    assert found, "apt has no list of Debian's packages: apt-get update"
    return next((uri for uri in found if "security" not in uri), found[0])


def bootstrapped() -> Path:
    """The smallest Debian there is, made once."""
    root = CACHE / SUITE
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / f"{SUITE}.{os.getpid()}"
        words = ("debootstrap", "--variant=minbase", SUITE, str(unfinished), mirror())
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            unfinished.rename(root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return root


def connected(root: Root) -> dict[str, str]:
    """Let `root` use this machine's way to packages; the variables that go with it."""
    etc = root.path / "etc"
    shutil.copy("/etc/resolv.conf", etc / "resolv.conf")
    options = [line for line in _apt_options() if "Proxy" in line or "::https::" in line]
    (etc / "apt/apt.conf.d/90machine").write_text("".join(f"{line}\n" for line in options))
    (etc / "ssl/certs").mkdir(parents=True, exist_ok=True)
    shutil.copy(CERTIFICATES, etc / "ssl/machine.crt")
    root.run("apt-get", "update", network=False)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"}
        or name.lower().endswith("_proxy")
    }
    return {**kept, "PIP_CERT": "/etc/ssl/machine.crt", "SSL_CERT_FILE": "/etc/ssl/machine.crt"}


def _apt_options() -> list[str]:
    done = subprocess.run(("apt-config", "dump"), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def apt_install(root: Root, *names: str) -> None:
    root.run(
        *("apt-get", "install", "--yes", "--no-install-recommends", *names),
        network=False, timeout=3600,
    )  # fmt: skip
