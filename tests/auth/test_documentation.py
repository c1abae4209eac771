"""docs/authenticated-tep.md says nothing that is not shown."""

import re
from pathlib import Path

from support.terms import Conditions, identity, ta_host

from tcpcrypt.core.negotiation import Opener

TEXT = (Path(__file__).parents[2] / "docs" / "authenticated-tep.md").read_text()
TESTS = re.findall(
    r"^def test_(\w+)",
    "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py")),
    re.MULTILINE,
)


def test_every_test_that_is_named_is_there() -> None:
    properties = TEXT.partition("## What is proved, and why")[2]
    named = [name for name in re.findall(r"`([\w.]+)`", properties) if name.count("_") > 1]
    named = [name for name in named if not name.startswith("ResumptionCache")]
    assert len(named) > 15
    for name in named:
        start = name.split("...")[0]
        assert any(test.startswith(start) for test in TESTS), name


def test_options_are_as_written() -> None:
    def option(*teps: int) -> str:
        host = ta_host(Conditions(identity(1)), teps)
        sent = host.negotiation(Opener.ACTIVE).option_to_send(syn=True, ack=False, room=40)
        return f"`{sent.hex(' ')}`"

    for teps in ((0x20,), (0x20, 0x23), (0x23, 0x20)):
        assert option(*teps) in TEXT
