"""Dialects in the runtime: which one is spoken, and which packets that brings to the daemon."""

from types import SimpleNamespace

import pytest

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import BOTH, Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Context, Settings
from tcpcrypt.runtime.host import _spoken
from tcpcrypt.runtime.nft_words import script
from tcpcrypt.runtime.path_memory import PathMemory
from tcpcrypt.runtime.ruleset import accepting_rules
from tcpcrypt.wire.profile import RFC8548, STANFORD

HERE, PORT = b"\x0a\0\0\1", 80
NAMES = ("rfc8548", "stanford")
OLD = Policy(Mode.OPPORTUNISTIC, Match(ports=(range(80, 81),)), profile="stanford")
ANY = Policy(Mode.OPPORTUNISTIC, Match(ports=(range(80, 81),)), profile=BOTH)
RFC = Policy(Mode.OPPORTUNISTIC, Match(ports=(range(80, 81),)))


def memory(seconds: float = 600) -> tuple[PathMemory, list[float]]:
    now = [0.0]
    return PathMemory(seconds, clock=lambda: now[0]), now


def note(paths: PathMemory, last: str, spoke: str) -> bool:
    other = tuple(name for name in NAMES if name != spoke)
    return paths.note(HERE, PORT, last, profile=spoke, others=other)


def test_what_worked_is_spoken_again() -> None:
    paths, _now = memory()
    assert paths.profile(HERE, PORT) == ""
    for name in ("stanford", "rfc8548"):
        assert not note(paths, "encrypted", name)
        assert paths.profile(HERE, PORT) == name


@pytest.mark.parametrize("last", ["plain", "refused"])
def test_the_other_dialect_is_tried_before_a_peer_counts_as_plain(last: str) -> None:
    paths, now = memory()
    assert not note(paths, last, "rfc8548")
    assert not paths.is_plain(HERE, PORT)
    assert paths.profile(HERE, PORT) == "stanford"
    assert note(paths, last, "stanford") is (last == "plain")
    assert paths.is_plain(HERE, PORT) is (last == "plain")
    # Then from the start.
    assert paths.profile(HERE, PORT) == "rfc8548"
    now[0] = 601
    assert not paths.is_plain(HERE, PORT)
    assert not note(paths, last, "rfc8548")
    assert not note(paths, "encrypted", "stanford")
    assert paths.profile(HERE, PORT) == "stanford"


def test_where_policy_allows_one_dialect_a_peer_is_plain_at_once() -> None:
    paths, _now = memory()
    assert paths.note(HERE, PORT, "plain", profile="stanford")
    assert paths.is_plain(HERE, PORT)
    assert paths.profile(HERE, PORT) == "stanford"


def test_a_configuration_is_made_once_for_each_dialect() -> None:
    context = Context(*(SimpleNamespace() for _ in range(11)))  # type: ignore[arg-type]
    context.config, context.policies = Config(), (ANY,)
    old = context.configured(ANY, STANFORD)
    assert old.profile is STANFORD
    assert context.configured(ANY).profile is RFC8548
    assert context.configured(ANY, STANFORD) is old


@pytest.mark.parametrize(
    ("policy", "options", "spoken"),
    [
        (RFC, "fd05454e21000000", RFC8548),
        (OLD, "45030123", STANFORD),
        (ANY, "45032300", RFC8548),
        (ANY, "fd05454e21000000", STANFORD),
        (ANY, "", RFC8548),
        # The two never share a SYN (RFC 8547 section 4.1); one that has both is one of RFC 8547.
        (ANY, "fd05454e21" + "450323", RFC8548),
        (ANY, "fd", RFC8548),
    ],
)
def test_a_syn_is_answered_in_its_own_dialect(policy: Policy, options: str, spoken: object) -> None:
    assert _spoken(policy, bytes.fromhex(options)) is spoken


@pytest.mark.parametrize("policy", [OLD, ANY])
def test_sockops_speaks_one_dialect(policy: Policy) -> None:
    with pytest.raises(LocalError, match='serves profile "rfc8548" alone'):
        Settings(policies=(policy,), backend="sockops")


def test_settings_know_what_a_dialect_has_not() -> None:
    with pytest.raises(LocalError, match="none of the configured TEPs"):
        Settings(policies=(OLD,), config=Config(teps=(0x23,)))


def options(policy: Policy, family: int) -> list[str]:
    """The conditions on options of the rules that take SYNs."""
    rules = accepting_rules((policy,), {4: 2000, 6: 2001})
    found = []
    for rule in rules:
        if "TPROXY" in rule.words and "--syn" in rule.words and rule.families == (family,):
            words = list(rule.words)
            found.append(
                " ".join(words[words.index("--tcp-option") :]).partition(" -m addrtype")[0]
            )
    return found


@pytest.mark.parametrize(("family", "tcp"), [(4, "0>>22&0x3c@{}"), (6, "{}")])
def test_the_option_of_kind_253_is_known_by_what_is_in_it(family: int, tcp: str) -> None:
    assert options(RFC, family) == ["--tcp-option 69"]
    found = options(OLD, family)
    assert options(ANY, family) == ["--tcp-option 69", *found]
    base = 40 if family == 6 else 0
    assert found == [
        f'--tcp-option 253 -m u32 --u32 "{tcp.format(base + 12)}>>26&0x3c={at + 4}:60'
        f'&&{tcp.format(base + at)}&0xff00ffff=0xfd00454e"'
        for at in range(20, 60, 4)
    ]


def test_nft_says_it_once() -> None:
    text = script(accepting_rules((ANY,), {4: 2000}))
    # With TPROXY and its drop, for SYNs and what follows.
    assert text.count("tcp option @253,16,16 0x454e") == 4
    assert "u32" not in text
