"""A run trained without the daemon, by torchrun, on one machine or several:

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m lora_daemon.engine.node RUN_DIR

``RUN_DIR`` is a run's directory, on a disk that every machine has; the daemon must have let go of
the run (``lora-tui run pause``), and takes up again what came of it (``lora-tui run resume``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from lora_daemon.engine import device as devices
from lora_daemon.engine.bases import best_device
from lora_daemon.engine.peer import follow_leader
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from lora_daemon.engine.together import BY_ENVIRONMENT, Place
from lora_daemon.pipe import Command, Finished, Notice, Report, RunFailed, Tick, Train
from shared.errors import LoraError


class Nobody:
    """Nobody steers: torchrun ends the run, and the last state is where it goes on."""

    def take(self, wait: float | None) -> Command | None:
        time.sleep(wait or 0.0)
        return None

    def put_off(self, command: Command) -> None:
        pass

    def leaving(self, run: str) -> bool:
        return False


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="lora_daemon.engine.node", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run's directory, such as …/runs/r0001")
    parser.add_argument("--cache", type=Path, help="the workspace's cache, if it is elsewhere")
    asked = parser.parse_args(arguments)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        parser.error("begin this with torchrun (see `torchrun --help`)")
    run_dir = asked.run_dir.resolve()
    cache = asked.cache or run_dir.parent.parent / "cache"
    order = Train(run=run_dir.name, run_dir=str(run_dir), cache_dir=str(cache))
    rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    device = best_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    devices.use_threads()
    devices.settle()
    if rank:
        place = Place(order=order, rank=rank, world=world, meeting=BY_ENVIRONMENT)
        try:
            follow_leader(place, device)
        except LoraError as error:
            sys.exit(error.message)
        return
    failures: list[str] = []

    def tell(report: Report) -> None:
        match report:
            case Tick():
                loss = f", loss {report.points[-1].loss:.4f}" if report.points else ""
                print(f"step {report.step} of {report.steps}{loss}", flush=True)
            case Notice():
                print(report.message, flush=True)
            case Finished():
                print(f"{report.outcome} at step {report.step}: {report.lora}", flush=True)
            case RunFailed():
                failures.append(report.failure.message)
            case _:
                pass

    run(order, Studio(device, tell, lambda job: False), Nobody(), tell)
    if failures:
        sys.exit(failures[0])


if __name__ == "__main__":
    main()
