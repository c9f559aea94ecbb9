"""A worker that behaves as it is told, over the real pipe: ``fake_worker.py --fd N``.

``FAKE_WORKER`` says how: "die" at any order; "die once" (with the file FAKE_MARK as its memory);
"obey" paints, trains, captions and probes nothing, but reports as if it had: a picture whose name
has "torn" in it cannot be read, and "slow", as a name or a prompt, waits for its job to be
cancelled. "hold" does so too, but for the first picture of more than 6 steps, which it gives up
when told to. FAKE_LOG, a file, gets a line for each picture begun and given up: its seed and steps;
for each order to measure; and for each run the devices that its processes are to have. The device
is called as CUDA_VISIBLE_DEVICES has it. "deaf" measures the bare base, and no LoRA before the file
FAKE_MARK is there.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sys
from pathlib import Path

from lora_daemon import pipe
from shared.errors import Code, Failure
from shared.pictures import LoraUse
from shared.safetensors_file import write

PNG = base64.b64decode(  # 8 × 8 px, grey
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR4nGNogAIGyhgAgIQgAQ2AJGEA"
    "AAAASUVORK5CYII="
)


def main() -> None:
    stream = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    mode = os.environ["FAKE_WORKER"]
    mark = Path(os.environ.get("FAKE_MARK", "/nonexistent"))
    held: pipe.Paint | None = None
    tell(stream, ready())
    while True:
        command = pipe.command_decoder.decode(read(stream, pipe.frame_length(read(stream, 4))))
        if mode == "die" or (mode == "die once" and not mark.exists()):
            if mode == "die once":
                mark.touch()
            print("RuntimeError: the device is on fire", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        match command:
            case pipe.Train() | pipe.Steer(action="resume"):
                trains(stream, command)
            case pipe.Steer(action="pause"):
                tell(stream, pipe.Phase(run=command.run, phase="paused", done=0, total=1))
            case pipe.Steer(action="stop" | "suspend"):
                outcome = "stopped" if command.action == "stop" else "suspended"
                tell(stream, pipe.Finished(run=command.run, outcome=outcome, step=0, loss=0.0))
            case pipe.Paint() if mode == "hold" and held is None and command.spec.steps > 6:
                held = command
                note("began", held)
                loads = pipe.PaintStep(job=held.job, step=0, steps=0, before="loading base")
                tell(stream, loads)
            case pipe.Cancel() if held is not None and command.job == held.job:
                note("gave up", held)
                failure = Failure(code=Code.CANCELLED, message="The picture was cancelled.")
                tell(stream, pipe.PaintFailed(job=command.job, failure=failure))
            case (
                pipe.Measure() | pipe.Gather() | pipe.Probe() | pipe.Zip() | pipe.Weigh()
                | pipe.Recognise()
            ):  # fmt: skip
                asked(stream, command, deaf=mode == "deaf" and not mark.exists())
            case pipe.Paint():
                note("began", command)
                for out in (command.out, *(canvas.out for canvas in command.more)):
                    Path(out).write_bytes(PNG + out.encode())
                done = pipe.Painted(
                    job=command.job, width=8, height=8, parameters="text", seconds=0.1
                )
                tell(stream, done)
            case pipe.Describe(job=job, pictures=portion, prompts=asks):
                slow = any("slow" in path for _, path in portion)
                torn = [(item, "it is torn") for item, path in portion if "torn" in path]
                well = [(item, Path(path)) for item, path in portion if "torn" not in path]
                said = [(item, asks.get(item, f"the picture {path.stem}")) for item, path in well]
                told = pipe.Described(job=job, captions=said, skipped=torn, last=not slow)
                tell(stream, told)


def trains(stream: socket.socket, command: pipe.Train | pipe.Steer) -> None:
    if isinstance(command, pipe.Train) and command.devices:
        write_down(f"trains {command.run} on {' '.join(command.devices)}")
    tell(stream, pipe.Phase(run=command.run, phase="training", done=0, total=1))


def tried(
    stream: socket.socket, command: pipe.Gather | pipe.Probe | pipe.Recognise
) -> None:  # fmt: skip
    if isinstance(command, pipe.Gather):
        Path(command.out).parent.mkdir(parents=True, exist_ok=True)
        Path(command.out).write_bytes(b"measured")
        tell(stream, pipe.Gathered(job=command.job, modules=1, left_out=[]))
        return
    if isinstance(command, pipe.Recognise):
        note("seen", command)
        errors = [-vectors(command.painted, row) for row in command.rows]
        if "held" not in command.spec.prompt:
            tell(stream, pipe.Recognised(job=command.job, errors=errors))
        return
    note("asked", command)
    if command.spec.prompt != "slow":
        products = [[vectors(a, b) for b in command.rows] for a in command.rows]
        tell(stream, pipe.Probed(job=command.job, products=products))


def zipped(stream: socket.socket, command: pipe.Zip) -> None:
    """One picture each time, then all steps at once."""
    folder, total = Path(command.folder), len(command.pictures) + command.steps
    folder.mkdir(parents=True, exist_ok=True)
    done = len(list(folder.iterdir())) + 1
    if "slow" in command.pictures[done - 1][1].prompt:
        return
    (folder / str(done)).touch()
    if done == len(command.pictures):
        done = total
        told = command.about | {"before": "[1.5, 0.8]", "after": "[0.5, 0.6]", "overlap": "0.7"}
        write(Path(command.out), {}, told)
    tell(stream, pipe.Zipped(job=command.job, done=done, total=total))


def vectors(one: list[LoraUse], other: list[LoraUse]) -> float:
    """Each LoRA pulls along an axis of its own by its weight, and all along the first: half as much
    against it as the first one pulls."""

    def pull(row: list[LoraUse]) -> list[float]:
        weights = [use.weight for use in row]
        return [weights[0] - 0.5 * sum(weights[1:]), *weights[1:]]

    return sum(a * b for a, b in zip(pull(one), pull(other), strict=True))


def asked(
    stream: socket.socket,
    command: pipe.Measure | pipe.Gather | pipe.Probe | pipe.Zip | pipe.Weigh | pipe.Recognise,
    deaf: bool,
) -> None:
    if isinstance(command, pipe.Measure):
        measure(stream, command, deaf=deaf)
    elif isinstance(command, pipe.Zip):
        zipped(stream, command)
    elif isinstance(command, pipe.Weigh):
        note("weighed", command)
        effect = min(command.lora.weight, 0.8) - 0.5 * (command.lora.weight > 1)
        tell(stream, pipe.Weighed(job=command.job, effect=effect))
    else:
        tried(stream, command)


def note(what: str, paint: pipe.Paint | pipe.Probe | pipe.Weigh | pipe.Recognise) -> None:
    write_down(f"{what} {paint.spec.seed} {paint.spec.steps}")


def write_down(line: str) -> None:
    if log := os.environ.get("FAKE_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{line}\n")


def measure(stream: socket.socket, order: pipe.Measure, *, deaf: bool) -> None:
    if deaf and order.loras:
        return
    tell(stream, pipe.Measured(job=order.job, rows=measured(order)))
    names = "+".join(use.name for use in order.loras)
    write_down(f"{order.what} {names or 'base'} {len(order.pictures)}")


LOSSES = {0: 0.0, 10: -0.02, 20: -0.05, 30: -0.01, 40: 0.01}  # of pictures whose caption has "kept"


def measured(order: pipe.Measure) -> list[list[float]]:
    """As a run that over-fits after step 20 would be measured."""
    steps = [int(use.name[-6:]) for use in order.loras] or [0]
    step = sum(steps) / len(steps)
    match order.what:
        case "loss":
            held = sum(LOSSES[one] for one in steps) / len(steps)
            levels = [
                held + len(one.item) * 1e-3 if "kept" in one.caption else -step * 1e-3
                for one in order.pictures
            ]
            return [[0.2 + level] * 8 for level in levels]
        case "drift":
            return [[step * 1e-3] * 8 for _ in order.texts]
        case "leak":
            return [[1.0, 2.0] for _ in order.captions]
        case "nearness":
            return [[0.6] * len(order.painted), [0.4, 0.5, 0.6]]


def ready() -> pipe.Ready:
    return pipe.Ready(
        pid=os.getpid(), torch="0", device="cpu",
        device_name=os.environ.get("CUDA_VISIBLE_DEVICES") or "fake", precision="fp32", threads=1,
    )  # fmt: skip


def tell(stream: socket.socket, report: pipe.Report) -> None:
    stream.sendall(pipe.frame(report))


def read(stream: socket.socket, length: int) -> bytes:
    body = b""
    while len(body) < length:
        block = stream.recv(length - len(body))
        if not block:
            sys.exit(0)
        body += block
    return body


if __name__ == "__main__":
    main()
