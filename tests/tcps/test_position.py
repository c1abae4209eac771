from tcpcrypt.tcps.position import Position


def test_the_first_byte_is_at_0_and_numbers_wrap() -> None:
    position = Position(0xFFFFFFFE)
    assert [position.of(n) for n in (0xFFFFFFFF, 0, 5, 0xFFFFFFFE)] == [0, 1, 6, -1]


def test_a_position_is_next_to_where_the_stream_has_come_to() -> None:
    """TCP/S counts a wrap once a number looks old, and never one back."""
    position = Position(99)
    for step in range(1, 9):
        position.reached(step << 30)
    assert position.of(100) == 2 << 32
    assert position.of(99) == (2 << 32) - 1
    position.reached(5)
    assert position.end == 8 << 30
