"""Misbehaviours of RFC 8547: the option of a SYN or SYN-ACK."""

from __future__ import annotations

from typing import Final

from peer.host import Host
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.options import eno, pad
from peer.scripts import option, own_eno

NO_ENO: Final = {"a": "plain NO_ENO_IN_SYN", "b": "plain NO_ENO_IN_SYN_ACK"}
ILL_FORMED: Final = both("plain ILL_FORMED")
NO_TEP: Final = both("plain NO_COMMON_TEP")
SAME_ROLE: Final = both("plain SAME_ROLE")
DUPLICATE: Final = both("plain DUPLICATE_ENO")
WORKS: Final = both("works")

MSS = bytes.fromhex("020405b4")
SACK_TIMESTAMPS = bytes.fromhex("0402080a0000000100000000")
LEGACY = bytes.fromhex("fd04454e")
ID = "00112233445566778899"[:18]
"""Nine bytes that identify no session."""


def with_eno(before: bytes = b"", after: bytes = b"", *, padded: bool = True):
    """The honest option, with other options before and behind it."""

    def region(host: Host) -> bytes:
        whole = before + own_eno(host) + after
        return pad(whole) if padded else whole

    return option(region)


def legacy(option: bytes) -> bytes:
    """The form of old drafts."""
    return b"\xfd" + bytes([option[1] + 2]) + LEGACY[2:] + option[2:]


def unlike(a: str, b: str):
    """Other contents for each role."""
    return option(lambda host: pad(eno(a if host.role == "A" else b)))


