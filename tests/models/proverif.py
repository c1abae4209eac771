"""TEP 0x20 for any number of sessions: `tep.pv`, by ProVerif.

    python tests/models/proverif.py                         all runs, with `proverif` of PATH
    python tests/models/proverif.py --program ~/proverif    with that one
    python tests/models/proverif.py "no proof of B"         one run

Each run sets the switches of the model, asks its queries and compares what ProVerif says
with what is expected here: what docs/authenticated-tep.md claims is proved, and for a
model that leaves a part out an attack is found.  ProVerif is in no registry of packages, so that no
test of every day runs this; docs/assurance.md has what came of it.

Exit status: 0 if all is as expected, 1 if not, 2 for usage or if there is no ProVerif.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path(__file__).with_name("tep.pv")
SECONDS = 1800
SWITCHES = {
    "a_shows": "letfun a_shows = true.",
    "b_shows": "letfun b_shows = true.",
    "bound": "letfun bound(t: bitstring, m1: bitstring, m2: bitstring) = (t, m1, m2).",
    "in_k1": "letfun in_k1(x: point) = x.",
    "below_se": "letfun below_se(x: point) = x.",
    "below_es": "letfun below_es(x: point) = x.",
    "proved": "letfun proved(x: bitstring, y: bitstring) = (x = y).",
    "in_sn": "letfun in_sn(t: bitstring) = t.",
    "uses": "letfun uses(psk: key) = NONE.",
}
HOSTS = "process !host | !shared"
SAME = "a, b, p, t, m, i, k"
TYPES = "p: bitstring, t: bitstring, m: bitstring, i: bitstring, k: key, x: time, y: time"

B_IS_B = f"""query a: bitstring, b: point, {TYPES};
  event(Honest(b)) && inj-event(ProvedB(a, named(b), p, t, m, i, k))@x
    ==> inj-event(Answered(a, named(b), p, t, m, i, k)) || (event(Leaked(b))@y && y < x)."""
A_IS_A = f"""query a: point, b: bitstring, {TYPES};
  event(Honest(a)) && inj-event(ProvedA(named(a), b, p, t, m, i, k))@x
    ==> inj-event(ProvedB(named(a), b, p, t, m, i, k)) || (event(Leaked(a))@y && y < x)."""
ONLY_B_READS = """query a: bitstring, b: point, p: bitstring, d: bitstring, x: time, y: time;
  event(Honest(b)) && event(SecretOfA(a, named(b), p, d))@x && attacker(d)
    ==> event(Leaked(b))@y && y < x."""
ONLY_A_READS = """query a: point, b: bitstring, p: bitstring, d: bitstring, x: time, y: time;
  event(Honest(a)) && event(SecretOfB(named(a), b, p, d))@x && attacker(d)
    ==> event(Leaked(a))@y && y < x."""
OF_A = """query a: point, b: bitstring, p: bitstring, d: bitstring, x: time, y: time;
  event(Honest(a)) && event(TookOfA(named(a), b, p, d))@x
    ==> event(SecretOfA(named(a), b, p, d)) || (event(Leaked(a))@y && y < x)."""
OF_B = """query a: bitstring, b: point, p: bitstring, d: bitstring, x: time, y: time;
  event(Honest(b)) && event(TookOfB(a, named(b), p, d))@x
    ==> event(SecretOfB(a, named(b), p, d)) || (event(Leaked(b))@y && y < x)."""
NEVER_BOTH = """query a: point, b: point, p: bitstring, d: bitstring;
  event(Honest(a)) && event(Honest(b)) && event(TookOfB(named(a), named(b), p, d))."""
NEVER_NX = """query b: point, p: bitstring, d: bitstring;
  event(Honest(b)) && event(TookOfB(NONE, named(b), p, d))."""
NEVER_IN = """query a: point, p: bitstring, d: bitstring;
  event(Honest(a)) && event(TookOfB(named(a), NONE, p, d))."""
WITH_PSK = "a: bitstring, b: bitstring, q: key, t: bitstring, m: bitstring, i: bitstring"
PSK_OF_B = f"""query {WITH_PSK}, k: key, x: time, y: time;
  inj-event(ProvedB(a, b, raw(q), t, m, i, k))@x
    ==> inj-event(Answered(a, b, raw(q), t, m, i, k)) || (event(PskLeaked(q))@y && y < x)."""
PSK_OF_A = f"""query {WITH_PSK}, k: key, x: time, y: time;
  inj-event(ProvedA(a, b, raw(q), t, m, i, k))@x
    ==> inj-event(ProvedB(a, b, raw(q), t, m, i, k)) || (event(PskLeaked(q))@y && y < x)."""
PSK_SECRET_OF_A = """query a: bitstring, b: bitstring, q: key, d: bitstring, x: time, y: time;
  event(SecretOfA(a, b, raw(q), d))@x && attacker(d) ==> event(PskLeaked(q))@y && y < x."""
PSK_SECRET_OF_B = """query a: bitstring, b: bitstring, q: key, d: bitstring, x: time, y: time;
  event(SecretOfB(a, b, raw(q), d))@x && attacker(d) ==> event(PskLeaked(q))@y && y < x."""
NAMES_B = "query attacker(pow(base, b0))."
NAMES_B_BY_A = "query attacker(pow(base, b0)) ==> event(Leaked(pow(base, a0)))."
RESUMED = "a: point, b: point, k: key, t: bitstring, x: time, y: time"
OPENER_IS_OPENER = f"""query {RESUMED};
  event(Honest(a)) && event(Honest(b)) && inj-event(OpenerProved(a, b, k, t))@x
    ==> inj-event(Opened(a, b, k, t)) || (event(SsLeaked(k))@y && y < x)."""
LISTENER_IS_LISTENER = f"""query {RESUMED};
  event(Honest(a)) && event(Honest(b)) && inj-event(ListenerProved(a, b, k, t))@x
    ==> inj-event(Listened(a, b, k, t)) || (event(SsLeaked(k))@y && y < x)."""
ONLY_LISTENER_READS = """query a: point, b: point, k: key, d: bitstring;
  event(SecretOfOpener(a, b, k, d)) && attacker(d) ==> event(SsLeaked(k))."""
ONLY_OPENER_READS = """query a: point, b: point, k: key, d: bitstring;
  event(SecretOfListener(a, b, k, d)) && attacker(d) ==> event(SsLeaked(k))."""
NEVER_RESUMED = f"query {RESUMED}; event(ListenerProved(a, b, k, t))."
IN_THE_MIDDLE = """query v: bitstring, sid: key, d: bitstring;
  event(PlainA(v, sid, d)) && attacker(d)."""
SAME_ID_READS_A = """query v: bitstring, sid: key, d: bitstring, d2: bitstring;
  event(PlainA(v, sid, d)) && event(PlainB(sid, d2)) && attacker(d)."""
SAME_ID_READS_B = """query v: bitstring, sid: key, d: bitstring, d2: bitstring;
  event(PlainA(v, sid, d)) && event(PlainB(sid, d2)) && attacker(d2)."""
SUBOPTION_REMOVED = """query sid: key, d: bitstring, d2: bitstring;
  event(PlainA(V1_OR_PLAIN, sid, d)) && event(PlainB(sid, d2))."""
NEVER_PLAIN = """query v: bitstring, sid: key, d: bitstring, d2: bitstring;
  event(PlainA(v, sid, d)) && event(PlainB(sid, d2))."""
RESUMING = "process !resuming | !kept"
IN_CLEAR = "process !plain_initiator | !plain_responder"
UNBOUND = "letfun bound(t: bitstring, m1: bitstring, m2: bitstring) = (m1, m2)."


@dataclass(frozen=True)
class Run:
    """Queries, each with what has to come of it, of a model with some switches set otherwise."""

    queries: tuple[tuple[str, bool], ...]
    switches: dict[str, str] = field(default_factory=dict)
    process: str = HOSTS

    def text(self) -> str:
        switches = "\n".join((SWITCHES | self.switches).values())
        asked = "\n".join(query for query, _ in self.queries)
        model = MODEL.read_text().replace("(* SWITCHES *)", switches)
        return model.replace("(* QUERIES *)", f"{asked}\n\n{self.process}")


RUNS = {
    "both show keys": Run(
        (
            (B_IS_B, True),
            (A_IS_A, True),
            (ONLY_B_READS, True),
            (ONLY_A_READS, True),
            (OF_A, True),
            (OF_B, True),
            (NEVER_BOTH, False),
        )
    ),
    "A shows no key": Run(
        ((B_IS_B, True), (ONLY_B_READS, True), (OF_B, True), (NEVER_NX, False)),
        {"a_shows": "letfun a_shows = false."},
    ),
    "B shows no key": Run(
        ((A_IS_A, True), (ONLY_A_READS, True), (OF_A, True), (NEVER_IN, False)),
        {"b_shows": "letfun b_shows = false."},
    ),
    "a pre-shared key, whoever has the static ones": Run(
        (
            (PSK_OF_B, True),
            (PSK_OF_A, True),
            (PSK_SECRET_OF_A, True),
            (PSK_SECRET_OF_B, True),
        ),
        {"uses": "letfun uses(psk: key) = raw(psk)."},
    ),
    "no V_B": Run(
        ((B_IS_B, False),),
        {"proved": "letfun proved(x: bitstring, y: bitstring) = true."},
    ),
    "se not in PRK": Run(((A_IS_A, False),), {"below_se": "letfun below_se(x: point) = base."}),
    "es not in PRK": Run(((B_IS_B, False),), {"below_es": "letfun below_es(x: point) = base."}),
    "options not in the keys": Run(
        ((B_IS_B, False),),
        {"bound": UNBOUND},
    ),
    "who reads S_B": Run(((NAMES_B, True),), process="process hidden"),
    "who reads S_B, if se is not in K1": Run(
        ((NAMES_B, False),), {"in_k1": "letfun in_k1(x: point) = base."}, "process hidden"
    ),
    "who reads S_B, if S_A is stolen": Run(
        ((NAMES_B, False), (NAMES_B_BY_A, True)), process="process hidden_until_a0_is_stolen"
    ),
    "resumption": Run(
        (
            (OPENER_IS_OPENER, True),
            (LISTENER_IS_LISTENER, True),
            (ONLY_LISTENER_READS, True),
            (ONLY_OPENER_READS, True),
            (NEVER_RESUMED, False),
        ),
        process=RESUMING,
    ),
    "resumption, options not in sn": Run(
        ((OPENER_IS_OPENER, False),), {"in_sn": "letfun in_sn(t: bitstring) = NONE."}, RESUMING
    ),
    "plain tcpcrypt": Run(
        (
            (IN_THE_MIDDLE, False),
            (SAME_ID_READS_A, True),
            (SAME_ID_READS_B, True),
            (SUBOPTION_REMOVED, True),
            (NEVER_PLAIN, False),
        ),
        process=IN_CLEAR,
    ),
    "plain tcpcrypt, options not in the keys": Run(
        ((SUBOPTION_REMOVED, False),), {"bound": UNBOUND}, IN_CLEAR
    ),
}


def verdicts(said: str) -> list[str]:
    """`true`, `false` or `cannot be proved`, in the order of the queries."""
    said = said.partition("Verification summary:")[2]
    return re.findall(r"^Query .* (?:is )?(true|false|cannot be proved)\.$", said, re.MULTILINE)


def ask(program: str, run: Run, keep: Path) -> list[str]:
    file = keep / "run.pv"
    file.write_text(run.text())
    done = subprocess.run(
        [program, str(file)], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    (keep / "said").write_text(done.stdout + done.stderr)
    return verdicts(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="RUN", help="of these: " + ", ".join(RUNS))
    parser.add_argument("--program", default="proverif", help="ProVerif 2.05 or later")
    options = parser.parse_args()
    program = shutil.which(options.program)
    if program is None:
        parser.error(f"there is no {options.program} here; --program says where ProVerif is")
    if unknown := set(options.names) - set(RUNS):
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    wrong = 0
    for name in options.names or RUNS:
        run = RUNS[name]
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            said = ask(program, run, Path(folder))
            if not said:
                print((Path(folder) / "said").read_text()[-2000:])
        expected = ["true" if holds else "false" for _, holds in run.queries]
        wrong += said != expected
        print(
            f"{'ok ' if said == expected else 'BAD'} {name}: "
            f"{said.count('true')} proved, {said.count('false')} attacks "
            f"({time.monotonic() - began:.0f} s)" + ("" if said == expected else f" {said}"),
            flush=True,
        )
    print(f"{sum(len(RUNS[n].queries) for n in options.names or RUNS)} queries")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
