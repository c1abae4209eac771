"""Verifying vectors: a wrong value is named, a malformed file is told apart."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.tools import vectors as module
from tcpcrypt.tools.vector_fields import Checker
from tcpcrypt.tools.vectors import Report, VectorFileError, verify_document, verify_file

VECTORS = Path(__file__).parents[2] / "vectors"
SAMPLE = json.loads((VECTORS / "rfc8548-p256.json").read_text())
NAME = SAMPLE["vectors"][1]["name"]
ENO = json.loads((VECTORS / "eno-parse.json").read_text())


def changed(change: Callable[[dict[str, Any]], object]) -> Report:
    """The report on one good vector and one with a change."""
    document = copy.deepcopy(SAMPLE)
    document["vectors"] = document["vectors"][:2]
    change(document["vectors"][1])
    return verify_document(document)


def fields(report: Report) -> set[str]:
    assert all(mismatch.vector == NAME for mismatch in report.mismatches)
    return {mismatch.field for mismatch in report.mismatches}


def flip(text: str) -> str:
    """The last byte changed."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


DERIVED = ["session_id", "ss1", "ss2", "resume1", "prk", "es"]


@pytest.mark.parametrize("name", DERIVED)
def test_wrong_derived_value_is_the_only_one_named(name: str) -> None:
    report = changed(lambda v: v.update({name: flip(v[name])}))
    assert fields(report) == {name}


@pytest.mark.parametrize("name", ["mk", "k_ab", "k_ba"])
@pytest.mark.parametrize("generation", [0, 1, 2])
def test_wrong_key_is_the_only_one_named(name: str, generation: int) -> None:
    def change(vector: dict[str, Any]) -> None:
        vector[name][generation] = flip(vector[name][generation])

    assert fields(changed(change)) == {f"{name}[{generation}]"}


@pytest.mark.parametrize(
    "name", ["n_a", "n_b", "init1", "init2", "private_a", "private_b", "init1_ignored"]
)
def test_wrong_input_is_named(name: str) -> None:
    report = changed(lambda v: v.update({name: flip(v[name] or "00")}))
    assert any(field.startswith(name) for field in fields(report)) or name in str(report.mismatches)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("tep", 0x23, "tep"),
        ("aead", 2, "aead"),
        ("aead", 0x7777, "aead"),
        ("ciphers", [1], "ciphers"),
        ("ciphers", [], "ciphers"),
        ("eno_a", "460321", "eno_a"),
        ("eno_a", "450421", "eno_a"),
        ("eno_a", "45048021", "eno_a"),
        ("eno_a", "45040121", "eno_a: bit b"),
        ("eno_a", "450322", "eno_b"),
        ("eno_b", "450321", "eno_b: bit b"),
        ("init1", "15101a0e", "init1"),
        ("init1", "15101a0f" + "00" * 80, "init1"),
        ("init2", "097105e1" + "00" * 80, "init2"),
        ("private_a", "00" * 32, "private_a"),
        ("private_b", "ff" * 32, "private_b"),
    ],
)
def test_impossible_value_is_named(name: str, value: object, field: str) -> None:
    assert field in fields(changed(lambda v: v.update({name: value})))


@pytest.mark.parametrize("init", ["init1", "init2"])
def test_public_key_off_the_curve_is_named(init: str) -> None:
    def change(vector: dict[str, Any]) -> None:
        at = vector[init].index("0023") + 6
        vector[init] = vector[init][:at] + "00" * 31 + "01" + vector[init][at + 64 :]

    assert f"{init}: public key" in fields(changed(change))


@pytest.mark.parametrize("tep", [0x7E, 0x20])
def test_tep_without_a_group_is_named(tep: int) -> None:
    """The last TEP that both options hold is negotiated, known or not."""

    def change(vector: dict[str, Any]) -> None:
        vector["eno_a"] = f"4503{tep:02x}"
        vector["eno_b"] = f"450401{tep:02x}"

    assert fields(changed(change)) == {"tep", "eno_b"}


def frame_change(index: int, **values: object) -> Callable[[dict[str, Any]], None]:
    return lambda vector: vector["frames"][index].update(values)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"data": "00"}, "data"),
        ({"offset": 3}, "offset"),
        ({"generation": 1}, "generation"),
        ({"fin": True}, "fin"),
        ({"rekey": True}, "rekey"),
        ({"urgent": 7}, "urgent"),
    ],
)
def test_wrong_field_of_a_frame_is_the_only_one_named(
    values: dict[str, object], field: str
) -> None:
    assert fields(changed(frame_change(1, **values))) == {f"frames[1].{field}"}


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("0000", "frame is too short"),
        ("000003000000", "frame is too short"),
        ("000011" + "00" * 18, "a frame of 20 bytes"),
        ("000011" + "00" * 17, "fails to authenticate"),
    ],
)
def test_bad_frame_is_named(frame: str, why: str) -> None:
    report = changed(frame_change(0, frame=frame))
    assert fields(report) == {"frames[0].frame"}
    assert why in str(report.mismatches[0])


