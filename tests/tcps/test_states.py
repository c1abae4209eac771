"""The table itself: what no row may say."""

import pytest

from tcpcrypt.tcps.states import TABLE, Action, Input, State

ENCRYPTED = {State.ENCRYPTED, State.AUTHENTICATED}
OVER = {State.REFUSED, State.CLOSED}


@pytest.mark.parametrize("state", sorted(ENCRYPTED | OVER, key=lambda s: s.value))
def test_nothing_makes_an_encrypted_connection_plain(state: State) -> None:
    following, reached = {state}, set[State]()
    while following - reached:
        reached |= following
        following = {
            after for (before, _input), (_action, after) in TABLE.items() if before in reached
        }
    assert State.PLAIN not in reached


def test_data_pass_as_they_are_in_plain_alone() -> None:
    for (state, seen), (action, _following) in TABLE.items():
        if seen in {Input.SEND_DATA, Input.DATA} and state is not State.PLAIN:
            assert action in {Action.SEAL, Action.OPEN, Action.ABORT}
            assert state in ENCRYPTED or action is Action.ABORT


def test_no_rst_of_a_peer_reaches_an_encrypted_connection() -> None:
    assert not [state for state in ENCRYPTED if (state, Input.RST) in TABLE]


def test_every_state_can_be_reached_and_every_input_and_action_occurs() -> None:
    assert {after for _action, after in TABLE.values()} | {State.START} == set(State)
    assert {seen for _state, seen in TABLE} == set(Input)
    assert {action for action, _after in TABLE.values()} | {Action.DROP} == set(Action)
