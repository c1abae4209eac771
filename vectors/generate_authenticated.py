#!/usr/bin/env python3
"""Make `authenticated-v1.json` and `authenticated-v2.json`, byte for byte:

    python3 vectors/generate_authenticated.py

All that a host draws at random comes from a seed; ML-KEM's keys and ciphertexts
come from Wycheproof, because nobody can choose what an encapsulation draws.
Needs the package.  Never use these keys.
"""

import hashlib
import itertools
import json
from pathlib import Path

from tcpcrypt.auth.agreement import AuthenticatedAgreement
from tcpcrypt.auth.identity import Identity
from tcpcrypt.core.events import Role
from tcpcrypt.core.tep import Exchanged
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.groups import group
from tcpcrypt.crypto.hybrid import HybridInitiator, HybridResponder
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import GLOBAL_A, GLOBAL_B
from tcpcrypt.wire.eno import Suboption, SynOption
from tcpcrypt.wire.frame import sealed_size
from tcpcrypt.wire.messages import Init1, Init2

HERE = Path(__file__).parent
X25519 = group(0x23)
Z = bytes(32)
CASES = {
    "both": (True, True, None),
    "both-psk": (True, True, True),
    "both-psk-unused": (True, True, False),
    "only-a": (True, False, None),
    "only-b": (False, True, None),
    "neither": (False, False, None),
}
"""Whether A and B show statics; whether a PSK that A offers is used, or none offered."""
AEADS = (1, 2, 0x10)
CIPHERS = ((1, 2, 0x10), (0x10, 0xFFFE, 2), (0x10,))


class Terms:
    """Shows what the case says and asks for nothing."""

    def __init__(self, static, version, psk=None, known=None):
        self.identity, self.versions, self.psk, self._known = static, (version,), psk, known

    def find_psk(self, hint):
        return self._known

    def judge(self, proof):
        pass


class SharedKey:
    name = "vector"

    def __init__(self, hint, key):
        self.hint, self.key = hint, Secret(key)


def kem_vectors():
    tests = json.loads((HERE / "wycheproof" / "mlkem768.json").read_text())["tests"]
    good = [t for t in tests if t.get("K") and "round 3" in t["comment"]]
    return itertools.cycle([(t["seed"], t["c"], t["K"]) for t in good])


def frames(parameters, master, script, offsets, names):
    keys = master.traffic_keys(parameters)
    made = []
    for who, data, fin in script:
        size = sealed_size(len(data), max(1, len(data)), parameters.tag_len, False)
        out = bytearray(size)
        sealer = parameters.sealer(keys.ab if who == "A" else keys.ba)
        sealer.seal(data, out, offsets[who], max(1, len(data)), False, fin, -1)
        made.append(
            {
                "sender": names[who],
                "generation": 0,
                "offset": offsets[who],
                "data": data.hex(),
                "frame": out.hex(),
                "fin": fin,
                "rekey": False,
                "urgent": None,
            }
        )
        offsets[who] += size
    return made, raw(keys.ab), raw(keys.ba)


def raw(secret):
    return bytes(secret.view())


def make(version, case, algorithm, turn, kem):
    name = f"v{version}-aead-{algorithm:04x}-{case}"
    shows_a, shows_b, psk_used = CASES[case]

    def octets(label, length):
        seed = f"tcpcrypt-authenticated-1/{name}/{label}"
        return hashlib.shake_256(seed.encode()).digest(length)

    parameters, ciphers = aead(algorithm), CIPHERS[AEADS.index(algorithm)]
    private = {side: octets(f"private_{side}", 32) for side in "ab"}
    ephemeral = {side: X25519.from_private(private[side]) for side in "ab"}
    static = {
        "a": octets("static_a", 32) if shows_a else b"",
        "b": octets("static_b", 32) if shows_b else b"",
    }
    identity = {side: Identity.from_private(key) if key else None for side, key in static.items()}
    psk = SharedKey(octets("hint", 8), octets("psk", 32)) if psk_used is not None else None
    fields = {
        "name": name,
        "version": version,
        "aead": algorithm,
        "ciphers": list(ciphers),
        "private_a": private["a"].hex(),
        "private_b": private["b"].hex(),
    }
    key_a, key_b, kem_secret = ephemeral["a"], ephemeral["b"], b""
    if version == 2:
        seed, ciphertext, secret = (bytes.fromhex(text) for text in next(kem))
        kem_secret = secret
        key_a = HybridInitiator.from_private(seed, private["a"])
        key_b = HybridResponder(ephemeral["b"], lambda _key: (secret, ciphertext))
        fields |= {
            "mlkem_seed_a": seed.hex(),
            "mlkem_ciphertext": ciphertext.hex(),
            "mlkem_secret": secret.hex(),
        }
    fields |= {f"static_{side}": key.hex() for side, key in static.items() if key}
    if psk is not None:
        fields |= {"psk": raw(psk.key).hex(), "psk_hint": psk.hint.hex()}
    fields["psk_used"] = bool(psk_used)

    own, plain = Suboption(0x20, b"TA" + bytes([version])), Suboption(0x23)
    aware = GLOBAL_A if turn % 4 == 3 else 0
    option_a = (
        SynOption((own,)),
        SynOption((plain, own)),
        SynOption((own, plain)),
        SynOption((own,), GLOBAL_A),
    )[turn % 4]
    eno_a, eno_b = option_a.build(), SynOption((own,), GLOBAL_B | aware).build()
    n_a, n_b = octets("n_a", 32), octets("n_b", 32)

    known = psk if psk_used else None
    a = AuthenticatedAgreement(Terms(identity["a"], version, psk), version, Role.A, ephemeral=key_a)
    b = AuthenticatedAgreement(
        Terms(identity["b"], version, known=known), version, Role.B, ephemeral=key_b
    )
    init1 = Init1(ciphers, n_a, a.public_key, a.init1_tail())
    message1 = init1.build()
    exchanged = Exchanged(eno_a + eno_b, algorithm, init1, message1)
    message2, prk = b.respond(
        exchanged, lambda tail: Init2(algorithm, n_b, b.public_key, tail).build()
    )
    part_a, part_b = ephemeral["a"].public, ephemeral["b"].public
    es_ephemeral = kem_secret + raw(X25519.from_private(private["a"]).agree(part_b))
    se = raw(identity["a"].agree(part_b)) if shows_a else Z
    es = raw(identity["b"].agree(part_a)) if shows_b else Z
    fields |= {
        "n_a": n_a.hex(),
        "n_b": n_b.hex(),
        "eno_a": eno_a.hex(),
        "eno_b": eno_b.hex(),
        "init1": message1.hex(),
        "init2": message2.hex(),
        "es_ephemeral": es_ephemeral.hex(),
        "se": se.hex(),
        "es": es.hex(),
    }
    if shows_b:
        i2a = message2[: -48 - 32]
        fields["k1"] = raw(extract(n_a, eno_a + eno_b, message1, i2a, es_ephemeral, se)).hex()
        fields["c_b"] = message2[-48 - 32 : -32].hex()
    fields |= {"v_b": message2[-32:].hex(), "prk": raw(prk).hex()}
    offsets = {"A": len(message1), "B": len(message2)}
    ss1 = session(fields, parameters, prk, offsets, octets("data", 40))
    fields["resumed"] = resume(parameters, version, ss1, "AB"[turn % 2], octets)
    return fields


