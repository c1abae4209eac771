"""Cells and reassembly against models that are too simple to be wrong."""

from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.segment.cells import Cells
from tcpcrypt.segment.reassembly import Reassembly

frames = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 9), st.just(4), st.just(16)),
        st.tuples(st.just(0), st.sampled_from((20, 90)), st.just(0)),
    ),
    max_size=12,
)


def positions(chosen: list[tuple[int, int, int]]) -> tuple[list[tuple[int, int]], int]:
    """For every data byte the first and last wire byte that belong to it; all wire bytes."""
    found, wire = [], 0
    for size, header, tag in chosen:
        for index in range(size):
            first = wire + (header + index if index else 0)
            last = wire + header + index + (tag if index == size - 1 else 0)
            found.append((first, last))
        wire += header + size + tag
    return found, wire


@given(frames, st.data())
def test_every_offset_is_where_a_list_of_all_bytes_has_it(
    chosen: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    cells = Cells()
    for size, header, tag in chosen:
        cells.add(size, header, header + size + tag)
    where, wire_end = positions(chosen)
    # What is forgotten is not asked for again, so that everything behind must stay.
    done = data.draw(st.integers(0, wire_end))
    whole = sum(last < done for _, last in where)
    cells.forget(whole, done)
    assert (cells.app_end, cells.wire_end) == (len(where), wire_end)
    for app in range(whole, len(where)):
        assert cells.wire_from(app) == where[app][0]
    for app in range(whole + 1, len(where) + 1):
        reached = wire_end if app == len(where) else where[app - 1][1] + 1
        assert cells.wire_to(app) == reached
    for wire in range(done, wire_end + 1):
        assert cells.app_to(wire) == sum(last < wire for _, last in where)
        if wire < wire_end:
            assert cells.app_from(wire) <= sum(first < wire for first, _ in where)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
def test_probes_keep_their_distance_when_the_cells_are_forgotten(sizes: list[int]) -> None:
    cells = Cells()
    for size in sizes:
        cells.add(size, 4, size + 20)
        cells.forget(cells.app_end, cells.wire_end)
        assert len(cells) == 0
        assert cells.wire_from(cells.app_end - 1) == cells.wire_end - 1
        assert cells.wire_to(cells.app_end - 1) == cells.wire_end - 1
        assert cells.app_to(cells.wire_end - 1) == cells.app_end - 1
        assert cells.app_from(cells.wire_end - 1) == cells.app_end - 1
    cells.add(5, 4, 25)
    assert cells.wire_from(cells.app_end - 6) == cells.wire_end - 26
    assert cells.wire_to(cells.app_end - 6) == cells.wire_end - 26
    assert cells.app_to(cells.wire_end - 26) == cells.app_end - 6
    assert cells.app_from(cells.wire_end - 26) == cells.app_end - 6


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=40),
    st.integers(10, 80),
)
def test_pieces_in_any_order(text: bytes, pieces: list[tuple[int, int]], limit: int) -> None:
    reassembly, got = Reassembly(), b""
    have: set[int] = set()
    for start, length in pieces:
        piece = text[start : start + length]
        got += reassembly.put(start, piece, limit)
        have |= {at for at in range(start, start + len(piece)) if at < limit}
        contiguous = next(at for at in range(100) if at not in have)
        assert reassembly.end == contiguous
        assert got == text[:contiguous]
        early = {at for at in have if at > contiguous}
        assert reassembly.waiting == len(early)
        blocks = reassembly.blocks(100)
        assert {at for a, b in blocks for at in range(a, b)} == early
        if piece and start in early:
            assert blocks[0][0] <= start < blocks[0][1] or start < contiguous


def test_who_sends_single_bytes_does_not_fill_the_memory() -> None:
    reassembly = Reassembly()
    for offset in range(2, 20_000, 2):
        reassembly.put(offset, b"x", 1 << 20)
    assert reassembly.waiting == 4096


def test_bytes_that_came_first_stay() -> None:
    reassembly = Reassembly()
    assert reassembly.put(2, b"cd", 100) == b""
    assert reassembly.put(0, b"abXXef", 100) == b"abcdef"
