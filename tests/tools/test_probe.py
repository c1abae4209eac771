"""What two answers to two SYNs mean, without a network."""

import argparse
import itertools
import json

import pytest

from tcpcrypt.cli import probe as command
from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep
from tcpcrypt.tools import probe
from tcpcrypt.tools.syn import Answer, Knock, ordinary_options
from tcpcrypt.wire.eno import SynOption
from tcpcrypt.wire.tcpopt import insert_option, parse_options, room


def concluded(eno: Answer, plain: Answer, syn_ack: bytes = b"") -> probe.Conclusion:
    negotiation, with_option = probe._offer((Tep.ECDHE_CURVE25519,), v6=False)
    with_option.answer, with_option.options = eno, syn_ack
    _option, outcome = probe._judge(negotiation, with_option)
    return probe._conclude(with_option, Knock(b"", plain), outcome)


A, R, U, N = Answer.ACCEPTED, Answer.REFUSED, Answer.UNREACHABLE, Answer.NOTHING


@pytest.mark.parametrize(
    ("eno", "plain", "conclusion"),
    [
        (A, A, "PLAIN"),
        (A, N, "PLAIN"),
        (N, A, "DROPPED"),
        (N, R, "DROPPED"),
        (R, A, "REJECTED"),
        (U, A, "REJECTED"),
        (R, R, "REFUSED"),
        (R, N, "REFUSED"),
        (U, U, "UNREACHABLE"),
        (Answer.NOT_SENT, Answer.NOT_SENT, "UNREACHABLE"),
        (U, N, "UNREACHABLE"),
        (N, N, "FILTERED"),
    ],
)
def test_what_two_answers_mean(eno: Answer, plain: Answer, conclusion: str) -> None:
    assert concluded(eno, plain).name == conclusion


def test_every_pair_of_answers_means_something() -> None:
    for eno, plain in itertools.product(Answer, Answer):
        assert concluded(eno, plain) in probe.Conclusion


@pytest.mark.parametrize(
    ("syn_ack", "conclusion"),
    [
        ("45040123", "ENCRYPTS"),
        ("4503230101010101", "UNUSABLE"),  # no bit b: two openers
        ("4504012200000000", "UNUSABLE"),  # a TEP that was not offered
        ("4504012345040123", "UNUSABLE"),  # two options
        ("4505019923000000", "UNUSABLE"),  # data that pass the end of the option
        ("45020000", "UNUSABLE"),  # the option of later segments
        ("45ff0123", "PLAIN"),  # the option passes the end of the header
        ("fd04454e", "PLAIN"),  # the form of old drafts
    ],
)
def test_syn_acks_with_an_option(syn_ack: str, conclusion: str) -> None:
    assert concluded(A, A, bytes.fromhex(syn_ack)).name == conclusion


@pytest.mark.parametrize("family", [4, 6])
def test_the_syn_looks_like_any_other(family: int) -> None:
    region = ordinary_options(family)
    assert [option.kind for option in parse_options(region)] == [2, 4, 8, 3]
    _negotiation, knock = probe._offer(tuple(Tep)[1:], v6=family == 6)
    assert len(knock.eno) == 6
    assert room(region) >= 20
    whole = insert_option(region, knock.eno)
    assert whole is not None
    assert len(whole) <= 40
    # What it offers is what any host understands that speaks RFC 8548.
    theirs = Negotiation(Config(), Opener.PASSIVE)
    theirs.segment_received(True, False, whole)
    answer = theirs.option_to_send(True, True, 20)
    assert SynOption.parse(answer[2:]).suboptions[0].tep == Tep.ECDHE_CURVE25519


@pytest.mark.parametrize(
    ("ttl", "hops"), [(64, 0), (51, 13), (128, 0), (113, 15), (255, 0), (1, 63)]
)
def test_hops_are_guessed_from_the_ttl(ttl: int, hops: int) -> None:
    assert Knock(b"", ttl=ttl).hops == hops


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.org:80", ("example.org", 80)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[fe80::1%eth0]:443", ("fe80::1%eth0", 443)),
    ],
)
def test_targets(text: str, target: tuple[str, int]) -> None:
    assert command._target(text) == target


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:http", "2001:db8::1:80",
             "host:²", "host:-1", "host:999999999999999999999"]
)  # fmt: skip
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command._target(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "121", "5s"])
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command._seconds(text)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300])
def test_names_that_do_not_resolve(name: str) -> None:
    with pytest.raises(LocalError, match=name[:10]):
        probe.resolve(name, 80)


def test_usage_is_an_exit_status_of_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probe", "nowhere"])
    assert ended.value.code == 2
    assert "not HOST:PORT" in capsys.readouterr().err


def test_an_address_that_cannot_be_reached_is_said_in_json_too() -> None:
    document = probe.Result(("192.0.2.1", 80), probe.Conclusion.UNREACHABLE, notes=("why",))
    assert json.loads(json.dumps(document.as_json())) == {
        **document.as_json(),
        "ok": False,
        "conclusion": "unreachable",
        "keeps_option": None,
        "notes": ["why"],
    }
