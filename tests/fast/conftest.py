"""Every AEAD that is registered, by its name."""

from __future__ import annotations

import pytest

from tcpcrypt.crypto.aead import AEADS, AeadParameters


@pytest.fixture(params=list(AEADS.values()), ids=lambda aead: aead.evp_name)
def aead(request: pytest.FixtureRequest) -> AeadParameters:
    parameters: AeadParameters = request.param
    return parameters
