#!/usr/bin/env python3
"""Write eno-parse.json: what the contents of SYN-form ENO options mean.

    python3 vectors/generate_eno.py [FILE]

RFC 8547 sections 4.1, 4.2 and 4.4.  Options and results alike are spelled out
by hand below, from the text of the RFC: this script parses nothing and imports
nothing of the package, so that its output can judge the package's parsers.
`verify_eno.mjs` judges the output with a parser of its own.

Where an option is ill-formed in two ways at once, the byte that comes first
decides: a length byte is judged by the byte it precedes, then by its extent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ID = "a0a1a2a3a4a5a6a7a8"  # a resumption identifier, 9 bytes
NONCE = "0102030405060708"  # its nonce, 8 bytes
DATA_31 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e"
DATA_32 = DATA_31 + "1f"
DATA_37 = DATA_32 + "2021222324"

PAST_END = "ENO_DATA_PAST_END"
RESERVED = "ENO_RESERVED_LENGTH"


def tep(identifier: int) -> dict[str, object]:
    """A suboption with v = 0."""
    return {"tep": identifier, "v": False, "data": ""}


def with_data(identifier: int, data: str) -> dict[str, object]:
    """A suboption with v = 1."""
    return {"tep": identifier, "v": True, "data": data}


# name, option (kind, length, contents), global suboption, suboptions, why
GOOD: list[tuple[str, str, int, list[dict[str, object]], str]] = [
    # --- global suboptions
    ("vacuous", "45 02", 0, [], "4.6: an option without TEPs is vacuous, not ill-formed"),
    ("global-zero", "45 03 00", 0, [], "4.2: 0x00-0x1f is a global suboption; this one is 0"),
    ("global-b", "45 03 01", 1, [], "4.2: bit b is 0x01"),
    ("global-a", "45 03 02", 2, [], "4.2: bit a is 0x02"),
    ("global-a-b", "45 03 03", 3, [], "4.2: bits a and b are independent"),
    ("global-z3", "45 03 04", 4, [], "4.2: reserved bits are ignored on receipt"),
    ("global-z1", "45 03 10", 16, [], "4.2: reserved bits are ignored on receipt"),
    ("global-all-z", "45 03 1c", 28, [], "4.2: reserved bits are ignored on receipt"),
    ("global-highest", "45 03 1f", 31, [], "4.2: 0x1f is the last global suboption value"),
    ("global-second-ignored", "45 04 01 02", 1, [], "4.2: all but the first are ignored"),
    ("global-first-zero", "45 04 00 01", 0, [], "4.2: the first counts, also when it is 0"),
    ("global-three", "45 05 02 01 1f", 2, [], "4.2: all but the first are ignored"),
    ("global-after-tep", "45 04 23 01", 1, [tep(0x23)], "4.2: no position is prescribed"),
    (
        "global-between-teps",
        "45 05 21 01 23",
        1,
        [tep(0x21), tep(0x23)],
        "4.2: no position is prescribed",
    ),
    (
        "global-around-tep",
        "45 05 02 23 01",
        2,
        [tep(0x23)],
        "4.2: all but the first are ignored, wherever they are",
    ),
    (
        "global-looks-like-end-of-options",
        "45 05 00 00 23",
        0,
        [tep(0x23)],
        "4.1: inside the option 0x00 is a suboption, never the TCP end-of-options kind",
    ),
    (
        "global-looks-like-nop",
        "45 05 01 01 23",
        1,
        [tep(0x23)],
        "4.1: inside the option 0x01 is a suboption, never the TCP no-operation kind",
    ),
    # --- TEP identifiers without data
    ("tep-lowest", "45 03 20", 0, [tep(0x20)], "4.1: TEP identifiers begin at 0x20"),
    ("tep-p256", "45 03 21", 0, [tep(0x21)], "4.1: v = 0, no data"),
    ("tep-p521", "45 03 22", 0, [tep(0x22)], "4.1: v = 0, no data"),
    ("tep-curve25519", "45 03 23", 0, [tep(0x23)], "4.8: A's option in a transcript"),
    ("tep-curve448", "45 03 24", 0, [tep(0x24)], "4.1: v = 0, no data"),
    ("tep-unassigned", "45 03 30", 0, [tep(0x30)], "4.5: unknown TEPs are no error"),
    ("tep-reserved", "45 03 70", 0, [tep(0x70)], "11: 0x70-0x7f are reserved, not ill-formed"),
    ("tep-highest", "45 03 7f", 0, [tep(0x7F)], "4.1: TEP identifiers end at 0x7f"),
    ("tep-answer", "45 04 01 23", 1, [tep(0x23)], "4.8: B's option in a transcript"),
    (
        "tep-order",
        "45 06 24 21 23 22",
        0,
        [tep(0x24), tep(0x21), tep(0x23), tep(0x22)],
        "4.5: order tells preference and is kept",
    ),
    (
        "tep-repeated",
        "45 04 23 23",
        0,
        [tep(0x23), tep(0x23)],
        "4.5: repetition is for the TEP to judge, not for the parser",
    ),
    (
        "tep-fills-option",
        "45 28 01 20212223242526272829 2a2b2c2d2e2f30313233 3435363738393a3b3c3d 3e3f4041424344",
        1,
        [tep(identifier) for identifier in range(0x20, 0x45)],
        "4.1: contents end with the option, 38 bytes at most in a TCP header",
    ),
    (
        "global-fills-option",
        "45 28 1f 00000000000000000000 00000000000000000000 00000000000000000000 00000000000000",
        31,
        [],
        "4.2: all but the first are ignored, however many",
    ),
    # --- data to the end of the option
    (
        "data-none",
        "45 03 a3",
        0,
        [with_data(0x23, "")],
        "4.4: v = 1 in last place may have no data",
    ),
    (
        "data-none-after-global",
        "45 04 01 a3",
        1,
        [with_data(0x23, "")],
        "4.4: v = 1 in last place may have no data",
    ),
    (
        "data-none-lowest-tep",
        "45 03 a0",
        0,
        [with_data(0x20, "")],
        "4.1: 0xa0 is TEP 0x20 with v = 1, no length byte",
    ),
    (
        "data-none-highest-tep",
        "45 03 ff",
        0,
        [with_data(0x7F, "")],
        "4.1: 0xff is TEP 0x7f with v = 1",
    ),
    (
        "data-one-byte",
        "45 04 a3 5a",
        0,
        [with_data(0x23, "5a")],
        "4.4: without a length byte data extend to the end of the option",
    ),
    (
        "data-identifier",
        f"45 0c a3 {ID}",
        0,
        [with_data(0x23, ID)],
        "4.4: data to the end; here a resumption without nonce (RFC 8548 section 3.5)",
    ),
    (
        "data-identifier-nonce",
        f"45 14 a3 {ID} {NONCE}",
        0,
        [with_data(0x23, ID + NONCE)],
        "4.4: data to the end; here a resumption with 8 bytes of nonce",
    ),
    (
        "data-too-short-to-resume",
        "45 0b a3 a0a1a2a3a4a5a6a7",
        0,
        [with_data(0x23, "a0a1a2a3a4a5a6a7")],
        "4.4: how many bytes make sense is for the TEP to judge (RFC 8548 section 3.5)",
    ),
    (
        "data-too-long-to-resume",
        f"45 15 a3 {ID} {NONCE} 09",
        0,
        [with_data(0x23, ID + NONCE + "09")],
        "4.4: how many bytes make sense is for the TEP to judge (RFC 8548 section 3.5)",
    ),
    (
        "data-answer",
        f"45 15 01 a3 {ID} {NONCE}",
        1,
        [with_data(0x23, ID + NONCE)],
        "4.4: data to the end; a SYN-ACK that resumes",
    ),
    (
        "data-after-tep",
        f"45 15 21 a3 {ID} {NONCE}",
        0,
        [tep(0x21), with_data(0x23, ID + NONCE)],
        "4.4: in last place data need no length byte",
    ),
    (
        "data-looks-like-length-bytes",
        "45 06 a3 80 9f 80",
        0,
        [with_data(0x23, "809f80")],
        "4.4: data are opaque to the end of the option",
    ),
    (
        "data-looks-like-suboptions",
        "45 07 a3 01 23 a3 24",
        0,
        [with_data(0x23, "0123a324")],
        "4.4: data are opaque to the end of the option",
    ),
    (
        "data-swallows-global",
        "45 05 a3 5a 01",
        0,
        [with_data(0x23, "5a01")],
        "4.4: what follows v = 1 without a length byte is data, a global suboption too",
    ),
    (
        "data-fills-option",
        f"45 28 a3 {DATA_37}",
        0,
        [with_data(0x23, DATA_37)],
        "4.4: without a length byte data may pass 32 bytes",
    ),
    (
        "tep-repeated-with-data",
        f"45 0d 23 a3 {ID}",
        0,
        [tep(0x23), with_data(0x23, ID)],
        "4.5: repetition is for the TEP to judge, not for the parser",
    ),
    # --- length bytes
    (
        "length-minimum",
        "45 05 80 a3 5a",
        0,
        [with_data(0x23, "5a")],
        "4.4: nnnnn = 0 announces one byte of data",
    ),
    (
        "length-minimum-then-tep",
        "45 06 80 a3 5a 24",
        0,
        [with_data(0x23, "5a"), tep(0x24)],
        "4.4: the length counts data alone, so that the next byte is a suboption",
    ),
    (
        "length-lowest-tep",
        "45 05 80 a0 5a",
        0,
        [with_data(0x20, "5a")],
        "4.4: 0xa0 is the first byte that a length byte may precede",
    ),
    (
        "length-highest-tep",
        "45 05 80 ff 5a",
        0,
        [with_data(0x7F, "5a")],
        "4.4: 0xff is the last byte that a length byte may precede",
    ),
    (
        "length-two",
        "45 06 81 a3 5a5b",
        0,
        [with_data(0x23, "5a5b")],
        "4.4: data may end exactly with the option",
    ),
    (
        "length-resumption-first",
        f"45 16 90 a3 {ID} {NONCE} 21",
        0,
        [with_data(0x23, ID + NONCE), tep(0x21)],
        "4.4: before the last place data need a length byte, 0x90 for 17 bytes",
    ),
    (
        "length-not-needed",
        f"45 0d 88 a3 {ID}",
        0,
        [with_data(0x23, ID)],
        "4.4: a length byte before the last suboption is wasteful, not wrong",
    ),
    (
        "length-maximum",
        f"45 24 9f a3 {DATA_32}",
        0,
        [with_data(0x23, DATA_32)],
        "4.4: nnnnn = 31 announces 32 bytes",
    ),
    (
        "length-maximum-then-global",
        f"45 25 9f a3 {DATA_32} 01",
        1,
        [with_data(0x23, DATA_32)],
        "4.4: the length counts data alone, so that the next byte is a suboption",
    ),
    (
        "length-maximum-fills-option",
        f"45 28 9f a3 {DATA_32} 01 21 22 24",
        1,
        [with_data(0x23, DATA_32), tep(0x21), tep(0x22), tep(0x24)],
        "4.4: 34 bytes with a length byte, then four of one byte each",
    ),
    (
        "length-twice",
        "45 08 80 a3 5a 80 a4 5b",
        0,
        [with_data(0x23, "5a"), with_data(0x24, "5b")],
        "4.4: each length byte governs the one suboption that follows",
    ),
    (
        "length-twice-same-tep",
        "45 08 80 a3 5a 80 a3 5b",
        0,
        [with_data(0x23, "5a"), with_data(0x23, "5b")],
        "4.5: repetition is for the TEP to judge, not for the parser",
    ),
    (
        "length-then-data-to-end",
        "45 08 80 a3 5a a4 5b5c",
        0,
        [with_data(0x23, "5a"), with_data(0x24, "5b5c")],
        "4.4: the length byte governs one suboption; the next extends to the end",
    ),
    (
        "length-then-no-data",
        "45 06 80 a3 5a a4",
        0,
        [with_data(0x23, "5a"), with_data(0x24, "")],
        "4.4: the length byte governs one suboption; the next has the rest, none",
    ),
    (
        "length-then-global",
        "45 06 80 a3 5a 02",
        2,
        [with_data(0x23, "5a")],
        "4.2: no position is prescribed",
    ),
    (
        "length-between-globals",
        "45 07 01 80 a3 5a 02",
        1,
        [with_data(0x23, "5a")],
        "4.2: all but the first are ignored, wherever they are",
    ),
    (
        "length-data-looks-like-length",
        "45 07 81 a3 9fff 22",
        0,
        [with_data(0x23, "9fff"), tep(0x22)],
        "4.4: announced data are opaque",
    ),
    (
        "length-data-looks-like-global",
        "45 07 81 a3 0101 22",
        0,
        [with_data(0x23, "0101"), tep(0x22)],
        "4.4: announced data are opaque",
    ),
]

# name, option, error, why
ILL_FORMED: list[tuple[str, str, str, str]] = [
    ("bad-length-alone", "45 03 80", PAST_END, "4.4: nothing follows the length byte"),
    ("bad-length-alone-maximum", "45 03 9f", PAST_END, "4.4: nothing follows the length byte"),
    ("bad-length-last", "45 04 23 80", PAST_END, "4.4: nothing follows the length byte"),
    (
        "bad-length-last-after-global",
        "45 05 01 02 90",
        PAST_END,
        "4.4: nothing follows the length byte",
    ),
    (
        "bad-length-last-after-data",
        "45 06 80 a3 5a 80",
        PAST_END,
        "4.4: nothing follows the second length byte",
    ),
    ("bad-no-data", "45 04 80 a3", PAST_END, "4.4: one byte announced, none there"),
    ("bad-one-missing", "45 05 81 a3 5a", PAST_END, "4.4: two bytes announced, one there"),
    (
        "bad-one-missing-identifier",
        "45 0c 88 a3 a0a1a2a3a4a5a6a7",
        PAST_END,
        "4.4: nine bytes announced, eight there",
    ),
    (
        "bad-one-missing-resumption",
        f"45 14 90 a3 {ID} 01020304050607",
        PAST_END,
        "4.4: 17 bytes announced, 16 there",
    ),
    (
        "bad-one-missing-maximum",
        f"45 23 9f a3 {DATA_31}",
        PAST_END,
        "4.4: 32 bytes announced, 31 there",
    ),
    ("bad-maximum-no-data", "45 04 9f a3", PAST_END, "4.4: 32 bytes announced, none there"),
    (
        "bad-counts-tep-byte",
        "45 0d 89 a3 a0a1a2a3a4a5a6a7a8",
        PAST_END,
        "4.4: the length counts data alone, neither itself nor the TEP byte",
    ),
    (
        "bad-second-length",
        "45 08 80 a3 5a 81 a4 5b",
        PAST_END,
        "4.4: a good suboption before does not excuse the bad one",
    ),
    (
        "bad-after-good-teps",
        "45 08 21 23 82 a4 5a5b",
        PAST_END,
        "4.4: the whole option is ignored, its good suboptions too",
    ),
    (
        "bad-full-option",
        "45 28 01 20212223242526272829 2a2b2c2d2e2f30313233 3435363738393a3b3c3d 3e3f40414243 80",
        PAST_END,
        "4.4: nothing follows the length byte, which ends a full option",
    ),
    ("bad-reserved-00", "45 05 80 00 5a", RESERVED, "4.4: 0x00 after a length byte"),
    ("bad-reserved-01", "45 05 80 01 5a", RESERVED, "4.4: a global suboption takes no data"),
    ("bad-reserved-1f", "45 05 80 1f 5a", RESERVED, "4.4: a global suboption takes no data"),
    ("bad-reserved-20", "45 05 80 20 5a", RESERVED, "4.4: v = 0 takes no data"),
    ("bad-reserved-23", "45 05 80 23 5a", RESERVED, "4.4: v = 0 takes no data"),
    ("bad-reserved-7f", "45 05 80 7f 5a", RESERVED, "4.4: 0x7f after a length byte"),
    ("bad-reserved-80", "45 05 80 80 5a", RESERVED, "7: a length byte after a length byte"),
    ("bad-reserved-9f", "45 05 80 9f 5a", RESERVED, "4.4: 0x9f is the last reserved byte"),
    (
        "bad-two-length-bytes",
        "45 06 80 80 a3 5a",
        RESERVED,
        "7: a length byte after a length byte, whatever follows",
    ),
    (
        "bad-two-octet-length",
        f"45 0e 80 08 a3 {ID}",
        RESERVED,
        "7: the two-octet lengths of old drafts are reserved",
    ),
    (
        "bad-reserved-second",
        "45 08 80 a3 5a 80 23 5b",
        RESERVED,
        "4.4: a good suboption before does not excuse the bad one",
    ),
    (
        "bad-reserved-after-tep",
        "45 06 23 80 21 5a",
        RESERVED,
        "4.4: the whole option is ignored, its good suboptions too",
    ),
    (
        "bad-reserved-after-global",
        "45 06 01 81 01 23",
        RESERVED,
        "4.4: the whole option is ignored, its global suboption too",
    ),
    (
        "bad-reserved-at-end",
        "45 04 80 23",
        RESERVED,
        "4.4: v = 0 after a length byte; that data are missing too comes second",
    ),
    (
        "bad-reserved-length-at-end",
        "45 04 9f 9f",
        RESERVED,
        "7: a length byte after a length byte; that data are missing too comes second",
    ),
    (
        "bad-reserved-past-end",
        "45 05 9f 00 5a",
        RESERVED,
        "4.4: 0x00 after a length byte; that data are missing too comes second",
    ),
]


def document() -> dict[str, object]:
    """The whole file as a value."""
    vectors: list[dict[str, object]] = []
    for name, option, global_bits, suboptions, why in GOOD:
        result = {"global": global_bits, "suboptions": suboptions}
        vectors.append({"name": name, "contents": spelled(option), "result": result, "why": why})
    for name, option, error, why in ILL_FORMED:
        vectors.append({"name": name, "contents": spelled(option), "error": error, "why": why})
    for vector in vectors:
        vector["why"] = f"RFC 8547 section {vector['why']}"
    names = {vector["name"] for vector in vectors}
    if len(names) != len(vectors):
        raise SystemExit("two vectors have one name")
    return {"format": "tcpcrypt-eno-1", "vectors": vectors}


def spelled(option: str) -> str:
    """Hex without blanks, once kind and length are what they must be."""
    octets = bytes.fromhex(option)
    if octets[0] != 0x45 or octets[1] != len(octets) or len(octets) > 40:
        raise SystemExit(f"{option}: kind or length is wrong")
    return octets.hex()


def main() -> None:
    """Write the file named on the command line, or the one beside this script."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("eno-parse.json")
    value = document()
    target.write_text(json.dumps(value, indent=1) + "\n", encoding="ascii")
    print(f"{target}: {len(value['vectors'])} vectors")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
