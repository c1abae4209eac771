"""A line on the control socket, of any user of the host."""

from __future__ import annotations

from collections.abc import Iterator

from tcpcrypt.daemon.requests import METHODS, RefusedError, parse

MAX_LEN = 2000


def seeds() -> Iterator[bytes]:
    for name in METHODS:
        yield b'{"v":1,"method":"%s"}' % name.encode()
    yield b'{"v":1,"method":"find","params":{"local":["::1",1],"remote":["192.0.2.1",2],"wait":3}}'
    yield b'{"v":1,"method":"sessions","params":{"limit":10,"after":7}}'
    yield b'{"v":1,"method":"flush","params":{"peer":"2001:db8::1"}}'


def shown(error: RefusedError) -> None:
    assert str(error).isprintable(), "an answer is one line that a terminal may show"


def check(data: bytes) -> None:
    try:
        request = parse(data)
    except RefusedError as error:
        shown(error)
        return
    assert METHODS[request.name] is request.method
    assert request.params.keys() == request.method.params.keys()
