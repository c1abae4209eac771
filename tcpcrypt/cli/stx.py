"""What the command lines of stx-send, stx-recv and stx-keygen have in common."""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

import tcpcrypt
from tcpcrypt.errors import LocalError
from tcpcrypt.sockets.peer import Demand, PeerSpec
from tcpcrypt.transfer.keys import NoKeyError, check_client_id
from tcpcrypt.transfer.status import Interrupted, Status

__all__ = [
    "EXIT_STATUSES",
    "Parser",
    "client_id",
    "interruptible",
    "peer",
    "port",
    "seconds",
    "size",
]

EXIT_STATUSES: Final = {
    0: "Every file has arrived, and has been verified.",
    1: "The network, the command line, or an interruption.",
    2: "Authentication: no key or not the right one, or the other end does not encrypt.",
    3: "A file, here or at the other end: it cannot be read or written, its name is taken or not"
    " allowed, no space or quota is left.",
    4: "Cryptography: a forged frame, or a digest that differs.",
    5: "The other end does not follow the protocol.",
}
_SIZE: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS_MAX: Final = 86_400.0


class _Version(argparse.Action):
    """As of `argparse`, but the version is looked up when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_more: object) -> None:
        super().__init__(option_strings, dest, 0, help="show program's version number and exit")
        self.dest = self.default = argparse.SUPPRESS

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> NoReturn:
        print(parser.prog, tcpcrypt.__version__)
        parser.exit()


class Parser(argparse.ArgumentParser):
    """One that leaves 2 to authentication: a wrong command line is 1."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        self.add_argument("--version", action=_Version)

    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(Status.NETWORK, f"{self.prog}: {message}\n")


def size(text: str) -> int:
    """For `type=`: bytes, with K, M, G or T of 1024."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 4096, 64K, 1.5M, 2G")
    whole, fraction = int(found[1]), int((found[2] or "0").ljust(3, "0"))
    factor = _FACTORS[found[3].upper()]
    return whole * factor + fraction * factor // 1000


def seconds(text: str) -> float:
    """For `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def port(text: str) -> int:
    """For `type=`: 0 to 65535."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def count(text: str) -> int:
    """For `type=`: 0 to a million."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def client_id(text: str) -> str:
    """For `type=`."""
    try:
        check_client_id(text)
    except NoKeyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def peer(text: str) -> str:
    """For `type=`: `key`, `tofu` or `pin:FINGERPRINT`."""
    if text == "key":
        return text
    with contextlib.suppress(LocalError):
        if PeerSpec.parse(text).demand in (Demand.TOFU, Demand.PIN):
            return text
    raise argparse.ArgumentTypeError(f"{text!r}: say key, tofu or pin:FINGERPRINT")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM is what Ctrl-C is: `Interrupted`, once; a second one waits no more."""

    def ask(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Interrupted

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