OPTIONS: Final = (
    # --- is it there, once (section 4.1, 4.6) -------------------------------------------------
    M(name="eno-absent", rfc="47 4.6", does="sends no option at all", play=option(b""), **NO_ENO),
    M(name="eno-absent-among-others", rfc="47 4.6", does="sends MSS, SACK and timestamps alone",
      play=option(MSS + SACK_TIMESTAMPS), **NO_ENO),
    M(name="eno-after-end-of-options", rfc="47 4.1", does="hides ENO behind an EOL",
      play=with_eno(before=b"\x00"), **NO_ENO),
    M(name="eno-of-another-kind", rfc="47 4.1", does="uses option kind 70",
      play=option(lambda h: pad(b"\x46" + own_eno(h)[1:])), **NO_ENO),
    M(name="eno-legacy-alone", rfc="47 11", does="uses kind 253 with ExID 0x454e",
      play=option(lambda h: pad(legacy(own_eno(h)))), **NO_ENO),
    M(name="eno-twice-the-same", rfc="47 4.1", does="sends the option twice",
      play=option(lambda h: pad(own_eno(h) * 2)), **DUPLICATE),
    M(name="eno-twice-unlike", rfc="47 4.1", does="sends a second option with another TEP",
      play=with_eno(after=eno("24")), **DUPLICATE),
    M(name="eno-twice-vacuous-first", rfc="47 4.1",
      does="sends an empty option before the real one",
      play=with_eno(before=eno("")), **DUPLICATE),
    M(name="eno-three-times", rfc="47 4.1", does="sends the option three times",
      play=option(lambda h: pad(own_eno(h) * 3)), **DUPLICATE),
    M(name="eno-and-legacy", rfc="47 11", does="sends kind 253 with ExID 0x454e beside kind 69",
      play=with_eno(after=LEGACY), **DUPLICATE),
    M(name="eno-and-legacy-first", rfc="47 11", does="sends the legacy form before kind 69",
      play=with_eno(before=LEGACY), **DUPLICATE),
    M(name="eno-beside-another-experiment", rfc="47 11",
      does="sends kind 253 with another ExID too",
      play=with_eno(before=bytes.fromhex("fd04f989")), **WORKS),
    M(name="eno-beside-an-unknown-option", rfc="47 4.1", does="sends an unknown option before ENO",
      play=with_eno(before=bytes.fromhex("c803ff")), **WORKS),
    M(name="eno-padded-with-nops", rfc="47 4.1", does="puts NOPs on both sides of ENO",
      play=with_eno(before=b"\x01" * 9, after=b"\x01" * 9), **WORKS),
    M(name="eno-then-end-then-garbage", rfc="47 4.1", does="puts garbage behind an EOL behind ENO",
      play=with_eno(after=b"\x00\x45\x00\xff"), **WORKS),
    # --- option lengths -----------------------------------------------------------------------
    M(name="option-length-zero", rfc="47 4.4", does="gives ENO the length 0",
      play=option(b"\x45\x00\x23\x01"), **ILL_FORMED),
    M(name="option-length-one", rfc="47 4.4", does="gives ENO the length 1",
      play=option(b"\x45\x01\x23\x01"), **ILL_FORMED),
    M(name="option-length-past-end", rfc="47 4.4", does="gives ENO a length past the header",
      play=option(b"\x45\x05\x01\x23"), **ILL_FORMED),
    M(name="option-length-255", rfc="47 4.4", does="gives ENO the length 255",
      play=option(b"\x45\xff\x01\x23"), **ILL_FORMED),
    M(name="option-without-length", rfc="47 4.4", does="ends the header with the kind byte of ENO",
      play=option(b"\x01\x01\x01\x45"), **ILL_FORMED),
    M(name="other-option-length-zero", rfc="47 4.4", does="puts an option of length 0 before ENO",
      play=with_eno(before=b"\x08\x00"), **ILL_FORMED),
    M(name="other-option-past-end", rfc="47 4.4", does="puts an option past the header behind ENO",
      play=with_eno(after=b"\x02\x20", padded=False), **ILL_FORMED),
    M(name="other-option-without-length", rfc="47 4.4",
      does="ends with a lone kind byte behind ENO",
      play=with_eno(after=b"\x02", padded=False), **ILL_FORMED),
    M(name="option-of-40-bytes", rfc="47 4.1", does="fills all 40 bytes with ENO, own TEP last",
      play=option("g" + "00" * 36 + "23"), **WORKS),
    # --- suboption length bytes (section 4.4) -------------------------------------------------
    M(name="length-byte-alone", rfc="47 4.4", does="has a length byte and nothing else",
      play=option("g80"), **ILL_FORMED),
    M(name="length-byte-last", rfc="47 4.4", does="ends with a length byte behind a TEP",
      play=option("g2380"), **ILL_FORMED),
    M(name="length-byte-before-global", rfc="47 4.4",
      does="puts a length byte before a global suboption",
      play=option("g800023"), **ILL_FORMED),
    M(name="length-byte-before-plain-tep", rfc="47 4.4", does="puts a length byte before v = 0",
      play=option("g802324"), **ILL_FORMED),
    M(name="length-byte-before-length-byte", rfc="47 4.4", does="puts two length bytes in a row",
      play=option("g8080a300"), **ILL_FORMED),
    M(name="two-octet-length", rfc="47 4.4", does="uses the two-octet length of old drafts",
      play=option("g8001a30023"), **ILL_FORMED),
    M(name="length-byte-passes-end-by-one", rfc="47 4.4",
      does="announces one byte more than is there",
      play=option("g2381a400"), **ILL_FORMED),
    M(name="length-byte-passes-end-by-far", rfc="47 4.4", does="announces 32 bytes where one is",
      play=option("g239fa400"), **ILL_FORMED),
    M(name="length-byte-and-no-data", rfc="47 4.4", does="announces a byte behind the last TEP",
      play=option("g2380a4"), **ILL_FORMED),
    M(name="length-byte-of-32", rfc="47 4.4",
      does="announces 32 bytes for an unknown TEP, then its own",
      play=option("g9fa0" + "5a" * 32 + "23"), **WORKS),
    M(name="length-byte-needless", rfc="47 4.4",
      does="puts a length byte before the last suboption",
      play=option("g2380a05a"), **WORKS),
    M(name="ill-formed-behind-a-valid-tep", rfc="47 4.4", does="breaks the rules behind a good TEP",
      play=option("g238823"), **ILL_FORMED),
    # --- which TEPs (section 4.5) -------------------------------------------------------------
    M(name="vacuous", rfc="47 4.6", does="offers no TEP", play=option("g"), **NO_TEP),
    M(name="vacuous-global-bytes-only", rfc="47 4.6",
      does="sends four global suboptions and no TEP",
      play=option("g00010203"), **NO_TEP),
    M(name="tep-unknown", rfc="47 4.5", does="offers TEP 0x7f alone", play=option("g7f"), **NO_TEP),
    M(name="tep-experimental", rfc="47 11",
      does="offers TEP 0x20 alone", play=option("g20"), **NO_TEP),
    M(name="tep-tls-of-the-drafts", rfc="47 11", does="offers TEP 0x30 alone",
      play=option("g30"), **NO_TEP),
    M(name="tep-reserved-range", rfc="47 11", does="offers 0x70 to 0x7f",
      play=option("g" + bytes(range(0x70, 0x80)).hex()), **NO_TEP),
    M(name="tep-known-but-not-asked-for", rfc="47 4.5", does="names a TEP that the subject has off",
      play=option("g22"), **NO_TEP),
    M(name="tep-bit-8-of-the-own", rfc="47 4.1", does="names 0x03, the own TEP without bit 5",
      play=option("g03"), **NO_TEP),
    M(name="tep-swallowed-by-unknown-data", rfc="47 4.4",
      does="lets the data of 0xa0 swallow its TEP",
      play=option("ga023"), **NO_TEP),
    M(name="tep-inside-announced-data", rfc="47 4.4", does="hides its TEP in announced data",
      play=option("g80a023"), **NO_TEP),
    M(name="tep-twice", rfc="47 4.5", does="names a TEP twice", play=option("g2323"), **NO_TEP),
    M(name="tep-twice-once-with-data", rfc="47 4.5", does="names a TEP without and with data",
      play=option("g23a3" + ID), **NO_TEP),
    M(name="tep-twice-data-first", rfc="47 4.5", does="names a TEP with data, then without",
      play=option("g88a3" + ID + "23"), **NO_TEP),
    M(name="tep-many-times", rfc="47 4.5", does="names a TEP thirty times",
      play=option("g" + "23" * 30), **NO_TEP),
    M(name="tep-twice-beside-a-valid-one", rfc="47 4.5",
      does="repeats one TEP and names another once",
      play=option("g242323"), teps=(0x24, 0x23), **WORKS),
    M(name="tep-unknown-behind-the-own", rfc="47 4.5", does="ranks an unknown TEP highest",
      play=option("g237f"), **WORKS),
    M(name="tep-unknown-with-data-behind-the-own", rfc="47 4.5",
      does="ends with an unknown TEP's data",
      play=option("g23ff0123456789"), **WORKS),
    M(name="tep-among-all-others", rfc="47 4.5", does="offers thirty unknown TEPs and its own",
      play=option("g" + bytes(range(0x40, 0x5E)).hex() + "23"), **WORKS),
    M(name="tep-not-offered-is-chosen", rfc="47 4.5", does="as B, picks what A did not offer",
      play=option("0124"), teps=(0x23, 0x24), subject={"teps": (0x23,)}, b="plain NO_COMMON_TEP"),
    M(name="tep-several-chosen", rfc="47 4.5", does="as B, answers with several TEPs",
      play=option("012423"), teps=(0x24, 0x23), b="works"),
    M(name="tep-chosen-is-not-last", rfc="47 4.5", does="as B, ranks an invalid TEP highest",
      play=option("01237e20"), b="works"),
    # --- the global suboption and the roles (sections 4.2, 4.3) -------------------------------
    M(name="role-bit-wrong", rfc="47 4.3", does="sends the b of the other role",
      play=unlike("0123", "0023"), **SAME_ROLE),
    M(name="role-bit-absent", rfc="47 4.2", does="as B, leaves the global suboption out",
      play=option("23"), b="plain SAME_ROLE"),
    M(name="role-echoed", rfc="47 4.3", does="is a middlebox that echoes the option of the SYN",
      play=option(lambda h: pad(h.peer_option)), b="plain SAME_ROLE"),
    M(name="role-wrong-in-a-vacuous-option", rfc="47 4.3", does="has the wrong b and no TEP",
      play=unlike("01", "00"), **SAME_ROLE),
    M(name="role-wrong-first-right-second", rfc="47 4.2", does="sends the right b second",
      play=unlike("010023", "000123"), **SAME_ROLE),
    M(name="role-right-first-wrong-second", rfc="47 4.2",
      does="sends a wrong b second, to be ignored",
      play=unlike("000123", "010023"), **WORKS),
    M(name="role-in-swallowed-data", rfc="47 4.4",
      does="as B, lets data swallow its global suboption",
      play=option("23a001"), b="plain SAME_ROLE"),
    M(name="role-behind-the-teps", rfc="47 4.2", does="puts the global suboption last",
      play=unlike("2300", "2301"), **WORKS),
    M(name="reserved-global-bits", rfc="47 4.2", does="sets z1, z2 and z3",
      play=unlike("1c23", "1d23"), **WORKS),
    M(name="reserved-global-bits-for-b", rfc="47 4.2",
      does="sets z1 to z3 and the b of the other role",
      play=unlike("1d23", "1c23"), **SAME_ROLE),
    M(name="application-awareness-absent", rfc="47 4.2",
      does="leaves out bit a where it is mandatory",
      subject={"application_aware": True, "require_application_aware": True}, play=option("g23"),
      **both("plain NOT_APPLICATION_AWARE")),
    M(name="application-awareness-second", rfc="47 4.2",
      does="sets bit a in a second global suboption",
      subject={"application_aware": True, "require_application_aware": True},
      play=unlike("000223", "010323"), **both("plain NOT_APPLICATION_AWARE")),
    M(name="application-awareness-by-reserved-bits", rfc="47 4.2", does="sets every bit but a",
      subject={"application_aware": True, "require_application_aware": True},
      play=unlike("1c23", "1d23"), **both("plain NOT_APPLICATION_AWARE")),
    M(name="application-awareness-unasked", rfc="47 4.2", does="sets bit a, and nobody asked",
      play=unlike("0223", "0323"), **WORKS),
    # --- data of a TEP (RFC 8548 section 3.5) -------------------------------------------------
    M(name="tep-data-empty", rfc="48 3.5", does="sets v without data",
      play=option("ga3"), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-of-1", rfc="48 3.5", does="sends one byte of data",
      play=option("ga300"), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-of-8", rfc="48 3.5", does="sends eight bytes of data, one too few",
      play=option("ga3" + ID[:16]), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-of-8-announced", rfc="48 3.5", does="announces eight bytes of data",
      play=option("g87a3" + ID[:16] + "20"), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-of-18", rfc="48 3.5", does="sends a nonce of nine bytes",
      play=option("ga3" + ID * 2), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-of-32", rfc="48 3.5", does="announces 32 bytes of data",
      play=option("g9fa3" + "5a" * 32), a="works", b="plain NO_COMMON_TEP"),
    M(name="tep-data-unasked", rfc="48 3.5", does="resumes where nobody asked",
      play=option("ga3" + ID + "0011223344556677"), a="works", b="plain RESUMPTION_MISMATCH"),
    M(name="tep-data-unasked-beside-a-fresh-tep", rfc="48 3.5",
      does="resumes where nobody asked, and names another TEP too",
      play=option("g24a3" + ID), teps=(0x24, 0x23), a="works", b="works"),
    M(name="tep-data-short-beside-a-fresh-tep", rfc="48 3.5",
      does="sends short data for one TEP, and names another too",
      play=option("g24a300"), teps=(0x24, 0x23), a="works", b="works"),
)  # fmt: skip
