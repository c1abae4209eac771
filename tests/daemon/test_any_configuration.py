"""Any bytes as a configuration file: an answer, and lines that are right."""

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.daemon.configuration import (
    Configuration,
    ConfigurationError,
    parse,
    read_document,
)
from tcpcrypt.daemon.key_lines import key_lines
from tcpcrypt.daemon.keys import KEYS


def answered(text: str | bytes) -> None:
    """A configuration or an error, never anything else."""
    document = read_document(text)
    if document.problems:
        assert document.configuration is None
        with pytest.raises(ConfigurationError):
            parse(text)
    else:
        assert isinstance(parse(text), Configuration)


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    answered(data)


@given(st.text(max_size=300))
def test_random_text(text: str) -> None:
    answered(text)
    key_lines(text)


NAMES = sorted({key.name for key in KEYS} | {"match", "policy", "daemon", "crypto", "x"})
SCALARS = st.one_of(
    st.sampled_from([key.default or "1" for key in KEYS] + [key.example for key in KEYS]),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(
        ["true", "nan", "2026-01-01", "'a\\'", '"""\n"quoted" = # [x]\n"""', "'''\n'''"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'")).map(
        lambda text: f"'{text}'"
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", # [\n ".join([*items, "]"])),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3).map(
            lambda table: "{ " + ", ".join(f"{k} = {v}" for k, v in table.items()) + " }"
        ),
    ),
    max_leaves=6,
)
LINES = st.one_of(
    st.sampled_from(["[daemon]", "[crypto]", "[[policy]]", "[policy.match]", "# [x]", "", '["x"]']),
    st.tuples(st.sampled_from([*NAMES, '"x"', "x . y", "match.ports"]), VALUES).map(" = ".join),
)
FILES = st.lists(LINES, max_size=8).map("\n".join)


@given(FILES)
def test_random_files(text: str) -> None:
    answered(text)
    for problem in read_document(text).problems:
        assert 0 <= problem.line <= text.count("\n") + 1


def leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else ()
    for name, below in inner or (enumerate(value) if isinstance(value, list) else ()):
        yield from leaves(below, (*path, name))


@given(FILES)
def test_lines_of_random_files(text: str) -> None:
    """Each key of what TOML reads is on the line that the scanner says."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    rows = text.split("\n")
    for path in leaves(values):
        assert path in lines, path
        if isinstance(path[-1], str):
            assert path[-1] in rows[lines[path] - 1]


def test_lines_of_every_form() -> None:
    text = '''\
top = 1
[daemon] # comment
control = """
[crypto]
log = 1
"""
log = 'a'
[crypto]
teps = [  # first
    "a = 1",
    { x = 1 },
]
"quoted key" = 2
[[policy]]
match = { ports = [80], "remote" = "]" }
[[policy]]
match.ports = 1
[[policy]]
  [policy.match]
  uid = 1
'''
    lines = key_lines(text)
    assert tomllib.loads(text)["daemon"]["log"] == "a"
    wanted = {
        ("top",): 1, ("daemon",): 2, ("daemon", "control"): 3, ("daemon", "log"): 7,
        ("crypto",): 8, ("crypto", "teps"): 9, ("crypto", "teps", 0): 10,
        ("crypto", "teps", 1): 11, ("crypto", "teps", 1, "x"): 11, ("crypto", "quoted key"): 13,
        ("policy",): 14, ("policy", 0): 14, ("policy", 0, "match"): 15,
        ("policy", 0, "match", "ports"): 15, ("policy", 0, "match", "ports", 0): 15,
        ("policy", 0, "match", "remote"): 15, ("policy", 1): 16, ("policy", 1, "match"): 17,
        ("policy", 1, "match", "ports"): 17, ("policy", 2): 18, ("policy", 2, "match"): 19,
        ("policy", 2, "match", "uid"): 20,
    }  # fmt: skip
    assert lines == wanted
    assert lines.nearest(("policy", 2, "match", "nothing")) == 19
    assert lines.nearest(("nothing",)) == 0
