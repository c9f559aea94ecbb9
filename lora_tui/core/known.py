"""What the daemon has told: the journalled state and the latest live values."""

from __future__ import annotations

from lora_tui.core import summary, words
from lora_tui.core.summary import Said
from shared import wire


class Known:
    """No widget, no connection: the app feeds it, the screens read it."""

    def __init__(self) -> None:
        self.state = wire.State()
        self.progress: dict[str, wire.RunProgress] = {}
        self.devices: dict[str, wire.DeviceUse] = {}
        self.jobs: dict[str, wire.Job] = {}
        self.workers: dict[str, wire.Worker] = {}  # by the name of their GPU
        self.clients: list[wire.ClientInfo] = []
        self.status: wire.Status | None = None

    def take(self, value: wire.AnyLive) -> None:
        """A live value."""
        if isinstance(value, wire.RunProgress):
            self.progress[value.run] = value
        elif isinstance(value, wire.DeviceUse):
            self.devices[value.device] = value
        elif isinstance(value, wire.WorkerChanged):
            self.workers[value.worker.gpu] = value.worker
        elif isinstance(value, wire.JobChanged):
            self.jobs[value.job.id] = value.job
        elif isinstance(value, wire.Attached):
            self.clients = value.clients

    def take_status(self, status: wire.Status) -> None:
        """The daemon's own account of itself."""
        self.status = status
        self.workers = {one.gpu: one for one in status.workers or [status.worker]}
        self.clients = status.clients
        self.devices = {device.device: device for device in status.devices}
        self.jobs.update({job.id: job for job in status.jobs})

    def device(self, run: wire.Run | None = None) -> wire.DeviceUse | None:
        """The device whose memory is shown: the run's, if it has one to itself."""
        devices = list(self.devices.values())
        own = [one for one in devices if run is not None and one.gpu and one.gpu in run.gpus]
        return next(iter(own + devices), None)

    def name_of(self, session: str) -> str:
        """The name the daemon knows a session by."""
        return next((c.name for c in self.clients if c.session == session), "")

    def farewell(self) -> str:
        """What goes on when this client leaves."""
        lines = []
        going = [run for run in self.state.runs if run.state in ("training", "starting", "queued")]
        pid = f" (pid {self.status.pid})" if self.status is not None else ""
        if going:
            names = ", ".join(run.id for run in going)
            verb = "goes" if len(going) == 1 else "go"
            lines.append(f"{names} {verb} on in the daemon{pid}. Attach again with lora-tui.")
        running = [job.title for job in self.jobs.values() if job.state == "running"]
        if running:
            lines.append(f"Still under way in the daemon: {', '.join(running)}.")
        if not lines and self.status is not None:
            lines.append(
                f"The daemon{pid} stays; nothing is running. `lora-tui daemon stop` ends it."
            )
        return "\n".join(lines)

    def around(self, where: str, session: str, linked: bool) -> Said:
        """The status line's left part: the daemon's host, who else is there, jobs, warnings."""
        dot = ("● ", "success") if linked else ("○ ", "warning")
        said: Said = [dot, (where, "")]
        others = summary.others(self.clients, session)
        said.append((f" · with {others}" if others else " · only you", "" if others else "muted"))
        running = [job for job in self.jobs.values() if job.state in ("running", "paused")]
        for job in sorted(running, key=lambda job: job.state == "paused")[:1]:
            done = f" {words.share(job.done, job.total, job.kind)}" if job.total else ""
            done += " (paused)" * (job.state == "paused")
            said.append((f" · {job.title}{done}", "primary"))
        warnings = self.status.warnings if self.status is not None else []
        if warnings:
            more = f" (+{len(warnings) - 1})" if len(warnings) > 1 else ""
            said.append((f" · ⚠ {warnings[0]}{more}", "warning"))
        return said

    def engine(self) -> Said:
        """The status line's right part."""
        if len(self.workers) > 1:
            devices = [one for one in self.devices.values() if one.gpu]
            return summary.engines(list(self.workers.values()), devices)
        return summary.engine(next(iter(self.workers.values()), None), self.device())
