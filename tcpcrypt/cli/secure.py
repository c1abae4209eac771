"""What the commands have in common that open secure connections: `connect`, `listen`, `proxy`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from tcpcrypt.aio import SecureTransport, StateChanged
from tcpcrypt.auth.trust import PostQuantum
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.peer import PeerSpec

__all__ = [
    "Teller",
    "add_arguments",
    "address",
    "listening_address",
    "seconds",
    "where",
]

_SECONDS_MAX: Final = 86_400.0
_ASYNCIO: Final = "Connect call failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says with whom to talk, and how much to tell of it."""
    parser.add_argument(
        "--peer",
        type=_peer,
        default="tofu",
        metavar="WHO",
        help="who the other end has to be: `tofu` (default; whoever it was at the first contact),"
        " `pin:FINGERPRINT`, `psk:NAME`, or `insecure-unauthenticated` (anybody)",
    )
    parser.add_argument(
        "--pq",
        choices=[word.value for word in PostQuantum],
        help="whether keys are agreed on by X25519MLKEM768, which a later quantum computer does"
        " not break: `require`, `prefer` (where this host can) or `off`; without it an"
        " end that connects does not, and one that listens takes either",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="DIR",
        help="directory of the own key, of known peers and pre-shared keys (default:"
        " $TCPCRYPT_KEYS; without it root has that of the daemon, and others one of their own)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell each step of each connection"
    )
    parser.add_argument("--json", action="store_true", help="tell it as JSON, a line an event")


class Teller:
    """Tells what happens, on the standard error: the standard output may be the peer's."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._json: bool = arguments.json
        self._verbose: bool = arguments.verbose

    def say(self, event: str, text: str, **values: object) -> None:
        """What is always told."""
        line = json.dumps({"event": event, **values}) if self._json else f"tcpcrypt: {text}"
        print(line, file=sys.stderr, flush=True)

    def step(self, event: StateChanged) -> None:
        """A state that a connection has reached, if asked for."""
        if self._verbose:
            old, new = event.old.value, event.new.value
            self.say("state", f"{old} -> {new}: {event.reason}", old=old, new=new,
                     reason=event.reason)  # fmt: skip

    def secure(self, transport: SecureTransport, **values: object) -> None:
        """A connection in AES_MODE; as text if asked for."""
        known = {
            "peer": where(transport.get_extra_info("peername")),
            "session_id": None if transport.session_id is None else transport.session_id.hex(),
            "peer_identity": transport.peer_identity,
            "cipher": transport.cipher,
            "resumed": transport.resumed,
        }
        if self._verbose or self._json:
            who = known["peer_identity"] or "nobody in particular"
            again = ", resumed" if transport.resumed else ""
            text = (
                f"{known['peer']} is {who}; {transport.cipher}{again},"
                f" session ID {known['session_id']}"
            )
            self.say("connected", text, **known, **values)

    def ended(self, name: str, *, sent: int, received: int) -> None:
        """A connection whose streams both came to an authenticated end; as `secure`."""
        if self._verbose or self._json:
            text = f"{name} ended; {sent} bytes sent, {received} received"
            self.say("ended", text, address=name, sent=sent, received=received)

    def failed(self, name: str, error: BaseException, **values: object) -> None:
        """What did not work, always."""
        kind = type(error).__name__
        text = _said(error) or kind
        self.say("failed", f"{name}: {text}", address=name, error=kind, message=text, **values)


def _said(error: BaseException) -> str:
    """What an error says, without the number that the kernel gives it."""
    if not isinstance(error, OSError) or not error.errno or not error.strerror:
        return str(error)
    # Of a connection that could not be made asyncio says that and nothing else.
    return os.strerror(error.errno) if error.strerror.startswith(_ASYNCIO) else error.strerror


def where(name: Any) -> str:
    """A socket's address as a person writes it."""
    if not name:
        return "?"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address(text: str) -> tuple[str, int]:
    """For `type=` of an argument: HOST:PORT."""
    host, port = _split(text)
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    if port == 0:
        raise argparse.ArgumentTypeError("port 0 is nobody's")
    return host, port


def listening_address(text: str) -> tuple[str, int]:
    """For `type=` of an argument: [HOST:]PORT; no host: all addresses; port 0: any."""
    return _split(text if ":" in text else f":{text}")


def seconds(text: str) -> float:
    """For `type=` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"{text!r}: write an IPv6 address as [ADDRESS]:PORT")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    if int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return host, int(port)


def _peer(text: str) -> str:
    try:
        PeerSpec.parse(text)
    except LocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
