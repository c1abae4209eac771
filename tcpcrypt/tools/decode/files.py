"""Files of secrets: key logs, and the JSON that lies beside captures of other hosts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.crypto.groups import EphemeralKey
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import K_LEN, NONCE_LEN, RESUME_ID_LEN, SESSION_ID_LEN, AeadId
from tcpcrypt.tcps.schedule import PUBLIC_LEN, X25519
from tcpcrypt.tools.decode.keys import Chain, FromExchange, FromLine, FromMaster, KeyStore
from tcpcrypt.tools.vector_fields import Fields, VectorFileError

__all__ = ["GrowingKeyLog", "SecretFileError", "read_key_log", "read_secrets"]

_SIZE_MAX: Final = 1 << 28
"""Bytes of a file that are read at most."""
_GROWTH_MAX: Final = 1 << 20
"""Bytes that are read at once of a file that grows."""
_FAULTS_MAX: Final = 20
_COMMENT: Final = "#"
_AEAD_BY_KEY_LEN: Final = {16: AeadId.AES_128_GCM, 32: AeadId.AES_256_GCM}


class SecretFileError(LocalError):
    """A file that cannot be read, or holds no secrets of a known form."""


def read_key_log(path: Path, store: KeyStore) -> list[str]:
    """Add the lines of a key log (`tcpcrypt.core.key_log`); returns what is wrong with some.

    Empty lines and those that begin with `#` are left out, and so is a last line
    without an end, which is still being written.  A disk that was full leaves
    parts of lines.  Raises `SecretFileError` for a file without any good line
    and with bad ones.
    """
    before = store.entries
    text = _read(path)
    lines = text.split("\n")
    unfinished = lines.pop()
    if unfinished and _parses(unfinished):
        lines.append(unfinished)
    faults = _add_lines(path, lines, 1, store)
    if faults and store.entries == before:
        raise SecretFileError(faults[0])
    return faults[:_FAULTS_MAX]


class GrowingKeyLog:
    """A key log that is being written, or is not there yet."""

    def __init__(self, path: Path, store: KeyStore) -> None:
        self._path = path
        self._store = store
        self._at = 0
        self._lines = 0
        self._inode: int | None = None
        self.behind = False
        """Whether there was more than was read at once."""

    def read(self) -> list[str]:
        """Add what is new; returns what is wrong with it.  Raises `SecretFileError`."""
        self.behind = False
        try:
            with self._path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._inode, self._at, self._lines = found.st_ino, 0, 0
                if found.st_size == self._at:
                    return []
                stream.seek(self._at)
                octets = stream.read(_GROWTH_MAX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SecretFileError(f"{self._path}: {error.strerror}") from error
        whole = octets[: octets.rfind(b"\n") + 1]
        self._at += len(whole)
        self.behind = bool(whole) and self._at < found.st_size
        lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        first, self._lines = self._lines + 1, self._lines + len(lines)
        return _add_lines(self._path, lines, first, self._store)[:_FAULTS_MAX]


def _add_lines(path: Path, lines: list[str], first: int, store: KeyStore) -> list[str]:
    """Add lines of which the first has this number; returns what is wrong with some."""
    faults = []
    for number, text_line in enumerate(lines, first):
        if not text_line.strip() or text_line.startswith(_COMMENT):
            continue
        try:
            line = KeyLine.parse(text_line)
        except LocalError as error:
            faults.append(f"{path}: line {number}: {error}")
            continue
        source = f"{path.name}, line {number}"
        add = store.add_resumed if line.resumed else store.add_fresh
        add(line.match, FromLine(source, line))
        following = SessionSecret(Secret(line.ss.view())).peek_next().take()
        store.add_chain(source, Chain(following, line.aead))
    return faults


def _parses(line: str) -> bool:
    try:
        KeyLine.parse(line)
    except LocalError:
        return False
    return True


def read_secrets(path: Path, store: KeyStore) -> None:
    """Add the secrets of a JSON file.

    Two forms are known: events of the daemons of hosts `A` and `B` (`kex`, `keys`,
    `keys_resumed`), and the private keys of TCP/S: of `connections` (`client_priv`,
    `server_priv`: one of them is enough) and, static ones, of `hosts` (`priv`).
    Raises `SecretFileError`.
    """
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise SecretFileError(f"{path}: not JSON: {error}") from None
    try:
        if isinstance(document, dict) and {"hosts", "connections"} <= document.keys():
            _read_tcps(Fields(document, path.name), store)
            return
        if not isinstance(document, dict) or not {"A", "B"} & document.keys():
            raise SecretFileError(
                f"{path}: neither events of hosts A and B, nor keys of TCP/S connections"
            )
        top = Fields(document, path.name)
        for side in ("A", "B"):
            if side in top:
                _Events(store, of_a=side == "A").read(top.objects(side))
    except VectorFileError as error:
        raise SecretFileError(f"{path}: {error}") from None


def _read_tcps(top: Fields, store: KeyStore) -> None:
    secrets = store.tcps
    for connection in top.objects("connections"):
        for side in ("client", "server"):
            _add_key(connection, f"{side}_", secrets.ephemeral)
    hosts = top.object("hosts")
    for name in hosts.names():
        _add_key(hosts.object(name), "", secrets.static)


def _add_key(fields: Fields, prefix: str, keys: dict[bytes, EphemeralKey]) -> None:
    """A private key, if it is there, which has to be that of the public one beside it."""
    name = f"{prefix}priv"
    if name not in fields:
        return
    key = X25519.from_private(_sized(fields, name, PUBLIC_LEN))
    if f"{prefix}pub" in fields and fields.octets(f"{prefix}pub") != key.public:
        raise VectorFileError(f"{fields.where}: {prefix}pub: is not that of {name}")
    keys[key.public] = key


class _Events:
    """The events of one host's daemon, in order."""

    def __init__(self, store: KeyStore, *, of_a: bool) -> None:
        self._store = store
        self._of_a = of_a
        self._exchanges: dict[tuple[str, str], Fields] = {}
        """Those of which the keys have not followed yet, by their endpoints."""

    def read(self, events: list[Fields]) -> None:
        for event in events:
            kind = event.text("event")
            ends = event.text("local", default=""), event.text("remote", default="")
            if kind == "kex":
                earlier = self._exchanges.pop(ends, None)
                if earlier is not None:
                    self._exchange(earlier, None)
                self._exchanges[ends] = event
            elif kind == "keys":
                exchange = self._exchanges.pop(ends, None)
                if exchange is not None:
                    self._exchange(exchange, event)
                self._chain(event)
            elif kind == "keys_resumed":
                self._resumed(event)
                self._chain(event)
        for exchange in self._exchanges.values():
            self._exchange(exchange, None)

    def _exchange(self, kex: Fields, keys: Fields | None) -> None:
        nonce = _sized(kex, "salt_nonce_c", NONCE_LEN)
        session_id = None
        if keys is not None and "session_id" in keys:
            session_id = _sized(keys, "session_id", SESSION_ID_LEN)
        material = FromExchange(
            kex.where,
            nonce,
            session_id,
            prk=Secret(_sized(kex, "prk_ss0", K_LEN)) if "prk_ss0" in kex else None,
            es=_secret(kex, "ecdh_shared_secret"),
            private=kex.octets("ephemeral_private") if "ephemeral_private" in kex else None,
            of_a=kex.text("role", default="client" if self._of_a else "server") == "client",
        )
        self._store.add_fresh(nonce, material)

    def _resumed(self, event: Fields) -> None:
        session_id = _sized(event, "session_id", SESSION_ID_LEN)
        following = _secret(event, "next_ss", K_LEN)
        mk = Secret(_sized(event, "mk", K_LEN))
        material = FromMaster(event.where, session_id, _aead(event), mk, following)
        self._store.add_resumed(session_id[1 : 1 + RESUME_ID_LEN], material)

    def _chain(self, event: Fields) -> None:
        following = _secret(event, "next_ss", K_LEN)
        if following is not None:
            self._store.add_chain(event.where, Chain(following, _aead(event)))


def _aead(event: Fields) -> int:
    """The algorithm; events say at least how long its key is."""
    if "sym" in event:
        return event.integer("sym")
    length = event.integer("sym_key_len")
    if length not in _AEAD_BY_KEY_LEN:
        raise VectorFileError(f"{event.where}: sym_key_len: no algorithm has {length} bytes")
    return _AEAD_BY_KEY_LEN[length]


def _sized(fields: Fields, name: str, length: int) -> bytes:
    value = fields.octets(name)
    if len(value) != length:
        raise VectorFileError(f"{fields.where}: {name}: {len(value)} bytes, not {length}")
    return value


def _secret(fields: Fields, name: str, length: int | None = None) -> Secret | None:
    if name not in fields:
        return None
    return Secret(fields.octets(name) if length is None else _sized(fields, name, length))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            octets = stream.read(_SIZE_MAX + 1)
    except OSError as error:
        raise SecretFileError(f"{path}: {error.strerror}") from error
    if len(octets) > _SIZE_MAX:
        raise SecretFileError(f"{path}: larger than {_SIZE_MAX} bytes")
    return octets.decode("utf-8", "replace")
