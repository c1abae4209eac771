"""The configuration file: what the daemon is to do, read and checked.

One TOML file; its keys are those of `tcpcrypt.daemon.keys` and no others.
Whatever is wrong with it, for any bytes, is a `ConfigurationError` that names
the file, the line and the key; all faults of a file are found in one reading.
"""

from __future__ import annotations

import difflib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import RELAY, SEGMENT, TCPS, FlowDirection, Match, Mode, Policy
from tcpcrypt.daemon.demands import contradictions, demands, effective_mode
from tcpcrypt.daemon.key_lines import KeyPath, Lines
from tcpcrypt.daemon.keys import (
    COMBINATIONS_MAX,
    KEYS,
    MATCH,
    POLICIES_MAX,
    SECTIONS,
    Key,
    keys_of,
)
from tcpcrypt.daemon.metrics_address import MetricsAddress
from tcpcrypt.daemon.toml_text import SIZE_MAX, TomlError, parse_toml
from tcpcrypt.daemon.values import NETWORKS_MAX, shown
from tcpcrypt.errors import LocalError

__all__ = [
    "DEFAULT_PATH",
    "SECRETS_PER_PEER",
    "Configuration",
    "ConfigurationError",
    "DaemonSettings",
    "Document",
    "Problem",
    "Setting",
    "load",
    "parse",
    "read_document",
    "read_file",
]

DEFAULT_PATH: Final = Path("/etc/tcpcrypt/tcpcrypt.toml")
SECRETS_PER_PEER: Final = 64
"""A browser opens dozens of connections at once, and many clients can share one
address.  The secret that a SYN asks for must not be pushed out before its ACK."""
_RANGES_A_RULE: Final = 7
"""Ranges of ports that one rule of the firewall takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """How the daemon runs; what each means stands in `tcpcrypt.daemon.keys`."""

    backend: str = "auto"
    steering: str = "auto"
    control: Path = Path("/run/tcpcrypt/control.sock")
    user: str = "tcpcrypt"
    """Where it does not exist, "nobody" takes its place."""
    families: tuple[int, ...] = ()
    """4, 6 or both; empty: those that this host has."""
    log: str = "auto"
    """"auto", "stderr", "journald" or the absolute path of a file."""
    keylog: Path | None = None
    metrics: MetricsAddress | None = None
    path_memory: float = 600.0
    """Seconds."""
    guard: str = "keep"
    drain: float = 0.0
    """Seconds."""
    state: Path = Path("/var/lib/tcpcrypt")
    tofu_enforce: bool = True


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a configuration file says."""

    daemon: DaemonSettings
    config: Config
    """For every connection, before its policy's demands (`Policy.configure`)."""
    policies: tuple[Policy, ...]
    """In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a file."""

    line: int
    """From 1; 0: the file as a whole."""
    key: str
    """Empty: none in particular."""
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigurationError(LocalError):
    """A configuration file is not what it should be."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        self.line = problems[0].line
        self.key = problems[0].key
        place = f"{source}:{self.line}" if self.line else source
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{place}: {problems[0]}{more}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key that a file gives."""

    line: int
    key: Key
    value: Any
    """As the key's kind read it."""
    policy: int | None
    """Index from 0 of the policy it belongs to."""


@dataclass(frozen=True, slots=True)
class Document:
    """What was found in a file, faults and all."""

    source: str
    settings: tuple[Setting, ...]
    """By line."""
    headers: tuple[tuple[int, str, int | None], ...]
    """Line, section and policy of each table."""
    problems: tuple[Problem, ...]
    configuration: Configuration | None
    """None: there are problems."""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """None where there are problems."""
        return self.configuration.policies if self.configuration else ()

    def policy_line(self, index: int) -> int:
        """Where the policy begins; 0: not known."""
        return min((line for line, _, policy in self.headers if policy == index), default=0)


def load(path: Path | str) -> Configuration:
    """Read the file at `path`.  Raises `ConfigurationError`."""
    return parse(read_file(path), str(path))


def parse(text: str | bytes, source: str = "configuration") -> Configuration:
    """Read `text`; `source` is its name in messages.  Raises `ConfigurationError`."""
    document = read_document(text, source)
    if document.configuration is None:
        raise ConfigurationError(source, document.problems)
    return document.configuration


def read_file(path: Path | str) -> bytes:
    """The bytes of a regular file of bounded size.  Raises `ConfigurationError`."""
    try:
        # Nonblocking, because a pipe without a writer would hold up the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigurationError(str(path), (Problem(0, "", "not a regular file"),))
            return file.read(SIZE_MAX + 1)
    except OSError as error:
        problem = Problem(0, "", error.strerror or str(error))
        raise ConfigurationError(str(path), (problem,)) from error
    except ValueError as error:  # a null byte
        raise ConfigurationError(repr(str(path)), (Problem(0, "", str(error)),)) from error


