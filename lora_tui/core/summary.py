"""The two lines every screen carries, worked out from the state: who, what runs, on what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lora_tui.core import words
from shared.wire import ClientInfo, DeviceUse, Run, RunProgress, Worker

Said = list[tuple[str, str]]  # texts with their tones

MOST_AT = 4  # things that several GPUs are at, for which the status line has room
_BUSY = ("training", "starting", "paused")


def active(runs: Sequence[Run]) -> Run | None:
    """The run that uses the engine now, or the next in the queue."""
    for states in (("training", "starting"), ("paused",), ("queued", "interrupted")):
        for run in runs:
            if run.state in states:
                return run
    return None


def more(runs: Sequence[Run]) -> Said:
    """How many runs are at work besides the one whose progress is told."""
    number = sum(run.state in ("training", "starting") for run in runs) - 1
    return [(f" · +{number}", "muted")] if number > 0 else []


def progress(run: Run, live: RunProgress | None) -> Said:
    """r0003 training 41 % · 3 412/8 330 · 41 it/s · eta 2:01"""
    said: Said = [(run.id, "bold"), (" ", "")]
    state = run.state
    tone = words.RUN_TONES[state]
    step, phase = run.step, run.phase
    if live is not None and live.run == run.id and state in _BUSY:
        step, phase = max(step, live.step), live.phase or phase
    word = phase if state in ("training", "starting") and phase else state
    said.append((word, tone))
    if phase in words.COUNTED and live is not None and live.total:
        said.append((f" {live.done}/{live.total} {words.COUNTED[phase]}", ""))
        return said
    if run.steps:
        said.append((f" {100 * step // run.steps} %", "bold" if state == "training" else ""))
    if run.gpus:
        said.append((f" · {words.gpus(run.gpus)}", "muted"))
    if state == "training" and live is not None and live.run == run.id:
        said.append((f" · {words.speed(live.speed)} · eta {words.duration(live.eta)}", "muted"))
    return said


def engine(worker: Worker | None, device: DeviceUse | None) -> Said:
    """What the engine computes on, and how full that is."""
    if device is None and worker is None:
        return []
    said: Said = []
    if worker is not None and worker.state == "failed":
        said.append(("engine failed ", "error"))
    if device is not None:
        if device.kind == "cuda":
            said.append((f"{device.name or 'GPU'} ", "muted"))
            said.append((f"{words.gib(device.used)}/{words.gib(device.total)} GiB", ""))
        else:
            said.append(("no GPU · RAM ", "muted"))
            said.append((f"{words.gib(device.used)}/{words.gib(device.total)} GiB", ""))
        if device.utilisation is not None:
            said.append((f" · {device.utilisation:.0f} % busy", "muted"))
        if device.temperature is not None:
            said.append((f" {device.temperature:.0f} °C", "muted"))
    elif worker is not None:
        said.append((worker.device_name or worker.device or "engine", "muted"))
    return said


def engines(workers: Sequence[Worker], devices: Sequence[DeviceUse]) -> Said:
    """What several GPUs are at: GPU 0 r0003 · 1,2 r0004 · 1 more free; and how full they are."""
    at: dict[str, list[str]] = {}
    for worker in workers:
        what = worker.run or ("" if worker.state in ("absent", "idle") else worker.state)
        at.setdefault(what, []).append(worker.gpu)
    free = len(at.pop("", []))
    said: Said = []
    for what, names in at.items():
        said += [("" if said else "GPU ", "muted"), (f"{words.gpu_names(names)} ", "muted"),
                 (what, "error" * (what == "failed")), (" · ", "muted")]  # fmt: skip
    if len(at) > MOST_AT:
        said = [(f"{len(workers) - free} of {len(workers)} GPUs at work · ", "muted")]
    elif free:
        said.append((f"{free} more free · " if at else f"{free} GPUs free · ", "muted"))
    used, total = sum(one.used for one in devices), sum(one.total for one in devices)
    return [*said, (f"{words.gib(used)}/{words.gib(total)} GiB", "")]


def others(clients: Sequence[ClientInfo], session: str) -> str:
    """Who else is attached: ada@laptop, bob@desk ×2."""
    names = Counter(
        client.name if "@" in client.name or not client.host else f"{client.name}@{client.host}"
        for client in clients
        if client.session != session
    )
    return ", ".join(times(name, number) for name, number in names.items())


def times(name: str, number: int) -> str:
    """A name that so many have: bob@desk ×2."""
    return f"{name} ×{number}" if number > 1 else name


def length(said: Said) -> int:
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in said)