def session(fields, parameters, prk, offsets, data):
    fields["mk0"] = raw(cprf(prk, b"\x03", 32)).hex()
    session_id, master, following = SessionSecret.from_prk(prk).use(0xA0, b"")
    script = (("A", b"", False), ("B", b"220 ready\r\n", False), ("A", data, True),
              ("B", b"", True))  # fmt: skip
    made, k_ab, k_ba = frames(parameters, master, script, offsets, {"A": "A", "B": "B"})
    fields |= {"session_id": session_id.hex(), "k_ab0": k_ab.hex(), "k_ba0": k_ba.hex()}
    fields |= {"frames": made, "resume1": b"".join(following.resume_ids()).hex()}
    ss1 = raw(following.take())
    fields["ss1"] = ss1.hex()
    return ss1


def resume(parameters, version, ss1, opener, octets):
    passive = "B" if opener == "A" else "A"
    secret = SessionSecret(Secret(ss1), 1)
    identifiers = dict(zip("AB", secret.resume_ids(), strict=True))
    nonces = {opener: octets("nonce of the opener", 5), passive: octets("nonce", 4)}
    data = {role: b"TA" + bytes([version]) + identifiers[role] + nonces[role] for role in "AB"}
    eno_opener = SynOption((Suboption(0x20, data[opener]),)).build()
    eno_passive = SynOption((Suboption(0x20, data[passive]),), GLOBAL_B).build()
    transcript = hashlib.sha256(eno_opener + eno_passive).digest()
    sn = nonces["A"] + nonces["B"] + transcript
    mk0 = raw(cprf(Secret(ss1), b"\x03" + sn, 32))
    session_id, master, _following = secret.use(0xA0, sn)
    names = {role: f"original {role}" for role in "AB"}
    script = ((opener, b"", False), (passive, b"", False), (passive, b"hello again", True),
              (opener, b"bye", True))  # fmt: skip
    made, k_ab, k_ba = frames(parameters, master, script, {"A": 0, "B": 0}, names)
    return {
        "opener": names[opener],
        "eno_opener": eno_opener.hex(),
        "eno_passive": eno_passive.hex(),
        "nonce_a": nonces["A"].hex(),
        "nonce_b": nonces["B"].hex(),
        "sn": sn.hex(),
        "session_id": session_id.hex(),
        "mk0": mk0.hex(),
        "k_ab0": k_ab.hex(),
        "k_ba0": k_ba.hex(),
        "frames": made,
    }


def document(version):
    kem = kem_vectors()
    # Version 2 differs in its ephemeral keys alone: there each case has one AEAD.
    pairs = [
        (case, algorithm)
        for number, case in enumerate(CASES)
        for algorithm in (AEADS if version == 1 else (AEADS[number % 3],))
    ]
    vectors = [
        make(version, case, algorithm, turn, kem) for turn, (case, algorithm) in enumerate(pairs)
    ]
    return {"format": "tcpcrypt-authenticated-1", "vectors": vectors}


if __name__ == "__main__":
    for number in (1, 2):
        path = HERE / f"authenticated-v{number}.json"
        path.write_text(json.dumps(document(number), indent=1) + "\n", encoding="ascii")
        print(path)
