"""The ENO handshake table, walked whole."""

from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.core.handshake import TABLE, Action, Input, State

SENT = {Input.SEND_SYN, Input.SEND_SYN_ACK, Input.SEND_ACK}


def test_every_state_can_be_reached_and_encryption_only_through_acks() -> None:
    reached, todo = {State.START}, [State.START]
    while todo:
        state = todo.pop()
        for (origin, _), (_, following) in TABLE.items():
            if origin is state and following not in reached:
                reached.add(following)
                todo.append(following)
    assert reached == set(State)
    enabling = {Action.ENABLE, Action.ENABLE_SYN_FORM, Action.ENABLE_ACK_FORM}
    for (state, happened), (action, following) in TABLE.items():
        entering = following is State.ENABLED and state is not State.ENABLED
        assert entering == (action in enabling)
        if entering:  # RFC 8547 section 4.6: an ACK segment was sent and received
            assert happened not in {Input.SEND_SYN, Input.SYN}


def test_enabled_is_for_ever_and_plain_too() -> None:
    """RFC 8547 section 4.6."""
    for happened in Input:
        assert TABLE[State.ENABLED, happened][1] is State.ENABLED
        assert TABLE[State.PLAIN, happened] == (Action.NOTHING, State.PLAIN)


def test_falling_back_always_ends_in_plain() -> None:
    for action, following in TABLE.values():
        assert (action is Action.FALL_BACK) == (
            following is State.PLAIN and action is not Action.NOTHING
        )


@given(st.lists(st.sampled_from(list(Input))))
def test_any_walk_enables_only_after_ack_segments_both_ways(walk: list[Input]) -> None:
    """RFC 8547 section 4.6: sent AND received an ACK segment with ENO."""
    state, sent_ack, received_ack = State.START, False, False
    for happened in walk:
        row = TABLE.get((state, happened))
        if row is None:
            if happened in SENT:
                continue  # a LocalError: the segment does not leave
            state = State.PLAIN
            continue
        before, (action, state) = state, row
        attached = action not in {Action.NOTHING, Action.ENABLE, Action.FALL_BACK}
        sent_ack |= attached and happened in {Input.SEND_SYN_ACK, Input.SEND_ACK}
        received_ack |= happened in {Input.SYN_ACK, Input.ACK}
        if state is State.ENABLED and before is not State.ENABLED:
            assert sent_ack
            assert received_ack