def read_document(text: str | bytes, source: str = "configuration") -> Document:
    """Read `text` as far as it can be read; never raises for what is in it."""
    try:
        values, lines = parse_toml(text)
    except TomlError as error:
        return Document(source, (), (), (Problem(error.line, "", str(error)),), None)
    return _Reader(source, lines).read(values)


@dataclass(slots=True)
class _Reader:
    """Goes through the values of one file and collects what it finds."""

    source: str
    lines: Lines
    settings: list[Setting] = field(default_factory=list)
    headers: list[tuple[int, str, int | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    combinations: int = 0

    def read(self, values: Mapping[str, Any]) -> Document:
        top = [section for section in SECTIONS if "." not in section]
        for name in values:
            if name not in top:
                self._unknown((name,), name, top)
        daemon = self._section("daemon", ("daemon",), values.get("daemon", {}))
        crypto = self._section("crypto", ("crypto",), values.get("crypto", {}))
        policies = tuple(self._policies(values.get("policy", [])))
        configuration = None
        if not self.problems:
            # Config checks what several keys say together, too.
            try:
                configuration = Configuration(DaemonSettings(**daemon), _config(crypto), policies)
            except LocalError as error:
                self._problem(("crypto",), "crypto", str(error))
            else:
                self._check_profiles(configuration)
        if self.problems:
            configuration = None
        return Document(
            self.source,
            tuple(sorted(self.settings, key=lambda setting: setting.line)),
            tuple(sorted(self.headers, key=lambda header: header[0])),
            tuple(sorted(self.problems, key=lambda problem: problem.line)),
            configuration,
        )

    def _problem(self, path: KeyPath, key: str, message: str) -> None:
        self.problems.append(Problem(self.lines.nearest(path), key, message))

    def _section(
        self, section: str, path: KeyPath, values: object, policy: int | None = None
    ) -> dict[str, Any]:
        """What the keys of one table say, by name; only what the file gives."""
        label = _label(section, policy)
        found: dict[str, Any] = {}
        if not isinstance(values, dict):
            self._problem(path, label.rstrip("., "), f"{shown(values)} is not a table of keys")
            return found
        if path in self.lines:
            self.headers.append((self.lines[path], section, policy))
        keys = keys_of(section)
        inner = [name.rpartition(".")[2] for name in SECTIONS if name.startswith(f"{section}.")]
        for name, value in values.items():
            here = (*path, name)
            if name in keys:
                try:
                    found[name] = keys[name].kind.read(value)
                except ValueError as error:
                    self._problem(here, label + name, str(error))
                    continue
                line = self.lines.nearest(here)
                self.settings.append(Setting(line, keys[name], found[name], policy))
            elif name not in inner:
                self._unknown(here, label + name, [*keys, *inner], section)
        for key in keys.values():
            if key.required and key.name not in values:
                self._problem(path, label + key.name, f"is missing: {key.kind.phrase}")
        return found

    def _unknown(self, path: KeyPath, label: str, known: list[str], section: str = "") -> None:
        name = str(path[-1])
        elsewhere = [key.section for key in KEYS if key.name == name and key.section != section]
        near = difflib.get_close_matches(name[:100], known, 1)
        if elsewhere:
            message = f"no such key here; it belongs in {_written(elsewhere[0])}"
        else:
            message = f"no such {'key' if section else 'section'}"
            if near:
                message += f'; did you mean "{near[0]}"?'
            elif known:
                message += f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"
        self._problem(path, _clean(label), message)

    def _policies(self, values: object) -> Iterator[Policy]:
        if not isinstance(values, list):
            wrong = "write [[policy]], with two brackets" if isinstance(values, dict) else ""
            self._problem(("policy",), "policy", wrong or f"{shown(values)} is no policy")
            return
        if len(values) > POLICIES_MAX:
            self._problem(
                ("policy", POLICIES_MAX),
                "policy",
                f"{len(values)} policies; {POLICIES_MAX} are the most",
            )
        for index, value in enumerate(values[:POLICIES_MAX]):
            policy = self._policy(index, value)
            if policy is not None:
                yield policy

    def _check_profiles(self, configuration: Configuration) -> None:
        """What [crypto] lists has to be of use in every dialect that a policy allows."""
        last = 0
        inner: tuple[str, ...] = ()
        for index, policy in enumerate(configuration.policies):
            # As their rules do.
            place = 0 if policy.profile == TCPS else 1 if policy.plane == SEGMENT else 2
            if place < last:
                name, those = [
                    ("profile", f'"{TCPS}" have to stand before all others'),
                    ("plane", f'"{SEGMENT}" have to stand before those with "{RELAY}"'),
                ][place]
                self._problem(
                    ("policy", index, name),
                    _label("policy", index) + name,
                    f"policies with {those}",
                )
            last = max(last, place)
            inner = inner or policy.match.inner
            if policy.match.inner and set(policy.match.inner) != set(inner):
                self._problem(
                    ("policy", index, "match", "inner"),
                    _label(MATCH, index) + "inner",
                    f"names other interfaces than an earlier policy, {', '.join(inner)}: a gateway"
                    " has one inner side",
                )
            try:
                for profile in policy.profiles:
                    policy.configure(configuration.config, profile)
            except LocalError as error:
                path: KeyPath = ("policy", index, "profile")
                self._problem(path, _label("policy", index) + "profile", str(error))

    def _count(self, index: int, match: Mapping[str, Any]) -> None:
        """The firewall says "or" by one rule for each combination of conditions."""
        before = self.combinations
        names = ("local", "remote", "uid", "cgroup", "inner")
        alternatives = [len(match.get(name, ())) for name in names]
        alternatives.append(math.ceil(len(match.get("ports", ())) / _RANGES_A_RULE))
        self.combinations += math.prod(max(1, number) for number in alternatives)
        if before <= COMBINATIONS_MAX < self.combinations:
            self._problem(
                ("policy", index, "match"),
                _label(MATCH, index).rstrip("."),
                f"the policies up to here name {self.combinations} combinations of addresses,"
                f" ports, users and control groups; {COMBINATIONS_MAX} are the most",
            )

    def _check_packets(
        self, index: int, found: Mapping[str, Any], match: Mapping[str, Any], key: str
    ) -> None:
        """`key` has it go by packets, of which every one tells the same."""
        path: KeyPath = ("policy", index)
        for name in ("uid", "cgroup"):
            if name in match:
                self._problem(
                    (*path, "match", name),
                    _label(MATCH, index) + name,
                    f'goes by packets that have no owner with `{key}` = "{found[key]}"',
                )
        if "ports" not in match and found.get("mode") != Mode.NEVER.value:
            self._problem(
                (*path, key),
                _label("policy", index) + key,
                f'"{found[key]}" needs `match.ports`: it goes by packets, and has to tell services'
                " by them",
            )

    def _policy(self, index: int, value: object) -> Policy | None:
        path: KeyPath = ("policy", index)
        before = len(self.problems)
        found = self._section("policy", path, value, index)
        conditions = value.get("match", {}) if isinstance(value, dict) else {}
        match = self._section(MATCH, (*path, "match"), conditions, index)
        if len(match.get("local", ())) + len(match.get("remote", ())) > NETWORKS_MAX:
            self._problem(
                (*path, "match"),
                _label(MATCH, index).rstrip("."),
                f"more than {NETWORKS_MAX} networks in one policy",
            )
        self._count(index, match)
        for name, message in contradictions(found) if len(self.problems) == before else ():
            self._problem((*path, name), _label("policy", index) + name, message)
        direction = match.get("direction", "both")
        for name in ("uid", "cgroup"):
            if name in match and direction == "incoming":
                self._problem(
                    (*path, "match", name),
                    _label(MATCH, index) + name,
                    "tells who opens a connection here; with direction"
                    ' "incoming" it could never match',
                )
        if "inner" in match and found.get("plane") != SEGMENT:
            self._problem(
                (*path, "match", "inner"),
                _label(MATCH, index) + "inner",
                'is for connections that this host forwards, which takes `plane` = "segment"',
            )
        for key, word in (("profile", TCPS), ("plane", SEGMENT)):
            if found.get(key) == word:
                self._check_packets(index, found, match, key)
        if len(self.problems) > before:
            return None
        if "uid" in match or "cgroup" in match:
            direction = "outgoing"
        return Policy(
            effective_mode(found),
            Match(
                direction=None if direction == "both" else FlowDirection(direction),
                local=match.get("local", ()),
                remote=match.get("remote", ()),
                ports=match.get("ports", ()),
                uids=match.get("uid", ()),
                cgroups=match.get("cgroup", ()),
                inner=match.get("inner", ()),
            ),
            **demands(found),
        )


def _config(crypto: Mapping[str, Any]) -> Config:
    """What [crypto] says.  Raises `LocalError`."""
    resumption = crypto.get("resumption", True)
    chosen = {name: crypto[name] for name in ("teps", "aeads") if name in crypto}
    return Config(
        **chosen,
        resume=resumption,
        cache=resumption,
        cache_per_peer=SECRETS_PER_PEER,
        rekey_after_bytes=crypto.get("rekey"),
    )


def _label(section: str, policy: int | None) -> str:
    """How the keys of a section are called in messages, up to their own names."""
    if policy is None:
        return f"{section}."
    return f"policy {policy + 1}, " + ("match." if section == MATCH else "")


def _written(section: str) -> str:
    """The section as one writes it in the file."""
    return {"policy": "[[policy]]", MATCH: "`match` of a [[policy]]"}.get(section, f"[{section}]")


def _clean(name: str) -> str:
    """A name of the file's own for a terminal: nothing that could move its cursor."""
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 100 else printable[:97] + "..."
