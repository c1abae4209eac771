"""Key material stays in one place and can be wiped (RFC 8548 section 8)."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.crypto.secret import Secret

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KEY = bytes(range(32))


def test_holds_a_copy() -> None:
    source = bytearray(KEY)
    secret = Secret(source)
    source[:] = bytes(32)
    assert secret.view() == KEY
    assert len(secret) == 32


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_any_buffer(kind: type) -> None:
    assert Secret(kind(KEY)).view() == KEY


def test_takes_wide_items_as_bytes() -> None:
    assert Secret(memoryview(KEY).cast("I")).view() == KEY


def test_view_is_read_only() -> None:
    with pytest.raises(TypeError):
        Secret(KEY).view()[0] = 1  # type: ignore[index]


def test_filled_in_place() -> None:
    def fill(octets: WriteableBuffer) -> None:
        memoryview(octets)[:] = KEY

    assert Secret.made_by(fill, 32) == Secret(KEY)


def test_wipe_overwrites_what_views_see() -> None:
    secret = Secret(KEY)
    view = secret.view()
    assert not secret.wiped
    secret.wipe()
    secret.wipe()
    assert secret.wiped
    assert view == bytes(32)


def test_use_after_wipe_raises() -> None:
    secret = Secret(KEY)
    secret.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        secret.view()
    with pytest.raises(RuntimeError):
        assert secret == Secret(KEY)


def test_context_manager_wipes_also_on_error() -> None:
    with pytest.raises(KeyError), Secret(KEY) as secret:
        raise KeyError
    assert secret.wiped


def test_view_outlives_its_secret() -> None:
    """A key taken from an expression must not turn into zeros."""
    view = Secret(KEY).view()
    gc.collect()
    assert view == KEY


def test_made_by_what_fails_is_not_there() -> None:
    def fill(_octets: WriteableBuffer) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        Secret.made_by(fill, 32)


def test_not_made_of_text() -> None:
    with pytest.raises(TypeError):
        Secret("text")  # type: ignore[arg-type]


def test_repr_shows_no_byte() -> None:
    secret = Secret(KEY)
    assert repr(secret) == str(secret) == f"{secret}" == "<Secret 32 bytes>"
    secret.wipe()
    assert repr(secret) == "<Secret wiped>"


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_is_neither_copied_nor_pickled(way: object) -> None:
    with pytest.raises(TypeError):
        way(Secret(KEY))  # type: ignore[operator]


def test_is_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(Secret(KEY))


def test_is_not_equal_to_bytes() -> None:
    assert Secret(KEY) != KEY
    assert (Secret(KEY) == KEY) is False, "the other operand is asked, and says no"
    assert Secret(KEY) != bytearray(KEY)
    assert memoryview(KEY) != Secret(KEY)


def test_is_copied_by_no_function_of_bytes() -> None:
    for copied in (bytes, bytearray, memoryview):
        with pytest.raises(TypeError):
            copied(Secret(KEY))  # type: ignore[call-overload]


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_equality_is_that_of_the_bytes(left: bytes, right: bytes) -> None:
    assert (Secret(left) == Secret(right)) is (left == right)
    assert Secret(left) == Secret(left)
