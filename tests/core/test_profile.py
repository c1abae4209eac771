"""The wire profile is a parameter: another dialect is another value."""

from support.hosts import Host, connect, data_of, drain, events, exchange, fallback, negotiate

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.errors import FallbackReason
from tcpcrypt.wire.profile import RFC8548, NonceForm, WireProfile

OTHER = WireProfile(
    name="other",
    option_kind=253,
    option_exid=b"\x45\x4e",
    transcript_suffix=b"\xfd\x04\x45\x4e",
    cipher_id_len=1,
    compressed_points=False,
    nonce_form=NonceForm.LITTLE_ENDIAN_8,
    offset_counts_init=False,
)


def test_a_dialect_with_every_field_different() -> None:
    config = Config(profile=OTHER, teps=(0x21,), aeads=(0x02, 0x01))
    client, server = Host(config), Host(config)
    one, other = connect(client, server)
    transcript = one.negotiated.eno_transcript
    assert transcript.hex() == "fd05454e21" + "fd04454e" + "fd06454e0121" + "fd04454e"
    one.send_data(b"question")
    init1 = drain(one)
    assert len(init1) == 9 + 2 + 32 + 2 + 65
    other.receive_data(init1)
    init2 = other.bytes_to_send()
    assert len(init2) == 9 + 32 + 2 + 65
    one.receive_data(init2)
    exchange(one, other)
    assert data_of(events(other)) == b"question"
    assert one.session_id == other.session_id
    one.rekey()
    one.send_data(b"under the next key")
    exchange(one, other)
    assert data_of(events(other)) == b"under the next key"
    one, other = connect(client, server)
    one.send_data(b"resumed")
    exchange(one, other)
    assert one.resumed
    assert data_of(events(other)) == b"resumed"


def test_dialects_do_not_hear_each_other() -> None:
    for ours, theirs in ((OTHER, RFC8548), (RFC8548, OTHER)):
        a = Negotiation(Config(profile=ours, teps=(0x21,)), Opener.ACTIVE)
        b = Negotiation(Config(profile=theirs, teps=(0x21,)), Opener.PASSIVE)
        negotiate(a, b)
        assert fallback(a).reason is FallbackReason.NO_ENO_IN_SYN_ACK
        assert fallback(b).reason is FallbackReason.NO_ENO_IN_SYN
