"""curl and nginx, unmodified, through two daemons."""

import hashlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.programs.server import ordinary, program, running
from netns.programs.watch import daemon, watched

from tcpcrypt.tools.netns import Capture, free_of, wait_until

PORT = 8080
PAGE = b"<h1>a page that nobody else may read</h1>\n"
NEEDLES = (b"GET /", b"HTTP/1", b"nobody else", b"User-Agent")
REFUSED = {7, 28, 56}
"""curl: could not connect, timed out, reset while receiving."""

CONFIGURATION = """
daemon off;
worker_processes 2;
pid {place}/pid;
error_log {place}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format addresses '$remote_addr $request $status';
    access_log {place}/access.log addresses;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    client_max_body_size 50m;
    keepalive_requests 1000;
    server {{
        listen {port};
        listen [::]:{port};
        root {place}/site;
        location /upload/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def place(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory of a running nginx: `site/`, `access.log`."""
    place = tmp_path_factory.mktemp("nginx")
    (place / "site/upload").mkdir(parents=True)
    (place / "site/page").write_bytes(PAGE)
    (place / "site/some").write_bytes(random.Random(11).randbytes(100_000))
    (place / "site/large").write_bytes(random.Random(12).randbytes(10_000_000))
    (place / "conf").write_text(CONFIGURATION.format(place=place, port=PORT))
    nginx = program("nginx", "nginx-light")
    argv = ordinary(nginx, "-e", str(place / "error.log"), "-c", str(place / "conf"))
    with running(hosts.server, PORT, place / "output", argv):
        yield place


def url(hosts: Network, path: str, family: int = 4) -> str:
    host = hosts.server_end.v4 if family == 4 else f"[{hosts.server_end.v6}]"
    return f"http://{host}:{PORT}{path}"


def curl(hosts: Network, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = ("--silent", "--show-error", "--fail", "--max-time", "30")
    return hosts.client.run(program("curl", "curl"), *argv, *arguments, check=check)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_the_daemon_the_wire_shows_it(hosts: Network, place: Path) -> None:
    """What the other tests look for in vain would have been found."""
    with Capture(hosts.client_end) as capture:
        assert curl(hosts, url(hosts, "/page")).stdout.encode() == PAGE
    assert free_of(capture.packets, *NEEDLES) == []


@pytest.mark.parametrize("family", [4, 6])
def test_the_log_has_the_clients_address(hosts: Network, place: Path, family: int) -> None:
    with watched(hosts, PORT, *NEEDLES) as seen:
        path = f"/page?family={family}"
        assert curl(hosts, "--globoff", url(hosts, path, family)).stdout.encode() == PAGE
        seen.enabled()
    address = hosts.client_end.v4 if family == 4 else hosts.client_end.v6
    line = f"{address} GET {path} HTTP/1.1 200"
    wait_until(lambda: line in (place / "access.log").read_text().splitlines(), line)


def test_a_hundred_requests_on_one_connection(hosts: Network, place: Path) -> None:
    with watched(hosts, PORT, *NEEDLES) as seen:
        done = curl(hosts, "--write-out", "%{num_connects}", url(hosts, "/page?[1-100]"))
        assert done.stdout.count(PAGE.decode()) == 100
        assert done.stdout.replace(PAGE.decode(), "") == "1" + 99 * "0"
        assert len(seen.enabled()) == 1


def test_a_download_and_an_upload_keep_every_byte(
    hosts: Network, place: Path, tmp_path: Path
) -> None:
    content = (place / "site/large").read_bytes()
    needles = [content[at : at + 24] for at in range(0, len(content) - 24, 250_000)]
    with watched(hosts, PORT, *NEEDLES, b"PUT /", *needles):
        curl(hosts, "--output", str(tmp_path / "got"), url(hosts, "/large"))
        assert digest(tmp_path / "got") == digest(place / "site/large")
        curl(hosts, "--upload-file", str(tmp_path / "got"), url(hosts, "/upload/put"))
        assert digest(place / "site/upload/put") == digest(place / "site/large")


def test_http_1_0_ends_with_the_connection(hosts: Network, place: Path) -> None:
    with watched(hosts, PORT, *NEEDLES) as seen:
        argv = ("--http1.0", "--header", "Connection: close", "--include")
        for _ in range(5):
            answer = curl(hosts, *argv, url(hosts, "/page")).stdout
            assert "Connection: close" in answer
            assert answer.endswith(PAGE.decode())
        seen.enabled(5)
        for end in (seen.ours, seen.theirs):
            assert {line["how"] for line in end.wait_for("closed", count=5)} == {"closed"}


def test_fifty_connections_at_once(hosts: Network, place: Path, tmp_path: Path) -> None:
    outputs = [word for i in range(50) for word in ("--output", str(tmp_path / f"got{i}"))]
    with watched(hosts, PORT, *NEEDLES) as seen:
        curl(
            hosts,
            *("--parallel", "--parallel-immediate", "--parallel-max", "50"),
            *outputs,
            *(url(hosts, f"/some?{i}") for i in range(50)),
        )
        assert len(seen.enabled(50)) == 50
    want = digest(place / "site/some")
    assert {digest(tmp_path / f"got{i}") for i in range(50)} == {want}


def test_where_encryption_is_required(hosts: Network, place: Path) -> None:
    with watched(hosts, PORT, *NEEDLES, arguments=("--mode", "require")):
        assert curl(hosts, url(hosts, "/page")).stdout.encode() == PAGE


def test_a_client_without_the_daemon_is_refused(hosts: Network, place: Path) -> None:
    with daemon(hosts.server, PORT, "--mode", "require"):
        done = curl(hosts, "--max-time", "3", url(hosts, "/page"), check=False)
    assert done.returncode in REFUSED
    assert done.stdout == ""
