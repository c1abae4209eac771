"""Scopes: one spelling for one service."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.auth.scope import INCOMING, check_scope, is_name, outgoing_scope, read_scope
from tcpcrypt.errors import LocalError


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("192.0.2.7", "192.0.2.7:443"),
        ("2001:DB8:0::7", "[2001:db8::7]:443"),
        ("::ffff:192.0.2.7", "192.0.2.7:443"),
        ("::ffff:c000:0207", "192.0.2.7:443"),
        ("fe80::7%eth0", "[fe80::7%eth0]:443"),
        ("fe80::7%br-lan.5", "[fe80::7%br-lan.5]:443"),
        ("fe80::7", "[fe80::7]:443"),
        ("2001:db8::7%eth0", "[2001:db8::7]:443"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7:443"),
        ("::1", "[::1]:443"),
    ],
)
def test_one_spelling_for_one_service(address: str, scope: str) -> None:
    assert outgoing_scope(ipaddress.ip_address(address), 443) == scope
    assert read_scope(scope) == scope
    check_scope(scope)


def test_another_link_is_another_host() -> None:
    one, other = (outgoing_scope(ipaddress.ip_address(f"fe80::1%{n}"), 1) for n in ("a", "b"))
    assert one != other


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        *((INCOMING, INCOMING), ("[2001:DB8::0:7]:22", "[2001:db8::7]:22")),
        *(("DB.Example.org:5432", "db.example.org:5432"), ("example.org.:1", "example.org:1")),
        *(("[::ffff:10.0.0.1]:1", "10.0.0.1:1"), ("localhost:80", "localhost:80")),
        *(("3com.example:80", "3com.example:80"), ("_x.a-b:65535", "_x.a-b:65535")),
        ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
    ],
)
def test_what_a_person_writes(text: str, scope: str) -> None:
    assert read_scope(text) == scope
    check_scope(scope)
    if text != scope:
        with pytest.raises(LocalError, match="is not how this is written"):
            check_scope(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "**", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:080"),
        *("10.0.0.1:+1", "10.0.0.1:1 ", " 10.0.0.1:1", "10.0.0.1:1\n", "010.0.0.1:1", "10.1:1"),
        *("10.0.0.256:1", "1:1", "2001:db8::7:22", "[10.0.0.1]:1", "[host]:1", "host name:1"),
        *("-host:1", "host-:1", "a..b:1", ".a:1", "h\u00e4st:1", "a" * 64 + ":1", "a.b/c:1"),
        *("[fe80::1%]:1", "[fe80::1%a b]:1", "[fe80::1%" + "x" * 16 + "]:1", "h:\u0661", "h:1x"),
        *(".".join(["a" * 49] * 6) + ":1", "*:1", "host:123456"),
    ],
)
def test_what_is_no_scope(text: str) -> None:
    with pytest.raises(LocalError):
        read_scope(text)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports(port: int) -> None:
    with pytest.raises(LocalError, match=f"{port} is not a port"):
        outgoing_scope(ipaddress.ip_address("10.0.0.1"), port)


@given(st.ip_addresses(), st.integers(1, 0xFFFF))
def test_any_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    scope = outgoing_scope(address, port)
    check_scope(scope)
    assert " " not in scope


@given(st.text(max_size=40) | st.from_regex(r"[\[\]a-f0-9:.%*-]{1,30}:[0-9]{1,5}"))
def test_any_text(text: str) -> None:
    try:
        scope = read_scope(text)
    except LocalError:
        return
    assert scope.isascii()
    assert scope.isprintable()
    assert " " not in scope
    assert read_scope(scope) == scope


@pytest.mark.parametrize(
    ("scope", "named"),
    [
        *((INCOMING, False), ("10.0.0.1:1", False), ("[::1]:1", False), ("[fe80::1%a]:1", False)),
        *(("localhost:1", True), ("db.example.org:1", True), ("3com.x9:1", True)),
    ],
)
def test_names(scope: str, named: bool) -> None:
    check_scope(scope)
    assert is_name(scope) is named