def test_sealed_frame_without_its_urgent_field_is_named() -> None:
    """RFC 8548 section 4.2.2: authentic, and too short for what its flags say."""
    from tcpcrypt.crypto.aead import aead

    vector = SAMPLE["vectors"][1]
    key, parameters = bytes.fromhex(vector["k_ab"][0]), aead(vector["aead"])
    nonce = bytearray(key[parameters.key_len :])
    start = len(vector["init1"]) // 2
    for index, octet in enumerate(start.to_bytes(8, "big"), 4):
        nonce[index] ^= octet
    header = b"\x00\x00\x11"
    cipher = parameters.construct(key[: parameters.key_len])
    frame = header + cipher.encrypt(bytes(nonce), b"\x02", header)
    report = changed(frame_change(0, frame=frame.hex()))
    assert fields(report) == {"frames[0].frame"}
    assert "urgent field" in str(report.mismatches[0])


@pytest.mark.parametrize("name", ["session_id", "mk0", "k_ab0", "k_ba0"])
def test_wrong_value_of_the_resumed_session_is_the_only_one_named(name: str) -> None:
    report = changed(lambda v: v["resumed"].update({name: flip(v["resumed"][name])}))
    assert fields(report) == {f"resumed.{name}"}


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("nonce_a", "00" * 9, "resumed.nonce_a"),
        ("nonce_a", "00" * 17, "resumed.nonce_a, nonce_b"),
        ("opener", "original A", "resumed.eno_opener: identifier"),
        ("eno_opener", "450321", "resumed.eno_opener: identifier"),
        ("eno_passive", "45040121", "resumed.eno_passive: TEP byte"),
        ("eno_passive", "450401", "resumed.eno_passive"),
    ],
)
def test_wrong_resumption_is_named(name: str, value: str, field: str) -> None:
    assert field in fields(changed(lambda v: v["resumed"].update({name: value})))


def test_wrong_frame_of_the_resumed_session_is_named() -> None:
    def change(vector: dict[str, Any]) -> None:
        frame = vector["resumed"]["frames"][2]
        frame["frame"] = flip(frame["frame"])

    assert fields(changed(change)) == {"resumed.frames[2].frame"}


def test_a_session_need_not_be_resumed() -> None:
    assert not changed(lambda v: v.pop("resumed")).mismatches


def test_long_values_are_shown_where_they_differ() -> None:
    report = changed(frame_change(1, data="00" * 1399 + "77"))
    (mismatch,) = report.mismatches
    assert "(1400 bytes, from byte 0)" in mismatch.stated
    checker = Checker("v")
    checker.compare("f", bytes(1000), bytes(990) + b"\x01" * 10, "here")
    checker.compare("g", bytes(100), b"")
    first, second = map(str, checker.mismatches)
    assert first.count("from byte 982") == 2
    assert first.endswith("(from here)")
    assert second.endswith("computed nothing")


# --- every single change ----------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a vector stands, its name apart."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from leaves(item, (*path, key))
    elif path != ("name",):
        yield path


def other(value: Any, path: tuple[Any, ...]) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if value is None:
        return 0
    if isinstance(value, int):
        return value + 1
    if path[-1] in {"sender", "opener"}:
        return value[:-1] + {"A": "B", "B": "A"}[value[-1]]
    if not value:
        return "00"
    middle = len(value) // 4 * 2
    return f"{value[:middle]}{int(value[middle : middle + 2], 16) ^ 1:02x}{value[middle + 2 :]}"


def all_changes(vector: dict[str, Any]) -> dict[str, Any]:
    """A file with one vector for each value that can be wrong."""
    vectors = []
    for path in leaves(vector):
        wrong = copy.deepcopy(vector)
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other(place[path[-1]], path)
        vectors.append({**wrong, "name": ".".join(map(str, path))})
    return {"format": "tcpcrypt-vectors-1", "vectors": vectors}


@pytest.mark.parametrize("number", range(len(SAMPLE["vectors"])))
def test_no_change_of_a_value_goes_unnoticed(number: int) -> None:
    document = all_changes(SAMPLE["vectors"][number])
    assert len(document["vectors"]) > 150
    report = verify_document(document)
    noticed = {mismatch.vector for mismatch in report.mismatches}
    assert noticed == {vector["name"] for vector in document["vectors"]}
    for name in noticed:
        field = [part for part in name.split(".") if not part.isdigit()][-1]
        assert field in " ".join(str(m) for m in report.mismatches if m.vector == name)


