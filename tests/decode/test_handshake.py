"""What two captured options agree on: the forms of both dialects, and of TEP 0x20."""

import pytest

from tcpcrypt.errors import FallbackReason
from tcpcrypt.tools.decode.handshake import Agreed, Plain, Undecodable, agree, is_tcps

SID = "452e989b1af1b0b388"
NAME_A, NAME_B = "010203040506070809", "0a0b0c0d0e0f101112"


def judged(client: str, server: str) -> Agreed | Plain | Undecodable:
    regions = [bytes.fromhex(text.replace(" ", "")) for text in (client, server)]
    return agree(*(region + bytes(-len(region) % 4) for region in regions))


@pytest.mark.parametrize(
    ("client", "server", "resuming", "aware", "tep_byte"),
    [
        # As the real daemon sends them, in every combination.
        ("fd06454e 2122", "fd05454e 21", False, (False, False), 0x21),
        ("fd07454e 212202", "fd06454e 2102", False, (True, True), 0x21),
        ("fd07454e 212202", "fd05454e 21", False, (True, False), 0x21),
        ("fd06454e 2221", "fd05454e 22", False, (False, False), 0x22),
        (f"fd10454e 2122a1{SID}", "fd05454e a1", True, (False, False), 0xA1),
        (f"fd11454e 212202a1{SID}", "fd06454e 06a1", True, (True, True), 0xA1),
        (f"fd11454e 212202a1{SID}", "fd06454e 04a1", True, (True, False), 0xA1),
        (f"fd10454e 2122a1{SID}", "fd06454e 02a1", True, (False, True), 0xA1),
        # The session is not known: a fresh exchange.
        (f"fd10454e 2122a1{SID}", "fd05454e 21", False, (False, False), 0x21),
        # Ours, where the option stands in front of others.
        ("0204 05b4 fd06454e 2122", "fd05454e 21", False, (False, False), 0x21),
    ],
)
def test_the_stanford_profile(
    client: str, server: str, resuming: bool, aware: tuple[bool, bool], tep_byte: int
) -> None:
    found = judged(client, server)
    assert isinstance(found, Agreed)
    assert found.profile.name == "stanford"
    assert (found.resuming, found.application_aware) == (resuming, aware)
    assert found.tep_byte == tep_byte
    assert found.client_is_a
    assert found.identifier.hex() == (SID if resuming else "")
    ack = b"\xfd\x04\x45\x4e"
    client_option = bytes.fromhex(client.replace(" ", "").removeprefix("020405b4"))
    assert found.eno_transcript == (
        client_option + ack + bytes.fromhex(server.replace(" ", "")) + ack
    )


@pytest.mark.parametrize(
    ("client", "server", "tep_byte", "identifier", "nonces"),
    [
        ("4503 23", "4504 0123", 0x23, "", ("", "")),
        ("4505 212423", "4504 0124", 0x24, "", ("", "")),
        # RFC 8547 section 4.5: the last of B's that A has.
        ("4505 212423", "4506 01232124", 0x24, "", ("", "")),
        (f"4514 a3{NAME_A}0102030405060708", f"4515 01a3{NAME_B}1112131415161718", 0xA3, NAME_A,
         ("0102030405060708", "1112131415161718")),
        (f"450d a3{NAME_A}01", f"450d 01a3{NAME_B}", 0xA3, NAME_A, ("01", "")),
        # B does not know the session.
        (f"4514 a3{NAME_A}0102030405060708", "4504 0123", 0x23, "", ("", "")),
        # TEP 0x20: magic, version, identifier, nonce.
        ("4506 a0544101", "4507 01a0544101", 0xA0, "", ("", "")),
        (f"4514 a0544102{NAME_A}0102030405", f"4514 01a0544102{NAME_B}11121314", 0xA0, NAME_A,
         ("0102030405", "11121314")),
    ],
)  # fmt: skip
def test_rfc_8548_and_tep_0x20(
    client: str, server: str, tep_byte: int, identifier: str, nonces: tuple[str, str]
) -> None:
    found = judged(client, server)
    assert isinstance(found, Agreed)
    assert found.profile.name == "rfc8548"
    assert found.tep_byte == tep_byte
    assert found.resuming is bool(identifier)
    assert found.identifier.hex() == identifier
    assert tuple(nonce.hex() for nonce in found.nonces) == nonces
    assert found.eno_transcript.hex() == (client + server).replace(" ", "")


def test_bit_b_tells_the_roles_where_both_open() -> None:
    """RFC 8547 section 4.3: A's option comes first in the transcript, whoever sent it first."""
    found = judged("4504 0123", "4503 23")
    assert isinstance(found, Agreed)
    assert not found.client_is_a
    assert found.eno_transcript.hex() == "45032345040123"
    resumed = judged(f"450e 01a3{NAME_B}07", f"450c a3{NAME_A}")
    assert isinstance(resumed, Agreed)
    assert resumed.identifier.hex() == NAME_A, "that of host A"
    assert resumed.nonces == (b"", b"\x07")


@pytest.mark.parametrize(
    ("client", "server", "reason"),
    [
        ("", "", FallbackReason.NO_ENO_IN_SYN),
        ("0204 05b4", "4504 0123", FallbackReason.NO_ENO_IN_SYN),
        ("4503 23", "", FallbackReason.NO_ENO_IN_SYN_ACK),
        ("4503 23", "fd05454e 21", FallbackReason.NO_ENO_IN_SYN_ACK),
        ("4503 23", "4504 0124", FallbackReason.NO_COMMON_TEP),
        ("4502", "4503 01", FallbackReason.NO_COMMON_TEP),
        ("4503 23", "4503 23", FallbackReason.SAME_ROLE),
        ("4503 23", "4504 0123 4504 0123", FallbackReason.DUPLICATE_ENO),
        ("4504 9f23", "4504 0123", FallbackReason.ILL_FORMED),
        # An answer with data that is no resumption is not valid.
        ("4503 23", "4505 01a307", FallbackReason.NO_COMMON_TEP),
        ("45ff", "4504 0123", FallbackReason.NO_ENO_IN_SYN),
    ],
)
def test_connections_that_stay_plain(client: str, server: str, reason: FallbackReason) -> None:
    found = judged(client, server)
    assert isinstance(found, Plain)
    assert found.reason is reason


@pytest.mark.parametrize(
    ("client", "server", "why"),
    [
        ("4503 30", "4504 0130", "TEP 0x30 is not one of tcpcrypt"),
        ("4503 20", "4504 0120", "TEP 0x20 is for experiments"),
        ("4506 a0544103", "4507 01a0544103", "TEP 0x20 is for experiments"),
    ],
)
def test_encryption_of_another_kind(client: str, server: str, why: str) -> None:
    found = judged(client, server)
    assert isinstance(found, Undecodable)
    assert found.why.startswith(why)


def test_tcps_is_recognised() -> None:
    assert is_tcps(bytes.fromhex("020405a0fd245443") + bytes(32))
    assert not is_tcps(bytes.fromhex("fd06454e2122"))
    assert not is_tcps(b"\x45\xff")
    assert not is_tcps(b"")
