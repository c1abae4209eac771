"""The commands of README and of the guides, as they stand there, on hosts that are all theirs.

client ---- veth1 ---- server            10.99.1.1    10.99.1.2

Each document runs in a mount namespace with an /etc, a /run and a /var/lib of
its own, in which `tcpcrypt` has not been before.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from netns.network import Network
from support.documents import COMMANDS, FILES_OF_README, PROXIES, TWO_HOSTS, Shown

from tcpcrypt.tools.netns import wait_until

ROOT = Path(__file__).parents[2]
ALONE = (
    "mount -t tmpfs none /run && mkdir -p /run/lock /run/over/etc /run/over/work &&"
    " mount -t overlay none -o lowerdir=/etc,upperdir=/run/over/etc,workdir=/run/over/work /etc &&"
    " mount -t tmpfs none /var/lib && mount -t tmpfs none /var/log || exit 90;"
)
EACH = (
    'for step; do printf "\\n=== %s\\n" "$step"; eval "$step" ||'
    ' { printf "\\n=== exit %s\\n" $?; exit 1; }; done'
)
END = "tcpcrypt down"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Where the commands are installed; the directory of the test is for all to read."""
    tmp_path.chmod(0o755)
    directory = Path(sys.executable).parent
    assert (directory / "tcpcrypt").exists()
    return directory


def shell(programs: Path, *steps: str, alone: bool = True) -> list[str]:
    text = (ALONE if alone else "") + EACH
    path = f"PATH={programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return ["env", path, "unshare", "--mount", "sh", "-c", text, "sh", *steps]


def commands() -> list[str]:
    """Those of all documents that have some, each once; what ends the daemon is the last."""
    found: dict[str, None] = {}
    others = sorted(name for name, plans in COMMANDS.items() if TWO_HOSTS in plans.values())
    for name in dict.fromkeys(("index.md", "administrator.md", *others)):
        path = ROOT / name if name == "README.md" else ROOT / "docs" / name
        shown = Shown.of(path, path.read_text())
        found |= dict.fromkeys(one.command for one in shown if one.plan is TWO_HOSTS)
    return [*(command for command in found if command != END), END]


def test_the_commands_between_two_hosts(pair: Network, programs: Path, tmp_path: Path) -> None:
    pair.daemon(pair.server, "--port", "5432")
    text = (ROOT / "docs" / "index.md").read_text()
    (policy,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "policy.toml").write_text(policy)
    service = pair.server_end.v4
    program = (
        "import socket, time\n"
        f"s = socket.create_connection(({service!r}, 5432), 30)\n"
        "s.sendall(b'?'); s.recv(1); print(flush=True); time.sleep(120)\n"
    )
    steps = []
    for command in commands():
        step = command.replace("10.0.0.7", service)
        if "--watch" in command:  # until it has shown something and is ended
            step = (
                f"rm -f /run/shown; {step} >/run/shown &"
                " until [ -s /run/shown ]; do sleep 0.1; done;"
                " kill $!; wait $! || [ $? = 143 ] && cat /run/shown"
            )
        steps.append(step)
        if "policy init" in command:
            steps.append(f"cat {tmp_path}/policy.toml >> /etc/tcpcrypt/tcpcrypt.toml")
        elif command == "tcpcrypt confirm":
            connecting = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
            steps.append(f"mkfifo /run/up; {connecting} >/run/up & read connected </run/up")
    with pair.listen(port=5432) as listener, (tmp_path / "out").open("w") as out:
        process = pair.client.start(*shell(programs, *steps), stdout=out, stderr=out)
        listener.settimeout(60)
        other, _address = listener.accept()
        with other:
            assert other.recv(1) == b"?"
            other.sendall(b"!")
            process.wait(120)
    said = (tmp_path / "out").read_text()
    assert process.returncode == 0, said
    parts = dict(re.findall(r"^=== (.*)\n((?:(?!===).*\n?)*)", said, re.MULTILINE))
    assert set(steps) <= set(parts) | {step for step in steps if "\n" in step}
    assert " encrypted " in parts["tcpcrypt sessions"]
    assert " encrypted " in parts["tcpcrypt sessions --state encrypted"]
    assert re.search(r"^\S+ new +\d+ .* encrypted ", said, re.MULTILINE), said
    assert re.search(rf"^{re.escape(service)} .* encrypted ", parts["tcpcrypt peers"], re.MULTILINE)
    assert "connections to port 5432" in parts["tcpcrypt policy show"].lower()


def test_the_commands_without_a_daemon(pair: Network, programs: Path, tmp_path: Path) -> None:
    """The file transfer of README, line by line."""
    steps = [
        one.command
        for one in Shown.of(ROOT / "README.md", (ROOT / "README.md").read_text())
        if one.plan is FILES_OF_README
    ]
    assert len(steps) == 5
    steps.insert(2, "until ss -tln | grep -q :12345; do sleep 0.1; done")
    steps += ["kill %1 2>/dev/null || kill $!", "cmp letter.txt incoming/letter.txt"]
    done = pair.client.run(*shell(programs, *steps), cwd=tmp_path, check=False, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_proxies_of_the_readme(pair: Network, programs: Path, tmp_path: Path) -> None:
    """A plain service and a plain client, with the two commands between them."""
    at_server, at_client = (
        one.command
        for one in Shown.of(ROOT / "README.md", (ROOT / "README.md").read_text())
        if one.plan is PROXIES
    )
    name = f'echo "{pair.server_end.v4} db.example.org" >> /etc/hosts'
    for host, command in ((pair.server, at_server), (pair.client, at_client)):
        # Each host has keys of its own.
        keys = f"export TCPCRYPT_KEYS={tmp_path}/keys-{host.name}"
        host.start(
            *shell(programs, keys, name, command),
            stdout=(out := (tmp_path / host.name).open("w")),
            stderr=out,
        )

    def listening() -> bool:
        found = (host.run("ss", "-tln").stdout for host in (pair.server, pair.client))
        return ":7000" in next(found) and "127.0.0.1:5432" in next(found)

    service = pair.server.socket()
    with service:
        service.bind(("127.0.0.1", 5432))
        service.listen()
        service.settimeout(20)
        wait_until(listening, "both proxies")
        with pair.client.socket() as one:
            one.settimeout(20)
            one.connect(("127.0.0.1", 5432))
            one.sendall(b"select 1")
            other, _address = service.accept()
            with other:
                other.settimeout(20)
                assert other.recv(100) == b"select 1"
                other.sendall(b"1")
                assert one.recv(100) == b"1"
