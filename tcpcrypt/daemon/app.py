"""The daemon as a whole, seen from its root parent.

    tcpcryptd (root)        sockets, queues, rules; answers the worker's few requests
      |-- tcpcrypt-worker   no privileges; everything that peers and applications send
      `-- tcpcrypt-janit    takes the rules out should the parent be killed

The rules come last and go first: before them everything that serves a
connection is there, and after them nobody needs it.  A worker that ends by
itself has not done so on purpose: its connections are reset by the kernel, so
the parent takes out the rules (those that refuse what `require` names stay)
and ends with status 1, for the service manager to start it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tcpcrypt.auth.learned import Learned
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.daemon import configuration
from tcpcrypt.daemon.configuration import Configuration
from tcpcrypt.daemon.confinement import (
    Capability,
    bound,
    find_account,
    open_descriptors,
    without_core_dumps,
)
from tcpcrypt.daemon.control import ControlSocket
from tcpcrypt.daemon.crew import Crew, open_installation
from tcpcrypt.daemon.keeper import Keeper
from tcpcrypt.daemon.metrics_server import open_metrics
from tcpcrypt.daemon.metrics_socket import MetricsSocket
from tcpcrypt.daemon.notify import ServiceManager, Watchdog
from tcpcrypt.daemon.process import Process, fork
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report, Settings
from tcpcrypt.runtime.host import raise_descriptor_limit
from tcpcrypt.runtime.installation import Installation
from tcpcrypt.runtime.loop import READ, Loop

__all__ = ["Task", "serve", "settings_of"]

_CAPABILITIES: Final = (
    Capability.NET_ADMIN,
    Capability.NET_RAW,
    Capability.KILL,
)
_START_PATIENCE: Final = 10.0
"""Seconds that the worker has until it is ready."""
_END_PATIENCE: Final = 20.0
"""Seconds that the end takes at most, with a worker that hangs."""
_LOOK_AFTER: Final = 10.0
"""Seconds between two looks whether the rules are as they were."""
_LOOKED: Final = 100
"""Exit status that says that no rule is missing; those of errors are below."""
_MISSING_MAX: Final = 100
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AT_START: Final = (
    "backend",
    "steering",
    "control",
    "user",
    "families",
    "log",
    "keylog",
    "metrics",
    "state",
)
"""Keys of [daemon] that a reload does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to serve, and how."""

    configuration: Configuration
    source: Path | None = None
    """The file to read again on SIGHUP."""
    control: Path | None = None
    """Where the control socket is to be; None: there is none."""
    backend: str | None = None
    """What the command line says of the backend, whatever the file does."""
    confirm: float = 0.0
    """Seconds within which somebody has to confirm; 0: nobody has to."""
    key_log: KeyLog | None = None
    """Takes the secret of each session."""

    def overridden(self, found: Configuration) -> Configuration:
        """A configuration as the command line has it."""
        if self.backend is None:
            return found
        return replace(found, daemon=replace(found.daemon, backend=self.backend))


def serve(task: Task, report: Report) -> int:
    """Serve until a signal; returns the exit status.  Raises `LocalError` if it cannot start.

    Descriptors that are open now, as those of the log, stay so in all processes.
    """
    without_core_dumps()
    # Its own need few; but those under way between processes are held to this, too.
    raise_descriptor_limit()
    log = open_descriptors()
    with contextlib.ExitStack() as stack:
        loop = Loop()
        stack.callback(loop.close)
        installation = open_installation(settings_of(task.configuration, task.key_log))
        stack.callback(installation.close)
        control = None
        if task.control is not None:
            control = ControlSocket(task.control)
            stack.callback(control.close)
        metrics = stack.enter_context(open_metrics(task.configuration.daemon.metrics))
        daemon = _Daemon(task, report, loop, installation)
        stack.enter_context(_signals(loop, daemon.on_signal))
        return daemon.run(control, metrics, log)


def settings_of(found: Configuration, key_log: KeyLog | None = None) -> Settings:
    """What the runtime is to do."""
    here = (4, 6) if Path("/proc/net/if_inet6").exists() else (4,)
    return Settings(
        policies=found.policies,
        config=found.config,
        families=found.daemon.families or here,
        backend=found.daemon.backend,
        path_memory=found.daemon.path_memory,
        key_log=key_log,
    )


@contextlib.contextmanager
def _signals(loop: Loop, take: Callable[[int], None]) -> Any:
    """Have `take` called in the loop for each signal that comes."""
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    came: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        came.append(number)
        os.eventfd_write(wake, 1)

    def on_wake(_events: int) -> None:
        os.eventfd_read(wake)
        while came:
            take(came.pop(0))

    loop.watch(wake, READ, on_wake)
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        loop.forget(wake)
        os.close(wake)


class _Daemon:
    def __init__(self, task: Task, report: Report, loop: Loop, installation: Installation) -> None:
        self._task = task
        self._report = report
        self._loop = loop
        self._installation = installation
        self._configuration = task.configuration
        self._manager = ServiceManager()
        self._watchdog: Watchdog | None = None
        self._ready = False
        self._drained = False
        self._confirmed = not task.confirm
        self._reloading: Configuration | None = None
        self._ended_by: list[str] = []
        self._status = 0
        self._look: Process | None = None
        self._keeper = Keeper(task.configuration.daemon, report)

    def run(
        self, control: ControlSocket | None, metrics: MetricsSocket | None, log: Collection[int]
    ) -> int:
        daemon = self._configuration.daemon
        account = find_account(daemon.user)
        crew = self._crew = Crew(
            self._loop,
            self._installation,
            account,
            self._report,
            trust=self._keeper.load(self._configuration.policies, daemon),
            control=control,
            metrics=metrics,
            confirming=bool(self._task.confirm),
            log=log,
            heard=self._heard,
            deserted=self._on_deserted,
        )
        try:
            bound(_CAPABILITIES)
            self._wait_for_worker()
            crew.appoint_janitor(self._undo)
            self._installation.install()
            self._appoint()
            self._begin(account.name if account is not None else "")
            while not self._ended_by:
                self._loop.step()
            self._drain()
        except LocalError as error:
            if self._status:  # the worker's end came first, and says more
                self._report("failed", {"reason": str(error)})
            else:
                raise
        finally:
            self._end()
        self._report("ended", {"by": ",".join(self._ended_by)})
        return self._status

    def on_signal(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._stop(signal.Signals(number).name)
        elif self._watchdog is not None and not self._ended_by:
            self._reload()

    def _stop(self, why: str, status: int = 0) -> None:
        self._ended_by.append(why)
        self._status = max(self._status, status)

    # --- the start -----------------------------------------------------------------------

    def _wait_for_worker(self) -> None:
        end = time.monotonic() + _START_PATIENCE
        while not self._ready:
            if self._status or time.monotonic() > end:
                raise LocalError("the worker did not start")
            self._loop.step(0.5)

    def _undo(self) -> None:
        """For the janitor, should this process die while rules are being installed."""
        try:
            self._installation.install()  # what is there in part, it knows as a whole then
        finally:
            self._installation.remove(guard=self._confirmed)

    def _appoint(self) -> None:
        guard = self._confirmed  # as long as nobody has confirmed, nothing may stay
        self._crew.appoint_janitor(lambda: self._installation.remove(guard=guard))

    def _begin(self, user: str) -> None:
        self._report(
            "started",
            {
                "policies": len(self._installation.settings.policies),
                "older_connections": len(self._installation.older),
                "worker": self._crew.worker,
                **self._keeper.identity(),
                "user": user or "root of a user namespace that has no other, without capabilities",
            },
        )
        self._keeper.attach(
            self._loop, self._crew.give, lambda number: self._crew.say("remembered", number)
        )
        self._watchdog = Watchdog(self._loop, self._manager)
        self._tell_ready()
        self._loop.call_later(_LOOK_AFTER, self._look_after)
        if self._task.confirm:
            self._loop.call_later(self._task.confirm, self._on_unconfirmed)

    def _tell_ready(self) -> None:
        count = len(self._installation.settings.policies)
        self._manager.ready(f"serving by {count} {'policy' if count == 1 else 'policies'}")

    # --- what comes ------------------------------------------------------------------------

    def _heard(self, verb: str, value: Any) -> None:
        if verb == "ready":
            self._ready = True
        elif verb == "alive" and self._watchdog is not None:
            self._watchdog.answered()
        elif verb == "confirmed" and not self._confirmed:
            self._confirmed = True
            self._report("confirmed", {})
            self._appoint()
        elif verb == "reloaded" and self._reloading is not None:
            self._finish_reload(self._reloading)
        elif verb == "reload_failed" and self._reloading is not None:
            self._keep_old(str(value))
        elif verb == "drained":
            self._drained = True
        elif verb == "learned":
            self._keeper.take(Learned.from_json(value))
        elif verb == "trust_changed":
            self._keeper.look()

    def _on_deserted(self, how: str) -> None:
        self._report("failed", {"reason": how})
        self._stop("worker", 1)

    def _on_unconfirmed(self) -> None:
        if not self._confirmed:
            self._report("unconfirmed", {"seconds": self._task.confirm})
            self._stop("unconfirmed", 1)

    def _look_after(self) -> None:
        """See whether somebody else has changed our rules.

        In a process of its own: where there are many rules of others it takes
        long, and the worker may want sockets meanwhile.
        """
        if self._ended_by:
            return
        installation = self._installation
        self._look = fork(lambda: _LOOKED + min(installation.missing(), _MISSING_MAX))
        self._loop.watch(self._look.fileno(), READ, self._on_looked)

    def _on_looked(self, _events: int) -> None:
        missing = (self._forget_look() or 0) - _LOOKED
        self._loop.call_later(_LOOK_AFTER, self._look_after)
        if not missing or self._ended_by or self._reloading is not None:
            return
        try:
            if missing < 0:
                raise LocalError("there is no telling whether they are as they were")
            self._installation.restore()
            self._report("restored", {"rules": missing})
        except LocalError as error:
            self._report("failed", {"reason": f"rules cannot be looked after: {error}"})

    def _forget_look(self) -> int | None:
        look, self._look = self._look, None
        if look is None:
            return None
        self._loop.forget(look.fileno())
        status = look.wait(0)
        if status is None:
            look.kill()
            look.wait(_END_PATIENCE)
        look.close()
        return status

    # --- reload ----------------------------------------------------------------------------

    def _reload(self) -> None:
        source = self._task.source
        if source is None or self._reloading is not None:
            return
        self._manager.reloading()
        try:
            text = configuration.read_file(source)
            found = self._task.overridden(configuration.parse(text, str(source)))
            self._installation.rehearse(found.policies)
            trust = self._keeper.load(found.policies, found.daemon)
            if trust is not None:
                self._crew.give(trust, self._keeper.applied)
            self._crew.say_reload(text.decode())
        except LocalError as error:
            self._keep_old(str(error))
        else:
            self._reloading = found

    def _keep_old(self, reason: str) -> None:
        self._reloading = None
        self._report("reload_failed", {"reason": reason, "kept": "what was in force"})
        self._tell_ready()

    def _finish_reload(self, found: Configuration) -> None:
        """The worker knows the new policies; now the kernel may."""
        self._reloading = None
        self._forget_look()
        try:
            self._installation.update(found.policies)
        except LocalError as error:
            self._report("failed", {"reason": f"reload: {error}"})
            self._stop("reload", 1)
            return
        before, self._configuration = self._configuration.daemon, found
        self._appoint()
        facts: dict[str, object] = {"policies": len(found.policies)}
        other = [n for n in _AT_START if getattr(before, n) != getattr(found.daemon, n)]
        if other:
            facts["restart_to_change"] = ",".join(other)
        self._report("reloaded", facts)
        self._tell_ready()

    # --- the end -----------------------------------------------------------------------------

    def _drain(self) -> None:
        """Let live connections go on for a while; no new ones come.  A second signal ends it."""
        seconds = self._configuration.daemon.drain
        if self._status or not seconds:
            return
        self._manager.stopping("waiting for connections to end")
        self._manager.extend(seconds + _END_PATIENCE)
        self._installation.drain()
        self._report("draining", {"seconds": seconds})
        self._crew.say("drain")
        end = time.monotonic() + seconds
        while not self._drained and len(self._ended_by) == 1 and not self._status:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._loop.step(left)

    def _end(self) -> None:
        """In this order: applications see a reset, then the rules for them go."""
        self._manager.stopping("ending")
        self._manager.extend(_END_PATIENCE)
        if self._watchdog is not None:
            self._watchdog.close()
        self._forget_look()
        fell = self._crew.end_worker() != 0
        self._keeper.flush()
        guard = self._confirmed and (fell or self._configuration.daemon.guard == "keep")
        try:
            self._installation.remove(guard=guard)
        except LocalError as error:
            # The janitor, who was not dismissed, tries it again.
            self._report("failed", {"reason": f"rules cannot be taken out: {error}"})
            self._status = 1
        else:
            self._crew.dismiss_janitor()
        self._manager.close()
