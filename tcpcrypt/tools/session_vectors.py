"""Checking a `tcpcrypt-vectors-1` vector: one session of RFC 8548, and its resumption.

Everything is recomputed from both private keys, nonces, options and data.  What
one step computes, not what the file states, goes into the next, so that a wrong
value is named once and does not drag the rest along.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.crypto.aead import AeadParameters, aead
from tcpcrypt.crypto.groups import Group, group
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret, TrafficKeys
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import CONST_REKEY, K_LEN, RESUME_ID_LEN, RESUME_NONCE_MAX, SUBOPTION_V
from tcpcrypt.tools.vector_fields import Checker, Fields, Unverifiable, VectorFileError
from tcpcrypt.wire.eno import Suboption, SynOption, find_eno
from tcpcrypt.wire.frame import FrameHeader, sealed_size
from tcpcrypt.wire.messages import Init1, Init2

__all__ = ["Keys", "Streams", "negotiate", "sender_of", "verify_session"]

_SENDERS: Final = {"A": "A", "B": "B", "original A": "A", "original B": "B"}


def verify_session(vector: Fields) -> Checker:
    """Check one vector.  Raises `VectorFileError` where a field is missing or malformed."""
    checker = Checker(vector.where)
    # What could not be computed is noted, and so is why.
    with suppress(Unverifiable):
        _verify(vector, checker)
    return checker


def _verify(vector: Fields, checker: Checker) -> None:
    algorithm = vector.integer("aead")
    with checker.computing("aead", algorithm):
        parameters = aead(algorithm)
    _offered, chosen = negotiate(vector, checker, "", ("eno_a", "eno_b"))
    checker.compare("tep", vector.integer("tep"), chosen.tep, "eno_a, eno_b")
    with checker.computing("eno_b", vector.octets("eno_b")):
        curve = group(chosen.tep)

    prk = _exchange(vector, checker, curve)
    source = "n_a, eno_a, eno_b, init1, init2, private_a, private_b"
    checker.compare("prk", vector.octets("prk"), _bytes(prk), source)
    _verify_masters(vector, checker, cprf(prk, CONST_REKEY, K_LEN))
    session_id, master, following = SessionSecret.from_prk(prk).use(chosen.first_byte, b"")
    checker.compare("session_id", vector.octets("session_id"), session_id)
    checker.compare("resume1", vector.octets("resume1"), b"".join(following.resume_ids()))
    checker.compare("ss2", vector.octets("ss2"), _bytes(following.peek_next().take()))
    ss1 = following.take()
    checker.compare("ss1", vector.octets("ss1"), _bytes(ss1))

    keys = Keys(master, parameters)
    for name, direction in (("k_ab", "A"), ("k_ba", "B")):
        for generation, stated in enumerate(vector.octets_list(name)):
            computed = keys.of(direction, generation)
            checker.compare(f"{name}[{generation}]", stated, _bytes(computed))
    starts = {"A": len(vector.octets("init1")), "B": len(vector.octets("init2"))}
    Streams(checker, parameters, keys, starts).verify("frames", vector.objects("frames"))
    if "resumed" in vector:
        _verify_resumed(vector.object("resumed"), checker, parameters, chosen.tep, ss1)


def _verify_masters(vector: Fields, checker: Checker, master: Secret) -> None:
    """mk[j], which a `MasterKey` does not show (section 3.3)."""
    for generation, stated in enumerate(vector.octets_list("mk")):
        checker.compare(f"mk[{generation}]", stated, _bytes(master))
        master = cprf(master, CONST_REKEY, K_LEN)


def negotiate(
    fields: Fields, checker: Checker, prefix: str, names: tuple[str, str]
) -> tuple[SynOption, Suboption]:
    """RFC 8547 section 4.5: the last TEP in host B's option that both sides offer.

    Returns host A's option and that suboption.
    """
    options = []
    for name, role_b in zip(names, (False, True), strict=True):
        octets = fields.octets(name)
        with checker.computing(prefix + name, octets):
            if find_eno(octets).options != (octets,):
                raise checker.fault(prefix + name, octets, "not one ENO option")
            option = SynOption.parse(octets[2:])
        checker.compare(f"{prefix}{name}: bit b", role_b, option.b)
        options.append(option)
    offered = {suboption.tep for suboption in options[0].suboptions}
    common = [suboption for suboption in options[1].suboptions if suboption.tep in offered]
    if not common:
        why = f"no TEP in common with {names[0]}"
        raise checker.fault(prefix + names[1], fields.octets(names[1]), why)
    return options[0], common[-1]


def _exchange(vector: Fields, checker: Checker, curve: Group) -> Secret:
    """RFC 8548 sections 3.3 and 4.1: Init1, Init2, ES from both sides, PRK."""
    keys = []
    for name in ("private_a", "private_b"):
        raw = vector.octets(name)
        with checker.computing(name, raw):
            keys.append(curve.from_private(raw))
    key_a, key_b = keys
    message1, message2 = vector.octets("init1"), vector.octets("init2")
    with checker.computing("init1", message1):
        init1 = Init1.parse(message1, curve.public_key_len)
    with checker.computing("init2", message2):
        init2 = Init2.parse(message2, curve.public_key_len)

    ciphers, cipher = vector.integers("ciphers"), vector.integer("aead")
    tails = [vector.octets(name, default=b"") for name in ("init1_ignored", "init2_ignored")]
    nonces = [vector.octets(name) for name in ("n_a", "n_b")]
    checker.compare("ciphers", ciphers, list(init1.ciphers), "init1")
    checker.compare("aead", cipher, init2.cipher, "init2")
    checker.compare("aead in ciphers", True, cipher in init1.ciphers, "init1")
    for suffix, init, key, nonce, tail in (
        ("a", init1, key_a, nonces[0], tails[0]),
        ("b", init2, key_b, nonces[1], tails[1]),
    ):
        number = 1 if suffix == "a" else 2
        checker.compare(f"n_{suffix}", nonce, init.nonce, f"init{number}")
        checker.compare(f"init{number}_ignored", tail, init.tail, f"init{number}")
        checker.compare(
            f"init{number}: public key", init.public_key, key.public, f"private_{suffix}"
        )
    with checker.computing("init1", message1):
        built = Init1(tuple(ciphers), nonces[0], key_a.public, tails[0]).build()
        checker.compare("init1", message1, built, "ciphers, n_a, private_a, init1_ignored")
    with checker.computing("init2", message2):
        built = Init2(cipher, nonces[1], key_b.public, tails[1]).build()
        checker.compare("init2", message2, built, "aead, n_b, private_b, init2_ignored")

    stated = vector.octets("es")
    with checker.computing("init2: public key", init2.public_key):
        es = key_a.agree(init2.public_key)
    checker.compare("es", stated, _bytes(es), "private_a, init2")
    with checker.computing("init1: public key", init1.public_key):
        checker.compare("es", stated, _bytes(key_b.agree(init1.public_key)), "private_b, init1")
    transcript = vector.octets("eno_a") + vector.octets("eno_b")
    return extract(nonces[0], transcript, message1, message2, es)


def _verify_resumed(
    resumed: Fields, checker: Checker, parameters: AeadParameters, tep: int, ss1: Secret
) -> None:
    """RFC 8548 section 3.5: roles in options are the present ones, in keys the original."""
    opener = sender_of(resumed, "opener")
    passive = "B" if opener == "A" else "A"
    offered, chosen = negotiate(resumed, checker, "resumed.", ("eno_opener", "eno_passive"))
    tep_byte = tep | SUBOPTION_V
    checker.compare("resumed.eno_passive: TEP byte", chosen.first_byte, tep_byte)
    offer = next((s.data for s in offered.suboptions if s.tep == tep), None)
    secret = SessionSecret(Secret(ss1.view()), 1)
    identifiers = dict(zip("AB", secret.resume_ids(), strict=True))
    nonces = {"A": resumed.octets("nonce_a"), "B": resumed.octets("nonce_b")}
    for role, side, data in ((opener, "opener", offer), (passive, "passive", chosen.data)):
        stated = data or b""
        name = f"resumed.eno_{side}: identifier"
        checker.compare(name, stated[:RESUME_ID_LEN], identifiers[role], "resume1")
        name = f"resumed.nonce_{role.lower()}"
        checker.compare(name, nonces[role], stated[RESUME_ID_LEN:], f"eno_{side}")

    sn = nonces["A"] + nonces["B"]
    if len(sn) > 2 * RESUME_NONCE_MAX:
        raise checker.fault("resumed.nonce_a, nonce_b", sn, "more than 8 bytes each")
    with checker.computing("resumed.nonce_a, nonce_b", sn):
        session_id, master, _following = secret.use(tep_byte, sn)
    checker.compare("resumed.session_id", resumed.octets("session_id"), session_id)
    mk0 = cprf(ss1, CONST_REKEY + sn, K_LEN)
    checker.compare("resumed.mk0", resumed.octets("mk0"), _bytes(mk0))
    keys = Keys(master, parameters)
    for name, direction in (("k_ab0", "A"), ("k_ba0", "B")):
        checker.compare(f"resumed.{name}", resumed.octets(name), _bytes(keys.of(direction, 0)))
    streams = Streams(checker, parameters, keys, {"A": 0, "B": 0})
    streams.verify("resumed.frames", resumed.objects("frames"))


class Keys:
    """Traffic keys by sender and generation (section 3.4)."""

    def __init__(self, master: MasterKey, parameters: AeadParameters) -> None:
        self._master = master
        self._parameters = parameters
        self._derived: list[TrafficKeys] = [master.traffic_keys(parameters)]

    def of(self, sender: str, generation: int) -> Secret:
        while len(self._derived) <= generation:
            self._master = self._master.advance()
            self._derived.append(self._master.traffic_keys(self._parameters))
        keys = self._derived[generation]
        return keys.ab if sender == "A" else keys.ba


class Streams:
    """Both directions of one connection, frame by frame (sections 3.6 to 3.8)."""

    def __init__(
        self, checker: Checker, parameters: AeadParameters, keys: Keys, starts: dict[str, int]
    ) -> None:
        self._checker = checker
        self._parameters = parameters
        self._keys = keys
        self._offsets = starts
        self._generations = dict.fromkeys(starts, 0)

    def verify(self, name: str, frames: list[Fields]) -> None:
        for index, frame in enumerate(frames):
            self._verify_one(f"{name}[{index}]", frame)

    def _verify_one(self, name: str, frame: Fields) -> None:
        checker, parameters = self._checker, self._parameters
        sender, wire = sender_of(frame, "sender"), frame.octets("frame")
        with checker.computing(f"{name}.frame", wire):
            header = FrameHeader.parse(wire, parameters.tag_len)
        if header.frame_len != len(wire):
            raise checker.fault(f"{name}.frame", wire, f"a frame of {header.frame_len} bytes")
        offset = self._offsets[sender]
        self._offsets[sender] += len(wire)
        self._generations[sender] += header.rekey
        generation = self._generations[sender]
        checker.compare(f"{name}.offset", frame.integer("offset"), offset)
        checker.compare(f"{name}.rekey", frame.boolean("rekey", default=False), header.rekey)
        # Where the format leaves it out it is the one that the rekey bits give.
        checker.compare(
            f"{name}.generation", frame.integer("generation", default=generation), generation
        )

        key = self._keys.of(sender, generation)
        out = bytearray(len(wire))
        consumed, written, _frames, stop, urgent, _last = parameters.opener(key).open(
            wire, out, offset, header.rekey
        )
        if consumed != len(wire):
            why = "too short for its urgent field"
            if stop == _fast.STOP_BAD_TAG:
                where = f"sender {sender}, offset {offset}, generation {generation}"
                why = f"fails to authenticate ({where})"
            raise checker.fault(f"{name}.frame", wire, why)
        data, fin = bytes(out[:written]), stop == _fast.STOP_FIN
        found = None if urgent < 0 else urgent
        checker.compare(f"{name}.data", frame.octets("data"), data)
        checker.compare(f"{name}.fin", frame.boolean("fin", default=False), fin)
        checker.compare(f"{name}.urgent", frame.optional_integer("urgent"), found)
        sealed = self._seal(key, data, offset, rekey=header.rekey, fin=fin, urgent=urgent)
        checker.compare(f"{name}.frame", wire, sealed)

    def _seal(
        self, key: Secret, data: bytes, offset: int, *, rekey: bool, fin: bool, urgent: int
    ) -> bytes:
        frame_data = max(1, len(data))
        out = bytearray(sealed_size(len(data), frame_data, self._parameters.tag_len, urgent >= 0))
        self._parameters.sealer(key).seal(data, out, offset, frame_data, rekey, fin, urgent)
        return bytes(out)


def sender_of(fields: Fields, name: str) -> str:
    text = fields.text(name)
    try:
        return _SENDERS[text]
    except KeyError:
        raise VectorFileError(f"{fields.where}: {name}: {text!r} is neither A nor B") from None


def _bytes(secret: Secret) -> bytes:
    return bytes(secret.view())
