"""What holds where nobody says anything, written a second time: none of it changes unnoticed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from tcpcrypt.core import events, negotiation, offer, resumption, tep
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.policy import Policy
from tcpcrypt.wire.profile import RFC8548, STANFORD, ResumptionForm, WireProfile
from tcpcrypt.wire.segment import TcpFlags


def fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def test_a_configuration_that_says_nothing() -> None:
    assert fields(Config()) == {
        "profile": RFC8548,
        "teps": (0x23, 0x24, 0x21),
        "aeads": (0x01, 0x02, 0x10),
        "extensions": {},
        "enabled": True,
        "application_aware": False,
        "require_application_aware": False,
        "require_encryption": False,
        "active_b": False,
        "resume": True,
        "cache": True,
        "resume_nonce_len": 8,  # RFC 8548 section 3.5: MUST be 8 by default
        "resumption_window": 4,
        "cache_capacity": 4096,
        "cache_per_peer": 8,
        "prove_at_once": False,
        "max_init_len": 8192,
        "tolerate_offset_origin": True,
        "first_frame_data": 1400,
        "small_frames_until": 14_000,
        "frame_data": 65_516,
        "rekey_after_bytes": None,
        "handshake_timeout": 10.0,
    }


def test_a_key_may_seal_a_single_byte() -> None:
    assert Config(rekey_after_bytes=1).rekey_after_bytes == 1


PROFILES = {
    RFC8548: {
        "name": "rfc8548",
        "option_kind": 69,
        "option_exid": b"",
        "transcript_suffix": b"",
        "cipher_id_len": 2,
        "compressed_points": True,
        "nonce_form": 0,
        "offset_counts_init": True,
        "role_bit": True,
        "global_first": True,
        "resumption": ResumptionForm.RESUME_IDENTIFIER,
        "either_resumes": True,
        "resumed_ack_bare": False,
        "init1_in_first_ack": False,
        "teps": None,
        "aeads": None,
        "authenticated_end": True,
        "rekeying": True,
        "stream_max": 1 << 64,
        "init_as_data": False,
        "frame_per_segment": False,
        "repeats_anew": False,
        "openings_at_once": None,
    },
    STANFORD: {
        "name": "stanford",
        "option_kind": 253,
        "option_exid": b"EN",
        "transcript_suffix": b"\xfd\x04EN",
        "cipher_id_len": 1,
        "compressed_points": False,
        "nonce_form": 1,
        "offset_counts_init": False,
        "role_bit": False,
        "global_first": False,
        "resumption": ResumptionForm.SESSION_ID,
        "either_resumes": False,
        "resumed_ack_bare": True,
        "init1_in_first_ack": True,
        "teps": (0x21, 0x22),
        "aeads": (0x01, 0x02),
        "authenticated_end": False,
        "rekeying": False,
        "stream_max": 1 << 32,
        "init_as_data": True,
        "frame_per_segment": True,
        "repeats_anew": True,
        "openings_at_once": 4,
    },
}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_dialects(profile: WireProfile) -> None:
    found = fields(profile)
    lacks = found.pop("lacks")
    assert found == PROFILES[profile]
    assert bool(lacks) is (profile is STANFORD), "what is missing is told to people"


def test_words_that_are_kept_or_passed_on_as_numbers() -> None:
    assert [(form.name, int(form)) for form in ResumptionForm] == [
        ("RESUME_IDENTIFIER", 0),
        ("SESSION_ID", 1),
    ]


def test_a_dialect_is_rfc_8548_where_it_says_nothing() -> None:
    given = ("name", "option_kind", "option_exid", "transcript_suffix", "cipher_id_len")
    more = ("compressed_points", "nonce_form", "offset_counts_init")
    known = fields(RFC8548)
    assert WireProfile(**{name: known[name] for name in given + more}) == RFC8548


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (events.StreamEnded, {"authenticated": True}),
        (tep.Offer, {"identifier": b"", "nonce": b"", "variant": b"", "accepts": False}),
        (
            resumption.Ticket,
            {
                "expires": math.inf,
                "successor_kept": False,
                "peer": b"",
                "peer_identifier": b"",
                "handle": 0,
            },
        ),
        (
            resumption.Recognised,
            {"form": ResumptionForm.RESUME_IDENTIFIER, "original_role": Role.B},
        ),
        (negotiation.Negotiated, {"variant": b""}),
        (offer.OfferedOption, {"nonce": b"", "ticket": None, "recognised": None}),
        (offer.Choice, {"resumes_offer": False, "recognised": None}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_that_are_left_out(kind: Any, defaults: dict[str, Any]) -> None:
    found = {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    assert found == defaults


def test_a_policy_that_says_nothing_more_than_its_mode() -> None:
    found = {
        field.name: field.default
        for field in dataclasses.fields(Policy)
        if field.default is not dataclasses.MISSING
    }
    match = found.pop("match")
    asked = {"auth": "none", "pq": "off", "psk": "", "profile": "rfc8548", "plane": "relay"}
    assert found == asked | {"application_aware": False, "active_b": False}
    assert not any(fields(match).values()), "every connection"


def test_control_bits_of_tcp() -> None:
    """RFC 9293 section 3.1."""
    assert [(flag.name, int(flag)) for flag in TcpFlags] == [
        ("FIN", 1),
        ("SYN", 2),
        ("RST", 4),
        ("PSH", 8),
        ("ACK", 16),
        ("URG", 32),
        ("ECE", 64),
        ("CWR", 128),
    ]
