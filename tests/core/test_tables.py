"""The state machines once more, in another notation: a change of one has to be meant twice.

What other tests derive from the tables of the program they cannot find wrong in them.
`-` is what a table lacks, which fails closed; `.` in front of `>` is "do nothing".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import pytest

from tcpcrypt.core import exchange, handshake, lifecycle

ENO = """
                  SEND_SYN              SEND_SYN_ACK          SEND_ACK              SYN                SYN_BAD    SYN_ACK     SYN_ACK_BAD  ACK         ACK_BAD
START             syn>SYN_SENT          -                     -                     .>SYN_RECEIVED     off>PLAIN  -           -            -           -
SYN_SENT          syn>SYN_SENT          -                     -                     .>CROSSED          off>PLAIN  .>ACK_DUE   off>PLAIN    .>SYN_SENT  .>SYN_SENT
SYN_RECEIVED      -                     syn>SYN_ANSWERED      -                     .>SYN_RECEIVED     -          -           -            -           -
SYN_ANSWERED      -                     syn>SYN_ANSWERED      .>SYN_ANSWERED        .>SYN_ANSWERED     -          -           -            on>ENABLED  off>PLAIN
CROSSED           syn>CROSSED           syn>CROSSED_ANSWERED  -                     .>CROSSED          -          .>ACK_DUE   -            .>ACK_DUE   -
CROSSED_ANSWERED  syn>CROSSED_ANSWERED  syn>CROSSED_ANSWERED  ack>CROSSED_ANSWERED  .>CROSSED_ANSWERED -          on>ENABLED  -            on>ENABLED  -
ACK_DUE           syn>ACK_DUE           syn+on>ENABLED        ack+on>ENABLED        .>ACK_DUE          .>ACK_DUE  .>ACK_DUE   .>ACK_DUE    .>ACK_DUE   .>ACK_DUE
ENABLED           syn>ENABLED           syn>ENABLED           ack>ENABLED           .>ENABLED          .>ENABLED  .>ENABLED   .>ENABLED    .>ENABLED   .>ENABLED
PLAIN             .>PLAIN               .>PLAIN               .>PLAIN               .>PLAIN            .>PLAIN    .>PLAIN     .>PLAIN      .>PLAIN     .>PLAIN
"""  # noqa: E501
SESSION = """
               KEYS       FINISH      PEER_FINISH        TCP_EOF          TCP_RESET  TIMEOUT          FAULT
EXCHANGING     .>OPEN     -           -                  -                -          -                -
OPEN           -          .>FINISHED  end>PEER_FINISHED  -                -          .>OPEN           -
FINISHED       -          -           end>CLOSED         -                -          .>FINISHED       -
PEER_FINISHED  -          .>CLOSED    -                  .>PEER_FINISHED  -          .>PEER_FINISHED  -
CLOSED         -          -           -                  .>CLOSED         .>CLOSED   .>CLOSED         -
ABORTED        .>ABORTED  .>ABORTED   .>ABORTED          .>ABORTED        .>ABORTED  .>ABORTED        .>ABORTED
"""  # noqa: E501
EXCHANGE = """
                START_A                     START_B               MESSAGE             FAULT
IDLE            _send_init1>AWAITING_INIT2  _wait>AWAITING_INIT1  -                   _wipe>FAILED
AWAITING_INIT1  -                           -                     _answer_init1>DONE  _wipe>FAILED
AWAITING_INIT2  -                           -                     _complete>DONE      _wipe>FAILED
DONE            -                           -                     -                   _wipe>FAILED
FAILED          -                           -                     -                   _wipe>FAILED
"""
WORDS = {
    handshake.Action.NOTHING: ".",
    handshake.Action.SYN_FORM: "syn",
    handshake.Action.ACK_FORM: "ack",
    handshake.Action.ENABLE: "on",
    handshake.Action.ENABLE_SYN_FORM: "syn+on",
    handshake.Action.ENABLE_ACK_FORM: "ack+on",
    handshake.Action.FALL_BACK: "off",
    lifecycle.Verdict.GO_ON: ".",
    lifecycle.Verdict.END: "end",
}


@pytest.mark.parametrize(
    ("text", "table", "states", "inputs"),
    [
        (ENO, handshake.TABLE, handshake.State, handshake.Input),
        (SESSION, lifecycle.TABLE, lifecycle.SessionState, lifecycle.SessionInput),
        (EXCHANGE, exchange.TABLE, exchange.ExchangeState, exchange.Stimulus),
    ],
    ids=["eno", "session", "exchange"],
)
def test_tables_are_what_was_meant(
    text: str,
    table: Mapping[tuple[enum.Enum, enum.Enum], tuple[object, enum.Enum]],
    states: type[enum.Enum],
    inputs: type[enum.Enum],
) -> None:
    head, *lines = text.strip("\n").splitlines()
    assert head.split() == [one.name for one in inputs]
    meant = {}
    for line in lines:
        state, *cells = line.split()
        for happened, cell in zip(inputs, cells, strict=True):
            if cell != "-":
                meant[states[state], happened] = cell
    assert {line.split()[0] for line in lines} == {one.name for one in states}
    written = {
        key: f"{WORDS.get(what, what)}>{following.name}"  # type: ignore[call-overload]
        for key, (what, following) in table.items()
    }
    assert written == meant
