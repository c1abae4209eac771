"""What is told of a daemon that runs by its command line."""

from pathlib import Path

import pytest

from tcpcrypt import __version__
from tcpcrypt.cli.tcpcryptd import configuration_of, main
from tcpcrypt.daemon.configuration import DEFAULT_PATH

MODULE = ("/usr/lib/tcpcrypt/bin/python3", "-I", "-m", "tcpcrypt.cli.tcpcryptd")
PROGRAM = ("/usr/lib/tcpcrypt/bin/python3", "-I", "/usr/sbin/tcpcryptd")


@pytest.mark.parametrize("program", [MODULE, PROGRAM])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), DEFAULT_PATH),
        (("--config", "/a b/c.toml", "--confirm", "60"), Path("/a b/c.toml")),
        (("--config=./c.toml",), Path("/root/c.toml")),
        (("--odd",), None),
        (("--log-file", "l", "--config", "c.toml"), Path("/root/c.toml")),
        (("--port", "80"), None),
    ],
)
def test_the_file_of_a_daemon_that_runs(
    tmp_path: Path, program: tuple[str, ...], words: tuple[str, ...], found: Path | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"".join(f"{w}\0".encode() for w in (*program, *words)))
    (tmp_path / "7/cwd").symlink_to("/root")
    assert configuration_of(7, tmp_path) == found


def test_what_is_no_daemon_has_none(tmp_path: Path) -> None:
    assert configuration_of(0) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"sleep\x00--config\x00/evil\x00")
    (tmp_path / "7/cwd").symlink_to("/root")
    assert configuration_of(7, tmp_path) is None


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tcpcryptd {__version__}\n"
