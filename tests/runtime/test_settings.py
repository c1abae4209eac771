"""What a host is told to do, checked as a whole."""

import pytest

from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Settings

AUTHENTICATING = (
    Policy(Mode.REQUIRE, auth="tofu"),
    Policy(Mode.REQUIRE, auth="psk", psk="rack"),
    Policy(Mode.OPPORTUNISTIC, pq="prefer"),
)


@pytest.mark.parametrize("policy", AUTHENTICATING, ids=lambda p: p.auth)
def test_a_backend_that_answers_for_all_policies_alike_serves_none_that_authenticates(
    policy: Policy,
) -> None:
    plain = Policy(Mode.REQUIRE)
    with pytest.raises(LocalError, match=r"sockops.*auth.*nfqueue"):
        Settings(policies=(plain, policy), backend="sockops")
    assert Settings(policies=(plain,), backend="sockops").policies == (plain,)
    for other in ("auto", "mixed"):
        assert Settings(policies=(plain, policy), backend=other).policies == (plain, policy)


def test_and_none_that_tells_of_its_application() -> None:
    policy = Policy(Mode.REQUIRE, application_aware=True)
    with pytest.raises(LocalError, match=r"sockops.*application_aware.*nfqueue"):
        Settings(policies=(policy,), backend="sockops")


@pytest.mark.parametrize("profile", ["stanford", "both"])
@pytest.mark.parametrize("asked", [{"auth": "tofu"}, {"pq": "prefer"}])
def test_a_dialect_that_proves_nothing_serves_no_policy_that_asks_for_proof(
    profile: str, asked: dict[str, str]
) -> None:
    """TEP 0x20 is one of RFC 8548's; offered elsewhere it ends peers."""
    policy = Policy(Mode.OPPORTUNISTIC, profile=profile, **asked)
    with pytest.raises(LocalError, match=f'profile "{profile}" serves no policy'):
        Settings(policies=(policy,))
