"""Values in the log."""

import pytest

from tcpcrypt.cli.tcpcryptd import _quoted


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("plain", "plain"), ("", '""'), ("two words", '"two words"'), ('a"b\n\\', '"a\\"b\\n\\\\"')],
)
def test_log_values_stay_one_word(text: str, quoted: str) -> None:
    """What a peer can influence must not look like another field or another line."""
    assert _quoted(text) == quoted
