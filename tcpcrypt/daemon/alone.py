"""The daemon in one process, for tests and experiments.

What faces the network has CAP_NET_ADMIN here, and nobody takes the rules out
if it is killed.  `tcpcrypt.daemon.app` is the daemon for a real host.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tcpcrypt.daemon.app import Task, settings_of
from tcpcrypt.daemon.control import ControlServer, ControlSocket
from tcpcrypt.daemon.crew import open_installation
from tcpcrypt.daemon.keeper import Keeper
from tcpcrypt.daemon.metrics_server import open_metrics, serve_metrics
from tcpcrypt.runtime.context import Report
from tcpcrypt.runtime.host import Host
from tcpcrypt.runtime.privileges import DirectPrivileges
from tcpcrypt.runtime.status import StatusFile

__all__ = ["serve_alone"]


def serve_alone(task: Task, report: Report, status: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    `status` is a file that holds the state of the host.  Nothing is read
    again, and nobody is asked to confirm.  Raises `LocalError`.
    """
    ended_by: list[str] = []
    with contextlib.ExitStack() as stack:
        installation = open_installation(settings_of(task.configuration, task.key_log))
        stack.callback(installation.close)
        guard = task.configuration.daemon.guard == "keep"
        stack.callback(lambda: installation.remove(guard=guard))
        keeper = Keeper(task.configuration.daemon, report)
        stack.callback(keeper.flush)
        host = Host(
            installation.settings,
            report,
            steering=installation.steering,
            queue=installation.queue,
            segments=installation.segments,
            trust=keeper.load(task.configuration.policies, task.configuration.daemon),
            remember=keeper.take,
            privileges=DirectPrivileges(),
            maps=installation.maps,
        )
        keeper.attach(host.loop, lambda trust, _applied: host.trust(trust))
        stack.callback(host.close)

        def end(number: int, _frame: object) -> None:
            ended_by.append(signal.Signals(number).name)
            host.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        if task.control is not None:
            control = ControlSocket(task.control)
            stack.callback(control.close)
            server = ControlServer(
                host.loop,
                control.socket,
                host.overview,
                policies=lambda: host.settings.policies,
                report=report,
                trust_changed=keeper.look,
            )
            stack.callback(server.close)
            server.start()
        metrics = stack.enter_context(open_metrics(task.configuration.daemon.metrics))
        shown = serve_metrics(
            host.loop, metrics.socket if metrics is not None else None, host.overview, report
        )
        if shown is not None:
            stack.callback(shown.close)
        file = StatusFile(host, status) if status is not None else None
        if file is not None:
            file.start()
        host.start()
        installation.install()
        facts = {
            "policies": len(installation.settings.policies),
            "older_connections": len(installation.older),
        }
        report("started", {**facts, **keeper.identity(), "processes": 1})
        if not ended_by:
            host.run()
        host.end_segments()
        for connection in tuple(host.connections):
            connection.reset()
        if file is not None:
            with contextlib.suppress(OSError):
                file.write()
    report("ended", {"by": ",".join(ended_by)})
    return 0
