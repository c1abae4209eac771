"""Keys of clients: where they come from, and what is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.transfer import keys
from tcpcrypt.transfer.keys import (
    ClientKey,
    ClientTable,
    NoKeyError,
    check_client_id,
    create_key,
    own_key,
    read_key,
)

HEX = "00112233445566778899aabbccddeeff" * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "client_keys"
    create_key(found / "laptop")
    create_key(found / "phone")
    return found


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def table(folder: Path, told: list[str]) -> ClientTable:
    table = ClientTable(folder, told.append)
    assert table.refresh()
    return table


def touched(folder: Path) -> None:
    """As if some time had passed: what a clock of a few milliseconds does not show."""
    os.utime(folder, ns=(0, os.stat(folder).st_mtime_ns + 1))


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "_", "-", "x" * 64])
def test_what_a_client_id_may_be(name: str) -> None:
    check_client_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "x" * 65, "a\n", "é", "a\0"])
def test_what_a_client_id_may_not_be(name: str) -> None:
    with pytest.raises(NoKeyError, match="no client id"):
        check_client_id(name)


def test_a_new_key_is_random_and_its_owners_alone(folder: Path) -> None:
    laptop, phone = read_key(folder / "laptop"), read_key(folder / "phone")
    assert len(laptop) == 32
    assert laptop != phone
    assert (folder / "laptop").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_key_that_exists_stays_unless_it_is_to_be_replaced(folder: Path) -> None:
    before = read_key(folder / "laptop")
    with pytest.raises(LocalError):
        create_key(folder / "laptop")
    assert read_key(folder / "laptop") == before
    create_key(folder / "laptop", replace=True)
    assert read_key(folder / "laptop") != before
    create_key(folder / "new", replace=True)
    assert len(read_key(folder / "new")) == 32


def test_the_key_of_a_sender_comes_from_the_environment(folder: Path) -> None:
    by_value = own_key("laptop", {"STX_KEY": HEX})
    assert by_value.key == Secret(bytes.fromhex(HEX))
    assert by_value.name == "laptop"
    by_file = own_key("laptop", {"STX_KEY_FILE": str(folder / "laptop")})
    assert by_file.key == read_key(folder / "laptop")


def test_upper_case_and_the_line_ends_of_others_are_read() -> None:
    assert own_key("a", {"STX_KEY": HEX.upper() + "\r\n"}).key == own_key("a", {"STX_KEY": HEX}).key


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no key"),
        ({"STX_KEY": ""}, "no key"),
        ({"STX_KEY": HEX, "STX_KEY_FILE": "x"}, "both"),
        ({"STX_KEY": HEX[:-1]}, "64 hexadecimal digits"),
        ({"STX_KEY": HEX + "00"}, "64 hexadecimal digits"),
        ({"STX_KEY": "g" * 64}, "64 hexadecimal digits"),
        ({"STX_KEY": "\udcff" * 64}, "64 hexadecimal digits"),
        ({"STX_KEY_FILE": "/nonexistent/key"}, "No such file"),
        ({"STX_KEY_FILE": "/"}, "not a regular file"),
    ],
)
def test_no_key_is_ever_made_up(environment: dict[str, str], said: str) -> None:
    with pytest.raises(NoKeyError, match=said):
        own_key("laptop", environment)


def test_a_key_that_others_could_read_is_none(folder: Path, tmp_path: Path) -> None:
    (folder / "laptop").chmod(0o640)
    with pytest.raises(NoKeyError, match="chmod 600"):
        read_key(folder / "laptop")
    link = tmp_path / "link"
    link.symlink_to(folder / "phone")
    with pytest.raises(NoKeyError):
        read_key(link)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(NoKeyError, match="not a regular file"):
        read_key(tmp_path / "pipe")


def test_a_key_of_another_user_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.geteuid()
    if own == 0:
        os.chown(folder / "laptop", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(NoKeyError, match="belongs to user"):
        read_key(folder / "laptop")


def test_a_message_never_shows_the_key(folder: Path) -> None:
    (folder / "laptop").write_text(HEX + "x\n")
    with pytest.raises(NoKeyError) as caught:
        read_key(folder / "laptop")
    assert HEX not in str(caught.value)
    assert HEX not in repr(own_key("a", {"STX_KEY": HEX}))


def test_the_hint_is_of_id_and_key_and_is_the_same_at_both_ends() -> None:
    one = ClientKey.of("laptop", Secret(bytes(32)))
    assert one.hint == ClientKey.of("laptop", Secret(bytes(32))).hint
    assert len(one.hint) == 8
    assert one.hint != ClientKey.of("phone", Secret(bytes(32))).hint
    assert one.hint != ClientKey.of("laptop", Secret(b"\1" * 32)).hint
    assert bytes(32)[:8] not in one.hint


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(NoKeyError, match="32 bytes"):
        ClientKey.of("laptop", Secret(bytes(31)))


def test_clients_are_found_by_hint_and_by_name(folder: Path, table: ClientTable) -> None:
    key = ClientKey.of("laptop", read_key(folder / "laptop"))
    found = table.by_hint(key.hint)
    assert found is not None
    assert found.name == "laptop"
    assert table.by_hint(bytes(8)) is None
    assert table.has("phone")
    assert not table.has("../client_keys/phone")
    assert len(table) == 2


def test_keys_come_and_go_while_it_runs(folder: Path, table: ClientTable) -> None:
    generation = table.generation
    assert not table.refresh()
    create_key(folder / "tablet")
    (folder / "phone").unlink()
    touched(folder)
    assert table.refresh()
    assert table.has("tablet")
    assert not table.has("phone")
    assert table.generation == generation + 1
    touched(folder)
    assert not table.refresh(), "nothing has changed but the time"
    (folder / "laptop").write_text(HEX + "\n")
    assert table.refresh(force=True), "a file that was written in place is seen when asked for"


def test_a_file_with_a_fault_is_no_key_and_costs_the_others_nothing(
    folder: Path, table: ClientTable, told: list[str]
) -> None:
    (folder / "tablet").write_text("secret\n")
    (folder / "with space").write_text(HEX)
    (folder / ".hidden").write_text("anything")
    (folder / "phone").chmod(0o644)
    touched(folder)
    assert table.refresh()
    assert len(table) == 1
    assert table.has("laptop")
    assert len(told) == 3
    assert all("is no key of a client" in line for line in told)


def test_a_folder_that_is_not_to_be_trusted_has_no_clients(
    folder: Path, table: ClientTable
) -> None:
    folder.chmod(0o770)
    with pytest.raises(NoKeyError, match="others could have put keys there"):
        table.refresh(force=True)
    assert len(table) == 0
    folder.chmod(0o700)
    assert table.refresh()
    assert len(table) == 2


def test_a_folder_that_is_not_there_has_no_clients(tmp_path: Path, told: list[str]) -> None:
    with pytest.raises(NoKeyError, match="stx-keygen"):
        ClientTable(tmp_path / "nowhere", told.append).refresh()
    (tmp_path / "file").write_text("")
    with pytest.raises(NoKeyError, match="not a directory"):
        ClientTable(tmp_path / "file", told.append).refresh()


def test_a_folder_has_a_bounded_number_of_keys(
    folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CLIENTS_MAX", 1)
    table = ClientTable(folder, told.append)
    with pytest.raises(NoKeyError, match="more than 1 keys"):
        table.refresh()
    assert len(table) == 0