def test_no_change_goes_unnoticed_by_the_independent_verifier(tmp_path: Path) -> None:
    document = all_changes(SAMPLE["vectors"][0])
    path = tmp_path / "changes.json"
    path.write_text(json.dumps(document))
    program = shutil.which("node")
    assert program, "the independent verifier needs Node (Debian's nodejs)"
    words = [program, str(VECTORS / "verify.mjs"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"{path}: 0 of {len(document['vectors'])} vectors match" in done.stdout


# --- files that are not of the format ---------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("prk"), f"{NAME}: prk: missing"),
        (lambda v: v.update(prk=1), f"{NAME}: prk: not of type str"),
        (lambda v: v.update(prk="0g"), f"{NAME}: prk: not hexadecimal"),
        (lambda v: v.update(mk=[1]), f"{NAME}: mk[0]: not hexadecimal"),
        (lambda v: v.update(tep=-1), f"{NAME}: tep: not a number"),
        (lambda v: v.update(tep=True), f"{NAME}: tep: not a number"),
        (lambda v: v.update(ciphers=["1"]), f"{NAME}: ciphers: not a list of numbers"),
        (lambda v: v.update(frames=[1]), f"{NAME}: frames[0]: not an object"),
        (lambda v: v.update(resumed=[]), f"{NAME}: resumed: not of type dict"),
        (lambda v: v["frames"][0].update(sender="C"), f"{NAME}: frames[0]: sender: 'C'"),
        (lambda v: v["frames"][0].update(urgent="1"), f"{NAME}: frames[0]: urgent: not of type"),
        (lambda v: v.update(name=3), "vectors[1]: name: not of type str"),
    ],
)
def test_malformed_vector(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(VectorFileError) as caught:
        changed(change)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not an object"),
        ({}, "format: missing"),
        ({"format": "other", "vectors": []}, "unknown format 'other'"),
        ({"format": "tcpcrypt-vectors-1"}, "vectors: missing"),
        ({"format": "tcpcrypt-vectors-1", "vectors": [1]}, "vectors[0]: not an object"),
    ],
)
def test_malformed_document(document: object, message: str) -> None:
    with pytest.raises(VectorFileError) as caught:
        verify_document(document)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_not_json(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text)
    with pytest.raises(VectorFileError, match="not JSON"):
        verify_file(path)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match=os.strerror(2)):
        verify_file(tmp_path / "absent")


def test_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIZE_MAX", 10)
    path = tmp_path / "file.json"
    path.write_bytes(b" " * 11)
    with pytest.raises(VectorFileError, match="larger than 10 bytes"):
        verify_file(path)


# --- ENO options ------------------------------------------------------------------


def eno(**vector: object) -> set[str]:
    document = {"format": "tcpcrypt-eno-1", "vectors": [{"name": "v", **vector}]}
    return {mismatch.field for mismatch in verify_document(document).mismatches}


GOOD = {
    "contents": "450401a3",
    "result": {"global": 1, "suboptions": [{"tep": 0x23, "v": True, "data": ""}]},
}


def test_eno_vectors_match() -> None:
    assert eno(**GOOD) == set()
    assert eno(contents="45048022", error="ENO_RESERVED_LENGTH") == set()


@pytest.mark.parametrize(
    ("vector", "field"),
    [
        ({"global": 2}, "result.global"),
        ({"suboptions": []}, "result.suboptions"),
        ({"suboptions": [{"tep": 0x24, "v": True, "data": ""}]}, "result.suboptions[0].tep"),
        ({"suboptions": [{"tep": 0x23, "v": False, "data": ""}]}, "result.suboptions[0].v"),
        ({"suboptions": [{"tep": 0x23, "v": True, "data": "00"}]}, "result.suboptions[0].data"),
    ],
)
def test_wrong_result_is_named(vector: dict[str, object], field: str) -> None:
    assert eno(contents="450401a3", result={**GOOD["result"], **vector}) == {field}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "vector",
    [
        {"contents": "450401a3", "error": "ENO_DATA_PAST_END"},
        {"contents": "45048022", "error": "ENO_DATA_PAST_END"},
        {"contents": "45048022", "result": GOOD["result"]},
        {"contents": "4602", "error": "ENO_DATA_PAST_END"},
    ],
)
def test_wrong_error_is_named(vector: dict[str, object]) -> None:
    assert eno(**vector) == {"error"}


def test_unknown_error_is_malformed() -> None:
    with pytest.raises(VectorFileError, match="unknown error 'NO_SUCH'"):
        eno(contents="450401a3", error="NO_SUCH")
